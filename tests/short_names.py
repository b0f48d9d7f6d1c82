"""Imports under the originals' short names, in a process of their own that runs inside the paper's folder."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_inside(folder: str, program: str) -> None:
    """Run a program with the working directory and the import path of a script in `folder`."""
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=ROOT / folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def program_for(modules: list[str], package: str, *, short_first: bool) -> str:
    """A program that imports every module under both names and finds one object and no second class."""
    return f"""
        import importlib
        import sys

        sys.path.insert(0, "")
        for name in {modules!r}:
            names = [name, "{package}." + name]
            first, second = [importlib.import_module(n) for n in {"names" if short_first else "names[::-1]"}]
            assert first is second, name
            assert sys.modules[name] is sys.modules["{package}." + name], name
    """


def modules_of(folder: Path) -> list[str]:
    """The names of all modules and packages of a paper, as they are imported from inside its folder."""
    names = []
    for path in sorted(folder.rglob("*.py")):
        parts = list(path.relative_to(folder).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        if parts:
            names.append(".".join(parts))
    return names
