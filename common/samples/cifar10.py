"""The CIFAR-10 sample: coloured digits on textures, in the official python batches.

The official files were pickled by Python 2. Ours hold the same opcodes for text, so that both usual
ways to read them work: `encoding="latin1"` gives the key "data" (torchvision), `encoding="bytes"`
gives b"data". torchvision's own class checks the official md5 sums first and refuses any sample.
"""

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from common.samples.canvas import Canvas, class_glyph, random_colour

NUM_TRAIN = 2000
NUM_TEST = 500
NUM_BATCHES = 5
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def draw_cifar10(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """Write data_batch_1 to 5, test_batch, batches.meta; class c is the digit c in any colour."""
    root = folder / "cifar-10-batches-py"
    root.mkdir()
    per_batch = NUM_TRAIN // NUM_BATCHES
    for number in range(1, NUM_BATCHES + 1):
        batch = _batch(per_batch, "train", rng, f"training batch {number} of {NUM_BATCHES}")
        (root / f"data_batch_{number}").write_bytes(_python2_pickle(batch))
    batch = _batch(NUM_TEST, "val", rng, "testing batch 1 of 1")
    (root / "test_batch").write_bytes(_python2_pickle(batch))
    meta = {
        b"num_cases_per_batch": per_batch,
        b"label_names": [name.encode() for name in CLASSES],
        b"num_vis": 3 * 32 * 32,
    }
    (root / "batches.meta").write_bytes(_python2_pickle(meta))
    return {"train": NUM_TRAIN, "test": NUM_TEST, "classes": len(CLASSES)}


def _batch(count: int, split: str, rng: np.random.Generator, title: str) -> dict[bytes, Any]:
    """A batch as the official files hold it.

    Data (count, 3072) uint8: a row is the red, the green and the blue plane.
    """
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    pictures = np.stack([_picture(int(label), split, rng) for label in labels])
    names = [f"digit_{label}_s_{row:06d}.png" for row, label in enumerate(labels)]
    return {
        b"batch_label": title.encode(),
        b"labels": labels.tolist(),
        b"data": pictures.transpose(0, 3, 1, 2).reshape(count, -1).copy(),
        b"filenames": [name.encode() for name in names],
    }


def _picture(label: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """(32, 32, 3) uint8: one digit of 22 to 30 pixels on a texture, under a little noise."""
    background = ("blocks", "clouds")[rng.integers(2)]
    canvas = Canvas(32, rng, background=background, level=0.25, contrast=0.15)
    size = int(rng.integers(22, 31))
    x, y = rng.integers(0, 32 - size, 2, endpoint=True).tolist()
    canvas.paste(class_glyph(label, rng, split, size), x, y, colour=random_colour(rng))
    canvas.pixels += 0.05 * rng.standard_normal(canvas.pixels.shape).astype(np.float32)
    return canvas.picture()


_Pickler: Any = pickle._Pickler  # pickle's version in Python


class _Python2Pickler(_Pickler):
    """Protocol 2 with Python 2's opcodes for byte strings, which Python 3 only reads."""

    dispatch = dict(_Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        if len(value) < 256:
            head = pickle.SHORT_BINSTRING + bytes([len(value)])
        else:
            head = pickle.BINSTRING + struct.pack("<i", len(value))
        self.write(head + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes

    def save_global(self, obj: Any, name: str | None = None) -> None:
        # NumPy 2's name; the originals have the earlier one.
        if obj.__module__ == "numpy._core.multiarray":
            self.write(pickle.GLOBAL + f"numpy.core.multiarray\n{obj.__name__}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def _python2_pickle(value: Any) -> bytes:
    stream = io.BytesIO()
    _Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()
