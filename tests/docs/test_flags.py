"""The reference of flags is made from the parsers of the scripts."""

import argparse
import signal

import pytest

from docs._ext.flags import groups_of, parser_of
from docs._ext.places import ROOT
from tests.e2e.printed import told_flags

SCRIPT = """
import argparse
import sys

parser = argparse.ArgumentParser("toy.py", description="A toy.")
parser.add_argument("place", help="where")
group = parser.add_argument_group("method")
group.add_argument("-r", "--rate", type=float, default=0.1, metavar="R", help="100 %% is all")
group.add_argument("--kind", choices=["a", "b"], help="which")
group.add_argument("--fast", action="store_true")
group.add_argument("--key", required=True, help="of the row")
group.add_argument("--hidden", help=argparse.SUPPRESS)
parser.parse_args()
raise SystemExit("ran on")
"""


def test_flags_come_in_groups_with_help_and_default(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(SCRIPT)
    parser = parser_of(str(path))
    assert parser.description == "A toy."
    groups = dict(groups_of(parser))
    assert list(groups) == ["positional arguments", "method"]
    told = [(flag.written, flag.help, flag.default) for flag in groups["method"]]
    assert told == [
        ("-r, --rate R", "100 % is all", "0.1"),
        ("--kind {a,b}", "which", ""),
        ("--fast", "", ""),
        ("--key KEY", "of the row", "required"),
    ]
    assert groups["positional arguments"][0].written == "place"


def test_a_default_within_the_repository_is_told_from_its_root():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=ROOT / "compare.html")
    parser.add_argument("--root", default=ROOT)
    (_, flags) = next(groups_of(parser))
    assert [flag.default for flag in flags] == ["compare.html", "."]


def test_an_action_of_a_script_has_its_own_flags():
    groups = dict(groups_of(parser_of("common/shards.py", "pack")))
    assert [flag.written for flag in groups["positional arguments"]] == ["FOLDER|CSV", "OUT"]
    assert [flag.written for flag in groups["options"]] == ["--shard_mb SHARD_MB"]


def test_a_script_without_help_is_told(tmp_path):
    path = tmp_path / "dumb.py"
    path.write_text("pass\n")
    with pytest.raises(LookupError, match=r"dumb.py has no --help"):
        parser_of(str(path))


@pytest.mark.parametrize("script", ["cavl/main.py", "csl/train.py", "mile/MILe.py"])
def test_every_flag_that_help_tells_is_listed(script):
    parser = parser_of(script)
    listed = " ".join(flag.written for _, flags in groups_of(parser) for flag in flags)
    of_parser = set()
    for action in parser._actions:
        of_parser |= told_flags(" ".join(action.option_strings))
    assert told_flags(listed) == of_parser - {"-h", "--help", "--version"}


def test_the_signals_of_this_process_stay():
    before = signal.getsignal(signal.SIGINT)
    parser_of("cavl/main.py")
    assert signal.getsignal(signal.SIGINT) is before
