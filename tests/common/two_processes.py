"""What test_run.py starts with torch.distributed.run: gathering, saving and resuming on two."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from common import checkpoint, rows
from common.cli import UserError, run_main
from common.loading import eval_loader, gather_in_order
from common.meter import Meter
from common.run import Run, start_run
from common.rundir import make_accelerator
from tests.common.toy import settings, train


def gathered(n: int, batch: int, accelerator: Accelerator) -> list[list[int]]:
    """Ids and squares of an evaluation over n samples, gathered in pieces of five."""
    rows.GATHERED_BYTES = 40
    index, squares = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    for b in eval_loader(range(n), batch, accelerator=accelerator):
        index, squares = torch.cat([index, b.index]), torch.cat([squares, b.data**2])
    return [t.tolist() for t in gather_in_order(index, squares, accelerator=accelerator)]


def averaged(accelerator: Accelerator, folder: Path) -> dict:
    """A mean over both processes, before and after a save and load."""
    meter, loaded = Meter(accelerator), Meter(accelerator)
    found = {"none": meter.compute()}
    rank = accelerator.process_index
    meter.add(torch.tensor(rank + 1.0), rank + 1)  # (1*1 + 2*2) / 3
    meter.synchronize()
    if rank == 0:
        checkpoint.save(folder / "meter.pt", checkpoint.collect({"meter": meter}))
    accelerator.wait_for_everyone()
    checkpoint.restore({"meter": loaded}, checkpoint.load(folder / "meter.pt"), "meter.pt")
    return {**found, "mean": meter.compute(), "mean_after_save": loaded.compute()}


def signal_one(run: Run) -> None:
    """SIGTERM to the second process only, in the first step of the second epoch."""
    if run.rank == 1 and run.progress.step == 2:
        os.kill(os.getpid(), signal.SIGTERM)


def unreadable(run: Run) -> None:
    """The second evaluation stops, on both processes."""
    if run.progress.epoch == 1:
        raise UserError("an unreadable image")


def evaluation_mended(folder: Path) -> list[int]:
    """A run whose evaluation failed and was gone on with: the steps that each process then took."""
    steps = []
    try:
        train(settings(folder), in_evaluation=unreadable)
    except UserError:
        train(settings(folder, resume=""), after_step=lambda run: steps.append(run.progress.step))
    return gather_object([len(steps)])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    accelerator = make_accelerator(settings(None))
    sizes = [(n, batch) for n in (1, 2, 3, 7, 41) for batch in (1, 3, 16)]
    found = {
        "gather": [gathered(n, batch, accelerator) for n, batch in sizes],
        "gather_wanted": [[list(range(n)), [i * i for i in range(n)]] for n, _ in sizes],
        **averaged(accelerator, folder),
    }
    train(settings(folder / "whole"))

    status = 0
    try:
        train(settings(folder / "interrupted"), after_step=signal_one)
    except SystemExit as stop:
        status = stop.code
    train(settings(folder / "interrupted", resume="", max_steps=5))
    run = train(settings(folder / "interrupted", resume=""))
    found["exits"] = gather_object([status])

    found["steps_after_mending"] = evaluation_mended(folder / "mended")

    for _ in range(3 + 4 * run.rank):  # evaluation loops are not equally long everywhere
        run.poll()
    found["uneven_polls"] = True

    try:
        start_run(settings(folder / "whole"), "default", accelerator)
        refused = "nothing"
    except UserError as error:
        refused = type(error).__name__
    found["refused"] = gather_object([refused])
    if run.is_main:
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    run_main(lambda: main(Path(sys.argv[1])))
