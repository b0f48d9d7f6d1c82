"""A user's own pictures in, and what a network says about them out.

Pictures are given as files, folders and patterns. For each of them a script writes one picture and
one json file (`Answers`), and at the end a contact sheet of all.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError
from common.files import atomic_save, atomic_write, image_files, is_image
from common.images import CorruptImage, check_images, left_out, read_own_picture
from common.text import expanded

THUMBNAIL = 160  # pixels, the longer side in a contact sheet
LINE_HEIGHT = 13  # pixels of a line of text
SHEET_PICTURES = 200  # on one contact sheet


def find_pictures(given: Sequence[str | Path], flag: str) -> list[Path]:
    """The image files that paths, folders and patterns such as pics/*.jpg stand for, in order.

    UserError names the first that stands for none, and the flag.
    """
    found: list[Path] = []
    for text in given:
        path = expanded(str(text))
        if path.is_dir():
            here = image_files(path)
        elif path.is_file():
            here = [path]
        else:
            here = _matching(path)
        if not here:
            advice = "give a picture, a folder or a pattern such as pics/*.jpg"
            raise UserError(printable(f"{flag} {text}: no picture there; {advice}"))
        found += here
    return list(dict.fromkeys(found))  # pics/ and pics/a.jpg: once


def _matching(pattern: Path) -> list[Path]:
    """The pictures of a pattern; none where it is not one."""
    is_pattern = any(mark in pattern.name for mark in "*?[")
    if not is_pattern or not pattern.parent.is_dir():
        return []
    found = pattern.parent.glob(pattern.name)
    return sorted(path for path in found if path.is_file() and is_image(path))


def readable_pictures(
    given: Sequence[str | Path], flag: str, *, skip_corrupt: bool = False
) -> tuple[list[Path], list[str]]:
    """The pictures that `find_pictures` lists, and lines that tell what was left out.

    CorruptImage names the first that cannot be read; with `skip_corrupt` those are left out.
    UserError where none is left.
    """
    pictures = find_pictures(given, flag)
    positions = check_images(pictures, what=flag, skip_corrupt=skip_corrupt)
    if not len(positions):
        return pictures, []
    told = printable(left_out(pictures, positions, flag))
    if len(positions) == len(pictures):
        raise UserError(f"{flag}: none of the pictures can be read")
    unreadable = set(positions.tolist())
    kept = [path for place, path in enumerate(pictures) if place not in unreadable]
    return kept, [told]


def read_pictures(
    paths: Sequence[Path], *, skip_corrupt: bool = False
) -> tuple[dict[Path, Image.Image], list[str]]:
    """The pictures by path, upright, and lines that tell what was left out.

    Damage in the middle of a file shows only here.
    """
    images = {}
    told = []
    for path in paths:
        try:
            images[path] = read_own_picture(path)
        except CorruptImage as error:
            if not skip_corrupt:
                raise
            told.append(printable(f"{error}; left out"))
    return images, told


def printable(text: str) -> str:
    """The text, with what no terminal can show spelled out: names of files may hold any bytes.

    >>> printable("a\\udcff.jpg")
    'a\\\\udcff.jpg'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def figure_name(number: int, path: Path) -> str:
    """The name under which a picture's results are written, its number first.

    The file may have a name as long as the system allows.

    >>> figure_name(3, Path("pics/cat.jpg"))
    '0003_cat'
    """
    return f"{number:04d}_{path.stem[:60]}"


class Answers:
    """What a script writes for each picture: NAME.json and NAME.npz; and one file of all.

    Records are plain data; `picture` is added to each. The file of all is DIR/answers.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: list[dict[str, Any]] = []
        self._sheet: list[tuple[Image.Image, list[str]]] = []

    def add(
        self,
        path: Path,
        record: Mapping[str, Any],
        *,
        shown: Image.Image | None = None,
        caption: Sequence[str] = (),
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> str:
        """Write the json (and npz) of a picture, and keep it for the contact sheet.

        Returns the name that its files begin with.
        """
        name = figure_name(len(self.records), path)
        whole = {"picture": printable(str(path)), **record}
        atomic_write(self.folder / f"{name}.json", _as_json(whole))
        if arrays is not None:
            atomic_save(
                self.folder / f"{name}.npz", lambda temporary: _save_arrays(temporary, arrays)
            )
        self.records.append(whole)
        if shown is not None and len(self._sheet) < SHEET_PICTURES:
            self._sheet.append((thumbnail(shown), [path.name, *caption]))
        return name

    def finish(self, sheet: Path) -> None:
        """Write answers.json, and the contact sheet of what was shown."""
        atomic_write(self.folder / "answers.json", _as_json(self.records))
        if self._sheet:
            draw_sheet(sheet, self._sheet)


def _as_json(value: object) -> bytes:
    return f"{json.dumps(value, indent=1, ensure_ascii=False)}\n".encode(
        "utf-8", "backslashreplace"
    )


def _save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def thumbnail(image: Image.Image) -> Image.Image:
    """A copy whose longer side is at most `THUMBNAIL` pixels; small pictures are not enlarged."""
    copy = image.convert("RGB")
    copy.thumbnail((THUMBNAIL, THUMBNAIL))
    return copy


def draw_sheet(
    path: Path, cells: Sequence[tuple[Image.Image, Sequence[str]]], columns: int = 5
) -> None:
    """A contact sheet: pictures in rows, each with its lines of text below it."""
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    most_lines = max(len(lines) for _, lines in cells)
    width = THUMBNAIL + 10
    height = THUMBNAIL + 10 + LINE_HEIGHT * most_lines
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    for place, (image, lines) in enumerate(cells):
        row, column = divmod(place, columns)
        left = column * width + 5
        top = row * height + 5
        sheet.paste(image, (left + (THUMBNAIL - image.width) // 2, top))
        for number, line in enumerate(lines):
            below = top + THUMBNAIL + 2 + LINE_HEIGHT * number
            draw.text((left, below), _fitting(line, draw, font), fill="black", font=font)
    atomic_save(path, lambda temporary: sheet.save(temporary, format="PNG"))


def _fitting(text: str, draw: ImageDraw.ImageDraw, font: Any) -> str:
    """The text, cut where it is wider than a cell."""
    whole = printable(text)
    shown = whole
    while shown and draw.textlength(shown, font=font) > THUMBNAIL:
        shown = shown[:-1]
    return shown if shown == whole else f"{shown[:-1]}…"
