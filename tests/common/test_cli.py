"""The shared flags and their types, what the user set, and errors that are one line."""

import argparse
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from common.cli import (
    FREE_SETTINGS,
    NonFiniteError,
    OneLineParser,
    UserError,
    add_shared_flags,
    folder_path,
    image_size,
    non_negative_int,
    number,
    parse_given,
    parse_or_exit,
    positive_int,
    readable_file,
    run_main,
    seed,
    seed_list,
    settle,
    whole,
)
from common.images import CorruptImage
from common.loading import seed_of
from common.rundir import seed_everything
from tests.common.runs import ROOT


def parser(**kwargs: object) -> OneLineParser:
    made = OneLineParser(prog="train.py")
    made.add_argument("--epochs", type=int, default=250, help="passes over the data")
    made.add_argument("--bs", type=int, default=64, help="batch size")
    add_shared_flags(made, **kwargs)
    return made


def ends(function, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Exit status and stderr."""
    with pytest.raises(SystemExit) as caught:
        function()
    return caught.value.code, capsys.readouterr().err


# --- flags ---


def test_a_seed_list_is_read_in_its_order():
    assert seed_list("3,0, 12") == [3, 0, 12]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "integers"), ("0,", "integers"), ("0,-1", "integers from 0"), ("1,01", "each seed once")],
)
def test_a_bad_seed_list_is_refused(text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        seed_list(text)


def test_every_shared_flag_of_the_design_is_there_with_its_default():
    args = vars(parser().parse_args([]))
    assert {name: args[name] for name in args if name not in ("epochs", "bs")} == {
        **{"seed": 0, "output_dir": None, "resume": None, "sample": False, "max_steps": None},
        **{"checkpoint_every": None, "mixed_precision": None, "cpu": False, "overwrite": False},
        **{"skip_corrupt": False},
    }


def test_calm_keeps_no_seed_and_evaluation_has_no_skip_corrupt():
    args = parser(seed=None, skip_corrupt=False).parse_args([])
    assert args.seed is None and "skip_corrupt" not in args


def test_resume_alone_with_a_path_and_absent_are_three_things():
    assert [
        parser().parse_args(argv).resume for argv in ([], ["--resume"], ["--resume", "a.pt"])
    ] == [None, "", "a.pt"]


def test_resume_takes_a_path_in_the_users_home(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parser().parse_args(["--resume=~/a.pt"]).resume == f"{tmp_path}/a.pt"
    status, err = ends(
        lambda: parser().parse_args(["--resume", "~nobody-of-that-name/a.pt"]), capsys
    )
    assert status == 2 and "there is no user 'nobody-of-that-name'" in err


@pytest.mark.parametrize("dash", ["-", "--"])
def test_one_dash_and_two_are_the_same(dash):
    args = parser().parse_args(
        [f"{dash}seed", "7", f"{dash}output_dir", "x", f"{dash}sample", f"{dash}max_steps", "5"]
    )
    assert (args.seed, args.output_dir, args.sample, args.max_steps) == (7, Path("x"), True, 5)


@pytest.mark.parametrize(
    "argv",
    [
        *(
            ["--max_steps", "0"],
            ["--checkpoint_every", "0"],
            ["--checkpoint_every", "-1"],
            ["--max_steps", "many"],
        ),
        *(["--mixed_precision", "fp8"], ["--unknown"], ["--epo", "3"], ["--seed"]),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_status_2(argv, capsys):
    status, err = ends(lambda: parser().parse_args(argv), capsys)
    assert status == 2
    assert err.startswith("train.py: error: ") and err.count("\n") == 1 and argv[0] in err


def test_help_shows_groups_and_defaults(capsys):
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["--help"])
    out = capsys.readouterr().out
    assert (
        caught.value.code == 0
        and "run (the same in all five papers)" in out
        and "(default 250)" in out
    )


def test_positive_int_names_the_value():
    assert positive_int("3") == 3
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1, not -4"):
        positive_int("-4")


def test_the_settings_that_design_frees_are_free():
    assert FREE_SETTINGS >= {
        *(
            "output_dir",
            "resume",
            "overwrite",
            "max_steps",
            "checkpoint_every",
            "workers",
            "num_workers",
        ),
        *("cpu", "device", "print_freq", "print_ratio"),
    }
    assert not FREE_SETTINGS & {"seed", "sample", "mixed_precision", "skip_corrupt", "lr", "epochs"}


# --- types ---


def refused(convert, text: str) -> str:
    """The message of an argparse type."""
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        convert(text)
    return str(caught.value)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "NaN", "1e999"])
def test_a_number_is_finite(text):
    assert refused(number(), text) == f"must be a finite number, not {text}"


@pytest.mark.parametrize(
    ("convert", "text", "message"),
    [
        (number(), "many", "must be a number, not 'many'"),
        (number(0), "-1", "must not be negative, not -1.0"),
        (number(above=0), "0", "must be above 0, not 0.0"),
        (number(0, 1), "1.5", "must be at most 1, not 1.5"),
        (number(0, below=1), "1", "must be below 1, not 1.0"),
        (whole(), "1.5", "must be a whole number, not '1.5'"),
        (whole(2, 9), "1", "must be at least 2, not 1"),
        (whole(2, 9), "10", "must be at most 9, not 10"),
        (positive_int, "0", "must be at least 1, not 0"),
        (non_negative_int, "-1", "must not be negative, not -1"),
        (image_size, "0", "must be at least 1, not 0"),
        (image_size, "16385", "must be at most 16384, not 16385"),
        (seed, "-1", "must not be negative, not -1"),
        (seed, str(2**63), f"must be at most {2**63 - 1}, not {2**63}"),
        (seed, "9" * 5000, f"must be a whole number, not '{'9' * 30}...'"),
    ],
)
def test_a_value_out_of_bounds_says_the_bound(convert, text, message):
    assert refused(convert, text) == message


def test_values_at_the_bounds_are_taken():
    assert [number(0, 1)(text) for text in ("0", "1")] == [0.0, 1.0]
    assert number(above=0, below=1)("1e-9") == 1e-9
    assert [whole(2, 9)(text) for text in ("2", "9")] == [2, 9]
    assert seed(str(2**63 - 1)) == 2**63 - 1 and image_size("16384") == 16384


def test_the_largest_seed_is_taken_by_everything_that_is_seeded():
    largest = 2**63 - 1
    seed_everything(largest)
    assert 0 <= seed_of(largest, 3) < 2**63
    torch.manual_seed(largest)


@pytest.mark.parametrize("value", ["-1", str(2**63), "1.5", "nan"])
def test_a_bad_seed_is_one_line(value, capsys):
    status, err = ends(lambda: parser().parse_args(["--seed", value]), capsys)
    assert status == 2 and err.count("\n") == 1 and "--seed" in err and value in err


def test_a_readable_file_is_there_and_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "list.txt").write_text("a")
    os.mkfifo(tmp_path / "pipe")
    assert readable_file("~/list.txt") == tmp_path / "list.txt"
    assert refused(readable_file, str(tmp_path)) == f"{tmp_path}: a folder, expected a file"
    assert (
        refused(readable_file, str(tmp_path / "pipe"))
        == f"{tmp_path}/pipe: a FIFO, expected a file"
    )
    assert refused(readable_file, "/dev/null") == "/dev/null: a device, expected a file"
    assert refused(readable_file, str(tmp_path / "no")) == f"{tmp_path}/no: no such file"
    assert refused(readable_file, "~nobody-of-that-name/x").endswith(
        "there is no user 'nobody-of-that-name'"
    )
    assert refused(readable_file, "") == "the path is empty"


def test_a_folder_may_be_new_but_not_something_else(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").write_text("a")
    os.mkfifo(tmp_path / "pipe")
    assert folder_path("~/new/one") == tmp_path / "new" / "one"
    assert folder_path(str(tmp_path)) == tmp_path
    assert (
        refused(folder_path, str(tmp_path / "file"))
        == f"{tmp_path}/file: a file, expected a folder"
    )
    assert (
        refused(folder_path, str(tmp_path / "pipe"))
        == f"{tmp_path}/pipe: a FIFO, expected a folder"
    )
    assert refused(folder_path, "~nobody-of-that-name").endswith(
        "there is no user 'nobody-of-that-name'"
    )


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_an_output_dir_that_is_no_folder_is_refused_by_the_parser(tmp_path, kind, capsys):
    (tmp_path / "file").write_text("a")
    os.mkfifo(tmp_path / "pipe")
    status, err = ends(lambda: parser().parse_args(["--output_dir", str(tmp_path / kind)]), capsys)
    assert (
        status == 2
        and err.count("\n") == 1
        and "--output_dir" in err
        and "expected a folder" in err
    )


# --- what the user set ---


def rich_parser() -> OneLineParser:
    """A parser with every kind of argument that the scripts use."""
    made = OneLineParser(prog="rich.py")
    made.add_argument("picture", nargs="?", type=Path, default="none.png")
    made.add_argument("--epochs", type=int, default="30", help="a text that its type converts")
    made.add_argument("--checkpoint", type=Path, required=True)
    made.add_argument("--nesterov", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument("--cpu", action="store_true")
    made.add_argument("--name", action="append", default=None)
    made.add_argument("--data", nargs="?", const="here", default="there")
    one = made.add_mutually_exclusive_group(required=True)
    one.add_argument("--left", type=int)
    one.add_argument("--right", type=int)
    made.set_defaults(epochs="40", hidden=7)
    return made


REQUIRED = ["--checkpoint", "a.pt", "--left", "1"]


def test_what_is_given_is_known_also_where_it_equals_the_default():
    argv = [*REQUIRED, "--epochs=40", "--no-nesterov", "--name", "a", "--name", "b", "--data"]
    defaults, given = parse_given(rich_parser, argv)
    assert defaults == {
        **{
            "picture": Path("none.png"),
            "epochs": 40,
            "checkpoint": None,
            "nesterov": True,
            "cpu": False,
        },
        **{"name": None, "data": "there", "left": None, "right": None, "hidden": 7},
    }
    assert given == {
        **{"checkpoint": Path("a.pt"), "left": 1, "epochs": 40, "nesterov": False},
        **{"name": ["a", "b"], "data": "here"},
    }
    assert parse_given(rich_parser, ["x.png", *REQUIRED])[1]["picture"] == Path("x.png")


def test_the_arguments_are_the_command_lines_where_none_are_handed_over(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rich.py", *REQUIRED, "--cpu"])
    assert parse_given(rich_parser)[1] == {"checkpoint": Path("a.pt"), "left": 1, "cpu": True}


def test_a_parser_that_is_shared_comes_back_as_it_was():
    made = rich_parser()
    before = vars(made.parse_args(REQUIRED))
    parse_given(made, [*REQUIRED, "--epochs", "1"])
    assert vars(made.parse_args(REQUIRED)) == before
    with pytest.raises(SystemExit):
        made.parse_args([])  # what was required is required


@pytest.mark.parametrize(
    "argv", [[], ["--left", "1"], ["--checkpoint", "a"], [*REQUIRED, "--epochs", "x"]]
)
def test_parse_given_refuses_as_the_parser_does(argv, capsys):
    status, err = ends(lambda: parse_given(rich_parser, argv), capsys)
    assert status == 2 and err.startswith("rich.py: error: ") and err.count("\n") == 1


def test_help_has_its_defaults_through_parse_given(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_given(rich_parser, ["--help"])
    assert caught.value.code == 0 and "(default 40)" in capsys.readouterr().out


def test_given_wins_over_layers_and_later_layers_over_earlier_ones():
    defaults = {"a": 0, "b": 0, "c": 0, "d": 0}
    args = settle(defaults, {"d": 0}, {"b": 1, "c": 1, "d": 1}, {"c": 2, "d": 2})
    assert (args.a, args.b, args.c, args.d) == (0, 1, 2, 0)
    assert defaults == {"a": 0, "b": 0, "c": 0, "d": 0}


def test_a_layer_with_an_unknown_name_is_a_mistake_of_the_program():
    with pytest.raises(ValueError, match="no such setting: epohcs"):
        settle({"epochs": 1}, {}, {"epohcs": 2})


# --- sample defaults ---


@pytest.mark.parametrize(
    "argv, expected",
    [
        ([], (250, 64)),
        (["--sample"], (5, 32)),
        (["--sample", "--epochs", "9"], (9, 32)),
        (["--sample", "--epochs", "250"], (250, 32)),  # given, though it is the plain default
        (["--epochs", "9"], (9, 64)),
    ],
)
def test_sample_defaults_act_on_sample_runs_and_given_flags_win(argv, expected):
    defaults, given = parse_given(parser, argv)
    is_sample_run = settle(defaults, given).sample
    args = settle(defaults, given, {"epochs": 5, "bs": 32} if is_sample_run else {})
    assert (args.epochs, args.bs) == expected
    assert set(given) == {flag.removeprefix("--") for flag in argv if flag.startswith("--")}


# --- endings ---


@pytest.mark.parametrize(
    "error, status, text",
    [
        (UserError("a.pt: no\nsuch   file"), 2, "error: a.pt: no such file\n"),
        (CorruptImage("b.png: unreadable"), 2, "error: b.png: unreadable\n"),
        (NonFiniteError("step 3: the loss is nan"), 1, "error: step 3: the loss is nan\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (
            OSError(errno.ENOSPC, "No space left", "m.jsonl"),
            2,
            "error: m.jsonl: No space left; free space and go on with --resume\n",
        ),
        (
            PermissionError(errno.EACCES, "Denied", "D/x"),
            2,
            "error: D/x: Denied; check the permissions\n",
        ),
        (
            OSError(errno.EIO, "Input/output error", "a.csv"),
            2,
            "error: a.csv: Input/output error\n",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file", b"a.csv"),
            2,
            "error: a.csv: No such file\n",
        ),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", Path("D")),
            2,
            "error: D: Is a directory\n",
        ),
        (OSError(12345, "Something new", "D/x"), 2, "error: D/x: Something new\n"),
        (
            OSError(errno.EXDEV, "Cross-device link", "a", None, "b"),
            2,
            "error: a: Cross-device link\n",
        ),
        (
            OSError(errno.ENOSPC, "No space"),
            2,
            "error: writing: No space; free space and go on with --resume\n",
        ),
        (OSError(errno.EIO, "Input/output error"), 2, "error: writing: Input/output error\n"),
        (
            BrokenPipeError(errno.EPIPE, "Broken pipe"),
            2,
            "error: the output is closed: Broken pipe\n",
        ),
    ],
)
def test_errors_end_in_one_line_and_their_status(error, status, text, capsys):
    def main() -> None:
        raise error

    assert ends(lambda: run_main(main), capsys) == (status, text)
    assert ends(lambda: parse_or_exit(lambda argv: main()), capsys) == (status, text)


@pytest.mark.parametrize("returned, status", [(None, 0), (0, 0), (1, 1)])
def test_the_main_functions_status_is_the_programs(returned, status, capsys):
    assert ends(lambda: run_main(lambda: returned), capsys) == (status, "")


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_with_a_path_is_one_line_whatever_its_number(number, capsys):
    def main() -> None:
        raise OSError(number, os.strerror(number), "some/file")

    status, err = ends(lambda: run_main(main), capsys)
    assert (
        status == 2
        and err.startswith(f"error: some/file: {os.strerror(number)}")
        and err.count("\n") == 1
    )


@pytest.mark.parametrize(
    "bug",
    [
        ZeroDivisionError(),
        OSError("no number and no path"),
        OSError(errno.EBADF, "Bad file descriptor"),
    ],
)
def test_a_bug_keeps_its_traceback(bug):
    def main() -> None:
        raise bug

    with pytest.raises(type(bug)):
        run_main(main)


class Broken:
    """A data set with an unreadable image."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 2:
            raise CorruptImage("some/image.png: unreadable image (cut short)")
        return index


def test_an_error_in_a_loader_worker_is_one_line_too(capsys):
    def main() -> None:
        list(DataLoader(Broken(), num_workers=1))

    assert ends(lambda: run_main(main), capsys) == (
        2,
        "error: some/image.png: unreadable image (cut short)\n",
    )


class Denied(Broken):
    """A data set with a file that may not be read."""

    def __getitem__(self, index: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "some/image.png")


def test_an_error_of_the_system_in_a_loader_worker_is_one_line_too(capsys):
    def main() -> None:
        list(DataLoader(Denied(), num_workers=1))

    told = "error: [Errno 13] Permission denied: 'some/image.png'\n"
    assert ends(lambda: run_main(main), capsys) == (2, told)


@pytest.mark.slow
def test_a_reader_that_goes_away_is_one_line(tmp_path):
    code = "from common.cli import run_main\n"
    code += "run_main(lambda: [print('x' * 1000, flush=True) for _ in range(1000)] and 0)"
    script = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    script.stdout.readline()
    script.stdout.close()
    err = script.stderr.read()
    assert (script.wait(60), err) == (2, "error: the output is closed: Broken pipe\n")


AT_THE_END = """
import atexit, sys
from common.cli import UserError, run_main

class Torn:
    def __del__(self):
        print("torn down", flush=True)

def main():
    print("main")
    {ending}

kept = Torn()
atexit.register(print, "exit functions")
run_main(main)
"""


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("ending", "status", "error"),
    [
        ("", 0, ""),
        ("sys.exit(143)", 143, ""),
        ("sys.exit()", 0, ""),
        ("raise UserError('no')", 2, "error: no\n"),
    ],
)
def test_one_of_several_processes_ends_without_teardown(processes, ending, status, error):
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END.format(ending=ending)],
        env={**os.environ, "WORLD_SIZE": str(processes)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = ["main", "exit functions", "torn down"][: 3 if processes == 1 else 2]
    assert (done.stdout.split("\n")[:-1], done.stderr, done.returncode) == (said, error, status)


def test_parse_or_exit_returns_the_settings_of_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rich.py", *REQUIRED, "--cpu"])
    assert parse_or_exit(lambda argv: rich_parser().parse_args(argv)).cpu


@pytest.mark.parametrize(("argv", "status"), [(["--nonsense"], 2), (["--help"], 0)])
def test_parse_or_exit_ends_as_the_parser_does(monkeypatch, capsys, argv, status):
    monkeypatch.setattr(sys, "argv", ["rich.py", *REQUIRED, *argv])
    assert ends(lambda: parse_or_exit(rich_parser().parse_args), capsys)[0] == status


def test_parse_or_exit_leaves_a_mistake_in_the_program_its_traceback():
    with pytest.raises(ZeroDivisionError):
        parse_or_exit(lambda argv: 1 // 0)


# --- help and versions ---


def test_versions_are_told_without_importing_torch():
    code = (
        "import sys; from common.cli_parser import OneLineParser\n"
        "try:\n    OneLineParser().parse_args(['--version'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(
        r"weak-supervision-reproductions \S+ \(Python \S+, torch \S+, torchvision \S+,"
        r" accelerate \S+\)\n",
        done.stdout,
    )


def test_help_says_no_default_where_there_is_none():
    parser = OneLineParser(prog="x.py")
    parser.add_argument("--none", default=None, help="a file")
    parser.add_argument("--off", action="store_true", help="a switch")
    parser.add_argument("--five", default=5, help="a number")
    parser.add_argument("--own", default=5, help="a number; the default follows --five")
    text = parser.format_help()
    assert "None" not in text
    assert "False" not in text
    assert text.count("(default 5)") == 1
