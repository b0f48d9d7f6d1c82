"""The VOC2012 sample: scenes of digit glyphs with boxes and masks, in the official devkit's tree.

Class c is the digit c % 10, in a warm colour for c < 10, in a cold one else, on block noise. One to three objects
of different classes lie anywhere, hardly overlapping, so that a cut through an object is not a cut through the
picture's centre. Among the training pictures are the odd ones of the real set: no object at all, one
difficult object, one of zero width, a landscape and a portrait format.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from common.samples.canvas import Canvas, box_of, class_glyph, hsv

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)
SIDE, NUM_TRAIN, NUM_TRAIN_AUG, NUM_VAL, NUM_TEST = 64, 160, 480, 300, 20
FOLDERS = (
    "JPEGImages",
    "Annotations",
    "SegmentationClass",
    "ImageSets/Segmentation",
    "ImageSets/Main",
)
NO_OBJECT, DIFFICULT, ZERO_WIDTH, LANDSCAPE, PORTRAIT = range(
    5
)  # the odd pictures, first of the training set
Scene = tuple[np.ndarray, np.ndarray, list[tuple[str, tuple[int, int, int, int]]]]


def draw_voc(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """Write VOCdevkit/VOC2012; `test` has pictures only, as the real one. train is part of train_aug."""
    root = folder / "VOCdevkit" / "VOC2012"
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    counts = {"train_aug": NUM_TRAIN_AUG, "val": NUM_VAL, "test": NUM_TEST}
    ids = {}
    for year, (split, count) in zip((2008, 2009, 2012), counts.items(), strict=True):
        ids[split] = [f"{year}_{number:06d}" for number in range(1, count + 1)]
        for number, name in enumerate(ids[split]):
            _write(
                root,
                name,
                number if split == "train_aug" else -1,
                "train" if year == 2008 else "val",
                rng,
            )
    for name in ids["test"]:
        (root / "Annotations" / f"{name}.xml").unlink()
        (root / "SegmentationClass" / f"{name}.png").unlink()
    ids["train"] = ids["train_aug"][:NUM_TRAIN]
    for kind in ("Segmentation", "Main"):
        for split, names in ids.items():
            (root / "ImageSets" / kind / f"{split}.txt").write_text("\n".join(names) + "\n")
    return {"train": NUM_TRAIN, **counts, "classes": len(CLASSES)}


def _write(root: Path, name: str, oddity: int, split: str, rng: np.random.Generator) -> None:
    picture, mask, objects = _scene(oddity, split, rng)
    Image.fromarray(picture).save(root / "JPEGImages" / f"{name}.jpg", quality=92)
    image = Image.fromarray(mask, "P")
    image.putpalette(voc_palette())
    image.save(root / "SegmentationClass" / f"{name}.png")
    lines = [
        _object(label, box, difficult=oddity == DIFFICULT and k == 0)
        for k, (label, box) in enumerate(objects)
    ]
    if oddity == ZERO_WIDTH:
        lines.append(
            _object(objects[0][0], (9, 9, 9, 20), difficult=False)
        )  # a class that is there
    height, width = mask.shape
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation>\n\t<folder>VOC2012</folder>\n\t<filename>{name}.jpg</filename>\n"
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"\t<segmented>1</segmented>\n{''.join(lines)}</annotation>\n"
    )


def _object(label: str, box: tuple[int, int, int, int], *, difficult: bool) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"\t<object><name>{label}</name><difficult>{int(difficult)}</difficult><bndbox>{corners}</bndbox></object>\n"


def _scene(oddity: int, split: str, rng: np.random.Generator) -> Scene:
    """Picture (H,W,3) uint8, mask (H,W) uint8, objects with boxes counted from 1."""
    size = {LANDSCAPE: (48, 80), PORTRAIT: (80, 48)}.get(oddity, (SIDE, SIDE))
    canvas = Canvas(size, rng, background="blocks", level=0.3, contrast=0.25)
    mask, objects = np.zeros(size, np.uint8), []
    count = 0 if oddity == NO_OBJECT else int(rng.integers(1, 4))
    for label in rng.choice(len(CLASSES), count, replace=False).tolist():
        side = int(rng.integers(18, 31))
        x, y = _free_place(mask, side, rng)
        glyph = class_glyph(label % 10, rng, split, side)
        _, own = canvas.paste(glyph, x, y, colour=scene_colour(label, rng))
        mask[own] = label + 1
    for label in np.unique(mask[mask > 0]).tolist():  # a later object may hide an earlier one
        x0, y0, x1, y1 = box_of(mask == label)
        objects.append((CLASSES[label - 1], (x0 + 1, y0 + 1, x1, y1)))
    return canvas.picture(), mask, objects


def scene_colour(label: int, rng: np.random.Generator) -> np.ndarray:
    """A bright colour (3,) float32: red to yellow for the first ten classes, cyan to violet for the others."""
    hue = rng.uniform(-0.06, 0.17) if label < 10 else rng.uniform(0.48, 0.76)
    return hsv(hue % 1, rng.uniform(0.5, 1), rng.uniform(0.75, 1))


def _free_place(mask: np.ndarray, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """x, y of the upper left corner where, of ten random places, the fewest pixels are taken."""
    tries = [
        (
            int(rng.integers(0, mask.shape[1] - side + 1)),
            int(rng.integers(0, mask.shape[0] - side + 1)),
        )
    ]
    tries += [tuple(int(rng.integers(0, n - side + 1)) for n in mask.shape[::-1]) for _ in range(9)]
    return min(tries, key=lambda place: int((mask[place[1] :, place[0] :][:side, :side] > 0).sum()))


def voc_palette() -> list[int]:
    """VOC's 256 colours, flat: bit b of channel k of colour i, counted from the top, is bit 3b + k of i."""
    i = np.arange(256)[:, None]
    return (
        sum((i >> (3 * b + np.arange(3)) & 1) << (7 - b) for b in range(8))
        .astype(np.uint8)
        .flatten()
        .tolist()
    )
