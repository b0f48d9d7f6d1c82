"""Several runs from one command (methods, seeds, folds): a parent directory with a folder for each.

The parent holds results.csv, a row a finished run; --resume goes on with the interrupted one. With
--jobs N they run side by side (common/jobs.py), with the same rows.
"""

import argparse
import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import checkpoint
from common.files import atomic_save
from common.jobs import SideBySide, own_task
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
        train: trains one run, given its settings; returns its summary. With --jobs it runs in
            another process, which comes here by the same command line.
        check: looks at what later runs will read; it raises before the parent counts as begun.
    """
    task = own_task()
    if task is not None:  # this process is one of the runs
        task.hand_back(train(plan(task.folder)[task.number].settings))

    parent = start_run(args, default_dir, make_accelerator(args))
    if not parent.restore():
        if check is not None:
            check()
        parent.save()  # now the folder holds a run that --resume finds, also where the first is cut

    runs = plan(parent.folder)
    if getattr(args, "jobs", 1) > 1:
        _train_side_by_side(parent, runs)
    else:
        _train_in_turn(parent, runs, train)

    rows = [line for line in parent.lines if line["split"] == "runs"]
    frame = _write_table(parent, rows)
    if parent.stopped:
        done = f"{len(frame)} of {len(runs)} done"
        parent.print(f"--max_steps ended within a run: {done}; go on with --resume")
        parent.finish(runs=len(frame))
    return parent, frame


def _train_in_turn(
    parent: Run, runs: Sequence[PlannedRun], train: Callable[[Any], Mapping[str, Any]]
) -> None:
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


def _train_side_by_side(parent: Run, runs: Sequence[PlannedRun]) -> None:
    """The same rows in the same order, --jobs runs at a time; exit status 1 where some failed."""
    first = next(parent.epochs(len(runs)), len(runs))
    args = parent.args
    working = SideBySide(
        [run.folder for run in runs],
        args.jobs,
        parent.folder,
        is_on_cpu=parent.accelerator.device.type == "cpu",
        received=lambda: parent.received,
        say=parent.print,
    )
    early: dict[int, Mapping[str, Any]] = {}  # those before them go on still
    with contextlib.closing(working.finished(first)) as finished:
        for number, summary in finished:
            if _was_cut(runs[number], parent):
                working.hold()
                parent.stopped = True
                continue
            early[number] = summary
            while parent.progress.epoch in early:
                now = parent.progress.epoch
                parent.log("runs", **runs[now].columns, **early.pop(now))
                parent.end_epoch()
    parent.poll()
    if parent.stopped:
        parent.save()
    if working.failed:
        rows = [line for line in parent.lines if line["split"] == "runs"]
        rows += [{**runs[number].columns, **early[number]} for number in sorted(early)]
        _write_table(parent, rows)
        parent.print("--resume repeats the failed runs; results.csv has the others")
        parent.close()
    working.report_failed()


def _write_table(parent: Run, rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """results.csv, where there are rows; what it holds."""
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    frame = frame.drop(columns=["step", "epoch", "split"], errors="ignore")
    if parent.is_main and len(frame):
        table = parent.folder / "results.csv"
        atomic_save(table, lambda temporary: frame.to_csv(temporary, index=False))
    return frame


def _was_cut(run: PlannedRun, parent: Run) -> bool:
    if parent.args.max_steps is None:
        return False
    parent.accelerator.wait_for_everyone()  # the main process has saved
    saved = checkpoint.load(run.folder / "checkpoints" / "last.pt")
    return not saved["progress"]["finished"]
