"""Masks of own data as class ids: of picture files, and of COCO's polygons and run lengths."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from common.coco_json import Packed
from common.errors import UserError
from common.images import read_mask
from common.text import decimal

VOID = -1
LARGEST_SIDE = 1 << 16  # pixels


def pixel(value: object, where: str) -> float:
    """A number of pixels, of text or of json; UserError names where no picture is so large."""
    number = decimal(value, where)
    if abs(number) > LARGEST_SIDE:
        raise UserError(f"{where}: {number:g} pixels, more than a picture has")
    return number


class MaskFile(NamedTuple):
    """A mask in a picture file.

    label: the class of all that is not 0; None where the file holds class ids, 255 void.
    num_classes: how many classes there are, to refuse ids beyond them.
    """

    path: Path
    label: int | None
    num_classes: int

    def read(self) -> np.ndarray:
        """(H,W) int16: 0 background, k + 1 class k, -1 void."""
        if self.label is None:
            ids = read_mask(self.path, highest=self.num_classes).astype(np.int16)
            ids[ids == 255] = VOID
            return ids
        inside = read_mask(self.path, palette=None) > 0
        return np.where(inside, self.label + 1, 0).astype(np.int16)


class Shapes(NamedTuple):
    """Objects of a picture, as COCO's json holds them: classes and segmentations; later on top.

    where: the file and the picture, for messages.
    """

    height: int
    width: int
    labels: list[int]
    segmentations: list[Any]
    where: str

    def read(self) -> np.ndarray:
        """(H,W) int16: 0 background, k + 1 class k. UserError for a shape that is none."""
        ids = np.zeros((self.height, self.width), np.int16)
        for label, segmentation in zip(self.labels, self.segmentations, strict=True):
            try:
                inside = self._inside(segmentation)
            except (TypeError, ValueError, KeyError, IndexError) as error:
                raise UserError(f"{self.where}: not a segmentation ({error})") from error
            ids[inside] = label + 1
        return ids

    def _inside(self, segmentation: Any) -> np.ndarray:
        if isinstance(segmentation, Packed):
            segmentation = segmentation.value()
        if isinstance(segmentation, dict):
            return decode_runs(segmentation["counts"], self.height, self.width)
        canvas = Image.new("1", (self.width, self.height))
        drawing = ImageDraw.Draw(canvas)
        for outline in segmentation:
            points = [float(value) for value in outline]
            if len(points) >= 6 and len(points) % 2 == 0:
                drawing.polygon(points, fill=1, outline=1)
        return np.asarray(canvas, bool)


def decode_runs(counts: list[int] | str, height: int, width: int) -> np.ndarray:
    """(height, width) bool of run lengths: outside, inside, outside, ... down the columns.

    A text holds them as COCO packs them: five bits a character, from the third run on as the
    difference to the run before the last. ValueError where the runs do not fill the picture.
    """
    runs = _unpacked(counts) if isinstance(counts, str) else [int(count) for count in counts]
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise ValueError(f"runs of {sum(runs)} pixels for {height} x {width}")
    is_inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(is_inside, runs).reshape(width, height).T


def _unpacked(text: str) -> list[int]:
    runs: list[int] = []
    value = 0
    shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:  # more of this number follows
            continue
        if code & 0x10:  # it is negative
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = 0
        shift = 0
    return runs
