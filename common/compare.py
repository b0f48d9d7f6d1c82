"""Several runs from one command (methods, seeds, folds): a parent directory with a folder for each run.

The parent holds results.csv, a row a finished run; --resume goes on with the run that was interrupted.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from common import checkpoint
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
    *,
    check: Callable[[], None] | None = None,
) -> tuple[Run, pd.DataFrame]:
    """Train every child that `plan(parent_folder)` lists; the parent's run and the table of summaries.

    `check()` looks at what the later children will read; it raises before the parent counts as begun.
    `columns(child)` names the row (method, seed, ...) before the child's summary. Where --max_steps cuts a child,
    the parent is `stopped`: closed, to be resumed, its table only of the children before.
    """
    parent = start_run(args, default_dir, make_accelerator(args))
    if not parent.restore():
        if check is not None:
            check()
        parent.save()  # now the folder holds a run, also where the first child is cut: --resume finds it
    children = plan(parent.folder)
    for number in parent.epochs(len(children)):
        child = children[number]
        parent.print(f"--- run {number + 1} of {len(children)}: {child.output_dir.name}")
        summary = train(child)
        if _was_cut(child, parent):
            parent.stopped = True
            parent.save()
        else:
            parent.log("runs", **columns(child), **summary)
            parent.end_epoch()
    frame = pd.DataFrame([line for line in parent.lines if line["split"] == "runs"])
    frame = frame.drop(columns=["step", "epoch", "split"], errors="ignore")
    if parent.is_main and len(frame):
        checkpoint.atomic_save(
            parent.folder / "results.csv", lambda temporary: frame.to_csv(temporary, index=False)
        )
    if parent.stopped:
        parent.print(
            f"--max_steps ended within a run: {len(frame)} of {len(children)} done; go on with --resume"
        )
        parent.finish(runs=len(frame))
    return parent, frame


def _was_cut(child: Any, parent: Run) -> bool:
    if child.max_steps is None:
        return False
    parent.accelerator.wait_for_everyone()  # the main process has saved
    saved = checkpoint.load(Path(child.output_dir) / "checkpoints" / "last.pt")
    return not saved["progress"]["finished"]
