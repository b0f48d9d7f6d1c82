"""Paths as users write them, and what lies in folders."""

from pathlib import Path

from common.cli import UserError


def expanded(path: str | Path, flag: str) -> Path:
    """The path with `~` spelled out; UserError names the flag where that is the home of nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{flag} {path}: there is no such user") from error


class FolderListing:
    """`path in FolderListing()`: whether a file is there; every folder is listed once, at its first file."""

    def __init__(self) -> None:
        self.names: dict[Path, set[str]] = {}

    def __contains__(self, path: Path) -> bool:
        if path.parent not in self.names:
            self.names[path.parent] = {p.name for p in path.parent.iterdir()} if path.parent.is_dir() else set()
        return path.name in self.names[path.parent]
