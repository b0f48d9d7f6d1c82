"""The file of benchmark results, and the READMEs' tables that are written from it."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
PAPERS = ("cavl", "oass", "calm", "csl", "mile")


def imported(name: str) -> Iterator[ModuleType]:
    """benchmarks/NAME.py under the name by which its siblings import it, for one test."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))
        for new in {"ratios", "tables"} & (set(sys.modules) - before):
            del sys.modules[new]


@pytest.fixture
def ratios() -> Iterator[ModuleType]:
    yield from imported("ratios")


@pytest.fixture
def tables() -> Iterator[ModuleType]:
    yield from imported("tables")


def row(ratios: ModuleType, **changed: str) -> dict[str, str]:
    """A row of results: a part of csl, unless told otherwise."""
    usual = dict.fromkeys(ratios.COLUMNS, "")
    usual |= {"paper": "csl", "kind": ratios.PART, "name": "loss", "mixed_precision": "no"}
    usual |= {"compile": "0", "fast": "0", "threads": "1", "ratio": "2"}
    return usual | changed


# --- the file of results ---


def test_what_was_written_is_read(ratios, tmp_path):
    file = tmp_path / "results" / "cpu.csv"
    assert ratios.read_results(file) == []
    rows = [row(ratios), row(ratios, name='a "step", with a comma', ratio="1.04")]
    ratios.write_results(file, rows)
    assert ratios.read_results(file) == rows


def test_a_row_takes_the_place_of_the_one_with_its_name_and_setting(ratios, tmp_path):
    file = tmp_path / "cpu.csv"
    first = [row(ratios, name=name) for name in ("loss", "epoch", "metrics")]
    ratios.write_results(file, first)
    ratios.write_results(file, [row(ratios, name="epoch", ratio="3", commit="abc", date="today")])
    after = ratios.read_results(file)
    assert [(each["name"], each["ratio"]) for each in after] == [
        ("loss", "2"),
        ("epoch", "3"),
        ("metrics", "2"),
    ]


OTHERS = {
    "paper": "mile",
    "kind": "step",
    "name": "epoch",
    "mixed_precision": "bf16",
    "compile": "1",
    "fast": "1",
    "threads": "2",
}


def test_the_setting_is_what_these_columns_say(ratios):
    assert set(ratios.KEY) == set(OTHERS) and set(ratios.KEY) <= set(ratios.COLUMNS)


@pytest.mark.parametrize("column", OTHERS)
def test_a_row_of_another_setting_stands_beside_it(ratios, tmp_path, column):
    file = tmp_path / "cpu.csv"
    ratios.write_results(file, [row(ratios)])
    ratios.write_results(file, [row(ratios, **{column: OTHERS[column]}, ratio="9")])
    assert sorted(each["ratio"] for each in ratios.read_results(file)) == ["2", "9"]


def test_rows_stand_by_paper_and_kind_in_the_order_that_they_came_in(ratios, tmp_path):
    file = tmp_path / "cpu.csv"
    names = [
        ("mile", "part", "z"),
        ("csl", "step", "a"),
        ("csl", "part", "z"),
        ("csl", "part", "b"),
    ]
    rows = [row(ratios, paper=paper, kind=kind, name=name) for paper, kind, name in names]
    ratios.write_results(file, rows)
    found = [(each["paper"], each["kind"], each["name"]) for each in ratios.read_results(file)]
    assert found == [names[2], names[3], names[1], names[0]]


def test_the_file_is_named_by_the_hardware(ratios, monkeypatch):
    monkeypatch.setattr(ratios, "hardware", lambda: "Intel(R) Xeon(R) CPU @ 2.20GHz")
    assert ratios.results_file() == BENCHMARKS / "results" / "intel-xeon-cpu-2-20ghz.csv"
    monkeypatch.setattr(ratios, "hardware", lambda: "NVIDIA H200")
    assert ratios.results_file().name == "nvidia-h200.csv"


# --- timing ---


def test_both_are_called_in_turns(ratios):
    calls = []
    times = ratios.alternating(lambda: calls.append("plain"), lambda: calls.append("ours"), 3)
    assert calls == ["plain", "ours"] * 3
    assert all(0 <= seconds < 1 for seconds in times)


def test_parts_and_steps_give_rows_that_the_file_holds(ratios, tmp_path, monkeypatch, capsys):
    calls = []
    step = ratios.Step(lambda: calls.append("ours"), lambda: sum(range(999)), images=8)
    benches = {
        "loss": (lambda repeats: (0.4, 0.2), 1.5),
        "other": (lambda repeats: (1.0, 1.0), None),
    }
    steps = {"sample": (lambda options: step, 1.2)}
    file = tmp_path / "cpu.csv"
    monkeypatch.setattr(ratios, "results_file", lambda: file)
    monkeypatch.setattr(ratios.torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(sys, "argv", ["benchmarks/bench_csl.py", "--write", "--repeats", "1"])
    ratios.main("About.", benches, steps)

    shown = capsys.readouterr().out
    assert "2.00x" in shown and ">= 1.5" in shown and "<= 1.2" in shown
    loss, other, sample = ratios.read_results(file)
    assert [loss[name] for name in ("paper", "kind", "name", "ratio", "wanted")] == [
        "csl",
        "part",
        "loss",
        "2",
        ">= 1.5",
    ]
    assert (loss["baseline_ms"], loss["ours_ms"], other["wanted"]) == ("400", "200", "")
    assert (sample["kind"], sample["wanted"], sample["mixed_precision"]) == ("step", "<= 1.2", "no")
    assert calls


def test_precision_is_asked_of_steps_only(ratios, tmp_path, monkeypatch):
    asked = []

    def build(options: object) -> object:
        asked.append(options)
        return ratios.Step(lambda: sum(range(99)), lambda: sum(range(99)), images=1)

    def refuse(repeats: int) -> tuple[float, float]:
        raise AssertionError("a part")

    file = tmp_path / "cpu.csv"
    monkeypatch.setattr(ratios, "results_file", lambda: file)
    monkeypatch.setattr(ratios.torch, "set_num_threads", lambda count: None)
    flags = ["--write", "--mixed_precision", "bf16"]
    monkeypatch.setattr(sys, "argv", ["bench_oass.py", *flags])
    ratios.main("About.", {"loss": (refuse, None)}, {"sample": (build, None)})
    assert asked == [ratios.Options("bf16")]
    (kept,) = ratios.read_results(file)
    assert (kept["paper"], kept["mixed_precision"], kept["compile"]) == ("oass", "bf16", "0")


# --- the tables ---

README = """# A paper

### Speed

Before.

<!-- speed: cpu.csv -->
| what stood | here |
<!-- /speed -->

Between.

<!-- speed: gpu.csv -->
<!-- /speed -->
After | this | row.
"""


@pytest.fixture
def results(tables, ratios, tmp_path, monkeypatch) -> Path:
    """A folder with the results of one processor, for the tables."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    times = {"baseline_ms": "400", "ours_ms": "200", "ratio": "2", "wanted": ">= 1.5"}
    step = {"kind": ratios.STEP, "name": "sample", "images_per_second": "80"}
    rows = [
        row(ratios, **times),
        row(ratios, **times, **step),
        row(ratios, **times, **step, mixed_precision="bf16", compile="1", fast="1"),
        row(ratios, **times, paper="mile"),
    ]
    ratios.write_results(tmp_path / "cpu.csv", rows)
    return tmp_path


FILLED = """<!-- speed: cpu.csv -->
| part | plain ms | ours ms | times faster | wanted |
|---|--:|--:|--:|--:|
| loss | 400 | 200 | 2 | >= 1.5 |

| whole step | bare ms | ours ms | ours / bare | wanted | pictures/s |
|---|--:|--:|--:|--:|--:|
| sample | 400 | 200 | 2 | >= 1.5 | 80 |
| sample (bf16, compiled, --fast) | 400 | 200 | 2 | >= 1.5 | 80 |
<!-- /speed -->
"""


def test_the_marks_are_filled_and_nothing_else_is(tables, results):
    stood = "<!-- speed: cpu.csv -->\n| what stood | here |\n<!-- /speed -->\n"
    assert tables.with_table(README, "csl") == README.replace(stood, FILLED)


def test_filling_twice_changes_nothing_more(tables, results):
    once = tables.with_table(README, "csl")
    assert tables.with_table(once, "csl") == once


def test_a_paper_without_rows_has_no_table(tables, results):
    assert "|" not in tables.with_table(README, "cavl").split("After")[0]


def test_a_text_without_marks_stays(tables, results):
    text = "# A paper\n\n| a | table |\n<!-- speed -->\n<!-- /speed -->\n"
    assert tables.with_table(text, "csl") == text


def test_all_papers_are_written(tables):
    assert tables.PAPERS == PAPERS


@pytest.mark.parametrize("paper", PAPERS)
def test_a_readmes_tables_are_those_of_the_results(tables, paper):
    """`make bench && python benchmarks/tables.py` after a change of either."""
    text = (ROOT / paper / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- speed: ") == text.count("<!-- /speed -->")
    assert text.count("<!-- speed: ") == len(tables.BLOCK.findall(text))
    assert tables.with_table(text, paper) == text


# --- bench files ---


def test_the_makefile_runs_every_benchmark():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "for b in benchmarks/bench_*.py" in text
    names = {path.stem for path in BENCHMARKS.glob("bench_*.py")}
    assert names >= {f"bench_{name}" for name in (*PAPERS, "common")}
