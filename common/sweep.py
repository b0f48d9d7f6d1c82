"""Several runs from one command (methods, seeds, folds): a parent directory with a folder for each run.

The parent holds results.csv, a row a run; --resume goes on with the run that was interrupted.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from common.run import Run, start_run
from common.rundir import holds_run, make_accelerator


def child_of(args: Any, folder: Path, **settings: Any) -> Any:
    """A copy of `args` with other `settings` and a folder of its own; it goes on where the folder holds a run."""
    child = copy.copy(args)
    for name, value in settings.items():
        setattr(child, name, value)
    child.output_dir, child.overwrite = folder, False
    child.resume = "" if holds_run(folder) else None
    return child


def run_each(
    args: Any,
    default_dir: str | Path,
    plan: Callable[[Path], Sequence[Any]],
    train: Callable[[Any], dict[str, Any]],
    columns: Callable[[Any], dict[str, Any]],
) -> tuple[Run, pd.DataFrame]:
    """Train every child that `plan(parent_folder)` lists; the parent's run and the table of summaries.

    `columns(child)` names the row (method, seed, ...) before the child's summary.
    """
    parent = start_run(args, default_dir, make_accelerator(args))
    parent.restore()
    children = plan(parent.folder)
    for number in parent.epochs(len(children)):
        child = children[number]
        parent.print(f"--- run {number + 1} of {len(children)}: {child.output_dir.name}")
        parent.log("runs", **columns(child), **train(child))
        parent.end_epoch()
    frame = pd.DataFrame([line for line in parent.lines if line["split"] == "runs"])
    frame = frame.drop(columns=["step", "epoch", "split"])
    if parent.is_main:
        frame.to_csv(parent.folder / "results.csv", index=False)
    return parent, frame
