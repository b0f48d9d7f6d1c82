"""Pictures and masks: which files are some, how they are read, and whether a whole list can be.

`read_image` serves data sets, `read_own_picture` what a user hands to explain and infer scripts,
`read_mask` the class ids of a segmentation, `check_images` a whole list before the first step.
"""

from pathlib import Path

from common.images_check import check_images, left_out  # noqa: F401
from common.images_read import (  # noqa: F401
    DAMAGE,
    VOC,
    CorruptImage,
    read_image,
    read_mask,
    read_own_picture,
    why_unreadable,
)

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)

# What file managers, network drives and archivers leave beside the data, in lower case.
LEFT_BY_SYSTEMS = {"__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini"}


def is_hidden(path: str | Path) -> bool:
    """Whether a name is not data: .DS_Store, .ipynb_checkpoints, __MACOSX, @eaDir, Thumbs.db."""
    name = Path(path).name
    return name.startswith(".") or name.lower() in LEFT_BY_SYSTEMS


def is_image(path: str | Path) -> bool:
    """Whether a file name is that of a picture: a known suffix in any case, not hidden."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path)


def visible(folder: str | Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files and folders."""
    return sorted(path for path in Path(folder).iterdir() if not is_hidden(path))


def image_files(folder: str | Path, recursive: bool = False) -> list[Path]:
    """The pictures in a folder, sorted; with `recursive` also those of the folders below it."""
    found = []
    waiting = [Path(folder)]
    been = set()
    while waiting:
        here = waiting.pop()
        place = here.stat()
        if (place.st_dev, place.st_ino) in been:  # a link that leads back
            continue
        been.add((place.st_dev, place.st_ino))

        for path in visible(here):
            if path.is_dir():
                waiting += [path] if recursive else []
            elif is_image(path):
                found.append(path)
    return sorted(found)
