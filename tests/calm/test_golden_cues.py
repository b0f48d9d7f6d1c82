"""Cue localisation from maps to mPxAP against numbers of the released code
(tests/golden/calm/README.md).
"""

import numpy as np
import pytest
import torch

from calm.evaluate_cue import CueLocaliser, map_difference
from calm.util import get_threshold_list
from calm.util_cub_trait import CUBTrait
from tests.calm.golden import load, write_cub

CUES = load("cues_a")
SIDE = 224


class GivenMaps:
    """The recorded maps in place of a network; the first pixel of an image holds its number."""

    def of_classes(self, images: torch.Tensor, rows: list[int], classes: list[int]) -> torch.Tensor:
        numbers = images[rows, 0, 0, 0].long().numpy()
        return torch.from_numpy(CUES["maps"][numbers, classes])


@pytest.fixture(scope="module")
def trait(tmp_path_factory: pytest.TempPathFactory) -> CUBTrait:
    folder, _ = write_cub(tmp_path_factory.mktemp("golden_cues") / "CUB")
    return CUBTrait(folder)


def localised(trait: CUBTrait, norm: str, thresholds: str, batch_size: int) -> CueLocaliser:
    """All recorded images counted, `batch_size` at a time."""
    classes = CUES["maps"].shape[1]
    label_of = {k + 1: k for k in range(classes)}
    cues = CueLocaliser(
        trait, GivenMaps(), label_of, get_threshold_list(0.001, thresholds), norm, None
    )

    files = [str(file) for file in CUES["image_files"]]
    images = torch.arange(len(files)).float().view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE)
    for first in range(0, len(files), batch_size):
        part = slice(first, first + batch_size)
        cues.add(images[part], CUES["labels"][part].tolist(), files[part])
    return cues


@pytest.mark.parametrize("batch_size", [15, 4])
@pytest.mark.parametrize(("norm", "thresholds"), [("clipping", "log"), ("minmax", "even")])
def test_cue_localisation_from_maps_to_scores(
    trait: CUBTrait, norm: str, thresholds: str, batch_size: int
) -> None:
    cues = localised(trait, norm, thresholds, batch_size)
    table = cues.table(("per_pair", "released"))
    for protocol in ("per_pair", "released"):
        scores = cues.scores(protocol, keep=False)
        everything = []
        for parts in (1, 2, 3):
            expected = CUES[f"{norm}/{thresholds}/{protocol}/{parts}"]
            mine = zip(scores, cues.parts_of, strict=True)
            found = [score for score, count in mine if count == parts and score is not None]
            assert found == pytest.approx(expected, abs=1e-6)
            assert table[f"{protocol}/dropped"][str(parts)] == pytest.approx(
                expected.mean(), abs=1e-6
            )
            everything.extend(expected)
        assert table[f"{protocol}/dropped"]["mean"] == pytest.approx(np.mean(everything), abs=1e-6)


def test_the_signed_difference_is_resized_before_its_absolute_value() -> None:
    first, second = CUES["sample_pair"]
    maps = torch.from_numpy(CUES["maps"][int(CUES["sample_row"])])
    ours = map_difference(maps[first][None], maps[second][None], (SIDE, SIDE))[0]
    assert np.abs(ours.numpy() - CUES["sample_difference"]).max() <= 1e-6

    other_way = torch.nn.functional.interpolate(
        (maps[first] - maps[second]).abs()[None, None],
        size=(SIDE, SIDE),
        mode="bilinear",
        align_corners=False,
    )[0, 0]
    assert np.abs(other_way.numpy() - CUES["sample_difference"]).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_difference_of_maps_of_other_types(dtype: torch.dtype) -> None:
    maps = torch.from_numpy(CUES["maps"][0])
    exact = map_difference(maps[:1], maps[1:2], (SIDE, SIDE))
    ours = map_difference(maps[:1].to(dtype), maps[1:2].to(dtype), (SIDE, SIDE))
    assert ours.shape == (1, SIDE, SIDE) and (ours >= 0).all()
    assert torch.allclose(ours.float(), exact, atol=2e-3)


def test_the_difference_needs_maps_that_belong_together() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) and \(1, 4, 4\)"):
        map_difference(torch.zeros(2, 4, 4), torch.zeros(1, 4, 4), (8, 8))


def test_peak_distance_is_measured_on_the_same_difference(trait: CUBTrait) -> None:
    """From the maximum of |resize(map_i - map_j)| to the nearest keypoint of a differing part, by a
    plain loop.
    """
    cues = localised(trait, "minmax", "even", 15)
    for number, pair in enumerate(cues.pairs):
        distances = []
        for row, file in enumerate(str(file) for file in CUES["image_files"]):
            if CUES["labels"][row] + 1 not in pair:
                continue
            if trait.get_pseudo_segment_mask(file, pair, SIDE) is None:
                continue
            difference = torch.from_numpy(
                CUES["maps"][row, pair[0] - 1] - CUES["maps"][row, pair[1] - 1]
            )
            big = torch.nn.functional.interpolate(
                difference[None, None], size=(SIDE, SIDE), mode="bilinear"
            )
            y, x = divmod(int(big[0, 0].abs().argmax()), SIDE)
            points = trait.cue_points(file, pair, SIDE)
            distances.append(min(np.hypot(x - px, y - py) for px, py in points.tolist()))
        assert cues.images[number, 0] == len(distances)
        assert float(cues.distance[number]) * 2.0**-20 == pytest.approx(sum(distances), abs=1e-4)
