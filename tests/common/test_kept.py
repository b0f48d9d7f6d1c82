"""Arrays of the cache: made once, by one of several processes, and never half there."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.kept import kept, key_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / ".kept"


class Made:
    """Counts how often it is made."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        return {"a": np.arange(self.count + 2), "b": np.array(["x", "yé"])}


def test_made_once_and_read_again():
    make = Made()
    first = kept("test", key_of("k", 1), make)
    again = kept("test", key_of("k", 1), make)
    assert make.count == 1
    assert sorted(again) == ["a", "b"]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    kept("test", key_of("k", 2), make)
    assert make.count == 2


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_file_that_was_cut_short_is_made_again(keep, cache):
    make = Made()
    kept("test", "k", make)
    path = cache / "test-k.npz"
    path.write_bytes(path.read_bytes()[:keep])
    assert len(kept("test", "k", make)["a"]) == 4
    assert len(kept("test", "k", make)["a"]) == 4


def test_what_does_not_fit_is_made_again():
    make = Made()
    for wanted in (3, 3, 4, 4):
        found = kept(
            "test", "k", make, fits=lambda arrays, wanted=wanted: len(arrays["a"]) == wanted
        )
        assert len(found["a"]) == wanted
    assert make.count == 2


def test_what_does_not_last_is_made_at_every_later_start():
    make = Made()
    for _ in range(3):
        kept("test", "k", make, lasts=lambda made: False)
        time.sleep(0.001)
    assert make.count == 3


def test_an_error_is_not_kept():
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        kept("test", "k", fail)
    assert len(kept("test", "k", Made())["a"]) == 3


def test_without_a_cache_everybody_makes_it(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "file" / "below"))
    make = Made()
    kept("test", "k", make)
    kept("test", "k", make)
    assert make.count == 2


PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np
from common.kept import kept
def make():
    with Path(sys.argv[1]).open("a") as file:
        file.write("made\\n")
    time.sleep(1)
    return {"a": np.arange(5)}
while not Path(sys.argv[2]).exists():
    time.sleep(0.01)
lasts = sys.argv[3] == "lasts"
assert kept("test", "k", make, lasts=lambda made: lasts)["a"].tolist() == [0, 1, 2, 3, 4]
"""


@pytest.mark.slow
@pytest.mark.parametrize("lasts", ["lasts", "only for who asked meanwhile"])
def test_one_of_several_processes_makes_it(lasts, tmp_path):
    log, go = tmp_path / "log", tmp_path / "go"
    command = [sys.executable, "-c", PROGRAM, str(log), str(go), lasts]
    started = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    go_when_all_are_ready(go)
    assert [process.wait() for process in started] == [0, 0, 0]
    assert log.read_text().count("made") == 1


def go_when_all_are_ready(go):
    time.sleep(5)  # the imports; who comes late finds what was made, or waits for it
    go.write_text("")
