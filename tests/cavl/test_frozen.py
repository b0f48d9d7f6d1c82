"""`--frozen_features`: features computed once, heads trained as on the pictures themselves."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cavl import build, explain, main
from cavl.build_deployed import deployed
from cavl.build_frozen import freeze_backbone
from cavl.build_named import named_network
from cavl.build_saved import load_any_run, load_run
from cavl.cifar_models import resnet
from common import samples
from common.cli import UserError, run_main
from common.frozen import is_frozen
from tests.cavl.runs import state

MOBILE = ["-mo", "mobilenetv3_small_050", "-size", "32"]
OWN = ["-mo", "resnet", "-depth", "8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return samples.draw("own", tmp_path_factory.mktemp("own") / "x")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def train(place, folder, *flags):
    """Three steps an epoch on 24 pictures; the losses of all epochs."""
    given = ["--data", str(place / "folders"), "--cpu", "-bs", "8", "-ep", "2", *flags]
    main.main([*given, "--frozen_features", "--output_dir", str(folder)])
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["split"] == "train"]


def on_pictures(monkeypatch):
    """Let the same frozen backbone see the pictures at every step."""

    def keep(data, model, **_):
        freeze_backbone(model)
        return data

    monkeypatch.setattr(build, "with_features", keep)


@pytest.mark.parametrize(
    "flags",
    [
        [*MOBILE],
        [*OWN, "-select", "cam"],
        [*MOBILE, "-head", "mlp", "-method", "rc"],
        [*OWN, "-selection_curve", "9"],
    ],
    ids=" ".join,
)
def test_a_head_learns_what_it_learns_from_pictures(place, cache, tmp_path, monkeypatch, flags):
    of_features = train(place, tmp_path / "features", *flags)
    with monkeypatch.context() as patched:
        on_pictures(patched)
        of_pictures = train(place, tmp_path / "pictures", *flags)
    assert of_features == pytest.approx(of_pictures, rel=1e-5)
    one, two = (state(tmp_path / name)["state"]["model"] for name in ("features", "pictures"))
    assert list(one) == list(two)
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("flags", [MOBILE, OWN], ids=" ".join)
def test_the_backbone_stays(place, cache, tmp_path, monkeypatch, flags):
    train(place, tmp_path / "r", *flags)
    built = []
    monkeypatch.setattr(build, "prepare", lambda accelerator, *things: built.append(things))
    with pytest.raises(TypeError):  # nothing is prepared: what was built is enough
        train(place, tmp_path / "again", *flags)
    before = built[0][0].state_dict()
    after = state(tmp_path / "r")["state"]["model"]
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert len(moved) == 2 and all(name.endswith((".weight", ".bias")) for name in moved)
    optimizer = built[0][1]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_the_second_run_computes_nothing(place, cache, tmp_path, monkeypatch):
    train(place, tmp_path / "a", *OWN)
    files = {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")}
    assert len(files) == 2
    train(place, tmp_path / "b", *OWN, "-method", "cc")
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")} == files


def test_other_sizes_weights_pictures_and_maps_are_other_files(place, cache, tmp_path):
    other = samples.draw("own", tmp_path / "other")
    for path in (other / "folders").rglob("*.jpg"):
        Image.open(path).rotate(90).save(path)
    weights = tmp_path / "run-0" / "checkpoints" / "last.pt"
    runs = [
        (place, [], 2),
        (place, ["-size", "24"], 4),
        (place, ["-weights", str(weights)], 4),  # of the first run: its features
        (place, ["-seed", "5"], 6),  # other random weights
        (place, ["-selection_curve", "5"], 8),  # maps
        (other, [], 10),
    ]
    for number, (where, more, expected) in enumerate(runs):
        train(where, tmp_path / f"run-{number}", *OWN, "--max_steps", "1", *more)
        assert len(list(cache.glob("*.npy"))) == expected, more


def test_maps_are_kept_only_where_they_are_looked_at(place, cache, tmp_path):
    train(place, tmp_path / "a", *OWN, "--max_steps", "1")
    train(place, tmp_path / "b", *OWN, "-select", "cam", "--max_steps", "1")
    shapes = {np.load(path).shape for path in cache.glob("*.npy")}
    assert shapes == {(24, 64, 1, 1), (6, 64, 1, 1), (24, 64, 8, 8), (6, 64, 8, 8)}


def test_a_cut_run_goes_on_exactly(place, cache, tmp_path):
    whole = train(place, tmp_path / "whole", *OWN)
    train(place, tmp_path / "cut", *OWN, "--max_steps", "4")
    assert train(place, tmp_path / "cut", *OWN, "--resume") == whole
    one, two = (state(tmp_path / name)["state"]["model"] for name in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_it_is_a_setting_of_the_run(place, cache, tmp_path):
    train(place, tmp_path / "r", *OWN, "--max_steps", "1")
    given = ["--data", str(place / "folders"), "--cpu", "-bs", "8", "-ep", "2", *OWN]
    with pytest.raises(UserError, match=r"frozen_features .* then"):
        main.main([*given, "--output_dir", str(tmp_path / "r"), "--resume"])


def test_the_checkpoint_takes_pictures(place, cache, tmp_path, capsys):
    folder = tmp_path / "r"
    train(place, folder, *MOBILE, "-cam_vis", "2")
    assert (folder / "figures" / "cams.png").is_file()
    explain.main(["--run", str(folder), "--image", str(place / "pictures" / "one_00.jpg")])
    assert "class activation value picks" in capsys.readouterr().out
    assert not is_frozen(load_run(folder).model.classifier_network.features)
    found = deployed(folder)
    assert found.probabilities(found.example(2)).shape == (2, 3) and found.maps is not None


def test_an_mlp_has_no_maps_and_can_be_exported(place, cache, tmp_path):
    folder = tmp_path / "r"
    train(place, folder, *MOBILE, "-head", "mlp")
    assert load_any_run(folder).head == "mlp"
    found = deployed(folder)
    assert found.maps is None and found.timm_name is None
    assert found.probabilities(found.example(2)).shape == (2, 3)
    with pytest.raises(UserError, match="has no class activation maps"):
        load_run(folder)


def test_methods_share_the_features(place, cache, tmp_path):
    given = ["--data", str(place / "folders"), "--cpu", "-ep", "1", *OWN, "--frozen_features"]
    main.main([*given, "-compare", "cavl,cc", "--output_dir", str(tmp_path / "r")])
    assert len(list(cache.glob("*.npy"))) == 2
    assert load_run(tmp_path / "r" / "cc-seed0").takes.shape == (3, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize(("ds", "channels"), [("cifar10", 3), ("mnist", 1)])
def test_images_of_a_data_set_are_enlarged(cache, tmp_path, ds, channels):
    flags = ["--sample", "--cpu", "-ds", ds, *MOBILE[:2], "-size", "64", "-ep", "1"]
    main.main([*flags, "--frozen_features", "--max_steps", "2", "--output_dir", str(tmp_path)])
    takes = load_run(tmp_path).takes
    assert takes.shape == (channels, 64, 64) and takes.interpolation == "bicubic"


def test_maps_pass_through_both_kinds_of_networks():
    for model in (named_network("mobilenetv3_small_050", (3, 32, 32), 3), resnet(8, 3)):
        backbone = freeze_backbone(model)
        model.train()
        x = torch.rand(2, 3, 32, 32)
        maps = backbone(x)
        assert not maps.requires_grad and model(x).requires_grad
        assert torch.equal(model(maps), model(x))
        torch.testing.assert_close(model(maps.mean((2, 3), keepdim=True)), model(x))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-mo", "mlp"], "needs a feature map: convnet, resnet, densenet"),
        ([*MOBILE, "-augment"], "leave out -augment"),
        ([*OWN, "-head", "mlp"], "-head is for networks of timm and torchvision, not resnet"),
        ([*MOBILE, "-head", "mlp", "-select", "cam"], "-head mlp not"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(place, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: train(place, tmp_path / "r", *flags))
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "r").exists()
