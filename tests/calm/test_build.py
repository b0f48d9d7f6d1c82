"""What makes a number comparable comes from the checkpoint, unless its flag is given, and is
printed.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from calm import eval_cue_location, eval_pixel_perturb, eval_wsol, explain, gallery, network
from calm import main as training
from common.cli import UserError
from tests.calm.training_runs import train

AS_TRAINED = (
    "evaluated as CALM-ML on small, relu prior, 6 classes, 48 x 48 pixels, bilinear, "
    "ImageNet's mean"
)
OTHER = [
    "--attribution_method=CALM_ML",
    "--crop_size=48",
    "--resize_size=50",
    "--prior_activation=relu",
    "--lr=0.01",
]
NAMES = ("wall_seconds", "images_per_second", "run")


@pytest.fixture(scope="module")
def run(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose method, head and size are neither the defaults nor the sample's."""
    folder = tmp_path_factory.mktemp("other") / "ml"
    train(birds, folder, *OTHER)
    return folder


def numbers(folder: Path) -> dict:
    summary = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name not in NAMES}


EVALUATIONS = {
    "erase": (
        eval_pixel_perturb.main,
        ["--score_map_process=jointll", "--erase_k", "0.1", "--auc_steps", "2"],
    ),
    "cues": (eval_cue_location.main, ["--score_map_process=jointll", "--norm_type=clipping"]),
    "boxes": (eval_wsol.main, ["--score_map_process=jointll", "--cam_curve_interval=0.05"]),
    "check": (training.main, ["--is_train=False"]),
    "explain": (explain.main, []),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_is_of_the_network_as_it_was_trained(
    name: str, run: Path, birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    script, more = EVALUATIONS[name]
    there = ["--cpu", "--data_root", str(birds), "--load_checkpoint", str(run), *more]

    def evaluate(folder: str, *given: str) -> tuple[dict, str]:
        script([*there, *given, "--output_dir", str(tmp_path / folder)])
        return numbers(tmp_path / folder), capsys.readouterr().out

    found, told = evaluate("from_checkpoint")
    assert AS_TRAINED in told and "not as it was trained" not in told
    settings = json.loads((tmp_path / "from_checkpoint/config.json").read_text())["settings"]
    assert (settings["crop_size"], settings["attribution_method"], settings["num_classes"]) == (
        48,
        "CALM-ML",
        6,
    )

    by_hand = [
        "--architecture=small",
        "--attribution_method=CALM_ML",
        "--crop_size=48",
        "--num_classes=6",
    ]
    assert evaluate("by_hand", *by_hand)[0] == found

    original, _ = evaluate("original", "--load_checkpoint", str(run / "last_checkpoint.pth.tar"))
    assert original == found

    larger, told = evaluate("larger", "--crop_size=64")
    assert larger != found
    assert "64 x 64 pixels" in told and "not as it was trained: crop_size 64 (trained: 48)" in told


def test_training_and_checking_agree(run: Path, birds: Path, tmp_path: Path) -> None:
    training.main(
        [
            "--cpu",
            "--data_root",
            str(birds),
            "--load_checkpoint",
            str(run),
            "--is_train=False",
            "--output_dir",
            str(tmp_path / "r"),
        ]
    )
    assert numbers(tmp_path / "r")["test_accuracy"] == numbers(run)["test_accuracy"]
    assert numbers(tmp_path / "r")["test_nll"] == pytest.approx(numbers(run)["test_nll"], rel=1e-6)


def test_another_method_is_evaluated_only_when_it_is_asked_for(
    run: Path, birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    eval_wsol.main(
        [
            "--cpu",
            "--data_root",
            str(birds),
            "--load_checkpoint",
            str(run),
            "--attribution_method=CAM",
            "--cam_curve_interval=0.1",
            "--output_dir",
            str(tmp_path / "r"),
        ]
    )
    assert "attribution_method CAM (trained: CALM-ML)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gallery_draws_at_the_size_of_the_runs(
    run: Path,
    birds: Path,
    save_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    given = [
        "--cpu",
        "--data_root",
        str(birds),
        "--images",
        "1",
        "--smooth_grad_nr_iter",
        "2",
        "--integrated_grad_nr_iter",
        "2",
    ]
    gallery.main([*given, "--runs", str(run), "--output_dir", str(tmp_path / "g")])
    assert "48 x 48 pixels" in capsys.readouterr().out
    both = [*given, "--runs", str(run), str(save_root / "em")]
    with pytest.raises(
        UserError, match=r"different sizes \(.*ml 48, .*em 64\); choose one with --crop_size"
    ):
        gallery.main(both)
    gallery.main([*both, "--crop_size", "32", "--output_dir", str(tmp_path / "h")])
    columns = json.loads((tmp_path / "h/summary.json").read_text())["columns"]
    assert columns[:2] == ["CALM-ML (jointll)", "CALM-EM (jointll)"]
    same_method = [
        *given,
        "--runs",
        str(save_root / "em"),
        str(save_root / "em" / "last_checkpoint.pth.tar"),
    ]
    gallery.main([*same_method, "--output_dir", str(tmp_path / "i")])
    columns = json.loads((tmp_path / "i/summary.json").read_text())["columns"]
    assert columns[:2] == ["CALM-EM (jointll)", "CALM-EM (jointll), last_checkpoint.pth.tar"]


def stored(folder: Path, change: Callable[[dict], None]) -> Path:
    """A checkpoint of a network of the sample, changed."""
    net = network.small(num_classes=6)
    saved = {
        "architecture": "small",
        "attribution_method": "CAM",
        "crop_size": 64,
        "state_dict": net.state_dict(),
    }
    change(saved)
    torch.save(saved, folder / "changed.pth.tar")
    return folder / "changed.pth.tar"


def test_another_data_set_than_that_of_the_training_is_asked_for_by_name(
    birds: Path, tmp_path: Path
) -> None:
    path = stored(tmp_path, lambda saved: saved.update(dataset_name="OpenImages"))
    given = [
        "--cpu",
        "--data_root",
        str(birds),
        "--load_checkpoint",
        str(path),
        "--output_dir",
        str(tmp_path / "r"),
    ]
    for script in (eval_wsol.main, eval_pixel_perturb.main, training.main):
        more = ["--is_train=False"] if script is training.main else []
        with pytest.raises(
            UserError, match="was trained on OpenImages; evaluate it with --dataset=OpenImages"
        ):
            script([*given, *more])
    eval_wsol.main([*given, "--dataset=CUB", "--cam_curve_interval=0.1"])


def test_another_number_of_classes_is_asked_for_by_flag(
    birds: Path, save_root: Path, tmp_path: Path
) -> None:
    net = network.small(num_classes=20)
    path = stored(tmp_path, lambda saved: saved.update(state_dict=net.state_dict()))
    given = [
        "--cpu",
        "--data_root",
        str(birds),
        "--load_checkpoint",
        str(path),
        "--output_dir",
        str(tmp_path / "r"),
    ]
    with pytest.raises(
        UserError,
        match=r"has 20 classes, CUB in .*CUB_200_2011 6; .*--data_root, or --num_classes 20",
    ):
        eval_wsol.main(given)
    with pytest.raises(UserError, match=r"has 20 classes, expected 6"):
        gallery.main(["--cpu", "--data_root", str(birds), "--runs", str(path)])
    eval_wsol.main([*given, "--num_classes=20", "--cam_curve_interval=0.1"])


def test_a_checkpoint_that_says_nothing_is_evaluated_by_the_flags(
    birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save(network.small(num_classes=6).state_dict(), tmp_path / "bare.pt")
    given = ["--cpu", "--data_root", str(birds), "--load_checkpoint", str(tmp_path / "bare.pt")]
    eval_wsol.main(
        [*given, "--cam_curve_interval=0.1", "--crop_size=32", "--output_dir", str(tmp_path / "r")]
    )
    assert "evaluated as CAM on small, 6 classes, 32 x 32 pixels" in capsys.readouterr().out
