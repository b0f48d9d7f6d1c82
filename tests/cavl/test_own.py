"""A user's own data: `--data PLACE` through main.py, explain.py and the export."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from cavl import explain, main
from cavl.build_deployed import deployed
from cavl.data_own import OwnPlace, PictureInput, load_own
from cavl.data_pictures import PictureFiles
from cavl.data_resident import Images
from common import samples
from common.cli import UserError, run_main
from common.own_names import class_names_of
from tests.cavl.runs import state

FAST = ["--cpu", "-ep", "1"]
SMALL = [*FAST, "-mo", "resnet", "-depth", "8"]
PICTURE = PictureInput(16, (0.5,) * 3, (0.5,) * 3, "bilinear")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "x"
    return samples.draw("own", folder)


def train(folder, *flags):
    main.main([*flags, "--output_dir", str(folder)])
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize(
    "name", ["folders", "labels.csv", "complete.csv", "candidates.csv"], ids=str
)
def test_pictures_are_trained_on(place, tmp_path, capsys, name):
    summary = train(tmp_path / "r", "--data", str(place / name), *SMALL)
    said = capsys.readouterr().out
    assert "30 pictures (24 train, 6 val" in said and "squashed to 32x32" in said
    assert "estimate: 1 steps" in said
    assert 0 <= summary["test_accuracy_final"] <= 1
    saved = state(tmp_path / "r")
    assert class_names_of(saved) == ["one", "three", "two"]
    assert saved["settings"]["data"] == str(place / name)


@pytest.mark.parametrize("name", ["features.npz", "features.csv"])
def test_features_are_trained_on(place, tmp_path, capsys, name):
    summary = train(tmp_path / "r", "--data", str(place / name), *FAST)
    assert "120 rows" in capsys.readouterr().out
    assert summary["test_covering_rate"] is not None


def test_candidates_are_used_as_they_are(place, tmp_path):
    train(tmp_path / "r", "--data", str(place / "candidates.csv"), *SMALL)
    data = load_own(OwnPlace(str(place / "candidates.csv")), 0, picture=PICTURE)
    assert np.array_equal(np.load(tmp_path / "r" / "candidates.npy"), data.own_sets.numpy())
    with (tmp_path / "r" / "selected.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["index"] == "pictures/one_02.jpg" and rows[0]["candidates"] == "one;three"
    assert {row["true_label"] for row in rows} == {"one", "three", "two", ""}


def unlabelled(place, folder):
    """The candidates without a single true label."""
    with (place / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    path = folder / "unlabelled.csv"
    with path.open("w") as file:
        file.write("path,split,candidates\n")
        for row in rows:
            file.write(f"{place / row['path']},{row['split']},{row['candidates']}\n")
    return path


def test_without_true_labels_nothing_pretends_to_be_accuracy(place, tmp_path, capsys):
    path = unlabelled(place, tmp_path)
    summary = train(tmp_path / "r", "--data", str(path), *SMALL, "-selection_curve", "5")
    said = capsys.readouterr().out
    assert "val: no true label is known; covering rate and approximated accuracy" in said
    assert "without true labels, after the last epoch: covering rate" in said
    assert 0 <= summary["test_covering_rate"] <= 1
    nothing = {key: value for key, value in summary.items() if key.startswith("test_accuracy")}
    assert nothing and set(nothing.values()) == {None} and summary["disambiguation"] is None
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert all("accuracy" not in json.loads(line) for line in lines)
    assert (tmp_path / "r" / "figures" / "curves.png").is_file()


def test_methods_are_compared_without_true_labels(place, tmp_path, capsys):
    path = unlabelled(place, tmp_path)
    train(tmp_path / "r", "--data", str(path), *SMALL, "-compare", "cavl,cc")
    assert (
        "no true label is known; what follows is test_approximated_acc" in capsys.readouterr().out
    )
    assert (tmp_path / "r" / "figures" / "compare.png").is_file()


def test_pictures_that_do_not_fit_are_read_from_their_files(place):
    kept = load_own(OwnPlace(str(place / "folders")), 0, picture=PICTURE)
    read = load_own(OwnPlace(str(place / "folders")), 0, picture=PICTURE, limit_gb=0)
    assert isinstance(read.train_x, PictureFiles) and any("from their" in x for x in read.lines)
    resident = Images(kept.train_x, torch.device("cpu"), mean=kept.mean, std=kept.std)
    lazy = Images(read.train_x, torch.device("cpu"), mean=kept.mean, std=kept.std)
    batches = [(part, 1.0, 8) for part in torch.randperm(24).split(8)]
    for (index, *_), (same, *_) in zip(lazy.ahead(iter(batches)), batches, strict=True):
        assert torch.equal(index, same)
        assert torch.equal(lazy[index], resident[index])


def test_the_split_is_drawn_by_each_runs_seed(place, tmp_path):
    train(tmp_path / "both", "--data", str(place / "labels.csv"), *SMALL, "-seeds", "0,1")
    train(tmp_path / "one", "--data", str(place / "labels.csv"), *SMALL, "-seed", "1")
    selected = [tmp_path / "both" / f"cavl-seed{seed}" / "selected.csv" for seed in (0, 1)]
    alone = (tmp_path / "one" / "selected.csv").read_text()
    assert alone == selected[1].read_text() != selected[0].read_text()


def test_a_run_goes_on_with_the_same_data_only(place, tmp_path, capsys):
    flags = ["--cpu", "-depth", "8", "-ep", "2", "--output_dir", str(tmp_path / "r")]
    main.main(["--data", str(place / "folders"), *flags, "--max_steps", "1"])
    with pytest.raises(UserError, match="data .* then"):
        main.main(["--data", str(place / "labels.csv"), *flags, "--resume"])
    main.main(["--data", str(place / "folders"), *flags, "--resume"])
    assert "epoch 2/2" in capsys.readouterr().out


def test_a_samples_folder_is_a_sample_run(tmp_path):
    folder = samples.ensure("MNIST")
    summary = train(tmp_path / "r", "--data", str(folder), "--cpu", "-ep", "1")
    assert summary["offline_sample"] is True


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "X/nothing"], "does not exist"),
        (["--data", "X/folders", "-ds", "lost"], "name different data"),
        (["--data", "X/folders", "--data_dir", "X/voc"], "name different data"),
        (["--data", "X/folders", "--sample"], "name different data"),
        (["--images", "X/pictures"], "--images belongs to --data"),
        (["--data", "X/folders", "-folds", "3"], "--data has a val part"),
        (["--data", "X/features.npz", "-size", "32"], "-size is for the pictures of --data"),
        (["--data", "X/features.npz", "-mo", "resnet18"], "takes images, features has 64"),
        (["--data", "X/candidates.csv", "-partial_type", "fps"], "draws candidate sets"),
        (["--data", "X/multi.csv"], "exactly one"),
        (["--data", "X/empty.csv"], "empty"),
        (["--data", "X/labels.csv", "--classes", "X/two.txt"], "three"),
        (["--data", "X/folders", "-mo", "resnett"], "did you mean"),
        (["--data", "X/folders", "-mo", "vit_tiny_patch16_224", "-size", "70"], "multiples of 16"),
        (["--data", "X/folders", "-mo", "lenet"], "lenet takes 1x28x28"),
        (["--data", "X/folders", "-mo", "resnet18", "-weights", "X/w.pt"], "w.pt"),
        (["--data", "X/folders", "-pretrained"], "no published weights of resnet"),
        (["--data", "X/folders", "-mo", "resnet18", "-size", "32", "-bs", "23"], "single one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_before_a_folder_is_touched(place, tmp_path, capsys, flags, message):
    (place / "empty.csv").write_text("path,label\n")
    (place / "two.txt").write_text("one\ntwo\n")
    torch.save({"conv9.weight": torch.zeros(3, 3)}, place / "w.pt")
    given = [str(place / flag[2:]) if flag.startswith("X/") else flag for flag in flags]
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: main.main([*given, "--cpu", "--output_dir", str(tmp_path / "r")]))
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "r").exists()


# ---- what a run leaves ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("save") / "run"
    train(folder, "--data", str(place / "folders"), *SMALL, "-cam_vis", "2")
    return folder


def test_pictures_are_explained_by_name(run, place, tmp_path, capsys):
    shutil.copy(place / "pictures" / "one_00.jpg", tmp_path / "a.jpg")
    shutil.copy(place / "pictures" / "two_00.jpg", tmp_path / "b.jpg")
    (tmp_path / "c.jpg").write_bytes(b"nothing")
    flags = ["--run", str(run), "--candidates", "one", "2", "--out", str(tmp_path / "out")]
    given = [str(tmp_path), str(tmp_path / "a.*")]
    explain.main([*flags, "--image", *given, "--npz", "--skip_corrupt"])
    assert "of the candidates one, two the class activation value picks" in capsys.readouterr().out
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    each = {f"{name}.{end}" for name in ("0000_a", "0001_b") for end in ("png", "json", "npz")}
    assert names == each | {"answers.json", "sheet.png"}
    record = json.loads((out / "0000_a.json").read_text())
    assert [entry["class"] for entry in record["candidates"]] == ["one", "two"]
    assert record["picked_by_value"] in ("one", "two")
    with np.load(out / "0000_a.npz") as arrays:
        assert arrays["maps"].shape == (3, 8, 8) and arrays["logits"].shape == (3,)


def test_one_picture_has_a_figure_and_a_json(run, place, capsys):
    flags = ["--run", str(run), "--image", str(place / "pictures" / "one_00.jpg")]
    explain.main(flags)
    capsys.readouterr()
    figure = run / "figures" / "explain.png"
    assert Image.open(figure).size[0] > 300
    assert len(json.loads(figure.with_suffix(".json").read_text())["candidates"]) == 3
    with pytest.raises(UserError, match="thre: is no class of the run; did you mean 'three'"):
        explain.main([*flags, "--candidates", "thre"])


def test_what_is_deployed_answers_as_the_run(run, place):
    found = deployed(run)
    assert found.classes == ("one", "three", "two") and found.preparation.size == (32, 32)
    x = explain.network_input(place / "pictures" / "one_00.jpg", explain.load_run(run).takes)
    maps = found.maps(x)
    assert maps.shape == (1, 3, 8, 8) and (maps >= 0).all()
    assert found.probabilities(x).sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch_export", "safetensors"])
def test_a_run_is_exported_and_agrees(run, tmp_path, to):
    from common.deployed import deployed as of_any
    from common.export import export

    path, difference = export(of_any(run), run, to, tmp_path)
    assert path.is_file() and difference is not None and difference < 1e-4


def test_a_run_on_features_is_not_exported(place, tmp_path):
    train(tmp_path / "r", "--data", str(place / "features.npz"), *FAST)
    with pytest.raises(UserError, match="trained on features and takes no pictures"):
        deployed(tmp_path / "r")
