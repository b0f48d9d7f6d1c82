"""Localisation, explain, gallery; what all evaluation scripts share: checkpoints, two processes,
parallel starts.
"""

import json
import multiprocessing
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from calm import (
    compare_methods,
    eval_cue_location,
    eval_pixel_perturb,
    eval_wsol,
    evaluate_wsol,
    explain,
    figures,
    gallery,
)
from calm.evaluate_cue import map_difference
from calm.evaluation import get_mask
from common.cam import normalize_scoremap, overlay
from common.cli import UserError
from tests.calm.conftest import JOINT, flags, newest
from tests.launch import TORCHRUN


def spy_on(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """What a module that draws asks of map_difference, and the maps that it draws."""
    seen: dict[str, list] = {"differences": [], "maps": []}

    def difference(
        first: torch.Tensor, second: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        found = map_difference(first, second, size)
        seen["differences"].append(found[0].double().numpy())
        return found

    def drawn(image: np.ndarray, score_map: np.ndarray) -> np.ndarray:
        seen["maps"].append(score_map)
        return overlay(image, score_map)

    monkeypatch.setattr(module, "map_difference", difference)
    monkeypatch.setattr(module, "overlay", drawn)
    return seen


def is_drawn(difference: np.ndarray, maps: list[np.ndarray]) -> bool:
    """Whether one of the maps is the difference, under some normalisation."""
    forms = [normalize_scoremap(difference, kind) for kind in ("max", "minmax", "clipping")]
    same_size = [m for m in maps if m.shape == difference.shape]
    return any(np.allclose(form, m, atol=1e-6) for form in forms for m in same_size)


def test_the_picture_of_cue_pairs_shows_the_difference_that_is_scored(
    birds: Path, save_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = spy_on(figures, monkeypatch)
    eval_cue_location.main(flags(birds, save_root, *JOINT, "--max_pairs", "1"))
    assert len(drawn["differences"]) == 3
    assert all(is_drawn(difference, drawn["maps"]) for difference in drawn["differences"])


def test_wsol(birds: Path, save_root: Path) -> None:
    eval_wsol.main(
        flags(birds, save_root, *JOINT, "--cam_curve_interval", "0.05", "--workers", "2")
    )
    first = json.loads((newest(save_root, "eval_wsol") / "summary.json").read_text())
    assert first["MaxBoxAccV2"] == pytest.approx(
        np.mean([first[f"MaxBoxAccV2/{t}"] for t in (30, 50, 70)])
    )
    assert first["top1/30"] <= first["MaxBoxAccV2/30"] and 0 < first["PxAP"] < 100
    eval_wsol.main(
        flags(
            birds,
            save_root,
            *JOINT,
            "--cam_curve_interval",
            "0.05",
            "--multi_contour_eval=False",
            "--iou_thresholds",
            "50",
            "--save_maps",
        )
    )
    kept = list((newest(save_root, "eval_wsol") / "scoremaps").glob("*/*.npy"))
    assert (
        len(kept) == 18
        and np.load(kept[0]).shape == (16, 16)
        and np.load(kept[0]).dtype == np.float32
    )
    second = json.loads((newest(save_root, "eval_wsol") / "summary.json").read_text())
    assert second["MaxBoxAcc"] == second["MaxBoxAcc/50"] <= first["MaxBoxAccV2/50"] + 1e-9


def test_maps_are_kept_below_the_run(birds: Path, save_root: Path, tmp_path: Path) -> None:
    """An id that leads out of the data set's folder would lead out of scoremaps/ as well."""
    shutil.copytree(birds / "metadata/CUB", tmp_path / "lists")
    (tmp_path / "lists" / "source.json").unlink()
    for file in (tmp_path / "lists" / "test").glob("*.txt"):
        first, _, rest = file.read_text().partition("\n")
        file.write_text(f"../../../../outside/{first}\n{rest}")
    with pytest.raises(
        UserError, match=r"image_ids.txt: line 1: the name '../../../../outside/.*' may lead out"
    ):
        eval_wsol.main(
            flags(
                birds,
                save_root,
                "--metadata_root",
                str(tmp_path / "lists"),
                "--save_maps",
                "--output_dir",
                str(tmp_path / "r"),
            )
        )
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.slow
def test_boxes_from_workers_that_are_not_forked(
    birds: Path, save_root: Path, tmp_path: Path, monkeypatch
) -> None:
    given = flags(birds, save_root, *JOINT, "--cam_curve_interval", "0.1")
    spawned = partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("spawn"))
    for workers in ("0", "2"):
        eval_wsol.main([*given, "--workers", workers, "--output_dir", str(tmp_path / workers)])
        monkeypatch.setattr(evaluate_wsol, "ProcessPoolExecutor", spawned)
    alone, pool = (
        json.loads((tmp_path / w / "summary.json").read_text())["MaxBoxAccV2"] for w in ("0", "2")
    )
    assert alone == pool


def test_an_output_dir_that_is_a_training_run(birds: Path, save_root: Path, tmp_path: Path) -> None:
    given = [
        "--cpu",
        "--data_root",
        str(birds),
        "--attribution_method=CALM_EM",
        "--crop_size",
        "64",
        *JOINT,
    ]
    given += ["--save_root", str(tmp_path / "none"), "--erase_k", "0.1"]
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(save_root / "em/checkpoints/last.pt", run / "checkpoints")
    for _ in range(2):
        eval_pixel_perturb.main([*given, "--output_dir", str(run)])
    assert (run / "eval_pixel_perturb_jointll_CALM-EM/summary.json").is_file()
    assert (run / "eval_pixel_perturb_jointll_CALM-EM-2/summary.json").is_file()
    eval_pixel_perturb.main(
        [*given, "--output_dir", str(tmp_path / "own"), "--load_checkpoint", str(run)]
    )
    assert (tmp_path / "own/summary.json").is_file()


@pytest.mark.parametrize("script", [explain, gallery, compare_methods])
def test_help_shows_the_scripts_own_flags_and_the_shared_ones(script: ModuleType, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    own = {explain: "--classes", gallery: "--runs", compare_methods: "--seeds"}[script]
    out = capsys.readouterr().out
    assert stop.value.code == 0 and f"usage: {script.__name__.split('.')[1]}.py" in out
    assert own in out and "--skip_corrupt" in out and out.count("\n  --output_dir") == 1


def test_explain_needs_only_an_image_and_a_checkpoint(
    birds: Path, save_root: Path, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("L", (90, 50), 120).save(tmp_path / "mine.png")
    nowhere = ["--cpu", "--data_root", str(tmp_path / "nothing")]
    given = [
        *nowhere,
        "--load_checkpoint",
        str(save_root / "em"),
        "--output_dir",
        str(tmp_path / "r"),
    ]
    explain.main(["--image", str(tmp_path / "mine.png"), "--classes", "1", "4", *given])
    summary = json.loads((tmp_path / "r/summary.json").read_text())
    assert summary["classes"] == [1, 4] and (tmp_path / "r/figures/explain.png").is_file()
    settings = json.loads((tmp_path / "r/config.json").read_text())["settings"]
    assert (settings["score_map_process"], settings["architecture"], settings["crop_size"]) == (
        "jointll",
        "small",
        64,
    )


@pytest.mark.parametrize("has_picture", [True, False])
def test_explain_builds_another_network_for_the_classes_of_the_data(
    has_picture: bool, birds: Path, save_root: Path, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("L", (90, 50), 120).save(tmp_path / "mine.png")
    picture = ["--image", str(tmp_path / "mine.png")] if has_picture else []
    other = ["--is_different_checkpoint=True", "--architecture=small", "--classes=6"]
    with pytest.raises(UserError, match=r"labels are 0\.\.5"):  # classes.txt has six, CUB 200
        explain.main(flags(birds, save_root, *picture, *other))


def test_explain_takes_the_first_test_image(birds: Path, save_root: Path, capsys) -> None:
    explain.main(flags(birds, save_root, *JOINT))
    out = capsys.readouterr().out
    assert out.count("p(y|x)") == 3 and "explain.png" in out
    with pytest.raises(UserError, match=r"0\.\.5"):
        explain.main(["--classes", "9", *flags(birds, save_root)])
    with pytest.raises(UserError, match="tried"):
        explain.main(["--image", "x.jpg", "--experiment_name", "none"])


def test_an_empty_ignore_path_is_no_ignore_region(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.eye(30, dtype=np.uint8) * 255).save(tmp_path / "m.png")
    assert set(np.unique(get_mask(tmp_path, ["m.png"], ""))) == {0, 1}


def test_checkpoints_of_the_command_line(
    birds: Path, save_root: Path, tmp_path: Path, capsys
) -> None:
    given = flags(birds, save_root, *JOINT, "--use_load_checkpoint=True", "--erase_k", "0.1")
    eval_pixel_perturb.main([*given, "--load_checkpoint=em/"])
    eval_pixel_perturb.main([*given, "--load_checkpoint=checkpoint_name/"])
    assert "placeholder" in capsys.readouterr().out
    with pytest.raises(UserError, match="no checkpoint nothing.*tried"):
        eval_pixel_perturb.main(
            [*given, "--load_checkpoint=nothing/", "--metadata_root", str(tmp_path / "lists")]
        )
    assert not (tmp_path / "lists").exists()  # told before anything is built
    with pytest.raises(UserError, match="--architecture"):
        eval_pixel_perturb.main([*given, "--load_checkpoint=em", "--architecture", "resnet18"])
    ids = tmp_path / "ids.txt"
    ids.write_text("strange.jpg\n")
    with pytest.raises(UserError, match="strange.jpg"):
        eval_pixel_perturb.main([*given, "--image_list", str(ids)])
    listed = (
        next((save_root / "metadata").rglob("x"), None) or birds / "metadata/CUB/test/image_ids.txt"
    ).read_text()
    ids.write_text("\n".join([*listed.splitlines()[:2], listed.splitlines()[0]]))
    with pytest.raises(UserError, match=r"ids.txt: .* stands there twice \(lines 1 and 3\)"):
        eval_pixel_perturb.main([*given, "--image_list", str(ids)])
    ids.write_text("\n")
    with pytest.raises(UserError, match="ids.txt: an empty list"):
        eval_pixel_perturb.main([*given, "--image_list", str(ids)])
    ids.write_text("\n".join(listed.splitlines()[:4]))
    eval_pixel_perturb.main([*given, "--image_list", str(ids)])
    assert "4 test images" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_evaluate_each_image_once_and_equal_one(
    birds: Path, save_root: Path, tmp_path: Path
) -> None:
    given = flags(birds, save_root, *JOINT, "--threshold_type=log")
    for script, module in (
        ("eval_pixel_perturb", eval_pixel_perturb),
        ("eval_cue_location", eval_cue_location),
    ):
        module.main([*given, "--output_dir", str(tmp_path / f"{script}_one")])
        command = [
            *TORCHRUN,
            module.__file__,
            *given,
            "--output_dir",
            str(tmp_path / f"{script}_two"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        one, two = (
            json.loads((tmp_path / f"{script}_{k}" / "summary.json").read_text())
            for k in ("one", "two")
        )
        for key in set(one) - {"wall_seconds", "images_per_second"}:
            if key.startswith(
                "peak_distance"
            ):  # of two pixels equal to the last bit either may be the maximum
                assert one[key] == pytest.approx(two[key], rel=0.02)
            else:
                assert one[key] == two[key], key


@pytest.mark.slow
def test_the_two_evaluations_run_in_parallel_under_one_experiment_name(
    birds: Path, save_root: Path
) -> None:
    scripts = (eval_pixel_perturb.__file__, eval_cue_location.__file__)
    given = flags(birds, save_root, *JOINT)
    running = [
        subprocess.Popen([sys.executable, s, *given], stdout=subprocess.PIPE, text=True)
        for s in scripts
    ]
    outputs = [p.communicate(timeout=300)[0] for p in running]
    assert [p.returncode for p in running] == [0, 0] and all("results:" in out for out in outputs)


def test_gallery(
    birds: Path, save_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = spy_on(figures, monkeypatch)
    gallery.main(
        [
            "--runs",
            "em",
            "--cpu",
            "--data_root",
            str(birds),
            "--save_root",
            str(save_root),
            "--output_dir",
            str(tmp_path / "g"),
            "--smooth_grad_nr_iter",
            "2",
            "--integrated_grad_nr_iter",
            "2",
            "--images",
            "1",
        ]
    )
    assert len(list((tmp_path / "g/figures").glob("parts*.png"))) == 3
    assert (
        len(drawn["differences"]) >= 15
    )  # a run and four gradients, on an image of a pair at least
    assert all(is_drawn(difference, drawn["maps"]) for difference in drawn["differences"])
    with pytest.raises(UserError, match="no checkpoint nothing"):
        gallery.main(
            ["--runs", "nothing", "--data_root", str(birds), "--save_root", str(save_root)]
        )
