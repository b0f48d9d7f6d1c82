"""The pictures of infer.py: which ones, the names of their classes, and the offline sample's."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from common import samples
from common.aliases import one_module
from common.cli import UserError
from common.files import image_files, is_image
from common.images import CorruptImage, check_images, left_out, read_own_picture
from csl.data_errors import expanded, say
from csl.data_openimages import read_class_names

one_module(__name__, "csl.data_pictures")


def find_pictures(given: Sequence[str]) -> list[Path]:
    """The image files that paths, folders and patterns such as pics/*.jpg stand for, in order.

    UserError names the first that stands for none.
    """
    found: list[Path] = []
    for text in given:
        path = expanded(text, "--pic_path")
        if path.is_dir():
            here = image_files(path)
        elif path.is_file():
            here = [path]
        else:
            here = _matching(path)
        if not here:
            places = "give a picture, a folder or a pattern (the released ones: pics/ of "
            places += "Alibaba-MIIL/PartialLabelingCSL), or run with --sample"
            raise UserError(f"--pic_path {text}: no picture there; {places}")
        found += here
    return list(dict.fromkeys(found))  # pics/ and pics/a.jpg: once


def _matching(pattern: Path) -> list[Path]:
    """The pictures of a pattern such as pics/*.jpg; none where it is not one."""
    is_pattern = any(mark in pattern.name for mark in "*?[")
    if not is_pattern or not pattern.parent.is_dir():
        return []
    found = pattern.parent.glob(pattern.name)
    return sorted(path for path in found if path.is_file() and is_image(path))


def printable(text: str) -> str:
    """The text, with what no terminal can show spelled out: names of files may hold any bytes.

    >>> printable("a\\udcff.jpg")
    'a\\\\udcff.jpg'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def figure_name(number: int, path: Path) -> str:
    """Return the name of the annotated picture of a file.

    The file may have a name as long as the system allows.
    """
    return f"{number:04d}_{path.stem[:60]}"


def class_names(names: Sequence[str], descriptions: Path) -> list[str]:
    """The names of classes, those that are MIDs spelled out by the class-description csv.

    A name that the csv lacks stays as it is; one warning counts the MIDs among them.
    """
    mids = [name for name in names if name.startswith(("/m/", "/g/"))]
    if not mids:
        return list(names)
    path = descriptions if descriptions.is_file() else None
    described = read_class_names(descriptions.parent, path)
    missing = sum(mid not in described for mid in mids)
    if missing:
        told = f"lacks {missing} of {len(mids)} classes; they keep their MID"
        say(f"{descriptions}: {told}")
    return [described.get(name, name) for name in names]


def readable_pictures(given: Sequence[str], *, skip_corrupt: bool) -> tuple[list[Path], int]:
    """The pictures that `find_pictures` lists, and how many were left out.

    CorruptImage names the first that cannot be read; with `skip_corrupt` those are left out, and
    told.
    """
    pictures = find_pictures(given)
    positions = check_images(pictures, what="--pic_path", skip_corrupt=skip_corrupt)
    if not len(positions):
        return pictures, 0
    say(printable(left_out(pictures, positions, "--pic_path")))
    if len(positions) == len(pictures):
        raise UserError("--pic_path: none of the pictures can be read")
    unreadable = set(positions.tolist())
    kept = [path for place, path in enumerate(pictures) if place not in unreadable]
    return kept, len(unreadable)


def read_pictures(paths: Sequence[Path], *, skip_corrupt: bool) -> dict[Path, Image.Image]:
    """The pictures by path. Damage in the middle of a file shows only here."""
    images = {}
    for path in paths:
        try:
            images[path] = read_own_picture(path)
        except CorruptImage as error:
            if not skip_corrupt:
                raise
            say(printable(f"{error}; left out"))
    return images


def sample_pictures(count: int = 8) -> list[str]:
    """The first test pictures of the COCO_2014 sample."""
    pictures = sorted((samples.ensure("COCO_2014") / "val2014").glob("*.jpg"))
    return list(map(str, pictures[:count]))
