"""VOC annotations as the released code reads them."""

from pathlib import Path

import numpy as np

from common.aliases import one_module
from oass.data_voc import read_objects

one_module(__name__, "oass.tools.general.xml_utils")


def read_xml(xml_path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Boxes (n,4) float32 and class names of the objects; the difficult flag is not looked at.

    As released: an object whose clipped box has no width or no height is left out, its class with
    it. Labels are made of `oass.data_voc.read_objects`, which keeps it.
    """
    boxes = []
    names = []
    for found in read_objects(xml_path):
        x0, y0, x1, y1 = found.box
        if x0 != x1 and y0 != y1:
            boxes.append(found.box)
            names.append(found.name)
    return np.array(boxes, np.float32).reshape(-1, 4), names
