"""Measure cue localisation on CUB, from the maps of two classes.

The question is whether the difference of the maps marks the parts in which the classes differ. One
forward per image serves all its class pairs, and one histogram per pair serves all protocols.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import Accelerator

from calm.data import ImageLabelDataset
from calm.data_cub_trait import CUBTrait, has_segmentations
from calm.evaluate_maps import ScoreMapper
from calm.evaluate_pixels import PixelPR, try_average_precision
from calm.method import counterfactual, mean_over_pairs
from common.aliases import one_module
from common.cam import NORM_TYPES, normalize_maps, resize_maps
from common.cli import UserError
from common.precision import doubled

one_module(__name__, "calm.evaluate_cue")

Pair = tuple[int, int]
NUM_DIFF_LIST = [1, 2, 3]
PROTOCOLS = ("per_pair", "released")
STEP = (
    2.0**-20
)  # of distances in pixels, so that their sum does not depend on the order of the images


def class_number(image_id: str, label: int) -> int:
    """The official class, from 1: the `ddd.` prefix of the folder, else label + 1."""
    prefix = image_id.split("/")[0].split(".")[0]
    return int(prefix) if prefix.isdigit() else label + 1


def columns_of(protocols: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """Return the columns of a table of cue localisation.

    They are {protocol/dropped or kept: (protocol, are low values kept?)}.
    """
    columns = {}
    for protocol in protocols:
        columns[f"{protocol}/dropped"] = (protocol, False)
        columns[f"{protocol}/kept"] = (protocol, True)
    return columns


def map_difference(
    first: torch.Tensor, second: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Return how far the maps of two classes lie apart at each pixel.

    The result is (n,H,W) at `size` (H,W), in float32 at least:

        | resize(first - second) |

    The signed difference of the maps (n,h,w) is resized, bilinear, and the absolute value comes
    after, as in the released code: where the sign changes between two grid positions the result
    passes through 0. ValueError for maps of different shapes.
    """
    difference = counterfactual(first, second)
    if difference.device.type == "cpu":
        resized = _resized_by_opencv(difference.detach(), size)
    else:
        resized = resize_maps(difference[:, None], size)[:, 0]
    return resized.abs()


def _resized_by_opencv(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return maps (n,h,w) at (n,H,W), bilinear, by OpenCV as in the released code.

    torch's differ in the last digit.
    """
    height, width = size
    resized = torch.empty(len(maps), height, width, dtype=maps.dtype)
    for row, single in enumerate(maps.numpy()):
        big = cv2.resize(single, (width, height), interpolation=cv2.INTER_LINEAR)
        resized[row] = torch.from_numpy(big)
    return resized


class CueLocaliser:
    """Collects, for each class pair, the histograms of `map_difference`.

    There is one for inside and one for outside of the differing parts.

    Args:
        trait: the parts and attributes of the data set.
        mapper: makes the maps.
        label_of: official class (from 1) -> label (from 0), of the classes that have test images.
        thresholds: the lower edges of the histograms' bins.
        norm_type: how a difference comes to [0,1].
        max_pairs: only the first pairs for each number of differing parts.
        side: S in pixels of the images, where features come in their place.
    """

    def __init__(
        self,
        trait: CUBTrait,
        mapper: ScoreMapper,
        label_of: Mapping[int, int],
        thresholds: Sequence[float],
        norm_type: str,
        max_pairs: int | None = None,
        side: int | None = None,
    ) -> None:
        if norm_type not in NORM_TYPES:
            raise ValueError(f"norm_type {norm_type!r}: choose from {', '.join(NORM_TYPES)}")
        self.trait = trait
        self.mapper = mapper
        self.label_of = dict(label_of)
        self.norm_type = norm_type
        self.side = side

        self.pairs: list[Pair] = []
        self.parts_of: list[int] = []  # how many parts differ between the classes of each pair
        for parts in NUM_DIFF_LIST:
            listed = trait.diff2class_pair_dict.get(parts, [])
            known = [pair for pair in listed if pair[0] in label_of and pair[1] in label_of]
            known = known[:max_pairs]
            self.pairs += known
            self.parts_of += [parts] * len(known)

        self.pairs_of_class: dict[int, list[int]] = {}
        for number, pair in enumerate(self.pairs):
            for of_pair in pair:
                self.pairs_of_class.setdefault(of_pair, []).append(number)

        rows = max(1, len(self.pairs))
        self.pixels = PixelPR(thresholds, rows)
        self.images = torch.zeros(rows, 2, dtype=torch.int64)  # counted, skipped
        self.distance = torch.zeros(rows, dtype=torch.int64)  # summed over images, in STEPs

    def add(self, images: torch.Tensor, labels: Iterable[int], image_ids: Sequence[str]) -> None:
        """Count a batch (B,3,S,S): every image on all pairs that hold its class."""
        side = self.side or images.shape[-1]
        rows: list[int] = []  # of the image, and the number of the pair, for each map
        numbers: list[int] = []
        masks: list[np.ndarray] = []
        for row, (image_id, label) in enumerate(zip(image_ids, labels, strict=True)):
            for number in self.pairs_of_class.get(class_number(image_id, int(label)), ()):
                mask = self.trait.get_pseudo_segment_mask(image_id, self.pairs[number], side)
                self.images[number, int(mask is None)] += 1
                if mask is not None:
                    rows.append(row)
                    numbers.append(number)
                    masks.append(mask)
        if not rows:
            return

        big = self._differences(images, rows, numbers, side)
        scores = doubled(normalize_maps(big, self.norm_type))
        gt = torch.from_numpy(np.stack(masks)).to(scores.device)
        self.pixels.add(scores, gt, torch.tensor(numbers))

        peaks = big.flatten(1).argmax(1).tolist()
        for row, number, peak in zip(rows, numbers, peaks, strict=True):
            points = self.trait.cue_points(image_ids[row], self.pairs[number], side)
            away = np.hypot(*(points - (peak % side, peak // side)).T).min()
            self.distance[number] += round(away / STEP)

    def _differences(
        self, images: torch.Tensor, rows: Sequence[int], numbers: Sequence[int], side: int
    ) -> torch.Tensor:
        """`map_difference` (n,S,S) of n images and pairs, from one map for each image and class."""
        wanted = set()
        for row, number in zip(rows, numbers, strict=True):
            for of_pair in self.pairs[number]:
                wanted.add((row, of_pair))
        ordered = sorted(wanted)
        place = {}
        images_of_maps = []
        labels_of_maps = []
        for number, (row, of_pair) in enumerate(ordered):
            place[row, of_pair] = number
            images_of_maps.append(row)
            labels_of_maps.append(self.label_of[of_pair])
        maps = self.mapper.of_classes(images, images_of_maps, labels_of_maps)

        first = []
        second = []
        for row, number in zip(rows, numbers, strict=True):
            one, other = self.pairs[number]
            first.append(place[row, one])
            second.append(place[row, other])
        return map_difference(maps[first], maps[second], (side, side))

    def reduce(self, accelerator: Accelerator) -> None:
        """Sum the counts of all processes."""
        self.pixels.reduce(accelerator)
        if accelerator.num_processes > 1:
            self.images = accelerator.reduce(self.images.to(accelerator.device), "sum").cpu()
            self.distance = accelerator.reduce(self.distance.to(accelerator.device), "sum").cpu()

    def scores(self, protocol: str, keep: bool) -> list[float | None]:
        """Return the PxAP in percent for each pair.

        The protocol is per_pair, or released: each pair counts all earlier ones too.

        keep: values below the first threshold count as well (the released histogram drops them).
        """
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol {protocol!r}: choose from {', '.join(PROTOCOLS)}")
        counts = self.pixels.counts
        if protocol == "released":
            counts = counts.cumsum(0)
        if not keep:
            counts = counts[:, :, 1:]

        scores: list[float | None] = []
        for number in range(len(self.pairs)):
            score = None
            if self.images[number, 0]:
                score = try_average_precision(*counts[number].numpy())
            scores.append(score)
        return scores

    def by_parts(self, values: Sequence[float | None]) -> dict[str, float | None]:
        """Return the means of a value per pair, by the number of differing parts.

        They are {1, 2, 3: mean over the pairs that differ in so many parts, mean: over all pairs}.
        """
        row = {}
        for parts in NUM_DIFF_LIST:
            those = [v for v, k in zip(values, self.parts_of, strict=True) if k == parts]
            row[str(parts)] = mean_over_pairs(those)
        row["mean"] = mean_over_pairs(values)
        return row

    def undefined(self, protocols: Sequence[str]) -> dict[str, int]:
        """Return how many pairs have no PxAP: {protocol/dropped or kept: number}.

        These pairs have no image, or no foreground value in any bin.
        """
        columns = columns_of(protocols)
        return {name: self.scores(*column).count(None) for name, column in columns.items()}

    def peak_distance(self) -> dict[str, float | None]:
        """Return how far the difference's maximum lies from the nearest differing part.

        It is the mean distance, in input pixels.
        """
        means = (self.distance * STEP / self.images[:, 0])[: len(self.pairs)]
        defined: list[float | None] = means.tolist()
        for number, count in enumerate(self.images[: len(self.pairs), 0].tolist()):
            if not count:
                defined[number] = None
        return self.by_parts(defined)

    def table(self, protocols: Sequence[str]) -> dict[str, dict[str, float | None]]:
        """{protocol/dropped or kept: {1, 2, 3: mPxAP_d, mean: over all pairs}} in percent."""
        columns = columns_of(protocols)
        return {name: self.by_parts(self.scores(*column)) for name, column in columns.items()}


def make_cues(
    trait: CUBTrait,
    data: ImageLabelDataset,
    mapper: ScoreMapper,
    thresholds: Sequence[float],
    norm_type: str,
    max_pairs: int | None = None,
    side: int | None = None,
) -> CueLocaliser:
    """Return a localiser for the pairs of a data set's classes.

    UserError where no pair can be examined, or an image's segmentation is missing.
    """
    label_of = labels_of_classes(data.image_ids, data.image_labels)
    trait.check_segmentations(data.image_ids)
    cues = CueLocaliser(trait, mapper, label_of, thresholds, norm_type, max_pairs, side)
    if not cues.pairs:
        classes = f"no pair of the {len(label_of)} test classes"
        raise UserError(f"{classes} differs in {NUM_DIFF_LIST} parts")
    return cues


def labels_of_classes(image_ids: Iterable[str], labels: Mapping[str, int]) -> dict[int, int]:
    """{official class, from 1: label} of the classes of the images."""
    found = {}
    for image_id in image_ids:
        found[class_number(image_id, labels[image_id])] = labels[image_id]
    return found


def make_trait(folder: Path, foreground: str | None, rule: str) -> tuple[CUBTrait, str]:
    """The parts and attributes of a CUB folder, and a line on what is the foreground."""
    if foreground is not None:
        return CUBTrait(folder, rule, foreground), f"foreground: {foreground}"
    if has_segmentations(folder):
        return CUBTrait(folder, rule, "segmentation"), "foreground: segmentation"
    told = f"foreground: box ({folder}/segmentations is not there)"
    return CUBTrait(folder, rule, "box"), told
