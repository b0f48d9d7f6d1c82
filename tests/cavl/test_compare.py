"""Several runs of one command: methods, seeds and folds, their table and figure."""

import json

import numpy as np
import pandas as pd
import pytest

from cavl import figures
from cavl import main as entry
from cavl.build import build_model
from cavl.data import fold_of, load_dataset
from cavl.evaluate import approximated_hit, is_covered
from cavl.options import parse
from tests.cavl.runs import SAMPLE, run, state
from tests.equality import same


def test_a_comparison_cut_by_max_steps_goes_on(tmp_path, capsys):
    flags = ("-compare", "cavl,cc", "-ep", "1")
    run(tmp_path / "whole", *flags)
    run(tmp_path / "parts", *flags, "--max_steps", "3")
    assert "0 of 2 done; go on with --resume" in capsys.readouterr().out
    run(tmp_path / "parts", *flags, "--resume")
    whole, parts = (pd.read_csv(tmp_path / k / "results.csv") for k in ("whole", "parts"))
    assert len(whole) == 2 and whole["test_accuracy_last10_mean"].equals(
        parts["test_accuracy_last10_mean"]
    )


def test_folds_run_each_and_resume_skips_the_finished(tmp_path, capsys):
    entry.main(
        [*SAMPLE, "-ds", "lost", "-ep", "2", "-folds", "2", "--output_dir", str(tmp_path / "f")]
    )
    table = pd.read_csv(tmp_path / "f" / "results.csv")
    summary = json.loads((tmp_path / "f" / "summary.json").read_text())
    assert list(table["fold"]) == [0, 1]
    assert summary["cavl_mean"] == pytest.approx(table["test_accuracy_last10_mean"].mean())
    assert summary["cavl_std"] == pytest.approx(table["test_accuracy_last10_mean"].std(ddof=1))
    entry.main(
        [
            *SAMPLE,
            "-ds",
            "lost",
            "-ep",
            "2",
            "-folds",
            "2",
            "--output_dir",
            str(tmp_path / "f"),
            "--resume",
        ]
    )
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["all", "none"])
def test_standardize_and_single_fold(tmp_path, how):
    flags = ("-ds", "lost", "-ep", "1", "-fold", "1", "-folds", "3")
    run(tmp_path / "train", *flags)
    run(tmp_path / how, *flags, "-standardize", how)
    assert not same(
        state(tmp_path / "train")["state"]["model"], state(tmp_path / how)["state"]["model"]
    )


def test_a_folds_two_measures_are_taken_on_its_held_out_rows(tmp_path):
    flags = ("-ds", "lost", "-ep", "3", "-fold", "1", "-folds", "3")
    summary = run(tmp_path / "f", *flags)
    settings = parse([*SAMPLE, *flags])
    part = fold_of(load_dataset("lost", settings.location), 1, 3, 0, "train")
    model = build_model(settings.args, part)
    model.load_state_dict(state(tmp_path / "f")["state"]["model"])
    outputs = model(part.test_x).detach()
    assert summary["test_covering_rate"] == pytest.approx(
        is_covered(outputs, part.test_sets).float().mean().item(), abs=1e-6
    )
    expected = approximated_hit(outputs, part.test_sets).mean().item()
    assert summary["test_approximated_accuracy"] == pytest.approx(expected, abs=1e-5)
    assert summary["test_covering_rate"] != summary["covering_rate"]


@pytest.mark.slow
def test_compare_runs_methods_and_seeds_on_the_same_sets(tmp_path):
    folder = tmp_path / "c"
    entry.main(
        [*SAMPLE, "-compare", "cavl,cc", "-seeds", "0,1", "-ep", "1", "--output_dir", str(folder)]
    )
    table = pd.read_csv(folder / "results.csv")
    assert list(zip(table["method"], table["seed"], strict=True)) == [
        ("cavl", 0),
        ("cavl", 1),
        ("cc", 0),
        ("cc", 1),
    ]
    a, b, c = (
        np.load(folder / k / "candidates.npy") for k in ("cavl-seed0", "cc-seed0", "cavl-seed1")
    )
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert (folder / "figures/compare.png").is_file()


@pytest.mark.slow
def test_a_comparisons_figure_holds_every_methods_mean_and_deviation(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        figures,
        "save_curves",
        lambda path, curves, spread=None, **_: drawn.update(mean=curves, std=spread),
    )
    folder = tmp_path / "c"
    entry.main(
        [*SAMPLE, "-compare", "cavl,cc", "-seeds", "0,1", "-ep", "2", "--output_dir", str(folder)]
    )
    for method in ("cavl", "cc"):
        runs = [
            (folder / f"{method}-seed{s}/metrics.jsonl").read_text().splitlines() for s in (0, 1)
        ]
        values = [
            [line["accuracy"] for line in map(json.loads, run) if line["split"] == "test"]
            for run in runs
        ]
        assert drawn["mean"][method] == pytest.approx(np.mean(values, 0))
        assert drawn["std"][method] == pytest.approx(np.std(values, 0, ddof=1))
