"""VOC's devkit: class names, tree, id lists, annotations, masks. Importable without torch.

VOCdevkit/VOC2012/{JPEGImages/ID.jpg, Annotations/ID.xml, SegmentationClass/ID.png,
                   ImageSets/{Main,Segmentation}/SPLIT.txt}
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from common import images, text
from common.aliases import one_module
from common.cli import UserError
from common.files import atomic_write
from common.images import read_image
from common.locate import Location, locate

one_module(__name__, "oass.data_voc")

PACKAGE_DATA = Path(__file__).parent / "data"
META = text.read_json(PACKAGE_DATA / "VOC_2012.json")
CLASS_NAMES: list[str] = META["class_names"]
CLASS_DIC: dict[str, int] = META["class_dic"]
HOW_TO_GET = "unpack VOCtrainval_11-May-2012.tar there"
DEFAULT_DATA_DIR = "../VOCtrainval_11-May-2012/"
LEVELS = ("", "VOC2012", "VOC2007", "VOCdevkit/VOC2012", "VOCdevkit/VOC2007")


def devkit_root(path: str | Path) -> Path | None:
    """The folder with JPEGImages: `path`, its VOC2012 or VOC2007, its VOCdevkit's; or None."""
    for level in LEVELS:
        place = text.expanded(path) / level
        if (place / "JPEGImages").is_dir():
            return place
    return None


def require_devkit(path: str | Path) -> Path:
    """`devkit_root`, or UserError: there is no such folder, or it holds no JPEGImages."""
    root = devkit_root(path)
    if root is None:
        problem = "does not exist (VOC devkit)"
        if text.expanded(path).exists():
            problem = "holds no VOC devkit (JPEGImages)"
        raise UserError(f"{path} {problem}; {HOW_TO_GET}")
    return root


def find_split(root: Path, name: str) -> tuple[Path, str]:
    """The id list of a split and its name: a path, oass/data/NAME.txt, then the devkit's own.

    Without train_aug (VOC and SBD together) VOC's own train is taken; the name then differs.
    """
    lists = root / "ImageSets"
    aliases = {"train_aug": ("train_aug", "trainaug")}.get(name, (name,))
    places = [Path(name), PACKAGE_DATA / f"{name}.txt"]
    for kind in ("Segmentation", "Main"):
        places += [lists / kind / f"{alias}.txt" for alias in aliases]
    for place in places:
        if place.is_file():
            return place, name
    if name == "train_aug":
        return find_split(root, "train")[0], "train"
    raise UserError(
        f"there is no list {name!r}: expected a split of {lists}/{{Segmentation,Main}}, or a path"
    )


def locate_voc(given: str | Path | None, want_sample: bool) -> Location:
    """The folder of the devkit, or of its offline sample (said in the first lines).

    given: the path that the user gave, None where there was none; one that holds no devkit is a
    UserError, also where it equals the default.
    """
    return locate(
        "VOC2012",
        given=given,
        default=DEFAULT_DATA_DIR,
        holds=lambda path: devkit_root(path) is not None,
        how_to_get=HOW_TO_GET,
        sample="VOC2012",
        want_sample=want_sample,
        flag="--data_dir",
    )


# --- id lists ---


def read_id_list(path: str | Path) -> list[str]:
    """The first word of every line that is not empty (Main's lists have a second column).

    UserError for an id that comes twice (its image would count double), and for one that leads out
    of a folder.
    """
    ids = []
    numbers = []
    for number, line in text.numbered_lines(path):
        name = line.split()[0]
        text.inside(".", name, f"{path}: line {number}")
        ids.append(name)
        numbers.append(number)
    text.once(ids, str(path), lines=numbers)
    return ids


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines atomically."""
    atomic_write(Path(path), "".join(f"{line}\n" for line in lines).encode())


# --- annotations and masks ---


class VOCObject(NamedTuple):
    """An object: class, box (xmin, ymin, xmax, ymax) clipped into the image, difficult flag."""

    name: str
    box: tuple[int, int, int, int]
    difficult: bool

    @property
    def has_area(self) -> bool:
        """Whether the clipped box has a width and a height."""
        x0, y0, x1, y1 = self.box
        return x1 > x0 and y1 > y0


def read_objects(xml_path: str | Path) -> list[VOCObject]:
    """All objects of an annotation, those whose clipped box has no area (`has_area`) as well.

    Coordinates: numbers, 1.2e+01 among them, without what follows the dot, clipped to [0, w-1] and
    [0, h-1]. Without a `size` the picture beside the annotation (../JPEGImages/ID.jpg) is asked.
    UserError names a broken file.
    """
    xml_path = Path(xml_path)
    try:
        root = text.read_xml(xml_path)
        width, height = _size_of(root, xml_path)
        objects = []
        for node in root.findall("object"):
            name = node.findtext("name", "").strip()
            box = node.find("bndbox")
            if box is None:
                raise ValueError("an object without bndbox")
            limits = {"xmin": width - 1, "ymin": height - 1, "xmax": width - 1, "ymax": height - 1}
            corners = []
            for tag, limit in limits.items():
                number = text.decimal(box.findtext(tag), f"{xml_path}: {tag}")
                corners.append(min(max(int(number), 0), limit))
            x0, y0, x1, y1 = corners
            difficult = node.findtext("difficult", "0").strip() == "1"
            objects.append(VOCObject(name, (x0, y0, x1, y1), difficult))
        return objects
    except (AttributeError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{xml_path}: not a readable VOC annotation ({error})") from error


def _size_of(root: Element, xml_path: Path) -> tuple[int, int]:
    size = root.find("size")
    if size is not None and size.find("width") is not None:
        width = text.whole(size.findtext("width"), f"{xml_path}: width")
        height = text.whole(size.findtext("height"), f"{xml_path}: height")
        if width > 0:
            return width, height
    picture = xml_path.parent.parent / "JPEGImages" / f"{xml_path.stem}.jpg"
    return read_image(picture, upright=False).size


def read_mask(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """A segmentation mask (H,W) int64: class index + 1, 0 background, 255 void.

    Palette indices, grey values, or VOC's colours. UserError for another value or colour, for
    another size than `size` (width, height); CorruptImage for a file that cannot be decoded.
    """
    return images.read_mask(path, size, highest=len(CLASS_NAMES)).astype(np.int64)
