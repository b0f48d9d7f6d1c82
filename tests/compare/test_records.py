"""Reading results files, READMEs and run directories; what is wrong with them is said in one line."""

import json
import re

import pytest

from common.cli import UserError
from common.results import OURS, PAPERS, ROOT, write
from sidebyside import records, runs
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


# --- run directories ---


def test_rows_get_their_values_from_the_runs_they_name(repository, run_folders):
    papers = records.load(repository)
    assert runs.attach(papers, runs.find([run_folders])) == 2
    cavl, uniform = papers[0].ours[:2]
    assert cavl.by_seed == pytest.approx({0: 96.0, 1: 97.0, 2: 98.0})  # summary.json has fractions, the row percent
    assert uniform.by_seed == pytest.approx({0: 92.0, 1: 93.0, 2: 94.0})


def test_runs_that_do_not_give_the_rows_number_are_not_taken(repository, run_folders):
    path = run_folders / "cavl-seed1" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "accuracy": 0.5}))
    papers = records.load(repository)
    assert runs.attach(papers, runs.find([run_folders])) == 1 and papers[0].ours[0].by_seed is None


def test_runs_of_the_same_names_in_two_folders_are_told_apart(repository, run_folders, tmp_path):
    for seed in range(3):
        run_folder(tmp_path / "other", "cavl", seed, [0.1, 0.2])
    papers = records.load(repository)
    assert runs.attach(papers, runs.find([run_folders, tmp_path / "other"])) == 2


def test_folds_are_averaged_within_their_seed(tmp_path):
    names = [
        run_folder(tmp_path, "cavl", s, [0.1, v], f).name
        for s, f, v in ((0, 0, 0.5), (0, 1, 0.7), (1, 0, 0.6), (1, 1, 0.9))
    ]
    write(tmp_path / "ours.csv", [ours_row("cavl", "0.6750", "0.1", 4, run=" ".join(names))])
    row = records.load_rows(tmp_path / "ours.csv", "cavl", OURS)[0]
    assert runs.values_by_seed(row, runs.find([tmp_path])) == pytest.approx({0: 0.6, 1: 0.75})


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
