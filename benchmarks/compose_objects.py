"""A multi-label benchmark of real pixels: Tiny-ImageNet-200's objects on canvases.

It is written in COCO's or VOC's layout.

    python benchmarks/compose_objects.py --tiny_imagenet DIR --to DIR --layout coco \
        --images 6000 --size 96 --classes 24 --seed 0

Each picture is a scene photograph (coast, cliff, reef, lake, mountain) with one to six objects of
different classes: the box of a Tiny-ImageNet photograph, cut to an ellipse with a soft edge, at
random places and sizes. Classes are long-tailed, popularity 1 / (rank + 2). Training pictures use
Tiny-ImageNet's training photographs, validation pictures its validation photographs. Boxes and
masks are exact: they say which visible pixels came from an object. With --layout voc the classes,
at most 20, carry VOC's names in order; classes.csv says what each one is. The pixels are
ImageNet's: for research, not to be passed on.
"""

import common.interrupt  # noqa: F401

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from common.cli import OneLineParser, UserError, positive_int, run_main
from common.samples.voc import CLASSES, voc_palette

SCENES = ("n09428293", "n09246464", "n09256479", "n09332890", "n09193705")
# Objects that are told apart at 64 pixels come first; the rest follow in the order of wnids.txt.
FIRST = (
    "n01443537 n02056570 n04146614 n07753592 n02165456 n02279972 n07747607 n02123045 "
    "n02504458 n04285008 n02129165 n07873807 n01882714 n02509815 n02917067 n03447447 "
    "n07749582 n02823428 n04398044 n02099601 n07720875 n01910747 n04465501 n02415577 "
    "n03085013 n04099969 n02410509 n04118538 n02481823 n03662601 n07734744 n02948072 "
    "n02769748 n02268443 n07768694 n04507155 n01629819 n02802426 n02206856 n02403003"
).split()
SPLITS = ("train", "val")
SMALLEST = 32  # objects of 8 pixels


class Photograph(NamedTuple):
    """A file and its object's box x0, y0, x1, y1."""

    path: Path
    box: tuple[int, int, int, int]


class Placed(NamedTuple):
    """An object on a canvas: class index and the mask (S, S) bool of its visible pixels."""

    label: int
    mask: np.ndarray


def read_photographs(root: Path, split: str, wnids: list[str]) -> dict[str, list[Photograph]]:
    """The photographs of each class of a split; UserError where files of it are missing."""
    found: dict[str, list[Photograph]] = {wnid: [] for wnid in wnids}
    try:
        if split == "train":
            for wnid in wnids:
                folder = root / "train" / wnid
                for line in (folder / f"{wnid}_boxes.txt").read_text().splitlines():
                    name, *box = line.split()
                    if (folder / "images" / name).is_file():
                        found[wnid].append(
                            Photograph(folder / "images" / name, tuple(map(int, box)))
                        )
        else:
            for line in (root / "val" / "val_annotations.txt").read_text().splitlines():
                name, wnid, *box = line.split()
                if wnid in found:
                    found[wnid].append(
                        Photograph(root / "val" / "images" / name, tuple(map(int, box)))
                    )
    except FileNotFoundError as error:
        raise UserError(
            f"--tiny_imagenet {root}: {error.filename} is missing; give tiny-imagenet-200"
        ) from error
    return found


def ellipse(height: int, width: int) -> np.ndarray:
    """Opacity (h, w) float32 of an ellipse that fills its box, with an edge of about two pixels."""
    y, x = np.mgrid[0:height, 0:width]
    radius = np.hypot((2 * y + 1) / height - 1, (2 * x + 1) / width - 1)
    return np.clip((1 - radius) * min(height, width) / 4 + 0.5, 0, 1).astype(np.float32)


class Composer:
    """Draws the pictures of one split, all from `rng`."""

    def __init__(
        self, root: Path, split: str, wnids: list[str], size: int, rng: np.random.Generator
    ) -> None:
        scenes = read_photographs(root, split, list(SCENES))
        self.scenes = [photo.path for photos in scenes.values() for photo in photos]
        self.objects = list(read_photographs(root, split, wnids).values())
        self.size = size
        self.rng = rng
        # the ranks are the same in both splits, and independent of the order of the classes
        ranks = np.random.default_rng(len(wnids)).permutation(len(wnids))
        self.popularity = 1 / (ranks + 2) / (1 / (ranks + 2)).sum()

    def picture(self) -> tuple[np.ndarray, list[Placed]]:
        """A picture (S, S, 3) uint8 and its objects in the order of drawing."""
        rng = self.rng
        size = self.size
        scene = np.asarray(Image.open(self.scenes[rng.integers(len(self.scenes))]).convert("RGB"))
        scene = scene[:, ::-1] if rng.random() < 0.5 else scene
        canvas = cv2.resize(scene, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        count = min(int(rng.integers(1, 7)), len(self.objects))
        placed: list[Placed] = []
        for label in rng.choice(
            len(self.objects), count, replace=False, p=self.popularity
        ).tolist():
            opacity, pixels = self._object(label)
            opacity = self._place(opacity, pixels, canvas, placed)
            mask = opacity >= 0.5
            placed = [Placed(other.label, other.mask & ~mask) for other in placed] + [
                Placed(label, mask)
            ]
        return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), placed

    def _object(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        rng = self.rng
        photos = self.objects[label]
        photo = photos[rng.integers(len(photos))]
        image = np.asarray(Image.open(photo.path).convert("RGB"), np.float32)
        x0, y0, x1, y1 = photo.box
        crop = image[y0 : max(y1, y0 + 8) + 1, x0 : max(x1, x0 + 8) + 1]
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        long_side = self.size * rng.uniform(0.25, 0.48)
        scale = long_side / max(crop.shape[:2])
        height, width = (
            max(round(side * scale), round(0.4 * long_side)) for side in crop.shape[:2]
        )
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return ellipse(height, width), cv2.resize(crop, (width, height), interpolation=how)

    def _place(
        self, opacity: np.ndarray, pixels: np.ndarray, canvas: np.ndarray, placed: list[Placed]
    ) -> np.ndarray:
        """Blend an object in at the best of twelve random places; returns its opacity (S, S).

        The best is where it hides the others least.
        """
        height, width = opacity.shape
        best = (0, 0)
        least = np.inf
        for _ in range(12):
            y, x = (int(self.rng.integers(0, self.size - side + 1)) for side in (height, width))
            window = np.s_[y : y + height, x : x + width]
            hidden = (
                max(
                    (o.mask[window] & (opacity >= 0.5)).sum() / max(1, o.mask.sum()) for o in placed
                )
                if placed
                else 0
            )
            if hidden < least:
                best = (y, x)
                least = hidden
            if least <= 0.05:
                break
        y, x = best
        window = canvas[y : y + height, x : x + width]
        window += opacity[:, :, None] * (pixels - window)
        whole = np.zeros((self.size, self.size), np.float32)
        whole[y : y + height, x : x + width] = opacity
        return whole

    def pictures(self, count: int) -> Iterator[tuple[np.ndarray, list[Placed]]]:
        """`count` pictures; labels leave out an object that others hide to under 20 pixels."""
        for _ in range(count):
            picture, placed = self.picture()
            yield picture, [p for p in placed if p.mask.sum() >= 20]


class Photographs(Composer):
    """One whole photograph a picture, classes in turn; its object's box is the mask."""

    def pictures(self, count: int) -> Iterator[tuple[np.ndarray, list[Placed]]]:
        """`count` pictures."""
        for number in range(count):
            label = number % len(self.objects)
            photo = self.objects[label][number // len(self.objects) % len(self.objects[label])]
            image = np.asarray(Image.open(photo.path).convert("RGB"))
            box = np.zeros(image.shape[:2], np.uint8)
            x0, y0, x1, y1 = photo.box
            box[y0 : y1 + 1, x0 : x1 + 1] = 1
            side = (self.size, self.size)
            mask = cv2.resize(box, side, interpolation=cv2.INTER_NEAREST) > 0
            yield cv2.resize(image, side, interpolation=cv2.INTER_CUBIC), [Placed(label, mask)]


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask (S, S); x1, y1 are the last column and row inside."""
    ys = np.flatnonzero(mask.any(1))
    xs = np.flatnonzero(mask.any(0))
    return int(xs[0]), int(ys[0]), int(xs[-1]), int(ys[-1])


def write_coco(
    root: Path, composers: dict[str, Composer], counts: dict[str, int], names: list[str]
) -> None:
    """COCO 2014's folders and instances json, with boxes, areas and polygons."""
    (root / "annotations").mkdir(parents=True)
    categories = [
        {"id": k + 1, "name": name, "supercategory": "object"} for k, name in enumerate(names)
    ]
    for split, composer in composers.items():
        folder = root / f"{split}2014"
        folder.mkdir()
        images = []
        annotations = []
        for number, (picture, placed) in enumerate(composer.pictures(counts[split]), 1):
            name = f"COCO_{split}2014_{number:012d}.jpg"
            Image.fromarray(picture).save(folder / name, quality=90)
            images.append(
                {"id": number, "file_name": name, "width": composer.size, "height": composer.size}
            )
            for label, mask in placed:
                x0, y0, x1, y1 = box_of(mask)
                outlines, _ = cv2.findContours(
                    mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
                )
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                }
                annotation |= {
                    "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                }
                annotation["segmentation"] = [o.flatten().tolist() for o in outlines if len(o) >= 3]
                annotations.append(annotation)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))


def write_voc(
    root: Path, composers: dict[str, Composer], counts: dict[str, int], names: list[str]
) -> None:
    """VOCdevkit/VOC2012 with pictures, annotations, masks and lists (train_aug is train)."""
    devkit = root / "VOCdevkit" / "VOC2012"
    palette = voc_palette()
    for folder in (
        "JPEGImages",
        "Annotations",
        "SegmentationClass",
        "ImageSets/Segmentation",
        "ImageSets/Main",
    ):
        (devkit / folder).mkdir(parents=True)
    for split, composer in composers.items():
        ids = [
            f"{2012 if split == 'train' else 2013}_{number:06d}"
            for number in range(1, counts[split] + 1)
        ]
        for name, (picture, placed) in zip(ids, composer.pictures(counts[split]), strict=True):
            Image.fromarray(picture).save(devkit / "JPEGImages" / f"{name}.jpg", quality=90)
            labels = np.zeros(picture.shape[:2], np.uint8)
            for label, mask in placed:
                labels[mask] = label + 1
            mask_image = Image.fromarray(labels, "P")
            mask_image.putpalette(palette)
            mask_image.save(devkit / "SegmentationClass" / f"{name}.png")
            objects = "".join(voc_object(names[label], box_of(mask)) for label, mask in placed)
            side = f"<width>{composer.size}</width><height>{composer.size}</height>"
            size = f"<size>{side}<depth>3</depth></size>"
            text = f"<annotation><filename>{name}.jpg</filename>{size}\n{objects}</annotation>\n"
            (devkit / "Annotations" / f"{name}.xml").write_text(text)
        for name in {"train": ("train", "train_aug"), "val": ("val",)}[split]:
            for folder in ("Segmentation", "Main"):
                (devkit / "ImageSets" / folder / f"{name}.txt").write_text("\n".join(ids) + "\n")


def voc_object(name: str, box: tuple[int, int, int, int]) -> str:
    """One object of an annotation; VOC counts pixels from 1."""
    corners = "".join(
        f"<{k}>{v + 1}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return (
        f"<object><name>{name}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object>\n"
    )


def read_lines(root: Path, name: str) -> list[str]:
    """The lines of a file of Tiny-ImageNet's folder; UserError where it is missing."""
    if not (root / name).is_file():
        raise UserError(
            f"--tiny_imagenet {root}: {name} is missing; give the unpacked tiny-imagenet-200"
        )
    return (root / name).read_text().splitlines()


def choose_classes(root: Path, count: int) -> list[str]:
    """The first `count` WordNet ids: those of FIRST, then wnids.txt's, without the scenes."""
    known = read_lines(root, "wnids.txt")
    ordered = [w for w in dict.fromkeys([*FIRST, *known]) if w in known and w not in SCENES]
    if count > len(ordered):
        raise UserError(f"--classes {count}: there are {len(ordered)}")
    return ordered[:count]


def read_words(root: Path, wnids: list[str]) -> list[str]:
    """The first English name of each WordNet id, from words.txt; UserError where one is missing."""
    words = {
        wnid: names
        for wnid, _, names in (line.partition("\t") for line in read_lines(root, "words.txt"))
    }
    for wnid in wnids:
        if wnid not in words:
            raise UserError(
                f"--tiny_imagenet {root}: words.txt has no line for {wnid};"
                " unpack tiny-imagenet-200 anew"
            )
    return [words[wnid].split(",")[0].strip() for wnid in wnids]


def check(args: argparse.Namespace) -> None:
    """UserError for the first setting that is out of bounds."""
    if args.size < SMALLEST:
        raise UserError(
            f"--size {args.size}: at least {SMALLEST}, else the objects are too small to count"
        )
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: must not be negative")
    if args.layout == "voc" and args.classes > len(CLASSES):
        raise UserError(
            f"--classes {args.classes}: the layout voc has {len(CLASSES)}; fewer, or --layout coco"
        )
    if args.to.exists() and (not args.to.is_dir() or any(args.to.iterdir())):
        raise UserError(f"--to {args.to}: not an empty folder; give another")


def main(argv: list[str] | None = None) -> None:
    """Compose the pictures and write them."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tiny_imagenet", type=Path, required=True, help="the folder tiny-imagenet-200"
    )
    parser.add_argument("--to", type=Path, required=True, help="a folder that is missing or empty")
    parser.add_argument("--layout", choices=("coco", "voc"), default="coco")
    parser.add_argument("--images", type=positive_int, default=6000, help="training pictures")
    parser.add_argument(
        "--val_images", type=positive_int, default=None, help="default: a quarter of --images"
    )
    parser.add_argument("--size", type=positive_int, default=96, help="side of a picture in pixels")
    parser.add_argument("--classes", type=positive_int, default=24)
    parser.add_argument(
        "--photographs", action="store_true", help="one whole photograph each, say for pretraining"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    check(args)
    wnids = choose_classes(args.tiny_imagenet, args.classes)
    own = read_words(args.tiny_imagenet, wnids)
    names = list(CLASSES[: args.classes]) if args.layout == "voc" else own
    counts = {"train": args.images, "val": args.val_images or max(1, args.images // 4)}
    kind = Photographs if args.photographs else Composer
    composers = {
        split: kind(
            args.tiny_imagenet, split, wnids, args.size, np.random.default_rng([args.seed, k])
        )
        for k, split in enumerate(SPLITS)
    }
    args.to.mkdir(parents=True, exist_ok=True)
    {"coco": write_coco, "voc": write_voc}[args.layout](args.to, composers, counts, names)
    with (args.to / "classes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("name", "object", "wnid"), *zip(names, own, wnids, strict=True)]
        )
    pictures = f"{counts['train']} training and {counts['val']} validation pictures"
    print(f"{pictures} of {len(names)} classes in {args.to}")


if __name__ == "__main__":
    run_main(main)
