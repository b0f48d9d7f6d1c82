"""Small pictures and files of labels, as a user has them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.cli import UserError
from common.own import read_own


def picture(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    """A picture (width, height) whose content depends on its path: no two are the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list(str(path).encode("utf-8", "surrogateescape"))
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    Image.fromarray(pixels).save(path, kind)
    return path


def pictures(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        picture(folder / name)


def folders(root: Path, counts: dict[str, int]) -> Path:
    """Class folders with so many pictures; a name may be "train/cat"."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        pictures(root / name, [f"{number}.jpg" for number in range(count)])
    return root


def table(root: Path, header: str, rows: Sequence[str], name: str = "labels.csv") -> Path:
    """A csv, and the pictures that the first column names."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    if header.startswith("path,"):
        pictures(root, [row.split(",")[0].strip('"') for row in rows if row])
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def refused(place: Path, *parts: str, **options: Any) -> str:
    """The one line that reading a place ends in; it holds all parts."""
    with pytest.raises(UserError) as caught:
        read_own(place, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message
