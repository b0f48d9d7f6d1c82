"""Label groups for --superclass_file: JSON, a label to the labels of its group.

    # by the last word of the names: albatrosses, gulls, ...
    python superclass.py dataset/CUB_200_2011/classes.txt cub_groups.json
    # the same from our lists
    python superclass.py metadata/CUB/test/class_labels.txt cub_groups.json
    # by WordNet's is-a relation
    python superclass.py metadata/ILSVRC/train/class_labels.txt groups.json \\
        --is_a wordnet.is_a.txt
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

import json
from pathlib import Path

from calm.data_lists import read_lines
from calm.data_superclass import group_by_ancestor, group_by_last_word, read_names
from common.aliases import one_module
from common.cli import OneLineParser, UserError, run_main
from common.files import atomic_write

one_module(__name__, "calm.superclass")


def main(argv: list[str] | None = None) -> None:
    """Read class names, group, write the JSON."""
    parser = OneLineParser(prog="superclass.py", description="Write a --superclass_file.")
    parser.add_argument(
        "names", type=Path, help="classes.txt of CUB, or a class_labels.txt of ours"
    )
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument(
        "--is_a", type=Path, default=None, help="WordNet's is-a list, a line `parent child` each"
    )
    args = parser.parse_args(argv)
    names = read_names(args.names)
    if args.is_a is None:
        groups = group_by_last_word(names)
    else:
        if not args.is_a.is_file():
            raise UserError(f"--is_a {args.is_a}: no such file")
        pairs = [line.split() for line in read_lines(args.is_a) if line.strip()]
        for number, pair in enumerate(pairs, 1):
            if len(pair) != 2:
                raise UserError(f"{args.is_a}:{number}: expected `parent child`")
        groups = group_by_ancestor(names, pairs)

    text = json.dumps({str(label): groups[label] for label in sorted(groups)}, indent=1)
    atomic_write(args.out, f"{text}\n".encode())
    distinct = set(map(tuple, groups.values()))
    print(f"{args.out}: {len(groups)} labels in {len(distinct)} groups")


if __name__ == "__main__":
    run_main(main)
