"""Several runs from one command: the prior's temporary network before the target network, and rows side by side."""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from common.cam import save_curves
from common.run import Run, start_run
from common.rundir import holds_run, make_accelerator
from csl.src.options import RECIPES, SAMPLE_DEFAULTS, default_param

Train = Callable[[argparse.Namespace, str], dict]
PAPER_ROWS = ("ignore_ce", "negative_ce", "negative_asl", "csl")
HEADLINE = "mAP_ema_final"


def prior_file(args: argparse.Namespace, run: Run, train: Train) -> str | None:
    """The prior of `args`: its file, or with --estimate_prior the one that phase 1 makes in RUN/phase1.

    Phase 1 trains a network of the same kind for N epochs in ignore mode with cross entropy (all gammas 0), on
    the same partial labels; P(c) is its mean predicted probability over the training images.
    """
    if not args.estimate_prior:
        return args.prior_path
    folder = run.folder / "phase1"
    written = folder / "train_avg_preds.csv"
    if not _is_done(folder / "summary.json", args.estimate_prior):
        run.print(f"--- phase 1: {args.estimate_prior} epochs in ignore mode, for the prior")
        child = copy.copy(args)
        for name, value in RECIPES["ignore_ce"].items():
            setattr(child, name, value)
        child.epochs, child.stop_epoch, child.recipe = args.estimate_prior, None, "ignore_ce"
        child.estimate_prior, child.output_dir, child.overwrite = None, folder, False
        child.resume = "" if holds_run(folder) else None
        summary = train(child, str(folder))
        if summary["epochs"] < child.epochs:  # --max_steps ended within phase 1
            run.stopped = True
            return None
        run.print("--- phase 2: the target network")
    return str(written)


def _is_done(summary: Path, epochs: int) -> bool:
    return summary.is_file() and json.loads(summary.read_text())["epochs"] >= epochs


def is_compared(args: argparse.Namespace) -> bool:
    """Whether the command asks for more than one run."""
    return args.compare is not None


def plan(args: argparse.Namespace, folder: Path) -> list[argparse.Namespace]:
    """The settings of each run of --compare: schemes x seeds x rows, each with a folder of its own in `folder`."""
    rows = [name for row in args.compare for name in (PAPER_ROWS if row == "all" else (row,))]
    schemes = args.schemes or [args.simulate_partial_type]
    runs = []
    for scheme in schemes:
        for seed in args.seeds or [args.seed]:
            runs += [_child(args, folder, scheme, row, seed) for row in dict.fromkeys(rows)]
    return runs


def _child(args: argparse.Namespace, folder: Path, scheme: str | None, row: str, seed: int) -> argparse.Namespace:
    child = copy.copy(args)
    recipe = (f"csl_{scheme}" if scheme == "rps" else "csl_fpc") if row == "csl" else row
    for name, value in RECIPES[recipe].items():
        if name not in args._given and not (args._found.is_sample and name in SAMPLE_DEFAULTS):
            setattr(child, name, value)
    child.recipe, child.seed, child.simulate_partial_type = recipe, seed, scheme
    if scheme and ("simulate_partial_param" not in args._given or scheme != (args.simulate_partial_type or scheme)):
        child.simulate_partial_param = default_param(scheme, args._found.is_sample)
    child.compare, child.schemes, child.seeds = None, None, None
    if not row.startswith("csl"):
        child.prior_path, child.estimate_prior = None, None
    child.output_dir, child.overwrite = folder / f"{scheme or 'given'}-{row}-seed{seed}", False
    child.resume = "" if holds_run(child.output_dir) else None
    return child


def compare(args: argparse.Namespace, train: Train) -> dict[str, float]:
    """Run what `plan` lists, print and save the table; scheme_row -> mean of the averaged model's final mAP."""
    parent = start_run(args, args.path_dest / f"compare_{args._found.name}", make_accelerator(args))
    parent.restore()
    runs = plan(args, parent.folder)
    for number in parent.epochs(len(runs)):
        child = runs[number]
        name = child.output_dir.name
        parent.print(f"--- run {number + 1} of {len(runs)}: {name}")
        summary = train(child, str(child.output_dir))
        scheme, row, _ = name.rsplit("-", 2)
        parent.log("runs", scheme=scheme, row=row, seed=child.seed, **summary)
        parent.end_epoch()
    table = write_table(parent)
    parent.print(table.to_string(index=False, float_format=lambda v: f"{v:.2f}"))
    means = {f"{line.scheme}_{line.row}_{k}": line[k] for _, line in table.iterrows() for k in ("mean", "std")}
    parent.finish(runs=len(runs), offline_sample=args._found.is_sample, **means)
    return means


def write_table(parent: Run) -> pd.DataFrame:
    """results.csv (a row a run) and compare.png; returns mean, sample std (ddof 1) and n for each row."""
    frame = pd.DataFrame([line for line in parent.lines if line["split"] == "runs"])
    if frame.empty:
        return frame
    groups = frame.groupby(["scheme", "row"], sort=False)
    table = groups[HEADLINE].agg(["mean", "std", "count"]).reset_index()
    table["model_mean"] = groups["mAP_model_final"].mean().to_numpy(float)
    if parent.is_main:
        frame.drop(columns=["step", "epoch", "split"]).to_csv(parent.folder / "results.csv", index=False)
        curves = {f"{scheme} {row}": list(part[HEADLINE]) for (scheme, row), part in groups}
        save_curves(parent.figure("compare"), curves, xlabel="run", ylabel="mAP of the averaged model (%)")
    return table
