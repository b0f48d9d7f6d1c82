"""The sample of own data: every layout says the same, and it passes for no sample."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import samples
from common.own import data_lines, read_own, recognise

PLACES = {
    "folders": "folders",
    "labels.csv": "csv",
    "complete.csv": "csv",
    "multi.csv": "csv",
    "partial.csv": "csv",
    "candidates.csv": "csv",
    "coco.json": "coco",
    "voc": "voc",
    "features.npz": "npz",
    "features.csv": "csv",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.draw("own", tmp_path_factory.mktemp("own") / "my data")


@pytest.mark.parametrize("name", PLACES)
def test_every_layout_is_read(drawn, name):
    kind = recognise(drawn / name)
    assert kind.layout == PLACES[name] and kind.sample == ""
    data = read_own(drawn / name)
    assert data.classes == ["one", "three", "two"]
    assert not any(line.startswith("warning") for line in data_lines(data))
    if data.train.features is None:
        assert len(data.train) + len(data.val) == 30
        sides = {side for path in data.train.paths for side in Image.open(path).size}
        assert sides <= {64, 72, 80, 96}


def test_it_is_no_sample(drawn):
    assert not samples.is_sample(drawn) and not (drawn / samples.MARKER).exists()


def test_the_layouts_agree(drawn):
    sets = {}
    for name in ("multi.csv", "voc", "complete.csv", "folders"):
        data = read_own(drawn / name)
        val = zip([path.stem for path in data.val.paths], data.val.matrix.tolist(), strict=True)
        sets[name] = dict(val)
    assert sets["multi.csv"] == sets["voc"] == sets["complete.csv"]
    assert sets["folders"].keys() == sets["voc"].keys() and len(sets["voc"]) == 6
    for name, row in sets["folders"].items():
        assert all(np.array(sets["voc"][name])[np.array(row) == 1] == 1)
    assert any(sum(row) == 2 for row in sets["voc"].values())


def test_what_is_known(drawn):
    partial = read_own(drawn / "partial.csv")
    assert {-1, 0, 1} == set(np.unique(partial.train.matrix).tolist()) and partial.is_complete
    candidates = read_own(drawn / "candidates.csv")
    assert (candidates.train.labels == -1).sum() == 9 and candidates.has_labels
    boxes = read_own(drawn / "complete.csv")
    assert all(len(one) == 1 for one in boxes.train.boxes)
    assert read_own(drawn / "voc").train.mask(0) is not None
    assert read_own(drawn / "coco.json").train.mask(0) is not None


def test_the_features_agree(drawn):
    arrays = read_own(drawn / "features.npz")
    rows = read_own(drawn / "features.csv")
    assert arrays.train.ids == rows.train.ids
    assert np.allclose(arrays.train.features, rows.train.features)
    assert (arrays.train.labels == rows.train.labels).all()
    assert (arrays.train.candidates == rows.train.candidates).all()


def test_the_classes_can_be_told_apart(drawn):
    """The mean colour of the brightest tenth of the pixels is enough for a nearest mean."""

    def colours(part):
        found = []
        for path in part.paths:
            pixels = np.asarray(Image.open(path)).reshape(-1, 3).astype(float)
            brightest = pixels.max(axis=1) >= np.quantile(pixels.max(axis=1), 0.9)
            found.append(pixels[brightest].mean(axis=0))
        return np.array(found)

    data = read_own(drawn / "folders")
    train = colours(data.train)
    means = np.stack([train[data.train.labels == label].mean(axis=0) for label in range(3)])
    distances = np.linalg.norm(colours(data.val)[:, None] - means, axis=2)
    assert (distances.argmin(axis=1) == data.val.labels).mean() >= 5 / 6


def test_the_readme_names_every_file(drawn):
    text = (drawn / "README.txt").read_text()
    for path in drawn.iterdir():
        assert path.name in text or path.name in ("README.txt", ".drawn.json")
    for paper in ("cavl", "oass", "calm", "csl", "mile"):
        assert f"python {paper}/" in text


def test_two_draws_are_equal_and_another_seed_is_not(drawn, tmp_path):
    def files_of(folder):
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder): path.read_bytes() for path in paths}

    again = samples.draw("own", tmp_path / "again")
    assert files_of(again) == files_of(drawn)
    (again / "labels.csv").write_text("damaged")
    assert files_of(samples.draw("own", again)) == files_of(drawn)
    other = files_of(samples.draw("own", tmp_path / "other", seed=1))
    assert other.keys() == files_of(drawn).keys() and other != files_of(drawn)


def test_the_cached_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path))
    folder = samples.ensure("own")
    assert folder == tmp_path / "own-v1" and samples.ensure("own") == folder
    assert capsys.readouterr().out.count("\n") == 1
    assert read_own(folder / "folders").kind.sample == ""


def test_the_command(tmp_path):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "common.samples"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "own" in [line.split()[0] for line in listed.stdout.splitlines()]
    place = str(tmp_path / "x")
    done = subprocess.run([*command, "own", place], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"own written to {place}\n"
    assert (tmp_path / "x" / "README.txt").is_file()
