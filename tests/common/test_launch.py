"""What `accelerate launch` asks for is a flag of ours, or is refused by name."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import launch
from common.cli import (
    OneLineParser,
    UserError,
    add_shared_flags,
    add_training_flags,
    parse_given,
    settle,
)
from common.launch import REFUSED, asked_of_us

ROOT = Path(__file__).resolve().parents[2]
USUAL = {  # what the launcher sets for a plain start
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_GRADIENT_CLIPPING": "none",
}
ASKS = [
    ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed_precision", "bf16"),
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "grad_accum", 4),
    ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "compile", True),
    ("ACCELERATE_USE_CPU", "True", "cpu", True),
]


def settings_of(*argv: str, trains: bool = True) -> tuple[argparse.Namespace, set[str]]:
    parser = OneLineParser(prog="train.py")
    group = add_shared_flags(parser)
    if trains:
        add_training_flags(group)
    defaults, given = parse_given(parser, argv)
    return settle(defaults, given), set(given)


@pytest.fixture(autouse=True)
def plain_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ACCELERATE_"):
            monkeypatch.delenv(name)


def test_a_plain_launch_asks_for_nothing():
    assert asked_of_us(USUAL) == {}
    assert asked_of_us({}) == {}


@pytest.mark.parametrize(("variable", "value", "name", "set_to"), ASKS)
def test_what_a_launch_asks_for_counts_as_given(monkeypatch, variable, value, name, set_to):
    monkeypatch.setenv(variable, value)
    args, given = settings_of("--seed", "3")
    assert getattr(args, name) == set_to
    assert given == {"seed", name}


def test_a_script_without_the_flag_does_not_get_it(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    args, given = settings_of(trains=False)
    assert not hasattr(args, "grad_accum")
    assert given == set()


@pytest.mark.parametrize(
    ("variable", "value", "argv"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", ["--mixed_precision", "no"]),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", ["--grad_accum", "2"]),
    ],
)
def test_a_contradiction_is_refused(monkeypatch, variable, value, argv):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"^{variable} asks for {value}, {argv[0]} for {argv[1]};"):
        settings_of(*argv)
    assert settings_of(argv[0], value)[0]  # the same is no contradiction


def test_the_launchers_own_no_is_no_contradiction(monkeypatch):
    for name, value in USUAL.items():
        monkeypatch.setenv(name, value)
    args, _ = settings_of("--mixed_precision", "bf16", "--grad_accum", "2", "--compile")
    assert (args.mixed_precision, args.grad_accum, args.compile) == ("bf16", 2, True)


@pytest.mark.parametrize("variable", REFUSED)
def test_what_no_script_has_is_refused_by_name(variable):
    name, advice = REFUSED[variable]
    with pytest.raises(UserError) as caught:
        asked_of_us({variable: "true"})
    assert str(caught.value) == f"{variable}: {name} is not supported; {advice}"
    assert asked_of_us({variable: "false"}) == {}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp8"),
        ("ACCELERATE_FP8_BACKEND", "TE"),
        ("ACCELERATE_GRADIENT_CLIPPING", "1.0"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "0"),
        ("ACCELERATE_DYNAMO_BACKEND", "CUDAGRAPHS"),
        ("ACCELERATE_DYNAMO_MODE", "max-autotune"),
    ],
)
def test_a_value_that_no_script_has_is_refused_by_name(variable, value):
    with pytest.raises(UserError, match=f"^{variable}={value}: "):
        asked_of_us({**USUAL, variable: value}) if value.islower() else _lowered(variable, value)


def _lowered(variable: str, value: str) -> None:
    """Values of accelerate's enumerations are told in small letters."""
    try:
        asked_of_us({**USUAL, variable: value})
    except UserError as error:
        raise UserError(str(error).replace(value.lower(), value)) from error


def test_the_help_of_a_script_does_not_look_at_the_launch(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SystemExit) as caught:
        settings_of("--help")
    assert caught.value.code == 0
    assert launch.given_by_launch({"epochs": 1}, {}) == {}


def test_a_launch_that_is_refused_ends_with_status_2_before_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "cavl" / "main.py"), "--sample"],
        cwd=tmp_path,
        env={**os.environ, "ACCELERATE_USE_FSDP": "true"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: ACCELERATE_USE_FSDP: FSDP is not supported; these networks fit on one GPU;"
        " use MULTI_GPU (--multi_gpu)\n"
    )


# --- the launcher itself ---


CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: {kind}
mixed_precision: bf16
num_machines: 1
num_processes: 2
machine_rank: 0
main_process_port: 0
use_cpu: {cpu}
"""


def launched(folder: Path, config: str, *more: str) -> subprocess.CompletedProcess:
    """cavl's script, started by `accelerate launch` with a file of `accelerate config`."""
    path = folder / "config.yaml"
    path.write_text(config)
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path)]
    script = [str(ROOT / "cavl" / "main.py"), "--sample", "--cpu", "--max_steps", "2"]
    return subprocess.run(
        [*accelerate, *script, "--output_dir", str(folder / "run"), *more],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_file_of_accelerate_config_is_honoured(tmp_path):
    done = launched(tmp_path, CONFIG.format(kind="MULTI_GPU", cpu="false"))
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["mixed_precision"] == "bf16"
    assert config["hardware"]["processes"] == 2
    assert config["hardware"]["mixed_precision"] == "bf16"


@pytest.mark.slow
def test_a_flag_that_contradicts_the_file_is_refused(tmp_path):
    config = CONFIG.format(kind="NO", cpu="true").replace("processes: 2", "processes: 1")
    done = launched(tmp_path, config, "--mixed_precision", "no")
    assert done.returncode != 0
    told = "error: ACCELERATE_MIXED_PRECISION asks for bf16, --mixed_precision for no; leave one"
    assert told in done.stderr
