"""How much memory a piece of code takes, measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# `before` is what is imported and made; the rise of the peak above it is what `code` takes.
PROGRAM = """
import json
from common.peak import peak_memory
{before}
at_first = peak_memory()
{code}
print(json.dumps([peak_memory() - at_first, result]))
"""


def rise_of(code: str, before: str = "") -> tuple[int, object]:
    """Bytes by which the peak of the resident memory rises, and what `code` left in `result`."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the peak is in other units there, or not known")
    program = PROGRAM.format(before=before, code=code)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rise, result = json.loads(done.stdout.splitlines()[-1])
    return rise, result
