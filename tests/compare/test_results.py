"""results/*.csv and the README tables made from them."""

import csv
import json
import statistics
import subprocess
from pathlib import Path

import pytest

from common.cli import UserError
from sidebyside import measured, results

FIELDS = dict(
    method="CAVL", dataset="MNIST", setting="q 0.1", metric="accuracy", protocol="last epoch"
)


def run_folder(
    root: Path,
    name: str,
    seed: int | None,
    value: float | None,
    fold: int | None = None,
    **settings: object,
) -> Path:
    """A finished run's config.json and summary.json."""
    folder = root / name
    folder.mkdir(parents=True)
    config = {
        "settings": {"seed": seed, "fold": fold, "lr": 0.1, **settings},
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
    return [
        run_folder(tmp_path, f"run-{k}", s, v)
        for k, (s, v) in enumerate([(2, 0.9), (None, 0.8), (1, 0.7)])
    ]


# --- the files ---


def test_the_columns_are_those_of_the_design():
    assert ",".join(results.OURS) == (
        "method,dataset,setting,metric,protocol,mean,std,n,seeds,command,commit,data_sha,device,"
        "torch,minutes,date,run,method_sha,superseded_by"
    )
    assert (
        ",".join(results.PAPER) == "method,dataset,setting,metric,protocol,value,std,n,table,note"
    )


def test_rows_survive_the_file_whatever_they_hold(tmp_path):
    rows = [
        {
            **dict.fromkeys(results.OURS, ""),
            **FIELDS,
            "mean": "0.5",
            "command": 'main.py -a "x, y"',
        },
        {**dict.fromkeys(results.OURS, ""), **FIELDS, "setting": "two\nlines, ±", "std": "0.1"},
    ]
    results.write(tmp_path / "new" / "ours.csv", rows)
    assert results.read(tmp_path / "new" / "ours.csv", results.OURS) == rows
    with (tmp_path / "new" / "ours.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == rows


def test_adding_a_row_again_replaces_it_where_it_stood(tmp_path, runs):
    for dataset, scale in (("MNIST", 100), ("KMNIST", 3), ("MNIST", 100)):
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


def test_another_number_of_the_same_row_keeps_the_old_one_as_superseded(tmp_path, runs):
    results.add(tmp_path, runs, key="accuracy", scale=100, **FIELDS)
    fewer = {"key": "accuracy", "scale": 100, **FIELDS}
    with pytest.raises(UserError, match=r"holds 80\.0000 \(n 3\) for this row already; --supersed"):
        results.add(tmp_path, runs[:2], **fewer)
    results.add(tmp_path, runs[:2], superseded_by="two runs instead of three", **fewer)
    rows = results.read(tmp_path / "ours.csv", results.OURS)
    assert [(row["mean"], row["superseded_by"]) for row in rows] == [
        ("80.0000", "two runs instead of three"),
        ("85.0000", ""),
    ]
    results.add(tmp_path, runs[:2], **fewer)  # the same number again
    assert results.read(tmp_path / "ours.csv", results.OURS) == rows


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_hash_of_the_method_is_that_of_its_files_at_the_commit(tmp_path):
    (tmp_path / "cavl" / "baselines").mkdir(parents=True)
    files = ("method.py", "method_scores.py", "baselines/rc.py", "report.py")
    for name in files:
        (tmp_path / "cavl" / name).write_text(f"# {name}\n")
    git(tmp_path, "init", "-q")
    commits = []
    for name in (None, "report.py", "baselines/rc.py"):
        if name is not None:
            (tmp_path / "cavl" / name).write_text("# changed\n")
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "-m", "x")
        commits.append(git(tmp_path, "rev-parse", "HEAD"))
    first, report, baseline = (measured.method_sha(tmp_path, "cavl", [c]) for c in commits)
    assert len(first) == 12
    assert report == first
    assert baseline != first
    assert measured.method_sha(tmp_path, "cavl", commits[:2]) == first
    assert measured.method_sha(tmp_path, "cavl", commits) == ""  # they differ
    assert measured.method_sha(tmp_path, "cavl", [f"{commits[0]}+"]) == ""  # not committed
    assert measured.method_sha(tmp_path, "cavl", ["abc1234"]) == ""  # not known here


@pytest.mark.parametrize("header", ["", "method,dataset", ",".join(reversed(results.OURS))])
def test_other_columns_are_an_error(tmp_path, header):
    (tmp_path / "ours.csv").write_text(header + "\n")
    with pytest.raises(
        UserError, match="ours.csv: line 1: .*columns.*; expected method,dataset,setting"
    ):
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
    assert (row["device"], row["date"], row["run"]) == (
        "x86_64 1x2 threads",
        "2030-01-02",
        "run-0 run-1 run-2",
    )
    assert set(row) == set(results.OURS)


def test_one_run_has_no_deviation_and_one_command_may_stand_for_several(runs):
    row = row_of(runs[:1], command="main.py -seeds 0,1,2")
    assert (row["mean"], row["std"], row["n"], row["command"]) == (
        "0.9000",
        "",
        1,
        "main.py -seeds 0,1,2",
    )


def test_missing_and_undefined_numbers_and_unfinished_runs_are_errors(tmp_path, runs):
    with pytest.raises(UserError, match="summary.json: has no mAP; it has accuracy, wall_seconds"):
        row_of(runs, "mAP")
    with pytest.raises(UserError, match="has no accuracy"):
        row_of([run_folder(tmp_path, "undefined", 0, None)])
    (runs[1] / "summary.json").unlink()
    with pytest.raises(UserError, match="run-1: no readable summary.json; is it a finished run"):
        row_of(runs)


def test_folds_of_a_seed_are_one_value_of_that_seed(tmp_path):
    values = [(0, 0, 1.0), (0, 1, 3.0), (5, 0, 4.0), (5, 1, 8.0)]
    folds = [
        run_folder(tmp_path, f"{seed}-{fold}", seed, value, fold) for seed, fold, value in values
    ]
    assert results.values_by_seed(folds, "accuracy") == {0: [1.0, 3.0], 5: [4.0, 8.0]}
    results.add(tmp_path, folds, key="accuracy", **FIELDS)
    (row,) = results.read(tmp_path / "ours.csv", results.OURS)
    assert (row["n"], row["seeds"], row["mean"]) == ("4", "0 5", "4.0000")
    assert [r["value"] for r in results.read(tmp_path / "seeds.csv", results.SEEDS)] == ["2", "6"]


def altered(folder: Path, **entries: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return folder


def test_a_run_from_before_a_setting_is_of_the_experiment_that_leaves_it_alone(tmp_path, runs):
    later = run_folder(tmp_path, "later", 7, 0.5, grad_accum=1, fast=False)
    results.add(tmp_path, [*runs, later], key="accuracy", **FIELDS)
    other = run_folder(tmp_path, "other", 8, 0.5, grad_accum=2)
    with pytest.raises(UserError, match="grad_accum is 1 and 2"):
        results.add(tmp_path, [*runs, other], key="accuracy", **FIELDS)


def test_runs_that_are_no_seeds_of_one_experiment_have_no_mean(tmp_path, runs):
    other = run_folder(tmp_path, "other", 7, 0.5, lr=0.2)
    with pytest.raises(
        UserError, match="run-0 and .*other are no seeds of one experiment: lr is 0.1 and 0.2"
    ):
        results.add(tmp_path, [*runs, other], key="accuracy", **FIELDS)
    again = run_folder(tmp_path, "again", 1, 0.5)
    with pytest.raises(
        UserError, match="again: seed 1 is that of .*run-2 too; a mean counts each seed once"
    ):
        results.add(tmp_path, [*runs, again], key="accuracy", **FIELDS)
    (tmp_path / "link").symlink_to(runs[0])
    with pytest.raises(UserError, match="link: this run is given twice"):
        results.add(tmp_path, [*runs, tmp_path / "link"], key="accuracy", **FIELDS)
    folds = [run_folder(tmp_path, f"fold-{s}{k}", s, 0.5, k) for s, k in ((0, 0), (0, 1), (1, 0))]
    with pytest.raises(
        UserError, match="not every seed has all its folds: 2 of seed 0, 1 of seed 1"
    ):
        results.add(tmp_path, folds, key="accuracy", **FIELDS)
    assert not (tmp_path / "ours.csv").exists()


def test_seeds_may_have_data_checkpoints_and_names_of_their_own(tmp_path):
    own = [
        run_folder(
            tmp_path,
            f"r{s}",
            s,
            0.5,
            data_root=f"birds/{s}",
            load_checkpoint=f"save/em-{s}",
            tag=f"t{s}",
        )
        for s in range(3)
    ]
    assert results.values_by_seed(own, "accuracy") == {0: [0.5], 1: [0.5], 2: [0.5]}


def test_where_runs_differ_in_version_commit_or_device_the_row_tells_all(runs):
    altered(runs[1], packages={"torch": "2.14.1"}, commit="def456")
    altered(runs[0], hardware={"device": "H200", "processes": 1, "threads": 8})
    row = row_of(runs)
    assert (row["torch"], row["commit"]) == ("2.13.0 2.14.1", "abc123 def456")
    assert row["device"] == "H200 1x8 threads x86_64 1x2 threads"


def test_seeds_are_sorted_as_numbers(tmp_path):
    own = [run_folder(tmp_path, f"r{s}", s, s / 100) for s in (10, 9, 100)]
    assert row_of(own)["seeds"] == "9 10 100"


def test_a_small_spread_does_not_become_zero(tmp_path):
    own = [run_folder(tmp_path, f"r{s}", s, 0.00001 * (s + 1)) for s in range(3)]
    row = row_of(own)
    assert (float(row["mean"]), float(row["std"])) == pytest.approx((0.00002, 0.00001))
    assert "0.000020 ± 0.000010" in results.table([{**row, "n": "3"}])


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"launches": []}, "config.json: not as a run writes it"),
        ({"packages": None}, "config.json: not as a run writes it"),
        ({"hardware": {}}, "config.json: not as a run writes it"),
        ({"settings": [1]}, "config.json: not as a run writes it"),
        ({"settings": {"seed": "x"}}, "config.json: seed: expected a whole number, found 'x'"),
    ],
)
def test_a_config_that_is_no_runs_is_one_line(tmp_path, runs, entries, message):
    altered(runs[1], **entries)
    with pytest.raises(UserError, match=message):
        results.add(tmp_path, runs, key="accuracy", **FIELDS)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"accuracy": "high"}', '{"accuracy": NaN}', '{"accuracy": 1}']
)
def test_a_damaged_summary_is_one_line(tmp_path, runs, text):
    (runs[1] / "summary.json").write_text(text)
    with pytest.raises(UserError, match="run-1/summary.json: "):
        results.add(tmp_path, runs, key="accuracy", **FIELDS)


def test_a_damaged_line_stops_a_curve_before_anything_is_written(tmp_path, runs):
    for folder in runs:
        line = {"step": 1, "epoch": 1, "split": "test", "acc": 0.5}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (runs[2] / "metrics.jsonl").write_text("{")
    with pytest.raises(UserError, match="run-2/metrics.jsonl: line 1: not json"):
        results.add(tmp_path, runs, key="accuracy", curve="test/acc", **FIELDS)
    assert not (tmp_path / "ours.csv").exists()


@pytest.mark.parametrize(
    "metric, scale, message",
    [
        (
            "accuracy %",
            None,
            "the values lie within 0 and 1; --scale 100 for fractions, --scale 1 for percent",
        ),
        ("accuracy %", 1000.0, "900 is more than all; is --scale right"),
        ("accuracy %", 100.0, None),
        ("accuracy %", 1.0, None),
        ("accuracy", None, None),
        ("R_2%", None, None),
    ],
)
def test_fractions_do_not_stand_as_percent(tmp_path, runs, metric, scale, message):
    fields = {**FIELDS, "metric": metric}
    if message is None:
        results.add(tmp_path, runs, key="accuracy", scale=scale, **fields)
        return
    with pytest.raises(UserError, match=message):
        results.add(tmp_path, runs, key="accuracy", scale=scale, **fields)


def test_a_run_on_the_sample_does_not_become_a_row_of_real_data(tmp_path, runs):
    for folder in runs:
        summary = {"accuracy": 0.5, "wall_seconds": 9.0, "offline_sample": True}
        (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match="run-0: a run on the offline sample; say `sample`"):
        results.add(tmp_path, runs, key="accuracy", **FIELDS)
    results.add(tmp_path, runs, key="accuracy", **{**FIELDS, "dataset": "MNIST sample"})


@pytest.mark.parametrize("scale", ["nan", "inf", "0", "x"])
def test_a_scale_that_is_none_is_one_line(scale, capsys):
    with pytest.raises(SystemExit) as stop:
        results.main(["add", "cavl", "--scale", scale, "run"])
    assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_a_curve_is_the_mean_over_runs_where_all_have_the_epoch(tmp_path, runs):
    lines = {
        0: [(1, 0.1), (2, 0.4), (2, 0.2)],
        1: [(1, 0.3), (2, 0.4)],
        2: [(1, 0.5), (2, 0.6), (3, 1.0)],
    }
    for (
        k,
        points,
    ) in (
        lines.items()
    ):  # epoch 2 of the first run was logged again after a resume: the later one counts
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
    first = measured.data_sha(folder)
    assert len(first) == 12 and measured.data_sha(folder) == first
    (folder / "sub" / "a.npy").rename(folder / "sub" / "b.npy")
    second = measured.data_sha(folder)
    (folder / "sub" / "b.npy").write_bytes(b"2")
    assert (
        len(
            {
                first,
                second,
                measured.data_sha(folder),
                measured.data_sha(folder / "sub" / "b.npy"),
            }
        )
        == 4
    )


# --- tables ---


def test_add_and_tables_write_the_csv_and_the_readme(tmp_path, runs, monkeypatch, capsys):
    root = tmp_path / "repository"
    (root / "cavl").mkdir(parents=True)
    (root / "cavl" / "README.md").write_text(
        f"# CAVL\n\n{results.BEGIN}\nold\n{results.END}\n\nmore\n"
    )
    monkeypatch.setattr(results, "ROOT", root)
    argv = ["add", "cavl", "--key", "accuracy", "--scale", "100", *map(str, runs)]
    argv += [part for name, value in FIELDS.items() for part in (f"--{name}", value)]
    results.main(argv)
    (row,) = results.read(root / "cavl" / "results" / "ours.csv", results.OURS)
    assert (row["mean"], row["std"], row["n"]) == ("80.0000", "10.0000", "3")
    old = dict(row, method="old method", superseded_by="measured again")
    results.write(root / "cavl" / "results" / "ours.csv", [row, old])
    results.update_readmes(root)
    text = (root / "cavl" / "README.md").read_text()
    assert "old method" not in text
    assert text.startswith("# CAVL\n\n") and text.endswith(f"{results.END}\n\nmore\n")
    assert (
        "**MNIST, q 0.1** (last epoch; n = 3)\n\n"
        "| method | accuracy |\n| --- | --- |\n| CAVL | 80.00 ± 10.00 |" in text
    )
    assert text.count("main.py --seed 1") == 1
    assert results.update_readmes(root) == []  # already as the CSV says
    (root / "cavl" / "README.md").write_text(text.replace("80.00", "99.00"))
    assert results.update_readmes(root) == [root / "cavl" / "README.md"]
    assert (root / "cavl" / "README.md").read_text() == text
    capsys.readouterr()


def test_a_bar_or_a_line_end_in_a_cell_does_not_break_the_table():
    row = {**dict.fromkeys(results.OURS, ""), **FIELDS, "method": "a|b\nc", "mean": "1", "n": "1"}
    assert "| a\\|b c | 1.00 |" in results.table([row])


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


def test_protocols_of_one_setting_share_a_table_with_a_column_a_method():
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


@pytest.mark.parametrize(
    "readme", ["", results.BEGIN, f"{results.BEGIN}{results.END}{results.BEGIN}"]
)
def test_a_readme_without_its_markers_is_an_error(readme):
    with pytest.raises(UserError, match="a README needs .* once each"):
        results.with_table(readme, [])


@pytest.mark.parametrize("paper", results.PAPERS)
def test_the_repositorys_own_files_have_the_columns_and_the_table(paper):
    folder = results.ROOT / paper
    files = {
        "ours": results.OURS,
        "paper": results.PAPER,
        "seeds": results.SEEDS,
        "curves": results.CURVES,
    }
    for name, columns in files.items():
        if (folder / "results" / f"{name}.csv").is_file():
            results.read(folder / "results" / f"{name}.csv", columns)
    if (folder / "README.md").is_file() and (folder / "results" / "ours.csv").is_file():
        text = (folder / "README.md").read_text()
        assert (
            results.with_table(text, results.read(folder / "results" / "ours.csv", results.OURS))
            == text
        )
