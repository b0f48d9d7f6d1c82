"""A user's own pictures, squashed to one size: all in memory, or read when a batch asks for them.

A picture becomes a square (C,S,S) uint8. Pictures that are not kept are read by threads, and while
the network works on a batch the next one is read.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from common.aliases import one_module
from common.images import CorruptImage, read_image

one_module(__name__, "cavl.data_pictures")

MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}
THREADS = 8
AT_ONCE = 256  # pictures

T = TypeVar("T")


def resized(
    image: Image.Image, size: Sequence[int], *, channels: int = 3, interpolation: str = "bilinear"
) -> torch.Tensor:
    """A picture in the given size and colours, (channels, H, W) uint8; its shape is not kept.

    interpolation: a key of MODES; another, which some networks name, is taken for bicubic.
    """
    coloured = image.convert("L" if channels == 1 else "RGB")
    return _in_size(F.pil_to_tensor(coloured), size, interpolation)


def _in_size(pixels: torch.Tensor, size: Sequence[int], interpolation: str) -> torch.Tensor:
    mode = MODES.get(interpolation, InterpolationMode.BICUBIC)
    return F.resize(pixels, list(size), interpolation=mode, antialias=True)


class PictureFiles:
    """Pictures in their files: `read(rows)` gives (b,3,S,S) uint8. Stands for a tensor of all."""

    dtype = torch.uint8

    def __init__(
        self, paths: Sequence[Path], size: int, *, interpolation: str, upright: bool = True
    ) -> None:
        self.paths = list(paths)
        self.size = size
        self.interpolation = interpolation
        self.upright = upright
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[tuple[int, ...], list[Future]] = {}

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> torch.Size:
        """(n,3,S,S)."""
        return torch.Size((len(self), 3, self.size, self.size))

    @property
    def bytes(self) -> int:
        """What all of them take in memory."""
        return self.shape.numel()

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        """The pictures of these numbers. CorruptImage names one that cannot be decoded."""
        waiting = self._ahead.pop(tuple(rows), None) or self._submit(rows)
        return torch.stack([future.result() for future in waiting])

    def prefetch(self, rows: Sequence[int]) -> None:
        """Begin to read what `read` will be asked for; two batches wait at most."""
        if len(self._ahead) > 1:
            self._ahead.pop(next(iter(self._ahead)))
        self._ahead[tuple(rows)] = self._submit(rows)

    def read_all(self, what: str, *, skip_corrupt: bool) -> tuple[torch.Tensor, list[int]]:
        """All pictures that can be decoded, and their numbers.

        CorruptImage names the first that cannot be, unless those are to be left out.
        """
        pictures = torch.empty(self.shape, dtype=torch.uint8)
        kept: list[int] = []
        starts = range(0, len(self), AT_ONCE)
        for start in tqdm(starts, f"reading {what}", disable=len(starts) < 3, leave=False):
            rows = range(start, min(start + AT_ONCE, len(self)))
            for row, future in zip(rows, self._submit(rows), strict=True):
                try:
                    pictures[len(kept)] = future.result()
                except CorruptImage:
                    if not skip_corrupt:
                        raise
                    continue
                kept.append(row)
        return pictures[: len(kept)], kept

    def _submit(self, rows: Iterable[int]) -> list[Future]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
        return [self._pool.submit(self._one, row) for row in rows]

    def _one(self, row: int) -> torch.Tensor:
        image = read_image(self.paths[row], upright=self.upright)
        return resized(image, (self.size, self.size), interpolation=self.interpolation)


class ResizedPictures(PictureFiles):
    """Pictures (n,C,h,w) uint8 of one size, in memory, resized when they are read."""

    def __init__(self, pixels: torch.Tensor, size: int, *, interpolation: str) -> None:
        super().__init__([], size, interpolation=interpolation)
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> torch.Size:
        """(n,C,S,S)."""
        return torch.Size((*self.pixels.shape[:2], self.size, self.size))

    def _one(self, row: int) -> torch.Tensor:
        return _in_size(self.pixels[row], (self.size, self.size), self.interpolation)


def looking_ahead(batches: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Each batch and the one behind it, None behind the last."""
    previous: T | None = None
    for batch in batches:
        if previous is not None:
            yield previous, batch
        previous = batch
    if previous is not None:
        yield previous, None
