"""The number under "Try it" of each README, and the spread that stands beside it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ("cavl", "oass", "calm", "csl", "mile")


@pytest.fixture
def spread(monkeypatch):
    """benchmarks/spread.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import spread as module

    yield module
    del sys.modules["spread"]


@pytest.mark.parametrize("paper", PAPERS)
def test_the_printed_number_lies_in_the_spread_that_the_readme_tells(spread, paper):
    text = (ROOT / paper / "README.md").read_text(encoding="utf-8")
    rows = spread.read_values()
    low, high = spread.bounds(paper, rows)
    printed = float(re.search(spread.DEMOS[paper].printed, text)["value"])
    half_a_digit = 0.5 * 10 ** -spread.DEMOS[paper].decimals
    assert low - half_a_digit <= printed <= high + half_a_digit
    assert spread.BLOCK.search(text)["line"] == spread.sentence(paper, rows)


def test_several_seeds_and_threads_were_measured(spread):
    rows = spread.read_values()
    for paper in PAPERS:
        mine = [row for row in rows if row["paper"] == paper]
        assert len({row["seed"] for row in mine}) >= 3
        assert {"1", "2"} <= {row["threads"] for row in mine}


def test_a_value_is_of_the_readmes_command_with_that_seed_and_threads(spread, monkeypatch):
    seen = []

    def run(command, *, cwd, env, **_):
        seen.append((command[1:], cwd, env["OMP_NUM_THREADS"]))
        folder = Path(command[command.index("--output_dir") + 1])
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps({"mAP_model_final": 61.25}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(spread.subprocess, "run", run)
    assert spread.measured("csl", 4, 2) == 61.25
    command, folder, threads = seen[0]
    assert command[:2] == ["train.py", "--partial_loss_mode=selective"]
    assert command[command.index("--seed") + 1] == "4"
    assert (folder, threads) == (ROOT / "csl", "2")


def test_writing_replaces_what_stands_between_the_marks(spread, monkeypatch, tmp_path):
    monkeypatch.setattr(spread, "ROOT", tmp_path)
    readme = tmp_path / "mile" / "README.md"
    readme.parent.mkdir()
    readme.write_text("a\n<!-- spread -->\nold\n<!-- /spread -->\nb\n")
    rows = []
    for seed, threads, value in ((0, 1, 0.5), (2, 1, 0.75), (1, 2, 0.25)):
        told = ("mile", str(seed), str(threads), str(value))
        rows.append(dict(zip(spread.FIELDS, told, strict=True)))
    spread.write_readme("mile", rows)
    text = readme.read_text()
    assert "seeds 0, 1 and 2, each on 1 and 2 threads" in text
    assert "between 0.2500 and 0.7500" in text
    assert text.startswith("a\n<!-- spread -->\n") and text.endswith("<!-- /spread -->\nb\n")
    readme.write_text("no marks")
    with pytest.raises(spread.UserError, match="has no lines"):
        spread.write_readme("mile", rows)
