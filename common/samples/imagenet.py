"""The ImageNet sample: several digits in a picture, one named; real.json holds all of them.

train/WNID/WNID_N.JPEG   val/WNID/ILSVRC2012_val_%08d.JPEG   real.json
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from common.samples.canvas import Canvas, class_glyph

# Digit k stands for the k-th of these WNIDs; beside each its index among ImageNet's 1,000 classes.
WNIDS = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}
# In pixels; the centre crop of 7/8 keeps the nine cells.
SIDE = 48
MARGIN = 3
CELL = 14
GLYPH = 13
TRAIN = 1500
VAL = 500
SHARES = {2: 0.2, 3: 0.3, 4: 0.3, 5: 0.2}  # of pictures with so many digits
# Weight with which the first digit, and each other, becomes the class.
FIRST = 0.5
OTHER = 0.15
# Colour of the first digit, and of the others.
MAIN = (1.0, 1.0, 1.0)
ASIDE = (0.6, 0.6, 0.6)
EMPTY = 0.06  # share of validation pictures that show nothing: an empty list in real.json


def draw_imagenet(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """Pictures of 48x48, 2 to 5 digits in random cells of a 3x3 grid, over noise."""
    names = list(WNIDS)
    for number in range(1, TRAIN + 1):
        picture, digits = _scene(rng, "train")
        wnid = names[_named(digits, rng)]
        _save(folder / "train" / wnid / f"{wnid}_{number}.JPEG", picture)
    real = []
    for number in range(1, VAL + 1):
        is_empty = rng.random() < EMPTY
        picture, digits = _scene(rng, "val", is_empty=is_empty)
        named = int(rng.integers(10)) if is_empty else _named(digits, rng)
        wnid = names[named]
        _save(folder / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG", picture)
        real.append(sorted(WNIDS[names[digit]] for digit in digits))
    (folder / "real.json").write_text(json.dumps(real) + "\n")
    empty = sum(not labels for labels in real)
    return {"train": TRAIN, "val": VAL, "classes": len(WNIDS), "empty": empty}


def _scene(
    rng: np.random.Generator, split: str, *, is_empty: bool = False
) -> tuple[Canvas, list[int]]:
    """A canvas and its digits, no digit twice, the first one first."""
    canvas = Canvas(SIDE, rng, background="noise", level=0.15, contrast=0.08)
    if is_empty:
        return canvas, []
    order = rng.permutation(10)
    digits = order[: rng.choice(list(SHARES), p=list(SHARES.values()))].tolist()
    for number, (digit, cell) in enumerate(zip(digits, rng.permutation(9), strict=False)):
        row, column = divmod(int(cell), 3)
        glyph = class_glyph(digit, rng, split, size=GLYPH)
        x = MARGIN + CELL * column + int(rng.integers(CELL - GLYPH + 1))
        y = MARGIN + CELL * row + int(rng.integers(CELL - GLYPH + 1))
        canvas.paste(glyph, x, y, colour=MAIN if number == 0 else ASIDE)
    return canvas, digits


def _named(digits: list[int], rng: np.random.Generator) -> int:
    """The digit that an annotator names."""
    weights = np.full(len(digits), OTHER)
    weights[0] = FIRST
    return int(rng.choice(digits, p=weights / weights.sum()))


def _save(path: Path, canvas: Canvas) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(canvas.picture()).save(path, quality=92)
