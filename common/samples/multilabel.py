"""Multi-label samples, long-tailed: COCO 2014 (instances json) and Open Images (data.csv).

A COCO class is a digit in a colour of its own (ten digits, twenty colours), so that neither digit
nor colour alone tells it; an Open Images class is a digit in a style and a colour of its own.
"""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from common.samples.canvas import STYLES, Canvas, box_of, class_colour, class_glyph

SIZE = 64
GLYPH = 24
MAX_OBJECTS = 6
# The first twenty categories of COCO 2014, ids as in its annotation files.
COCO_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow"),
)
COCO_IDS = [*range(1, 12), *range(13, 22)]  # id 12 is not used
COCO_COUNTS = {"train": 1200, "val": 450}

OPENIMAGES_CLASSES = 60
OPENIMAGES_COUNTS = {"train": 1500, "val": 500}

Placed = tuple[int, np.ndarray]  # class, mask


def _popularity(classes: int, seed: int) -> np.ndarray:
    """Popularity 1 / (rank + 2) under a fixed permutation of the classes, summing to 1."""
    ranks = np.random.default_rng(seed).permutation(classes)
    weights = 1 / (ranks + 2)
    return weights / weights.sum()


def _scene(
    rng: np.random.Generator, split: str, classes: list[int], glyph_of_class: int
) -> tuple[np.ndarray, list[Placed]]:
    """A picture (64,64,3) uint8 with one object of each class, and what was placed, in order.

    `glyph_of_class`: how many glyph classes there are (10: plain digits).
    """
    canvas = Canvas(SIZE, rng, background="noise", level=0.2, contrast=0.12)
    placed = []
    for c in classes:
        x, y = rng.integers(0, SIZE - GLYPH + 1, 2)
        glyph = class_glyph(c % glyph_of_class, rng, split, GLYPH)
        _, mask = canvas.paste(glyph, int(x), int(y), 1.0, class_colour(c))
        placed.append((c, mask))
    return canvas.picture(), placed


def _draw_classes(rng: np.random.Generator, popularity: np.ndarray, least: int) -> list[int]:
    count = int(rng.integers(least, MAX_OBJECTS + 1))
    return rng.choice(len(popularity), count, replace=False, p=popularity).tolist()


def _save(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(path, quality=92)


def draw_coco(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """train2014/, val2014/, annotations/instances_{train,val}2014.json with boxes and polygons."""
    (folder / "annotations").mkdir()
    popularity = _popularity(len(COCO_NAMES), seed=6)
    categories = []
    for number, name in zip(COCO_IDS, COCO_NAMES, strict=True):
        categories.append({"supercategory": "digit", "id": number, "name": name})
    for split, count in COCO_COUNTS.items():
        (folder / f"{split}2014").mkdir()
        images = []
        annotations: list[dict] = []
        for number in range(1, count + 1):
            classes = _draw_classes(rng, popularity, least=1)
            picture, placed = _scene(rng, split, classes, glyph_of_class=10)
            name = f"COCO_{split}2014_{number:012d}.jpg"
            _save(folder / f"{split}2014" / name, picture)
            images.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
            for c, mask in placed:
                ids = {"id": len(annotations) + 1, "image_id": number}
                annotations.append(ids | _annotation(c, mask))
        content = {"info": {"description": "offline sample"}, "licenses": [], "images": images}
        content |= {"annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))
    return {**COCO_COUNTS, "classes": len(COCO_NAMES)}


def _annotation(c: int, mask: np.ndarray) -> dict:
    x0, y0, x1, y1 = box_of(mask)
    bits = mask.astype(np.uint8)
    outlines, _ = cv2.findContours(bits, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return {
        "category_id": COCO_IDS[c],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": [outline.flatten().tolist() for outline in outlines if len(outline) >= 3],
    }


def draw_openimages(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """data.csv with a few labels an image, val_complete.csv with all labels of val, class names.

    Columns by position: image path, list of positive MIDs, list of negative MIDs, split.
    """
    mids = [f"/m/0{c:03d}z" for c in range(OPENIMAGES_CLASSES)]
    popularity = _popularity(OPENIMAGES_CLASSES, seed=7)
    partial = []
    complete = []
    for split, count in OPENIMAGES_COUNTS.items():
        (folder / split).mkdir()
        for number in range(count):
            classes = _draw_classes(rng, popularity, least=3)
            picture, _ = _scene(rng, split, classes, glyph_of_class=OPENIMAGES_CLASSES)
            path = f"{split}/{number:06d}.jpg"
            _save(folder / path, picture)
            absent = [c for c in range(OPENIMAGES_CLASSES) if c not in classes]
            shown = rng.choice(classes, min(len(classes), int(rng.integers(2, 4))), replace=False)
            denied = rng.choice(absent, int(rng.integers(2, 5)), replace=False)
            partial.append((path, _mids(mids, shown), _mids(mids, denied), split))
            if split == "val":
                complete.append((path, _mids(mids, classes), _mids(mids, absent), split))
    for name, rows in (("data.csv", partial), ("val_complete.csv", complete)):
        _write_csv(folder / name, ("image", "positives", "negatives", "split"), rows)
    styles = list(STYLES)
    described = [(mid, f"{styles[c // 10]} {c % 10}") for c, mid in enumerate(mids)]
    _write_csv(folder / "oidv6-class-descriptions.csv", ("LabelName", "DisplayName"), described)
    return {**OPENIMAGES_COUNTS, "classes": OPENIMAGES_CLASSES}


def _mids(mids: list[str], chosen: list[int] | np.ndarray) -> str:
    return str([mids[c] for c in sorted(chosen)])


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
