"""CIFAR-10N as pictures and a csv that `--data` takes: noisy human labels in train, clean in val.

    N=DATA/cifar-10n/cifar10n_human_labels.npz
    python benchmarks/cifar10n_table.py --cifar DATA/cifar-10-batches-py --labels $N --to DIR

DIR/cifar10n.csv has the columns path,split,label; the 50,000 training pictures have the labels of
--column, the 10,000 test pictures (val) CIFAR-10's own. The pictures are PNGs below DIR/pictures.
Written again, only what is missing is written.
"""

import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cavl.data_pickle import read_pickle
from common.cli import OneLineParser, UserError, folder_path, readable_file, run_main
from common.samples.cifar10 import CLASSES
from common.text import write_csv


class Part(NamedTuple):
    """Pictures (N,32,32,3) uint8 and their labels (N,)."""

    name: str  # train or val
    pictures: np.ndarray
    labels: np.ndarray


def read_part(name: str, folder: Path, files: Sequence[str]) -> Part:
    """The pictures of some of CIFAR-10's files, in their order."""
    pictures = []
    labels: list[int] = []
    for file in files:
        content = read_pickle(folder / file)
        pixels = np.asarray(content["data"], np.uint8).reshape(-1, 3, 32, 32)
        pictures.append(pixels.transpose(0, 2, 3, 1))
        labels += content["labels"]
    return Part(name, np.concatenate(pictures), np.array(labels))


def human_labels(path: Path, column: str, clean: np.ndarray) -> np.ndarray:
    """The labels (N,) of people; UserError for another column, count or order of pictures."""
    with np.load(path, allow_pickle=False) as file:
        if column not in file:
            raise UserError(f"{path}: no {column!r}; there are: {', '.join(file)}")
        labels = file[column]
        known = file["clean_label"]
    if labels.shape != clean.shape or not np.array_equal(known, clean):
        raise UserError(f"{path}: not the labels of these {len(clean)} pictures, in their order")
    return labels


def write_pictures(part: Part, folder: Path) -> Iterator[tuple[str, ...]]:
    """Write what is missing; the rows of the table."""
    (folder / "pictures" / part.name).mkdir(parents=True, exist_ok=True)
    for number, (pixels, label) in enumerate(zip(part.pictures, part.labels, strict=True)):
        path = f"pictures/{part.name}/{number:05d}.png"
        if not (folder / path).is_file():
            temporary = folder / f"{path}.part"
            Image.fromarray(pixels).save(temporary, "PNG")
            temporary.replace(folder / path)
        yield path, part.name, CLASSES[int(label)]


def main(argv: Sequence[str] | None = None) -> None:
    """Write pictures and table, and say how noisy the labels are."""
    parser = OneLineParser(description="CIFAR-10N as pictures and a csv.")
    add = parser.add_argument
    add("--cifar", type=folder_path, required=True, help="cifar-10-batches-py")
    add("--labels", type=readable_file, required=True, help="cifar10n_human_labels.npz")
    add("--column", default="worse_label", help="which labels of that file")
    add("--to", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)

    train = read_part("train", args.cifar, [f"data_batch_{number}" for number in range(1, 6)])
    val = read_part("val", args.cifar, ["test_batch"])
    labels = human_labels(args.labels, args.column, train.labels)

    rows = [("path", "split", "label")]
    rows += write_pictures(train._replace(labels=labels), args.to)
    rows += write_pictures(val, args.to)
    write_csv(args.to / "cifar10n.csv", rows)
    wrong = float((labels != train.labels).mean())
    count = f"{len(rows) - 1} pictures, {wrong:.1%} of {args.column} are wrong"
    print(f"{args.to / 'cifar10n.csv'}: {count}")


if __name__ == "__main__":
    run_main(main)
