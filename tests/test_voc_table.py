"""benchmarks/voc_table.py: frequent classes of a VOC devkit as a csv that --data takes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from common import samples
from common.own import read_own

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "voc_table.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("voc_table", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return (
        samples.draw("own", tmp_path_factory.mktemp("own") / "x", samples.SEED)
        / "voc"
        / "VOCdevkit"
        / "VOC2012"
    )


def test_all_classes_are_the_labels_of_the_devkit(script, voc, tmp_path, capsys):
    script.main(["--voc", str(voc), "--to", str(tmp_path / "voc.csv")])
    found = read_own(tmp_path / "voc.csv")
    wanted = read_own(voc)
    assert found.classes == wanted.classes
    of_table = {path: row for path, row in zip(found.train.paths, found.train.matrix, strict=True)}
    of_table |= dict(zip(found.val.paths, found.val.matrix, strict=True))
    for part in (wanted.train, wanted.val):
        for path, row in zip(part.paths, part.matrix, strict=True):
            assert np.array_equal(of_table[path.resolve()], row)
    assert "3 of 3 classes: one, three, two" in capsys.readouterr().out


def test_rare_classes_and_pictures_of_them_alone_are_left_out(script):
    labels = [["cat"], ["cat", "dog"], ["dog"], ["bird"]]
    assert script.frequent(labels, 2) == {"cat", "dog"}
