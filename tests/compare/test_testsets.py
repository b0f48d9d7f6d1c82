"""The test pictures' share of the variance: computed, kept, and part of the verdict."""

import numpy as np
import pytest

from common.cli import UserError
from sidebyside import results, testsets
from sidebyside.claims import judge_all
from sidebyside.records import load
from sidebyside.results import write
from sidebyside.verdict import REPRODUCED, UNDECIDED

TASK = {
    "method": "cavl",
    "dataset": "MNIST",
    "setting": "USS",
    "metric": "test accuracy %",
    "protocol": "last-10 mean",
}


@pytest.fixture
def values(tmp_path):
    """Two files of 3 seeds x 400 pictures, in percent; the differences have variance 1 / 400."""
    generator = np.random.default_rng(0)
    worse = generator.normal(90, 5, (3, 400))
    by_picture = generator.normal(4, 1, 400)
    paths = []
    for name, table in (("better", worse + by_picture), ("worse", worse)):
        paths.append(tmp_path / f"{name}.npy")
        np.save(paths[-1], table)
    return paths


def test_the_variance_is_that_of_a_mean_over_pictures(values):
    better, worse = map(testsets.read_values, values)
    by_picture = (better - worse).mean(0)
    found = testsets.variance_of_difference(better, worse)
    assert found == pytest.approx(by_picture.var() / 400, rel=0.1)


def test_the_command_writes_a_row_that_replaces_itself(repository, values, monkeypatch, capsys):
    monkeypatch.setattr(results, "ROOT", repository)
    argv = ["test_variance", "cavl", "--against", "uniform"]
    for name, value in TASK.items():
        argv += [f"--{name}", value]
    for _ in range(2):
        results.main([*argv, *map(str, values)])
    assert "over 400 pictures" in capsys.readouterr().out
    rows = results.read(repository / "cavl" / "results" / testsets.FILE, testsets.COLUMNS)
    assert len(rows) == 1
    assert float(rows[0]["variance"]) == pytest.approx(1 / 400, rel=0.2)


def judged(repository, variance: float, **changes):
    row = {**TASK, "against": "uniform", "variance": variance, "images": 400, "draws": 2000}
    write(repository / "cavl" / "results" / testsets.FILE, [row | changes], testsets.COLUMNS)
    (judgement,) = judge_all(load(repository, ["cavl"]))
    return judgement


def test_a_small_variance_leaves_the_verdict_and_is_told(repository):
    judgement = judged(repository, 0.01)
    assert judgement.verdict == REPRODUCED
    (pair,) = judgement.real
    assert pair.decision.difference.how.endswith("and over test pictures")
    assert pair.decision.difference.error == pytest.approx(0.1)


def test_a_large_variance_leaves_it_undecided(repository):
    assert judged(repository, 4.0).verdict == UNDECIDED


def test_the_pair_may_be_named_the_other_way_round(repository):
    assert judged(repository, 4.0, method="uniform", against="cavl").verdict == UNDECIDED


def test_another_task_has_no_part_in_it(repository):
    assert judged(repository, 4.0, dataset="KMNIST").verdict == REPRODUCED


@pytest.mark.parametrize(
    ("variance", "message"),
    [("-1", "line 2: variance: expected no number below zero"), ("x", "line 2: variance: ")],
)
def test_a_wrong_cell_is_named(repository, variance, message):
    with pytest.raises(UserError, match=message):
        judged(repository, variance)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(3), r"expected numbers \(seeds, pictures\)"),
        (np.array([["a"]]), "expected numbers"),
        (np.array([[np.nan]]), "NaN or infinite"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path, content, message):
    np.save(tmp_path / "x.npy", content)
    with pytest.raises(UserError, match=message):
        testsets.read_values(tmp_path / "x.npy")


def test_a_file_that_is_no_array_is_refused(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="no readable .npy file"):
        testsets.read_values(tmp_path / "x.npy")


def test_both_methods_see_the_same_pictures():
    with pytest.raises(UserError, match="400 and 300 pictures"):
        testsets.variance_of_difference(np.zeros((3, 400)), np.zeros((3, 300)))
