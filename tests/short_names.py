"""Imports under the originals' short names, in a process of its own inside the paper's folder."""

import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_inside(folder: str, program: str) -> None:
    """Run a program with the working directory and the import path of a script in `folder`."""
    text = "\n".join(map(textwrap.dedent, program.split("\n", 1)))
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", text]
    done = subprocess.run(command, cwd=ROOT / folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def program_for(modules: list[str], package: str, *, short_first: bool) -> str:
    """A program that imports every module under both names and finds one object."""
    names = "[name, full_name]" if short_first else "[full_name, name]"
    return f"""
        import importlib
        import sys

        sys.path.insert(0, "")
        for name in {modules!r}:
            full_name = "{package}." + name
            first, second = [importlib.import_module(each) for each in {names}]
            assert first is second, name
            assert sys.modules[name] is sys.modules[full_name], name
    """


def modules_of(folder: Path, last: Sequence[str] = ()) -> list[str]:
    """The names of all modules and packages of a paper, as they are imported inside its folder.

    Those of `last` come at the end. Left out are the rooms that import torch and NumPy alone, with
    method.py's siblings, library.py.
    """
    names = []
    for path in sorted(folder.rglob("*.py")):
        parts = list(path.relative_to(folder).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        alone = parts and parts[0].partition("_")[0] in ("method", "fast", "library", "baselines")
        if parts and not alone:
            names.append(".".join(parts))
    return sorted(names, key=lambda name: name in last)
