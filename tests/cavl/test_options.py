"""Help, a mistyped flag and a missing path are answered before torch and the like are imported."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import cavl
from cavl import options
from cavl.options import build_parser, parse
from common.cli import UserError
from tests.cavl.runs import SAMPLE
from tests.heavy import HEAVY

FOLDER = Path(cavl.__file__).parent

PROGRAM = """
import atexit, runpy, sys
atexit.register(lambda: print("heavy:", *sorted(set({heavy!r}) & set(sys.modules))))
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["main.py", "--help"], 0, "usage: main.py"),
        (["main.py", "-epp", "3"], 2, "-epp"),
        (["main.py", "-ds", "svhn"], 2, "invalid choice: 'svhn'"),
        (["main.py", "-ds", "lost", "--data_dir", "/nowhere"], 2, "/nowhere does not exist"),
        (["main.py", "--sample", "-q", "0.3"], 2, "-q is for -partial_type fps, not uss"),
        (["explain.py", "--help"], 0, "usage: explain.py"),
        (["explain.py", "--run", ".", "--image", "none.png"], 2, "none.png: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answers_that_need_no_torch_come_without_it(argv, status, message):
    program = PROGRAM.format(heavy=HEAVY, argv=argv)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert message in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_settings_say_what_was_given_and_where_the_data_are():
    settings = parse(["--sample", "-lr", "0.001", "-ep", "3"])
    assert settings.given == {"sample", "lr", "ep"}
    assert settings.location.is_sample and settings.location.path.is_dir()
    assert (settings.args.ep, settings.args.lr) == (3, 0.001)


def test_plain_parser_keeps_the_references_defaults():
    args = build_parser().parse_args([])
    expected = dict(
        lr=1e-3, bs=64, ds="mnist", mo="mlp", ep=250, wd=1e-3, seed=0, gpu="0", op="adam", ca=None
    )
    assert {k: getattr(args, k) for k in expected} == expected
    args = parse([*SAMPLE]).args
    assert (args.method, args.partial_type, args.cav, args.mask, args.cav_forward) == (
        *("cavl", "uss", "logit", "candidates", "after"),
    )


def test_one_dash_equals_two_and_given_flags_win_over_the_samples():
    assert (
        build_parser().parse_args(["-ep", "3"]).ep
        == build_parser().parse_args(["--ep", "3"]).ep
        == 3
    )
    assert parse([*SAMPLE]).args.ep == 60
    assert parse([*SAMPLE, "-ep", "250"]).args.ep == 250


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["-q", "0.5"], "-q is for -partial_type fps, not uss"),
        (["-depth", "8"], "-depth is for -mo resnet, not mlp"),
        (["-ds", "cifar100", "-folds", "3"], "-folds 3: cifar100 has a test part of its own"),
    ],
)
def test_a_mistake_is_told_before_a_download(monkeypatch, flags, told):
    def locate(*_args, **_kwargs):
        raise AssertionError("the set is looked for")

    monkeypatch.setattr(options, "locate_dataset", locate)
    with pytest.raises(UserError, match=told):
        parse(flags)


def test_what_only_the_sample_can_do_waits_for_it(monkeypatch):
    there = SimpleNamespace(is_sample=True)
    monkeypatch.setattr(options, "locate_dataset", lambda *_, **__: there)
    settings = parse(["-ds", "cifar10", "-depth", "14"])
    assert settings.location is there
    assert (settings.args.mo, settings.args.depth) == ("resnet", 14)
