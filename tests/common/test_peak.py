"""The highest main memory of this program, without that of the one that started it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHILD = "from common.peak import peak_memory; print(peak_memory())"
PARENT = f"""
import subprocess, sys
held = bytearray(400 * 2**20)
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""


def peak_printed_by(program: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_it_rises_with_what_is_held():
    held = f"held = bytearray(400 * 2**20); {CHILD}"
    assert 400 * 2**20 < peak_printed_by(held) < 600 * 2**20


def test_a_large_parent_does_not_count():
    assert peak_printed_by(PARENT) < 200 * 2**20
