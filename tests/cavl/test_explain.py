"""Class activation maps of the user's own picture."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from cavl import build_saved, explain, main
from cavl.build import build_network
from cavl.data_input import InputFormat
from common import checkpoint
from common.cli import UserError, run_main
from tests.cavl.test_data_loaders import write_idx


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("save") / "run"
    flags = ("-ds", "cifar10", "-mo", "resnet", "-depth", "8", "--sample", "-max_steps", "2")
    main.main([*flags, "--output_dir", str(folder)])
    return folder


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(
        path
    )
    return path


def test_a_picture_of_any_size_is_explained_among_the_candidates(run, picture, capsys):
    explain.main(["--run", str(run), "--image", str(picture), "--candidates", "3", "5"])
    told = capsys.readouterr().out.splitlines()
    assert (
        told[-2].startswith("of the candidates 3, 5 the class activation value picks ")
        and told[-2][-1] in "35"
    )
    assert told[-1] == f"picture: {run / 'figures' / 'explain.png'}"
    assert Image.open(run / "figures" / "explain.png").size[0] > 300


def test_the_network_is_the_runs_and_the_picture_in_its_scale(run, picture):
    saved = build_saved.load_run(run)
    model = saved.model
    weights = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["state"]["model"]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    x = explain.network_input(picture, saved.takes)
    assert x.shape == (1, 3, 32, 32) and -3 < x.min() < 0 < x.max() < 3
    grey = explain.network_input(picture, InputFormat((1, 24, 20), 10))
    assert grey.shape == (1, 1, 24, 20) and 0 <= grey.min() < grey.max() <= 1


def test_size_scale_and_classes_are_the_checkpoints_and_are_printed(tmp_path, picture, capsys):
    """Images of 20x20 and 4 classes: the tables of the data sets would say 28x28 and 10."""
    root = tmp_path / "data"
    root.mkdir()
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        write_idx(root / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (12, 20, 20)))
        write_idx(root / f"{part}-labels-idx1-ubyte", np.arange(12) % 10)
    folder = tmp_path / "run"
    flags = (
        "-mo",
        "resnet",
        "-depth",
        "8",
        "-ep",
        "1",
        "-mask",
        "product",
        "-cam_vis",
        "1",
        "--cpu",
    )
    main.main([*flags, "--data_dir", str(root), "--output_dir", str(folder)])
    saved = build_saved.load_run(folder)
    assert saved.takes == InputFormat((1, 20, 20), 10)
    assert explain.network_input(picture, saved.takes).shape == (1, 1, 20, 20)
    capsys.readouterr()

    explain.main(["--run", str(folder), "--image", str(picture)])
    said = capsys.readouterr().out.splitlines()[0]
    rule = "-cav logit, -mask product"
    assert said == f"resnet of depth 8 trained on mnist: input 1x20x20, 10 classes, {rule}"


def test_the_released_rule_of_a_run_is_the_rule_of_the_explanation(
    run, picture, tmp_path, capsys, monkeypatch
):
    """Under -mask product a class outside wins where all candidates have negative values."""
    folder = shutil.copytree(run, tmp_path / "run")
    saved = checkpoint.load(folder / "checkpoints" / "last.pt")
    z = torch.tensor([[3.0, 3.0, 3.0, -2.0, 3.0, -1.0, 3.0, 3.0, 3.0, 3.0]])

    def with_outputs(self, model, x, cav):
        self.outputs = z
        self.maps = torch.zeros(1, 10, 2, 2)
        self.maps[0, 3] = 1
        self.p = self.values = z.softmax(1)
        self.areas = self.maps.sum((2, 3))

    monkeypatch.setattr(explain.CandidateMaps, "__init__", with_outputs)
    monkeypatch.setattr(explain.CandidateMaps, "row", lambda *args, **names: None)
    monkeypatch.setattr(explain, "save_rows", lambda *args: None)
    for settings, expected in (
        ({"mask": "candidates", "select": "cav"}, ["picks 5"]),
        ({"mask": "product", "select": "cav"}, ["picks 0"]),
        (
            {"mask": "candidates", "select": "cam"},
            ["by which the run selects, is that of 3", "picks 5"],
        ),
    ):
        saved["settings"].update(settings)
        checkpoint.save(folder / "checkpoints" / "last.pt", saved)
        explain.main(["--run", str(folder), "--image", str(picture), "--candidates", "3", "5"])
        told = capsys.readouterr().out.splitlines()[1:-1]
        assert len(told) == len(expected)
        for line, end in zip(told, expected, strict=True):
            assert line.startswith("of the candidates 3, 5 ") and line.endswith(end)


def test_mistakes_are_named(run, picture, tmp_path):
    with pytest.raises(UserError, match="--candidates 10: classes are 0 to 9"):
        explain.main(["--run", str(run), "--image", str(picture), "--candidates", "10"])
    with pytest.raises(UserError, match="--candidates: 3 stands there twice"):
        explain.main(["--run", str(run), "--image", str(picture), "--candidates", "3", "5", "3"])
    with pytest.raises(UserError, match="no checkpoints/last.pt in it; name a run directory"):
        explain.main(["--run", str(tmp_path), "--image", str(picture)])


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--image", "none.png", "none.png: no such file"),
        ("--image", ".", "a folder, expected a file"),
        ("--image", "/dev/null", "is a pipe or a device"),
        ("--run", "photo.jpg", "a file, expected a folder"),
        ("--run", "~nobody_here/run", "there is no user"),
        ("--candidates", "inf", "must be a whole number"),
        ("--out", "folder.png", "is no file; name one"),
        ("--out", "x.jpg", "the figure is a PNG"),
        ("--out", "photo.png", "is the picture itself"),
    ],
)
def test_flags_that_cannot_be_are_one_line_and_touch_nothing(
    run, picture, capsys, monkeypatch, flag, value, message
):
    monkeypatch.chdir(picture.parent)
    (picture.parent / "folder.png").mkdir()
    Image.open(picture).save("photo.png")
    before = (picture.parent / "photo.png").read_bytes()
    flags = {"--run": str(run), "--image": "photo.png", flag: value}
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: explain.main([part for pair in flags.items() for part in pair]))
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1
    assert (picture.parent / "photo.png").read_bytes() == before


def changed(path, *keys, value):
    """A checkpoint with another value at state -> input -> shape, say."""
    saved = checkpoint.load(path)
    place = saved
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    torch.save(saved, path)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ((), [1], "not a checkpoint of main.py of this paper"),
        (("settings",), {"mo": "resnet"}, "not a checkpoint of main.py of this paper"),
        (
            ("settings", "mo"),
            "mlp",
            "has no class activation maps; convnet, resnet, densenet have them",
        ),
        (("settings", "cav"), "x", "its checkpoint holds cav 'x', which is no value of -cav"),
        (("settings", "mask"), 3, "holds mask 3"),
        (("settings", "select"), None, "holds select None"),
        (("settings", "depth"), "x", "holds depth 'x'"),
        (("settings", "depth"), 9, "holds depth 9"),
        (("settings", "depth"), 14, "does not fit"),
        (("state",), {}, "holds several runs, a folder each; name one of them"),
        (
            ("state", "model"),
            {"x": torch.zeros(2)},
            "its weights are not those of convnet, resnet, densenet",
        ),
        (("state", "model", "fc.bias"), torch.full((10,), torch.nan), "fc.bias holds NaN"),
        (("state", "input", "shape"), 3, "the format of its input is"),
        (("state", "input", "shape"), [3, -1, 32], "the format of its input is"),
        (("state", "input", "shape"), [3, 32, 10**6], "expected channels, height and width"),
        (("state", "input", "shape"), [1, 32, 32], "the format of its input is"),
        (("state", "input", "num_classes"), "x", "the format of its input is"),
        (("state", "input", "num_classes"), 10**9, "but weights of 3 channels and 10 classes"),
        (("state", "input", "mean"), [0.5], "the format of its input is"),
        (("state", "input", "std"), [0.2, 0.0, 0.2], "the format of its input is"),
        (("state", "input", "mean"), None, "the format of its input is"),
    ],
    ids=str,
)
def test_what_stands_in_a_checkpoint_is_looked_at(
    run, picture, tmp_path, capsys, keys, value, message
):
    folder = shutil.copytree(run, tmp_path / "run")
    file = folder / "checkpoints" / "last.pt"
    if keys:
        changed(file, *keys, value=value)
    else:
        torch.save(value, file)
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: explain.main(["--run", str(folder), "--image", str(picture)]))
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1


def test_all_comes_from_the_checkpoint_and_config_may_be_damaged(run, picture, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "config.json").write_text("[1")
    explain.main(["--run", str(folder), "--image", str(picture)])
    assert "picks" in capsys.readouterr().out


PICTURES = {
    "wide.png": lambda path: Image.new("RGB", (9000, 2), "red").save(path),
    "tall.png": lambda path: Image.new("L", (1, 5000), 7).save(path),
    "dot.gif": lambda path: Image.new("P", (1, 1)).save(path),
    "print.jpg": lambda path: Image.new("CMYK", (40, 30), (9, 90, 0, 0)).save(path),
    "deep.png": lambda path: Image.fromarray(np.full((20, 20), 4000, np.uint16)).save(path),
    "clear.png": lambda path: Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(path),
    "palette.png": lambda path: Image.new("P", (20, 20), 1).save(path, transparency=1),
    "PHOTO.JPG": lambda path: Image.new("RGB", (20, 30), "red").save(path, exif=rotated()),
    "sum $x_{$ a.png": lambda path: Image.new("RGB", (20, 30)).save(path),
}


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_any_kind_is_explained(run, tmp_path, capsys, name):
    PICTURES[name](tmp_path / name)
    explain.main(
        ["--run", str(run), "--image", str(tmp_path / name), "--out", str(tmp_path / "out.png")]
    )
    assert "picks" in capsys.readouterr().out
    assert Image.open(tmp_path / "out.png").size[0] > 300


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8\xff", b"no picture"], ids=["empty", "cut", "text"]
)
def test_a_file_that_is_no_picture_is_named(run, tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(UserError, match="x.jpg: unreadable picture"):
        explain.main(["--run", str(run), "--image", str(tmp_path / "x.jpg")])


@pytest.mark.parametrize(
    "mo, ds, channels, classes", [("convnet", "mnist", 1, 10), ("densenet", "cifar100", 3, 100)]
)
def test_channels_and_classes_come_from_the_weights_where_none_are_saved(mo, ds, channels, classes):
    side = build_saved.SIDES["idx" if channels == 1 else "cifar"]
    takes = InputFormat((channels, side, 32), classes)
    weights = build_network(mo, takes, ds=ds, depth=8).state_dict()
    for saved in ({}, {"state": {}}, [1]):
        read = build_saved.input_format_of(saved, ds, mo, weights)
        assert (
            read.shape == (channels, *[28 if channels == 1 else 32] * 2)
            and read.num_classes == classes
        )
        assert (read.mean is None) == (channels == 1)
