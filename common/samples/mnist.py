"""The MNIST samples: the official idx files in MNIST/raw, as torchvision reads them."""

import struct
from pathlib import Path

import numpy as np

from common.samples.canvas import digit_images, to_bytes

NOISE = 0.3  # standard deviation, of the range 0..1
FILES = {"train": "train", "val": "t10k"}  # the official prefixes


def draw_noisy(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """Digits of 24x24 in a border of 2; averaging over candidates fails in their noise (cavl)."""

    def noisy(split: str) -> tuple[np.ndarray, np.ndarray]:
        images, labels = digit_images(24, split)
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
        return images + NOISE * rng.standard_normal(images.shape), labels

    return _write(folder, {split: noisy(split) for split in FILES})


def draw_clean(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """Digits enlarged to 28x28, without noise: the cells of mile's grids. Nothing is random."""
    return _write(folder, {split: digit_images(28, split) for split in FILES})


def _write(folder: Path, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, int]:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, (images, labels) in splits.items():
        write_idx(raw / f"{FILES[split]}-images-idx3-ubyte", to_bytes(images))
        write_idx(raw / f"{FILES[split]}-labels-idx1-ubyte", labels.astype(np.uint8))
    return {"train": len(splits["train"][1]), "test": len(splits["val"][1]), "classes": 10}


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write a uint8 array as an idx file: 0, 0, type 8 (bytes), number of axes, sizes, bytes."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + np.ascontiguousarray(values, np.uint8).tobytes())
