"""The original's names, called as its own scripts call them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from calm import eval_cue_location, evaluation, main
from calm.build import build_tester
from calm.config import get_configs
from calm.evaluation import check_box_convention, load_mask_image, resize_bbox
from calm.options import parse
from calm.util import (
    check_scoremap_validity,
    get_scoremaps,
    get_topk_to_zero_mask,
    normalize_scoremap,
    random_mask_generator,
    resize_scoremap,
)
from common.cli import UserError
from tests.calm.conftest import TRAIN, flags


def test_boxes_may_be_one_or_many() -> None:
    check_box_convention(np.array([1, 2, 3, 4]), "x0y0x1y1")
    check_box_convention(np.array([[5, 5, 1, 1]]), "xywh")
    for wrong in ([[3, 2, 1, 4]], [-1, 0, 2, 2], [1, 2, 3], np.zeros((1, 2, 4))):
        with pytest.raises(RuntimeError):
            check_box_convention(np.asarray(wrong), "x0y0x1y1")
    with pytest.raises(ValueError, match="xywh"):
        check_box_convention(np.zeros((1, 4)), "centre")
    assert resize_bbox((10, 20, 30, 41), (100, 200), (224, 224)) == (22, 22, 67, 45)


def test_masks_and_evaluators(tmp_path: Path) -> None:
    Image.fromarray(np.eye(30, dtype=np.uint8)).save(tmp_path / "m.png")
    assert load_mask_image(tmp_path / "m.png", (20, 10)).shape == (10, 20)
    assert load_mask_image(tmp_path / "m.png").shape == (224, 224)
    assert (
        eval_cue_location.MaskEvaluator is evaluation.MaskEvaluator
        and eval_cue_location.NUM_DIFF_LIST == [1, 2, 3]
    )


def test_keyword_names() -> None:
    scoremap = np.eye(4)
    boxes, counts = evaluation.compute_bboxes_from_scoremaps(
        scoremap=scoremap, thresholds=[0.5], multi_contour_eval=False
    )
    assert len(boxes) == 1 and counts == [1]
    assert normalize_scoremap(map=scoremap * 2, norm_type="max").max() == 1


def test_a_mask_evaluator_wants_its_data_set_and_masks_of_the_maps_shape() -> None:
    for error in (UserError, ValueError):
        with pytest.raises(error, match="ILSVRC has no masks"):
            evaluation.MaskEvaluator(None, "ILSVRC", "test", [0.0, 0.5])
    scoremap, mask = np.random.default_rng(0).random((4, 6)), np.eye(4, 6, dtype=np.uint8)
    plain, turned = (evaluation.MaskEvaluator(None, "CUB", "test", [0.0, 0.5]) for _ in range(2))
    with pytest.raises(
        ValueError, match=r"bird.jpg: a mask of shape \(6, 4\) for a map of shape \(4, 6\)"
    ):
        plain.accumulate(scoremap, "bird.jpg", mask.T)
    plain.accumulate(scoremap, "", mask)
    turned.accumulate(scoremap[::-1, ::-1], "", mask[::-1, ::-1])
    assert plain.compute()[0] == turned.compute()[0] and plain.gt_true_score_hist.sum() == 4
    assert np.array_equal(
        resize_scoremap(scoremap[::-1], (8, 6)), resize_scoremap(scoremap[::-1].copy(), (8, 6))
    )


def test_masks_of_one_image_and_no_pixel() -> None:
    mu = torch.arange(12.0).view(1, 1, 3, 4)
    assert (
        get_topk_to_zero_mask(mu, 0.0, "cpu").sum() == 12
        and get_topk_to_zero_mask(mu, 1.0, "cpu").sum() == 0
    )
    assert (
        get_topk_to_zero_mask(mu.double(), 0.25, "cpu").flatten().tolist() == [1.0] * 9 + [0.0] * 3
    )
    drawn = random_mask_generator(torch.zeros(2, 3, 5, 4), "cpu", 0.3)
    assert drawn.shape == (2, 1, 5, 4) and drawn.sum((1, 2, 3)).tolist() == [14.0, 14.0]


def test_validity_of_a_score_map() -> None:
    check_scoremap_validity(np.zeros((2, 3)))
    for wrong, error in (
        (np.zeros((2, 3), np.float32), TypeError),
        ([[0.0]], TypeError),
        (np.zeros(3), ValueError),
        (np.full((2, 2), np.nan), ValueError),
        (np.full((2, 2), 1.1), ValueError),
    ):
        with pytest.raises(error, match="bird.jpg"):
            check_scoremap_validity(wrong, "bird.jpg")


def test_scoremaps_of_a_tester(birds: Path, save_root: Path) -> None:
    images, labels = torch.randn(2, 3, 64, 64), torch.tensor([0, 5])
    for process, shape in (("jointll", (2, 16, 16)), ("input_grad", (2, 64, 64))):
        given = flags(birds, save_root, "--score_map_process", process)
        settings = parse(given, script="eval_wsol")
        tested = build_tester(settings, "maps")
        released = SimpleNamespace(model=tested.model, args=settings.args)
        maps = get_scoremaps(released, images, labels, "CUB")
        assert maps.shape == shape and maps.dtype == np.float32
        assert np.allclose(maps, tested.mapper(images, labels).numpy(), atol=1e-6)


def test_a_trainer_takes_what_get_configs_gives(birds: Path, tmp_path: Path) -> None:
    args = get_configs(
        [
            *TRAIN,
            "--data_root",
            str(birds),
            "--output_dir",
            str(tmp_path / "r"),
            "--architecture=small",
            "--pretrained=False",
            "--workers=0",
        ]
    )
    trainer = main.Trainer(args)
    assert trainer._CHECKPOINT_NAME_TEMPLATE.format("last") == "last_checkpoint.pth.tar"
    assert trainer._NUM_CLASSES_MAPPING == {"CUB": 200, "ILSVRC": 1000, "OpenImages": 100}
    trainer.adjust_learning_rate(1)
    before = trainer.model.conv_last.weight.clone()
    trainer.train(split="train")
    assert not torch.equal(before, trainer.model.conv_last.weight)
    assert 0 <= trainer.evaluate_cls("val")["accuracy"] <= 100
    trainer.save_checkpoint(1)
    trainer.load_checkpoint(str(tmp_path / "r/last_checkpoint.pth.tar"))
