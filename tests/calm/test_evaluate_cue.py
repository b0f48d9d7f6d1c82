"""Cue localisation: equal to the plain loop, its histograms, what it writes, bad input."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from calm import eval_cue_location, evaluate, evaluate_cue
from calm.build import build_tester
from calm.data import normalizer
from calm.evaluate_pixels import PixelPR
from calm.evaluation import MaskEvaluator
from calm.fast import BinLookup
from calm.method import pixel_average_precision
from calm.options import parse
from calm.util import get_threshold_list, normalize_scoremap
from calm.util_cub_trait import CUBTrait
from common.cli import UserError
from tests.calm.conftest import JOINT, flags, newest


def plain_loop(tested: evaluate.Tester, trait: CUBTrait, args: object) -> dict[str, list[float]]:
    """The released procedure: per pair, image and class one forward, one numpy histogram, never
    reset; and fresh.
    """
    data, thresholds = (
        tested.loader.dataset.dataset,
        get_threshold_list(args.cam_curve_interval, args.threshold_type),
    )

    def make() -> MaskEvaluator:
        return MaskEvaluator(None, "CUB", "test", thresholds, "", None)

    released, found = make(), {"released": [], "per_pair": [], "kept": []}
    for d in (1, 2, 3):
        for pair in trait.diff2class_pair_dict.get(d, []):
            fresh = make()
            for n, image_id in enumerate(data.image_ids):
                if data.image_labels[image_id] + 1 not in pair:
                    continue
                image = normalizer(tested.device)(data[n][0][None].contiguous())
                mask = trait.get_pseudo_segment_mask(image_id, pair, 64)
                if mask is None:
                    continue
                a, b = (
                    tested.model(
                        image, torch.tensor([c - 1]), return_cam=args.score_map_process
                    ).numpy()[0]
                    for c in pair
                )
                big = np.abs(cv2.resize(a - b, (64, 64), interpolation=cv2.INTER_LINEAR))
                scores = normalize_scoremap(big.astype(np.float64), args.norm_type)
                released.accumulate(scores, image_id, mask)
                fresh.accumulate(scores, image_id, mask)
            found["released"].append(defined(released))
            found["per_pair"].append(defined(fresh))
            found["kept"].append(defined(fresh, keep=True))
    return found


def defined(evaluator: MaskEvaluator, **how: bool) -> float | None:
    try:
        return evaluator.compute(**how)[0]
    except RuntimeError:
        return None


@pytest.mark.parametrize(
    ("kind", "norm"),
    [
        ("log", "clipping"),
        pytest.param("even", "minmax", marks=pytest.mark.slow),
        pytest.param("even", "max", marks=pytest.mark.slow),
    ],
)
def test_cue_localisation_equals_the_plain_loop(
    birds: Path, save_root: Path, kind: str, norm: str
) -> None:
    given = flags(
        birds,
        save_root,
        "--score_map_process=jointll",
        f"--norm_type={norm}",
        f"--threshold_type={kind}",
    )
    eval_cue_location.main([*given, "--batch_size", "7"])
    folder = newest(save_root, "eval_cue_location_jointll")
    with (folder / "cue_pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    settings = parse(given, script="eval_cue_location")
    args = settings.args
    trait = CUBTrait(birds / "CUB_200_2011")
    expected = plain_loop(build_tester(settings, "plain"), trait, args)
    for column, name in (
        ("per_pair/dropped", "per_pair"),
        ("released/dropped", "released"),
        ("per_pair/kept", "kept"),
    ):
        # the batched forward differs from the single one in the last bits, which moves few pixels
        # to the next bin
        assert [float(row[column] or -1) for row in rows] == pytest.approx(
            [v or -1 for v in expected[name]], rel=2e-3
        )
    table = json.loads((folder / "summary.json").read_text())["mPxAP"]
    by_parts = {d: [float(r["per_pair/kept"]) for r in rows if r["parts"] == d] for d in "123"}
    assert table["per_pair/kept"]["2"] == pytest.approx(np.mean(by_parts["2"]))
    assert table["per_pair/kept"]["mean"] == pytest.approx(np.mean(sum(by_parts.values(), [])))
    assert (folder / "figures" / "cue_pairs.png").is_file()


def test_peak_distance_is_that_of_the_nearest_differing_part(birds: Path) -> None:
    """A map whose maximum is put on a known pixel."""
    trait = CUBTrait(birds / "CUB_200_2011")
    image_id = next(
        i
        for i in trait.image_file2image_id
        if i.startswith("002.") and trait.visible_parts(i) >= {1, 7}
    )

    class OnePixel:
        def of_classes(
            self, images: torch.Tensor, rows: list[int], classes: list[int]
        ) -> torch.Tensor:
            maps = torch.zeros(len(rows), 64, 64)
            maps[:, 30, 20] = torch.tensor(classes, dtype=torch.float32)
            return maps

    cues = evaluate_cue.CueLocaliser(
        trait, OnePixel(), {c: c - 1 for c in range(1, 7)}, [0.0, 0.5], "max"
    )
    cues.add(torch.zeros(1, 3, 64, 64), [1], [image_id])
    for n, pair in enumerate(cues.pairs):
        points = trait.cue_points(image_id, pair, 64)
        expected = (
            min(((x - 20) ** 2 + (y - 30) ** 2) ** 0.5 for x, y in points) if 2 in pair else 0.0
        )
        assert cues.distance[n] * evaluate_cue.STEP == pytest.approx(expected, abs=1e-5)
    wing = [p for p, part in zip(*trait.points_and_parts(image_id, 64), strict=True) if part == 7]
    assert np.array_equal(trait.cue_points(image_id, (1, 2), 64), wing)
    values = cues.peak_distance()
    assert values["1"] > 0 and values["mean"] == pytest.approx(
        np.mean(
            [
                float(cues.distance[n]) * evaluate_cue.STEP
                for n, pair in enumerate(cues.pairs)
                if 2 in pair
            ]
        )
    )


@pytest.mark.slow
def test_foreground_pairs_and_gradients(birds: Path, save_root: Path, capsys) -> None:
    eval_cue_location.main(
        flags(
            birds,
            save_root,
            *JOINT,
            "--foreground",
            "box",
            "--max_pairs",
            "1",
            "--cue_protocol",
            "released",
            "--attribute_rule",
            "name",
        )
    )
    out = capsys.readouterr().out
    assert (
        "foreground: box; 3 pairs (1 with 1, 1 with 2, 1 with 3 parts)" in out
        and "per_pair" not in out
    )
    eval_cue_location.main(
        flags(birds, save_root, "--score_map_process", "input_grad", "--max_pairs", "1")
    )
    assert "foreground: segmentation; 3 pairs" in capsys.readouterr().out


def test_cue_localisation_needs_what_it_needs(birds: Path, save_root: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(birds, tmp_path / "b")
    given = flags(tmp_path / "b", save_root, *JOINT)
    shutil.rmtree(tmp_path / "b/CUB_200_2011/segmentations")
    eval_cue_location.main([*given, "--max_pairs", "1"])  # box, and it says so
    assert (
        "segmentations is not there"
        in json.loads((newest(save_root, "eval_cue") / "summary.json").read_text())["foreground"]
    )
    with pytest.raises(UserError, match="segmentations.*--foreground box"):
        eval_cue_location.main([*given, "--foreground", "segmentation"])
    table = tmp_path / "b/CUB_200_2011/attributes/class_attribute_labels_continuous.txt"
    table.write_text("\n".join(line.rsplit(" ", 1)[0] for line in table.read_text().splitlines()))
    with pytest.raises(UserError, match="37 attributes, expected 38"):
        eval_cue_location.main(given)
    (tmp_path / "b/attributes.txt").unlink()
    with pytest.raises(UserError, match="attributes.txt.*archive"):
        eval_cue_location.main(given)


def test_histograms_are_numpys() -> None:
    rng = np.random.default_rng(1)
    for kind in ("even", "log"):
        thresholds = get_threshold_list(0.01, kind)
        pixels = PixelPR(thresholds, groups=3)
        values = rng.random((5, 8, 9))
        values[0, 0, :5] = [0.0, 1.0, thresholds[3], thresholds[-1], 1e-9]
        gt = rng.choice([0, 1, 255], size=values.shape)
        groups = torch.tensor([0, 2, 2, 0, 1])
        pixels.add(torch.from_numpy(values), torch.from_numpy(gt), groups)
        for group in range(3):
            rows = groups.numpy() == group
            for side, ours in enumerate(pixels.histograms(group)):
                theirs = np.histogram(
                    values[rows][gt[rows] == 1 - side], bins=[*thresholds, 1, 2, 3]
                )[0]
                assert np.array_equal(ours, theirs)
            assert (
                sum(h.sum() for h in pixels.histograms(group, keep=True)) == (gt[rows] != 255).sum()
            )


@pytest.mark.parametrize("kind", ["even", "log"])
def test_lookup_equals_the_search(kind: str) -> None:
    edges = np.array([*get_threshold_list(0.001, kind), 1.0, 2.0, 3.0])
    rng = np.random.default_rng(2)
    near = np.concatenate([edges, np.nextafter(edges, 9), np.nextafter(edges, -9).clip(0)])
    values = np.concatenate(
        [near, rng.random(5000), 10 ** rng.uniform(-12, 0.6, 5000), [0.0, 1e-300, 4.0, 1e30]]
    )
    lookup = BinLookup.of(edges)
    assert np.array_equal(lookup(values), np.searchsorted(edges, values, side="right"))
    signed = np.append(values, [-0.0, -1.0])
    assert np.array_equal(lookup(signed), np.searchsorted(edges, signed, side="right"))
    assert BinLookup.of(np.array([1e-9, 0.5])) is None
    pixels, other = PixelPR([1e-9, 0.5]), PixelPR(get_threshold_list(0.001, kind))
    maps, gt = (
        torch.from_numpy(values[-5003:-3].clip(0, 3).reshape(2, 50, 50)),
        torch.ones(2, 50, 50),
    )
    pixels.add(maps, gt)
    assert pixels.counts.sum() == 5000
    other._add_on_device(maps, gt, torch.zeros(2, dtype=torch.int64))
    same = PixelPR(get_threshold_list(0.001, kind))
    same.add(maps, gt)
    assert torch.equal(same.counts, other.counts)


def test_average_precision_by_hand() -> None:
    # highest bin: 2 true, 0 false; next: 1 true, 3 false; lowest: 1 true, 4 false
    auc, recall, precision = pixel_average_precision(np.array([1, 1, 2]), np.array([4, 3, 0]))
    assert recall.tolist() == [0.5, 0.75, 1.0] and precision.tolist() == [1.0, 0.5, 4 / 11]
    assert auc == pytest.approx(100 * (0.25 * 0.5 + 0.25 * 4 / 11))
    with pytest.raises(RuntimeError, match="empty"):
        pixel_average_precision(np.zeros(3, int), np.array([4, 3, 0]))
