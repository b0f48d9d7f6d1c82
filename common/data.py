"""`python -m common.data check FOLDER`: the files of a data set that cannot be read.

What finds and reads data sets can be imported from here as well.
"""

import common.interrupt  # noqa: F401

import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.cli import OneLineParser, UserError, run_main
from common.download import CONNECTION_LIMIT, OFFLINE, connection_limits  # noqa: F401
from common.files import files_below, is_image
from common.images import DAMAGE, CorruptImage, read_image, why_unreadable  # noqa: F401
from common.loading import Batch, Seeded, eval_loader, gather_in_order, train_loader  # noqa: F401
from common.locate import ENVIRONMENT, LINE, Location, holds_idx, locate  # noqa: F401
from common.readers import read_idx, read_mnist  # noqa: F401
from common.text import require_file


def unreadable(folder: str | Path) -> Iterator[tuple[Path, str]]:
    """What cannot be read below `folder`, with the reason: folders, images, idx, .npy, .npz files.

    Hidden files and folders are left out; links are followed.
    """
    closed: list[OSError] = []
    ordered = sorted(files_below(folder, closed.append))
    for error in closed:
        yield Path(error.filename), f"{error.filename}: {error.strerror}"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, reason in zip(ordered, pool.map(_trouble, ordered), strict=True):
            if reason:
                yield path, reason


def _trouble(path: Path) -> str:
    """Why a file cannot be read, with its path; empty where it can be or is of no known kind."""
    try:
        if is_image(path):
            reason = why_unreadable(path)
            if reason:
                return f"{path}: unreadable image ({reason})"
        elif path.name.endswith(("-ubyte", "-ubyte.gz")):
            read_idx(path)
        elif path.suffix.lower() in (".npy", ".npz"):
            with require_file(path).open("rb") as file:
                arrays = np.load(file, allow_pickle=False)
                for name in getattr(arrays, "files", ()):  # of an .npz: read only when asked for
                    arrays[name]
    except UserError as error:
        return str(error)
    except (*DAMAGE, zipfile.BadZipFile) as error:
        lines = str(error).splitlines()
        return f"{path}: {lines[0] if lines else type(error).__name__}"
    return ""


def main(argv: list[str] | None = None) -> int:
    """`python -m common.data check FOLDER [...]`: list unreadable files; status 1 if any are."""
    what = "List the unreadable files of a data set."
    parser = OneLineParser(prog="python -m common.data", description=what)
    parser.add_argument("action", choices=("check",), help="read every picture")
    parser.add_argument("folders", nargs="+", type=Path, help="folders of pictures")
    args = parser.parse_args(argv)
    count = 0
    for folder in args.folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        for _, reason in unreadable(folder):
            count += 1
            print(reason)
    print(f"{count} unreadable file{'s' * (count != 1)}")
    return int(count > 0)


if __name__ == "__main__":
    run_main(main)
