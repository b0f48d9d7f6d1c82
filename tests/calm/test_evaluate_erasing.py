"""Remove-and-classify, and the further faithfulness scores and baselines."""

import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from calm import (
    eval_pixel_perturb,
    eval_remove_classify,
    evaluate_erasing,
    evaluate_maps,
    evaluation,
    util,
)
from calm.evaluate_erasing import area_under, probability_curves
from tests.calm.conftest import JOINT, flags, newest
from tests.calm.golden import StandIn, close, load


def test_erase_and_classify_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = load("remove_a")
    model = StandIn(arrays)
    inputs, targets, maps = (
        torch.from_numpy(arrays[k]) for k in ("inputs", "targets", "scoremaps")
    )
    assert (model(inputs)["probs"].argmax(1) == targets).tolist() == arrays["preds"].tolist()
    ks = eval_remove_classify._ERASE_K_LIST
    for limit in (1, 64, 1000):
        pixels = limit * inputs[0, 0].numel()
        monkeypatch.setitem(evaluate_erasing.PIXELS_PER_FORWARD, "cpu", pixels)
        found = evaluate_erasing.erase_and_classify(
            model, inputs, targets, maps, ks, erase_method="topk"
        )
        assert {str(k): v for k, v in found.items()} == {
            str(k): arrays[f"preds_topk/{k}"].tolist() for k in ks
        }
    at_random = evaluate_erasing.erase_and_classify(model, inputs, targets, maps, ks, "random")
    again = evaluate_erasing.erase_and_classify(
        model, inputs[5:], targets[5:], maps[5:], ks, "random", index=torch.arange(5, 24)
    )
    assert all(
        at_random[k][5:] == again[k] for k in ks
    )  # a position depends on the image, not on the batch
    for kind in evaluate_erasing.BASELINES:
        assert (
            len(
                evaluate_erasing.erase_and_classify(
                    model, inputs, targets, maps, [0.5], baseline=kind
                )[0.5]
            )
            == 24
        )
    with pytest.raises(ValueError, match="topk, random"):
        evaluate_erasing.erase_and_classify(model, inputs, targets, maps, ks, "middle")


def test_masks() -> None:
    maps = torch.zeros(2, 1, 5, 6)
    maps[:, 0, 2, 3] = 1
    among_equals = evaluate_erasing.random_ranking(torch.arange(2), 30, seed=0)
    orders = evaluate_erasing.rank_pixels(maps, among_equals)
    assert [o[o != 15].tolist() for o in among_equals] == orders[:, 1:].tolist()
    assert orders[:, 0].tolist() == [15, 15] and not torch.equal(orders[0], orders[1])
    assert sorted(orders[0].tolist()) == list(range(30))
    np.random.seed(0)  # noqa: NPY002 - the reference draws from the global stream
    mask = evaluate_erasing.random_mask_generator(torch.zeros(4, 3, 5, 6), "cpu", 0.5)
    assert mask.shape == (4, 1, 5, 6) and (mask.flatten(1) == 0).sum(1).tolist() == [15] * 4
    order = evaluate_erasing.random_ranking(torch.tensor([3, 9]), 30, seed=1)
    assert torch.equal(order[1], evaluate_erasing.random_ranking(torch.tensor([9]), 30, seed=1)[0])
    assert not torch.equal(
        order[1], evaluate_erasing.random_ranking(torch.tensor([9]), 30, seed=2)[0]
    )
    assert evaluate_maps.smoothing(maps[:, 0], 1) is not None
    assert evaluate_maps.smoothing(maps[:, 0], 3).sum() == pytest.approx(2, rel=1e-5)
    with pytest.raises(ValueError, match="odd"):
        evaluate_maps.compute_padding(4)
    with pytest.raises(ValueError, match="zero, mean, noise, blur"):
        evaluate_erasing.get_baseline("pink", maps, "cpu")


def test_summary_of_no_survivors_is_undefined_not_a_crash() -> None:
    none = np.zeros((4, 1, 1), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = evaluate_erasing.summarize(none, none, [0.9])
    assert np.isnan(rows["0.9"]["R"]) and rows["0.9"]["random_count"] == 0
    rows = evaluate_erasing.summarize(~none, none, [0.9])
    assert np.isinf(rows["0.9"]["R"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("kind", evaluate_erasing.BASELINES)
def test_baselines_keep_the_type(kind: str, dtype: torch.dtype) -> None:
    x = torch.rand(2, 3, 40, 36)
    base = evaluate_erasing.get_baseline(kind, x.to(dtype), "cpu")
    assert base.dtype == dtype and base.shape == x.shape
    if kind != "noise":
        assert torch.allclose(
            base.float(), evaluate_erasing.get_baseline(kind, x, "cpu"), atol=2e-3
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_smoothed_and_resized_in_float32(dtype: torch.dtype) -> None:
    """Its sums lose digits; besides, float16 convolutions do not return on some processors."""
    maps = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
    for form in (
        lambda m: evaluate_maps.smoothing(m, 5),
        lambda m: util.resize_scoremaps(m, "tensor", (40, 36)),
    ):
        assert torch.equal(form(maps), form(maps.float()).to(dtype))
    single = evaluation.wsol_scoremap(maps[0].float().numpy().astype(np.float16), (20, 24))
    assert single.shape == (20, 24) and single.max() == 1


def test_smoothing_is_exact_under_autocast() -> None:
    maps = torch.rand(2, 9, 11)
    expected = evaluate_maps.smoothing(maps, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = evaluate_maps.smoothing(maps, 5)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_intervals_do_not_depend_on_how_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((3, 50)), rng.random((3, 50))
    draws = np.random.default_rng(0).integers(50, size=(evaluate_erasing.BOOTSTRAPS, 50))
    whole = np.stack([x[draws].sum(1) / y[draws].sum(1) for x, y in zip(a, b, strict=True)])
    for at_once in (1, 50 * 7 + 3, 10**7):
        monkeypatch.setattr(evaluate_erasing, "DRAWN_AT_ONCE", at_once)
        assert np.array_equal(evaluate_erasing.bootstrap(a, b), whole)


def test_ties_do_not_depend_on_the_batch_size(birds: Path, save_root: Path, tmp_path: Path) -> None:
    found = []
    for size in ("5", "18"):
        given = flags(
            birds,
            save_root,
            *JOINT,
            "--erase_k",
            "0.9",
            "--tie_break",
            "random",
            "--batch_size",
            size,
        )
        eval_pixel_perturb.main([*given, "--output_dir", str(tmp_path / size)])
        found.append(pickle.loads((tmp_path / size / "measure_jointll_EM.pickle").read_bytes()))
    assert found[0] == found[1]


def test_pixel_perturb_writes_the_released_file_and_r_k(
    birds: Path, save_root: Path, capsys
) -> None:
    eval_pixel_perturb.main(
        flags(birds, save_root, *JOINT, "--erase_k", "0.1", "0.9", "--erase_repeats", "2")
    )
    folder = save_root / "em" / "eval_pixel_perturb_jointll_CALM-EM"
    measure = pickle.loads((folder / "measure_jointll_EM.pickle").read_bytes())
    assert (
        sorted(measure) == ["preds", "preds-random", "preds-topk"] and len(measure["preds"]) == 18
    )
    assert list(measure["preds-topk"]) == [0.1, 0.9]
    rows = json.loads((folder / "measure_jointll_EM.json").read_text())["R_k"]
    assert rows["0.1"]["topk_count"] == sum(measure["preds-topk"][0.1])
    assert json.loads((folder / "summary.json").read_text())["R"] == rows
    out = capsys.readouterr().out
    assert (
        f"R_k {rows['0.9']['R']:.4f}" in out
        if rows["0.9"]["R"] is not None
        else "no survivor" in out
    )
    assert (folder / "figures" / "remove_and_classify.png").is_file()
    eval_remove_classify.main(
        flags(
            birds,
            save_root,
            *JOINT,
            "--erase_k",
            "0.1",
            "--tie_break",
            "random",
            "--baseline",
            "mean",
            "--batch_size",
            "7",
        )
    )
    eval_pixel_perturb.main(
        flags(
            birds,
            save_root,
            *JOINT,
            "--erase_k",
            "0.1",
            "0.9",
            "--erase_repeats",
            "2",
            "--batch_size",
            "5",
        )
    )
    again = (
        save_root / "em" / "eval_pixel_perturb_jointll_CALM-EM-2"
    )  # a second start gets a folder of its own
    assert pickle.loads((again / "measure_jointll_EM.pickle").read_bytes()) == measure


@pytest.mark.slow
def test_superclass_and_gradient_processes(birds: Path, save_root: Path, tmp_path: Path) -> None:
    (tmp_path / "groups.json").write_text(json.dumps({str(c): [c, (c + 1) % 6] for c in range(6)}))
    eval_pixel_perturb.main(
        flags(
            birds,
            save_root,
            "--score_map_process",
            "jointll-superclass",
            "--superclass_file",
            str(tmp_path / "groups.json"),
            "--erase_k",
            "0.1",
        )
    )
    for process in ("input_grad", "smooth_grad", "integrated_grad"):
        variant = ["--ig_variant", "standard"] if process == "integrated_grad" else []
        eval_pixel_perturb.main(
            flags(
                birds,
                save_root,
                "--score_map_process",
                process,
                "--erase_k",
                "0.1",
                "--smooth_grad_nr_iter",
                "2",
                "--integrated_grad_nr_iter",
                "2",
                "--smoothing_ksize",
                "3",
                *variant,
            )
        )
        assert (
            newest(save_root, f"eval_pixel_perturb_{process}") / f"measure_{process}_EM.pickle"
        ).is_file()


def test_deletion_and_insertion(birds: Path, save_root: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 8, 8)

    class Brightness(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            p = x.mean((1, 2, 3))
            return torch.stack([p, 1 - p], 1)

    ranking = evaluate_erasing.rank_pixels(images.mean(1, keepdim=True))
    deletion, insertion = probability_curves(
        Brightness(), images, torch.zeros(3, dtype=torch.long), ranking, 4
    )
    assert deletion.shape == insertion.shape == (3, 5)
    assert torch.allclose(deletion[:, 0], images.mean((1, 2, 3))) and not deletion[:, -1].any()
    assert torch.allclose(insertion[:, -1], deletion[:, 0]) and (deletion.diff(dim=1) < 0).all()
    assert area_under(torch.tensor([[1.0, 0.5, 0.0]])).item() == pytest.approx(0.5)
    eval_pixel_perturb.main(flags(birds, save_root, *JOINT, "--erase_k", "0.1", "--auc_steps", "3"))
    summary = json.loads((newest(save_root, "eval_pixel_perturb") / "summary.json").read_text())
    assert 0 < summary["deletion_auc"] < 1 and 0 < summary["insertion_auc"] < 1


def test_further_baselines() -> None:
    from calm import network, score_map_method

    torch.manual_seed(0)
    model = network.small(
        num_classes=3, attribution_method="CALM-EM", prior_activation="softplus"
    ).eval()
    model.requires_grad_(False)
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    # on a CAM head Grad-CAM is the positive part of the class map without its bias, over the number
    # of positions
    cam = network.small(num_classes=3, attribution_method="CAM").eval().requires_grad_(False)
    expected = (cam(x, y, return_cam="vanilla") - cam.conv_last.bias[y][:, None, None]).relu() / 64
    assert torch.allclose(score_map_method.grad_cam(cam, x, y), expected, atol=1e-6)
    for name in ("grad_cam", "captum_smoothgrad", "captum_vargrad", "occlusion"):
        maps = score_map_method.GRADIENT_PROCESSES[name](
            model=model,
            images=x,
            targets=y,
            num_classes=3,
            method=score_map_method.backprop,
            smooth_grad_nr_iter=3,
        )
        assert (
            maps.shape == ((2, 8, 8) if name == "grad_cam" else (2, 32, 32))
            and maps.isfinite().all()
        )
        assert maps.abs().sum() > 0 and not x.requires_grad


class Recorded(nn.Module):
    """The network of tests/golden/calm_metrics: softmax probabilities."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)
        self.load_state_dict(
            {k[2:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("w/")}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.conv2(self.conv1(x).relu()).relu()
        return self.fc(features.mean((2, 3))).softmax(1)


@pytest.mark.parametrize("name", ["cam", "signed"])
def test_deletion_golden(name: str) -> None:
    """16 of 768 pixels a step is 48 equal steps."""
    inputs = load("inputs", "calm_metrics")
    curves = load("deletion_insertion", "calm_metrics")
    ranking = evaluate_erasing.rank_pixels(torch.from_numpy(inputs[name])[:, None])
    top = torch.from_numpy(curves["top_class"])
    deletion, _ = probability_curves(
        Recorded(inputs), torch.from_numpy(inputs["images"]), top, ranking, 48
    )
    close(deletion, curves[f"del/zero/step16/{name}/curve"], 1e-4)
    close(area_under(deletion), curves[f"del/zero/step16/{name}/auc"], 1e-4)


def test_the_steps_of_a_curve_are_whole_shares() -> None:
    """47 / 49 as a float, times 224 x 224, is a pixel short."""
    seen = []

    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.extend((x == 0).sum((1, 2, 3)).tolist())
            return torch.zeros(len(x), 2)

    x = torch.ones(1, 1, 224, 224)
    probability_curves(Counting(), x, torch.tensor([0]), evaluate_erasing.rank_pixels(x), 49)
    assert seen[:50] == [k * 224 * 224 // 49 for k in range(50)]
