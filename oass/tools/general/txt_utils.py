"""Text files, line by line; lists of image ids live in oass/data_voc.py."""

from collections.abc import Iterable
from pathlib import Path

from common import text
from common.aliases import one_module
from oass.data_voc import read_id_list, write_lines

one_module(__name__, "oass.tools.general.txt_utils")

__all__ = ["add_txt", "read_id_list", "read_txt", "write_lines", "write_txt"]


def add_txt(path: str | Path, string: str) -> None:
    """Append a line."""
    with Path(path).open("a+", encoding="utf-8") as file:
        file.write(f"{string}\n")


def write_txt(path: str | Path, data_list: Iterable[str]) -> None:
    """Write lines, atomically."""
    write_lines(path, data_list)


def read_txt(path: str | Path) -> list[str]:
    """The lines without spaces at their ends; UserError where there is no such file."""
    content = text.read_bytes(Path(path)).decode("utf-8")
    return [line.strip() for line in content.splitlines()]
