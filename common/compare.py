"""Several runs from one command (methods, seeds, folds): a parent directory with a folder for each.

The parent holds results.csv, a row a finished run; --resume goes on with the interrupted one.
"""

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import checkpoint
from common.files import atomic_save
from common.run import Run, start_run
from common.rundir import holds_run, make_accelerator

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PlannedRun:
    """One run of several.

    folder: in the parent's folder; its name is printed.
    columns: what names the run's row in the table (method, seed, ...).
    settings: what `train` takes: a namespace, Settings, a list of flags, ...
    """

    folder: Path
    columns: Mapping[str, Any]
    settings: Any


def child_of(args: argparse.Namespace, folder: Path, **settings: Any) -> argparse.Namespace:
    """A copy of `args` with other `settings` and a folder; where that holds a run, it goes on."""
    child = copy.copy(args)
    for name, value in settings.items():
        setattr(child, name, value)
    child.output_dir = folder
    child.overwrite = False
    child.resume = "" if holds_run(folder) else None
    return child


def run_each(
    args: argparse.Namespace,
    default_dir: str | Path,
    plan: Callable[[Path], Sequence[PlannedRun]],
    train: Callable[[Any], Mapping[str, Any]],
    *,
    check: Callable[[], None] | None = None,
) -> tuple[Run, "pd.DataFrame"]:
    """The parent's run, and the table of what `train` returned for every run of the plan.

    Where --max_steps cuts a run, the parent is `stopped`: closed, to be resumed, its table only of
    the runs before. Otherwise the caller finishes it.

    Args:
        args: the parent's settings, with the shared flags; `default_dir` as for `start_run`.
        plan: lists the runs, given the parent's folder.
        train: trains one run, given its settings; returns its summary.
        check: looks at what later runs will read; it raises before the parent counts as begun.
    """
    import pandas as pd

    parent = start_run(args, default_dir, make_accelerator(args))
    if not parent.restore():
        if check is not None:
            check()
        parent.save()  # now the folder holds a run that --resume finds, also where the first is cut

    runs = plan(parent.folder)
    for number in parent.epochs(len(runs)):
        run = runs[number]
        parent.print(f"--- run {number + 1} of {len(runs)}: {run.folder.name}")
        summary = train(run.settings)
        if _was_cut(run, parent):
            parent.stopped = True
            parent.save()
        else:
            parent.log("runs", **run.columns, **summary)
            parent.end_epoch()

    frame = pd.DataFrame([line for line in parent.lines if line["split"] == "runs"])
    frame = frame.drop(columns=["step", "epoch", "split"], errors="ignore")
    if parent.is_main and len(frame):
        table = parent.folder / "results.csv"
        atomic_save(table, lambda temporary: frame.to_csv(temporary, index=False))
    if parent.stopped:
        done = f"{len(frame)} of {len(runs)} done"
        parent.print(f"--max_steps ended within a run: {done}; go on with --resume")
        parent.finish(runs=len(frame))
    return parent, frame


def _was_cut(run: PlannedRun, parent: Run) -> bool:
    if parent.args.max_steps is None:
        return False
    parent.accelerator.wait_for_everyone()  # the main process has saved
    saved = checkpoint.load(run.folder / "checkpoints" / "last.pt")
    return not saved["progress"]["finished"]
