"""Evaluators, small functions and CUB's parts against numbers of the released code
(tests/golden/calm/README.md).
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calm import data_loaders, evaluation, util
from calm.prepare_metadata import build_cub_metadata
from calm.util_cub_trait import CUBTrait
from tests.calm.golden import close, from_json, load, text, write_cub

MAPS = load("maps_a")


@pytest.mark.parametrize("index", range(9))
@pytest.mark.parametrize("kind", ["max", "minmax", "clipping"])
def test_normalize_scoremap(index: int, kind: str) -> None:
    given = MAPS[f"norm/{index}/in"].copy()
    close(util.normalize_scoremap(given, kind), MAPS[f"norm/{index}/{kind}"], 1e-9)
    assert np.array_equal(given, MAPS[f"norm/{index}/in"], equal_nan=True)


@pytest.mark.parametrize("key", [k for k in MAPS if k.startswith("thr/")])
def test_threshold_list(key: str) -> None:
    _, kind, interval = key.split("/")
    close(np.array(util.get_threshold_list(float(interval), kind)), MAPS[key], 1e-9)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("k", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_topk_mask(index: int, k: float) -> None:
    mask = util.get_topk_to_zero_mask(torch.from_numpy(MAPS[f"topk/{index}/mu"]), k, "cpu")
    assert np.array_equal(mask.numpy(), MAPS[f"topk/{index}/{k}"])


@pytest.mark.parametrize("k", [0.05, 0.4, 0.95])
def test_topk_mask_with_ties(k: float) -> None:
    mu = torch.from_numpy(MAPS["tie/mu"])
    mask = util.get_topk_to_zero_mask(mu, k, "cpu")
    for row, zero in zip(mu.flatten(1), mask.flatten(1) == 0, strict=True):
        assert zero.sum() == int(k * 120)
        assert row[zero].min() >= row[~zero].max()
        edge = row == row[zero].min()  # among equals the lowest index goes first
        assert zero[edge].sort(descending=True).values.equal(zero[edge])


@pytest.mark.parametrize("kind", ["zero", "mean", "blur"])
def test_baselines(kind: str) -> None:
    close(
        util.get_baseline(kind, torch.from_numpy(MAPS["base/in"]), "cpu"),
        MAPS[f"base/{kind}"],
        1e-4,
    )


def test_resize() -> None:
    maps = MAPS["resize/in"]
    close(
        util.resize_scoremaps(torch.from_numpy(maps), "tensor")[:, :, ::7, ::5],
        MAPS["resize/tensor"],
        1e-4,
    )
    close(util.resize_scoremaps(maps, "numpy")[:, ::7, ::5], MAPS["resize/numpy_sub"], 1e-4)


@pytest.mark.parametrize("kind", ["even", "log"])
def test_mask_evaluator(kind: str) -> None:
    arrays = load("maskeval_a")
    thresholds = util.get_threshold_list(float(arrays["interval"]), kind)
    evaluator = evaluation.MaskEvaluator(
        metadata=None,
        dataset_name="CUB",
        split="test",
        threshold_list=thresholds,
        mask_root="",
        iou_thresholds=None,
    )
    first = None
    for scoremap, gt in zip(arrays[f"maps_{kind}"], arrays["gt"], strict=True):
        evaluator.accumulate(scoremap, "", gt)
        first = evaluator.compute()[0] if first is None else first
    auc, (recall, precision) = evaluator.compute()
    assert np.array_equal(evaluator.gt_true_score_hist, arrays[f"{kind}/hist_true"])
    assert np.array_equal(evaluator.gt_false_score_hist, arrays[f"{kind}/hist_false"])
    close(np.array([first, auc]), arrays[f"{kind}/auc_first_last"], 1e-9)
    close(recall, arrays[f"{kind}/recall"], 1e-9)
    close(np.nan_to_num(precision, nan=-1), arrays[f"{kind}/precision"], 1e-9)


def test_openimages_mask(tmp_path: Path) -> None:
    arrays = load("oimask_a")
    for name in ("mask0", "mask1", "ignore"):
        Image.fromarray(arrays[name]).save(tmp_path / f"{name}.png")
    mask = evaluation.get_mask(tmp_path, ["mask0.png", "mask1.png"], "ignore.png")
    assert np.array_equal(mask, arrays["out_ignore"])
    mask = evaluation.get_mask(tmp_path, ["mask0.png"], "ignore.png", use_ignore=False)
    assert np.array_equal(mask, arrays["out_noignore"])
    assert set(np.unique(evaluation.get_mask(tmp_path, ["mask0.png"], ""))) <= {0, 1}


BOXES = load("boxeval_a")


def sorted_boxes(boxes: list[np.ndarray]) -> list:
    return [sorted(b.tolist()) for b in boxes]


@pytest.mark.parametrize("multi", [False, True])
def test_boxes_from_scoremaps(multi: bool) -> None:
    expected = from_json(BOXES[f"boxes/{multi}"])
    for scoremap, theirs in zip(BOXES["maps_u8"], expected, strict=True):
        boxes, counts = evaluation.compute_bboxes_from_scoremaps(
            scoremap / 255.0, BOXES["thresholds"], multi
        )
        assert sorted_boxes(boxes) == theirs and counts == [len(b) for b in theirs]


def test_boxes_from_small_scoremaps() -> None:
    for scoremap, theirs in zip(BOXES["small_u8"], from_json(BOXES["small_boxes"]), strict=True):
        boxes, _ = evaluation.compute_bboxes_from_scoremaps(
            scoremap / 255.0, BOXES["thresholds"], True
        )
        assert sorted_boxes(boxes) == theirs


def test_iou_and_resize_bbox() -> None:
    close(evaluation.calculate_multiple_iou(BOXES["iou_a"], BOXES["iou_b"]), BOXES["iou"], 1e-9)
    for row, theirs in zip(
        BOXES["resize_bbox_in"].tolist(), BOXES["resize_bbox_out"].tolist(), strict=True
    ):
        assert list(evaluation.resize_bbox(row[:4], row[4:6], row[6:])) == theirs


@pytest.mark.parametrize("multi", [False, True])
def test_box_evaluator(tmp_path: Path, multi: bool) -> None:
    for key in BOXES:
        if key.startswith("meta/"):
            (tmp_path / key[5:]).write_text(text(BOXES[key]))
    metadata = data_loaders.configure_metadata(tmp_path)
    evaluator = evaluation.BoxEvaluator(
        metadata, "CUB", "test", BOXES["thresholds"], [30, 50, 70], "", multi
    )
    for image_id, scoremap in zip(
        data_loaders.get_image_ids(metadata), BOXES["maps_u8"], strict=True
    ):
        evaluator.accumulate(scoremap / 255.0, image_id)
    assert np.array_equal(evaluator.compute(), BOXES[f"eval/{multi}/maxboxacc"])
    assert np.array_equal(list(evaluator.num_correct.values()), BOXES[f"eval/{multi}/num_correct"])


def test_mask_paths_and_wsol_scoremap(tmp_path: Path) -> None:
    (tmp_path / "localization.txt").write_text(text(BOXES["maskmeta"]))
    assert list(
        data_loaders.get_mask_paths(data_loaders.configure_metadata(tmp_path))
    ) == from_json(BOXES["maskmeta_out"])
    maps = np.stack(
        [evaluation.wsol_scoremap(cam, (224, 224))[::7, ::7] for cam in BOXES["wsol_cam"]]
    )
    assert maps.dtype == np.float64
    close(maps, BOXES["wsol_map_sub"], 1e-4)


@pytest.fixture(scope="module")
def cub(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    return write_cub(tmp_path_factory.mktemp("golden") / "CUB")


def test_cub_attributes_and_pairs(cub: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, arrays = cub
    trait = CUBTrait(folder)
    assert sorted(trait.class2attribute) == [1, 2, 3, 4, 5]
    assert np.array_equal(
        [trait.class2attribute[c] for c in range(1, 6)], arrays["class2attribute"]
    )
    ours = {str(n): [list(p) for p in pairs] for n, pairs in trait.diff2class_pair_dict.items()}
    assert {k: v for k, v in ours.items() if k != "0"} == from_json(arrays["diff2class_pair"])


def test_cub_parts_and_masks(cub: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, arrays = cub
    trait = CUBTrait(folder)
    files = [str(file) for file in arrays["image_files"]]
    for n, (file, size) in enumerate(zip(files, arrays["image_sizes"].tolist(), strict=True)):
        coords, parts = trait._get_parts_union(trait.image_file2image_id[file], tuple(size))
        assert np.array_equal(coords, arrays[f"union/{n}/coords"])
        assert np.array_equal(parts, arrays[f"union/{n}/ids"])
    for p, pair in enumerate(arrays["pairs"].tolist()):
        for n, file in enumerate(files):
            mask = trait.get_pseudo_segment_mask(file, pair)
            assert (mask is None) == arrays["mask_is_none"][p, n]
            if mask is not None:
                theirs = np.unpackbits(arrays["mask_bits"][p, n]).reshape(224, 224)
                assert np.array_equal(mask, theirs)


def test_cub_metadata(cub: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    folder, arrays = cub
    build_cub_metadata(folder, tmp_path)
    for key in arrays:
        if key.startswith("metadata/"):
            assert (tmp_path / key[9:]).read_text().splitlines() == text(
                arrays[key]
            ).splitlines(), key
