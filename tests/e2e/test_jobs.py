"""--jobs of the five papers: its parser, where it is refused, and one real sweep."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from calm.options_own import parse_compare
from cavl.options import parse as parse_cavl
from common.cli import FREE_SETTINGS, UserError
from csl.options import parse as parse_csl
from mile.options import parse as parse_mile
from oass.options_comparison import parse_comparison
from tests.e2e.cluster import ROOT

SWEEPS = {
    "cavl": (parse_cavl, ["--sample", "-seeds", "0,1"]),
    "oass": (parse_comparison, ["--sample", "--strategies", "gap"]),
    "calm": (parse_compare, ["--sample"]),
    "csl": (parse_csl, ["--sample", "--compare", "negative_ce"]),
    "mile": (parse_mile, ["--dataset", "mnist", "--sample", "--seeds", "0,1"]),
}


@pytest.mark.parametrize("paper", SWEEPS)
def test_a_sweep_takes_the_number_of_runs_at_a_time(paper):
    parse, flags = SWEEPS[paper]
    assert parse(flags).args.jobs == 1
    assert parse([*flags, "--jobs", "3"]).args.jobs == 3
    with pytest.raises(SystemExit):
        parse([*flags, "--jobs", "0"])
    assert "jobs" in FREE_SETTINGS


def test_runs_of_an_ablation_have_it_not():
    comparison = parse_comparison(["--sample", "--strategies", "gap", "--jobs", "2"])
    assert not hasattr(comparison.variants["gap"].args, "jobs")


@pytest.mark.parametrize("paper", ["csl", "mile"])
def test_a_single_run_refuses_it(paper, capsys):
    parse, flags = SWEEPS[paper]
    with pytest.raises((SystemExit, UserError)) as refused:
        parse([*flags[:-2], "--jobs", "2"])
    told = capsys.readouterr().err + str(refused.value)
    assert "only with --compare" in told


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.slow
def test_cavl_side_by_side_equals_one_after_another(tmp_path):
    flags = ["main.py", "--sample", "--cpu", "-compare", "cavl,uniform", "-ep", "1"]
    for name, jobs in (("turn", []), ("side", ["--jobs", "2"])):
        command = [sys.executable, *flags, "--output_dir", str(tmp_path / name), *jobs]
        done = subprocess.run(
            command, cwd=ROOT / "cavl", capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
    turn = rows(tmp_path / "turn" / "results.csv")
    side = rows(tmp_path / "side" / "results.csv")
    unlike = {turn[0].index(name) for name in turn[0] if "second" in name}  # speed
    for mine, other in zip(turn, side, strict=True):
        for place, value in enumerate(mine):
            assert place in unlike or other[place] == value, turn[0][place]
    for run in ("cavl-seed0", "uniform-seed0"):
        lines = (tmp_path / "turn" / run / "metrics.jsonl").read_bytes()
        assert lines == (tmp_path / "side" / run / "metrics.jsonl").read_bytes()
        assert "epoch 1/1" in (tmp_path / "side" / run / "console.log").read_text()
    assert (tmp_path / "side" / "figures" / "compare.png").is_file()
    summaries = [json.loads((tmp_path / n / "summary.json").read_text()) for n in ("turn", "side")]
    assert summaries[0]["cavl_mean"] == summaries[1]["cavl_mean"]
