"""What a long run will take, told after its first steps."""

import time

from common.aliases import one_module
from common.estimate import estimate, free_disk, peak_memory
from common.run import Run
from csl.build import Parts

one_module(__name__, "csl.report_pace")

MEASURED = 4  # steps, of which the first warms up
COPIES = 4  # of the weights in a checkpoint: the model, its average, Adam's two moments


class Pace:
    """Measures the first steps of a run on own data and prints what all of it will take."""

    def __init__(
        self, run: Run, *, pictures: int, rows: int, epochs: int, weights: int, is_told: bool
    ) -> None:
        """rows: pictures of a step, of all processes; weights: bytes; is_told: whether at all."""
        self.run = run
        self.pictures = pictures
        self.rows = rows
        self.epochs = epochs
        self.weights = weights
        self.seconds: list[float] = []
        self.is_over = not is_told
        self.last = time.perf_counter()

    def start(self) -> None:
        """Where a step begins to count: what came before it was none."""
        self.last = time.perf_counter()

    def step(self) -> None:
        """After a step; prints one line after the last that is measured."""
        if self.is_over:
            return
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now
        if len(self.seconds) < MEASURED:
            return
        self.is_over = True
        line = estimate(
            self.seconds,
            pictures=self.pictures,
            batch_size=self.rows,
            epochs=self.epochs,
            checkpoint_bytes=COPIES * self.weights,
            peak_bytes=peak_memory(),
            free_bytes=free_disk(self.run.folder),
        )
        self.run.print(line)


def pace_of(
    run: Run, parts: Parts, pictures: int, rows: int, epochs: int, *, is_told: bool
) -> Pace:
    """The pace of a run of so many pictures an epoch."""
    tensors = parts.model.state_dict().values()
    weights = sum(value.numel() * value.element_size() for value in tensors)
    return Pace(run, pictures=pictures, rows=rows, epochs=epochs, weights=weights, is_told=is_told)
