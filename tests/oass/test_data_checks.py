"""Public functions of the method refuse what is outside their domain; schedules of short runs;
images by themselves.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from oass import build_pretrained
from oass import evaluate_metrics as E
from oass.core.csi import class_specific_instances
from oass.core.keypoints import (
    STRATEGIES,
    detect_keypoints,
    positive_pairs,
    scaled_distances,
    topk_peaks,
    upsample_cams,
)
from oass.core.losses import (
    class_loss,
    object_aware_losses,
    pair_targets,
    puzzle_losses,
    re_loss_weight,
    reconstruction_loss,
)
from oass.core.networks import Classifier
from oass.core.puzzle_utils import (
    merge_at_keypoints,
    merge_features,
    tile_at_keypoints,
    tile_features,
)
from oass.data_randaugment import RandAugmentMC
from oass.data_views import views_of
from oass.evaluate import measure
from oass.tools.ai import augment_utils as A
from oass.tools.ai import torch_utils as T
from oass.tools.ai.optim_utils import PolyOptimizer, update_ema_variables

LABELS = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
CAMS = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ONE = torch.zeros(1, dtype=torch.int64)
POINT = torch.tensor([[5, 6]])
LINEAR = nn.Linear(1, 1)


def labels_with(value):
    labels = LABELS.clone()
    labels[1, 0] = value
    return labels


def cams_with(value):
    cams = CAMS.clone()
    cams[0, 1, 2, 3] = value
    return cams


def poly(**changed):
    settings = {"lr": 0.1, "weight_decay": 1e-4, "warmup_epoch": 0, "max_step": 5, **changed}
    return PolyOptimizer([nn.Parameter(torch.ones(2))], **settings)


def confusion(truth, predicted=((0, 1),)):
    E.Calculator_For_mIoU(["a", "b"]).add(np.array(predicted), np.array(truth))


STRANGE = (0.9, 2.0, -1.0, math.nan)
REFUSED = {
    **{f"class_loss {v}": (lambda v=v: class_loss(torch.zeros(2, 3), labels_with(v)), "targets") for v in STRANGE},
    **{f"detect_keypoints {v}": (lambda v=v: detect_keypoints(CAMS, labels_with(v), "cMax", 64), r"labels.*\[1, 0\]")
       for v in STRANGE},
    **{f"positive_pairs {v}": (lambda v=v: positive_pairs(labels_with(v)), "labels") for v in STRANGE},
    **{f"pair_targets {v}": (lambda v=v: pair_targets(labels_with(v), ONE, ONE), "labels") for v in STRANGE},
    "detect_keypoints max 0.9": (lambda: detect_keypoints(CAMS, labels_with(0.9), "max", 64), "labels"),
    "detect_keypoints of a NaN map": (lambda: detect_keypoints(cams_with(math.nan), LABELS, "max", 64), "cams.*NaN"),
    "detect_keypoints of an infinite map": (lambda: detect_keypoints(cams_with(math.inf), LABELS, "cMax", 64), "cams"),
    "detect_keypoints k": (lambda: detect_keypoints(CAMS, LABELS, "cTopk", 64, k=0), "k 0"),
    "detect_keypoints half a peak": (lambda: detect_keypoints(CAMS, LABELS, "cTopk", 64, k=2.5), "k 2.5"),
    "detect_keypoints distance": (lambda: detect_keypoints(CAMS, LABELS, "cTopk", 64, min_distance=0), "min_distance"),
    "detect_keypoints radius": (lambda: detect_keypoints(CAMS, LABELS, "cTopk", 64, radius=-1), "radius"),
    "detect_keypoints small image": (lambda: detect_keypoints(CAMS, LABELS, "cTopk", 4), "image_size"),
    "detect_keypoints rule": (lambda: detect_keypoints(CAMS, LABELS, "cTopk", 64, rule="ours"), "rule.*choose"),
    "detect_keypoints strategy": (lambda: detect_keypoints(CAMS, LABELS, "uniform", 64), "strategy.*choose"),
    "detect_keypoints shapes": (lambda: detect_keypoints(CAMS, LABELS[:, :2], "cMax", 64), "labels: shape"),
    "detect_keypoints pairs": (lambda: detect_keypoints(CAMS, LABELS, "cMax", 64, pairs=(ONE + 2, ONE)), "pairs"),
    "topk_peaks k": (lambda: topk_peaks(CAMS[0], 0), "k 0"),
    "topk_peaks distance": (lambda: topk_peaks(CAMS[0], 5, 0), "min_distance 0"),
    "topk_peaks NaN": (lambda: topk_peaks(cams_with(math.nan)[0], 5, 1), "maps"),
    "topk_peaks rank": (lambda: topk_peaks(CAMS, 5, 1), "maps: shape"),
    "upsample_cams size": (lambda: upsample_cams(CAMS, 0), "size"),
    "upsample_cams rank": (lambda: upsample_cams(CAMS[0, 0], 8), "cams: shape"),
    "scaled_distances": (lambda: scaled_distances(0), "image_size"),
    "tile_at_keypoints row 0": (lambda: tile_at_keypoints(CAMS, ONE, torch.tensor([[0, 4]])), "keypoints: 0"),
    "tile_at_keypoints column S": (lambda: tile_at_keypoints(CAMS, ONE, torch.tensor([[4, 8]])), "keypoints: 8"),
    "tile_at_keypoints image": (lambda: tile_at_keypoints(CAMS, ONE + 2, POINT), "image_index"),
    "tile_at_keypoints image from the end": (lambda: tile_at_keypoints(CAMS, ONE - 1, POINT), "image_index"),
    "tile_at_keypoints patch": (lambda: tile_at_keypoints(CAMS, ONE, POINT, 0), "patch_size"),
    "merge_at_keypoints outside": (lambda: merge_at_keypoints(torch.rand(1, 4, 3, 2, 2), POINT + 64, 64), "keypoints"),
    "merge_at_keypoints tiles": (lambda: merge_at_keypoints(torch.rand(1, 3, 3, 2, 2), POINT, 64), "tile_features"),
    "merge_at_keypoints grid": (lambda: merge_at_keypoints(torch.rand(1, 4, 3, 2, 2), POINT, 64, 1), "grid_size"),
    "tile_features square": (lambda: tile_features(CAMS, 3), "square"),
    "tile_features divisible": (lambda: tile_features(CAMS, 9), "9|3 x 3"),
    "merge_features count": (lambda: merge_features(CAMS, 4, 1), "2 pieces"),
    "pair_targets image": (lambda: pair_targets(LABELS, ONE + 2, ONE), "image_index"),
    "pair_targets class": (lambda: pair_targets(LABELS, ONE, ONE + 3), "class_index"),
    "pair_targets class below -1": (lambda: pair_targets(LABELS, ONE, ONE - 2), "class_index"),
    "reconstruction_loss name": (lambda: reconstruction_loss(CAMS, CAMS, LABELS, "L3_Loss"), "re_loss.*choose"),
    "reconstruction_loss option": (lambda: reconstruction_loss(CAMS, CAMS, LABELS, option="mask"), "option.*choose"),
    "reconstruction_loss mask": (lambda: reconstruction_loss(CAMS, CAMS, labels_with(0.5)), "mask"),
    "reconstruction_loss shapes": (lambda: reconstruction_loss(CAMS, CAMS[:, :, :4], LABELS), "merged"),
    "puzzle_losses": (lambda: puzzle_losses(CAMS, CAMS[:1], labels_with(0.9), ONE, ONE), "labels"),
    "re_loss_weight alpha": (lambda: re_loss_weight(-1, 0.5, 0, 10), "alpha_re"),
    "re_loss_weight NaN": (lambda: re_loss_weight(1, math.nan, 0, 10), "alpha_schedule_re"),
    "re_loss_weight iteration": (lambda: re_loss_weight(1, 0.5, -1, 10), "iteration"),
    "re_loss_weight no step": (lambda: re_loss_weight(1, 0.5, 0, 0), "max_iteration"),
    "class_specific_instances": (lambda: class_specific_instances(CAMS, CAMS[:, :, :4]), "cams: shape"),
    "Classifier": (lambda: Classifier("resnet_tiny", 0, pretrained=False), "num_classes"),
    "make_cam": (lambda: T.make_cam(CAMS, 0), "epsilon"),
    "one_hot_embedding": (lambda: T.one_hot_embedding([-1], 3), "-1 is none of 3"),
    "average_precision 0.9": (lambda: E.average_precision(CAMS[0, 0, :2, :3], labels_with(0.9)), "labels: 0.9"),
    "average_precision NaN": (lambda: E.average_precision(np.array([[math.nan]]), np.ones((1, 1))), "scores: NaN"),
    "average_precision shapes": (lambda: E.average_precision(np.ones((2, 3)), np.ones((3, 2))), "expected"),
    "average_precision_ties": (lambda: E.average_precision_ties(np.ones((1, 1)), np.full((1, 1), 2)), "labels: 2"),
    "average_precision_voc2010": (lambda: E.average_precision_voc2010(np.ones((1, 1)), np.full((1, 1), -1)), "-1"),
    "average_precision_ignoring": (
        lambda: E.average_precision_ignoring(np.ones((2, 1)), np.ones((2, 1)), np.ones((1, 1), bool)), "ignore"),
    "mean_average_precision": (lambda: E.mean_average_precision(np.ones((1, 1)), np.full((1, 1), 0.5)), "0.5"),
    "Calculator_For_mIoU 128": (lambda: confusion([[0, 128]]), "gt_mask: 128"),
    "Calculator_For_mIoU -1": (lambda: confusion([[0, -1]]), "gt_mask: -1"),
    "Calculator_For_mIoU prediction": (lambda: confusion([[0, 1]], [[0, 3]]), "pred_mask"),
    "Calculator_For_mIoU shapes": (lambda: confusion([[0], [1]]), "equal shapes"),
    "PolyOptimizer steps": (lambda: poly(max_step=0), "max_step"),
    "PolyOptimizer warm-up": (lambda: poly(warmup_epoch=-1), "warmup_epoch"),
    "PolyOptimizer power": (lambda: poly(momentum=-1), "momentum"),
    "PolyOptimizer lr": (lambda: poly(lr=math.nan), "lr"),
    "PolyOptimizer epoch": (lambda: poly(steps_per_epoch=0), "steps_per_epoch"),
    "update_ema_variables alpha": (lambda: update_ema_variables(LINEAR, LINEAR, 1.5, 3), "alpha"),
    "update_ema_variables step": (lambda: update_ema_variables(LINEAR, LINEAR, 0.5, -1), "global_step"),
    "RandomResize order": (lambda: A.RandomResize(80, 64), "max_image_size"),
    "RandomResize zero": (lambda: A.RandomResize(0, 64), "min_image_size"),
    "RandomCrop": (lambda: A.RandomCrop(0), "crop_size"),
    "Top_Left_Crop": (lambda: A.Top_Left_Crop_For_Segmentation(-1), "crop_size"),
    "RandAugmentMC strength": (lambda: RandAugmentMC(2, 11), "m 11"),
    "RandAugmentMC count": (lambda: RandAugmentMC(-1, 10), "n -1"),
    "views_of": (lambda: views_of(64, (0.0,)), "scale"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_outside_the_domain_is_a_value_error_that_names_it(name):
    call, told = REFUSED[name]
    with pytest.raises(ValueError, match=told):
        call()


STEP = {
    "labels": ({"labels": 0.9}, "labels: 0.9"),
    "a missing label": ({"labels": math.nan}, "labels: nan"),
    "strategy": ({"strategy": "cmax"}, "strategy.*choose"),
    "p_loss": ({"p_loss": "nobody"}, "p_loss.*choose"),
    "p_target": ({"p_target": "all"}, "p_target.*choose"),
    "level": ({"level": "pixel"}, "level.*choose"),
    "teacher_bn": ({"teacher_bn": "train"}, "teacher_bn.*choose"),
    "re_loss": ({"re_loss": "L3"}, "re_loss.*choose"),
    "rule": ({"rule": "ours"}, "rule.*choose"),
    "k": ({"k": 0}, "k 0"),
}


@pytest.mark.parametrize("name", STEP)
def test_a_step_refuses_wrong_labels_and_names(name):
    changed, told = STEP[name]
    labels = torch.zeros(2, 20)
    labels[0, 3] = changed.pop("labels", 1)
    options = {"strategy": "cTopk", **changed}
    model = Classifier("resnet_tiny", 20, pretrained=False)
    with pytest.raises(ValueError, match=told):
        object_aware_losses(model, model, torch.randn(2, 3, 64, 64), labels, **options)


def test_where_values_cannot_be_looked_at_a_wrong_target_makes_the_loss_nan():
    logits = torch.zeros(2, 3)
    for call in (torch.func.vmap(lambda t: class_loss(logits[:1], t[None])[0]), torch.compile(
            lambda t: class_loss(logits, t), backend="eager", fullgraph=True)):  # fmt: skip
        assert call(LABELS).isfinite().all()
        found = call(labels_with(0.9))
        assert found[0].isfinite() and found[1].isnan()


def test_whole_numbers_of_any_kind_are_fine():
    for k in (5, np.int64(5), 5.0):
        assert topk_peaks(CAMS[0], int(k), np.int64(1))[0].shape == (3, 5, 2)
    assert class_loss(torch.zeros(2, 3), LABELS.bool().float()).shape == (2,)
    assert E.average_precision(np.ones((2, 1)), np.array([[True], [False]])).any() is not None
    confusion([[255, 2]])


# --- schedules of 1 to 12 steps ---


@pytest.mark.parametrize("steps", range(1, 13))
@pytest.mark.parametrize("warmup", [0, 1, 2, 5])
def test_the_polynomial_schedule_of_short_runs(steps, warmup):
    for per_epoch in {1, max(1, steps // 2), steps}:
        optimizer = poly(
            max_step=steps, warmup_epoch=warmup, steps_per_epoch=per_epoch, nesterov=True
        )
        for step in range(steps + 2):
            optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
            optimizer.step()
            wanted = (1 - step / steps) ** 0.9 if step < steps else 0.0
            if step < (warmup - 1) * per_epoch:
                wanted = (step // per_epoch + 1) / warmup
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * wanted, abs=1e-15)
        assert optimizer.param_groups[0]["params"][0].isfinite().all()


@pytest.mark.parametrize("steps", range(1, 13))
def test_the_ramp_and_the_average_of_short_runs(steps):
    for schedule in (0.0, 0.05, 0.5, 1.0, 2.0):
        for i in range(steps + 1):
            wanted = 3.0 if schedule == 0 else min(3.0 * i / (steps * schedule), 3.0)
            assert re_loss_weight(3.0, schedule, i, steps) == pytest.approx(wanted)
    student, teacher = nn.Linear(2, 2), nn.Linear(2, 2)
    for i in range(steps):
        update_ema_variables(student, teacher, 0.99, i)
    assert torch.equal(student.weight, teacher.weight)  # the first step copies


@pytest.mark.parametrize("steps", range(1, 13))
def test_the_samples_pretraining_in_few_steps(steps, tmp_path, monkeypatch):
    monkeypatch.setattr(build_pretrained, "STEPS", steps)
    monkeypatch.setattr(build_pretrained, "BATCH", 2)
    assert 0 <= build_pretrained.pretrain("resnet_tiny", tmp_path / "weights.pt") <= 1
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(value.isfinite().all() for value in state.values())


# --- no image depends on its neighbours ---


def test_maps_keypoints_peaks_and_instances_of_an_image_do_not_depend_on_its_neighbours():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(4, 6, 8, 8, generator=generator)
    features[2] *= 1000  # a bright neighbour
    labels = (torch.rand(4, 6, generator=generator) < 0.5).float()
    x = torch.rand(4, 5, 8, 8, generator=generator)
    cams = T.make_cam(features)
    for strategy in STRATEGIES:
        for rule in ("paper", "released"):
            together = detect_keypoints(cams, labels, strategy, 64, rule=rule)
            for b in range(4):
                alone = detect_keypoints(
                    T.make_cam(features[b : b + 1]), labels[b : b + 1], strategy, 64, rule=rule
                )
                mine = together.keypoints[together.image_index == b]
                assert torch.equal(mine, alone.keypoints)
    for b in range(4):
        alone = T.make_cam(features[b : b + 1])
        assert torch.equal(cams[b : b + 1], alone)
        for c in range(6):
            assert torch.equal(cams[b, c], T.make_cam(features[b, c]))
        torch.testing.assert_close(
            class_specific_instances(x, cams)[b], class_specific_instances(x[b : b + 1], alone)[0]
        )


def test_measure_of_scores_that_are_all_there(devkit):
    """A NaN score would be ranked last without a word."""
    from oass.core.datasets import VOC_Dataset_For_Classification
    from oass.evaluate import Scores

    split = VOC_Dataset_For_Classification(devkit, "val").split
    n, C = split.labels.shape
    scores = Scores(
        torch.full((n, C), math.nan),
        torch.zeros(n, C, 2, dtype=torch.int64),
        torch.ones(n, C).bool(),
    )
    with pytest.raises(ValueError, match="scores: NaN"):
        measure(scores, split)
