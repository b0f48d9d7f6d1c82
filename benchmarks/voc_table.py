"""The pictures of a VOC devkit with their frequent classes, as a csv that --data takes.

    python benchmarks/voc_table.py --voc DATA/VOC2012 --to DATA/voc.csv --at_least 40

A line is path,labels,split: train and val are those of ImageSets/Main, and labels the classes that
at least so many pictures of both show; the others are left out, and so are pictures that show none.
The paths are absolute.
"""

import common.interrupt  # noqa: F401

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.cli import OneLineParser, positive_int, run_main
from common.own_voc import read_voc
from common.text import write_csv


def frequent(labels: Sequence[Sequence[str]], at_least: int) -> set[str]:
    """The classes that at least so many pictures show."""
    counts = Counter(name for names in labels for name in set(names))
    return {name for name, count in counts.items() if count >= at_least}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table and say what is in it."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voc", type=Path, required=True, help="JPEGImages and so on are in it")
    parser.add_argument("--to", type=Path, required=True, help="the csv")
    parser.add_argument("--at_least", type=positive_int, default=1, metavar="PICTURES")
    args = parser.parse_args(argv)

    table = read_voc(args.voc.resolve())
    part = table.rows
    splits = table.splits.tolist() if table.splits is not None else [""] * len(part)
    labels = [[table.classes[k] for k in row.nonzero()[0]] for row in part.matrix == 1]
    kept = frequent(labels, args.at_least)
    lines = []
    for path, names, split in zip(part.paths, labels, splits, strict=True):
        shown = [name for name in names if name in kept]
        if shown:
            lines.append((path, ";".join(shown), split))
    args.to.parent.mkdir(parents=True, exist_ok=True)
    write_csv(args.to, [("path", "labels", "split"), *lines])
    count = f"{len(lines)} of {len(part)} pictures, {len(kept)} of {len(table.classes)} classes"
    print(f"{args.to}: {count}: {', '.join(sorted(kept))}")


if __name__ == "__main__":
    run_main(main)
