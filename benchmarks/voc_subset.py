"""Some classes of a VOC devkit, as a devkit of its own that `--data` takes.

    python benchmarks/voc_subset.py --voc DATA/VOC2012 --to DIR --classes dog,cat,horse

Annotations lose the objects of all other classes. An object whose box is said to be the whole
picture, because nobody drew one, keeps its label and loses the box: it is in no pointing accuracy.
The pictures are not copied, JPEGImages is a link. Written again, it is the same.
"""

import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

import argparse
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from common.cli import OneLineParser, UserError, run_main
from common.files import atomic_write
from common.text import numbered_lines, read_xml

SPLITS = ("train", "val")
NO_BOX = "whole image"  # the pose of an object without a known box begins with it


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; classes as a list."""
    parser = OneLineParser(description="Some classes of a VOC devkit, as a devkit of its own.")
    add = parser.add_argument
    add("--voc", type=Path, required=True, metavar="DIR", help="the folder with JPEGImages")
    add("--to", type=Path, required=True, metavar="DIR", help="the new devkit")
    add("--classes", required=True, metavar="A,B,...", help="their names, commas between")
    args = parser.parse_args(argv)
    args.classes = args.classes.split(",")
    return args


def reduced(root: ElementTree.Element, classes: list[str]) -> list[str]:
    """Take other classes and boxes that nobody drew out of an annotation; the names that stay."""
    names = []
    for item in root.findall("object"):
        name = item.findtext("name", "").strip()
        if name not in classes:
            root.remove(item)
            continue
        names.append(name)
        box = item.find("bndbox")
        if box is not None and item.findtext("pose", "").startswith(NO_BOX):
            item.remove(box)
    return names


def write_split(voc: Path, to: Path, split: str, classes: list[str]) -> Counter[str]:
    """The list and annotations of a split; how many of its pictures show each class."""
    ids = [line for _, line in numbered_lines(voc / "ImageSets" / "Main" / f"{split}.txt")]
    counts: Counter[str] = Counter()
    for name in ids:
        root = read_xml(voc / "Annotations" / f"{name}.xml")
        counts.update(set(reduced(root, classes)))
        text = ElementTree.tostring(root, encoding="unicode")
        atomic_write(to / "Annotations" / f"{name}.xml", f"{text}\n".encode())
    lines = "".join(f"{name}\n" for name in ids)
    atomic_write(to / "ImageSets" / "Main" / f"{split}.txt", lines.encode())
    return counts


def main(argv: list[str] | None = None) -> None:
    """Write the devkit, and say how often each class comes."""
    args = parse(argv)
    pictures = args.voc / "JPEGImages"
    if not pictures.is_dir():
        raise UserError(f"--voc {args.voc}: no JPEGImages; give the folder VOC2012")
    for folder in ("Annotations", "ImageSets/Main"):
        (args.to / folder).mkdir(parents=True, exist_ok=True)
    link = args.to / "JPEGImages"
    if not link.is_dir():
        link.symlink_to(pictures.resolve(), target_is_directory=True)

    for split in SPLITS:
        counts = write_split(args.voc, args.to, split, args.classes)
        absent = [name for name in args.classes if not counts[name]]
        if absent:
            raise UserError(f"--classes: no picture of {split} shows {', '.join(absent)}")
        shown = ", ".join(f"{name} {counts[name]}" for name in args.classes)
        print(f"{split}: {shown}")
    print(f"devkit: {args.to}")


if __name__ == "__main__":
    run_main(main)
