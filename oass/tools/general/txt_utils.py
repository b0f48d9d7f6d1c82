"""Lists of image ids."""

from collections.abc import Iterable
from pathlib import Path

from common.aliases import one_module
from common.checkpoint import atomic_write
from common.text import inside, numbered_lines, once

one_module(__name__, "oass.tools.general.txt_utils")


def read_id_list(path: str | Path) -> list[str]:
    """The first word of every line that is not empty (ImageSets/Main has a second column: -1, 0, 1).

    UserError for an id that comes twice (its image would count double), and for one that leads out of a folder.
    """
    lines = numbered_lines(path)
    ids = [line.split()[0] for _, line in lines]
    for (number, _), name in zip(lines, ids, strict=True):
        inside(".", name, f"{path}: line {number}")
    once(ids, str(path), lines=[number for number, _ in lines])
    return ids


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines atomically."""
    atomic_write(Path(path), "".join(f"{line}\n" for line in lines).encode())
