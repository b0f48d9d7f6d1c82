"""One label a picture, drawn from the several that a csv names: what a hurried annotator leaves.

    python benchmarks/one_label.py --table voc.csv --to one.csv --seed 2012

The new csv has the rows and columns of the old one and a column `label`, drawn with equal chances
from `labels`, which stays: MILe.py teaches the one and measures on the others. The draw depends on
the seed and the order of the rows alone, so that every run learns the same labels.
"""

import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.cli import OneLineParser, UserError, readable_file, run_main, whole
from common.text import read_csv, write_csv


def drawn(rows: Sequence[Sequence[str]], column: int, seed: int) -> list[str]:
    """One of the names of each row, which stand in a cell with `;` between them."""
    generator = np.random.default_rng(seed)
    return [str(generator.choice(row[column].split(";"))) for row in rows]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table and say how many labels it leaves out."""
    parser = OneLineParser(description="One label a picture, drawn from the labels of a csv.")
    parser.add_argument("--table", type=readable_file, required=True, metavar="FILE")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seed", type=whole(0), default=0, help="of the draw")
    args = parser.parse_args(argv)

    (_, header), *numbered = read_csv(args.table)
    if "labels" not in header or "label" in header:
        raise UserError(f"{args.table}: line 1: expected a column labels, and no column label")
    column = header.index("labels")
    rows = [row for _, row in numbered]
    for number, row in numbered:
        if not row[column]:
            raise UserError(f"{args.table}: line {number}: no label to draw from")
    labels = drawn(rows, column, args.seed)

    table = [[*header, "label"]]
    for row, label in zip(rows, labels, strict=True):
        table.append([*row, label])
    args.to.parent.mkdir(parents=True, exist_ok=True)
    write_csv(args.to, table)
    left = sum(row[column].count(";") for row in rows)
    print(f"{args.to}: {len(rows)} pictures with one label each, {left} labels are left out")


if __name__ == "__main__":
    run_main(main)
