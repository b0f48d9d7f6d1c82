"""Files as a reader sees them: rows of a csv, what lies in folders."""

import csv
from collections.abc import Iterator
from pathlib import Path

from csl.src.errors import SettingsError


def csv_rows(path: Path) -> Iterator[list[str]]:
    """The rows of a csv file in UTF-8, with or without a byte-order mark; SettingsError where it is none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.reader(file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path}: not a csv file in UTF-8 ({error})") from error


class FolderListing:
    """`path in FolderListing()`: whether a file is there; every folder is listed once, at its first file."""

    def __init__(self) -> None:
        self.names: dict[Path, set[str]] = {}

    def __contains__(self, path: Path) -> bool:
        if path.parent not in self.names:
            self.names[path.parent] = {p.name for p in path.parent.iterdir()} if path.parent.is_dir() else set()
        return path.name in self.names[path.parent]
