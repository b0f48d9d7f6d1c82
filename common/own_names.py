"""Names of classes: their order, the file --classes, and how they travel in a checkpoint."""

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.text import expanded, numbered_lines

KEY = "class_names"  # of a checkpoint
SHOWN = 5


def in_order(names: Iterable[str]) -> list[str]:
    """The names once each, sorted as texts; as numbers where all are whole ones.

    >>> in_order(["10", "9", "9"]), in_order(["b", "B", "a"])
    (['9', '10'], ['B', 'a', 'b'])
    """
    unique = set(names)
    are_numbers = all(name.isascii() and name.isdigit() for name in unique)
    if are_numbers:
        return sorted(unique, key=lambda name: (int(name), name))
    return sorted(unique)


def tidy(name: str) -> str:
    """A name in one spelling: one space between its words, and "é" as one character."""
    return unicodedata.normalize("NFC", " ".join(name.split()))


def require_names(names: Sequence[str], source: object) -> None:
    """UserError for a class without a name, and for one that is no text: half a surrogate pair."""
    for name in names:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            problem = f"{source}: the class name {printable(name)} is not UTF-8"
            raise UserError(f"{problem}; rename it") from error
        if not name:
            raise UserError(f"{source}: a class has no name; a space alone is none")


def read_names(path: str | Path) -> list[str]:
    """The class names of a file, one a line, in its order. UserError names a line that repeats."""
    path = expanded(path)
    first: dict[str, int] = {}
    for number, line in numbered_lines(path):
        name = tidy(line)
        if name in first:
            lines = f"lines {first[name]} and {number}"
            raise UserError(f"{path}: the class {name!r} stands there twice ({lines})")
        first[name] = number
    if not first:
        raise UserError(f"{path}: holds no class names; write one a line")
    return list(first)


def close_to(name: str, known: Iterable[str]) -> str:
    """What may have been meant: "; did you mean 'cat'?", or nothing."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def shown(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are more.

    >>> shown(["a", "b"])
    'a, b'
    """
    text = ", ".join(map(printable, names[:SHOWN]))
    more = len(names) - SHOWN
    if more > 0:
        text += f" and {more} more"
    return text


def printable(text: str) -> str:
    r"""The text on one line that every terminal takes: line ends and what is no text escaped.

    >>> printable("a\nb"), printable("é")
    ('a\\nb', 'é')
    """
    return text if text.isprintable() else ascii(text)[1:-1]


def counted(count: int, thing: str) -> str:
    """A number with its noun.

    >>> counted(1, "picture"), counted(0, "picture")
    ('1 picture', '0 pictures')
    """
    return f"{count} {thing}{'s' * (count != 1)}"


# --- checkpoints ---


def with_class_names(checkpoint: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A checkpoint's content with the class names, plain texts that weights_only=True loads."""
    return {**checkpoint, KEY: [str(name) for name in names]}


def class_names_of(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """The class names that a checkpoint holds, None where it holds none.

    They stand under "class_names" or "classes", as a list or as {"names": list}, on top or in the
    "says", "state" or "config" that lies in it.
    """
    inner = [checkpoint.get(key) for key in ("says", "state", "config", "extra")]
    for content in (checkpoint, *inner):
        if not isinstance(content, Mapping):
            continue
        for key in (KEY, "classes"):
            names = content.get(key)
            if isinstance(names, Mapping):
                names = names.get("names")
            if _are_names(names):
                return list(names or [])
    return None


def _are_names(value: object) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(name, str) for name in value)
