"""Label groups for the superclass processes: {label: the labels of its group}.

CUB: classes with the same last word. With a WordNet list (lines `parent child`): the classes below
    the nearest
ancestor that has at least two of them; a class without one is its own group.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from calm.data_lists import read_lines
from common.aliases import one_module
from common.cli import UserError
from common.text import read_json

one_module(__name__, "calm.data_superclass")


def group_by_last_word(names: Mapping[int, str]) -> dict[int, list[int]]:
    """Group the labels whose names end in the same word.

    {label: name such as 001.Black_footed_Albatross} becomes {label: labels of its group}.
    """
    groups: dict[str, list[int]] = {}
    found = {}
    for label in sorted(names):
        name = names[label].rpartition(".")[2]
        word = name.rpartition("_")[2].lower()
        group = groups.setdefault(word, [])
        group.append(label)
        found[label] = group
    return dict(sorted(found.items()))


def group_by_ancestor(
    names: Mapping[int, str], is_a: Iterable[Sequence[str]]
) -> dict[int, list[int]]:
    """Group the labels by their nearest ancestor that has at least two of them below it.

    {label: wnid} and (parent, child) pairs become {label: labels below that ancestor}.
    """
    parents: dict[str, list[str]] = {}
    for parent, child in is_a:
        parents.setdefault(child, []).append(parent)
    levels = {}
    members: dict[str, set[int]] = {}
    for label, wnid in names.items():
        levels[label] = list(_upwards(wnid, parents))
        for level in levels[label]:
            for ancestor in level:
                members.setdefault(ancestor, set()).add(label)
    return {label: _nearest_group(label, above, members) for label, above in levels.items()}


def _nearest_group(
    label: int, above: Sequence[Sequence[str]], members: Mapping[str, set[int]]
) -> list[int]:
    """The labels below the nearest ancestor that has another one; the smallest group of a level."""
    for level in above:
        shared = [sorted(members[ancestor]) for ancestor in level if len(members[ancestor]) > 1]
        if shared:
            return min(shared, key=lambda group: (len(group), group))
    return [label]


def _upwards(wnid: str, parents: Mapping[str, list[str]]) -> Iterable[list[str]]:
    """The ancestors of a synset, level by level, each once."""
    seen = {wnid}
    level = [wnid]
    while level:
        found: set[str] = set()
        for child in level:
            found.update(parents.get(child, ()))
        level = sorted(found - seen)
        seen |= found
        if level:
            yield level


def read_names(path: str | Path) -> dict[int, str]:
    """Return {label from 0: class name} of a file.

    It is a classes.txt (`1 001.Name`) or a class_labels.txt (`001.Name/file.jpg,0`).
    """
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


def read_superclass(path: str | Path, classes: int) -> dict[int, list[int]]:
    """Return {label: labels} of a --superclass_file.

    UserError names line and label of a list that is empty or unfit.
    """
    path = Path(path)
    known = range(classes)
    groups = read_json(path, dict)
    lines = read_lines(path)
    for label, members in groups.items():
        problem = _problem_of(label, members, known)
        if problem:
            line = next((n for n, text in enumerate(lines, 1) if f'"{label}"' in text), 1)
            text = f"{problem}; labels are 0..{classes - 1}"
            raise UserError(f"{path}:{line}: label {label} {text}")
    missing = [c for c in known if str(c) not in groups]
    if missing:
        raise UserError(f"{path}: label {missing[0]} has no group ({len(missing)} are missing)")
    return {int(label): members for label, members in groups.items()}


def _problem_of(label: str, members: object, known: range) -> str:
    """What is wrong with an entry of --superclass_file; empty where nothing is."""
    if label not in map(str, known):
        return "is unknown"
    if members == []:
        return "has an empty list"
    if not isinstance(members, list):
        return f"has no list of labels, but {members!r}"
    for member in members:
        if type(member) is not int or member not in known:
            return f"has an unknown label {member!r}"
    return ""
