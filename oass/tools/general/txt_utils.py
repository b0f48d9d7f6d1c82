"""Lists of image ids."""

from collections.abc import Iterable
from pathlib import Path

from common.checkpoint import atomic_write
from common.cli import UserError


def read_id_list(path: str | Path) -> list[str]:
    """The first word of every line that is not empty (ImageSets/Main has a second column: -1, 0, 1).

    UserError for an id that comes twice: its image would count double.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable list of image ids ({error})") from error
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        image = line.split()[0]
        if image in first:
            raise UserError(f"{path}: {image} stands there twice (lines {first[image]} and {number}); expected once")
        first[image] = number
    return list(first)


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines atomically."""
    atomic_write(Path(path), "".join(f"{line}\n" for line in lines).encode())
