"""Public functions of the method refuse what is outside their domain; schedules of short runs;
images by themselves.
"""

import math
from functools import partial

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


ONES = np.ones((1, 1))
TILES = torch.rand(1, 4, 3, 2, 2)
NAN_CAMS = cams_with(math.nan)

# What the refusal says, the function, its arguments.
REFUSED = [
    ("labels", detect_keypoints, CAMS, labels_with(0.9), "max", 64),
    ("cams.*NaN", detect_keypoints, NAN_CAMS, LABELS, "max", 64),
    ("cams", detect_keypoints, cams_with(math.inf), LABELS, "cMax", 64),
    ("k 0", partial(detect_keypoints, k=0), CAMS, LABELS, "cTopk", 64),
    ("k 2.5", partial(detect_keypoints, k=2.5), CAMS, LABELS, "cTopk", 64),
    ("min_distance", partial(detect_keypoints, min_distance=0), CAMS, LABELS, "cTopk", 64),
    ("radius", partial(detect_keypoints, radius=-1), CAMS, LABELS, "cTopk", 64),
    ("image_size", detect_keypoints, CAMS, LABELS, "cTopk", 4),
    ("rule.*choose", partial(detect_keypoints, rule="ours"), CAMS, LABELS, "cTopk", 64),
    ("strategy.*choose", detect_keypoints, CAMS, LABELS, "uniform", 64),
    ("labels: shape", detect_keypoints, CAMS, LABELS[:, :2], "cMax", 64),
    ("pairs", partial(detect_keypoints, pairs=(ONE + 2, ONE)), CAMS, LABELS, "cMax", 64),
    ("k 0", topk_peaks, CAMS[0], 0),
    ("min_distance 0", topk_peaks, CAMS[0], 5, 0),
    ("maps", topk_peaks, NAN_CAMS[0], 5, 1),
    ("maps: shape", topk_peaks, CAMS, 5, 1),
    ("size", upsample_cams, CAMS, 0),
    ("cams: shape", upsample_cams, CAMS[0, 0], 8),
    ("image_size", scaled_distances, 0),
    ("keypoints: 0", tile_at_keypoints, CAMS, ONE, torch.tensor([[0, 4]])),
    ("keypoints: 8", tile_at_keypoints, CAMS, ONE, torch.tensor([[4, 8]])),
    ("image_index", tile_at_keypoints, CAMS, ONE + 2, POINT),
    ("image_index", tile_at_keypoints, CAMS, ONE - 1, POINT),
    ("patch_size", tile_at_keypoints, CAMS, ONE, POINT, 0),
    ("keypoints", merge_at_keypoints, TILES, POINT + 64, 64),
    ("tile_features", merge_at_keypoints, TILES[:, :3], POINT, 64),
    ("grid_size", merge_at_keypoints, TILES, POINT, 64, 1),
    ("square", tile_features, CAMS, 3),
    ("9|3 x 3", tile_features, CAMS, 9),
    ("2 pieces", merge_features, CAMS, 4, 1),
    ("image_index", pair_targets, LABELS, ONE + 2, ONE),
    ("class_index", pair_targets, LABELS, ONE, ONE + 3),
    ("class_index", pair_targets, LABELS, ONE, ONE - 2),  # below -1, which means all classes
    ("re_loss.*choose", reconstruction_loss, CAMS, CAMS, LABELS, "L3_Loss"),
    ("option.*choose", partial(reconstruction_loss, option="mask"), CAMS, CAMS, LABELS),
    ("mask", reconstruction_loss, CAMS, CAMS, labels_with(0.5)),
    ("merged", reconstruction_loss, CAMS, CAMS[:, :, :4], LABELS),
    ("labels", puzzle_losses, CAMS, CAMS[:1], labels_with(0.9), ONE, ONE),
    ("alpha_re", re_loss_weight, -1, 0.5, 0, 10),
    ("alpha_schedule_re", re_loss_weight, 1, math.nan, 0, 10),
    ("iteration", re_loss_weight, 1, 0.5, -1, 10),
    ("max_iteration", re_loss_weight, 1, 0.5, 0, 0),
    ("cams: shape", class_specific_instances, CAMS, CAMS[:, :, :4]),
    ("num_classes", partial(Classifier, pretrained=False), "resnet_tiny", 0),
    ("epsilon", T.make_cam, CAMS, 0),
    ("-1 is none of 3", T.one_hot_embedding, [-1], 3),
    ("labels: 0.9", E.average_precision, CAMS[0, 0, :2, :3], labels_with(0.9)),
    ("scores: NaN", E.average_precision, np.array([[math.nan]]), ONES),
    ("expected", E.average_precision, np.ones((2, 3)), np.ones((3, 2))),
    ("labels: 2", E.average_precision_ties, ONES, 2 * ONES),
    ("-1", E.average_precision_voc2010, ONES, -ONES),
    ("ignore", E.average_precision_ignoring, np.ones((2, 1)), np.ones((2, 1)), ONES > 0),
    ("0.5", E.mean_average_precision, ONES, ONES / 2),
    ("gt_mask: 128", confusion, [[0, 128]]),
    ("gt_mask: -1", confusion, [[0, -1]]),
    ("pred_mask", confusion, [[0, 1]], [[0, 3]]),
    ("equal shapes", confusion, [[0], [1]]),
    ("max_step", partial(poly, max_step=0)),
    ("warmup_epoch", partial(poly, warmup_epoch=-1)),
    ("momentum", partial(poly, momentum=-1)),
    ("lr", partial(poly, lr=math.nan)),
    ("steps_per_epoch", partial(poly, steps_per_epoch=0)),
    ("alpha", update_ema_variables, LINEAR, LINEAR, 1.5, 3),
    ("global_step", update_ema_variables, LINEAR, LINEAR, 0.5, -1),
    ("max_image_size", A.RandomResize, 80, 64),
    ("min_image_size", A.RandomResize, 0, 64),
    ("crop_size", A.RandomCrop, 0),
    ("crop_size", A.Top_Left_Crop_For_Segmentation, -1),
    ("m 11", RandAugmentMC, 2, 11),
    ("n -1", RandAugmentMC, -1, 10),
    ("scale", views_of, 64, (0.0,)),
]
for strange in map(labels_with, (0.9, 2.0, -1.0, math.nan)):
    REFUSED += [
        ("targets", class_loss, torch.zeros(2, 3), strange),
        (r"labels.*\[1, 0\]", detect_keypoints, CAMS, strange, "cMax", 64),
        ("labels", positive_pairs, strange),
        ("labels", pair_targets, strange, ONE, ONE),
    ]


def name_of(case):
    """What a report calls the case: the function and what it says."""
    told, function, *_ = case
    function = getattr(function, "func", function)
    return f"{function.__name__} {told}"


@pytest.mark.parametrize("case", REFUSED, ids=name_of)
def test_what_is_outside_the_domain_is_a_value_error_that_names_it(case):
    told, function, *arguments = case
    with pytest.raises(ValueError, match=told):
        function(*arguments)


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


def test_under_compile_and_vmap_a_wrong_target_makes_the_loss_nan():
    """There the values cannot be looked at."""
    logits = torch.zeros(2, 3)
    mapped = torch.func.vmap(lambda t: class_loss(logits[:1], t[None])[0])
    whole = partial(class_loss, logits)
    for call in (mapped, torch.compile(whole, backend="eager", fullgraph=True)):
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


def test_what_is_found_in_an_image_does_not_depend_on_its_neighbours():
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
