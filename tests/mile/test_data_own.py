"""--data: every layout of own data, which label is taught, which sets are scored, mistakes."""

import json
import shutil

import pytest
import torch
from accelerate import Accelerator

from common import samples
from common.cli import UserError
from common.own import read_own
from mile import MILe as entry
from mile.build import open_source
from mile.data_own import OwnPlace, own_pictures
from mile.options import parse
from tests.mile.helpers import flags

TINY = {"model": "small", "image_size": 16, "batch_size": 8, "num_workers": 0}


@pytest.fixture
def place(tmp_path):
    """The sample of own data, which a test may change."""
    return shutil.copytree(samples.ensure("own"), tmp_path / "own")


def images_of(place, **more):
    told = []
    settings = {"real": None, "known": None, "seed": 0, "skip_corrupt": False, "say": told.append}
    own = OwnPlace(str(place), more.pop("images", None), more.pop("classes", None))
    return own_pictures(own, **(settings | more)), "\n".join(told)


def train(place, folder, *more, **settings):
    """A run of two steps and its summary."""
    own = {"data": place, "k_t": 1, "k_s": 1, "total_steps": 2, "output_dir": folder}
    own |= {"checkpoint_path": folder.parent / "weights"}
    if settings.get("schema", "MILe") != "MILe":
        del own["k_t"], own["k_s"]
    entry.main(["--cpu", *flags(**TINY | own | settings), *more])
    return json.loads((folder / "summary.json").read_text())


def settings_of(place, *more):
    return parse([*flags(data=place, **TINY), *more], lambda line: None)


@pytest.mark.parametrize(
    ("name", "train_size", "coverage"),
    [
        ("folders", 24, 6),
        ("labels.csv", 24, 6),
        ("complete.csv", 24, 9),
        ("multi.csv", 24, 9),
        ("partial.csv", 24, 9),
        ("voc", 24, 9),
    ],
)
def test_layouts_give_one_label_and_the_known_sets(place, name, train_size, coverage):
    images, told = images_of(place / name)
    assert len(images.train) == train_size and len(images.val) == 6
    assert images.class_names == ["one", "three", "two"]
    assert sum(map(len, images.real)) == coverage
    assert "own data: " in told and "train: " in told
    for (path, label), labels in zip(images.val, images.real, strict=True):
        if name not in ("multi.csv", "voc", "partial.csv"):
            assert images.class_names[label] in path
        assert label in labels


def test_one_of_several_labels_is_drawn_by_the_seed_and_said(place):
    images, told = images_of(place / "multi.csv")
    data = read_own(place / "multi.csv")
    assert "9 of 24 pictures have several labels" in told and "seed 0" in told
    for (_, label), row in zip(images.train, data.train.matrix, strict=True):
        assert row[label] == 1
    again, _ = images_of(place / "multi.csv")
    assert again.train == images.train
    drawn = {tuple(images_of(place / "multi.csv", seed=seed)[0].train) for seed in range(4)}
    assert len(drawn) > 1


def test_pictures_that_show_no_class_are_left_out_and_counted(place):
    rows = (place / "multi.csv").read_text().splitlines()
    rows = [row.replace(",train,one", ",train,") if "one_02" in row else row for row in rows]
    (place / "multi.csv").write_text("\n".join(rows))
    images, told = images_of(place / "multi.csv")
    assert len(images.train) == 23
    assert "train: 1 of 24 pictures show no class for sure and are left out" in told


def test_sets_that_are_not_complete(place):
    rows = (place / "partial.csv").read_text().splitlines()
    one = [row.replace("val,one,three;two", "val,one,three") for row in rows]
    (place / "partial.csv").write_text("\n".join(one))
    images, told = images_of(place / "partial.csv")
    assert images.real[0] == [] and "of 1 of 6 pictures are not complete" in told
    none = [row.rsplit(",", 1)[0] + "," if ",val," in row else row for row in rows]
    (place / "partial.csv").write_text("\n".join(none))
    images, told = images_of(place / "partial.csv")
    assert images.real == [[label] for _, label in images.val]
    assert "no picture's set is complete" in told


def test_a_json_of_sets_is_read_beside_class_folders_or_as_a_flag(place):
    table = {path.name: ["one", "two"] for path in (place / "pictures").iterdir()}
    (place / "folders" / "real.json").write_text(json.dumps(table))
    images, told = images_of(place / "folders")
    assert images.real == [[0, 2]] * 6 and "real.json" in told
    settings = settings_of(place / "labels.csv", "--real_path", str(place / "folders/real.json"))
    assert open_source(settings, Accelerator(cpu=True))._test.real == [[0, 2]] * 6


def test_classes_of_a_trained_network_keep_their_order(place):
    images, _ = images_of(place / "folders", known=["zero", "two", "three", "one"])
    assert images.class_names == ["zero", "two", "three", "one"]
    assert {images.class_names[label] in path for path, label in images.train} == {True}
    other, _ = images_of(place / "folders", known=["cat"])
    assert other.class_names == ["one", "three", "two"]


@pytest.mark.parametrize("kind", ["json", "csv", "exported"])
def test_sets_are_taught_in_the_place_of_labels(place, tmp_path, kind):
    data = read_own(place / "multi.csv")
    names = {}
    for name, row in zip(data.train.ids, data.train.matrix, strict=True):
        names[name] = [data.classes[c] for c in (row == 1).nonzero()[0]]
    file = tmp_path / f"sets.{'csv' if kind == 'csv' else 'json'}"
    if kind == "csv":
        rows = [f"{name},{';'.join(labels)}" for name, labels in names.items()]
        file.write_text("\n".join(["path,labels", *rows]))
    elif kind == "json":
        file.write_text(json.dumps(names))
    else:
        train(place / "multi.csv", tmp_path / "r", "--export_labels", rho=0.9)
        file = tmp_path / "r" / "label_sets.json"
        names = {}
        for name, labels in json.loads(file.read_text()).items():
            names[name] = [data.classes[c] for c in labels]

    settings = settings_of(place / "multi.csv", "--train_sets", str(file))
    source = open_source(settings, Accelerator(cpu=True))
    batch = next(iter(source.stream(0)))
    for place_of, row in zip(batch.ids.tolist(), batch.sets, strict=True):
        labels = [data.classes[c] for c in row.nonzero().flatten().tolist()]
        assert labels == sorted(names[data.train.ids[place_of]])
    summary = train(place / "multi.csv", tmp_path / "s", train_sets=file, schema="sigmoid")
    assert summary["steps"] == 2


def test_pictures_of_a_csv_may_lie_elsewhere(place, tmp_path):
    rows = (place / "labels.csv").read_text().replace("pictures/", f"{place}/pictures/")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "l.csv").write_text(rows)
    train(tmp_path / "a" / "l.csv", tmp_path / "r", "--export_labels")
    file = tmp_path / "r" / "label_sets.json"
    assert all(name.startswith(str(place).lstrip("/")) for name in json.loads(file.read_text()))
    settings = settings_of(tmp_path / "a" / "l.csv", "--train_sets", str(file))
    assert open_source(settings, Accelerator(cpu=True)).train_size == 24


def test_unreadable_pictures_are_counted_in_the_evaluation(place, tmp_path):
    val = sorted((place / "folders" / "val").rglob("*.jpg"))
    val[0].write_bytes(val[0].read_bytes()[:100])
    with pytest.raises(UserError, match=val[0].name):
        train(place / "folders", tmp_path / "r")
    summary = train(place / "folders", tmp_path / "s", "--skip_corrupt")
    assert summary["eval_skipped"] == 1 and summary["images"] == 5


def test_weights_know_their_classes_and_a_run_goes_on_with_its_data_only(place, tmp_path, capsys):
    train(place / "folders", tmp_path / "r")
    assert "estimate: 2 steps" in capsys.readouterr().out
    weights = tmp_path / "weights" / "SmallNet" / "MILe_0.pth"
    assert torch.load(weights, weights_only=True).settings["classes"] == ["one", "three", "two"]
    own = {"data": place / "labels.csv", "pretrained": weights, "output_dir": tmp_path / "e"}
    more = {"batch_size": 8, "num_workers": 0, "checkpoint_path": tmp_path / "weights"}
    entry.main(["--cpu", "--eval_only", *flags(**own, **more)])
    assert "small on folder, 3 classes" in capsys.readouterr().out
    with pytest.raises(UserError, match="MILe_0.pth was trained on own data; --data PLACE"):
        entry.main(["--cpu", "--eval_only", *flags(pretrained=weights)])
    with pytest.raises(UserError, match="other settings than the run was started with: data "):
        train(place / "labels.csv", tmp_path / "r", "--resume")


def test_a_samples_folder_is_a_sample_run():
    digits = parse(["--data", str(samples.ensure("MNIST_clean"))], lambda line: None)
    assert digits.data.is_sample and digits.args.dataset == "mnist"
    pictures = parse(["--data", str(samples.ensure("ImageNet"))], lambda line: None)
    assert pictures.data.is_sample and pictures.args.model == "small"
    assert pictures.data.train == samples.ensure("ImageNet") / "train"


@pytest.mark.parametrize(
    ("flags_of", "message"),
    [
        (["--data", "/nowhere"], "--data /nowhere does not exist"),
        (["--data", "X/folders", "--val_path", "X"], "name different data"),
        (["--data", "X/folders", "--sample"], "name different data"),
        (["--data", "X/folders", "--dataset", "mnist"], "name different data"),
        (["--classes", "X/classes.txt"], "belongs to --data"),
        (["--data", "X/folders", "--train_sets", "X/labels.csv", "--schema", "softmax"], "sigmoid"),
        (["--data", "X/folders", "--model", "a/b"], "no source of networks"),
    ],
)
def test_contradictions_are_one_line(place, flags_of, message):
    argv = [word.replace("X", str(place)) for word in flags_of]
    with pytest.raises(UserError, match=message):
        parse(argv, lambda line: None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("candidates.csv", "candidates and no label .9 of 24"),
        ("features.npz", "MILe needs pictures"),
    ],
)
def test_what_cannot_be_trained_is_refused(place, name, message):
    with pytest.raises(UserError, match=message):
        images_of(place / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.txt", "x", "expected a .json or .csv"),
        ("s.csv", "file,labels\na,one", "expected the columns path and labels"),
        ("s.csv", "path,labels\na.jpg,one\na.jpg,two", "line 3: a.jpg stands there twice"),
        ("s.csv", "path,labels\na.jpg,one", "has no entry 'one_02.jpg'"),
        ("s.json", "[[1]]", "expected an object"),
    ],
)
def test_files_of_sets_that_do_not_fit(place, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    settings = settings_of(place / "folders", "--train_sets", str(tmp_path / name))
    with pytest.raises(UserError, match=message):
        open_source(settings, Accelerator(cpu=True))
