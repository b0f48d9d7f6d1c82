"""Several runs from one command: the prior's temporary network before the target network, and rows side by side."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from common.aliases import one_module
from common.cli import UserError
from common.compare import child_of, run_each
from common.plots import save_curves
from common.run import Run
from common.text import is_kind, read_json
from csl.src.contradictions import param_of
from csl.src.loss_functions.prior import match_prior, read_prior
from csl.src.recipes import RECIPES, SAMPLE_DEFAULTS

one_module(__name__, "csl.src.phases")

Train = Callable[[argparse.Namespace, str], dict]
PAPER_ROWS = ("ignore_ce", "negative_ce", "negative_asl", "csl")
HEADLINE = "mAP_ema_final"
COCO_CLASSES = 80


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
        changed = {
            "epochs": args.estimate_prior,
            "stop_epoch": None,
            "estimate_prior": None,
            "prior_quantile": None,
        }
        child = child_of(args, folder, **RECIPES["ignore_ce"], **changed, recipe="ignore_ce")
        summary = train(child, str(folder))
        if summary["epochs"] < child.epochs:  # --max_steps ended within phase 1
            run.stopped = True
            return None
        run.print("--- phase 2: the target network")
    return str(written)


def _is_done(summary: Path, epochs: int) -> bool:
    """Whether a summary is that of a whole phase 1; a damaged one is written anew by the run that it is of."""
    try:
        done = read_json(summary, dict).get("epochs")
    except UserError:
        return False
    return is_kind(done, int) and done >= epochs


def paper_numbers() -> dict[tuple[str, str], float]:
    """(scheme, row) -> the published mAP on COCO 2014: TResNet-M, 448 pixels, the better of model and average."""
    names = {
        "Ignore, CE": "ignore_ce",
        "Negative, CE": "negative_ce",
        "Negative, ASL": "negative_asl",
        "CSL": "csl",
    }
    rows = pd.read_csv(Path(__file__).parents[1] / "results" / "paper.csv").query(
        "dataset == 'COCO 2014'"
    )
    schemes, methods = rows.setting.str.split().str[0].str.lower(), rows.method.map(names)
    return dict(zip(zip(schemes, methods, strict=True), rows.value, strict=True))


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


def _child(
    args: argparse.Namespace, folder: Path, scheme: str | None, row: str, seed: int
) -> argparse.Namespace:
    recipe = (f"csl_{scheme}" if scheme == "rps" else "csl_fpc") if row == "csl" else row
    fixed = args._given | (set(SAMPLE_DEFAULTS) if args._found.is_sample else set())
    settings = {name: value for name, value in RECIPES[recipe].items() if name not in fixed}
    settings |= {"recipe": recipe, "seed": seed, "simulate_partial_type": scheme}
    settings |= {"compare": None, "schemes": None, "seeds": None}
    if scheme:
        settings["simulate_partial_param"] = param_of(args, scheme)
    if not row.startswith("csl"):
        settings |= {"prior_path": None, "estimate_prior": None, "prior_quantile": None}
    child = child_of(args, folder / f"{scheme or 'given'}-{row}-seed{seed}", **settings)
    child._prior_of_sweep = args.prior_path
    return child


def require_prior_of_sweep(args: argparse.Namespace, names: Sequence[str]) -> None:
    """SettingsError where the prior file of a later row of --compare is missing, or of other classes."""
    path = getattr(args, "_prior_of_sweep", None)
    if path is not None and args.prior_path is None:
        match_prior(read_prior(path), names, path)


def compare(args: argparse.Namespace, train: Train) -> dict[str, float]:
    """Run what `plan` lists, print and save the table (mean, sample std with ddof 1, n); SCHEME_ROW_mean and _std.

    Without a table, and {}, where --max_steps cut a run.
    """

    def columns(child: argparse.Namespace) -> dict[str, object]:
        scheme, row, _ = child.output_dir.name.rsplit("-", 2)
        return {"scheme": scheme, "row": row, "seed": child.seed}

    def train_one(child: argparse.Namespace) -> dict:
        return train(child, str(child.output_dir))

    default_dir = Path(args.path_dest) / f"compare_{args._found.name}"
    parent, frame = run_each(
        args, default_dir, lambda folder: plan(args, folder), train_one, columns
    )
    if parent.stopped:
        return {}
    groups = frame.groupby(["scheme", "row"], sort=False)
    table = groups[HEADLINE].agg(["mean", "std", "count"]).reset_index()
    if "eval_skipped" in frame and frame["eval_skipped"].any():
        table["eval_skipped"] = groups["eval_skipped"].max().to_numpy(int)
    table["model_mean"] = groups["mAP_model_final"].mean().to_numpy(float)
    if (
        args._found.files.train.name == "instances_train2014.json"
        and (frame["classes"] == COCO_CLASSES).all()
    ):
        paper = paper_numbers()
        table["paper"] = [paper.get((line.scheme, line.row)) for _, line in table.iterrows()]
    parent.print(table.to_string(index=False, float_format=lambda v: f"{v:.2f}"))
    if parent.is_main:
        curves = {f"{scheme} {row}": list(part[HEADLINE]) for (scheme, row), part in groups}
        save_curves(
            parent.figure("compare"), curves, xlabel="run", ylabel="mAP of the averaged model (%)"
        )
    means = {
        f"{line.scheme}_{line.row}_{k}": line[k]
        for _, line in table.iterrows()
        for k in ("mean", "std")
    }
    parent.finish(runs=len(frame), offline_sample=args._found.is_sample, **means)
    return means
