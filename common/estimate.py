"""What a long run will take, told from a few measured steps."""

import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.peak import peak_memory

if TYPE_CHECKING:  # torch is not needed to estimate
    from common.run import Run

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def estimate(
    step_seconds: Sequence[float],
    *,
    pictures: int,
    batch_size: int,
    epochs: float,
    checkpoint_bytes: int = 0,
    checkpoints: int = 2,
    peak_bytes: int | None = None,
    free_bytes: int | None = None,
) -> str:
    """One line: time, memory and disk of a run of so many epochs.

    Args:
        step_seconds: measured steps; where there are more than two, the first, which warms up, does
            not count. Of the rest the median.
        batch_size: pictures a step, over all processes.
        checkpoints: how many files lie there at the end (last and best).
        peak_bytes: memory at its highest so far; None: not told.
        free_bytes: what is free on the disk of the run directory, see `free_disk`; None: not told.
    """
    measured = list(step_seconds)
    if not measured:
        raise ValueError("no measured step")
    if len(measured) > 2:
        measured = measured[1:]
    seconds = statistics.median(measured)
    steps = max(1, round(epochs * -(-pictures // batch_size)))
    parts = [f"estimate: {steps} steps of {seconds:.3g} s take about {duration(steps * seconds)}"]
    if peak_bytes is not None:
        parts.append(f"memory {size(peak_bytes)}")
    if checkpoint_bytes:
        needed = checkpoint_bytes * (checkpoints + 1)  # a new one is whole before the old one goes
        parts.append(f"disk {size(needed)} for checkpoints")
        if free_bytes is not None:
            parts.append(f"{size(free_bytes)} are free")
            if free_bytes < needed:
                parts.append("warning: that is too little, free space or give another --output_dir")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time in the two largest units.

    >>> duration(42), duration(150), duration(7200), duration(200_000)
    ('42 s', '2 min 30 s', '2 h 0 min', '2 d 7 h')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = whole // 60
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = minutes // 60
    return f"{hours // 24} d {hours % 24} h"


def size(count: float) -> str:
    """A number of bytes in the largest unit that leaves at least one.

    >>> size(512), size(3 << 20)
    ('512 B', '3.0 MiB')
    """
    value = float(count)
    unit = 0
    while value >= 1024 and unit < len(UNITS) - 1:
        value /= 1024
        unit += 1
    if unit == 0:
        return f"{round(value)} B"
    return f"{value:.1f} {UNITS[unit]}"


def free_disk(folder: str | Path) -> int | None:
    """Bytes that are free where a folder is or will be made; None where it cannot be told."""
    place = Path(folder).absolute()
    for above in (place, *place.parents):
        if above.exists():
            try:
                return shutil.disk_usage(above).free
            except OSError:
                return None
    return None


class FirstSteps:
    """Measures the first steps of a run and prints, once, what all of it will take.

    Args:
        steps: how many are measured; fewer where an epoch has fewer and `within_epoch` says so.
        is_due: whether the line is wanted at all.
        besides: seconds that come on top of every step, such as its share of an evaluation.
        ending: what the line says at its end.
        pictures, batch_size, epochs, checkpoint_bytes, checkpoints: as `estimate` takes them.
    """

    def __init__(
        self,
        run: "Run",
        *,
        steps: int,
        pictures: int,
        batch_size: int,
        epochs: float,
        checkpoint_bytes: int,
        checkpoints: int = 2,
        within_epoch: bool = False,
        is_due: bool = True,
        besides: float = 0.0,
        ending: str = "",
    ) -> None:
        self.run = run
        self.steps = steps
        if within_epoch:
            self.steps = min(steps, -(-pictures // batch_size))
        self.pictures = pictures
        self.batch_size = batch_size
        self.epochs = epochs
        self.checkpoint_bytes = checkpoint_bytes
        self.checkpoints = checkpoints
        self.is_due = is_due
        self.besides = besides
        self.ending = ending
        self.seconds: list[float] = []
        self._since = time.perf_counter()

    def begin(self) -> None:
        """A step begins here: what came before it was none."""
        self._since = time.perf_counter()

    def add(self) -> None:
        """A step is done; the next one begins."""
        now = time.perf_counter()
        seconds = now - self._since
        self._since = now
        if not self.is_due:
            return
        self.seconds.append(seconds + self.besides)
        if len(self.seconds) >= self.steps:
            self.is_due = False
            self._tell()

    def _tell(self) -> None:
        line = estimate(
            self.seconds,
            pictures=self.pictures,
            batch_size=self.batch_size,
            epochs=self.epochs,
            checkpoint_bytes=self.checkpoint_bytes,
            checkpoints=self.checkpoints,
            peak_bytes=peak_memory(),
            free_bytes=free_disk(self.run.folder),
        )
        self.run.print(f"{line}{self.ending}")
