"""The errors of unusable settings and files.

They are one line for a script's user, and standard classes for callers.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

from common import text
from common.aliases import one_module
from common.cli import DomainError, UserError

one_module(__name__, "csl.data_errors")


def say(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)


class MissingFileError(UserError, FileNotFoundError):
    """A file that is not there; also a FileNotFoundError."""


@contextmanager
def as_domain_errors() -> Iterator[None]:
    """Turn what readers and methods refuse into a DomainError.

    It is a ValueError for callers too.
    """
    from common.images import CorruptImage

    try:
        yield
    except (DomainError, MissingFileError, CorruptImage):
        raise
    except (UserError, ValueError) as error:
        raise DomainError(str(error)) from error


@contextmanager
def naming_image(image: object, annotations: Path | None) -> Iterator[None]:
    """Add to a CorruptImage which image of which annotation file it is."""
    from common.images import CorruptImage

    try:
        yield
    except CorruptImage as error:
        raise CorruptImage(f"{error}; it is image {image} of {annotations}") from error


def expanded(path: str | Path, flag: str) -> Path:
    """The path with `~` spelled out; UserError names the flag where that is the home of nobody."""
    try:
        return text.expanded(path)
    except UserError as error:
        raise UserError(f"{flag} {error}") from error


def require_count(value: object, name: str, low: int = 0) -> None:
    """DomainError where `value` is no whole number from `low` on."""
    is_whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    if not is_whole or int(value) < low:  # type: ignore[call-overload]  # a number, as just seen
        raise DomainError(f"{name} {value!r}: must be a whole number from {low} on")
