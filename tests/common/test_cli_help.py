"""--help of every script: groups, a line a flag or little more, units, choices, defaults."""

import argparse
import re
from functools import cache

import pytest

from calm.options_table import ACTS, PLACES, acts_in
from common.cli_help import WIDTH, ReadableHelp, metavar_of
from common.cli_parser import OneLineParser
from docs._ext.flags import parser_of

TRAINING = {
    "cavl/main.py": "mat",
    "oass/train_classification_with_puzzle_cTopk_w_ema.py": "all",
    "oass/train_classification_with_puzzle_max.py": "all",
    "calm/main.py": "all",
    "csl/train.py": "all",
    "mile/MILe.py": "mnist",
}
SCRIPTS = (
    *TRAINING,
    *("cavl/explain.py", "csl/infer.py", "csl/validate.py", "csl/src/models/utils/convert.py"),
    *("calm/eval_pixel_perturb.py", "calm/eval_cue_location.py", "calm/eval_wsol.py"),
    *("calm/explain.py", "calm/gallery.py", "calm/compare_methods.py", "calm/sample_check.py"),
    *("calm/eval_remove_classify.py", "calm/prepare_metadata.py", "calm/superclass.py"),
    *("oass/ablation.py", "oass/explain.py", "oass/inference_classification.py"),
    *("oass/prepare_voc.py", "mile/explain.py", "compare.py"),
    *("scripts/campaign.py", "scripts/reproduce.py", "docs/overview/__main__.py"),
    *("common/data.py", "common/export.py", "common/shards.py", "common/samples/__main__.py"),
)
LINES = 1.4  # a flag, on average


@cache
def parser(script: str) -> argparse.ArgumentParser:
    return parser_of(script)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def told(build: OneLineParser) -> dict[str, str]:
    """The help of each flag on one line, by its first name."""
    found: dict[str, str] = {}
    name = ""
    for line in build.format_help().splitlines():
        flag = re.match(r"  (-\S+)", line)
        if flag is not None:
            name = flag[1].rstrip(",")
            found[name] = ""
        if line.startswith("  ") and name:
            found[name] += f" {line.strip()}"
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_has_help(script):
    is_command = argparse._SubParsersAction  # its actions have help of their own
    for action in parser(script)._actions:
        assert action.help or isinstance(action, is_command), action.dest


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_fits_and_says_no_none(script):
    text = parser(script).format_help()
    assert max(map(len, text.splitlines())) <= WIDTH
    assert not re.search(r"default:? (None|False|True|\[\])", text)
    assert "==SUPPRESS==" not in text
    if len(parser(script)._actions) > 20:
        usage = text.split("\n\n")[0]
        assert "[FLAG ...]" in usage
        assert usage.count("\n") == 0
        flags = re.findall(r"^  -", text, re.M)
        lines = re.findall(r"^  .", text, re.M)
        assert len(lines) / len(flags) < LINES


@pytest.mark.parametrize(("script", "sample"), TRAINING.items())
def test_defaults_that_the_sample_changes_are_named(script, sample):
    build = parser(script)
    layer = build.sample[sample]
    texts = told(build)
    named = 0
    for action in build._actions:
        value = layer.get(action.dest)
        if action.dest in layer and value != action.default and "sample:" not in action.help:
            forms = (*action.option_strings, f"--[no-]{action.dest}")
            name = next(flag for flag in forms if flag in texts)
            assert "on the sample" in texts[name], name
            named += 1
    assert named >= 2
    assert set(layer) <= {action.dest for action in build._actions}


@pytest.mark.parametrize("script", [name for name in PLACES if name != "compare_methods"])
def test_a_script_of_calm_tells_its_own_flags(script):
    build = parser(f"calm/{script}.py")
    hidden = {action.dest for action in build._actions if action.help is argparse.SUPPRESS}
    own = {action.dest for action in build._actions} & set(ACTS)
    assert hidden == {flag for flag in own if not acts_in(flag, script)}
    assert "--seed " in build.format_help()
    assert len(hidden) > 20


def test_flags_that_are_not_told_are_taken():
    build = parser("calm/eval_pixel_perturb.py")
    assert "norm_type" not in build.format_help()
    assert build.parse_args(["--norm_type=clipping"]).norm_type == "clipping"


# ---- the mechanism ----


def toy(**sample) -> OneLineParser:
    build = OneLineParser(prog="toy.py")
    build.add_argument("--epochs", type=int, default=250, help="passes")
    build.add_argument("--rate", type=float, default=0.0, help="of learning")
    build.add_argument("--out_path", default=None, help="a file")
    build.add_argument("-w", "--wide", "-wide", default="x", help="(default: as wide as it is)")
    build.add_argument(
        "--kind", choices=("longer", "names", "than", "fit"), default="fit", help="k"
    )
    build.add_argument("--op", choices=("a", "b"), default="a", help="one of 100 %%")
    build.add_argument("--on", action=argparse.BooleanOptionalAction, default=True, help="switch")
    build.add_argument("--last", default=5, help="a number; the default follows --epochs")
    build.tell_sample(**sample)
    return build


def test_defaults_choices_and_samples():
    layers = {"digits": {"epochs": 5, "rate": 0.1}, "birds": {"epochs": 5, "out_path": "x"}}
    texts = told(toy(**layers))
    assert texts["--epochs"].endswith("passes (default 250; 5 on the sample)")
    assert texts["--rate"].endswith("of learning (default 0; on the sample 0.1 (digits))")
    assert texts["--out_path"].endswith("a file (on the sample x (birds))")
    assert texts["-w"].endswith("(default: as wide as it is)")
    assert texts["--kind"].startswith(" --kind NAME")
    assert texts["--kind"].endswith("k (longer, names, than, fit; default fit)")
    assert texts["--op"].startswith(" --op {a,b}")
    assert texts["--op"].endswith("one of 100 % (default a)")
    assert texts["--[no-]on"].endswith("switch (default yes)")
    assert texts["--last"].endswith("the default follows --epochs")


def test_a_value_has_a_short_name():
    names = {action.dest: metavar_of(action) for action in toy()._actions if action.nargs != 0}
    short = {"epochs": "N", "rate": "X", "out_path": "PATH", "kind": "NAME", "op": "{a,b}"}
    assert short.items() <= names.items()


def test_a_narrow_terminal_is_narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, toy().format_help().splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "300")
    assert ReadableHelp("x")._width == WIDTH
