"""A training script that is killed in the middle of a step of several batches.

`torchrun ... killed_in_step.py MODULE STEP FLAGS` trains twice: with FLAGS and `--output_dir whole`
to the end, and with `--output_dir killed` until, in step STEP (from 1), the first of its batches
has been computed. There the second process gets SIGKILL, and torchrun ends the first.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from common import accumulation

Batches = Callable[..., Iterator[accumulation.Part]]


class Killer:
    """`micro_batches`, and after the first batch of a step the end of this process."""

    def __init__(self, micro_batches: Batches) -> None:
        self.micro_batches = micro_batches
        self.deadly_step: int | None = None
        self.step = 0

    def __call__(self, parts: Any, *rest: Any) -> Iterator[accumulation.Part]:
        self.step += 1
        for number, part in enumerate(self.micro_batches(parts, *rest)):
            if number == 1 and self.step == self.deadly_step:
                os.kill(os.getpid(), signal.SIGKILL)
            yield part


def main() -> None:
    module, step, *flags = sys.argv[1:]
    killer = Killer(accumulation.micro_batches)
    accumulation.micro_batches = killer  # before a script imports it
    train = importlib.import_module(module).main
    train([*flags, "--output_dir", "whole"])

    killer.step = 0
    if os.environ["RANK"] == "1":
        killer.deadly_step = int(step)
    train([*flags, "--output_dir", "killed", "--checkpoint_every", "1"])


if __name__ == "__main__":
    main()
