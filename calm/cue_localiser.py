"""Cue localisation (CUB): does the difference of two classes' maps mark the parts in which they differ?

One forward per image serves all its class pairs, and one histogram per pair serves all protocols.
"""

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import torch
from accelerate import Accelerator

from calm.pixel_pr import PixelPR, mean_of, try_average_precision
from calm.score_mapper import ScoreMapper
from calm.util_cub_trait import CUBTrait
from common.aliases import one_module
from common.cam import NORM_TYPES, at_least_float32, normalize_maps, resize_maps

one_module(__name__, "calm.cue_localiser")

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
    """The columns of a table of cue localisation: {protocol/dropped or kept: (protocol, are low values kept?)}."""
    columns = {}
    for protocol in protocols:
        columns[f"{protocol}/dropped"] = (protocol, False)
        columns[f"{protocol}/kept"] = (protocol, True)
    return columns


def map_difference(
    first: torch.Tensor, second: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """How far the maps of two classes lie apart at each pixel, (n,H,W) at `size` (H,W), in float32 at least:

        | resize(first - second) |

    The signed difference of the maps (n,h,w) is resized, bilinear, and the absolute value comes after, as in the
    released code: where the sign changes between two grid positions the result passes through 0. ValueError for
    maps of different shapes.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"maps of shapes {tuple(first.shape)} and {tuple(second.shape)} have no difference"
        )
    difference = at_least_float32(first) - at_least_float32(second)
    if difference.device.type == "cpu":
        resized = _resized_by_opencv(difference.detach(), tuple(size))
    else:
        resized = resize_maps(difference[:, None], tuple(size))[:, 0]
    return resized.abs()


def _resized_by_opencv(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps (n,h,w) at (n,H,W), bilinear, by OpenCV as in the released code: torch's differ in the last digit."""
    height, width = size
    resized = torch.empty(len(maps), height, width, dtype=maps.dtype)
    for row, single in enumerate(maps.numpy()):
        big = cv2.resize(single, (width, height), interpolation=cv2.INTER_LINEAR)
        resized[row] = torch.from_numpy(big)
    return resized


class CueLocaliser:
    """Collects, per class pair, the histograms of `map_difference` inside and outside of the differing parts."""

    def __init__(
        self, trait: CUBTrait, mapper: ScoreMapper, label_of: Mapping[int, int], thresholds: Sequence[float],
        norm_type: str, max_pairs: int | None = None,
    ) -> None:  # fmt: skip
        self.trait, self.mapper, self.label_of, self.norm_type = (
            trait,
            mapper,
            dict(label_of),
            norm_type,
        )
        if norm_type not in NORM_TYPES:
            raise ValueError(f"norm_type {norm_type!r}: choose from {', '.join(NORM_TYPES)}")
        groups = trait.diff2class_pair_dict
        known = {
            d: [p for p in groups.get(d, []) if p[0] in label_of and p[1] in label_of]
            for d in NUM_DIFF_LIST
        }
        self.pairs: list[Pair] = [p for d in NUM_DIFF_LIST for p in known[d][:max_pairs]]
        self.parts_of = [d for d in NUM_DIFF_LIST for _ in known[d][:max_pairs]]
        self.pairs_of_class: dict[int, list[int]] = {}
        for n, pair in enumerate(self.pairs):
            for c in pair:
                self.pairs_of_class.setdefault(c, []).append(n)
        self.pixels = PixelPR(thresholds, max(1, len(self.pairs)))
        self.images = torch.zeros(max(1, len(self.pairs)), 2, dtype=torch.int64)  # counted, skipped
        self.distance = torch.zeros(
            max(1, len(self.pairs)), dtype=torch.int64
        )  # summed over images, in STEPs

    def add(self, images: torch.Tensor, labels: Iterable[int], image_ids: Sequence[str]) -> None:
        """Count a batch (B,3,S,S): every image on all pairs that hold its class."""
        jobs: list[tuple[int, int]] = []  # image row, pair
        masks: list[np.ndarray] = []
        for row, (image_id, label) in enumerate(zip(image_ids, labels, strict=True)):
            for n in self.pairs_of_class.get(class_number(image_id, int(label)), ()):
                mask = self.trait.get_pseudo_segment_mask(image_id, self.pairs[n], images.shape[-1])
                self.images[n, int(mask is None)] += 1
                if mask is not None:
                    jobs.append((row, n))
                    masks.append(mask)
        if not jobs:
            return
        wanted = sorted({(row, c) for row, n in jobs for c in self.pairs[n]})
        place = {key: k for k, key in enumerate(wanted)}
        maps = self.mapper.of_classes(
            images, [r for r, _ in wanted], [self.label_of[c] for _, c in wanted]
        )
        first = [place[row, self.pairs[n][0]] for row, n in jobs]
        second = [place[row, self.pairs[n][1]] for row, n in jobs]
        big = map_difference(maps[first], maps[second], images.shape[-2:])
        scores = normalize_maps(big, self.norm_type).double()
        gt = torch.from_numpy(np.stack(masks)).to(scores.device)
        self.pixels.add(scores, gt, torch.tensor([n for _, n in jobs]))
        for (row, n), peak in zip(jobs, big.flatten(1).argmax(1).tolist(), strict=True):
            points = self.trait.cue_points(image_ids[row], self.pairs[n], big.shape[-1])
            away = np.hypot(*(points - (peak % big.shape[-1], peak // big.shape[-1])).T).min()
            self.distance[n] += round(away / STEP)

    def reduce(self, accelerator: Accelerator) -> None:
        """Sum the counts of all processes."""
        if accelerator.num_processes > 1:
            self.pixels.counts = accelerator.reduce(
                self.pixels.counts.to(accelerator.device), "sum"
            ).cpu()
            self.images = accelerator.reduce(self.images.to(accelerator.device), "sum").cpu()
            self.distance = accelerator.reduce(self.distance.to(accelerator.device), "sum").cpu()

    def scores(self, protocol: str, keep: bool) -> list[float | None]:
        """PxAP percent per pair; protocol per_pair, or released: each pair counts all earlier ones too.

        keep: values below the first threshold count as well (the released histogram drops them).
        """
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol {protocol!r}: choose from {', '.join(PROTOCOLS)}")
        counts = self.pixels.counts.cumsum(0) if protocol == "released" else self.pixels.counts
        counts = counts.numpy() if keep else counts[:, :, 1:].numpy()
        return [
            try_average_precision(*counts[n]) if self.images[n, 0] else None
            for n in range(len(self.pairs))
        ]

    def by_parts(self, values: Sequence[float | None]) -> dict[str, float | None]:
        """{1, 2, 3: mean over the pairs that differ in so many parts, mean: over all pairs} of a value per pair."""
        row = {
            str(d): mean_of([v for v, k in zip(values, self.parts_of, strict=True) if k == d])
            for d in NUM_DIFF_LIST
        }
        return {**row, "mean": mean_of(values)}

    def undefined(self, protocols: Sequence[str]) -> dict[str, int]:
        """{protocol/dropped or kept: pairs without a PxAP}: no image, or no foreground value in any bin."""
        return {
            name: sum(score is None for score in self.scores(protocol, keep))
            for name, (protocol, keep) in columns_of(protocols).items()
        }

    def peak_distance(self) -> dict[str, float | None]:
        """Mean distance, in input pixels, from the maximum of the difference to the nearest differing part."""
        per_pair = (self.distance * STEP / self.images[:, 0]).tolist()[: len(self.pairs)]
        return self.by_parts([v if np.isfinite(v) else None for v in per_pair])

    def table(self, protocols: Sequence[str]) -> dict[str, dict[str, float | None]]:
        """{protocol/dropped or kept: {1, 2, 3: mPxAP_d, mean: over all pairs}} in percent."""
        columns = columns_of(protocols)
        return {
            name: self.by_parts(self.scores(protocol, keep))
            for name, (protocol, keep) in columns.items()
        }
