"""Masks of objects, and the pixel-wise precision of score maps against them.

The source is clovaai/wsolevaluation.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from calm.data_lists import get_mask_paths
from calm.evaluate_boxes import RESIZE, LocalizationEvaluator
from calm.evaluate_maps import check_scoremap_validity
from calm.evaluate_pixels import PixelPR, require_mask_dataset
from calm.method import pixel_average_precision
from common.aliases import one_module
from common.cli import UserError
from common.images import check_images, source_of

one_module(__name__, "calm.evaluate_masks")

WHERE_MASKS_LIE = "masks lie in CUB's segmentations/, or below --mask_root"


class MaskEvaluator(LocalizationEvaluator):
    """PxAP of maps against masks; the histograms are exactly those of numpy.histogram."""

    def __init__(
        self,
        metadata: Any,
        dataset_name: str,
        split: str,
        threshold_list: Sequence[float],
        mask_root: str | Path = "",
        iou_thresholds: Sequence[int] | None = None,
    ) -> None:
        require_mask_dataset(dataset_name)
        super().__init__(metadata, dataset_name, split, threshold_list, iou_thresholds, mask_root)
        self.pixels = PixelPR(self.threshold_list)
        self.mask_paths: dict[str, list[str]] = {}
        self.ignore_paths: dict[str, str] = {}
        if dataset_name == "OpenImages" and metadata is not None:
            self.mask_paths, self.ignore_paths = get_mask_paths(metadata)

    def accumulate(
        self, scoremap: np.ndarray, image_id: str, gt_mask: np.ndarray | None = None
    ) -> None:
        """Count a map (H,W) float64 in [0,1] against a mask.

        That is gt_mask (H,W) in {0,1,255}, or the image's mask files. ValueError names the image
        where the two differ in shape.
        """
        check_scoremap_validity(scoremap, image_id)
        if gt_mask is None:
            gt_mask = get_mask(
                self.mask_root, self.mask_paths[image_id], self.ignore_paths.get(image_id, "")
            )
        if np.shape(gt_mask) != scoremap.shape:
            shapes = f"a mask of shape {np.shape(gt_mask)} for a map of shape {scoremap.shape}"
            raise ValueError(f"{image_id}: {shapes}")
        maps = torch.from_numpy(np.ascontiguousarray(scoremap))[None]
        masks = torch.from_numpy(np.ascontiguousarray(gt_mask))[None]
        self.pixels.add(maps, masks)

    @property
    def gt_true_score_hist(self) -> np.ndarray:
        """Map values at foreground pixels, (bins,) float64."""
        return self.pixels.histograms()[0].astype(np.float64)

    @property
    def gt_false_score_hist(self) -> np.ndarray:
        """Map values at background pixels, (bins,) float64."""
        return self.pixels.histograms()[1].astype(np.float64)

    def compute(self, keep: bool = False) -> tuple[float, list[np.ndarray]]:
        """Return PxAP in percent and [recall, precision].

        `keep` counts the values below the first edge as well.
        """
        auc, recall, precision = pixel_average_precision(*self.pixels.histograms(keep=keep))
        return auc, [recall, precision]


def _grey_values(image: Image.Image) -> np.ndarray:
    """(H,W) uint8; of more than 8 bits a pixel, 255 where it is not 0."""
    if image.mode.startswith(("I", "F")):
        return np.where(np.asarray(image) != 0, 255, 0).astype(np.uint8)
    if image.mode not in ("L", "1"):
        image = image.convert("L")
    return np.asarray(image).astype(np.uint8)


def check_masks(paths: Iterable[str | Path]) -> None:
    """Check, before the long work, that the mask files can be read.

    UserError where one is not there or cannot be read; each is named once.
    """
    distinct = list(dict.fromkeys(Path(path) for path in paths))
    unreadable = check_images(distinct, what="the masks", skip_corrupt=True)
    if len(unreadable):
        first = distinct[unreadable[0]]
        count = f"{len(unreadable)} of {len(distinct)} masks"
        raise UserError(f"{first}: unreadable mask, {count}; {WHERE_MASKS_LIE}")


def load_mask_image(path: str | Path, size: int | tuple[int, int] = RESIZE) -> np.ndarray:
    """Return a mask file resized to (size,size), or to (W,H): uint8 in {0,1}.

    It is resized by nearest neighbour, then compared: > 0.5. UserError names the file.

    Any number of channels and bits: a pixel is foreground where its grey value is not 0.
    """
    try:
        with Image.open(source_of(path, "mask")) as image:
            gray = _grey_values(image)
    except UserError as error:
        raise UserError(f"{error}; {WHERE_MASKS_LIE}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: unreadable mask ({error}); {WHERE_MASKS_LIE}") from error
    target = (size, size) if isinstance(size, int) else size
    small = cv2.resize(gray, target, interpolation=cv2.INTER_NEAREST)
    return (small > 0.5).astype(np.uint8)


def get_mask(
    mask_root: str | Path,
    mask_paths: Sequence[str],
    ignore_path: str = "",
    use_ignore: bool = True,
    size: int = RESIZE,
) -> np.ndarray:
    """Return the mask of an image from its files: (size,size) uint8.

    The union of the instance masks is 1, the ignore mask minus the union is 255, the rest is 0. An
    empty `ignore_path` means no ignore region.
    """
    root = Path(mask_root)
    union = np.zeros((size, size), bool)
    for path in mask_paths:
        union |= load_mask_image(root / path, size) > 0
    mask = union.astype(np.uint8)
    if use_ignore and ignore_path:
        mask[(load_mask_image(root / ignore_path, size) > 0) & ~union] = 255
    return mask
