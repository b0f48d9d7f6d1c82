"""Which class stands in which column: lists of classes are matched by name, misfits are named."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from common.aliases import one_module
from common.cli import DomainError
from csl.data_errors import say

one_module(__name__, "csl.data_classes")


class Columns(NamedTuple):
    """The classes of a label matrix or of a network's outputs, in their order.

    keys: what the annotations call them, category ids (COCO's form) or MIDs (Open Images); None
        where that is not known.
    source: where they come from, for messages.
    """

    names: list[str]
    keys: list[str] | None
    source: str

    def has_nothing_of(self, names: Sequence[str]) -> bool:
        """Whether no class has one of these names."""
        return not set(self.names) & set(names)

    def shares_with(self, other: "Columns") -> bool:
        """Whether some class has a name, or a key, of the other's."""
        if self.keys is not None and other.keys is not None and set(self.keys) & set(other.keys):
            return True
        return not self.has_nothing_of(other.names)


def lacking(names: Iterable[Any], known: Collection[Any]) -> list:
    """Those of the names that are not among the known ones, in their order."""
    return [name for name in names if name not in known]


def places_of(names: Sequence[Any]) -> dict:
    """The place of every name in its list."""
    return dict(zip(names, range(len(names)), strict=True))


def match_categories(names: Mapping[int, str], columns: Columns, source: object) -> dict[int, int]:
    """Category id -> column, for the categories (id -> name) of an annotation file.

    A category is the class of its name, whatever its place and number. Classes that the file lacks
    stay columns without a label, and are told. DomainError names categories that are no class of
    `columns`.
    """
    column_of = places_of(columns.names)
    unknown = {key: name for key, name in names.items() if name not in column_of}
    if unknown:
        first = list(unknown.items())[:5]
        shown = "; ".join(_unknown(key, name, columns) for key, name in first)
        count = f"{len(unknown)} of its {len(names)} categories"
        raise DomainError(f"{source}: {count} are no class of {columns.source}: {shown}")
    places = {key: column_of[name] for key, name in names.items()}
    _tell(names, places, columns, source)
    return places


def _unknown(key: int, name: str, columns: Columns) -> str:
    """A category that has no class, and which name its id has there."""
    if columns.keys is not None and str(key) in columns.keys:
        other = columns.names[columns.keys.index(str(key))]
        return f"{key} is {name!r} here and {other!r} there"
    return f"{key} {name!r}"


def _tell(
    names: Mapping[int, str],
    places: Mapping[int, int],
    columns: Columns,
    source: object,
) -> None:
    """Say on stderr which classes the file lacks, and that order or ids differ."""
    there = set(places.values())
    missing = [name for column, name in enumerate(columns.names) if column not in there]
    if missing:
        count = f"{len(missing)} of the {len(columns.names)} classes"
        tell(f"{source}: lacks {count} of {columns.source}: {listed(missing)}")

    keys = columns.keys or []
    moved = [key for key, column in places.items() if keys and keys[column] != str(key)]
    if moved:
        key = moved[0]
        example = f"{names[key]!r} with {key} and {keys[places[key]]}"
        count = f"{len(moved)} categories have other ids than in {columns.source}"
        tell(f"{source}: {count}, such as {example}; matched by name")
    elif list(places.values()) != sorted(there):
        order = f"its categories stand in another order than in {columns.source}"
        tell(f"{source}: {order}; matched by name")


def tell(message: str) -> None:
    """One line on stderr."""
    say(f"note: {message}")


def listed(names: Sequence[str], count: int = 5) -> str:
    """The first names of a list, and that there are more.

    >>> listed(["a", "b", "c"], 2)
    'a, b, ...'
    """
    shown = ", ".join(names[:count])
    if len(names) > count:
        return f"{shown}, ..."
    return shown
