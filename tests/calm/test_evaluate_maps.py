"""Maps, baselines, masks, scores: what is said of an image does not depend on those beside it."""

import numpy as np
import pytest
import torch

from calm import evaluate_erasing, evaluate_maps, network
from calm.evaluate_cue import map_difference
from calm.evaluate_erasing import erase_and_classify, make_baseline, probability_curves
from calm.evaluate_maps import ScoreMapper
from calm.evaluation import wsol_scoremap
from calm.options_names import PROCESSES
from calm.score_map_method import GRADIENT_PROCESSES
from calm.util import resize_scoremaps
from common.cam import NORM_TYPES, normalize_maps

GROUPS = {0: [0, 1], 1: [1, 2], 2: [2, 0]}
SETTINGS = {"smooth_grad_nr_iter": 5, "smooth_grad_sigma": 4.0, "integrated_grad_nr_iter": 5}
NOISY = ("smooth_grad", "smooth_grad_square", "var_grad")
BRIGHT = 30.0


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """An image of small contrast, and a bright one of large contrast."""
    generator = torch.Generator().manual_seed(3)
    usual = torch.rand(1, 3, 32, 32, generator=generator)
    bright = BRIGHT * torch.rand(1, 3, 32, 32, generator=generator)
    return usual, bright


def same_draws_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The t-th noise of the released sums is the same for every image of a batch, whatever its
    size.
    """
    real = torch.randn_like

    def randn_like(x: torch.Tensor, **how: object) -> torch.Tensor:
        return real(x[:1], **how).expand_as(x)

    monkeypatch.setattr(torch, "randn_like", randn_like)


@pytest.mark.parametrize("method", ["CAM", "CALM-EM", "CALM-ML"])
@pytest.mark.parametrize("process", [*PROCESSES, *GRADIENT_PROCESSES])
def test_the_map_of_an_image_alone_and_beside_a_bright_neighbour(
    process: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = network.small(num_classes=3, attribution_method=method, prior_activation="softplus")
    model.eval().requires_grad_(False)
    backprop = "backprop" if process in GRADIENT_PROCESSES else "activation_map"
    mapper = ScoreMapper(model, process, backprop, GROUPS, settings=SETTINGS)
    if process in NOISY:
        same_draws_for_each_image(monkeypatch)
    usual, bright = pictures()

    def maps(images: torch.Tensor, labels: list[int]) -> torch.Tensor:
        torch.manual_seed(7)
        return mapper(images, torch.tensor(labels)).double()

    alone = maps(usual, [1])[0]
    scale = float(alone.abs().max())
    assert scale > 0
    for images, labels, row in (
        (torch.cat([usual, bright]), [1, 2], 0),
        (torch.cat([bright, usual]), [2, 1], 1),
        (torch.cat([bright, usual, bright]), [0, 1, 2], 1),
    ):
        beside = maps(images, labels)[row]
        assert float((beside - alone).abs().max()) <= 1e-5 * scale


@pytest.mark.parametrize("process", ["captum_smoothgrad", "captum_vargrad"])
def test_captums_noise_has_the_deviation_of_each_image(
    process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captum.attr import NoiseTunnel

    used = []
    real = NoiseTunnel.attribute

    def attribute(self: NoiseTunnel, inputs: torch.Tensor, **how: object) -> torch.Tensor:
        used.append(how["stdevs"])
        return real(self, inputs, **how)

    monkeypatch.setattr(NoiseTunnel, "attribute", attribute)
    model = network.small(num_classes=3).eval().requires_grad_(False)
    images = torch.cat([*pictures(), torch.full((1, 3, 32, 32), 0.5)])
    before = torch.get_rng_state()
    maps = GRADIENT_PROCESSES[process](
        model=model, images=images, targets=torch.tensor([0, 1, 2]), **SETTINGS
    )
    assert used == pytest.approx([float(i.max() - i.min()) / 4.0 for i in images])
    assert maps.shape == (3, 32, 32) and maps.isfinite().all()
    assert not torch.equal(torch.get_rng_state(), before)  # the next batch meets other noise


@pytest.mark.parametrize("kind", evaluate_erasing.BASELINES)
def test_a_baseline_is_that_of_the_image(kind: str) -> None:
    usual, bright = pictures()
    index = torch.tensor([4, 9])
    both = make_baseline(kind, torch.cat([usual, bright]), index, seed=2)
    alone = make_baseline(kind, usual, index[:1], seed=2)
    last = make_baseline(kind, torch.cat([bright, usual]), index.flip(0), seed=2)
    if kind == "zero":
        assert both is None and alone is None
        return
    assert torch.allclose(both[:1], alone, atol=1e-6) and torch.allclose(last[1:], alone, atol=1e-6)
    other = make_baseline(kind, usual, index[:1], seed=3)
    assert torch.equal(other, alone) == (kind != "noise")


def test_masks_smoothing_sizes_and_normalisation_are_those_of_the_map() -> None:
    usual, bright = (picture[:, 0] for picture in pictures())
    both = torch.cat([usual, bright])
    forms = {
        "top-k": lambda m: evaluate_erasing.get_topk_to_zero_mask(m[:, None], 0.3),
        "smoothing": lambda m: evaluate_maps.smoothing(m, 5),
        "resize": lambda m: resize_scoremaps(m, "tensor", (50, 40)),
        "difference": lambda m: map_difference(m, m.flip(1), (50, 40)),
        "wsol": lambda m: torch.from_numpy(
            np.stack([wsol_scoremap(one, (50, 40)) for one in m.numpy()])
        ),
    }
    for kind in NORM_TYPES:
        forms[kind] = lambda m, kind=kind: normalize_maps(m, kind)
    for name, form in forms.items():
        assert torch.allclose(form(both)[:1], form(usual), atol=1e-6), name


def test_erasing_and_the_curves_are_those_of_the_image() -> None:
    torch.manual_seed(0)
    model = network.small(num_classes=3).eval().requires_grad_(False)
    usual, bright = pictures()
    both = torch.cat([usual, bright])
    labels = torch.tensor([1, 2])
    ranking = evaluate_erasing.rank_pixels(both.mean(1, keepdim=True))
    curves = probability_curves(model, both, labels, ranking, 4)
    alone = probability_curves(model, usual, labels[:1], ranking[:1], 4)
    for whole, single in zip(curves, alone, strict=True):
        assert torch.allclose(whole[:1], single, atol=1e-6)

    index = torch.tensor([5, 6])
    maps = both.mean(1, keepdim=True)
    for how in ("topk", "random"):
        for kind in evaluate_erasing.BASELINES:
            whole = erase_and_classify(
                model, both, labels, maps, [0.2, 0.8], how, kind, index=index
            )
            single = erase_and_classify(
                model, usual, labels[:1], maps[:1], [0.2, 0.8], how, kind, index=index[:1]
            )
            assert {k: v[:1] for k, v in whole.items()} == single
