"""The shared flags, the two-pass parse, and errors that are one line."""

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from common.cli import (
    FREE_SETTINGS,
    NonFiniteError,
    OneLineParser,
    UserError,
    add_shared_flags,
    parse_with_sample_defaults,
    positive_int,
    run_main,
    seed_list,
)
from common.data import CorruptImage
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
    ("text", "message"), [("", "integers"), ("0,", "integers"), ("0,-1", "integers from 0"), ("1,01", "each seed once")]
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
    assert [parser().parse_args(argv).resume for argv in ([], ["--resume"], ["--resume", "a.pt"])] == [None, "", "a.pt"]


@pytest.mark.parametrize("dash", ["-", "--"])
def test_one_dash_and_two_are_the_same(dash):
    args = parser().parse_args([f"{dash}seed", "7", f"{dash}output_dir", "x", f"{dash}sample", f"{dash}max_steps", "5"])
    assert (args.seed, args.output_dir, args.sample, args.max_steps) == (7, Path("x"), True, 5)


@pytest.mark.parametrize(
    "argv",
    [
        *(["--max_steps", "0"], ["--checkpoint_every", "-1"], ["--max_steps", "many"]),
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
    assert caught.value.code == 0 and "run (the same in all five papers)" in out and "(default: 250)" in out


def test_positive_int_names_the_value():
    assert positive_int("3") == 3
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1, not -4"):
        positive_int("-4")


def test_the_settings_that_design_frees_are_free():
    assert FREE_SETTINGS >= {
        *("output_dir", "resume", "overwrite", "max_steps", "checkpoint_every", "workers", "num_workers"),
        *("cpu", "device", "print_freq", "print_ratio"),
    }
    assert not FREE_SETTINGS & {"seed", "sample", "mixed_precision", "skip_corrupt", "lr", "epochs"}


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
@pytest.mark.parametrize("as_function", [False, True])
def test_sample_defaults_act_on_sample_runs_and_given_flags_win(argv, expected, as_function):
    defaults = {"epochs": 5, "bs": 32}
    chosen = (lambda first: {**defaults, "bs": 32 if first.sample else 0}) if as_function else defaults
    args = parse_with_sample_defaults(parser, argv, lambda args: args.sample, chosen)
    assert (args.epochs, args.bs) == expected


def test_the_plain_parser_keeps_the_originals_defaults_after_a_sample_run():
    parse_with_sample_defaults(parser, ["--sample"], lambda args: True, {"epochs": 5})
    assert parser().parse_args([]).epochs == 250


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
        (PermissionError(errno.EACCES, "Denied", "D/x"), 2, "error: D/x: Denied; check the permissions\n"),
    ],
)
def test_errors_end_in_one_line_and_their_status(error, status, text, capsys):
    def main() -> None:
        raise error

    assert ends(lambda: run_main(main), capsys) == (status, text)


@pytest.mark.parametrize("returned, status", [(None, 0), (0, 0), (1, 1)])
def test_the_main_functions_status_is_the_programs(returned, status, capsys):
    assert ends(lambda: run_main(lambda: returned), capsys) == (status, "")


@pytest.mark.parametrize("bug", [ZeroDivisionError(), OSError(errno.EPIPE, "Broken pipe")])
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

    assert ends(lambda: run_main(main), capsys) == (2, "error: some/image.png: unreadable image (cut short)\n")


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
    [("", 0, ""), ("sys.exit(143)", 143, ""), ("sys.exit()", 0, ""), ("raise UserError('no')", 2, "error: no\n")],
)
def test_one_of_several_processes_ends_without_teardown(processes, ending, status, error):
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END.format(ending=ending)],
        env={**os.environ, "WORLD_SIZE": str(processes)}, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    said = ["main", "exit functions", "torn down"][: 3 if processes == 1 else 2]
    assert (done.stdout.split("\n")[:-1], done.stderr, done.returncode) == (said, error, status)
