"""results/*.csv and the README tables made from them."""

import csv
import json
import statistics
from pathlib import Path

import pytest

from common.cli import UserError
from sidebyside import results

FIELDS = dict(method="CAVL", dataset="MNIST", setting="q 0.1", metric="accuracy", protocol="last epoch")


def run_folder(root: Path, name: str, seed: int | None, value: float | None) -> Path:
    """A finished run's config.json and summary.json."""
    folder = root / name
    folder.mkdir()
    config = {
        "settings": {"seed": seed},
        "command": "main.py --resume",
        "launches": [
            {"command": f"main.py --seed {seed}", "time": "2030-01-01 10:00:00"},
            {"command": "main.py --resume", "time": "2030-01-02 10:00:00"},
        ],
        "commit": "abc123",
        "packages": {"torch": "2.13.0"},
        "hardware": {"device": "x86_64", "processes": 1, "threads": 2},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps({"accuracy": value, "wall_seconds": 90.0}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [run_folder(tmp_path, f"run-{k}", s, v) for k, (s, v) in enumerate([(2, 0.9), (None, 0.8), (1, 0.7)])]


# --- the files ---


def test_the_columns_are_those_of_the_design():
    assert ",".join(results.OURS) == (
        "method,dataset,setting,metric,protocol,mean,std,n,seeds,command,commit,data_sha,device,torch,minutes,date,run"
    )
    assert ",".join(results.PAPER) == "method,dataset,setting,metric,protocol,value,std,n,table,note"


def test_rows_survive_the_file_whatever_they_hold(tmp_path):
    rows = [
        {**dict.fromkeys(results.OURS, ""), **FIELDS, "mean": "0.5", "command": 'main.py -a "x, y"'},
        {**dict.fromkeys(results.OURS, ""), **FIELDS, "setting": "two\nlines, ±", "std": "0.1"},
    ]
    results.write(tmp_path / "new" / "ours.csv", rows)
    assert results.read(tmp_path / "new" / "ours.csv", results.OURS) == rows
    with (tmp_path / "new" / "ours.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == rows


def test_adding_a_row_again_replaces_it_where_it_stood(tmp_path, runs):
    for dataset, scale in (("MNIST", 1), ("KMNIST", 3), ("MNIST", 100)):
        results.add(tmp_path, runs, key="accuracy", scale=scale, **{**FIELDS, "dataset": dataset})
    rows = results.read(tmp_path / "ours.csv", results.OURS)
    assert [(r["dataset"], r["mean"], r["std"]) for r in rows] == [
        ("MNIST", "80.0000", "10.0000"),
        ("KMNIST", "2.4000", "0.3000"),
    ]
    seeds = results.read(tmp_path / "seeds.csv", results.SEEDS)
    assert [(r["dataset"], r["seed"], r["value"]) for r in seeds[:3]] == [
        ("MNIST", "0", "80"),
        ("MNIST", "1", "70"),
        ("MNIST", "2", "90"),
    ]
    assert [r["dataset"] for r in seeds] == ["MNIST"] * 3 + ["KMNIST"] * 3


@pytest.mark.parametrize("header", ["", "method,dataset", ",".join(reversed(results.OURS))])
def test_other_columns_are_an_error(tmp_path, header):
    (tmp_path / "ours.csv").write_text(header + "\n")
    with pytest.raises(UserError, match="ours.csv: columns .* expected method,dataset,setting"):
        results.read(tmp_path / "ours.csv", results.OURS)


# --- a row from runs ---


def row_of(runs, key="accuracy", scale=1.0, **fields):
    return results.row_from_runs(runs, results.values_by_seed(runs, key, scale), **FIELDS, **fields)


def test_mean_and_sample_deviation_over_runs(runs):
    row = row_of(runs, scale=100)
    values = [90.0, 80.0, 70.0]
    assert float(row["mean"]) == pytest.approx(statistics.fmean(values))
    assert float(row["std"]) == pytest.approx(statistics.stdev(values))  # ddof 1
    assert (row["n"], row["seeds"], row["minutes"]) == (3, "0 1 2", "4.5")
    assert (row["command"], row["commit"], row["torch"]) == ("main.py --seed 1", "abc123", "2.13.0")
    assert (row["device"], row["date"], row["run"]) == ("x86_64 1x2 threads", "2030-01-02", "run-0 run-1 run-2")
    assert set(row) == set(results.OURS)


def test_one_run_has_no_deviation_and_one_command_may_stand_for_several(runs):
    row = row_of(runs[:1], command="main.py -seeds 0,1,2")
    assert (row["mean"], row["std"], row["n"], row["command"]) == ("0.9000", "", 1, "main.py -seeds 0,1,2")


def test_missing_and_undefined_numbers_and_unfinished_runs_are_errors(tmp_path, runs):
    with pytest.raises(UserError, match="summary.json: has no mAP; it has accuracy, wall_seconds"):
        row_of(runs, "mAP")
    with pytest.raises(UserError, match="has no accuracy"):
        row_of([run_folder(tmp_path, "undefined", 0, None)])
    (runs[1] / "summary.json").unlink()
    with pytest.raises(UserError, match="run-1: no readable summary.json; is it a finished run"):
        row_of(runs)


def test_folds_of_a_seed_are_one_value_of_that_seed(tmp_path):
    folds = [run_folder(tmp_path, f"{s}-{k}", s, v) for s, k, v in [(0, 0, 1.0), (0, 1, 3.0), (5, 0, 4.0), (5, 1, 8.0)]]
    assert results.values_by_seed(folds, "accuracy") == {0: [1.0, 3.0], 5: [4.0, 8.0]}
    results.add(tmp_path, folds, key="accuracy", **FIELDS)
    (row,) = results.read(tmp_path / "ours.csv", results.OURS)
    assert (row["n"], row["seeds"], row["mean"]) == ("4", "0 5", "4.0000")
    assert [r["value"] for r in results.read(tmp_path / "seeds.csv", results.SEEDS)] == ["2", "6"]


def test_a_curve_is_the_mean_over_runs_where_all_have_the_epoch(tmp_path, runs):
    lines = {0: [(1, 0.1), (2, 0.4), (2, 0.2)], 1: [(1, 0.3), (2, 0.4)], 2: [(1, 0.5), (2, 0.6), (3, 1.0)]}
    for k, points in lines.items():  # epoch 2 of the first run was logged again after a resume: the later one counts
        told = [{"step": e, "epoch": e, "split": "test", "acc": v} for e, v in points]
        (runs[k] / "metrics.jsonl").write_text("".join(json.dumps(l) + "\n" for l in told))
    results.add(tmp_path, runs, key="accuracy", curve="test/acc", **FIELDS)
    rows = results.read(tmp_path / "curves.csv", results.CURVES)
    assert [(r["method"], r["curve"], r["epoch"], r["mean"], r["std"], r["n"]) for r in rows] == [
        ("CAVL", "test/acc", "1", "0.3", "0.2", "3"),
        ("CAVL", "test/acc", "2", "0.4", "0.2", "3"),
    ]
    with pytest.raises(UserError, match="--curve test/loss: no epoch at which all 3 runs have it"):
        results.add(tmp_path, runs, key="accuracy", curve="test/loss", **FIELDS)


def test_the_data_checksum_sees_names_and_contents(tmp_path):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.npy").write_bytes(b"1")
    first = results.data_sha(folder)
    assert len(first) == 12 and results.data_sha(folder) == first
    (folder / "sub" / "a.npy").rename(folder / "sub" / "b.npy")
    second = results.data_sha(folder)
    (folder / "sub" / "b.npy").write_bytes(b"2")
    assert len({first, second, results.data_sha(folder), results.data_sha(folder / "sub" / "b.npy")}) == 4


# --- tables ---


def test_add_and_tables_write_the_csv_and_the_readme(tmp_path, runs, monkeypatch, capsys):
    root = tmp_path / "repository"
    (root / "cavl").mkdir(parents=True)
    (root / "cavl" / "README.md").write_text(f"# CAVL\n\n{results.BEGIN}\nold\n{results.END}\n\nmore\n")
    monkeypatch.setattr(results, "ROOT", root)
    argv = ["add", "cavl", "--key", "accuracy", "--scale", "100", *map(str, runs)]
    argv += [part for name, value in FIELDS.items() for part in (f"--{name}", value)]
    results.main(argv)
    (row,) = results.read(root / "cavl" / "results" / "ours.csv", results.OURS)
    assert (row["mean"], row["std"], row["n"]) == ("80.0000", "10.0000", "3")
    text = (root / "cavl" / "README.md").read_text()
    assert text.startswith("# CAVL\n\n") and text.endswith(f"{results.END}\n\nmore\n") and "old" not in text
    assert (
        "**MNIST, q 0.1** (last epoch; n = 3)\n\n| method | accuracy |\n| --- | --- |\n| CAVL | 80.00 ± 10.00 |" in text
    )
    assert text.count("main.py --seed 1") == 1
    assert results.update_readmes(root) == []  # already as the CSV says
    (root / "cavl" / "README.md").write_text(text.replace("80.00", "99.00"))
    assert results.update_readmes(root) == [root / "cavl" / "README.md"]
    assert (root / "cavl" / "README.md").read_text() == text
    capsys.readouterr()


def test_a_row_without_a_number_says_not_run():
    row = {**dict.fromkeys(results.OURS, ""), **FIELDS}
    assert "| CAVL | not run |" in results.table([row])


def test_metrics_are_columns_and_methods_lines_and_other_counts_are_told():
    base = {**dict.fromkeys(results.OURS, ""), **FIELDS, "std": "0.5"}
    rows = [
        {**base, "metric": "F1", "mean": "40.25", "n": "3"},
        {**base, "metric": "mAP", "mean": "0.75", "n": "3"},
        {**base, "metric": "F1", "mean": "50", "n": "2", "method": "other"},
        {**base, "metric": "F1", "mean": "60", "n": "3", "dataset": "COCO"},
    ]
    assert results.table(rows).splitlines()[:6] == [
        "**MNIST, q 0.1** (last epoch)",
        "",
        "| method | F1 | mAP |",
        "| --- | --- | --- |",
        "| CAVL | 40.25 ± 0.50 (n 3) | 0.7500 ± 0.5000 (n 3) |",
        "| other | 50.00 ± 0.50 (n 2) |  |",
    ]
    assert "**COCO, q 0.1** (last epoch; n = 3)" in results.table(rows)


def test_several_protocols_of_a_setting_are_one_table_with_a_column_a_method():
    base = {**dict.fromkeys(results.OURS, ""), **FIELDS, "std": "0.5", "n": "3"}
    rows = [
        {**base, "metric": "F1", "mean": "40"},
        {**base, "metric": "F1", "mean": "45", "method": "other"},
        {**base, "metric": "F1", "mean": "50", "protocol": "best epoch"},
    ]
    assert results.table(rows).splitlines()[:6] == [
        "**MNIST, q 0.1** (n = 3)",
        "",
        "| metric | protocol | CAVL | other |",
        "| --- | --- | --- | --- |",
        "| F1 | last epoch | 40.00 ± 0.50 | 45.00 ± 0.50 |",
        "| F1 | best epoch | 50.00 ± 0.50 |  |",
    ]


@pytest.mark.parametrize("readme", ["", results.BEGIN, f"{results.BEGIN}{results.END}{results.BEGIN}"])
def test_a_readme_without_its_markers_is_an_error(readme):
    with pytest.raises(UserError, match="a README needs .* once each"):
        results.with_table(readme, [])


@pytest.mark.parametrize("paper", results.PAPERS)
def test_the_repositorys_own_files_have_the_columns_and_the_table(paper):
    folder = results.ROOT / paper
    files = {"ours": results.OURS, "paper": results.PAPER, "seeds": results.SEEDS, "curves": results.CURVES}
    for name, columns in files.items():
        if (folder / "results" / f"{name}.csv").is_file():
            results.read(folder / "results" / f"{name}.csv", columns)
    if (folder / "README.md").is_file() and (folder / "results" / "ours.csv").is_file():
        text = (folder / "README.md").read_text()
        assert results.with_table(text, results.read(folder / "results" / "ours.csv", results.OURS)) == text
