"""A user's own pictures (--data) as the data set of a run: images, labels, boxes, masks.

The validation part is both val and test: it is looked at after each epoch, and measured at the end.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from calm.data import ImageLabelDataset
from calm.data_folders import DataSet
from calm.data_lists import Attributes, check_name
from calm.evaluate_boxes import RESIZE, Box
from calm.options_data import OWN
from common import shards
from common.aliases import one_module
from common.cli import UserError
from common.own import data_lines, read_own, require_one_label, require_pictures
from common.own_data import POSITIVE, OwnData, Part
from common.own_names import counted

one_module(__name__, "calm.data_own")


def read_own_data(args: Any) -> DataSet:
    """The data set of --data. UserError, in one line, for what is no data for CALM."""
    seed = args.data_seed
    if seed is None:
        seed = 0 if args.seed is None else args.seed
    own = read_own(
        args.data,
        images=args.images,
        classes=args.classes,
        seed=seed,
        skip_corrupt=args.skip_corrupt,
    )
    require_pictures(own, "CALM")
    own = replace(own, train=with_label_of_boxes(own.train), val=with_label_of_boxes(own.val))
    require_one_label(own, "CALM")
    return DataSet(OWN, own.kind.path, {}, Path(), own.num_classes, own)


def told_of_data(data: DataSet) -> list[str]:
    """The first lines of a run on own data; none of another data set."""
    if data.own is None:
        return []
    lines = data_lines(data.own)
    several = 0
    for part in (data.own.train, data.own.val):
        several += int(((part.matrix == POSITIVE).sum(1) > 1).sum())
    has_label = data.own.kind.layout not in ("coco", "voc")  # a column of its own
    if several and data.own.train.boxes is not None and not has_label:
        told = "their label is the class of which the boxes cover most"
        lines.append(f"{counted(several, 'picture')} with several classes: {told}")
    lines.append("test is val: own data have one validation part")
    return lines


def with_label_of_boxes(part: Part) -> Part:
    """The same; a picture of several classes gets the one of which the boxes cover most."""
    if part.boxes is None or part.box_labels is None:
        return part
    labels = part.labels.copy()
    for row in np.flatnonzero(labels < 0).tolist():
        boxes = part.boxes[row]
        if not len(boxes):
            continue
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        labels[row] = np.bincount(part.box_labels[row], area).argmax()
    return replace(part, labels=labels)


def own_images(own: OwnData, split: str, transform: Any, **how: Any) -> "OwnImages":
    """The images of a split; as `ImageLabelDataset` in `get_data_loader`."""
    part = own.train if split == "train" else own.val
    images = OwnImages(part, split, transform, **how)
    if split != "train":
        images.unreadable = own.skipped.get(part.name, 0)
    return images


def ids_of(part: Part) -> list[str]:
    """A name of each picture that is safe below any folder: as the data name it, where it can be.

    A path that leads out of a folder becomes its number and the file's name.
    """
    names = []
    for row, image_id in enumerate(part.ids):
        try:
            names.append(check_name(image_id, "id"))
        except UserError:
            names.append(f"{row:06d}/{part.paths[row].name}")
    return names


class OwnImages(ImageLabelDataset):
    """(image, label, image_id) of a part of own data.

    rows: id -> number of the picture in `part`.
    """

    def __init__(
        self,
        part: Part,
        split: str,
        transform: tuple[Callable, Callable],
        *,
        image_ids: list[str] | None = None,
    ) -> None:
        self.part = part
        self.split = split
        self.folder = Path(split)
        self.metadata = Attributes()
        self.fixed, self.rest = transform
        self.upright = part.upright
        known = ids_of(part)
        self.rows = {image_id: row for row, image_id in enumerate(known)}
        labels = part.labels.tolist()
        self.image_labels = dict(zip(known, labels, strict=True))
        self.image_ids = list(image_ids) if image_ids is not None else known
        self.start_empty()

    @property
    def paths(self) -> list[Path]:
        """The files of the images, in order."""
        return [self.part.paths[self.rows[image_id]] for image_id in self.image_ids]

    def path_of(self, image_id: str) -> Path:
        """The file of an image."""
        return self.part.paths[self.rows[image_id]]

    def require_whole_boxes(self) -> bool:
        """Whether each image has a box of its label; False where the data have no boxes.

        UserError names an image that has none where others do.
        """
        if self.part.boxes is None:
            return False
        without = [image_id for image_id in self.image_ids if not self._boxes_of(image_id)]
        if len(without) == len(self.image_ids):
            return False
        if without:
            count = f"{len(without)} of {len(self.image_ids)} images have no box of their class"
            remedy = "leave them out with --image_list"
            raise UserError(f"{count}, the first is {without[0]}; {remedy}")
        return True

    def boxes(self) -> dict[str, list[Box]]:
        """The boxes of each image, x0 y0 x1 y1 with both ends inside, in pixels."""
        return {image_id: self._boxes_of(image_id) for image_id in self.image_ids}

    def sizes(self) -> dict[str, tuple[int, int]]:
        """(W, H) of each image, in pixels."""
        found = {}
        for image_id in self.image_ids:
            with Image.open(shards.opened(self.path_of(image_id))) as image:
                found[image_id] = image.size
        return found

    def _boxes_of(self, image_id: str) -> list[Box]:
        row = self.rows[image_id]
        assert self.part.boxes is not None and self.part.box_labels is not None
        is_own = self.part.box_labels[row] == self.image_labels[image_id]
        boxes = []
        for x0, y0, x1, y1 in self.part.boxes[row][is_own].tolist():
            left = max(0, int(x0))
            top = max(0, int(y0))
            boxes.append((left, top, max(left, round(x1) - 1), max(top, round(y1) - 1)))
        return boxes


class OwnMasks:
    """The masks of own data: 1 on the image's class, 0 beside it, 255 where nothing counts."""

    def __init__(self, images: OwnImages) -> None:
        self.images = images

    def check(self, image_ids: list[str]) -> None:
        """UserError, before the first map, for an image without a mask of its class."""
        for image_id in image_ids:
            if not (self.of(image_id) == 1).any():
                remedy = "leave it out with --image_list"
                raise UserError(f"{image_id}: has no mask of its class; {remedy}")

    def of(self, image_id: str) -> np.ndarray:
        """(224,224) uint8, resized by nearest neighbour."""
        ids = self.images.part.mask(self.images.rows[image_id])
        if ids is None:
            return np.zeros((RESIZE, RESIZE), np.uint8)
        wanted = self.images.image_labels[image_id] + 1
        mask = np.where(ids == wanted, 1, np.where(ids < 0, 255, 0)).astype(np.uint8)
        return cv2.resize(mask, (RESIZE, RESIZE), interpolation=cv2.INTER_NEAREST)
