"""The CUB sample: drawn birds whose classes differ in the colour of one, two or three of seven parts (calm).

Layout of the official archive: CUB_200_2011/ with images, boxes, parts and class attributes, segmentations/
inside it, attributes.txt beside it. What tells two classes apart is known to the pixel, so cue localisation
has a true answer. Two classes have the same attributes and differ in their shade.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from common.samples.canvas import Box, Canvas, box_of, hsv, to_bytes

PER_CLASS = {"train": 100, "test": 20}
SIZES = ((64, 64), (64, 72), (72, 64), (64, 80))  # height, width
# name -> (attribute, x, y) of the coloured disc; x forwards and y downwards in half axes of the body
PARTS = {
    "head": ("has_crown_color", 1.15, -0.95),
    "back": ("has_back_color", -0.05, -0.8),
    "belly": ("has_belly_color", 0.0, 0.75),
    "breast": ("has_breast_color", 0.75, 0.2),
    "tail": ("has_upper_tail_color", -1.3, 0.1),
    "leg": ("has_leg_color", -0.1, 1.45),
    "wing": ("has_wing_color", -0.35, 0.0),
}
# name -> number of the colour of a part, where it is not the first. CALM's model is one decisive position: the wing
# alone tells all classes apart, other parts differ besides; the last two differ in no attribute, but in their shade
CLASSES = {
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
# keypoint number -> (part, offset in pixels from the disc's centre); offsets of the head's points sum to about 0
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
P_HIDDEN, P_UNMARKED = 0.1, 0.01


class Bird(NamedTuple):
    """One drawn image: picture (H,W,3) uint8, mask (H,W) uint8, box, {keypoint: (x, y)} of the visible ones."""

    picture: np.ndarray
    mask: np.ndarray
    box: Box
    points: dict[int, tuple[float, float]]


def draw_cub(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """Write the birds of six classes in the official layout; returns the counts."""
    root = folder / "CUB_200_2011"
    lists: dict[str, list[str]] = {
        name: [] for name in ("images", "labels", "split", "boxes", "parts")
    }
    number = 0
    for label, name in enumerate(CLASSES, 1):
        class_folder = f"{label:03d}.{name}"
        (root / "images" / class_folder).mkdir(parents=True)
        (root / "segmentations" / class_folder).mkdir(parents=True)
        for k in range(sum(PER_CLASS.values())):
            number += 1
            bird = _bird(name, rng)
            file = f"{class_folder}/{name}_{k + 1:04d}_{number:05d}"
            Image.fromarray(bird.picture).save(
                root / "images" / f"{file}.jpg", quality=95, subsampling=0
            )
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
    table = [" ".join(f"{value:.4f}" for value in row) for row in rows]
    write(root / "attributes" / "class_attribute_labels_continuous.txt", table)


def _colour_number(part: str, variant: int) -> int:
    """The index into COLOURS of a part's colour."""
    return (list(PARTS).index(part) + STEPS[variant]) % len(COLOURS)


def _attributes() -> tuple[list[str], list[list[float]]]:
    """Attribute names, and percentages per class."""
    names, columns = [], []
    for part, (attribute, _, _) in PARTS.items():
        for variant in range(len(STEPS)):
            names.append(f"{attribute}::{COLOURS[_colour_number(part, variant)]}")
            columns.append([100.0 * (parts.get(part, 0) == variant) for parts in CLASSES.values()])
    for name in (
        "has_size::small_(5_-_9_in)",
        "has_primary_color::grey",
        "has_shape::perching-like",
    ):
        names.append(name)
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
    canvas = Canvas(
        (height, width), rng, background=("blocks", "clouds")[rng.integers(2)], level=0.35
    )
    half = np.array([rng.uniform(14, 17), rng.uniform(9.5, 11.5)])
    room = np.array([1.3, 1.45]) * half + 6
    low, high = (
        np.minimum(room, np.array([width, height]) / 2),
        np.maximum(np.array([width, height]) - room, np.array([width, height]) / 2),
    )
    centre, side = rng.uniform(low - 3, high + 3), (1, -1)[rng.integers(2)]

    mask, dark = np.zeros((height, width), np.uint8), SHADE.get(name, 1.0)
    _ellipse(canvas, mask, centre, half, np.full(3, dark * (BODY + rng.uniform(-0.05, 0.05))))
    hidden = set()
    if rng.random() < P_HIDDEN:
        hidden.add(NEVER_DECISIVE[rng.integers(len(NEVER_DECISIVE))])
    centres = {}
    for part, (_, x, y) in PARTS.items():
        centres[part] = centre + half * (side * x, y) + rng.uniform(-1.5, 1.5, 2)
        colour = _colour_number(part, CLASSES[name].get(part, 0)) / len(COLOURS)
        if part not in hidden:
            shade = hsv(colour, rng.uniform(0.8, 1), dark * rng.uniform(0.8, 1))
            _ellipse(canvas, mask, centres[part], np.full(2, rng.uniform(2.6, 3.4)), shade)
    canvas.pixels += 0.03 * rng.standard_normal(canvas.pixels.shape).astype(np.float32)

    points = {}
    for k, (part, dx, dy) in POINTS.items():
        far_side = (9, 7) if side > 0 else (13, 11)  # of wing and eye only the near one is seen
        x, y = centres[part] + (side * dx, dy)
        if part not in hidden and k not in far_side and 0 <= x < width and 0 <= y < height:
            points[k] = (round(float(x), 1), round(float(y), 1))
    if rng.random() < P_UNMARKED:
        points = {}
    return Bird(canvas.picture(), mask, box_of(mask >= 128), points)


def _ellipse(
    canvas: Canvas, mask: np.ndarray, centre: np.ndarray, half: np.ndarray, colour: np.ndarray
) -> None:
    """Paint a filled ellipse with a soft edge on the canvas, and add it to the mask (H,W) uint8."""
    opacity = np.zeros(mask.shape, np.uint8)
    shift = 4  # positions in sixteenths of a pixel
    place, axes = (tuple(int(round(v * 2**shift)) for v in pair) for pair in (centre, half))
    cv2.ellipse(opacity, place, axes, 0, 0, 360, 255, -1, cv2.LINE_AA, shift)
    canvas.pixels += (opacity[:, :, None] / np.float32(255)) * (
        colour.astype(np.float32) - canvas.pixels
    )
    np.maximum(mask, opacity, out=mask)


def preview(folder: Path, rng: np.random.Generator) -> None:
    """Write one bird of each class side by side into folder/preview.png."""
    birds = [cv2.resize(_bird(name, rng).picture, (160, 160)) for name in CLASSES]
    Image.fromarray(to_bytes(np.concatenate(birds, 1) / 255)).save(folder / "preview.png")
