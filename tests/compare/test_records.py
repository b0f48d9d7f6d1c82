"""Reading results files, READMEs and run directories; what is wrong with them is said in one line."""

import json
import re
import statistics

import pytest

from common.cli import UserError
from sidebyside import records, runs
from sidebyside.results import OURS, PAPERS, ROOT, SEEDS, read, write
from tests.compare.conftest import ours_row, run_folder


def test_absent_folders_and_files_are_named(repository):
    (repository / "mile").mkdir()
    missing = {p.name: p.missing for p in records.load(repository)}
    assert list(missing) == list(PAPERS)
    assert missing["cavl"] == [] and missing["oass"] == ["oass/"]
    assert missing["mile"] == ["mile/results/ours.csv", "mile/results/paper.csv", "mile/README.md"]


@pytest.mark.parametrize(
    "cells, expected",
    [
        ({}, False),
        ({"dataset": "MNIST sample"}, True),
        ({"protocol": "offline sample, last epoch"}, True),
        ({"command": "python main.py --sample -seeds 0,1,2"}, True),
        ({"command": "main.py -sample"}, True),
        ({"command": "python train.py --likelihood_scope sample --data DATA"}, False),
        ({"setting": "resampled"}, False),
    ],
)
def test_which_rows_are_sample_rows(tmp_path, cells, expected):
    write(tmp_path / "ours.csv", [ours_row("cavl", 1, **cells)])
    assert records.load_rows(tmp_path / "ours.csv", "cavl", OURS)[0].is_sample is expected


@pytest.mark.parametrize(
    "cells, message",
    [
        ({"mean": "high"}, "row 2: mean is 'high', which is not a number"),
        ({"mean": "nan"}, "row 2: mean is 'nan'"),
        ({"std": "-1"}, "row 2: std is '-1'"),
        ({"n": "three"}, "row 2: n is 'three'"),
    ],
)
def test_a_cell_that_is_not_a_number_is_named(tmp_path, cells, message):
    write(tmp_path / "ours.csv", [{**ours_row("cavl", 1), **cells}])
    with pytest.raises(UserError, match=message):
        records.load_rows(tmp_path / "ours.csv", "cavl", OURS)


@pytest.mark.parametrize(
    "body, message",
    [
        (b"a,b\n1,2\n", "columns"),
        (",".join(OURS).encode() + b"\n1,2\n", "another number of cells"),
        (",".join(OURS).encode() + b"\n" + b"," * 20 + b"\n", "another number of cells"),
        (",".join(OURS).encode() + (b"\nm,d,s,k,p" + b"," * 12) * 2 + b"\n", "a second row for m, d, s, k, p"),
        (b"\xff\xfe\x00", "cannot be read as CSV"),
    ],
)
def test_a_file_that_is_not_a_results_file_is_one_line(tmp_path, body, message):
    (tmp_path / "ours.csv").write_bytes(body)
    with pytest.raises(UserError, match=message) as error:
        records.load_rows(tmp_path / "ours.csv", "cavl", OURS)
    assert "ours.csv" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value, told", [(97.0, "97"), (97.123, "97.12"), (0.84206, "0.8421"), (-0.5, "-0.5"), (0, "0"), (1234.5, "1234.5")]
)
def test_numbers_for_reading(value, told):
    assert records.show(value) == told


def test_deviations_come_from_their_section_only(repository):
    table = records.deviations((repository / "cavl" / "README.md").read_text())
    assert table[0] == ["detail", "paper", "released code", "ours", "switch"]
    assert [row[0] for row in table[1:]] == ["mask", "warm-up"]
    assert table[1][4] == "`-mask product|candidates`"
    assert records.deviations("# no such section\n\n| a | b |\n| - | - |\n| 1 | 2 |\n") == []


# --- seeds and curves ---


def test_rows_know_their_values_by_seed_and_others_are_not_given_any(repository):
    cavl, uniform, rc = records.load(repository)[0].ours[:3]
    assert cavl.by_seed == {0: 96.0, 1: 97.0, 2: 98.0} and uniform.by_seed == {0: 92.0, 1: 93.0, 2: 94.0}
    assert rc.by_seed is None


def test_a_value_by_seed_that_is_no_number_is_named(repository):
    path = repository / "cavl" / "results" / "seeds.csv"
    path.write_text(path.read_text().replace("97.0", "many"))
    with pytest.raises(UserError, match="seeds.csv, row 3: value is 'many'"):
        records.load(repository)


def test_curves_are_grouped_by_what_they_show(repository):
    curves = records.load(repository)[0].curves
    assert list(curves) == [("MNIST", "USS", "test/accuracy")]
    cavl, uniform = curves["MNIST", "USS", "test/accuracy"]
    assert (cavl.label, cavl.epochs, cavl.mean, cavl.runs) == ("cavl", [1, 2], [50.0, 97.0], 3)
    assert uniform.label == "uniform" and records.load(repository)[1].curves == {}


@pytest.mark.parametrize("paper", PAPERS)
def test_the_repositorys_seeds_belong_to_rows_and_have_their_mean(paper):
    (loaded,) = records.load(ROOT, [paper])
    path = ROOT / paper / "results" / "seeds.csv"
    seeds = read(path, SEEDS) if path.is_file() else []
    keys = {row.key for row in loaded.ours}
    assert all(tuple(cells[c] for c in records.KEY) in keys for cells in seeds)
    for row in loaded.ours:
        if row.by_seed:
            assert sorted(map(str, row.by_seed)) == sorted(row.cells["seeds"].split())
            assert statistics.fmean(row.by_seed.values()) == pytest.approx(row.value, rel=1e-4, abs=1e-4)


# --- run directories ---


def test_a_run_on_the_sample_is_known_by_flag_summary_or_marker(tmp_path):
    folder = run_folder(tmp_path / "a", "cavl", 0, [0.1, 0.2])
    (run,) = runs.find([folder])
    assert (run.paper, run.seed, run.is_sample) == ("cavl", 0, False)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "SAMPLE.json").write_text("{}")
    config["settings"]["data_dir"] = str(tmp_path / "drawn")
    (folder / "config.json").write_text(json.dumps(config))
    assert runs.find([folder])[0].is_sample


@pytest.mark.parametrize(
    "name, text", [("config.json", "{"), ("config.json", "{}"), ("metrics.jsonl", "x\n"), ("summary.json", "[")]
)
def test_a_damaged_run_is_named(tmp_path, name, text):
    folder = run_folder(tmp_path, "cavl", 0, [0.1, 0.2])
    (folder / name).write_text(text)
    with pytest.raises(UserError, match="cavl-seed0: .* is damaged"):
        runs.find([tmp_path])


def test_each_papers_runs_are_known_by_a_setting_that_only_it_has():
    assert set(runs.MARKS) == set(PAPERS)
    for paper, (mark, _) in runs.MARKS.items():
        assert [p for p in PAPERS if _mentions(p, mark)] in ([paper], [])  # [] while the subproject is not there


def _mentions(paper: str, word: str) -> bool:
    return any(re.search(rf"\b{word}\b", path.read_text()) for path in (ROOT / paper).rglob("*.py"))


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        runs.find([tmp_path])
