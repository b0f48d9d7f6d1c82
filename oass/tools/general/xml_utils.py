"""VOC annotations."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cli import UserError
from common.data import read_image


class VOCObject(NamedTuple):
    """One object: class name, box (xmin, ymin, xmax, ymax) clipped into the image, difficult flag."""

    name: str
    box: tuple[int, int, int, int]
    difficult: bool


def read_objects(xml_path: str | Path) -> list[VOCObject]:
    """The objects of an annotation; those whose clipped box has no width or no height are left out.

    Coordinates: the integer before the dot, clipped to [0, w-1] and [0, h-1]. Without a `size` the picture
    beside the annotation (../JPEGImages/ID.jpg) is asked. UserError names a broken file.
    """
    xml_path = Path(xml_path)
    try:
        root = ET.parse(xml_path).getroot()
        width, height = _size_of(root, xml_path)
        objects = []
        for node in root.findall("object"):
            box = node.find("bndbox")
            corners = [int(box.find(tag).text.split(".")[0]) for tag in ("xmin", "ymin", "xmax", "ymax")]
            limits = (width - 1, height - 1, width - 1, height - 1)
            x0, y0, x1, y1 = (min(max(c, 0), limit) for c, limit in zip(corners, limits, strict=True))
            if x1 != x0 and y1 != y0:
                difficult = node.findtext("difficult", "0").strip() == "1"
                objects.append(VOCObject(node.findtext("name", "").strip(), (x0, y0, x1, y1), difficult))
        return objects
    except (ET.ParseError, AttributeError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{xml_path}: not a readable VOC annotation ({error})") from error


def _size_of(root: ET.Element, xml_path: Path) -> tuple[int, int]:
    size = root.find("size")
    if size is not None and size.find("width") is not None and int(size.findtext("width")) > 0:
        return int(size.findtext("width")), int(size.findtext("height"))
    return read_image(xml_path.parent.parent / "JPEGImages" / f"{xml_path.stem}.jpg").size


def read_xml(xml_path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Boxes (n,4) float32 and class names of the objects; the difficult flag is not looked at."""
    objects = read_objects(xml_path)
    boxes = np.array([o.box for o in objects], np.float32).reshape(-1, 4)
    return boxes, [o.name for o in objects]
