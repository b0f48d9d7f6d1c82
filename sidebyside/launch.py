"""Running a program of a paper, its output in a log."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_logged(
    command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str] | None = None
) -> int:
    """Run a command in `folder`, its output in `log`; the exit status.

    environment: of the command, default ours. What ends us ends the command too.
    """
    with log.open("a", encoding="utf-8") as file:
        print(f"$ {shlex.join(command)}", file=file, flush=True)
        child = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            return child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
