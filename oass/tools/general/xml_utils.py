"""VOC annotations."""

from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from common import text
from common.aliases import one_module
from common.cli import UserError
from common.images import read_image

one_module(__name__, "oass.tools.general.xml_utils")


class VOCObject(NamedTuple):
    """One object: class name, box (xmin, ymin, xmax, ymax) clipped into the image, difficult flag."""

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

    Coordinates: numbers, 1.2e+01 among them, without what follows the dot, clipped to [0, w-1] and [0, h-1]. Without
    a `size` the picture beside the annotation (../JPEGImages/ID.jpg) is asked. UserError names a broken file.
    """
    xml_path = Path(xml_path)
    try:
        root = text.read_xml(xml_path)
        width, height = _size_of(root, xml_path)
        objects = []
        for node in root.findall("object"):
            box = node.find("bndbox")
            limits = {"xmin": width - 1, "ymin": height - 1, "xmax": width - 1, "ymax": height - 1}
            corners = []
            for tag, limit in limits.items():
                number = text.decimal(box.findtext(tag), f"{xml_path}: {tag}")
                corners.append(min(max(int(number), 0), limit))
            difficult = node.findtext("difficult", "0").strip() == "1"
            objects.append(VOCObject(node.findtext("name", "").strip(), tuple(corners), difficult))
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


def read_xml(xml_path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Boxes (n,4) float32 and class names of the objects; the difficult flag is not looked at.

    As released: an object whose clipped box has no width or no height is left out, its class with it. Labels are
    made of `read_objects`, which keeps it.
    """
    objects = [o for o in read_objects(xml_path) if o.box[0] != o.box[2] and o.box[1] != o.box[3]]
    boxes = np.array([o.box for o in objects], np.float32).reshape(-1, 4)
    return boxes, [o.name for o in objects]
