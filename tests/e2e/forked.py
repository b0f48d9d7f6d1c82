"""Runs scripts in children of one process that has torch imported: each start costs a moment.

    python -m tests.e2e.forked

It reads a list of {"folder", "kind" (file or module), "name", "arguments", "stop"} as JSON, and
writes a list of [status, output]. With `stop` a script only reads its command line: status 0 where
it took it.
"""

import argparse
import importlib
import json
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 600  # until a script that does not stop is stopped
PACKAGES = (
    "accelerate captum cv2 matplotlib.pyplot pandas scipy.special sklearn.datasets tensorboardX "
    "timm torchvision"
)


def run(job: dict) -> tuple[int, str]:
    """Exit status and output (stdout and stderr together) of one script."""
    with tempfile.TemporaryFile("w+b") as file:
        child = os.fork()
        if child == 0:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            os._exit(_status(job))
        _, waited = os.waitpid(child, 0)
        file.seek(0)
        return os.waitstatus_to_exitcode(waited), file.read().decode("utf-8", "replace")


def _status(job: dict) -> int:
    signal.alarm(SECONDS)
    os.chdir(ROOT / job["folder"])
    sys.argv = [job["name"], *job["arguments"]]
    sys.path[0] = str((ROOT / job["folder"] / job["name"]).resolve().parent)
    if job["stop"]:
        _stop_after_parsing()
    status: object = 0
    try:
        if job["kind"] == "module":
            runpy.run_module(job["name"], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(job["name"], run_name="__main__")
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _stop_after_parsing() -> None:
    """End with status 0 once a parser has taken the command line, unless it gives its defaults.

    Files that it names need not be there.
    """
    from common import cli

    cli.readable_file = Path
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(
        self: argparse.ArgumentParser, args: object = None, namespace: object = None
    ) -> object:
        result = parse(self, args, namespace)
        if args is None or args or not sys.argv[1:]:
            raise SystemExit(0)
        return result

    argparse.ArgumentParser.parse_args = parse_and_stop


def main() -> None:
    """Import what all of them need, then run the list."""
    jobs = json.load(sys.stdin)
    out = os.dup(1)
    os.dup2(2, 1)
    for package in PACKAGES.split():
        importlib.import_module(package)

    results = []
    for job in jobs:
        start = time.monotonic()
        results.append(run(job))
        words = " ".join([job["folder"], job["name"], *job["arguments"]])
        print(f"{time.monotonic() - start:6.1f} s  {words}", file=sys.stderr, flush=True)
    with os.fdopen(out, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main()
