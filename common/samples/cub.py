"""The CUB sample: drawn birds whose classes differ in the colours of seven parts (calm).

Layout of the official archive: CUB_200_2011/ with images, boxes, parts and class attributes,
segmentations/ inside it, attributes.txt beside it. What tells two classes apart is known to the
pixel, so cue localisation has a true answer. Two classes have the same attributes and differ in
their shade.
"""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from common.samples.canvas import Box, Canvas, box_of, hsv

PER_CLASS = {"train": 100, "test": 20}
SIZES = ((64, 64), (64, 72), (72, 64), (64, 80))  # height, width
# name -> (attribute, x, y) of the coloured disc; x forwards, y downwards, in half axes of the body
PARTS = {
    "head": ("has_crown_color", 1.15, -0.95),
    "back": ("has_back_color", -0.05, -0.8),
    "belly": ("has_belly_color", 0.0, 0.75),
    "breast": ("has_breast_color", 0.75, 0.2),
    "tail": ("has_upper_tail_color", -1.3, 0.1),
    "leg": ("has_leg_color", -0.1, 1.45),
    "wing": ("has_wing_color", -0.35, 0.0),
}
# name -> number of the colour of a part, where it is not the first. CALM's model is one decisive
# position: the wing alone tells all classes apart, other parts differ besides; the last two differ
# in no attribute, but in their shade.
CLASSES: dict[str, dict[str, int]] = {
    "Plain_Digitbird": {},
    "Barred_Digitbird": {"wing": 1},
    "Winged_Digitbird": {"wing": 2},
    "Tailed_Digitbird": {"wing": 3, "tail": 1},
    "Crested_Digitbird": {"wing": 4, "tail": 1, "head": 1},
    "Dusky_Digitbird": {"wing": 4, "tail": 1, "head": 1},
}
COLOURS = ("red", "yellow", "green", "cyan", "blue", "violet", "magenta")
STEPS = (0, 3, 5, 2, 4)  # from a part's first colour to the others
SHADE = {"Dusky_Digitbird": 0.6}  # brightness of the whole bird; 1 for the others
BODY = 0.55  # grey
KEYPOINTS = (
    *("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing"),
    *("nape", "right eye", "right leg", "right wing", "tail", "throat"),
)
# keypoint number -> (part, offset in pixels from the disc's centre); the head's sum to about 0
POINTS = {
    1: ("back", 0, 0),
    2: ("head", 3, 0.5),
    3: ("belly", 0, 0),
    4: ("breast", 0, 0),
    5: ("head", 0, -2.5),
    6: ("head", 1.5, -1.5),
    7: ("head", 0.5, 0),
    8: ("leg", 1, 0),
    9: ("wing", 0, 0),
    10: ("head", -3, 0.5),
    11: ("head", 0.5, 0),
    12: ("leg", -1, 0),
    13: ("wing", 0, 0),
    14: ("tail", 0, 0),
    15: ("head", -0.5, 2.5),
}
NEVER_DECISIVE = ("back", "breast", "leg")  # these may be hidden without making two classes equal
P_HIDDEN = 0.1
P_UNMARKED = 0.01


class Bird(NamedTuple):
    """One image: picture (H,W,3) uint8, mask (H,W) uint8, box, {visible keypoint: (x, y)}."""

    picture: np.ndarray
    mask: np.ndarray
    box: Box
    points: dict[int, tuple[float, float]]


def draw_cub(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """Write the birds of six classes in the official layout; returns the counts."""
    root = folder / "CUB_200_2011"
    lists: dict[str, list[str]] = defaultdict(list)
    number = 0
    for label, name in enumerate(CLASSES, 1):
        class_folder = f"{label:03d}.{name}"
        (root / "images" / class_folder).mkdir(parents=True)
        (root / "segmentations" / class_folder).mkdir(parents=True)
        for k in range(sum(PER_CLASS.values())):
            number += 1
            bird = _bird(name, rng)
            file = f"{class_folder}/{name}_{k + 1:04d}_{number:05d}"
            picture = Image.fromarray(bird.picture)
            picture.save(root / "images" / f"{file}.jpg", quality=95, subsampling=0)
            Image.fromarray(bird.mask).save(root / "segmentations" / f"{file}.png")
            x0, y0, x1, y1 = bird.box
            lists["images"].append(f"{number} {file}.jpg")
            lists["labels"].append(f"{number} {label}")
            lists["split"].append(f"{number} {int(k < PER_CLASS['train'])}")
            lists["boxes"].append(f"{number} {x0:.1f} {y0:.1f} {x1 - x0:.1f} {y1 - y0:.1f}")
            lists["parts"] += _part_lines(number, bird)
    _write_lists(folder, root, lists)
    counts = {split: count * len(CLASSES) for split, count in PER_CLASS.items()}
    return {**counts, "classes": len(CLASSES)}


def _write_lists(folder: Path, root: Path, lists: dict[str, list[str]]) -> None:
    def write(path: Path, lines: list[str]) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    write(root / "images.txt", lists["images"])
    write(root / "classes.txt", [f"{n} {n:03d}.{name}" for n, name in enumerate(CLASSES, 1)])
    write(root / "image_class_labels.txt", lists["labels"])
    write(root / "train_test_split.txt", lists["split"])
    write(root / "bounding_boxes.txt", lists["boxes"])
    write(root / "parts" / "parts.txt", [f"{n} {name}" for n, name in enumerate(KEYPOINTS, 1)])
    write(root / "parts" / "part_locs.txt", lists["parts"])
    names, rows = _attributes()
    write(folder / "attributes.txt", [f"{n} {name}" for n, name in enumerate(names, 1)])
    table = []
    for row in rows:
        table.append(" ".join(f"{value:.4f}" for value in row))
    write(root / "attributes" / "class_attribute_labels_continuous.txt", table)


def _colour_number(part: str, variant: int) -> int:
    """The index into COLOURS of a part's colour."""
    return (list(PARTS).index(part) + STEPS[variant]) % len(COLOURS)


def _attributes() -> tuple[list[str], list[list[float]]]:
    """Attribute names, and percentages per class."""
    names = []
    columns = []
    for part, (attribute, _, _) in PARTS.items():
        for variant in range(len(STEPS)):
            names.append(f"{attribute}::{COLOURS[_colour_number(part, variant)]}")
            columns.append([100.0 * (parts.get(part, 0) == variant) for parts in CLASSES.values()])
    for name in ("size::small_(5_-_9_in)", "primary_color::grey", "shape::perching-like"):
        names.append(f"has_{name}")
        columns.append([100.0] * len(CLASSES))
    return names, [list(row) for row in zip(*columns, strict=True)]


def _part_lines(number: int, bird: Bird) -> list[str]:
    lines = []
    for k in range(1, len(KEYPOINTS) + 1):
        x, y = bird.points.get(k, (0.0, 0.0))
        lines.append(f"{number} {k} {x:.1f} {y:.1f} {int(k in bird.points)}")
    return lines


def _bird(name: str, rng: np.random.Generator) -> Bird:
    """Draw one bird: a grey ellipse with seven discs, mirrored half of the time, on a texture."""
    height, width = SIZES[rng.integers(len(SIZES))]
    background = ("blocks", "clouds")[rng.integers(2)]
    canvas = Canvas((height, width), rng, background=background, level=0.35)
    half = np.array([rng.uniform(14, 17), rng.uniform(9.5, 11.5)])
    centre = _centre(np.array([width, height]), half, rng)
    side = (1, -1)[rng.integers(2)]

    mask = np.zeros((height, width), np.uint8)
    dark = SHADE.get(name, 1.0)
    _ellipse(canvas, mask, centre, half, np.full(3, dark * (BODY + rng.uniform(-0.05, 0.05))))
    hidden = ""
    if rng.random() < P_HIDDEN:
        hidden = NEVER_DECISIVE[rng.integers(len(NEVER_DECISIVE))]
    centres = {}
    for part, (_, x, y) in PARTS.items():
        centres[part] = centre + half * (side * x, y) + rng.uniform(-1.5, 1.5, 2)
        colour = _colour_number(part, CLASSES[name].get(part, 0)) / len(COLOURS)
        if part != hidden:
            shade = hsv(colour, rng.uniform(0.8, 1), dark * rng.uniform(0.8, 1))
            _ellipse(canvas, mask, centres[part], np.full(2, rng.uniform(2.6, 3.4)), shade)
    canvas.pixels += 0.03 * rng.standard_normal(canvas.pixels.shape).astype(np.float32)

    points = {}
    if rng.random() >= P_UNMARKED:
        points = _points(centres, hidden, side, (width, height))
    return Bird(canvas.picture(), mask, box_of(mask >= 128), points)


def _centre(size: np.ndarray, half: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The bird's middle (x, y), mostly so that all of it is in the picture."""
    room = np.array([1.3, 1.45]) * half + 6
    low = np.minimum(room, size / 2)
    high = np.maximum(size - room, size / 2)
    return rng.uniform(low - 3, high + 3)


def _points(
    centres: dict[str, np.ndarray], hidden: str, side: int, size: tuple[int, int]
) -> dict[int, tuple[float, float]]:
    """Where the visible keypoints are; of wing and eye only the near one is seen."""
    far_side = (9, 7) if side > 0 else (13, 11)
    points = {}
    for number, (part, dx, dy) in POINTS.items():
        x, y = (centres[part] + (side * dx, dy)).tolist()
        is_inside = 0 <= x < size[0] and 0 <= y < size[1]
        if is_inside and part != hidden and number not in far_side:
            points[number] = (round(x, 1), round(y, 1))
    return points


def _ellipse(
    canvas: Canvas, mask: np.ndarray, centre: np.ndarray, half: np.ndarray, colour: np.ndarray
) -> None:
    """Paint a filled ellipse with a soft edge on the canvas, and add it to the mask (H,W) uint8."""
    opacity = np.zeros(mask.shape, np.uint8)
    shift = 4  # positions in sixteenths of a pixel
    place = np.rint(centre * 2**shift).astype(int).tolist()
    axes = np.rint(half * 2**shift).astype(int).tolist()
    cv2.ellipse(opacity, place, axes, 0, 0, 360, 255, -1, cv2.LINE_AA, shift)
    share = opacity[:, :, None] / np.float32(255)
    canvas.pixels += share * (colour.astype(np.float32) - canvas.pixels)
    np.maximum(mask, opacity, out=mask)
