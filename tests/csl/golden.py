"""Access to the outputs of the reference implementation (tests/golden/csl/README.md)."""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "csl"


def load(name):
    """The arrays of one golden file; JSON text is decoded."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        found = dict(arrays)
    return {key: json.loads(str(v)) if key == "cases" else v for key, v in found.items()}


def assert_close(actual, expected, tolerance):
    """Tolerances are relative to the largest magnitude of the expected array (README)."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    scale = np.abs(expected).max() if expected.size else 1
    worst = np.abs(actual - expected).max() if expected.size else 0
    assert worst <= tolerance * max(scale, 1e-30), f"{worst} beside {scale}"
