"""Several runs from one command: the folds of a .mat set, seeds, methods side by side.

The parent directory holds a folder for each run, results.csv, compare.png and a summary; --resume goes on with
the run that was interrupted.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from cavl.utils.datasets import PartialData, fold_of
from common.cam import save_curves
from common.run import Run, start_run
from common.rundir import holds_run, make_accelerator

HEADLINE = "test_accuracy_last10_mean"


def is_wanted(args: argparse.Namespace, data: PartialData) -> bool:
    """Whether the command asks for more than one run."""
    return args.compare is not None or args.seeds is not None or (_has_folds(data) and args.fold is None)


def _has_folds(data: PartialData) -> bool:
    return len(data.test_y) == 0


def default_dir(args: argparse.Namespace) -> str:
    """save/DATA_MODEL_METHOD."""
    return f"save/{args.ds}_{args.mo}_{'compare' if args.compare else args.method}"


def plan(args: argparse.Namespace, data: PartialData, folder: Path) -> list[argparse.Namespace]:
    """The settings of each run: methods x seeds x folds, each with a folder of its own in the parent's."""
    runs = []
    for method in args.compare or [args.method]:
        for seed in args.seeds or [args.seed]:
            for fold in range(args.folds) if _has_folds(data) and args.fold is None else [args.fold]:
                child = copy.copy(args)
                child.method, child.seed, child.fold, child.compare, child.seeds = method, seed, fold, None, None
                name = f"{method}-seed{seed}" + (f"-fold{fold}" if fold is not None else "")
                child.output_dir, child.overwrite = folder / name, False
                child.resume = "" if holds_run(child.output_dir) else None
                runs.append(child)
    return runs


def run_all(args: argparse.Namespace, data: PartialData, train: Callable) -> dict[str, float]:
    """Run everything `plan` lists, print and save the table; returns method -> mean of the headline metric."""
    parent = start_run(args, default_dir(args), make_accelerator(args))
    parent.restore()
    runs = plan(args, data, parent.folder)
    for number in parent.epochs(len(runs)):
        child = runs[number]
        parent.print(f"--- run {number + 1} of {len(runs)}: {child.output_dir.name}")
        part = fold_of(data, child.fold, child.folds, child.seed, child.standardize) if _has_folds(data) else data
        summary = train(child, part, str(child.output_dir))
        fold = -1 if child.fold is None else child.fold
        parent.log("runs", method=child.method, seed=child.seed, fold=fold, **summary)
        parent.end_epoch()
    table = write_table(parent)
    parent.print(table.to_string(index=False, float_format=lambda v: f"{v:.4f}"))
    means = {f"{row.method}_mean": row["mean"] for _, row in table.iterrows()} if len(table) else {}
    stds = {f"{row.method}_std": row["std"] for _, row in table.iterrows()} if len(table) else {}
    parent.finish(runs=len(runs), offline_sample=data.is_sample, **means, **stds)
    return means


def write_table(parent: Run) -> pd.DataFrame:
    """results.csv (a row a run) and compare.png; returns mean, sample std (ddof 1) and n for each method."""
    frame = pd.DataFrame([line for line in parent.lines if line["split"] == "runs"])
    if frame.empty:
        return frame
    table = frame.groupby("method", sort=False)[HEADLINE].agg(["mean", "std", "count"]).reset_index()
    table["disambiguation"] = frame.groupby("method", sort=False)["disambiguation"].mean().to_numpy(float)
    if parent.is_main:
        frame.drop(columns=["step", "epoch", "split"]).to_csv(parent.folder / "results.csv", index=False)
        curves = {method: list(part[HEADLINE]) for method, part in frame.groupby("method", sort=False)}
        save_curves(parent.figure("compare"), curves, xlabel="run", ylabel="test accuracy, last-10 mean")
    return table
