"""The localisation metrics of clovaai/wsolevaluation: MaxBoxAcc, MaxBoxAccV2, PxAP (spec e.3)."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from calm.data_loaders import get_bounding_boxes, get_image_sizes, get_mask_paths
from calm.pixel_pr import PixelPR, average_precision, require_mask_dataset
from calm.util import check_scoremap_validity
from common.aliases import one_module
from common.cam import normalize_scoremap
from common.cli import UserError
from common.images import check_images
from common.text import require_file

one_module(__name__, "calm.evaluation")

RESIZE = 224
Box = tuple[int, int, int, int]


def wsol_scoremap(cam: np.ndarray, size: tuple[int, int] = (RESIZE, RESIZE)) -> np.ndarray:
    """A map (h,w) at `size` (H,W), bicubic, then min-max: float64 in [0,1]; zeros for a constant or NaN map."""
    cam = np.asarray(cam)
    if cam.dtype not in (
        np.float32,
        np.float64,
    ):  # OpenCV resizes neither float16 nor whole numbers in float
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
    a, b = np.asarray(box_a), np.asarray(box_b)
    check_box_convention(a)
    check_box_convention(b)
    low, high = (
        np.maximum(a[:, None, :2], b[None, :, :2]),
        np.minimum(a[:, None, 2:], b[None, :, 2:]),
    )
    overlap = np.clip(high - low + 1, 0, None).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2] + 1).prod(-1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - overlap
    return np.divide(overlap, union, out=np.zeros(union.shape), where=union > 0)


def resize_bbox(box: Sequence[int], image_size: Sequence[int], resize_size: Sequence[int]) -> Box:
    """A box x0 y0 x1 y1 in an image of (W,H) scaled to (W',H'), truncated to integers; ValueError for no image."""
    check_box_convention(np.asarray(box))
    if min(*image_size, *resize_size) < 1:
        raise ValueError(
            f"sizes must be at least 1 pixel, not {tuple(image_size)} and {tuple(resize_size)}"
        )
    (x0, y0, x1, y1), (width, height), (new_width, new_height) = box, image_size, resize_size
    new = (
        x0 * new_width / width,
        y0 * new_height / height,
        x1 * new_width / width,
        y1 * new_height / height,
    )
    return tuple(int(v) for v in new)


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
    """Boxes (n_t,4) per threshold t, and their numbers: contours of uint8(m 255) > int(t max), m in [0,1].

    After the quantisation at most 256 thresholds differ: one contour pass for each.
    """
    check_scoremap_validity(scoremap)
    image = (scoremap * 255).astype(np.uint8)
    top = int(image.max())
    levels = [int(t * top) for t in thresholds]
    found = {
        level: np.asarray(_boxes_of((image > level).astype(np.uint8), multi_contour_eval))
        for level in set(levels)
    }
    boxes = [found[level] for level in levels]
    return boxes, [len(b) for b in boxes]


class LocalizationEvaluator:
    """What both evaluators share: metadata, thresholds, the root of the masks."""

    def __init__(
        self, metadata: Any, dataset_name: str, split: str, threshold_list: Sequence[float],
        iou_thresholds: Sequence[int] | None, mask_root: str | Path,
    ) -> None:  # fmt: skip
        self.metadata, self.dataset_name, self.split = metadata, dataset_name, split
        self.threshold_list, self.iou_thresholds = list(threshold_list), iou_thresholds
        if not self.threshold_list or not all(0 <= t <= 1 for t in self.threshold_list):
            raise ValueError("the thresholds must be a list of numbers in 0..1")
        self.mask_root = Path(mask_root)


class BoxEvaluator(LocalizationEvaluator):
    """MaxBoxAcc: the share of images whose best box reaches an IoU, maximised over the map's threshold."""

    def __init__(
        self, metadata: Any, dataset_name: str, split: str, cam_threshold_list: Sequence[float],
        iou_threshold_list: Sequence[int], mask_root: str | Path = "", multi_contour_eval: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            metadata, dataset_name, split, cam_threshold_list, iou_threshold_list, mask_root
        )
        if not iou_threshold_list or not all(0 < iou <= 100 for iou in iou_threshold_list):
            raise ValueError(f"iou_threshold_list {list(iou_threshold_list)}: percentages above 0")
        self.multi_contour_eval = multi_contour_eval
        self.num_correct = {iou: np.zeros(len(self.threshold_list)) for iou in iou_threshold_list}
        self.cnt, self.best = 0, {}  # best: image id -> (thresholds,) best IoU
        sizes = get_image_sizes(metadata)
        self.gt_bboxes = get_bounding_boxes(metadata)
        for image_id, boxes in self.gt_bboxes.items():
            scaled = [resize_bbox(b, sizes[image_id], (RESIZE, RESIZE)) for b in boxes]
            self.gt_bboxes[image_id] = np.asarray(scaled)

    def accumulate(self, scoremap: np.ndarray, image_id: str) -> np.ndarray:
        """Count one map (224,224) float64 in [0,1]; returns the best IoU (thresholds,)."""
        boxes, counts = compute_bboxes_from_scoremaps(
            scoremap, self.threshold_list, self.multi_contour_eval
        )
        best_of = {id(b): 0.0 for b in boxes}
        distinct = {id(b): b for b in boxes}
        iou = calculate_multiple_iou(
            np.concatenate(list(distinct.values())), self.gt_bboxes[image_id]
        ).max(1)
        ends = np.cumsum([len(b) for b in distinct.values()])[:-1]
        for key, part in zip(distinct, np.split(iou, ends), strict=True):
            best_of[key] = part.max()
        best = np.array([best_of[id(b)] for b in boxes])
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


class MaskEvaluator(LocalizationEvaluator):
    """PxAP of maps against masks; the histograms are exactly those of numpy.histogram."""

    def __init__(
        self, metadata: Any, dataset_name: str, split: str, threshold_list: Sequence[float],
        mask_root: str | Path = "", iou_thresholds: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        require_mask_dataset(dataset_name)
        super().__init__(metadata, dataset_name, split, threshold_list, iou_thresholds, mask_root)
        self.pixels = PixelPR(self.threshold_list)
        has_masks = dataset_name == "OpenImages" and metadata is not None
        self.mask_paths, self.ignore_paths = get_mask_paths(metadata) if has_masks else ({}, {})

    def accumulate(
        self, scoremap: np.ndarray, image_id: str, gt_mask: np.ndarray | None = None
    ) -> None:
        """Count a map (H,W) float64 in [0,1] against gt_mask (H,W) in {0,1,255}, or the image's mask files.

        ValueError names the image where the two differ in shape.
        """
        check_scoremap_validity(scoremap, image_id)
        if gt_mask is None:
            gt_mask = get_mask(
                self.mask_root, self.mask_paths[image_id], self.ignore_paths.get(image_id, "")
            )
        if np.shape(gt_mask) != scoremap.shape:
            raise ValueError(
                f"{image_id}: a mask of shape {np.shape(gt_mask)} for a map of shape {scoremap.shape}"
            )
        scoremap, gt_mask = np.ascontiguousarray(scoremap), np.ascontiguousarray(gt_mask)
        self.pixels.add(torch.from_numpy(scoremap)[None], torch.from_numpy(gt_mask)[None])

    @property
    def gt_true_score_hist(self) -> np.ndarray:
        """Map values at foreground pixels, (bins,) float64."""
        return self.pixels.histograms()[0].astype(np.float64)

    @property
    def gt_false_score_hist(self) -> np.ndarray:
        """Map values at background pixels, (bins,) float64."""
        return self.pixels.histograms()[1].astype(np.float64)

    def compute(self, keep: bool = False) -> tuple[float, list[np.ndarray]]:
        """PxAP in percent and [recall, precision]; `keep` counts the values below the first edge as well."""
        auc, recall, precision = average_precision(*self.pixels.histograms(keep=keep))
        return auc, [recall, precision]


WHERE_MASKS_LIE = "masks lie in CUB's segmentations/, or below --mask_root"


def _grey_values(image: Image.Image) -> np.ndarray:
    """(H,W) uint8; of more than 8 bits a pixel, 255 where it is not 0."""
    if image.mode.startswith(("I", "F")):
        return np.where(np.asarray(image) != 0, 255, 0).astype(np.uint8)
    if image.mode not in ("L", "1"):
        image = image.convert("L")
    return np.asarray(image).astype(np.uint8)


def check_masks(paths: Iterable[str | Path]) -> None:
    """UserError, before the long work, where a mask file is not there or cannot be read; each is named once."""
    distinct = list(dict.fromkeys(Path(path) for path in paths))
    unreadable = check_images(distinct, what="the masks", skip_corrupt=True)
    if len(unreadable):
        first = distinct[unreadable[0]]
        count = f"{len(unreadable)} of {len(distinct)} masks"
        raise UserError(f"{first}: unreadable mask, {count}; {WHERE_MASKS_LIE}")


def load_mask_image(path: str | Path, size: int | tuple[int, int] = RESIZE) -> np.ndarray:
    """A mask file resized to (size,size), or to (W,H), nearest neighbour, > 0.5: uint8 in {0,1}; UserError names it.

    Any number of channels and bits: a pixel is foreground where its grey value is not 0.
    """
    try:
        with Image.open(require_file(path, "mask")) as image:
            gray = _grey_values(image)
    except UserError as error:
        raise UserError(f"{error}; {WHERE_MASKS_LIE}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: unreadable mask ({error}); {WHERE_MASKS_LIE}") from error
    target = (size, size) if isinstance(size, int) else tuple(size)
    small = cv2.resize(gray, target, interpolation=cv2.INTER_NEAREST)
    return (small > 0.5).astype(np.uint8)


def get_mask(
    mask_root: str | Path,
    mask_paths: Sequence[str],
    ignore_path: str = "",
    use_ignore: bool = True,
    size: int = RESIZE,
) -> np.ndarray:
    """Union of the instance masks as 1, the ignore mask minus the union as 255, else 0: (size,size) uint8.

    An empty `ignore_path` means no ignore region.
    """
    root = Path(mask_root)
    union = np.zeros((size, size), bool)
    for path in mask_paths:
        union |= load_mask_image(root / path, size) > 0
    mask = union.astype(np.uint8)
    if use_ignore and ignore_path:
        mask[(load_mask_image(root / ignore_path, size) > 0) & ~union] = 255
    return mask
