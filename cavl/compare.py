"""Many runs from one command: the folds of a .mat set, seeds, methods side by side."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cavl.build import default_dir
from cavl.data import PartialData
from cavl.figures import draw_comparison
from common.aliases import one_module
from common.compare import PlannedRun, child_of, run_each

if TYPE_CHECKING:
    import pandas as pd

one_module(__name__, "cavl.compare")

HEADLINE = "test_accuracy_last10_mean"
WITHOUT_LABELS = "test_approximated_accuracy"

TrainOne = Callable[[argparse.Namespace], dict[str, float | None]]


def is_wanted(args: argparse.Namespace, data: PartialData) -> bool:
    """Whether the command asks for more than one run."""
    all_folds = data.has_folds and args.fold is None
    return args.compare is not None or args.seeds is not None or all_folds


def plan(args: argparse.Namespace, data: PartialData, folder: Path) -> list[PlannedRun]:
    """Each run: methods x seeds x folds."""
    folds: list[int | None] = [args.fold]
    if data.has_folds and args.fold is None:
        folds = list(range(args.folds))
    runs = []
    for method in args.compare or [args.method]:
        for seed in args.seeds or [args.seed]:
            for fold in folds:
                name = f"{method}-seed{seed}"
                if fold is not None:
                    name = f"{name}-fold{fold}"
                settings = {"method": method, "seed": seed, "fold": fold}
                child = child_of(args, folder / name, compare=None, seeds=None, **settings)
                columns = {"method": method, "seed": seed, "fold": -1 if fold is None else fold}
                runs.append(PlannedRun(folder / name, columns, child))
    return runs


def run_all(args: argparse.Namespace, data: PartialData, train: TrainOne) -> dict[str, float]:
    """Run everything `plan` lists, print and save the table; METHOD_mean and METHOD_std of it.

    No table, and {}, where --max_steps cut a run.
    """
    import pandas as pd

    parent, frame = run_each(
        args, default_dir(args), lambda folder: plan(args, data, folder), train
    )
    if parent.stopped:
        return {}

    groups = frame.groupby("method", sort=False)
    headline = HEADLINE
    if frame[HEADLINE].isna().all():  # no true labels
        headline = WITHOUT_LABELS
        parent.print(f"no true label is known; what follows is {headline}")
    table = groups[headline].agg(["mean", "std", "count"]).reset_index()
    shares = pd.to_numeric(frame["disambiguation"])
    table["disambiguation"] = shares.groupby(frame["method"], sort=False).mean().to_numpy(float)
    parent.print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    if parent.is_main:
        measured = _measurements(plan(args, data, parent.folder))
        what = "test accuracy"
        if headline != HEADLINE:
            what = "test approximated accuracy"
        draw_comparison(parent.figure("compare"), measured, what)

    summary = {}
    for _, row in table.iterrows():
        summary[f"{row['method']}_mean"] = row["mean"]
        summary[f"{row['method']}_std"] = row["std"]
    parent.finish(runs=len(frame), offline_sample=data.is_sample, **summary)
    return summary


def _measurements(runs: list[PlannedRun]) -> "list[pd.DataFrame]":
    """What each run measured, a line a split and epoch; without damaged or missing files.

    Where a run knows no true label, its approximated accuracy stands in the place of the accuracy.
    """
    import pandas as pd

    tables = []
    for run in runs:
        file = run.folder / "metrics.jsonl"
        try:
            table = pd.read_json(file, lines=True)
            measure = "accuracy" if "accuracy" in table else "approximated_accuracy"
            own = table[["split", "epoch", measure]].rename(columns={measure: "accuracy"})
            tables.append(own.assign(method=run.columns["method"]))
        except (OSError, ValueError, KeyError) as error:
            problem = f"{file}: cannot be read ({type(error).__name__})"
            print(f"{problem}; the figure goes without it", flush=True)
    return tables
