"""The errors of unusable settings and files: one line for a script's user, standard classes for callers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.aliases import one_module
from common.cli import UserError
from common.data import CorruptImage

one_module(__name__, "csl.src.errors")


class SettingsError(UserError, ValueError):
    """A setting, file content or shape that cannot be used; also a ValueError."""


class MissingFileError(UserError, FileNotFoundError):
    """A file that is not there; also a FileNotFoundError."""


@contextmanager
def as_settings_errors() -> Iterator[None]:
    """Turn a UserError of the shared readers into a SettingsError: callers of public functions catch ValueError."""
    try:
        yield
    except (SettingsError, MissingFileError, CorruptImage):
        raise
    except UserError as error:
        raise SettingsError(str(error)) from error


@contextmanager
def naming_image(image: object, annotations: Path | None) -> Iterator[None]:
    """Add to a CorruptImage which image of which annotation file it is."""
    try:
        yield
    except CorruptImage as error:
        raise CorruptImage(f"{error}; it is image {image} of {annotations}") from error
