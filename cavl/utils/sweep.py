"""Several runs from one command: the folds of a .mat set, seeds, methods side by side."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from cavl.utils.datasets import PartialData, fold_of
from common.aliases import one_module
from common.compare import child_of, run_each
from common.plots import save_curves

one_module(__name__, "cavl.utils.sweep")

HEADLINE = "test_accuracy_last10_mean"


def is_wanted(args: argparse.Namespace, data: PartialData) -> bool:
    """Whether the command asks for more than one run."""
    return (
        args.compare is not None or args.seeds is not None or (data.has_folds and args.fold is None)
    )


def default_dir(args: argparse.Namespace) -> str:
    """save/DATA_MODEL_METHOD."""
    return f"save/{args.ds}_{args.mo}_{'compare' if args.compare else args.method}"


def plan(args: argparse.Namespace, data: PartialData, folder: Path) -> list[argparse.Namespace]:
    """The settings of each run: methods x seeds x folds."""
    folds = range(args.folds) if data.has_folds and args.fold is None else [args.fold]
    runs = []
    for method in args.compare or [args.method]:
        for seed in args.seeds or [args.seed]:
            for fold in folds:
                name = f"{method}-seed{seed}" + (f"-fold{fold}" if fold is not None else "")
                settings = {
                    "method": method,
                    "seed": seed,
                    "fold": fold,
                    "compare": None,
                    "seeds": None,
                }
                runs.append(child_of(args, folder / name, **settings))
    return runs


def run_all(args: argparse.Namespace, data: PartialData, train: Callable) -> dict[str, float]:
    """Run everything `plan` lists, print and save the table; returns METHOD_mean and METHOD_std of the headline.

    Without a table, and {}, where --max_steps cut a run.
    """

    def train_one(child: argparse.Namespace) -> dict[str, float | None]:
        part = (
            fold_of(data, child.fold, child.folds, child.seed, child.standardize)
            if data.has_folds
            else data
        )
        return train(child, part, str(child.output_dir))

    def columns(child: argparse.Namespace) -> dict[str, object]:
        return {
            "method": child.method,
            "seed": child.seed,
            "fold": -1 if child.fold is None else child.fold,
        }

    parent, frame = run_each(
        args, default_dir(args), lambda folder: plan(args, data, folder), train_one, columns
    )
    if parent.stopped:
        return {}
    groups = frame.groupby("method", sort=False)
    table = groups[HEADLINE].agg(["mean", "std", "count"]).reset_index()
    table["disambiguation"] = groups["disambiguation"].mean().to_numpy(float)
    parent.print(table.to_string(index=False, float_format=lambda v: f"{v:.4f}"))
    if parent.is_main:
        _draw(parent.figure("compare"), plan(args, data, parent.folder))
    summary = {
        f"{row.method}_{key}": row[key] for _, row in table.iterrows() for key in ("mean", "std")
    }
    parent.finish(runs=len(frame), offline_sample=data.is_sample, **summary)
    return summary


def _draw(path: Path, runs: list[argparse.Namespace]) -> None:
    """Test accuracy over the epochs, a curve a method: mean over its runs, and a band of one standard deviation."""
    tables = _measurements(runs)
    if not tables:
        return
    lines = pd.concat(tables)
    epochs = lines[lines.split == "test"].groupby(["method", "epoch"], sort=False).accuracy
    means, deviations = (
        {method: own.tolist() for method, own in values.groupby("method", sort=False)}
        for values in (epochs.mean(), epochs.std().fillna(0.0))
    )
    save_curves(path, means, xlabel="epoch", ylabel="test accuracy", spread=deviations)


def _measurements(runs: list[argparse.Namespace]) -> list[pd.DataFrame]:
    """What each run measured, a line a split and epoch; without the runs whose file is gone or damaged since."""
    tables = []
    for child in runs:
        file = child.output_dir / "metrics.jsonl"
        try:
            table = pd.read_json(file, lines=True)
            tables.append(table[["split", "epoch", "accuracy"]].assign(method=child.method))
        except (OSError, ValueError, KeyError) as error:
            print(
                f"{file}: cannot be read ({type(error).__name__}); the figure goes without it",
                flush=True,
            )
    return tables
