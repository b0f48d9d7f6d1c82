"""The evaluation scripts: equal to the plain loop, what they write, parallel starts, bad input."""

import csv
import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from calm import (
    cue_localiser,
    erasing,
    eval_cue_location,
    eval_pixel_perturb,
    eval_remove_classify,
    eval_wsol,
    explain,
    gallery,
    tester,
)
from calm.config import configure
from calm.evaluation import MaskEvaluator, get_mask
from calm.faithfulness import area_under, probability_curves
from calm.pixel_pr import BinLookup, PixelPR, average_precision
from calm.util import get_threshold_list, normalize_scoremap
from calm.util_cub_trait import CUBTrait
from common.cli import UserError
from tests.calm.golden import StandIn, load

JOINT = ["--score_map_process=jointll", "--norm_type=clipping"]


def flags(birds: Path, save_root: Path, *more: str) -> list[str]:
    return ["--cpu", "--data_root", str(birds), "--save_root", str(save_root), "--experiment_name=em",
            "--attribution_method=CALM_EM", "--crop_size", "64", *more]  # fmt: skip


def newest(save_root: Path, name: str) -> Path:
    return max((save_root / "em").glob(f"{name}*"), key=lambda p: p.stat().st_mtime_ns)


# --- remove and classify ---


def test_erase_and_classify_golden() -> None:
    arrays = load("remove_a")
    model = StandIn(arrays)
    inputs, targets, maps = (torch.from_numpy(arrays[k]) for k in ("inputs", "targets", "scoremaps"))
    assert (model(inputs)["probs"].argmax(1) == targets).tolist() == arrays["preds"].tolist()
    ks = eval_remove_classify._ERASE_K_LIST
    for limit in (1, 64, 1000):
        eval_remove_classify.IMAGES_PER_FORWARD = limit
        found = eval_remove_classify.erase_and_classify(model, inputs, targets, maps, ks, erase_method="topk")
        assert {str(k): v for k, v in found.items()} == {str(k): arrays[f"preds_topk/{k}"].tolist() for k in ks}
    eval_remove_classify.IMAGES_PER_FORWARD = 64
    at_random = eval_remove_classify.erase_and_classify(model, inputs, targets, maps, ks, "random")
    again = eval_remove_classify.erase_and_classify(
        model, inputs[5:], targets[5:], maps[5:], ks, "random", index=torch.arange(5, 24)
    )
    assert all(at_random[k][5:] == again[k] for k in ks)  # a position depends on the image, not on the batch
    for kind in erasing.BASELINES:
        assert (
            len(eval_remove_classify.erase_and_classify(model, inputs, targets, maps, [0.5], baseline=kind)[0.5]) == 24
        )
    with pytest.raises(ValueError, match="topk, random"):
        eval_remove_classify.erase_and_classify(model, inputs, targets, maps, ks, "middle")


def test_masks() -> None:
    maps = torch.zeros(2, 1, 5, 6)
    maps[:, 0, 2, 3] = 1
    generator = torch.Generator().manual_seed(0)
    orders = erasing.rank_pixels(maps, "random", generator)
    assert orders[:, 0].tolist() == [15, 15] and not torch.equal(orders[0], orders[1])
    assert sorted(orders[0].tolist()) == list(range(30))
    np.random.seed(0)  # noqa: NPY002 - the reference draws from the global stream
    mask = erasing.random_mask_generator(torch.zeros(4, 3, 5, 6), "cpu", 0.5)
    assert mask.shape == (4, 1, 5, 6) and (mask.flatten(1) == 0).sum(1).tolist() == [15] * 4
    order = eval_remove_classify.random_ranking(torch.tensor([3, 9]), 30, seed=1)
    assert torch.equal(order[1], eval_remove_classify.random_ranking(torch.tensor([9]), 30, seed=1)[0])
    assert not torch.equal(order[1], eval_remove_classify.random_ranking(torch.tensor([9]), 30, seed=2)[0])
    assert erasing.smoothing(maps[:, 0], 1) is not None
    assert erasing.smoothing(maps[:, 0], 3).sum() == pytest.approx(2, rel=1e-5)
    with pytest.raises(ValueError, match="odd"):
        erasing.compute_padding(4)
    with pytest.raises(ValueError, match="zero, mean, noise, blur"):
        erasing.get_baseline("pink", maps, "cpu")


def test_summary_of_no_survivors_is_undefined_not_a_crash() -> None:
    preds, none = np.ones(4, bool), np.zeros((4, 1, 1), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = eval_remove_classify.summarize(preds, none, none, [0.9])
    assert np.isnan(rows["0.9"]["R"]) and rows["0.9"]["random_count"] == 0
    rows = eval_remove_classify.summarize(preds, ~none, none, [0.9])
    assert np.isinf(rows["0.9"]["R"])


def test_pixel_perturb_writes_the_released_file_and_r_k(birds: Path, save_root: Path, capsys) -> None:
    eval_pixel_perturb.main(flags(birds, save_root, *JOINT, "--erase_k", "0.1", "0.9", "--erase_repeats", "2"))
    folder = save_root / "em" / "eval_pixel_perturb_jointll_CALM-EM"
    measure = pickle.loads((folder / "measure_jointll_EM.pickle").read_bytes())
    assert sorted(measure) == ["preds", "preds-random", "preds-topk"] and len(measure["preds"]) == 18
    assert list(measure["preds-topk"]) == [0.1, 0.9]
    rows = json.loads((folder / "measure_jointll_EM.json").read_text())["R_k"]
    assert rows["0.1"]["topk_count"] == sum(measure["preds-topk"][0.1])
    assert json.loads((folder / "summary.json").read_text())["R"] == rows
    out = capsys.readouterr().out
    assert f"R_k {rows['0.9']['R']:.4f}" in out if rows["0.9"]["R"] is not None else "no survivor" in out
    assert (folder / "figures" / "remove_and_classify.png").is_file()
    eval_remove_classify.main(flags(birds, save_root, *JOINT, "--erase_k", "0.1", "--tie_break", "random", "--baseline",
                                    "mean", "--batch_size", "7"))  # fmt: skip
    eval_pixel_perturb.main(flags(birds, save_root, *JOINT, "--erase_k", "0.1", "0.9", "--erase_repeats", "2",
                                  "--batch_size", "5"))  # fmt: skip
    again = save_root / "em" / "eval_pixel_perturb_jointll_CALM-EM-2"  # a second start gets a folder of its own
    assert pickle.loads((again / "measure_jointll_EM.pickle").read_bytes()) == measure


def test_superclass_and_gradient_processes(birds: Path, save_root: Path, tmp_path: Path) -> None:
    (tmp_path / "groups.json").write_text(json.dumps({str(c): [c, (c + 1) % 6] for c in range(6)}))
    eval_pixel_perturb.main(flags(birds, save_root, "--score_map_process", "jointll-superclass", "--superclass_file",
                                  str(tmp_path / "groups.json"), "--erase_k", "0.1"))  # fmt: skip
    for process in ("input_grad", "smooth_grad", "integrated_grad"):
        eval_pixel_perturb.main(flags(birds, save_root, "--score_map_process", process, "--erase_k", "0.1",
                                      "--smooth_grad_nr_iter", "2", "--integrated_grad_nr_iter", "2",
                                      "--smoothing_ksize", "3", "--ig_variant", "standard"))  # fmt: skip
        assert (newest(save_root, f"eval_pixel_perturb_{process}") / f"measure_{process}_EM.pickle").is_file()


def test_deletion_and_insertion(birds: Path, save_root: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 8, 8)

    class Brightness(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            p = x.mean((1, 2, 3))
            return torch.stack([p, 1 - p], 1)

    ranking = erasing.rank_pixels(images.mean(1, keepdim=True))
    deletion, insertion = probability_curves(Brightness(), images, torch.zeros(3, dtype=torch.long), ranking, 4)
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
    model = network.small(num_classes=3, attribution_method="CALM-EM", prior_activation="softplus").eval()
    model.requires_grad_(False)
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    # on a CAM head Grad-CAM is the positive part of the class map without its bias, over the number of positions
    cam = network.small(num_classes=3, attribution_method="CAM").eval().requires_grad_(False)
    expected = (cam(x, y, return_cam="vanilla") - cam.conv_last.bias[y][:, None, None]).relu() / 64
    assert torch.allclose(score_map_method.grad_cam(cam, x, y), expected, atol=1e-6)
    for name in ("grad_cam", "captum_smoothgrad", "captum_vargrad", "occlusion"):
        maps = score_map_method.GRADIENT_PROCESSES[name](
            model=model, images=x, targets=y, num_classes=3, method=score_map_method.backprop, smooth_grad_nr_iter=3
        )
        assert maps.shape == ((2, 8, 8) if name == "grad_cam" else (2, 32, 32)) and maps.isfinite().all()
        assert maps.abs().sum() > 0 and not x.requires_grad


# --- cue localisation ---


def plain_loop(tested: tester.Tester, trait: CUBTrait, args: object) -> dict[str, list[float]]:
    """The released procedure: per pair, image and class one forward, one numpy histogram, never reset; and fresh."""
    data, thresholds = tested.loader.dataset.dataset, get_threshold_list(args.cam_curve_interval, args.threshold_type)

    def make() -> MaskEvaluator:
        return MaskEvaluator(None, "CUB", "test", thresholds, "", None)

    released, found = make(), {"released": [], "per_pair": [], "kept": []}
    for d in (1, 2, 3):
        for pair in trait.diff2class_pair_dict.get(d, []):
            fresh = make()
            for n, image_id in enumerate(data.image_ids):
                if data.image_labels[image_id] + 1 not in pair:
                    continue
                image = data[n][0][None]
                mask = trait.get_pseudo_segment_mask(image_id, pair, 64)
                if mask is None:
                    continue
                a, b = (
                    tested.model(image, torch.tensor([c - 1]), return_cam=args.score_map_process).numpy()[0]
                    for c in pair
                )
                big = nn.functional.interpolate(
                    torch.from_numpy(np.abs(a - b))[None, None], size=(64, 64), mode="bilinear", align_corners=False
                )[0, 0]
                scores = normalize_scoremap(big.numpy().astype(np.float64), args.norm_type)
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


@pytest.mark.parametrize(("kind", "norm"), [("log", "clipping"), ("even", "minmax"), ("even", "max")])
def test_cue_localisation_equals_the_plain_loop(birds: Path, save_root: Path, kind: str, norm: str) -> None:
    given = flags(birds, save_root, "--score_map_process=jointll", f"--norm_type={norm}", f"--threshold_type={kind}")
    eval_cue_location.main([*given, "--batch_size", "7"])
    folder = newest(save_root, "eval_cue_location_jointll")
    with (folder / "cue_pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    args = configure(given)
    trait = CUBTrait(birds / "CUB_200_2011")
    expected = plain_loop(tester.Tester(args, "plain"), trait, args)
    for column, name in (("per_pair/dropped", "per_pair"), ("released/dropped", "released"), ("per_pair/kept", "kept")):
        # the batched forward differs from the single one in the last bits, which moves few pixels to the next bin
        assert [float(row[column] or -1) for row in rows] == pytest.approx([v or -1 for v in expected[name]], rel=2e-3)
    table = json.loads((folder / "summary.json").read_text())["mPxAP"]
    by_parts = {d: [float(r["per_pair/kept"]) for r in rows if r["parts"] == d] for d in "123"}
    assert table["per_pair/kept"]["2"] == pytest.approx(np.mean(by_parts["2"]))
    assert table["per_pair/kept"]["mean"] == pytest.approx(np.mean(sum(by_parts.values(), [])))
    assert (folder / "figures" / "cue_pairs.png").is_file()


def test_peak_distance_is_that_of_the_nearest_differing_part(birds: Path) -> None:
    """A map whose maximum is put on a known pixel."""
    trait = CUBTrait(birds / "CUB_200_2011")
    image_id = next(i for i in trait.image_file2image_id if i.startswith("002.") and trait.visible_parts(i) >= {1, 7})

    class OnePixel:
        def of_classes(self, images: torch.Tensor, rows: list[int], classes: list[int]) -> torch.Tensor:
            maps = torch.zeros(len(rows), 64, 64)
            maps[:, 30, 20] = torch.tensor(classes, dtype=torch.float32)
            return maps

    cues = cue_localiser.CueLocaliser(trait, OnePixel(), {c: c - 1 for c in range(1, 7)}, [0.0, 0.5], "max")
    cues.add(torch.zeros(1, 3, 64, 64), [1], [image_id])
    for n, pair in enumerate(cues.pairs):
        points = trait.cue_points(image_id, pair, 64)
        expected = min(((x - 20) ** 2 + (y - 30) ** 2) ** 0.5 for x, y in points) if 2 in pair else 0.0
        assert cues.distance[n] == pytest.approx(expected)
    wing = [p for p, part in zip(*trait._points(image_id, 64), strict=True) if part == 7]
    assert np.array_equal(trait.cue_points(image_id, (1, 2), 64), wing)
    values = cues.peak_distance()
    assert values["1"] > 0 and values["mean"] == pytest.approx(
        np.mean([float(cues.distance[n]) for n, pair in enumerate(cues.pairs) if 2 in pair])
    )


def test_normalize_maps_equals_the_single_one() -> None:
    rng = np.random.default_rng(0)
    maps = np.stack([rng.normal(size=(5, 4)), np.full((5, 4), 2.0), -rng.random((5, 4)) - 1, rng.random((5, 4)) * 3])
    maps = np.concatenate([maps, maps[:1] * 1])
    maps[4, 0, 0] = np.nan
    for kind in ("max", "minmax", "clipping"):
        ours = cue_localiser.normalize_maps(torch.from_numpy(maps), kind).numpy()
        for one, given in zip(ours, maps, strict=True):
            assert np.allclose(one, normalize_scoremap(given, kind), atol=1e-15)


def test_foreground_pairs_and_gradients(birds: Path, save_root: Path, capsys) -> None:
    eval_cue_location.main(flags(birds, save_root, *JOINT, "--foreground", "box", "--max_pairs", "1", "--cue_protocol",
                                 "released", "--attribute_rule", "name"))  # fmt: skip
    out = capsys.readouterr().out
    assert "foreground: box; 3 pairs (1 with 1, 1 with 2, 1 with 3 parts)" in out and "per_pair" not in out
    eval_cue_location.main(flags(birds, save_root, "--score_map_process", "input_grad", "--max_pairs", "1"))
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


# --- localisation ---


def test_wsol(birds: Path, save_root: Path) -> None:
    eval_wsol.main(flags(birds, save_root, *JOINT, "--cam_curve_interval", "0.05", "--workers", "2"))
    first = json.loads((newest(save_root, "eval_wsol") / "summary.json").read_text())
    assert first["MaxBoxAccV2"] == pytest.approx(np.mean([first[f"MaxBoxAccV2/{t}"] for t in (30, 50, 70)]))
    assert first["top1/30"] <= first["MaxBoxAccV2/30"] and 0 < first["PxAP"] < 100
    eval_wsol.main(flags(birds, save_root, *JOINT, "--cam_curve_interval", "0.05", "--multi_contour_eval=False",
                         "--iou_thresholds", "50", "--save_maps"))  # fmt: skip
    kept = list((newest(save_root, "eval_wsol") / "scoremaps").glob("*/*.npy"))
    assert len(kept) == 18 and np.load(kept[0]).shape == (16, 16) and np.load(kept[0]).dtype == np.float32
    second = json.loads((newest(save_root, "eval_wsol") / "summary.json").read_text())
    assert second["MaxBoxAcc"] == second["MaxBoxAcc/50"] <= first["MaxBoxAccV2/50"] + 1e-9
    with pytest.raises(UserError, match="percentages"):
        eval_wsol.main(flags(birds, save_root, "--iou_thresholds", "0"))


def test_explain_needs_only_an_image_and_a_checkpoint(birds: Path, save_root: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (90, 50), 120).save(tmp_path / "mine.png")
    nowhere = ["--cpu", "--data_root", str(tmp_path / "nothing")]
    given = [*nowhere, "--load_checkpoint", str(save_root / "em"), "--output_dir", str(tmp_path / "r")]
    explain.main(["--image", str(tmp_path / "mine.png"), "--classes", "1", "4", *given])
    summary = json.loads((tmp_path / "r/summary.json").read_text())
    assert summary["classes"] == [1, 4] and (tmp_path / "r/figures/explain.png").is_file()
    settings = json.loads((tmp_path / "r/config.json").read_text())["settings"]
    assert (settings["score_map_process"], settings["architecture"], settings["crop_size"]) == ("jointll", "small", 64)


def test_explain_takes_the_first_test_image(birds: Path, save_root: Path, capsys) -> None:
    explain.main(flags(birds, save_root, *JOINT))
    out = capsys.readouterr().out
    assert out.count("p(y|x)") == 3 and "explain.png" in out
    with pytest.raises(UserError, match=r"0\.\.5"):
        explain.main(["--classes", "9", *flags(birds, save_root)])
    with pytest.raises(UserError, match="tried"):
        explain.main(["--image", "x.jpg", "--experiment_name", "none"])


# --- shared ---


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
                theirs = np.histogram(values[rows][gt[rows] == 1 - side], bins=[*thresholds, 1, 2, 3])[0]
                assert np.array_equal(ours, theirs)
            assert sum(h.sum() for h in pixels.histograms(group, keep=True)) == (gt[rows] != 255).sum()


@pytest.mark.parametrize("kind", ["even", "log"])
def test_lookup_equals_the_search(kind: str) -> None:
    edges = np.array([*get_threshold_list(0.001, kind), 1.0, 2.0, 3.0])
    rng = np.random.default_rng(2)
    near = np.concatenate([edges, np.nextafter(edges, 9), np.nextafter(edges, -9).clip(0)])
    values = np.concatenate([near, rng.random(5000), 10 ** rng.uniform(-12, 0.6, 5000), [0.0, 1e-300, 4.0, 1e30]])
    lookup = BinLookup.of(edges)
    assert np.array_equal(lookup(values), np.searchsorted(edges, values, side="right"))
    signed = np.append(values, [-0.0, -1.0])
    assert np.array_equal(lookup(signed), np.searchsorted(edges, signed, side="right"))
    assert BinLookup.of(np.array([1e-9, 0.5])) is None
    pixels, other = PixelPR([1e-9, 0.5]), PixelPR(get_threshold_list(0.001, kind))
    maps, gt = torch.from_numpy(values[-5003:-3].clip(0, 3).reshape(2, 50, 50)), torch.ones(2, 50, 50)
    pixels.add(maps, gt)
    assert pixels.counts.sum() == 5000
    other._add_on_device(maps, gt, torch.zeros(2, dtype=torch.int64))
    same = PixelPR(get_threshold_list(0.001, kind))
    same.add(maps, gt)
    assert torch.equal(same.counts, other.counts)


def test_average_precision_by_hand() -> None:
    # highest bin: 2 true, 0 false; next: 1 true, 3 false; lowest: 1 true, 4 false
    auc, recall, precision = average_precision(np.array([1, 1, 2]), np.array([4, 3, 0]))
    assert recall.tolist() == [0.5, 0.75, 1.0] and precision.tolist() == [1.0, 0.5, 4 / 11]
    assert auc == pytest.approx(100 * (0.25 * 0.5 + 0.25 * 4 / 11))
    with pytest.raises(RuntimeError, match="empty"):
        average_precision(np.zeros(3, int), np.array([4, 3, 0]))


def test_an_empty_ignore_path_is_no_ignore_region(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.eye(30, dtype=np.uint8) * 255).save(tmp_path / "m.png")
    assert set(np.unique(get_mask(tmp_path, ["m.png"], ""))) == {0, 1}


def test_checkpoints_of_the_command_line(birds: Path, save_root: Path, tmp_path: Path, capsys) -> None:
    given = flags(birds, save_root, *JOINT, "--use_load_checkpoint=True", "--erase_k", "0.1")
    eval_pixel_perturb.main([*given, "--load_checkpoint=em/"])
    eval_pixel_perturb.main([*given, "--load_checkpoint=checkpoint_name/"])
    assert "placeholder" in capsys.readouterr().out
    with pytest.raises(UserError, match="no checkpoint nothing.*tried"):
        eval_pixel_perturb.main([*given, "--load_checkpoint=nothing/"])
    with pytest.raises(UserError, match="--architecture"):
        eval_pixel_perturb.main([*given, "--load_checkpoint=em", "--architecture", "resnet18"])
    ids = tmp_path / "ids.txt"
    ids.write_text("strange.jpg\n")
    with pytest.raises(UserError, match="strange.jpg"):
        eval_pixel_perturb.main([*given, "--image_list", str(ids)])
    listed = (next((save_root / "metadata").rglob("x"), None) or birds / "metadata/CUB/test/image_ids.txt").read_text()
    ids.write_text("\n".join(listed.splitlines()[:4]))
    eval_pixel_perturb.main([*given, "--image_list", str(ids)])
    assert "4 test images" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_evaluate_each_image_once_and_equal_one(birds: Path, save_root: Path, tmp_path: Path) -> None:
    given = flags(birds, save_root, *JOINT, "--threshold_type=log")
    for script, module in (("eval_pixel_perturb", eval_pixel_perturb), ("eval_cue_location", eval_cue_location)):
        module.main([*given, "--output_dir", str(tmp_path / f"{script}_one")])
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", module.__file__, *given,
                   "--output_dir", str(tmp_path / f"{script}_two")]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        one, two = (json.loads((tmp_path / f"{script}_{k}" / "summary.json").read_text()) for k in ("one", "two"))
        for key in set(one) - {"wall_seconds", "images_per_second"}:
            assert one[key] == two[key], key


@pytest.mark.slow
def test_the_two_evaluations_run_in_parallel_under_one_experiment_name(birds: Path, save_root: Path) -> None:
    scripts = (eval_pixel_perturb.__file__, eval_cue_location.__file__)
    given = flags(birds, save_root, *JOINT)
    running = [subprocess.Popen([sys.executable, s, *given], stdout=subprocess.PIPE, text=True) for s in scripts]
    outputs = [p.communicate(timeout=300)[0] for p in running]
    assert [p.returncode for p in running] == [0, 0] and all("results:" in out for out in outputs)


def test_gallery(birds: Path, save_root: Path, tmp_path: Path) -> None:
    gallery.main(["--runs", "em", "--cpu", "--data_root", str(birds), "--save_root", str(save_root), "--output_dir",
                  str(tmp_path / "g"), "--smooth_grad_nr_iter", "2", "--integrated_grad_nr_iter", "2"])  # fmt: skip
    assert len(list((tmp_path / "g/figures").glob("parts*.png"))) == 3
    with pytest.raises(UserError, match="no checkpoint nothing"):
        gallery.main(["--runs", "nothing", "--data_root", str(birds), "--save_root", str(save_root)])
