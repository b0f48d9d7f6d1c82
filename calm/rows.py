"""Lists with a record a line: fields with a type each, and errors that name file, line and content."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from common.aliases import one_module
from common.cli import UserError
from common.text import inside, read_text

one_module(__name__, "calm.rows")


class ById(dict):
    """image id -> what a list says of it; UserError names the list where it has no line of an id."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = str(path)

    def __missing__(self, image_id: object) -> NoReturn:
        raise UserError(f"{self.path}: no line of {image_id!r}")


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN; ValueError otherwise."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def integral(text: str) -> int:
    """A whole number, also one that is written as 12.0 or 1.2e+01; ValueError otherwise."""
    value = finite(text)
    if value != int(value):
        raise ValueError(f"{text} is not whole")
    return int(value)


def read_lines(path: str | Path, remedy: str = "") -> list[str]:
    """The lines of a UTF-8 file; UserError where it cannot be read, with the line that is no text."""
    try:
        return read_text(path).removesuffix("\n").split("\n")
    except UserError as error:
        raise UserError(f"{error}; {remedy}" if remedy else str(error)) from error


def check_name(name: str, where: str) -> str:
    """The same name of a file below a data set's folder; UserError where it may lead out of that (`inside`).

    Lists have a million names: the full check is for those that hold something unusual.
    """
    parts = name.split("/")
    if (
        ".." in parts
        or "" in parts
        or "." in parts
        or "\\" in name
        or "\0" in name
        or not name.isprintable()
    ):
        inside("", name, where)
    return name


def read_rows(
    path: str | Path,
    kinds: Sequence[Callable[[str], Any]],
    what: str,
    *,
    comma: bool = False,
    remedy: str = "",
) -> Iterator[tuple[int, list[Any]]]:
    """Line number and fields, one of each of `kinds`, of every line with text.

    Fields end at white space, and the last one may hold more of it; with `comma` at commas, and the first may hold
    more of them. UserError says FILE:LINE: CONTENT is not `what` where their number or a field is wrong.
    """
    for number, line in enumerate(read_lines(path, remedy), 1):
        text = line.strip()
        if text:
            parts = text.rsplit(",", len(kinds) - 1) if comma else text.split(None, len(kinds) - 1)
            try:
                row = [kind(part) for kind, part in zip(kinds, parts, strict=True)]
            except ValueError as error:
                shown = text if len(text) < 80 else f"{text[:77]}..."
                raise UserError(f"{path}:{number}: {shown!r} is not {what}") from error
            yield number, row
