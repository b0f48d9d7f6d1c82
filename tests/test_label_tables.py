"""benchmarks/one_label.py and benchmarks/cifar10n_table.py: csv files that --data takes."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest

from common.cli import UserError
from common.own import read_own
from common.text import read_csv

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def script_of(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_of_the_labels_is_drawn_by_the_seed(tmp_path, capsys):
    script = script_of("one_label")
    table = tmp_path / "voc.csv"
    rows = [f"{number}.jpg,cat;dog;cow,train" for number in range(60)]
    table.write_text("\n".join(["path,labels,split", *rows, "x.jpg,cat,val"]))
    found = []
    for seed in ("1", "1", "2"):
        script.main(["--table", str(table), "--to", str(tmp_path / "one.csv"), "--seed", seed])
        header, *lines = [row for _, row in read_csv(tmp_path / "one.csv")]
        assert header == ["path", "labels", "split", "label"]
        assert all(row[3] in row[1].split(";") for row in lines)
        found.append([row[3] for row in lines])
    assert found[0] == found[1] != found[2]
    counts = [found[0].count(name) for name in ("cat", "dog", "cow")]
    assert min(counts) > 8
    assert "61 pictures with one label each, 120 labels are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.jpg,cat", "expected a column labels"),
        ("path,labels,label\na.jpg,cat,cat", "no column label"),
        ("path,labels\na.jpg,", "line 2: no label to draw from"),
    ],
)
def test_tables_without_labels_are_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    words = ["--table", str(tmp_path / "t.csv"), "--to", str(tmp_path / "o.csv")]
    with pytest.raises(UserError, match=message):
        script_of("one_label").main(words)


@pytest.fixture
def cifar(tmp_path):
    """Five files of four pictures, a test file, and the labels of people, two of them wrong."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    labels = []
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        pixels = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        own = [0, 3, 0, 3]
        labels += own
        content = {"data": pixels, "labels": own}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    clean = np.array(labels[:20])
    worse = clean.copy()
    worse[:2] = [3, 0]
    np.savez(tmp_path / "human.npz", clean_label=clean, worse_label=worse)
    return tmp_path


def test_cifar10n_has_noisy_labels_in_train_and_clean_ones_in_val(cifar, capsys):
    script = script_of("cifar10n_table")
    words = ["--cifar", str(cifar / "cifar-10-batches-py"), "--labels", str(cifar / "human.npz")]
    for _ in range(2):
        script.main([*words, "--to", str(cifar / "out")])
    assert "24 pictures, 10.0% of worse_label are wrong" in capsys.readouterr().out
    data = read_own(cifar / "out" / "cifar10n.csv")
    assert data.classes == ["airplane", "cat"]
    assert data.train.labels.tolist() == [1, 0, *[0, 1] * 9]
    assert data.val.labels.tolist() == [0, 1, 0, 1]

    with pytest.raises(UserError, match="no 'other_label'; there are"):
        script.main([*words, "--to", str(cifar / "o"), "--column", "other_label"])
    np.savez(cifar / "human.npz", clean_label=np.zeros(20), worse_label=np.zeros(20))
    with pytest.raises(UserError, match="not the labels of these 20 pictures"):
        script.main([*words, "--to", str(cifar / "o")])
