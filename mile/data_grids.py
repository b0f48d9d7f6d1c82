"""Multi-label MNIST.

Grids of nine digits whose single label names one of them, composed on the device.

Shapes: M digits, K grids, h x w pixels a digit (28 x 28), S the side of the network's input.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from common.aliases import one_module
from common.cli import UserError
from common.domain import DomainError, require_number, require_shape
from common.loading import epoch_order, seed_of, share_of
from common.readers import read_mnist
from mile.data_images import normalize
from mile.data_location import idx_folder
from mile.method_checks import require_between

one_module(__name__, "mile.data_grids")

# An annotator names the digit of a cell with this probability; row by row, the centre is cell 4.
LABEL_PROBABILITIES = torch.tensor([0.05, 0.05, 0.05, 0.05, 0.6, 0.05, 0.05, 0.05, 0.05])
_BORDERS = torch.tensor([0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95], dtype=torch.float64)
_CELL_OF_INTERVAL = torch.tensor([4, 0, 1, 2, 3, 5, 6, 7, 8])
TEST_SEED = 20220619  # the test grids are the same for every run, schema and seed
_ORDER = 1  # what a seed is for: the order of a pass
_DRAW = 2  # the grids and their labels
CACHE_BYTES = 1 << 30


def annotated_cell(u: torch.Tensor) -> torch.Tensor:
    """The cell (K,) int64 that uniform numbers u (K,) float64 choose.

    <= 0.6 the centre, then 0, 1, 2, 3, 5, ... 8.
    """
    return _CELL_OF_INTERVAL.to(u.device)[torch.bucketize(u, _BORDERS.to(u.device))]


def tile(cells: torch.Tensor) -> torch.Tensor:
    """Nine pictures (K,9,h,w) side by side, row by row: (K,3h,3w)."""
    k, _, h, w = cells.shape
    return cells.view(k, 3, 3, h, w).permute(0, 1, 3, 2, 4).reshape(k, 3 * h, 3 * w)


def grid_labels(
    cell_labels: torch.Tensor, u: torch.Tensor, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Single labels (K,) int64 and the sets of all nine digits (K,C) bool.

    cell_labels (K,9) int64; u (K,) float64, here or on the CPU, chooses the cell that gives the
    single label.
    """
    cell = annotated_cell(u).to(cell_labels.device)
    single = cell_labels.gather(1, cell[:, None])[:, 0]
    real = torch.zeros(len(cell_labels), classes, dtype=torch.bool, device=cell_labels.device)
    return single, real.scatter_(1, cell_labels, True)


def compose_grids(
    digits: torch.Tensor, labels: torch.Tensor, u: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Digits (M,h,w) uint8 with labels (M,) as K = M // 9 grids.

    (K,3h,3w) uint8, single (K,), real (K,C) bool.

    u (K,) float64 in [0,1) chooses the cell that gives the single label; C = max(10, labels.max() +
    1); the last M - 9K digits are unused. ValueError where u is not (K,) in [0,1], or a label is
    negative.
    """
    k = len(digits) // 9
    if k == 0:
        raise DomainError(f"{len(digits)} digits: a grid needs 9")
    require_shape(labels, (len(digits),), "labels")
    require_between(labels, math.inf, "labels", "classes, none negative")
    require_shape(u, (k,), "u")
    require_between(u, 1, "u", "values from 0 to 1")
    cells = labels[: 9 * k].long().view(k, 9)
    single, real = grid_labels(cells, u, max(10, int(labels.max()) + 1))
    return tile(digits[: 9 * k].view(k, 9, *digits.shape[1:])), single, real


def resize_grids(grids: torch.Tensor, size: int) -> torch.Tensor:
    """Grey grids (K,H,W) uint8 at (K,size,size): uint8 where native, else float32 in 0..255.

    224, as the unofficial code: bilinear antialiased to 256, rounded to grey levels, centre crop.
    """
    if grids.shape[-1] == size:
        return grids
    side = 256 if size == 224 else size
    pixels = grids[:, None].float()
    resized = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)[:, 0]
    if size != 224:
        return resized
    edge = (side - size) // 2
    return resized.round().clamp(0, 255)[:, edge : edge + size, edge : edge + size]


def mnist_preprocess(grids: torch.Tensor, size: int = 84) -> torch.Tensor:
    """Grids (K,84,84) uint8 as network inputs (K,3,size,size) float32.

    Three equal channels before normalising. ValueError for a size below 1.
    """
    require_number(size, "size", 1)
    return normalize(resize_grids(grids, size))


class GridBatch(NamedTuple):
    """A batch of grids, on the device."""

    input: torch.Tensor  # (B,3,S,S) float32
    label: torch.Tensor  # (B,) int64, the single labels
    real: torch.Tensor  # (B,C) bool, the label sets
    ids: torch.Tensor  # (B,) int64, the grids' numbers


class GridLoader:
    """Batches of grids from digits that stay on the device; no worker, no host round trip.

    Training: the last short batch is left out, each pass has its own order from (seed, pass), and
    with `redraw`
    its own grids and labels; `parts` as of `EpochSampler`. Evaluation: in order, each grid once.
    """

    def __init__(
        self,
        digits: torch.Tensor,
        labels: torch.Tensor,
        *,
        train: bool,
        batch_size: int,
        size: int,
        grids: int = 0,
        seed: int = 0,
        redraw: bool = False,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
    ) -> None:
        self.parts = parts
        self.digits = digits
        self.labels = labels
        self.train = train
        self.batch_size = batch_size
        self.size = size
        self.seed = seed
        self.redraw = redraw and train
        self.rank = rank
        self.world = world
        self.grids = grids or len(digits) // 9
        self.with_replacement = grids > 0
        if len(digits) < 9:
            raise UserError(f"MNIST: {len(digits)} digits, a grid needs 9")
        self.classes = max(10, int(labels.max()) + 1)
        if train and batch_size > self.grids:
            raise UserError(
                f"batch_size {batch_size}: more than the {self.grids} training grids; "
                "give a smaller one"
            )
        self._drawn = -1  # the pass whose grids and labels these are
        self._cache: torch.Tensor | None = None
        self.features: torch.Tensor | None = None  # (K,C,h,w), in the place of the pictures
        self.next_pass = 0
        self.draw(0)

    def draw(self, number: int) -> None:
        """Draw the table of digits (K,9) and the labels of pass `number`; once, unless `redraw`."""
        if number == self._drawn or (self._drawn >= 0 and not self.redraw):
            return
        drawn_for = number if self.redraw else 0
        generator = torch.Generator().manual_seed(seed_of(self.seed, _DRAW, drawn_for))
        n = len(self.digits)
        k = self.grids
        if self.with_replacement:
            table = torch.randint(n, (k, 9), generator=generator)
        else:
            table = torch.randperm(n, generator=generator)[: 9 * k].view(k, 9)
        u = torch.rand(k, generator=generator, dtype=torch.float64)
        device = self.digits.device
        self.table = table.to(device)
        cell_labels = self.labels[self.table]
        self.single, self.real = grid_labels(cell_labels, u, self.classes)
        self._drawn = number
        if not self.redraw and k * self.size**2 * 4 <= CACHE_BYTES:
            parts = self.table.split(512)
            resized = [resize_grids(tile(self.digits[part]), self.size) for part in parts]
            self._cache = torch.cat(resized)

    def grid_pixels(self, index: torch.Tensor) -> torch.Tensor:
        """The composed grids (B,3h,3w) uint8, as they are before resizing (for figures)."""
        return tile(self.digits[self.table[index]])

    def batch(self, index: torch.Tensor) -> GridBatch:
        """The grids of `index` (B,) int64 on the device."""
        if self.features is not None:
            rows = self.features[index]
            return GridBatch(rows, self.single[index], self.real[index], index)
        if self._cache is not None:
            pixels = self._cache[index]
        else:
            pixels = resize_grids(self.grid_pixels(index), self.size)
        return GridBatch(normalize(pixels), self.single[index], self.real[index], index)

    def batches(self, number: int, start: int = 0) -> Iterator[GridBatch]:
        """This process's part of the batches of pass `number`, from batch `start` on."""
        if not self.train:
            mine = torch.arange(self.rank, self.grids, self.world, device=self.digits.device)
            for index in mine.split(self.batch_size):
                yield self.batch(index)
            return
        self.draw(number)
        order = epoch_order(self.grids, seed_of(self.seed, _ORDER), number).to(self.digits.device)
        for b in range(start, len(self)):
            rows = order[b * self.batch_size : (b + 1) * self.batch_size]
            yield self.batch(share_of(rows, self.rank, self.world, self.parts))

    def __len__(self) -> int:
        if self.train:
            return self.grids // self.batch_size
        return -(-self.grids // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """A pass of (input, single), of evaluation (input, single, real); the next pass differs."""
        number = self.next_pass
        self.next_pass += 1
        for batch in self.batches(number):
            yield batch[:2] if self.train else batch[:3]


class Digits(NamedTuple):
    """Pictures (M,h,w) uint8 and their labels (M,) uint8."""

    images: np.ndarray
    labels: np.ndarray

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The pictures, uint8, and the labels, int64, as tensors on a device."""
        images = torch.from_numpy(self.images.copy())
        labels = torch.from_numpy(self.labels.astype(np.int64))
        return images.to(device), labels.to(device)

    def set_aside(self, share: float) -> tuple["Digits", "Digits"]:
        """All but the last `share` of the digits, and these."""
        first = len(self.labels) - int(share * len(self.labels))
        kept = Digits(self.images[:first], self.labels[:first])
        return kept, Digits(self.images[first:], self.labels[first:])


class Parts(NamedTuple):
    """The training and the test digits."""

    train: Digits
    test: Digits


def read_digits(root: str | Path) -> Parts:
    """The digits below root/MNIST/raw (idx files, plain or .gz).

    UserError where they are not there.
    """
    folder = idx_folder(Path(root))
    if folder is None:
        raise UserError(
            f"{root}: no MNIST/raw with the four idx files (plain or .gz); or run with --sample"
        )
    images, labels, test_images, test_labels = read_mnist(folder)
    return Parts(Digits(images, labels), Digits(test_images, test_labels))
