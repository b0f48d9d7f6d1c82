"""Run directories given to compare.py: found, named, grouped; a line for each damaged one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import compare
from common.cli import UserError
from sidebyside import curves, records, results, runs, terminal
from sidebyside.results import PAPER, PAPERS, ROOT
from tests.compare.conftest import paper_row, run_folder


def change(folder: Path, name: str, **settings: object) -> None:
    """Write other settings into a run's config.json, or other entries into its summary.json."""
    path = folder / name
    content = json.loads(path.read_text())
    (content["settings"] if name == "config.json" else content).update(settings)
    path.write_text(json.dumps(content))


def rewrite(folder: Path, **entries: object) -> None:
    """Write other entries into config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def shown(tmp_path: Path, capsys, *folders: Path) -> tuple[str, list[str], str]:
    """What compare.py tells of these folders: the table of runs, the lines on stderr, the page."""
    root = tmp_path / "nothing"
    root.mkdir(exist_ok=True)
    page = tmp_path / "page.html"
    compare.main(["--root", str(root), "--out", str(page), *map(str, folders)])
    told = capsys.readouterr()
    table = told.out[told.out.index("== Run directories") : told.out.index("== Claims")]
    return table, told.err.splitlines(), page.read_text(encoding="utf-8")


# --- every run is named, drawn and listed ---


def test_one_run_is_named_by_its_folder_method_data_and_settings(tmp_path, capsys):
    folder = run_folder(tmp_path / "save", "cavl", 3, [0.5, 0.8])
    table, errors, html = shown(tmp_path, capsys, folder)
    assert errors == []
    row = table.splitlines()[3].split()
    assert row[:7] == ["cavl", "cavl-seed3", "cavl", "mnist", "3", "real", "2"]
    assert "one experiment" not in html
    legend = re.search(r'<ul class="legend">(.*?)</ul>', html, re.S).group(1)
    assert "cavl-seed3: cavl" in legend
    own = html[html.index('id="own-runs"') :]
    assert "<dt>partial_type</dt><dd>uss</dd>" in own and "main.py -method cavl --seed 3" in own


def test_a_run_of_one_epoch_is_drawn_with_a_marker(tmp_path, capsys):
    one = run_folder(tmp_path / "one", "cavl", 0, [0.5])
    table, _, html = shown(tmp_path, capsys, one)
    assert "cavl-seed0" in table
    svg = re.search(r"<svg viewBox=\"0 0 460.*?</svg>", html, re.S).group()
    assert svg.count("<circle") == 1 and "<polyline" not in svg


def test_one_epoch_of_several_seeds_shows_its_spread(tmp_path):
    for seed in range(2):
        run_folder(tmp_path, "cavl", seed, [0.5 + seed / 10])
    own, _ = runs.find([tmp_path])
    ((line,),) = [chart.lines for chart in curves.charts("cavl", own)]
    assert len(line.marks) == 1 and line.line == "" and line.band == ""
    assert len(line.stroke.split()) == 2 and line.last == "0.5500 ± 0.0707"


def test_long_curves_are_marked_at_their_end_only(tmp_path):
    run_folder(tmp_path, "cavl", 0, [k / 100 for k in range(60)])
    own, _ = runs.find([tmp_path])
    ((line,),) = [chart.lines for chart in curves.charts("cavl", own)]
    assert len(line.line.split()) == 60
    assert line.marks == [tuple(line.line.split()[-1].split(","))]


def test_runs_of_several_papers_are_each_named_and_drawn(tmp_path, capsys):
    cavl = run_folder(tmp_path / "a", "cavl", 0, [0.5, 0.8])
    csl = run_folder(tmp_path / "b", "ignore_ce", 0, [0.3, 0.4])
    settings = {
        "recipe": "ignore_ce",
        "partial_loss_mode": "ignore",
        "seed": 0,
        "data": "/data/COCO_2014/",
    }
    rewrite(csl, settings=settings)
    own = run_folder(tmp_path / "c", "mine", 0, [0.1, 0.2])
    rewrite(own, settings={"method": "mine", "seed": 0})
    table, errors, html = shown(tmp_path, capsys, cavl, csl, own)
    assert errors == []
    rows = [line.split()[:4] for line in table.splitlines()[3:]]
    assert ["csl", "ignore_ce-seed0", "ignore_ce", "COCO_2014"] in rows
    assert ["?", "mine-seed0", "mine", "0"] in rows
    for label in ("cavl-seed0: cavl", "ignore_ce-seed0: ignore_ce", "mine-seed0: mine"):
        assert label in html
    for heading in ("<h3>cavl</h3>", "<h3>csl</h3>", "<h3>other</h3>"):
        assert heading in html


def test_runs_are_drawn_whatever_paper_the_tables_are_of(tmp_path, capsys, repository):
    folder = run_folder(tmp_path / "save", "cavl", 0, [0.5, 0.8])
    argv = [
        "--root",
        str(repository),
        "--out",
        str(tmp_path / "page.html"),
        "--paper",
        "csl",
        str(folder),
    ]
    compare.main(argv)
    assert "cavl-seed0: cavl" in (tmp_path / "page.html").read_text()
    capsys.readouterr()


def test_settings_in_which_runs_differ_are_told(tmp_path):
    for name, lr in (("slow", 0.1), ("fast", 0.2)):
        folder = run_folder(tmp_path / name, "cavl", 0, [0.5, 0.8])
        change(folder, "config.json", lr=lr)
    own, _ = runs.find([tmp_path])
    assert set(runs.groups(own)) == {
        "slow/cavl-seed0: cavl, lr 0.1",
        "fast/cavl-seed0: cavl, lr 0.2",
    }


def test_a_setting_that_only_the_second_run_has_tells_them_apart(tmp_path):
    run_folder(tmp_path / "a", "cavl", 0, [0.5, 0.8])
    change(run_folder(tmp_path / "b", "cavl", 0, [0.5, 0.8]), "config.json", warmup=5)
    own, _ = runs.find([tmp_path])
    assert set(runs.groups(own)) == {
        "a/cavl-seed0: cavl, warmup None",
        "b/cavl-seed0: cavl, warmup 5",
    }


def test_runs_of_the_same_name_are_told_apart_by_the_folders_above(tmp_path, capsys):
    for method in ("cMax", "max"):
        run_folder(tmp_path / method, "seed", 0, [0.5, 0.8]).rename(tmp_path / method / "seed_0")
    table, _, html = shown(tmp_path, capsys, tmp_path)
    assert "cMax/seed_0" in table and " max/seed_0" in table
    assert "cMax/seed_0" in html


def test_seeds_of_an_experiment_share_a_line_with_first_and_last_name(run_folders):
    own, _ = runs.find([run_folders])
    assert list(runs.groups(own)) == [
        "cavl-seed0 … cavl-seed2: cavl",
        "uniform-seed0 … uniform-seed2: uniform",
    ]


def test_a_seed_that_is_there_twice_is_no_second_seed(tmp_path):
    for place in ("a", "b"):
        run_folder(tmp_path / place, "cavl", 0, [0.5, 0.8])
    run_folder(tmp_path / "a", "cavl", 1, [0.7, 0.9])
    own, _ = runs.find([tmp_path])
    grouped = [
        [run.path.relative_to(tmp_path).as_posix() for run in group]
        for group in runs.groups(own).values()
    ]
    assert grouped == [["a/cavl-seed0", "a/cavl-seed1"], ["b/cavl-seed0"]]


def test_folds_of_a_seed_are_drawn_together(tmp_path):
    for fold in range(3):
        run_folder(tmp_path, "cavl", 0, [0.5, 0.8], fold)
    own, _ = runs.find([tmp_path])
    assert [len(group) for group in runs.groups(own).values()] == [3]


def test_the_same_run_named_twice_is_one(tmp_path):
    folder = run_folder(tmp_path, "cavl", 0, [0.5, 0.8])
    (tmp_path / "link").symlink_to(folder)
    own, faults = runs.find([folder, tmp_path / "link", tmp_path])
    assert len(own) == 1 and faults == []


def test_a_run_without_metrics_or_summary_is_listed(tmp_path, capsys):
    folder = run_folder(tmp_path / "save", "cavl", 0, [0.5])
    (folder / "metrics.jsonl").unlink()
    (folder / "summary.json").unlink()
    table, errors, html = shown(tmp_path, capsys, folder)
    assert errors == [] and re.search(r"cavl-seed0 .* none +unfinished", table)
    assert "cavl-seed0" in html


def test_a_summary_without_a_number_is_not_called_unfinished(tmp_path, capsys):
    folder = run_folder(tmp_path / "save", "cavl", 0, [0.5])
    (folder / "summary.json").write_text(json.dumps({"map": None, "wall_seconds": 3.0}))
    table, _, _ = shown(tmp_path, capsys, folder)
    assert table.splitlines()[3].endswith("no figure")


def test_a_run_that_started_others_stands_back_behind_them(tmp_path):
    parent = run_folder(tmp_path, "cavl", 0, [0.5])
    change(parent, "config.json", seeds=[0, 1])
    own, _ = runs.find([tmp_path])
    assert [run.path for run in own] == [parent]  # alone it is shown
    child = run_folder(parent, "cavl", 1, [0.5, 0.6])
    elsewhere = run_folder(tmp_path / "elsewhere", "cavl", 2, [0.5, 0.6])
    own, _ = runs.find([tmp_path])
    assert {run.path for run in own} == {child, elsewhere}


def test_run_2_comes_before_run_10(tmp_path, capsys):
    for number in (10, 2, 1):
        run_folder(tmp_path / "save", "cavl", number, [0.5, 0.6])
    table, _, _ = shown(tmp_path, capsys, tmp_path / "save")
    assert re.findall(r"cavl-seed(\d+)", table) == ["1", "2", "10"]


def test_more_experiments_than_a_chart_has_styles_are_all_drawn(tmp_path):
    for number in range(15):
        folder = run_folder(tmp_path / str(number), "cavl", 0, [0.5, 0.6])
        change(folder, "config.json", lr=number / 100)
    own, _ = runs.find([tmp_path])
    first, second = curves.charts("cavl", own)
    assert "(1 of 2)" in first.title and "(2 of 2)" in second.title
    assert len(first.lines) + len(second.lines) == 15


def test_a_mean_that_ends_where_the_shortest_run_ends_says_so(tmp_path):
    for seed, values in enumerate(([0.1, 0.2, 0.3], [0.1, 0.2])):
        run_folder(tmp_path, "cavl", seed, values)
    own, _ = runs.find([tmp_path])
    curve = curves.curve("cavl", own, "test", "accuracy")
    assert (
        curve.epochs == [1, 2] and curve.label == "cavl (to epoch 2, where the first of them ends)"
    )


# --- real data or the sample ---


def test_a_run_on_the_sample_is_known_by_flag_summary_config_or_marker(tmp_path):
    folder = run_folder(tmp_path / "a", "cavl", 0, [0.1, 0.2])

    def found() -> bool | None:
        (run,), _ = runs.find([folder])
        return run.is_sample

    assert found() is False
    change(folder, "summary.json", offline_sample=True)
    assert found() is True
    change(folder, "summary.json", offline_sample=None)
    assert found() is None
    rewrite(folder, offline_sample=True)
    assert found() is True
    rewrite(folder, offline_sample=None)
    change(folder, "config.json", sample=True)
    assert found() is True
    change(folder, "config.json", sample=False)
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "SAMPLE.json").write_text("{}")
    change(folder, "config.json", data_dir=str(tmp_path / "drawn"))
    assert found() is True


def test_a_run_that_does_not_tell_is_not_called_real(tmp_path, capsys):
    folder = run_folder(tmp_path / "save", "cavl", 0, [0.5, 0.8])
    change(folder, "summary.json", offline_sample=None)
    table, _, html = shown(tmp_path, capsys, folder)
    assert " not told " in table and " real " not in table
    assert "the run does not tell" in html


# --- damaged runs ---


def write(name: str, content: bytes | str):
    def damage(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)

    return damage


def append(name: str, content: bytes | str):
    def damage(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes((folder / name).read_bytes() + data)

    return damage


def pipe(name: str):
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def directory(name: str):
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def line(**entries: object) -> str:
    return json.dumps({"step": 3, "epoch": 3, "split": "test", "accuracy": 0.9, **entries}) + "\n"


DEEP = "[" * 100_000

# what the run is left out for
UNREADABLE = {
    "config not utf-8": (
        write("config.json", b'{"settings": "\xe9"}'),
        "config.json: line 1: not UTF-8",
    ),
    "config utf-16": (
        write("config.json", '{"settings": {}}'.encode("utf-16")),
        "UTF-16, not UTF-8",
    ),
    "config cut off": (
        write("config.json", '{"settings": {'),
        "config.json: line 1, column 15: not json",
    ),
    "config empty": (write("config.json", ""), "config.json: line 1, column 1: not json"),
    "config zeros": (write("config.json", b"\0" * 512), "config.json: line 1: a NUL"),
    "config a list": (write("config.json", "[]"), "expected an object, found a list"),
    "config null": (write("config.json", "null"), "expected an object, found null"),
    "config a text": (write("config.json", '"x"'), "expected an object, found a text"),
    "config without settings": (write("config.json", "{}"), "config.json: no settings"),
    "settings a list": (write("config.json", '{"settings": [1]}'), "config.json: no settings"),
    "settings null": (write("config.json", '{"settings": null}'), "config.json: no settings"),
    "config too deep": (write("config.json", DEEP), "config.json: not readable json"),
    "config huge number": (
        write("config.json", '{"settings": {"seed": 1' + "0" * 5000 + "}}"),
        "not readable json",
    ),
    "config a pipe": (pipe("config.json"), "config.json: is a pipe or a device"),
    "config a folder": (directory("config.json"), "config.json: is a folder"),
    "config gone": (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
}
# what is left out of a run that is shown
PARTLY = {
    "metrics half a line": (
        append("metrics.jsonl", '{"step": 3, "ep'),
        "metrics.jsonl: line 3: not json",
    ),
    "metrics zeros": (
        append("metrics.jsonl", b"\0" * 64 + b"\n"),
        "metrics.jsonl: line 3: holds a NUL",
    ),
    "metrics not utf-8": (
        append("metrics.jsonl", b'{"split": "\xe9"}\n'),
        "metrics.jsonl: line 3: not UTF-8",
    ),
    "metrics list line": (
        append("metrics.jsonl", "[1, 2]\n"),
        "metrics.jsonl: line 3: not an object",
    ),
    "metrics number line": (
        append("metrics.jsonl", "7\nnull\n"),
        "line 3: not an object and 1 more",
    ),
    "metrics without split": (
        append("metrics.jsonl", '{"epoch": 3}\n'),
        "metrics.jsonl: line 3: has no split",
    ),
    "metrics split a list": (
        append("metrics.jsonl", line(split=["a"])),
        "metrics.jsonl: line 3: has no split",
    ),
    "metrics without epoch": (
        append("metrics.jsonl", '{"split": "test"}\n'),
        "metrics.jsonl: line 3: has no epoch",
    ),
    "metrics epoch text": (
        append("metrics.jsonl", line(epoch="3")),
        "metrics.jsonl: line 3: has no epoch",
    ),
    "metrics epoch nan": (
        append("metrics.jsonl", line(epoch=float("nan"))),
        "line 3: has no epoch",
    ),
    "metrics epoch true": (
        append("metrics.jsonl", line(epoch=True)),
        "metrics.jsonl: line 3: has no epoch",
    ),
    "metrics nan": (
        append("metrics.jsonl", line(accuracy=float("nan"))),
        "line 3: accuracy is no finite number",
    ),
    "metrics inf": (
        append("metrics.jsonl", line(loss=float("-inf"))),
        "line 3: loss is no finite number",
    ),
    "metrics huge": (
        append("metrics.jsonl", line(accuracy=10**400)),
        "line 3: accuracy is no finite number",
    ),
    "metrics huger": (append("metrics.jsonl", '{"x": 1' + "0" * 5000 + "}\n"), "line 3: not json"),
    "metrics text": (
        append("metrics.jsonl", line(accuracy="0.9")),
        "line 3: accuracy is text, not a number",
    ),
    "metrics too deep": (append("metrics.jsonl", DEEP + "\n"), "metrics.jsonl: line 3: not json"),
    "metrics utf-16": (
        write("metrics.jsonl", line().encode("utf-16")),
        "metrics.jsonl: line 1: holds a NUL",
    ),
    "metrics a pipe": (pipe("metrics.jsonl"), "metrics.jsonl: is a pipe or a device"),
    "metrics a folder": (directory("metrics.jsonl"), "metrics.jsonl: is a folder"),
    "summary cut off": (
        write("summary.json", '{"accuracy": 0.'),
        "summary.json: line 1, column 15: not json",
    ),
    "summary a list": (
        write("summary.json", "[]"),
        "summary.json: expected an object, found a list",
    ),
    "summary empty": (write("summary.json", ""), "summary.json: line 1, column 1: not json"),
    "summary a pipe": (pipe("summary.json"), "summary.json: is a pipe or a device"),
    "summary a folder": (directory("summary.json"), "summary.json: is a folder"),
    "seed a text": (
        lambda folder: change(folder, "config.json", seed="x"),
        "config.json: the seed is no whole number",
    ),
    "seed a list": (
        lambda folder: change(folder, "config.json", seed=[0]),
        "config.json: the seed is no whole number",
    ),
    "both": (
        lambda f: [write("summary.json", "x")(f), append("metrics.jsonl", "x")(f)],
        "not json; summary.json: ",
    ),
}
# what is no damage
SOUND = {
    "byte-order marks": lambda f: [
        (f / name).write_bytes(b"\xef\xbb\xbf" + (f / name).read_bytes())
        for name in ("config.json", "metrics.jsonl", "summary.json")
    ],
    "crlf": lambda f: (f / "metrics.jsonl").write_bytes(
        (f / "metrics.jsonl").read_bytes().replace(b"\n", b"\r\n")
    ),
    "metrics empty": write("metrics.jsonl", ""),
    "metrics blank lines": append("metrics.jsonl", "\n\n  \n"),
    "metrics without a last line end": append("metrics.jsonl", line().rstrip()),
    "metrics undefined": append("metrics.jsonl", line(accuracy=None)),
    "metrics nested values": append(
        "metrics.jsonl", line(per_class=[0.1, {"x": 2}], classes={"cat": 0.5})
    ),
    "metrics a note": append("metrics.jsonl", line(note="warm-up", selecting=True)),
    "metrics a line of megabytes": append("metrics.jsonl", line(note="x" * 3_000_000)),
    "metrics very large numbers": append("metrics.jsonl", line(loss=1e90)),
    "no launches": lambda folder: rewrite(folder, launches=None, commit=None),
    "launches a number": lambda folder: rewrite(folder, launches=7, commit=["x"]),
    "launches of texts": lambda folder: rewrite(folder, launches=["x"]),
    "launch without command": lambda folder: rewrite(folder, launches=[{"time": "x"}]),
    "settings nested": lambda folder: change(
        folder, "config.json", ds={"a": [1]}, method=["x"], mo=None
    ),
    "settings with markup": lambda folder: change(
        folder, "config.json", ds="<script>x</script>", lr='"><i>'
    ),
    "settings with a NUL": lambda folder: change(
        folder, "config.json", data_dir="/a\0b/c", ds="\x1b[31m"
    ),
    "seed beyond 64 bits": lambda folder: change(folder, "config.json", seed=2**70),
    "summary nested": lambda folder: change(
        folder, "summary.json", test={"a": [1]}, ap=[0.1, None]
    ),
    "summary nan": write(
        "summary.json", '{"accuracy": NaN, "f1": Infinity, "offline_sample": false}'
    ),
}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "good", "uniform", 0, [0.5, 0.75])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "broken", "cavl", 0, [0.5, 0.8])


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_run_that_cannot_be_read_is_one_line_and_the_others_are_shown(
    tmp_path, capsys, good, broken, kind
):
    damage, message = UNREADABLE[kind]
    damage(broken)
    table, errors, html = shown(tmp_path, capsys, broken, good)
    assert len(errors) == 1 and str(broken) in errors[0] and message in errors[0]
    assert "uniform-seed0" in table and "cavl-seed0" not in table
    assert "uniform-seed0: uniform" in html and "<polyline" in html


@pytest.mark.parametrize("kind", UNREADABLE)
def test_where_no_run_is_left_the_one_line_is_an_error(tmp_path, capsys, broken, kind):
    damage, message = UNREADABLE[kind]
    damage(broken)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        shown(tmp_path, capsys, broken)
    assert "\n" not in str(error.value) and capsys.readouterr().err == ""
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("kind", PARTLY)
def test_what_can_be_read_of_a_damaged_run_is_shown(tmp_path, capsys, good, broken, kind):
    damage, message = PARTLY[kind]
    damage(broken)
    table, errors, html = shown(tmp_path, capsys, tmp_path / "broken", good)
    assert len(errors) == 1 and str(broken) in errors[0] and message in errors[0]
    assert "uniform-seed0" in table and "cavl-seed0" in table
    has_lines = not kind.startswith(("metrics utf", "metrics a"))
    assert ("cavl-seed0: cavl" in html) is has_lines
    assert re.search(r"(config|summary)\.json: |metrics\.jsonl: ", html)


@pytest.mark.parametrize("kind", SOUND)
def test_what_is_no_damage_is_shown_without_a_word(tmp_path, capsys, good, broken, kind):
    SOUND[kind](broken)
    table, errors, html = shown(tmp_path, capsys, good, broken)
    assert errors == []
    assert "uniform-seed0" in table and "cavl-seed0" in table
    assert "<script>x" not in html and "<i>" not in html and "\x1b" not in html + table


def test_half_a_last_line_costs_nothing_but_itself(tmp_path, capsys, broken):
    append("metrics.jsonl", '{"step": 3, "ep')(broken)
    (run,), _ = runs.find([broken])
    curve = curves.curve("x", [run], "test", "accuracy")
    assert (curve.epochs, curve.mean) == ([1, 2], [0.5, 0.8])


@pytest.mark.parametrize(
    "argument, message",
    [
        ("nowhere", "no such directory"),
        ("file", "is a file; name the run directory"),
        ("file/below", "no such directory"),
        ("empty", "holds no run"),
        ("x" * 300, "no such directory"),
        ("link", "no such directory"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path, capsys, good, argument, message):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "link")
    table, errors, _ = shown(tmp_path, capsys, tmp_path / argument, good)
    assert len(errors) == 1 and argument in errors[0] and message in errors[0]
    assert "uniform-seed0" in table
    with pytest.raises(UserError, match=message):
        shown(tmp_path, capsys, tmp_path / argument)


def test_several_of_which_none_is_left(tmp_path, capsys, broken):
    write("config.json", "[]")(broken)
    with pytest.raises(UserError, match="nothing of what was named can be shown"):
        shown(tmp_path, capsys, broken, tmp_path / "nowhere")
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_folder_of_runs_tells_each_damaged_one(tmp_path, capsys):
    for seed in range(4):
        folder = run_folder(tmp_path / "save", "cavl", seed, [0.5, 0.8])
        if seed in (1, 3):
            write("config.json", "{")(folder)
    table, errors, _ = shown(tmp_path, capsys, tmp_path / "save")
    assert [re.search(r"cavl-seed\d", told).group() for told in errors] == [
        "cavl-seed1",
        "cavl-seed3",
    ]
    assert re.findall(r"cavl-seed\d", table) == ["cavl-seed0", "cavl-seed2"]


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json"])
def test_a_file_that_may_not_be_read_is_one_line(tmp_path, capsys, good, broken, name, monkeypatch):
    def read_bytes(
        path: Path,
    ) -> bytes:  # the superuser, who runs tests in containers, may read everything
        if path == broken / name:
            raise PermissionError(13, "Permission denied", str(path))
        return path.open("rb").read()

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    table, errors, _ = shown(tmp_path, capsys, good, broken)
    assert len(errors) == 1 and f"{name}: cannot be read (Permission denied)" in errors[0]
    assert "uniform-seed0" in table


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, capsys, good, broken, monkeypatch):
    scandir = os.scandir

    def closed(path):
        if Path(path) == broken:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    _, errors, _ = shown(tmp_path, capsys, tmp_path)
    assert errors == [f"warning: {broken}: cannot be read (Permission denied)"]


@pytest.mark.parametrize(
    "name, told",
    [
        ("<b>bold", "&lt;b&gt;bold"),
        ('a"b', "a&quot;b"),
        (".hidden", ".hidden"),
        ("run.v1.2", "run.v1.2"),
        ("ünïcode ±", "ünïcode ±"),
        ("two\nlines", "two lines"),
        ("\x1b[31mred", "?[31mred"),
        (os.fsdecode(b"byte-\xff"), "byte-?"),
        ("&amp;", "&amp;amp;"),
        ("x" * 200, "x" * 200),
    ],
)
def test_strange_names_of_folders_are_shown_as_text(tmp_path, capsys, name, told):
    for seed in range(2):
        run_folder(tmp_path / name, "cavl", seed, [0.5, 0.8]).rename(
            tmp_path / name / f"{name[:100]}{seed}"
        )
    table, errors, html = shown(tmp_path, capsys, tmp_path / name)
    assert errors == [] and len(table.splitlines()) == 5 + 1
    assert told[:90].replace("two lines", "two\nlines") in html
    assert "<b>bold" not in html and "\x1b" not in table
    table.encode("utf-8")


def test_the_folder_one_stands_in_has_a_name_too(tmp_path, capsys, monkeypatch):
    folder = run_folder(tmp_path / "save", "cavl", 0, [0.5, 0.8])
    monkeypatch.chdir(folder)
    table, _, html = shown(tmp_path, capsys, Path())
    assert " cavl-seed0 " in table and "cavl-seed0: cavl" in html


def test_the_mean_does_not_count_damaged_values(tmp_path):
    for seed, values in enumerate(([0.4, 0.6], [0.6, 0.8])):
        run_folder(tmp_path, "cavl", seed, values)
    append("metrics.jsonl", line(epoch=2, accuracy=float("nan")))(tmp_path / "cavl-seed1")
    append("metrics.jsonl", line(epoch=2, accuracy="100"))(tmp_path / "cavl-seed1")
    own, faults = runs.find([tmp_path])
    assert len(faults) == 1
    assert curves.curve("x", own, "test", "accuracy").mean == pytest.approx([0.5, 0.7])


# --- other ---


def test_each_papers_runs_are_known_by_a_setting_that_only_it_has():
    assert set(runs.MARKS) == set(PAPERS)
    for paper, mark in runs.MARKS.items():
        assert [p for p in PAPERS if _mentions(p, mark.setting)] in ([paper], [])


def _mentions(paper: str, word: str) -> bool:
    return any(re.search(rf"\b{word}\b", path.read_text()) for path in (ROOT / paper).rglob("*.py"))


def program(tmp_path: Path, *folders: Path) -> subprocess.CompletedProcess:
    """compare.py as a program of its own, on a terminal that only knows ASCII."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        str(ROOT / "compare.py"),
        "--out",
        str(tmp_path / "page.html"),
        *map(str, folders),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_terminal_that_is_not_utf_8_is_no_error(tmp_path):
    done = program(tmp_path, run_folder(tmp_path / "ü", "cavl", 0, [0.5, 0.8]))
    assert (done.returncode, done.stderr) == (0, "")


def test_exit_status_and_lines_of_the_program(tmp_path, good, broken):
    write("config.json", "[]")(broken)
    done = program(tmp_path, good, broken)
    assert (
        done.returncode == 0
        and done.stderr.startswith("warning: ")
        and done.stderr.count("\n") == 1
    )
    done = program(tmp_path, broken)
    assert (
        done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    )
    assert done.stdout == ""


def test_a_cell_of_the_table_that_tells_runs_apart_is_not_cut():
    table = terminal.columns(("a", "b"), [(terminal.Whole("x" * 60), "y" * 60)])
    assert "x" * 60 in table and "y" * 34 not in table and "…" in table


# --- own runs over ours ---


def test_own_runs_are_drawn_over_ours_where_the_data_set_has_their_name(repository, tmp_path):
    run_folder(tmp_path / "save", "cavl", 7, [0.5, 0.9])
    own, _ = runs.find([tmp_path / "save"])
    (paper,) = records.load(repository, ["cavl"])
    (chart,) = curves.measured(paper, own)
    assert [line.label for line in chart.lines][:2] == ["cavl", "uniform"]
    assert chart.lines[2].label.startswith("yours: cavl-seed7")
    (without,) = curves.measured(paper)
    assert len(without.lines) == 2


def test_the_papers_number_is_a_line_across_the_chart(repository):
    paper_csv = repository / "cavl" / "results" / "paper.csv"
    results.write(paper_csv, [paper_row("CAVL", 95.0)], PAPER)
    (paper,) = records.load(repository, ["cavl"])
    (chart,) = curves.measured(paper)
    ((place, told),) = chart.across
    assert told == "paper: CAVL"
    last = {line.label: float(line.line.split()[-1].split(",")[1]) for line in chart.lines}
    assert last["cavl"] < float(place) < last["uniform"]  # 97 above 95 above 93
