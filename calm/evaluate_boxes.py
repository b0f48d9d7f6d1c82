"""Boxes of score maps, and MaxBoxAcc and MaxBoxAccV2 (clovaai/wsolevaluation)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calm.data_lists import ById, get_bounding_boxes, get_image_sizes
from calm.evaluate_maps import check_scoremap_validity
from common.aliases import one_module
from common.cam import normalize_scoremap
from common.cli import UserError

one_module(__name__, "calm.evaluate_boxes")

RESIZE = 224
Box = tuple[int, int, int, int]


def wsol_scoremap(cam: np.ndarray, size: tuple[int, int] = (RESIZE, RESIZE)) -> np.ndarray:
    """Return a map (h,w) at `size` (H,W), scaled to [0,1], as float64.

    It is resized, bicubic, then scaled by minimum and maximum; a constant or NaN map becomes zeros.
    """
    cam = np.asarray(cam)
    if cam.dtype not in (np.float32, np.float64):  # OpenCV resizes no other type in floating point
        cam = cam.astype(np.float32)
    big = cv2.resize(cam, size[::-1], interpolation=cv2.INTER_CUBIC)
    return normalize_scoremap(big.astype(np.float64), "minmax")


def check_box_convention(boxes: np.ndarray, convention: str = "x0y0x1y1") -> None:
    """RuntimeError unless boxes (n,4), or one (4,), are not negative and (x0y0x1y1) ordered."""
    boxes = np.atleast_2d(np.asarray(boxes))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise RuntimeError(f"boxes must be (n, 4), not {boxes.shape}")
    if (boxes < 0).any():
        raise RuntimeError("box coordinates must not be negative")
    if convention == "x0y0x1y1":
        if (boxes[:, :2] > boxes[:, 2:]).any():
            raise RuntimeError("boxes must be x0, y0, x1, y1 with x0 <= x1 and y0 <= y1")
    elif convention != "xywh":
        raise ValueError(f"box convention {convention!r}: choose from x0y0x1y1, xywh")


def calculate_multiple_iou(box_a: np.ndarray, box_b: np.ndarray) -> np.ndarray:
    """IoU (n,m) of boxes (n,4) and (m,4), x0 y0 x1 y1, both ends inside: widths are x1 - x0 + 1."""
    a = np.asarray(box_a)
    b = np.asarray(box_b)
    check_box_convention(a)
    check_box_convention(b)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.clip(high - low + 1, 0, None).prod(-1)
    area_a = (a[:, 2:] - a[:, :2] + 1).prod(-1)
    area_b = (b[:, 2:] - b[:, :2] + 1).prod(-1)
    union = area_a[:, None] + area_b[None] - overlap
    return np.divide(overlap, union, out=np.zeros(union.shape), where=union > 0)


def resize_bbox(box: Sequence[int], image_size: Sequence[int], resize_size: Sequence[int]) -> Box:
    """Scale a box x0 y0 x1 y1 in an image of (W,H) to (W',H').

    It is truncated to integers; ValueError for no image.
    """
    check_box_convention(np.asarray(box))
    if min(*image_size, *resize_size) < 1:
        found = f"{tuple(image_size)} and {tuple(resize_size)}"
        raise ValueError(f"sizes must be at least 1 pixel, not {found}")
    x0, y0, x1, y1 = box
    width, height = image_size
    new_width, new_height = resize_size
    return (
        int(x0 * new_width / width),
        int(y0 * new_height / height),
        int(x1 * new_width / width),
        int(y1 * new_height / height),
    )


def _boxes_of(binary: np.ndarray, multi: bool) -> list[Box]:
    contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return [(0, 0, 0, 0)]
    if not multi:
        contours = [max(contours, key=cv2.contourArea)]
    height, width = binary.shape
    boxes = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        boxes.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
    return boxes


def compute_bboxes_from_scoremaps(
    scoremap: np.ndarray, thresholds: Sequence[float], multi_contour_eval: bool = False
) -> tuple[list[np.ndarray], list[int]]:
    """Return the boxes (n_t,4) for each threshold t, and their numbers.

    They surround the contours of uint8(m 255) > int(t max), for m in [0,1].

    After the quantisation at most 256 thresholds differ: one contour pass for each.
    """
    check_scoremap_validity(scoremap)
    image = (scoremap * 255).astype(np.uint8)
    top = int(image.max())
    levels = [int(t * top) for t in thresholds]
    found = {}
    for level in set(levels):
        binary = (image > level).astype(np.uint8)
        found[level] = np.asarray(_boxes_of(binary, multi_contour_eval))
    boxes = [found[level] for level in levels]
    return boxes, list(map(len, boxes))


class LocalizationEvaluator:
    """What both evaluators share: metadata, thresholds, the root of the masks."""

    def __init__(
        self,
        metadata: Any,
        dataset_name: str,
        split: str,
        threshold_list: Sequence[float],
        iou_thresholds: Sequence[int] | None,
        mask_root: str | Path,
    ) -> None:
        self.metadata = metadata
        self.dataset_name = dataset_name
        self.split = split
        self.iou_thresholds = iou_thresholds
        self.mask_root = Path(mask_root)
        self.threshold_list = list(threshold_list)
        if not self.threshold_list or not all(0 <= t <= 1 for t in self.threshold_list):
            raise ValueError("the thresholds must be a list of numbers in 0..1")


class BoxEvaluator(LocalizationEvaluator):
    """Computes MaxBoxAcc: the share of images whose best box reaches an IoU.

    It is maximised over the map's threshold.
    """

    def __init__(
        self,
        metadata: Any,
        dataset_name: str,
        split: str,
        cam_threshold_list: Sequence[float],
        iou_threshold_list: Sequence[int],
        mask_root: str | Path = "",
        multi_contour_eval: bool = False,
        *,
        boxes: Mapping[str, list[Box]] | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """boxes, sizes: of each image, in place of those that the lists of `metadata` say."""
        super().__init__(
            metadata, dataset_name, split, cam_threshold_list, iou_threshold_list, mask_root
        )
        if not iou_threshold_list or not all(0 < iou <= 100 for iou in iou_threshold_list):
            raise ValueError(f"iou_threshold_list {list(iou_threshold_list)}: percentages above 0")
        self.multi_contour_eval = multi_contour_eval
        self.num_correct = {iou: np.zeros(len(self.threshold_list)) for iou in iou_threshold_list}
        self.cnt = 0

        if sizes is None:
            sizes = get_image_sizes(metadata)
        self.gt_bboxes: dict[str, np.ndarray] = ById("the data")
        if boxes is None:
            boxes = get_bounding_boxes(metadata)
            self.gt_bboxes = ById(metadata["localization"])
        for image_id, of_image in boxes.items():
            scaled = [resize_bbox(box, sizes[image_id], (RESIZE, RESIZE)) for box in of_image]
            self.gt_bboxes[image_id] = np.asarray(scaled)

    def accumulate(self, scoremap: np.ndarray, image_id: str) -> np.ndarray:
        """Count one map (224,224) float64 in [0,1]; returns the best IoU (thresholds,)."""
        boxes, _ = compute_bboxes_from_scoremaps(
            scoremap, self.threshold_list, self.multi_contour_eval
        )
        # Thresholds of one level share their boxes: each set is compared once, all in one call.
        distinct = dict(zip(map(id, boxes), boxes, strict=True))
        every = np.concatenate(list(distinct.values()))
        iou = calculate_multiple_iou(every, self.gt_bboxes[image_id]).max(1)
        ends = np.cumsum(list(map(len, distinct.values())))[:-1]
        best_of = {}
        for key, part in zip(distinct, np.split(iou, ends), strict=True):
            best_of[key] = part.max()
        best = np.array([best_of[id(of_threshold)] for of_threshold in boxes])
        return self.add(best, image_id)

    def add(self, best: np.ndarray, image_id: str) -> np.ndarray:
        """Count one image whose best IoU over boxes is `best` (thresholds,)."""
        for threshold, correct in self.num_correct.items():
            correct += best >= threshold / 100
        self.cnt += 1
        return best

    def compute(self) -> list[float]:
        """MaxBoxAcc in percent for each IoU threshold; UserError before any image was counted."""
        if not self.cnt:
            raise UserError("box evaluation: no image was counted")
        return [float(correct.max() * 100 / self.cnt) for correct in self.num_correct.values()]
