"""Which files of a list are there, and in which folder; of long lists found once a machine."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import shards
from common.aliases import one_module
from common.kept import Arrays, is_settled, kept, key_of

one_module(__name__, "csl.data_listing")

VERSION = 1
LONG = 50_000  # names from which on what was found is kept


class FolderListing:
    """`path in FolderListing()`: whether a file is there, also packed by common.shards.

    Every folder is listed once, at its first file.

    A link that leads nowhere is not there.
    """

    def __init__(self) -> None:
        self.names: dict[Path, set[str]] = {}
        self.stamps: dict[Path, str] = {}  # before it was listed
        self.has_links = False  # what they lead to can go without a trace in the folder

    def __contains__(self, path: Path) -> bool:
        return path.name in self.of(path.parent)

    def of(self, folder: Path) -> set[str]:
        """The names in a folder; none where it is not there."""
        if folder not in self.names:
            self.stamps[folder] = stamp_of(folder)
            self.names[folder] = self._listed(folder)
        return self.names[folder]

    def _listed(self, folder: Path) -> set[str]:
        if not folder.is_dir():
            return set()
        names = {path.name for path in shards.files_in(folder)}
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    self.has_links = True
                    if not Path(entry.path).exists():
                        continue
                names.add(entry.name)
        return names


def stamp_of(folder: Path) -> str:
    """What changes where a file is added to a folder, or taken from it, or packed above it."""
    parts = []
    for path in (folder, shards.marker_of(folder)):
        try:
            found = path.stat() if path else None
        except OSError:
            found = None
        parts.append(f"{found.st_dev} {found.st_ino} {found.st_mtime_ns}" if found else "-")
    return ", ".join(parts)


def places_of_names(root: Path, names: Sequence[str], folders: Sequence[str]) -> np.ndarray:
    """(N,) int8: the number of the first folder of `root` that holds each name; -1 where none does.

    Of a long list it is kept for the next start, until one of the folders changes. Other processes
    that ask for it meanwhile wait for it.
    """

    def make() -> Arrays:
        listing = FolderListing()
        places = _places(root, names, folders, listing)
        return {
            "places": places,
            "folders": np.array([str(folder) for folder in listing.stamps], str),
            "stamps": np.array(list(listing.stamps.values()), str),
            "has_links": np.array(listing.has_links),
        }

    if len(names) < LONG:
        return make()["places"]
    key = key_of(VERSION, root.absolute(), *folders, len(names), *names)
    return kept("listed", key, make, fits=_fits, lasts=_lasts)["places"]


def _fits(found: Arrays) -> bool:
    """Whether no folder changed since."""
    pairs = zip(found["folders"].tolist(), found["stamps"].tolist(), strict=True)
    return all(stamp_of(Path(folder)) == stamp for folder, stamp in pairs)


def _lasts(made: Arrays) -> bool:
    """Whether a later change would show: no links, and no folder that changed just now."""
    if made["has_links"]:
        return False
    times = [part.split()[-1] for stamp in made["stamps"].tolist() for part in stamp.split(", ")]
    return all(at == "-" or is_settled(int(at)) for at in times) and _fits(made)


def _places(
    root: Path, names: Sequence[str], folders: Sequence[str], listing: FolderListing
) -> np.ndarray:
    """As above. A path is made once a folder: there may be millions of names."""
    there: dict[str, list[set[str]]] = {}

    def place_of(name: str) -> int:
        at, _, file = name.rpartition("/")
        if file in ("", "."):  # as pathlib reads it
            at, file = str(Path(name).parent), Path(name).name
        if at not in there:
            there[at] = [listing.of(root / folder / at) for folder in folders]
        for number, files in enumerate(there[at]):
            if file in files:
                return number
        return -1

    return np.fromiter(map(place_of, names), np.int8, len(names))
