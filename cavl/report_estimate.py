"""How long a run on own data will take, told after its first steps."""

import time

from torch import nn

from common.aliases import one_module
from common.estimate import estimate, free_disk, peak_memory
from common.run import Run

one_module(__name__, "cavl.report_estimate")

STEPS = 5  # that are measured; the first warms up


class Estimate:
    """Counts the first steps and prints one line after them, or after the first epoch's last.

    samples, batch_size, epochs: of the run. evaluation_seconds: what is measured after each epoch,
    as it took before the first. A checkpoint is the weights and two averages of their gradients.
    """

    def __init__(
        self,
        run: Run,
        samples: int,
        batch_size: int,
        epochs: int,
        evaluation_seconds: float,
        model: nn.Module,
    ) -> None:
        self.run = run
        self.samples = samples
        self.batch_size = batch_size * run.world
        self.epochs = epochs
        self.evaluation_seconds = evaluation_seconds
        values = [*model.parameters(), *model.buffers()]
        self.checkpoint_bytes = 3 * sum(value.numel() * value.element_size() for value in values)
        self.seconds: list[float] = []
        self.is_told = False
        self._since = time.perf_counter()

    def step(self) -> None:
        """Note that a step has ended."""
        if self.is_told:
            return
        now = time.perf_counter()
        self.seconds.append(now - self._since)
        self._since = now
        a_epoch = -(-self.samples // self.batch_size)
        if len(self.seconds) >= min(STEPS, a_epoch):
            self.is_told = True
            self._tell(a_epoch)

    def _tell(self, a_epoch: int) -> None:
        measuring = self.evaluation_seconds / a_epoch
        line = estimate(
            [seconds + measuring for seconds in self.seconds],
            pictures=self.samples,
            batch_size=self.batch_size,
            epochs=self.epochs,
            checkpoint_bytes=self.checkpoint_bytes,
            peak_bytes=peak_memory(),
            free_bytes=free_disk(self.run.folder),
        )
        self.run.print(line)
