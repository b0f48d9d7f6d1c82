"""A user's own data as the readers of a devkit give them: any classes, boxes, masks.

Evaluation shows a picture whole: its longer side gets the side of the network's input.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from common import shards
from common.aliases import one_module
from common.cli import UserError
from common.images import read_image
from common.own import data_lines, read_own, require_pictures
from common.own_data import POSITIVE, UNKNOWN, OwnData, Part
from oass.data import (
    VOID,
    Split,
    VOC_Dataset_For_Classification,
    VOC_Dataset_For_Testing_CAM,
)
from oass.data_transforms import resampling
from oass.data_voc import VOCObject

one_module(__name__, "oass.data_own")

MOST_IN_MASKS = VOID - 1  # classes


def read_parts(
    place: str, images: str | None, classes: str | None, seed: int, skip_corrupt: bool
) -> OwnData:
    """What lies at a place, read once: classes, train and val. UserError in one line."""
    data = read_own(place, images=images, classes=classes, seed=seed, skip_corrupt=skip_corrupt)
    require_pictures(data, "the puzzle")
    return data


class OwnPictures(VOC_Dataset_For_Testing_CAM):
    """One part of own data; items are (image, label), masks are had by `mask`.

    side: pictures come with this longer side, boxes and masks with them; None: as they are stored.
    A label that is not known is 0, absent, for the loss; `split.unknown` keeps it out of every mAP.
    """

    def __init__(
        self,
        data: OwnData,
        part: str,
        transform: Callable[[Any], Any] | None = None,
        *,
        side: int | None = None,
    ) -> None:
        self._part: Part = getattr(data, part)
        self._rows = {name: row for row, name in enumerate(self._part.ids)}
        self.root = data.kind.path
        self.list_path = data.kind.path
        self.domain = part
        self.has_labels = True
        self.side = side
        self.resample = "bicubic"
        self.split = self._split(tuple(data.classes))
        self.transform = transform
        self.skipped = data.skipped.get(part, 0)
        if part == "train":
            self.first_lines = first_lines(data)

    def _split(self, classes: tuple[str, ...]) -> Split:
        part = self._part
        labels = (part.matrix == POSITIVE).astype(np.float32)
        is_unknown = part.matrix == UNKNOWN
        only_difficult = np.zeros(labels.shape, bool)
        if part.difficult is not None:
            only_difficult = part.difficult.copy()
        return Split(
            ids=list(part.ids),
            objects=[self._objects(row, classes) for row in range(len(part))],
            labels=labels,
            only_difficult=only_difficult,
            classes=classes,
            unknown=is_unknown if is_unknown.any() else None,
        )

    def _objects(self, row: int, classes: tuple[str, ...]) -> list[VOCObject]:
        """The boxes of a picture as VOC counts: from 1, the last row and column inside."""
        part = self._part
        if part.boxes is None or part.box_labels is None or not len(part.boxes[row]):
            return []
        scale = self._scale(self._stored_size(row))
        found = []
        for corners, label in zip(part.boxes[row], part.box_labels[row].tolist(), strict=True):
            x0, y0, x1, y1 = (corners * scale).tolist()
            box = (math.floor(x0) + 1, math.floor(y0) + 1, math.ceil(x1), math.ceil(y1))
            found.append(VOCObject(classes[label], box, False))
        return found

    def _stored_size(self, row: int) -> tuple[int, int]:
        """(width, height) of the file, from its header."""
        with Image.open(shards.opened(self._part.paths[row])) as image:
            return image.size

    def _scale(self, size: tuple[int, int]) -> float:
        return 1.0 if self.side is None else self.side / max(size)

    def _row(self, index: int) -> int:
        return self._rows[self.split.ids[index]]

    def image_path(self, index: int) -> Path:
        """Where the picture lies."""
        return self._part.paths[self._row(index)]

    def image(self, index: int) -> Any:
        """The picture as PIL RGB; as stored where boxes or masks say where things are."""
        image = read_image(self.image_path(index), upright=self._part.upright)
        scale = self._scale(image.size)
        if scale == 1:
            return image
        width, height = image.size
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return image.resize(size, resampling(self.resample))

    def has_mask(self, index: int) -> bool:
        """Whether there is one."""
        masks = self._part.masks
        return masks is not None and masks[self._row(index)] is not None

    def mask(self, index: int) -> np.ndarray:
        """The segmentation (H,W) int64: class + 1, 0 background, 255 void or no mask."""
        if len(self.classes) > MOST_IN_MASKS:
            raise UserError(f"{self.root}: masks of more than {MOST_IN_MASKS} classes")
        width, height = self._stored_size(self._row(index))
        found = self._part.mask(self._row(index))
        if found is None:
            found = np.full((height, width), -1, np.int16)
        ids: np.ndarray = np.where(found < 0, VOID, found).astype(np.uint8)
        if ids.shape != (height, width):
            shape = f"{ids.shape[1]}x{ids.shape[0]}"
            raise UserError(
                f"{self._part.where[self._row(index)]}: a mask of {shape} pixels on a picture of "
                f"{width}x{height}"
            )
        scale = self._scale((width, height))
        if scale != 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            ids = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)
        return ids.astype(np.int64)

    def __getitem__(  # type: ignore[override]  # without the mask
        self, index: int
    ) -> tuple[Any, torch.Tensor]:
        return VOC_Dataset_For_Classification.__getitem__(self, index)


def first_lines(data: OwnData) -> tuple[str, ...]:
    """What was recognised and counted, and what is done with labels that are not known."""
    lines = data_lines(data)
    unknown = int((data.train.matrix == UNKNOWN).sum())
    if unknown:
        used = "count as absent; in val no number counts them"
        lines.append(f"train: {unknown} labels are not known and {used}")
    if data.val.boxes is None:
        lines.append("no boxes: pointing accuracy is not measured")
    return tuple(lines)


def require_classes(data: OwnData, names: tuple[str, ...], checkpoint: Path) -> None:
    """UserError where the data's classes, or their order, are not the network's."""
    if tuple(data.classes) == names:
        return
    theirs = ", ".join(data.classes[:4])
    own = ", ".join(names[:4])
    problem = f"its {len(data.classes)} classes ({theirs}) are not the {len(names)} of the network"
    remedy = "give a file with the network's names, one a line, as --classes FILE"
    raise UserError(f"{data.kind.path}: {problem} {checkpoint} ({own}); {remedy}")
