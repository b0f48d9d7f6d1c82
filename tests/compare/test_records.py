"""Reading results files and READMEs; what is wrong with them is said in one line."""

import os
import statistics

import pytest

from common.cli import UserError
from sidebyside import records
from sidebyside.results import OURS, PAPERS, ROOT, SEEDS, read, write
from tests.compare.conftest import ours_row

HEADER = ",".join(OURS).encode()
ROW = b"\nm,d,s,k,p" + b"," * 14


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
        ({"mean": "high"}, "line 2: mean: expected a finite number, found 'high'"),
        ({"mean": "nan"}, "line 2: mean: expected a finite number, found 'nan'"),
        ({"mean": "1_0"}, "line 2: mean: expected a finite number, found '1_0'"),
        ({"std": "-1"}, "line 2: std: expected no number below zero, found '-1'"),
        ({"std": "1", "mean": ""}, "line 2: std: a standard deviation without the number"),
        ({"std": "1", "n": 1, "seeds": "0"}, "line 2: a standard deviation of one run"),
        ({"n": "three"}, "line 2: n: expected a whole number, found 'three'"),
        ({"n": "2.5"}, "line 2: n: expected a whole number, found '2.5'"),
        ({"n": -3}, "line 2: n: expected no number below zero, found '-3'"),
        ({"n": ""}, "line 2: a mean without n"),
        ({"minutes": "long"}, "line 2: minutes: expected a finite number, found 'long'"),
        ({"minutes": "-1"}, "line 2: minutes: expected no number below zero, found '-1'"),
        ({"n": 4}, "line 2: n is 4, which is no multiple of its 3 seeds"),
        ({"seeds": "0 1 1"}, "line 2: seeds '0 1 1' name one seed twice"),
        ({"seeds": "0,1,2"}, "line 2: seeds: expected a whole number, found '0,1,2'"),
    ],
)
def test_a_cell_that_is_not_a_number_is_named(tmp_path, cells, message):
    write(tmp_path / "ours.csv", [{**ours_row("cavl", 1), **cells}])
    with pytest.raises(UserError, match=message):
        records.load_rows(tmp_path / "ours.csv", "cavl", OURS)


@pytest.mark.parametrize(
    "body, message",
    [
        (b"", "line 1: no columns; expected method,dataset"),
        (b"a,b\n1,2\n", "line 1: columns method, .* are missing; expected method,dataset"),
        (HEADER.replace(b"seeds,", b"") + b"\n", "line 1: columns seeds are missing"),
        (HEADER + b",why\n", "line 1: columns why are not known"),
        (HEADER + b"\n1,2\n", "line 2: has 2 cells, expected 19"),
        (HEADER + b"\n\n" + b"," * 22 + b"x\n", "line 3: has 23 cells, expected 19"),
        (
            HEADER + ROW + b"\n" + ROW + b"\n",
            r"line 4: a second row for m, d, s, k, p \(the first: line 2\)",
        ),
        (HEADER + b'\n"m\nm,d', "line 2: not a row of csv"),
        (HEADER + b"\nm\xe9,d", r"line 2: not UTF-8 \(byte 0xe9\)"),
        (HEADER + b"\n\0", "line 2: a NUL"),
        (b"\xff\xfe\x00", "line 1: UTF-16, not UTF-8"),
    ],
)
def test_a_file_that_is_not_a_results_file_is_one_line(tmp_path, body, message):
    (tmp_path / "ours.csv").write_bytes(body)
    with pytest.raises(UserError, match=message) as error:
        records.load_rows(tmp_path / "ours.csv", "cavl", OURS)
    assert "ours.csv" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value, told",
    [
        (97.0, "97"),
        (97.123, "97.12"),
        (0.84206, "0.8421"),
        (-0.5, "-0.5"),
        (0, "0"),
        (1234.5, "1234.5"),
    ],
)
def test_numbers_for_reading(value, told):
    assert records.show(value) == told


def test_windows_files_with_byte_order_mark_and_crlf_are_read(repository):
    plain = records.load(repository)
    for path in repository.rglob("*.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    readme = repository / "cavl" / "README.md"
    readme.write_bytes(b"\xef\xbb\xbf" + readme.read_bytes().replace(b"\n", b"\r\n"))
    assert records.load(repository) == plain


@pytest.mark.parametrize("name", ["ours.csv", "paper.csv", "seeds.csv", "curves.csv"])
def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_refused(repository, name):
    path = repository / "cavl" / "results" / name
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=f"{name}: is a folder, expected a file"):
        records.load(repository)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"{name}: is a pipe or a device"):
        records.load(repository)


@pytest.mark.parametrize(
    "name, cell, other, message",
    [
        ("paper.csv", "76.46", "76,46", "paper.csv: line 3: has 11 cells, expected 10"),
        (
            "paper.csv",
            "76.46",
            "about 76",
            "paper.csv: line 3: value: expected a finite number, found 'about 76'",
        ),
        (
            "curves.csv",
            "97.0",
            "high",
            "curves.csv: line 3: mean: expected a finite number, found 'high'",
        ),
        (
            "curves.csv",
            ",1.0,3",
            ",-1.0,3",
            "curves.csv: line 2: std: expected no number below zero",
        ),
        (
            "curves.csv",
            "accuracy,2",
            "accuracy,1",
            "curves.csv: line 3: a second point at epoch 1 for MNIST, USS",
        ),
        (
            "seeds.csv",
            "97.0",
            "many",
            "seeds.csv: line 3: value: expected a finite number, found 'many'",
        ),
        (
            "seeds.csv",
            "mean,1,97.0",
            "mean,0,97.0",
            "seeds.csv: line 3: a second value of seed 0 for cavl, MNIST",
        ),
        (
            "seeds.csv",
            "mean,1,97.0",
            "mean,x,97.0",
            "seeds.csv: line 3: seed: expected a whole number, found 'x'",
        ),
        (
            "seeds.csv",
            "97.0",
            "79.0",
            "seeds.csv: line 2: the mean over the seeds is 91 for cavl.*ours.csv has 97.0000",
        ),
        (
            "seeds.csv",
            "mean,1,97.0",
            "mean,7,97.0",
            "seeds.csv: line 2: seeds 0 2 7 for cavl.*ours.csv has 0 1 2",
        ),
        (
            "seeds.csv",
            "uniform",
            "averaging",
            "seeds.csv: line 5: ours.csv has no row with these first five columns",
        ),
    ],
)
def test_what_is_wrong_in_a_results_file_is_one_line(repository, name, cell, other, message):
    for path in repository.rglob(name):
        path.write_text(path.read_text().replace(cell, other))
    with pytest.raises(UserError, match=message) as error:
        records.load(repository)
    assert "\n" not in str(error.value)


def test_a_readme_in_another_encoding_is_one_line(repository):
    (repository / "cavl" / "README.md").write_bytes(b"# CAVL\nna\xefve\n")
    with pytest.raises(UserError, match="README.md: line 2: not UTF-8"):
        records.load(repository)


def test_pictures_that_are_none_are_told_and_hidden_ones_left_alone(repository):
    figures = repository / "cavl" / "results" / "figures"
    (figures / "._maps.png").write_bytes(b"Mac OS X")
    (figures / "half.png").write_bytes((figures / "maps.png").read_bytes()[:50])
    (figures / "folder.png").mkdir()
    os.mkfifo(figures / "pipe.png")
    cavl = records.load(repository)[0]
    assert [path.name for path, _ in cavl.pictures] == ["maps.png"]
    assert [told.rpartition("/")[2] for told in cavl.missing] == [
        "folder.png",
        "half.png",
        "pipe.png",
    ]


def test_deviations_come_from_their_section_only(repository):
    table = records.deviations((repository / "cavl" / "README.md").read_text())
    assert table[0] == ["detail", "paper", "released code", "ours", "switch"]
    assert [row[0] for row in table[1:]] == ["mask", "warm-up"]
    assert table[1][4] == "`-mask product|candidates`"
    assert records.deviations("# no such section\n\n| a | b |\n| - | - |\n| 1 | 2 |\n") == []


# --- seeds and curves ---


def test_rows_know_their_values_by_seed_and_others_are_not_given_any(repository):
    cavl, uniform, rc = records.load(repository)[0].ours[:3]
    assert cavl.by_seed == {0: 96.0, 1: 97.0, 2: 98.0} and uniform.by_seed == {
        0: 92.0,
        1: 93.0,
        2: 94.0,
    }
    assert rc.by_seed is None


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
            assert statistics.fmean(row.by_seed.values()) == pytest.approx(
                row.value, rel=1e-4, abs=1e-4
            )
