"""Paths as users write them, and what lies in folders."""

import os
from pathlib import Path

from common import text
from common.aliases import one_module
from common.cli import UserError

one_module(__name__, "csl.src.helper_functions.files")


def expanded(path: str | Path, flag: str) -> Path:
    """The path with `~` spelled out; UserError names the flag where that is the home of nobody."""
    try:
        return text.expanded(path)
    except UserError as error:
        raise UserError(f"{flag} {error}") from error


class FolderListing:
    """`path in FolderListing()`: whether a file is there; every folder is listed once, at its first file.

    A link that leads nowhere is not there.
    """

    def __init__(self) -> None:
        self.names: dict[Path, set[str]] = {}

    def __contains__(self, path: Path) -> bool:
        if path.parent not in self.names:
            self.names[path.parent] = _names_in(path.parent)
        return path.name in self.names[path.parent]


def _names_in(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {
            entry.name for entry in entries if not entry.is_symlink() or Path(entry.path).exists()
        }
