"""Label groups for the superclass processes, in the form of --superclass_file: JSON, label -> labels of its group.

    python superclass.py dataset/CUB_200_2011/classes.txt cub_groups.json                 # albatrosses, gulls, ...
    python superclass.py metadata/CUB/test/class_labels.txt cub_groups.json               # the same from our lists
    python superclass.py metadata/ILSVRC/train/class_labels.txt groups.json --is_a wordnet.is_a.txt

CUB: classes with the same last word. With a WordNet list (lines `parent child`): the classes below the nearest
ancestor that has at least two of them; a class without one is its own group.
"""

import common.interrupt  # noqa: F401

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from calm.rows import read_lines
from common.aliases import one_module
from common.checkpoint import atomic_write
from common.cli import OneLineParser, UserError, run_main

one_module(__name__, "calm.superclass")


def group_by_last_word(names: Mapping[int, str]) -> dict[int, list[int]]:
    """{label: name such as 001.Black_footed_Albatross} to {label: labels whose names end in the same word}."""
    groups: dict[str, list[int]] = {}
    for label in sorted(names):
        groups.setdefault(names[label].rpartition(".")[2].rpartition("_")[2].lower(), []).append(
            label
        )
    return {label: group for group in groups.values() for label in group}


def group_by_ancestor(
    names: Mapping[int, str], is_a: Iterable[Sequence[str]]
) -> dict[int, list[int]]:
    """{label: wnid} and (parent, child) pairs to {label: labels below the nearest ancestor of at least two}."""
    parents: dict[str, list[str]] = {}
    for parent, child in is_a:
        parents.setdefault(child, []).append(parent)
    levels = {label: list(_upwards(wnid, parents)) for label, wnid in names.items()}
    members: dict[str, set[int]] = {}
    for label, above in levels.items():
        for ancestor in (a for level in above for a in level):
            members.setdefault(ancestor, set()).add(label)
    groups = {}
    for label, above in levels.items():
        shared = ([members[a] for a in level if len(members[a]) > 1] for level in above)
        nearest = next((sets for sets in shared if sets), [{label}])
        groups[label] = sorted(min(nearest, key=lambda group: (len(group), sorted(group))))
    return groups


def _upwards(wnid: str, parents: Mapping[str, list[str]]) -> Iterable[list[str]]:
    """The ancestors of a synset, level by level, each once."""
    seen, level = {wnid}, [wnid]
    while level:
        level = sorted({p for child in level for p in parents.get(child, ()) if p not in seen})
        seen |= set(level)
        if level:
            yield level


def read_names(path: str | Path) -> dict[int, str]:
    """{label from 0: class name} of a classes.txt (`1 001.Name`) or a class_labels.txt (`001.Name/file.jpg,0`)."""
    names: dict[int, str] = {}
    for number, line in enumerate(read_lines(path, "give classes.txt or class_labels.txt"), 1):
        if not line.strip():
            continue
        try:
            if "," in line:
                image_id, text = line.rsplit(",", 1)
                label = int(text)
                name = image_id.split("/")[-2]
            else:
                count, name = line.split(None, 1)
                label = int(count) - 1
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{path}:{number}: {line!r} is neither `number name` nor `folder/file,label`"
            ) from error
        is_known = label in names and ("," not in line or names[label] != name)
        if is_known:
            raise UserError(
                f"{path}:{number}: label {label} is {names[label]!r} already, not {name!r}"
            )
        names[label] = name
    if sorted(names) != list(range(len(names))) or not names:
        raise UserError(f"{path}: {len(names)} labels are not 0..{len(names) - 1} without gaps")
    return names


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
        wrong = next((n for n, pair in enumerate(pairs, 1) if len(pair) != 2), None)
        if wrong:
            raise UserError(f"{args.is_a}:{wrong}: expected `parent child`")
        groups = group_by_ancestor(names, pairs)
    atomic_write(
        args.out,
        (json.dumps({str(k): groups[k] for k in sorted(groups)}, indent=1) + "\n").encode(),
    )
    print(f"{args.out}: {len(groups)} labels in {len({tuple(g) for g in groups.values()})} groups")


if __name__ == "__main__":
    run_main(main)
