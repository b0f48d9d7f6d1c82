"""Values outside a public function's domain are an error, not a number."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from calm import (
    eval_pixel_perturb,
    evaluate_erasing,
    evaluate_maps,
    evaluation,
    network,
    options_names,
    util,
)
from calm.data_loaders import configure_metadata
from calm.evaluate_cue import CueLocaliser
from calm.evaluate_erasing import area_under, erase_and_classify, probability_curves
from calm.evaluate_maps import ScoreMapper
from calm.evaluate_pixels import PixelPR
from calm.method import require_labels
from calm.network.universal import UniversalProcess
from calm.network.util import load_checkpoint
from calm.score_map_method import GRADIENT_PROCESSES, activation_map, integrated_grad, smooth_grad
from calm.score_map_method.baselines import noise_tunnel
from calm.util_cub_trait import CUBTrait
from common.cli import UserError, run_main
from common.domain import DomainError, is_readable
from tests.calm.conftest import flags

METHODS = ("CAM", "CALM-EM", "CALM-ML")
GROUPS = {0: [0, 1], 1: [1, 2], 2: [2, 0]}


def model(method: str = "CALM-EM") -> network.AttributionNet:
    torch.manual_seed(0)
    return network.small(num_classes=3, attribution_method=method).eval()


IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [-100, 1]])
def test_labels_that_are_no_class(method: str, labels: list[int]) -> None:
    """-1 would be the last class, -100 a loss of exactly 0."""
    net, y = model(method), torch.tensor(labels)
    strange = r"must be in 0\.\.2, found"
    with pytest.raises(ValueError, match=f"labels {strange}"):
        net(IMAGES, y, with_loss=True)
    for process in ("vanilla", "saliency", "gtcond", "jointll", "jointll-superclass"):
        with pytest.raises(ValueError, match=f"labels {strange}"):
            activation_map(net, IMAGES, y, process, GROUPS)
    for function in GRADIENT_PROCESSES.values():
        for variant in ("released", "standard"):
            with pytest.raises(ValueError, match=f"targets {strange}"):
                function(model=net, images=IMAGES, targets=y, ig_variant=variant)


def test_labels_of_another_kind_or_number() -> None:
    net = model()
    with pytest.raises(ValueError, match="labels must be whole numbers, not torch.float32"):
        net(IMAGES, torch.tensor([0.0, 1.0]), with_loss=True)
    with pytest.raises(ValueError, match=r"labels must be \(2,\), not \(1,\)"):
        net(IMAGES, torch.tensor([0]), with_loss=True)
    with pytest.raises(ValueError, match=r"labels must be \(2,\), not \(2, 1\)"):
        net(IMAGES, torch.tensor([[0], [1]]), return_cam="jointll")
    assert net(IMAGES, None, return_cam="vanilla-saliency").shape == (2, 8, 8)  # of no label


def test_cams_loss_is_the_cross_entropy() -> None:
    net, y = model("CAM"), torch.tensor([0, 2])
    logits = net(IMAGES)["logits"]
    assert torch.equal(
        net(IMAGES, y, with_loss=True)["loss"],
        nn.functional.cross_entropy(logits, y, reduction="none"),
    )


def test_a_negative_prior_or_posterior() -> None:
    process = UniversalProcess("CALM-EM")
    f, features = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)
    attention = torch.rand(2, 1, 4, 4)
    attention[1, 0, 2, 2] = -0.5
    process.set_layers(None, nn.Conv2d(5, 1, 1))
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="the attention must not be negative, found -0.5"):
        process.loss(f, features, y, attention)
    with pytest.raises(ValueError, match="the attention must not be negative"):
        process.input_for_loss(f, features, attention)
    good = attention.abs()
    with pytest.raises(ValueError, match="the posterior must not be negative"):
        process.loss(f, features, y, good, posterior=attention[:, 0])
    with pytest.raises(ValueError, match=r"the posterior must be \(2, 4, 4\), not \(2, 3, 3\)"):
        process.loss(f, features, y, good, posterior=torch.rand(2, 3, 3))
    attention[1, 0, 2, 2] = torch.nan  # goes through: the guard of a run tells of which images
    assert process.loss(f, features, y, attention)["loss"].isnan().tolist() == [False, True]


def test_groups_of_classes_that_there_are_not() -> None:
    net, y = model(), torch.tensor([0, 1])
    for member in (3, -1):
        with pytest.raises(
            ValueError, match=rf"the group of label 1 holds {member}; classes are 0\.\.2"
        ):
            activation_map(net, IMAGES, y, "jointll-superclass", {0: [0], 1: [1, member]})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda net, x, y: smooth_grad(net, x, y, smooth_grad_nr_iter=0),
            "smooth_grad_nr_iter 0: expected a finite number at least 1",
        ),
        (
            lambda net, x, y: smooth_grad(net, x, y, smooth_grad_sigma=0.0),
            "smooth_grad_sigma .*: expected a finite number above 0",
        ),
        (
            lambda net, x, y: smooth_grad(net, x, y, smooth_grad_sigma=float("nan")),
            "smooth_grad_sigma nan: expected a finite number above 0",
        ),
        (
            lambda net, x, y: integrated_grad(net, x, y, integrated_grad_nr_iter=0),
            "integrated_grad_nr_iter 0: expected",
        ),
        (
            lambda net, x, y: integrated_grad(net, x, y, ig_variant="captum"),
            "choose from released, standard",
        ),
        (
            lambda net, x, y: noise_tunnel(net, x, y, smooth_grad_nr_iter=0),
            "smooth_grad_nr_iter 0: expected a finite number at least 1",
        ),
        (
            lambda net, x, y: noise_tunnel(net, x, y, smooth_grad_sigma=-1.0),
            "smooth_grad_sigma .*: expected a finite number above 0",
        ),
        (lambda net, x, y: noise_tunnel(net, x, y, kind="median"), "choose from smoothgrad"),
    ],
)
def test_numbers_of_gradient_maps(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(model(), IMAGES, torch.tensor([0, 1]))


@pytest.mark.parametrize("k", [-0.1, 1.1, float("nan")])
def test_shares_of_pixels(k: float) -> None:
    """-0.1 would erase all but a tenth."""
    mu = torch.rand(2, 1, 4, 5)
    with pytest.raises(ValueError, match="k .*: expected a finite number at least 0 and at most 1"):
        evaluate_erasing.get_topk_to_zero_mask(mu, k)
    with pytest.raises(ValueError, match="k .*: expected a finite number at least 0 and at most 1"):
        evaluate_erasing.random_mask_generator(mu, "cpu", k)
    with pytest.raises(ValueError, match="k .*: expected a finite number at least 0 and at most 1"):
        erase_and_classify(
            model(), IMAGES, torch.tensor([0, 1]), torch.rand(2, 1, 32, 32), [0.5, k]
        )


def test_maps_with_nan_have_no_order() -> None:
    mu = torch.rand(1, 1, 4, 5)
    mu[0, 0, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="a score map must not hold NaN"):
        evaluate_erasing.rank_pixels(mu)


def test_smoothing_curves_and_thresholds() -> None:
    for size in (0, 4, -3):
        with pytest.raises(ValueError, match="must be odd and positive"):
            evaluate_maps.smoothing(torch.rand(1, 8, 8), size)
    with pytest.raises(ValueError, match="sigma 0.0: expected a finite number above 0"):
        evaluate_maps.GaussianSmoothing(3, 5, 0.0)
    with pytest.raises(ValueError, match="steps 0: expected a finite number at least 1"):
        probability_curves(
            model(), IMAGES, torch.tensor([0, 1]), torch.zeros(2, 1024, dtype=torch.long), 0
        )
    with pytest.raises(ValueError, match="n of at least 2"):
        area_under(torch.rand(3, 1))
    for interval in (0.0, -0.1, 1.0, float("nan")):
        for kind in options_names.THRESHOLD_TYPES:
            with pytest.raises(ValueError, match="strictly between 0 and 1"):
                util.get_threshold_list(interval, kind)


def test_boxes_and_evaluators(lists: Path) -> None:
    with pytest.raises(ValueError, match="sizes must be at least 1 pixel"):
        evaluation.resize_bbox((0, 0, 1, 1), (0, 5), (224, 224))
    for thresholds in ([], [0], [101]):
        with pytest.raises(ValueError, match="percentages above 0"):
            evaluation.BoxEvaluator(configure_metadata(lists), "CUB", "test", [0.5], thresholds)
    for thresholds in ([], [-0.1], [1.5], [float("nan")]):
        with pytest.raises(ValueError, match=r"numbers in 0\.\.1"):
            evaluation.MaskEvaluator(None, "CUB", "test", thresholds)


def test_masks_and_maps_of_the_histograms() -> None:
    maps = torch.rand(2, 4, 5, dtype=torch.float64)
    good = torch.tensor([[[0, 1, 255, 0, 1]] * 4] * 2)
    pixels = PixelPR([0.0, 0.5], groups=2)
    for gt, value in (
        (good.masked_fill(good == 1, 2), "2"),
        (good * 1.0 + 0.5, "0.5"),
        (-good, "-1"),
        (good + 256, "2"),
    ):
        with pytest.raises(ValueError, match=f"a mask holds {value}"):
            pixels.add(maps, gt)
    with pytest.raises(ValueError, match="must have the same shape"):
        pixels.add(maps, good.mT)
    with pytest.raises(ValueError, match=r"groups must be in 0\.\.1, found 2"):
        pixels.add(maps, good, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="a map must not hold NaN"):
        pixels.add(maps.masked_fill(good == 1, torch.nan), good)
    assert not pixels.counts.any()
    for thresholds in ([0.5, 0.4], [-0.1], [0.0, 1.5]):
        with pytest.raises(ValueError, match="thresholds must rise"):
            PixelPR(thresholds)


def test_classes_of_cub(birds: Path) -> None:
    trait = CUBTrait(birds / "CUB_200_2011")
    file = next(iter(trait.image_file2image_id))
    for pair in ((0, 1), (1, 7)):
        with pytest.raises(ValueError, match=r"classes are 1\.\.6"):
            trait.get_pseudo_segment_mask(file, pair, 64)
    with pytest.raises(ValueError, match="size 0: expected a finite number at least 1"):
        trait.get_pseudo_segment_mask(file, (1, 2), 0)
    with pytest.raises(ValueError, match="choose from segmentation, box"):
        CUBTrait(birds / "CUB_200_2011", foreground="bird")
    with pytest.raises(ValueError, match="norm_type 'l2': choose from max"):
        CueLocaliser(trait, None, {1: 0, 2: 1}, [0.0], "l2")
    cues = CueLocaliser(trait, None, {1: 0, 2: 1}, [0.0], "max")
    with pytest.raises(ValueError, match="choose from per_pair, released"):
        cues.table(("both",))


def test_networks() -> None:
    for build in network.ARCHITECTURES.values():
        with (
            torch.device("meta"),
            pytest.raises(ValueError, match="num_classes 0: expected a finite number at least 1"),
        ):
            build(num_classes=0)
    with pytest.raises(ValueError, match="prior_activation 'tanh': choose from relu, softplus"):
        network.small(num_classes=3, prior_activation="tanh")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = model().state_dict()
    state["conv_last.weight"][1, 2] = torch.nan
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(
        UserError, match=r"bad.pt: conv_last.weight holds NaN or inf \(1 entries do\)"
    ):
        load_checkpoint(model(), tmp_path / "bad.pt")


def test_what_cannot_be_looked_into_is_not() -> None:
    assert is_readable(torch.zeros(2)) and not is_readable(torch.zeros(2, device="meta"))
    require_labels(torch.empty(2, dtype=torch.long, device="meta"), 3, 2)
    inside = []

    def function(x: torch.Tensor) -> torch.Tensor:
        inside.append(is_readable(x))
        return x * 2

    torch.func.vmap(function)(torch.zeros(3, 2))
    assert inside == [False]
    assert issubclass(DomainError, UserError) and issubclass(DomainError, ValueError)


def test_training_and_maps_under_functorch_and_compile() -> None:
    """The checks do not stand in the way of torch.func or a traced graph."""
    process = UniversalProcess("CALM-ML")
    attention = torch.rand(1, 1, 4, 4) + 0.1
    labels = torch.tensor([1])

    def loss(f: torch.Tensor) -> torch.Tensor:
        return process.loss(f[None], f[None], labels, attention)["loss"].sum()

    f = torch.rand(3, 4, 4)
    gradient = torch.func.grad(loss)(f)
    expected = torch.autograd.grad(loss(g := f.clone().requires_grad_()), g)[0]
    assert torch.allclose(gradient, expected)
    explained = torch._dynamo.explain(loss)(f)
    assert explained.graph_break_count == 0


def test_a_map_without_a_number_ends_a_script_in_one_line(
    birds: Path,
    save_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    real = ScoreMapper.with_probs

    def broken(
        self: ScoreMapper, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        maps, probs = real(self, images, labels)
        return maps * np.nan, probs

    monkeypatch.setattr(ScoreMapper, "with_probs", broken)
    with pytest.raises(SystemExit) as stop:
        run_main(
            lambda: eval_pixel_perturb.main(
                flags(birds, save_root, "--output_dir", str(tmp_path / "r"))
            )
        )
    assert (
        stop.value.code == 2 and "error: a score map must not hold NaN" in capsys.readouterr().err
    )
