"""What tests of runs compare: everything in a run directory but the time that it took."""

import json
from pathlib import Path

import pytest

from common import checkpoint
from common.run import Run, start_run
from common.rundir import make_accelerator
from tests.common.toy import EPOCHS, STEPS, settings
from tests.equality import same

ROOT = Path(__file__).resolve().parents[2]
PER_EPOCH = STEPS // EPOCHS


def strict(text: str) -> dict:
    """JSON without NaN and Infinity, which the standard does not know."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def state(folder: Path, name: str = "last") -> dict:
    """A checkpoint without the time that the run took."""
    saved = checkpoint.load(folder / "checkpoints" / f"{name}.pt")
    saved["progress"].pop("seconds")
    return saved


def summary(folder: Path) -> dict:
    """summary.json without the two figures that need not be reproduced."""
    found = strict((folder / "summary.json").read_text())
    assert found.pop("wall_seconds") > 0 and found.pop("images_per_second") > 0
    return found


def assert_equal_runs(one: Path, two: Path) -> None:
    """Bit-equal weights and states, byte-equal metrics, equal summaries."""
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    assert same(state(one), state(two))
    assert same(state(one, "best"), state(two, "best"))
    assert summary(one) == summary(two)


def evaluation(folder: Path, **changed: object) -> Run:
    """A run without a training loop."""
    args = settings(folder, **changed)
    return start_run(args, "default", make_accelerator(args))
