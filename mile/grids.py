"""Multi-label MNIST: grids of nine digits whose single label names one of them (spec d), composed on the device.

Shapes: M digits, K grids, h x w pixels a digit (28 x 28), S the side of the network's input.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from common.aliases import one_module
from common.cli import UserError
from common.data import holds_idx, read_mnist
from common.domain import (
    DomainError,
    require_number,
    require_shape,
    require_shares,
    require_weights,
)
from common.loading import epoch_order, seed_of
from mile.config import config, setting

one_module(__name__, "mile.grids")

# An annotator names the digit of a cell with this probability; row by row, the centre is cell 4.
LABEL_PROBABILITIES = torch.tensor([0.05, 0.05, 0.05, 0.05, 0.6, 0.05, 0.05, 0.05, 0.05])
_BORDERS = torch.tensor([0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95], dtype=torch.float64)
_CELL_OF_INTERVAL = torch.tensor([4, 0, 1, 2, 3, 5, 6, 7, 8])
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEST_SEED = 20220619  # the test grids are the same for every run, schema and seed
_ORDER, _DRAW = 1, 2  # what a seed is for
CACHE_BYTES = 1 << 30


def annotated_cell(u: torch.Tensor) -> torch.Tensor:
    """The cell (K,) int64 that uniform numbers u (K,) float64 choose: <= 0.6 the centre, then 0, 1, 2, 3, 5, ... 8."""
    return _CELL_OF_INTERVAL.to(u.device)[torch.bucketize(u, _BORDERS.to(u.device))]


def tile(cells: torch.Tensor) -> torch.Tensor:
    """Nine pictures (K,9,h,w) side by side, row by row: (K,3h,3w)."""
    k, _, h, w = cells.shape
    return cells.view(k, 3, 3, h, w).permute(0, 1, 3, 2, 4).reshape(k, 3 * h, 3 * w)


def grid_labels(
    cell_labels: torch.Tensor, u: torch.Tensor, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Single labels (K,) int64 and the sets of all nine digits (K,C) bool, of cell labels (K,9) and u (K,)."""
    single = cell_labels.gather(1, annotated_cell(u)[:, None])[:, 0]
    real = torch.zeros(len(cell_labels), classes, dtype=torch.bool, device=cell_labels.device)
    return single, real.scatter_(1, cell_labels, True)


def compose_grids(
    digits: torch.Tensor, labels: torch.Tensor, u: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Digits (M,h,w) uint8 with labels (M,) as K = M // 9 grids: (K,3h,3w) uint8, single (K,), real (K,C) bool.

    u (K,) float64 in [0,1) chooses the cell that gives the single label; C = max(10, labels.max() + 1); the
    last M - 9K digits are unused. ValueError where u is not (K,) in [0,1], or a label is negative.
    """
    k = len(digits) // 9
    if k == 0:
        raise DomainError(f"{len(digits)} digits: a grid needs 9")
    require_shape(labels, (len(digits),), "labels")
    require_weights(labels, "labels")
    require_shape(u, (k,), "u")
    require_shares(u, "u")
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
    resized = F.interpolate(
        grids[:, None].float(), size=(side, side), mode="bilinear", antialias=True
    )[:, 0]
    if size != 224:
        return resized
    edge = (side - size) // 2
    return resized.round().clamp(0, 255)[:, edge : edge + size, edge : edge + size]


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels 0..255, (K,S,S) grey or (K,3,S,S), as the network's input (K,3,S,S) float32: (x/255 - mean) / std.

    One affine map a channel, each written straight to its place.
    """
    x = pixels.float()
    out = x.new_empty(len(x), 3, *x.shape[-2:])
    for c, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        torch.add(
            x.new_full((), -mean / std),
            x if x.ndim == 3 else x[:, c],
            alpha=1 / (255 * std),
            out=out[:, c],
        )
    return out


def mnist_preprocess(grids: torch.Tensor, size: int = 84) -> torch.Tensor:
    """Grids (K,84,84) uint8 as network inputs (K,3,size,size) float32, three equal channels before normalising.

    ValueError for a size below 1.
    """
    require_number(size, "size", 1)
    return normalize(resize_grids(grids, size))


class GridBatch(NamedTuple):
    """Inputs (B,3,S,S) float32, single labels (B,), label sets (B,C) bool, grid numbers (B,), none skipped."""

    input: torch.Tensor
    label: torch.Tensor
    real: torch.Tensor
    index: torch.Tensor
    skipped: int = 0


class GridLoader:
    """Batches of grids from digits that stay on the device; no worker, no host round trip.

    Training: the last short batch is left out, each pass has its own order from (seed, pass), and with `redraw`
    its own grids and labels. Evaluation: in order, each grid once.
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
    ) -> None:
        self.digits, self.labels, self.train, self.size, self.seed = (
            digits,
            labels,
            train,
            size,
            seed,
        )
        self.batch_size, self.redraw, self.rank, self.world = (
            batch_size,
            redraw and train,
            rank,
            world,
        )
        self.grids = grids or len(digits) // 9
        self.with_replacement = grids > 0
        if len(digits) < 9:
            raise UserError(f"MNIST: {len(digits)} digits, a grid needs 9")
        self.classes = max(10, int(labels.max()) + 1)
        if train and batch_size > self.grids:
            raise UserError(
                f"batch_size {batch_size}: more than the {self.grids} training grids; give a smaller one"
            )
        self._drawn, self._cache = -1, None
        self.next_pass = 0
        self.draw(0)

    def draw(self, number: int) -> None:
        """Draw the table of digits (K,9) and the labels of pass `number`; once, unless `redraw`."""
        if number == self._drawn or (self._drawn >= 0 and not self.redraw):
            return
        generator = torch.Generator().manual_seed(
            seed_of(self.seed, _DRAW, number if self.redraw else 0)
        )
        n, k = len(self.digits), self.grids
        if self.with_replacement:
            table = torch.randint(n, (k, 9), generator=generator)
        else:
            table = torch.randperm(n, generator=generator)[: 9 * k].view(k, 9)
        u = torch.rand(k, generator=generator, dtype=torch.float64)
        self.table = table.to(self.digits.device)
        self.single, self.real = grid_labels(
            self.labels[self.table], u.to(self.digits.device), self.classes
        )
        self._drawn = number
        if not self.redraw and k * self.size**2 * 4 <= CACHE_BYTES:
            parts = self.table.split(512)
            self._cache = torch.cat(
                [resize_grids(tile(self.digits[part]), self.size) for part in parts]
            )

    def grid_pixels(self, index: torch.Tensor) -> torch.Tensor:
        """The composed grids (B,3h,3w) uint8, as they are before resizing (for figures)."""
        return tile(self.digits[self.table[index]])

    def batch(self, index: torch.Tensor) -> GridBatch:
        """The grids of `index` (B,) int64 on the device."""
        pixels = (
            self._cache[index]
            if self._cache is not None
            else resize_grids(self.grid_pixels(index), self.size)
        )
        return GridBatch(normalize(pixels), self.single[index], self.real[index], index)

    def batches(self, number: int, start: int = 0) -> Iterator[GridBatch]:
        """This process's part of the batches of pass `number`, from batch `start` on."""
        if not self.train:
            mine = torch.arange(self.rank, self.grids, self.world, device=self.digits.device)
            yield from (self.batch(index) for index in mine.split(self.batch_size))
            return
        self.draw(number)
        order = epoch_order(self.grids, seed_of(self.seed, _ORDER), number).to(self.digits.device)
        for b in range(start, len(self)):
            rows = order[b * self.batch_size : (b + 1) * self.batch_size]
            yield self.batch(rows.tensor_split(self.world)[self.rank])

    def __len__(self) -> int:
        return self.grids // self.batch_size if self.train else -(-self.grids // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """One pass of (input, single) in training, (input, single, real) in evaluation; the next pass differs."""
        number, self.next_pass = self.next_pass, self.next_pass + 1
        for batch in self.batches(number):
            yield batch[:2] if self.train else batch[:3]


def idx_folder(root: Path) -> Path | None:
    """The folder of the four idx files in `root`, whether that is the folder of MNIST/raw, MNIST or raw."""
    places = (root / "MNIST" / "raw", root / "raw", root)
    return next((folder for folder in places if holds_idx(folder)), None)


class MultilabelMNIST:
    """The benchmark from the digits in root/MNIST/raw (idx files, plain or .gz)."""

    def __init__(self, root: str | Path, model: str = "resnet18-10", conf: Any = config) -> None:
        folder = idx_folder(Path(root))
        if folder is None:
            raise UserError(
                f"{root}: no MNIST/raw with the four idx files (plain or .gz); or run with --sample"
            )
        self.arrays, self.model, self.conf = read_mnist(folder), model, conf

    def getDataloader(
        self, train: bool, *, device: torch.device | None = None, rank: int = 0, world: int = 1
    ) -> GridLoader:
        """A loader of the training or the test grids; the device is conf.device."""
        arrays, name = (
            (self.arrays[:2], "mnist_grids") if train else (self.arrays[2:], "mnist_test_grids")
        )
        return self._loader(*arrays, setting(self.conf, name), train, device, rank, world)

    def set_aside(
        self, share: float, *, device: torch.device | None = None, rank: int = 0, world: int = 1
    ) -> GridLoader:
        """Grids of the last `share` of the training digits; training loaders made from now on leave these out."""
        images, labels, *test = self.arrays
        first = len(labels) - int(share * len(labels))
        self.arrays = (images[:first], labels[:first], *test)
        grids = int(share * setting(self.conf, "mnist_grids"))
        return self._loader(images[first:], labels[first:], grids, False, device, rank, world)

    def _loader(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        grids: int,
        train: bool,
        device: torch.device | None,
        rank: int,
        world: int,
    ) -> GridLoader:
        from mile.utils import device_of

        conf, device = self.conf, device or device_of(self.conf)
        return GridLoader(
            torch.from_numpy(images.copy()).to(device),
            torch.from_numpy(labels.astype(np.int64)).to(device),
            train=train,
            batch_size=setting(conf, "batch_size"),
            size=setting(conf, "mnist_size"),
            grids=grids,
            seed=(getattr(conf, "seed", 0) or 0) if train else TEST_SEED,
            redraw=setting(conf, "mnist_redraw"),
            rank=rank,
            world=world,
        )
