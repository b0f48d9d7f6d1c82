"""Lists with a record a line: fields with a type each, and errors that name file, line and content."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from common.cli import UserError


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


def read_lines(path: str | Path, remedy: str = "") -> list[str]:
    """The lines of a UTF-8 file; UserError where it cannot be read, with the line that is no text."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}){f'; {remedy}' if remedy else ''}") from error
    try:
        return data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        number, line = data.count(b"\n", 0, error.start) + 1, data.split(b"\n")[data.count(b"\n", 0, error.start)]
        raise UserError(f"{path}:{number}: {line[:80]!r} is not UTF-8 text; save the file as UTF-8") from error


def read_rows(
    path: str | Path, kinds: Sequence[Callable[[str], Any]], what: str, *, comma: bool = False, remedy: str = ""
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
