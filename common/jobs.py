"""Runs of a sweep side by side (--jobs N): each is this program once more, in a process of its own.

A variable of the environment tells such a process which run of the sweep it is. It reads the same
command line, trains that run only, and hands back what the sweep's table needs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import torch

from common.cli import UserError, own_command
from common.rundir import plain

VARIABLE = "WSL_RUN_OF_SWEEP"
LOG = "console.log"  # in a run's folder: what it printed
POLL = 0.1  # seconds


# --- in the process of one run ---


class Task(NamedTuple):
    """Which run of a sweep this process is to do.

    folder: the sweep's. answer: the file that takes what the table needs.
    """

    number: int
    folder: Path
    answer: Path

    def hand_back(self, summary: Mapping[str, Any]) -> NoReturn:
        """Write the run's summary and end this process."""
        self.answer.write_text(json.dumps(plain(summary)), encoding="utf-8")
        raise SystemExit(0)


def own_task() -> Task | None:
    """The task of this process; None where it is a program of its own."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return None
    number, folder, answer = json.loads(text)
    return Task(number, Path(folder), Path(answer))


# --- in the process of the sweep ---


class _Job(NamedTuple):
    number: int
    slot: int
    process: subprocess.Popen
    log: IO[bytes]
    answer: Path


class SideBySide:
    """The runs of a sweep, `jobs` at a time.

    >>> runs = SideBySide(places, jobs, folder, is_on_cpu=True, received=lambda: 0)
    >>> for number, summary in runs.finished():
    ...     ...                                   # in the order in which they end
    >>> runs.failed                               # a line for each run that did not

    Every process gets its share of this one's threads, and in turn one of the GPUs. Its output goes
    to console.log in the run's folder.

    Args:
        places: the folder of each run.
        folder: the sweep's.
        is_on_cpu: no run uses a GPU.
        received: the number of the signal that asks the sweep to end, 0 for none. Each run that
            goes on then gets a SIGTERM, and saves.
        say: prints a line.
    Raises:
        UserError: the runs cannot be started from here.
    """

    def __init__(
        self,
        places: Sequence[Path],
        jobs: int,
        folder: Path,
        *,
        is_on_cpu: bool,
        received: Callable[[], int],
        say: Callable[[str], None] = print,
    ) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            problem = "not with several processes (torchrun, accelerate launch)"
            raise UserError(f"--jobs {jobs}: {problem}")
        self.command = own_command(f"--jobs {jobs}")
        self.places = places
        self.jobs = jobs
        self.folder = folder
        self.received = received
        self.say = say
        self.failed: list[str] = []
        self.devices = [] if is_on_cpu else _devices()
        self._is_held = False
        self._running: list[_Job] = []

    def hold(self) -> None:
        """Start no further run; those that go on end by themselves."""
        self._is_held = True

    def finished(self, first: int = 0) -> Generator[tuple[int, dict[str, Any]], None, None]:
        """Number and summary of each run from `first` on, as soon as it has ended well."""
        waiting = list(range(first, len(self.places)))[::-1]
        with tempfile.TemporaryDirectory() as answers:
            try:
                while self._running or (waiting and not self._is_held):
                    if self.received():
                        return
                    while waiting and not self._is_held and len(self._running) < self.jobs:
                        self._start(waiting.pop(), Path(answers))
                    yield from self._ended()
                    time.sleep(POLL)
            finally:
                self._end_all()

    def _start(self, number: int, answers: Path) -> None:
        place = self.places[number]
        place.mkdir(parents=True, exist_ok=True)
        path = place / LOG
        self.say(f"--- run {number + 1} of {len(self.places)}: {place.name} ({path})")

        used = {job.slot for job in self._running}
        slot = next(slot for slot in range(self.jobs) if slot not in used)
        answer = answers / f"{number}.json"
        environment = self._environment(slot)
        environment[VARIABLE] = json.dumps([number, str(self.folder), str(answer)])
        log = path.open("ab")
        # Of a session of its own: Ctrl-C is for the sweep, which ends its runs.
        process = subprocess.Popen(
            self.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._running.append(_Job(number, slot, process, log, answer))

    def _environment(self, slot: int) -> dict[str, str]:
        threads = str(max(1, torch.get_num_threads() // self.jobs))
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        return environment

    def _ended(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for job in [job for job in self._running if job.process.poll() is not None]:
            self._running.remove(job)
            job.log.close()
            place = self.places[job.number]
            status = job.process.returncode
            if status == 0 and job.answer.is_file():
                yield job.number, json.loads(job.answer.read_text(encoding="utf-8"))
                continue
            problem = f"{place.name}: exit status {status}, {_last_line(place / LOG)}"
            self.say(f"--- failed: {problem}")
            self.failed.append(problem)

    def _end_all(self) -> None:
        for job in self._running:
            job.process.terminate()
        for job in self._running:
            job.process.wait()
            job.log.close()
        self._running.clear()

    def report_failed(self) -> None:
        """SystemExit with status 1, the failed runs named, where there are any."""
        if not self.failed:
            return
        print(f"error: {len(self.failed)} of {len(self.places)} runs failed:", file=sys.stderr)
        for line in self.failed:
            print(f"  {line}", file=sys.stderr, flush=True)
        raise SystemExit(1)


def _devices() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return list(map(str, range(torch.cuda.device_count())))


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    told = next((line.strip() for line in reversed(lines) if line.strip()), "which printed nothing")
    return f"{told} ({log})"
