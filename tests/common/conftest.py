"""One thread: the tensors are tiny. Shell variables are gone, signal handlers come back."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.common.toy import settings, train

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variables of the user's shell; signal handlers and denormal mode as before the test."""
    for name in (
        "WSL_DATA_DIR",
        "WSL_OFFLINE",
        *(name for name in os.environ if name.startswith("ACCELERATE_")),
    ):
        monkeypatch.delenv(name, raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    torch.set_flush_denormal(False)


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def in_child() -> Iterator:
    """Call a function in forked processes, which end with the test; whether it returned."""
    children = []

    def call(function, *args, stay: bool = False) -> bool:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                function(*args)
                os.write(write, b"1")
                if stay:
                    signal.pause()
            except BaseException:
                os.write(write, b"0")
            os._exit(0)
        os.close(write)
        children.append(pid)
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read(1) == b"1"
        if not stay or not answer:
            call.end(pid)
        call.last = pid
        return answer

    def end(pid: int) -> None:
        children.remove(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    call.end = end
    yield call
    for pid in list(children):
        end(pid)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run; tests leave it alone."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(settings(folder))
    return folder


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A copy of the uninterrupted run."""
    shutil.copytree(whole, tmp_path / "finished")
    return tmp_path / "finished"
