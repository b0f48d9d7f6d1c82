"""The VOC2012 sample: scenes of digit glyphs with boxes and masks, in the official devkit's tree.

Class c is the digit c % 10, in a warm colour for c < 10, in a cold one else, on block noise. One to
three objects of different classes lie anywhere, hardly overlapping, so that a cut through an object
is not a cut through the picture's centre. Among the training pictures are the odd ones of the real
set: no object at all, one difficult object, one of zero width, a landscape and a portrait format.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from common.images import VOC
from common.samples.canvas import Box, Canvas, box_of, class_glyph, hsv

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SIDE = 64
NUM_TRAIN = 160
NUM_TRAIN_AUG = 480
NUM_VAL = 300
NUM_TEST = 20
FOLDERS = (
    "JPEGImages",
    "Annotations",
    "SegmentationClass",
    "ImageSets/Segmentation",
    "ImageSets/Main",
)
# The odd pictures, first of the training set.
NO_OBJECT, DIFFICULT, ZERO_WIDTH, LANDSCAPE, PORTRAIT = range(5)

Objects = list[tuple[str, Box]]


def draw_voc(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """Write VOCdevkit/VOC2012; `test` has pictures only, as the real one; train is in train_aug."""
    root = folder / "VOCdevkit" / "VOC2012"
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    counts = {"train_aug": NUM_TRAIN_AUG, "val": NUM_VAL, "test": NUM_TEST}
    ids = {}
    for year, (split, count) in zip((2008, 2009, 2012), counts.items(), strict=True):
        ids[split] = [f"{year}_{number:06d}" for number in range(1, count + 1)]
        for number, name in enumerate(ids[split]):
            if split == "train_aug":
                _write(root, name, number, "train", rng)
            else:
                _write(root, name, -1, "val", rng)
    for name in ids["test"]:
        (root / "Annotations" / f"{name}.xml").unlink()
        (root / "SegmentationClass" / f"{name}.png").unlink()
    ids["train"] = ids["train_aug"][:NUM_TRAIN]
    for kind in ("Segmentation", "Main"):
        for split, names in ids.items():
            (root / "ImageSets" / kind / f"{split}.txt").write_text("\n".join(names) + "\n")
    return {"train": NUM_TRAIN, **counts, "classes": len(CLASSES)}


def _write(root: Path, name: str, oddity: int, split: str, rng: np.random.Generator) -> None:
    """One picture with its mask and annotation; `split`: of which digits it is made."""
    picture, mask, objects = _scene(oddity, split, rng)
    Image.fromarray(picture).save(root / "JPEGImages" / f"{name}.jpg", quality=92)
    image = Image.fromarray(mask, "P")
    image.putpalette(voc_palette())
    image.save(root / "SegmentationClass" / f"{name}.png")
    lines = []
    for k, (label, box) in enumerate(objects):
        lines.append(_object(label, box, difficult=oddity == DIFFICULT and k == 0))
    if oddity == ZERO_WIDTH:
        a_class_that_is_there = objects[0][0]
        lines.append(_object(a_class_that_is_there, (9, 9, 9, 20), difficult=False))
    height, width = mask.shape
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation>\n\t<folder>VOC2012</folder>\n\t<filename>{name}.jpg</filename>\n"
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"\t<segmented>1</segmented>\n{''.join(lines)}</annotation>\n"
    )


def _object(label: str, box: Box, *, difficult: bool) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    content = f"<name>{label}</name><difficult>{int(difficult)}</difficult>"
    return f"\t<object>{content}<bndbox>{corners}</bndbox></object>\n"


def _scene(
    oddity: int, split: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, Objects]:
    """Picture (H,W,3) uint8, mask (H,W) uint8, objects with boxes counted from 1."""
    size = {LANDSCAPE: (48, 80), PORTRAIT: (80, 48)}.get(oddity, (SIDE, SIDE))
    canvas = Canvas(size, rng, background="blocks", level=0.3, contrast=0.25)
    mask = np.zeros(size, np.uint8)
    count = 0 if oddity == NO_OBJECT else int(rng.integers(1, 4))
    for label in rng.choice(len(CLASSES), count, replace=False).tolist():
        side = int(rng.integers(18, 31))
        x, y = _free_place(mask, side, rng)
        glyph = class_glyph(label % 10, rng, split, side)
        _, own = canvas.paste(glyph, x, y, colour=scene_colour(label, rng))
        mask[own] = label + 1

    objects = []
    for label in np.unique(mask[mask > 0]).tolist():  # a later object may hide an earlier one
        x0, y0, x1, y1 = box_of(mask == label)
        objects.append((CLASSES[label - 1], (x0 + 1, y0 + 1, x1, y1)))
    return canvas.picture(), mask, objects


def glyph_picture(label: int, rng: np.random.Generator, side: int = 32) -> np.ndarray:
    """(side,side,3) uint8: one training glyph of the class number `label` on block noise.

    What a backbone can learn from in place of ImageNet: single objects of these scenes.
    """
    canvas = Canvas(side, rng, background="blocks", level=0.3, contrast=0.25)
    size = int(rng.integers(18, 31))
    x, y = rng.integers(0, side - size + 1, 2).tolist()
    canvas.paste(class_glyph(label % 10, rng, "train", size), x, y, colour=scene_colour(label, rng))
    return canvas.picture()


def scene_colour(label: int, rng: np.random.Generator) -> np.ndarray:
    """A bright colour (3,) float32: red to yellow for classes below 10, else cyan to violet."""
    hue = rng.uniform(-0.06, 0.17) if label < 10 else rng.uniform(0.48, 0.76)
    return hsv(hue % 1, rng.uniform(0.5, 1), rng.uniform(0.75, 1))


def _free_place(mask: np.ndarray, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """x, y of the upper left corner where, of ten random places, the fewest pixels are taken."""
    height, width = mask.shape
    places = []
    for _ in range(10):
        x = int(rng.integers(0, width - side + 1))
        y = int(rng.integers(0, height - side + 1))
        places.append((x, y))
    return min(places, key=lambda place: _taken(mask, place, side))


def _taken(mask: np.ndarray, place: tuple[int, int], side: int) -> int:
    x, y = place
    return int((mask[y : y + side, x : x + side] > 0).sum())


def voc_palette() -> list[int]:
    """VOC's 256 colours, flat, as Pillow's putpalette takes them."""
    return VOC.flatten().tolist()
