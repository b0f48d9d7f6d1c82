"""--frozen_features: equal to training on pictures, computed once, usable by every script."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from calm import build, eval_cue_location, eval_pixel_perturb, eval_wsol, explain, main
from calm.build_checkpoint import read_checkpoint
from calm.options import parse
from calm.training import Trainer
from common import export
from common.cli import UserError
from tests.calm.conftest import TRAIN
from tests.calm.test_data_unreadable import cut, listed, own_birds  # noqa: F401
from tests.calm.training_runs import state

FROZEN = [*TRAIN[: TRAIN.index("--resize_size")], "--frozen_features", "--workers=0", "--seed=3"]
CALM = ["--prior_activation=softplus", "--prior_gradient=full"]
SMALL = ["--architecture=small", "--pretrained=False"]
HEADS = ("conv_last.", "attention.")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def command(birds: Path, folder: Path, *more: str) -> list[str]:
    given = [*FROZEN, *SMALL, *CALM] if not any("--arch" in flag for flag in more) else FROZEN
    return [*given, *more, "--data_root", str(birds), "--output_dir", str(folder)]


def trained(birds: Path, folder: Path, *more: str) -> dict:
    """What summary.json of a run says."""
    main.main(command(birds, folder, *more))
    return json.loads((folder / "summary.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "checkpoints/last.pt")[0]


def stamps(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cache.glob("*.npy")}


# --- equal to the pictures ---


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param([*SMALL, *CALM], id="small"),
        pytest.param([*SMALL, "--attribution_method=CAM"], id="CAM"),
        pytest.param([*SMALL, *CALM, "--em_teacher=ema"], id="teacher"),
        pytest.param(["--architecture=resnet18", "--pretrained=False", *CALM], id="resnet18"),
        pytest.param(
            ["--architecture=mobilenetv3_small_050", "--pretrained=False", *CALM], id="timm"
        ),
    ],
)
def test_training_is_that_on_pictures_of_the_same_view(
    birds: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    def after_an_epoch(name: str) -> tuple[list[float], dict[str, torch.Tensor], dict]:
        trainer = Trainer(parse([*FROZEN, *flags, *here, str(tmp_path / name)]))
        losses = []
        add = trainer.loss.add
        trainer.loss.add = lambda value, count: (losses.append(value.item()), add(value, count))
        trainer.train("train")
        return losses, dict(trainer.model.state_dict()), trainer.evaluate_cls("val")

    here = ["--data_root", str(birds), "--output_dir"]
    of_features = after_an_epoch("features")
    monkeypatch.setattr(build, "with_features", lambda loaders, *_: loaders)
    of_pictures = after_an_epoch("pictures")
    assert of_features[0] == pytest.approx(of_pictures[0], rel=1e-5)
    assert len(of_features[0]) > 1
    for name, value in of_pictures[1].items():
        torch.testing.assert_close(of_features[1][name], value, rtol=1e-5, atol=1e-5)
    assert of_features[2] == pytest.approx(of_pictures[2], rel=1e-4, abs=1e-4)


def test_the_heads_begin_as_without_the_flag_and_the_body_stays(
    birds: Path, tmp_path: Path, cache: Path
) -> None:
    pictured = [flag for flag in command(birds, tmp_path / "p") if flag != "--frozen_features"]
    plain = Trainer(parse(pictured)).model.state_dict()
    frozen = Trainer(parse(command(birds, tmp_path / "f")))
    before = {name: value.clone() for name, value in frozen.model.state_dict().items()}
    assert all(torch.equal(value, plain[name]) for name, value in before.items())

    learning = [weight for group in frozen.optimizer.param_groups for weight in group["params"]]
    heads = [w for name, w in frozen.model.named_parameters() if name.startswith(HEADS)]
    assert [id(weight) for weight in learning] == [id(weight) for weight in heads]
    trained(birds, tmp_path / "r")
    after = weights(tmp_path / "r")
    assert set(after) == set(before)
    for name, value in after.items():
        assert torch.equal(value, before[name]) != name.startswith(HEADS), name


# --- computed once ---


def test_the_second_run_computes_nothing_and_ends_the_same(
    birds: Path, tmp_path: Path, cache: Path
) -> None:
    trained(birds, tmp_path / "one")
    first = stamps(cache)
    assert len(first) == 3  # train, val, test
    trained(birds, tmp_path / "two")
    assert stamps(cache) == first
    for name, value in weights(tmp_path / "one").items():
        assert torch.equal(weights(tmp_path / "two")[name], value)


@pytest.mark.parametrize(
    "flag", ["--crop_size=48", "--architecture=resnet18", "--seed=4"], ids=["size", "net", "seed"]
)
def test_another_size_network_or_other_weights_give_other_files(
    birds: Path, tmp_path: Path, cache: Path, flag: str
) -> None:
    more = [flag, "--pretrained=False"] if "arch" in flag else [flag]
    Trainer(parse(command(birds, tmp_path / "one")))
    first = stamps(cache)
    Trainer(parse(command(birds, tmp_path / "two", *more)))
    assert len(stamps(cache)) == 2 * len(first)


def test_other_pictures_give_another_file(
    own_birds: Path,  # noqa: F811
    tmp_path: Path,
    cache: Path,
) -> None:
    Trainer(parse(command(own_birds, tmp_path / "one")))
    one, other = listed(own_birds, "train")[:2]
    one.write_bytes(other.read_bytes())
    Trainer(parse(command(own_birds, tmp_path / "two")))
    assert len(stamps(cache)) == 4


def test_a_run_that_was_cut_goes_on_exactly(birds: Path, tmp_path: Path, cache: Path) -> None:
    whole = trained(birds, tmp_path / "whole")
    folder = tmp_path / "cut"
    main.main(command(birds, folder, "--max_steps=2"))
    resumed = trained(birds, folder, "--resume")
    assert resumed["test_nll"] == whole["test_nll"]
    model = state(folder)["state"]["model"]
    for name, value in state(tmp_path / "whole")["state"]["model"].items():
        assert torch.equal(model[name], value)
    pictured = [flag for flag in command(birds, folder) if flag != "--frozen_features"]
    with pytest.raises(UserError, match="frozen_features True then, False now"):
        main.main([*pictured, "--resume"])


# --- the checkpoint, and the other scripts ---


@pytest.mark.slow
def test_every_script_takes_the_checkpoint(birds: Path, tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "run"
    trained(birds, folder, "--only_last")
    kept = [path.name for path in folder.rglob("*") if path.suffix in (".pt", ".tar")]
    assert kept == ["last.pt"]

    where = ["--cpu", "--data_root", str(birds), "--output_dir", str(folder), "--overwrite"]
    where += ["--workers=0", "--score_map_process=jointll"]
    eval_pixel_perturb.main([*where, "--erase_k", "0.1"])
    picture = str(listed(birds, "test")[0])
    explain.main(["--cpu", "--load_checkpoint", str(folder), "--image", picture])
    export.main([str(folder), "--to", "safetensors"])

    for script, more in ((eval_cue_location, ["--threshold_type=log"]), (eval_wsol, [])):
        found = []
        for flags in ([], ["--frozen_features"]):
            script.main([*where, *more, *flags])
            name = f"{script.__name__.split('.')[1]}_jointll_CALM-EM"
            text = (folder / name / "summary.json").read_text()
            found.append({k: v for k, v in json.loads(text).items() if isinstance(v, float)})
        for times in ("wall_seconds", "images_per_second"):
            assert found[0].pop(times) > 0 and found[1].pop(times) > 0
        assert found[0] and found[1] == pytest.approx(found[0], rel=1e-4)


def test_own_data_are_trained_on(own: Path, tmp_path: Path, cache: Path, capsys) -> None:
    folder = tmp_path / "run"
    more = ["--data", str(own / "complete.csv"), "--output_dir", str(folder)]
    main.main([*FROZEN, *SMALL, *CALM, *more])
    assert "the weights of small are random" in capsys.readouterr().out
    eval_wsol.main(["--output_dir", str(folder), "--cpu", "--workers=0", "--frozen_features"])
    (summary,) = folder.glob("eval_wsol*/summary.json")
    assert 0 <= json.loads(summary.read_text())["MaxBoxAccV2"] <= 100
    shapes = {np.load(path, mmap_mode="r").shape[1:] for path in cache.glob("*.npy")}
    assert len(shapes) == 1


def test_unreadable_pictures_are_left_out_of_training_too(
    own_birds: Path,  # noqa: F811
    tmp_path: Path,
    cache: Path,
    capsys,
) -> None:
    damaged = listed(own_birds, "train")[1]
    cut(damaged)
    with pytest.raises(UserError, match=f"{damaged.name}: unreadable image"):
        trained(own_birds, tmp_path / "r")
    trained(own_birds, tmp_path / "r", "--skip_corrupt")
    assert damaged.name in capsys.readouterr().out


# --- what does not go together ---


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (main, ["--resize_size=80"], "--resize_size contradicts --frozen_features"),
        (main, ["--cache_images"], "--cache_images contradicts --frozen_features"),
        (main, ["--architecture=vgg16"], "vgg16 has layers of its own that must be trained"),
        (eval_wsol, ["--score_map_process=input_grad"], "input_grad needs the pictures"),
        (eval_pixel_perturb, [], "--frozen_features acts in main.py"),
        (explain, [], "--frozen_features acts in main.py"),
    ],
)
def test_it_refuses_in_one_line(
    birds: Path, tmp_path: Path, script, flags: list[str], message: str, capsys
) -> None:
    where = ["--frozen_features", "--data_root", str(birds), "--output_dir", str(tmp_path / "r")]
    with pytest.raises(SystemExit) as stop:
        script.main([*where, *flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and message in error
    assert not (tmp_path / "r").exists()
