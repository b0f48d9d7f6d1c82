"""Files of numbers: the idx format of the MNIST family."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.locate import IDX_FILES, find_idx
from common.text import read_bytes

_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an idx file, plain or packed, or of PATH.gz beside it, in its own dtype.

    UserError names the file and what was expected where the magic number or the length is wrong.
    """
    path = Path(path)
    packed = path.with_name(path.name + ".gz")
    if not path.exists() and packed.exists():
        path = packed
    if not path.exists():
        raise UserError(f"{path}: cannot be read (no such file); fetch the file again")

    data = read_bytes(path)
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            problem = f"{path}: cannot be unpacked ({error})"
            raise UserError(f"{problem}; fetch the file again") from error

    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        found = f"magic {data[:4].hex()}, expected 0000 and a type"
        raise UserError(f"{path}: not an idx file ({found}); fetch it again")
    rank = data[3]
    dtype = np.dtype(_IDX_TYPES[data[2]])
    header = 4 + 4 * rank
    if len(data) < header:
        raise UserError(f"{path}: truncated in its header ({len(data)} bytes); fetch it again")

    shape = struct.unpack(f">{rank}I", data[4:header])
    expected = header + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        found = f"{len(data)} bytes, expected {expected} for shape {shape}"
        raise UserError(f"{path}: {found}; fetch it again")
    return np.frombuffer(data, dtype, offset=header).reshape(shape)


def read_mnist(folder: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images (n,28,28) uint8, train labels (n,) uint8, test images and labels of a folder.

    UserError names what is missing, empty, of another type, or does not belong together.
    """
    paths = [find_idx(folder, name) or Path(folder) / name for name in IDX_FILES]
    train_images, train_labels, test_images, test_labels = map(read_idx, paths)
    _check_pair(train_images, train_labels, paths[0], "training")
    _check_pair(test_images, test_labels, paths[2], "test")
    return train_images, train_labels, test_images, test_labels


def _check_pair(images: np.ndarray, labels: np.ndarray, path: Path, part: str) -> None:
    """UserError where images (n,28,28) and labels (n,) of a part do not belong together."""
    if images.size == 0 or labels.size == 0:
        found = f"{path.name}: shape {images.shape}, labels {labels.shape}"
        raise UserError(f"{path.parent}: holds no {part} images ({found})")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        found = f"images {images.shape} and labels {labels.shape}"
        raise UserError(f"{path}: {found} do not belong together")
    if images.dtype != np.uint8 or labels.dtype != np.uint8:
        found = f"images of {images.dtype.name}, labels of {labels.dtype.name}"
        raise UserError(f"{path}: {found}, expected uint8")
