"""Folders, and the words of flags."""

from pathlib import Path

from common.aliases import one_module
from common.cli import UserError
from oass.options_flags import str2bool

one_module(__name__, "oass.tools.general.io_utils")

__all__ = ["create_directory", "str2bool"]


def create_directory(path: str | Path) -> Path:
    """Make a folder and those above it; UserError where the file system refuses."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be made ({error.strerror}); name another folder"
        ) from error
    return path
