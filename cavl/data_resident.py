"""Images that stay on the device, and the batches of an epoch."""

from collections.abc import Iterator
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch.nn import functional as F

from cavl.data_pictures import PictureFiles, looking_ahead
from common.accumulation import parts_in_step
from common.aliases import one_module
from common.loading import epoch_order, seed_of, share_of

one_module(__name__, "cavl.data_resident")

Batch = TypeVar("Batch", bound=tuple)

PADDING = 4  # pixels on every side, of the augmentation's crop


class Images:
    """All images (n, ...) of a set, kept on the device.

    `images[index]` are network inputs (B, ...) float32.

    uint8 pixels become [0, 1]; with mean and std they are normalised per channel. Sets above
    `limit_gb` stay on the host and only the batch travels; PictureFiles stay where they are.
    Augmentation (flip, 4-pixel crop) is drawn from (seed, epoch, sample).
    """

    def __init__(
        self,
        pixels: torch.Tensor | PictureFiles,
        device: torch.device,
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        limit_gb: float = 8.0,
    ) -> None:
        self.device = device
        self.mean = _per_channel(mean, device)
        self.std = _per_channel(std, device)
        self.flips = torch.empty(0, dtype=torch.bool, device=device)
        self.shifts = torch.empty(0, 2, dtype=torch.int64, device=device)

        self.pixels: torch.Tensor | PictureFiles = pixels
        if isinstance(pixels, PictureFiles):
            return
        limit = limit_gb * 1e9
        if pixels.numel() * pixels.element_size() <= limit or device.type == "cpu":
            pixels = pixels.to(device)
        else:
            pixels = pixels.pin_memory()
        fits_as_float = pixels.numel() * 4 <= limit
        self.pixels = self._to_float(pixels) if fits_as_float else pixels

    def _to_float(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.dtype == torch.uint8:
            pixels = pixels.float() / 255
        if self.mean is None or self.std is None:
            return pixels
        return (pixels - self.mean) / self.std

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def side(self) -> int:
        """Pixels of the longer side; 1 for features."""
        return max(self.pixels.shape[2:], default=1)

    def ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, tuples that begin with indices; the next is read meanwhile."""
        if not isinstance(self.pixels, PictureFiles):
            yield from batches
            return
        for batch, following in looking_ahead(batches):
            if following is not None:
                self.pixels.prefetch(following[0].tolist())
            yield batch

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        if isinstance(self.pixels, PictureFiles):
            rows = self.pixels.read(index.tolist())
            return self._to_float(rows.to(self.device))
        # Whole rows are copied, a quarter of the time that self.pixels[index] takes on a CPU.
        rows = self.pixels.index_select(0, index.to(self.pixels.device))
        if rows.dtype != torch.uint8:
            return rows
        return self._to_float(rows.to(self.device, non_blocking=True))

    def draw_augmentation(self, seed: int, epoch: int) -> None:
        """Draw this epoch's flips and shifts, one for every sample."""
        generator = torch.Generator().manual_seed(seed_of(seed, epoch, 1))
        flips = torch.rand(len(self), generator=generator) < 0.5
        shifts = torch.randint(0, 2 * PADDING + 1, (len(self), 2), generator=generator)
        self.flips = flips.to(self.device)
        self.shifts = shifts.to(self.device)

    def augmented(self, index: torch.Tensor) -> torch.Tensor:
        """Return the images of `index`, flipped and cropped.

        They are padded with zeros, 4 on each side; before normalisation black is not 0.
        """
        x = self[index]
        flips = self.flips[index].view(-1, 1, 1, 1)
        x = torch.where(flips, x.flip(-1), x)

        batch, _, height, width = x.shape
        padded = F.pad(x, (PADDING,) * 4).permute(0, 2, 3, 1)
        rows = self.shifts[index, 0].view(-1, 1) + torch.arange(height, device=x.device)
        columns = self.shifts[index, 1].view(-1, 1) + torch.arange(width, device=x.device)
        images = torch.arange(batch, device=x.device).view(-1, 1, 1)
        cropped = padded[images, rows[:, :, None], columns[:, None, :]]
        return cropped.permute(0, 3, 1, 2)


def _per_channel(values: tuple[float, ...] | None, device: torch.device) -> torch.Tensor | None:
    """Numbers of channels (C, 1, 1), to be subtracted from images (C, H, W)."""
    if values is None:
        return None
    return torch.tensor(values, device=device).view(-1, 1, 1)


def epoch_batches(
    n: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    start: int,
    accelerator: Accelerator,
    at_once: int | None = None,
) -> Iterator[tuple[torch.Tensor, float, int]]:
    """One process's part of each batch of an epoch, from batch number `start` on.

    Yields sample indices (b,), their weight in the mean, and the size of the whole batch.

    With the weight b * processes / size the mean over processes is the mean over the batch, also
    where the last batch is short. A process without a row takes the batch's first with weight 0.
    A batch in parts of `at_once` rows has in each part the same rows in any number of processes.
    """
    rank = accelerator.process_index
    processes = accelerator.num_processes
    order = epoch_order(n, seed, epoch).to(accelerator.device)
    for batch in order.split(batch_size * processes)[start:]:
        size = len(batch)
        parts = parts_in_step(size, at_once or batch_size, processes)
        index = share_of(batch, rank, processes, parts)
        if len(index) == 0:
            yield batch[:1], 0.0, size
        else:
            yield index, len(index) * processes / size, size
