"""A folder as a user has it: thirty pictures in three classes, in every layout of --data.

folders/    train/ and val/ with class folders            voc/VOCdevkit/VOC2012    boxes, masks
pictures/   the same pictures, named by five csv files and coco.json
features.npz, features.csv    rows of numbers with candidates                      README.txt

There is no marker SAMPLE.json in it: the five programs take it as a user's own data. A picture
shows one large digit in its class's colour, its label, and in four of ten a smaller one beside it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from common.samples.canvas import Box, Canvas, box_of, class_glyph, digit_images, hsv
from common.samples.voc import voc_palette
from common.text import write_csv

CLASSES = ("one", "three", "two")  # in sorted order
DIGITS = {"one": 1, "two": 2, "three": 3}
HUES = {"one": 0.0, "two": 0.33, "three": 0.62}  # red, green, blue
PER_CLASS = 10
VAL_PER_CLASS = 2
SIDES = (64, 72, 80, 96)
LARGE = (34, 44)  # side of the digit that is the label
MARGIN = 5  # in pixels; a crop to the centre leaves it
SMALL = (16, 20)  # of the one beside it
BESIDE = (1, 3)  # of five pictures of a class these show a second class
UNKNOWN = 3  # pictures of a class have a candidate set and no label
ROWS = 120  # of features

README = """\
Thirty pictures in three classes, in the layouts that --data takes. DIR is this folder.

  python cavl/main.py --data DIR/folders            class folders: candidates are drawn
  python cavl/main.py --data DIR/candidates.csv     candidates as they stand there
  python cavl/main.py --data DIR/features.npz       numbers in the place of pictures (also .csv)
  python oass/train_classification_with_puzzle_cTopk_w_ema.py --data DIR/voc
  python oass/train_classification_with_puzzle_cTopk_w_ema.py --data DIR/multi.csv
  python calm/main.py --data DIR/folders            classification and maps
  python calm/main.py --data DIR/complete.csv       with boxes: how well maps find the object
  python csl/train.py --data DIR/partial.csv        positives, negatives, the rest unknown
  python csl/train.py --data DIR/coco.json          every label known
  python mile/MILe.py --data DIR/folders            one label
  python mile/MILe.py --data DIR/complete.csv       with complete sets for the val part

  folders/          train/CLASS/*.jpg and val/CLASS/*.jpg
  pictures/         the pictures that the files name
  labels.csv        path,label: the main digit; train and val are drawn
  complete.csv      path,split,label,labels,boxes: also its box, and all digits of val
  multi.csv         path,split,labels: all digits, the rest is not there
  partial.csv       path,split,positives,negatives: the rest is unknown; all is known of val
  candidates.csv    path,split,candidates,label: one of the candidates is right; some labels unknown
  coco.json         boxes and outlines as in COCO; train and val are drawn
  voc/              VOCdevkit/VOC2012 with Annotations, ImageSets, SegmentationClass
  features.npz      x (n,64), y (n,), candidates (n,3), ids, classes
  features.csv      the same as a table
  classes.txt       class names for --classes

To use your own: bring your pictures into one of these layouts, and give its place.
"""


class Scene(NamedTuple):
    """A picture: its name, part and label, and the class, box and mask of every digit."""

    name: str
    part: str
    label: str
    pixels: np.ndarray
    objects: list[tuple[str, Box, np.ndarray]]

    @property
    def labels(self) -> list[str]:
        """The classes that are there, sorted."""
        return sorted(label for label, _, _ in self.objects)


def draw_own(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """Write the folder; the parts train and val are the same in all layouts."""
    scenes = []
    for label in CLASSES:
        for number in range(PER_CLASS):
            part = "val" if number < VAL_PER_CLASS else "train"
            scenes.append(_scene(label, number, part, rng))
    _write_pictures(folder, scenes)
    _write_tables(folder, scenes, rng)
    _write_coco(folder, scenes)
    _write_voc(folder / "voc" / "VOCdevkit" / "VOC2012", scenes)
    _write_features(folder, rng)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    (folder / "README.txt").write_text(README, encoding="utf-8")
    return {"pictures": len(scenes), "classes": len(CLASSES), "rows": ROWS}


def _scene(label: str, number: int, part: str, rng: np.random.Generator) -> Scene:
    height, width = rng.choice(SIDES, 2).tolist()
    canvas = Canvas((height, width), rng, background="clouds", level=0.25, contrast=0.15)
    large = int(rng.integers(*LARGE, endpoint=True))
    small = int(rng.integers(*SMALL, endpoint=True))
    x = int(rng.integers(MARGIN, width - large - MARGIN + 1))
    y = int(rng.integers(MARGIN, height - large - MARGIN + 1))
    digits = [(label, x, y, large)]
    if number % 5 in BESIDE:
        other = str(rng.choice([name for name in CLASSES if name != label]))
        across = 0 if x > width - large - x else width - small  # on the side with more room
        digits.append((other, across, int(rng.integers(0, height - small + 1)), small))

    objects = []
    for name, left, top, side in digits:
        glyph = class_glyph(DIGITS[name], rng, part, side)
        colour = hsv((HUES[name] + rng.uniform(-0.05, 0.05)) % 1, 0.8, rng.uniform(0.8, 1))
        box, mask = canvas.paste(glyph, left, top, colour=colour)
        objects.append((name, box, mask))
    return Scene(f"{label}_{number:02d}.jpg", part, label, canvas.picture(), objects)


def _write_pictures(folder: Path, scenes: Sequence[Scene]) -> None:
    for scene in scenes:
        places = (
            folder / "pictures",
            folder / "folders" / scene.part / scene.label,
            folder / "voc" / "VOCdevkit" / "VOC2012" / "JPEGImages",
        )
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.pixels).save(place / scene.name, quality=92)


def _write_tables(folder: Path, scenes: Sequence[Scene], rng: np.random.Generator) -> None:
    labels: list[tuple[str, ...]] = [("path", "label")]
    complete: list[tuple[str, ...]] = [("path", "split", "label", "labels", "boxes")]
    multi: list[tuple[str, ...]] = [("path", "split", "labels")]
    partial: list[tuple[str, ...]] = [("path", "split", "positives", "negatives")]
    candidates: list[tuple[str, ...]] = [("path", "split", "candidates", "label")]
    for number, scene in enumerate(scenes):
        path = f"pictures/{scene.name}"
        begin = (path, scene.part)
        everything = ";".join(scene.labels)
        x0, y0, x1, y1 = scene.objects[0][1]
        known = everything if scene.part == "val" else ""
        labels.append((path, scene.label))
        complete.append((*begin, scene.label, known, f"{x0} {y0} {x1} {y1}"))
        multi.append((*begin, everything))

        absent = [name for name in CLASSES if name not in scene.labels]
        shown = everything
        denied = absent
        if scene.part == "train":
            shown = scene.label
            denied = absent[: int(rng.integers(0, 2))]
        partial.append((*begin, shown, ";".join(denied)))

        other = str(rng.choice([name for name in CLASSES if name != scene.label]))
        chosen = ";".join(sorted([scene.label, other]))
        is_unknown = number % PER_CLASS >= PER_CLASS - UNKNOWN
        candidates.append((*begin, chosen, "" if is_unknown else scene.label))
    write_csv(folder / "labels.csv", labels)
    write_csv(folder / "complete.csv", complete)
    write_csv(folder / "multi.csv", multi)
    write_csv(folder / "partial.csv", partial)
    write_csv(folder / "candidates.csv", candidates)


def _write_coco(folder: Path, scenes: Sequence[Scene]) -> None:
    images = []
    annotations: list[dict] = []
    for number, scene in enumerate(scenes, 1):
        height, width = scene.pixels.shape[:2]
        name = f"pictures/{scene.name}"
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for label, (x0, y0, x1, y1), mask in scene.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CLASSES.index(label) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": _outlines(mask),
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def _outlines(mask: np.ndarray) -> list[list[int]]:
    bits = mask.astype(np.uint8)
    found, _ = cv2.findContours(bits, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [outline.flatten().tolist() for outline in found if len(outline) >= 3]


def _write_voc(root: Path, scenes: Sequence[Scene]) -> None:
    for name in ("Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for scene in scenes:
        name = Path(scene.name).stem
        height, width = scene.pixels.shape[:2]
        ids = np.zeros((height, width), np.uint8)
        things = []
        for label, _, mask in scene.objects:
            ids[mask] = CLASSES.index(label) + 1
        for label, _, _ in scene.objects:
            x0, y0, x1, y1 = box_of(ids == CLASSES.index(label) + 1)
            begin = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
            corners = f"{begin}<xmax>{x1}</xmax><ymax>{y1}</ymax>"
            content = f"<name>{label}</name><difficult>0</difficult>"
            things.append(f"\t<object>{content}<bndbox>{corners}</bndbox></object>\n")
        text = (
            f"<annotation>\n\t<folder>VOC2012</folder>\n\t<filename>{scene.name}</filename>\n"
            f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
            f"\t<segmented>1</segmented>\n{''.join(things)}</annotation>\n"
        )
        (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
        image = Image.fromarray(ids, "P")
        image.putpalette(voc_palette())
        image.save(root / "SegmentationClass" / f"{name}.png")
    for part in ("train", "val"):
        names = [Path(scene.name).stem for scene in scenes if scene.part == part]
        for kind in ("Main", "Segmentation"):
            path = root / "ImageSets" / kind / f"{part}.txt"
            path.write_text("\n".join(names) + "\n", encoding="utf-8")


def _write_features(folder: Path, rng: np.random.Generator) -> None:
    """Noisy 8x8 digits of the three classes, with the true class and mostly a second candidate."""
    images, digits = digit_images(8)
    numbers = [DIGITS[name] for name in CLASSES]
    rows = rng.choice(np.flatnonzero(np.isin(digits, numbers)), ROWS, replace=False)
    x = images[rows].reshape(ROWS, -1) + 0.2 * rng.standard_normal((ROWS, 64))
    x = x.round(3).astype(np.float32)
    y = np.array([numbers.index(digit) for digit in digits[rows].tolist()], np.int64)
    candidates = np.eye(len(CLASSES), dtype=np.uint8)[y]
    for row in np.flatnonzero(rng.random(ROWS) < 0.7).tolist():
        candidates[row, rng.integers(len(CLASSES))] = 1
    ids = np.array([f"row {row:03d}" for row in range(ROWS)])
    arrays = {"x": x, "y": y, "candidates": candidates, "ids": ids, "classes": np.array(CLASSES)}
    np.savez(folder / "features.npz", **arrays)

    table: list[list[object]] = [["id", "candidates", "label", *(f"f{k}" for k in range(64))]]
    for row in range(ROWS):
        chosen = [CLASSES[k] for k in np.flatnonzero(candidates[row]).tolist()]
        values = [f"{value:.3f}" for value in x[row].tolist()]
        table.append([ids[row], ";".join(chosen), CLASSES[y[row]], *values])
    write_csv(folder / "features.csv", table)
