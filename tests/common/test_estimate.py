"""What a long run will take."""

import pytest

from common.estimate import FirstSteps, duration, estimate, free_disk, size
from common.peak import peak_memory


def test_a_line():
    line = estimate(
        [9.0, 0.5, 0.7, 0.6],
        pictures=1000,
        batch_size=32,
        epochs=10,
        checkpoint_bytes=100 << 20,
        peak_bytes=3 << 30,
        free_bytes=50 << 30,
    )
    assert line == (
        "estimate: 320 steps of 0.6 s take about 3 min 12 s, memory 3.0 GiB, "
        "disk 300.0 MiB for checkpoints, 50.0 GiB are free"
    )


def test_what_is_not_known_is_not_told():
    line = estimate([0.25], pictures=24, batch_size=32, epochs=40)
    assert line == "estimate: 40 steps of 0.25 s take about 10 s"


def test_too_little_disk():
    settings = {"pictures": 10, "batch_size": 10, "epochs": 1, "checkpoint_bytes": 1 << 30}
    line = estimate([1.0], **settings, free_bytes=2 << 30)
    assert "warning: that is too little" in line
    assert "warning" not in estimate([1.0], **settings, free_bytes=4 << 30)


def test_without_a_step():
    with pytest.raises(ValueError, match="no measured step"):
        estimate([], pictures=1, batch_size=1, epochs=1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.01, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3661, "1 h 1 min"),
        (86_399, "23 h 59 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1 << 50, "1024.0 TiB"),
    ],
)
def test_sizes(count, text):
    assert size(count) == text


def test_what_the_machine_says(tmp_path):
    free = free_disk(tmp_path / "not" / "there")
    assert free is not None and free > 0
    assert peak_memory() > 1 << 20


# --- the first steps of a run ---


class Said:
    """A run that keeps what it prints."""

    def __init__(self, folder):
        self.folder = folder
        self.lines = []

    def print(self, line):
        self.lines.append(line)


SIZES = {"pictures": 100, "batch_size": 10, "epochs": 2, "checkpoint_bytes": 1 << 20}


def test_the_line_is_printed_once_after_the_last_measured_step(tmp_path):
    run = Said(tmp_path)
    watch = FirstSteps(run, steps=3, **SIZES, ending="; and more")
    for step in range(6):
        watch.begin()
        watch.add()
        assert len(run.lines) == int(step >= 2)
    assert run.lines[0].startswith("estimate: 20 steps of ")
    assert run.lines[0].endswith("; and more")
    assert len(watch.seconds) == 3


def test_an_epoch_that_is_shorter_is_enough(tmp_path):
    run = Said(tmp_path)
    watch = FirstSteps(run, steps=30, within_epoch=True, **SIZES)
    for _ in range(10):
        assert run.lines == []
        watch.add()
    assert len(run.lines) == 1


def test_what_comes_on_top_of_a_step_counts(tmp_path):
    watch = FirstSteps(Said(tmp_path), steps=3, besides=7.0, **SIZES)
    watch.add()
    assert watch.seconds[0] >= 7.0


def test_nothing_is_said_where_it_is_not_due(tmp_path):
    run = Said(tmp_path)
    watch = FirstSteps(run, steps=1, is_due=False, **SIZES)
    watch.add()
    assert run.lines == [] and watch.seconds == []
