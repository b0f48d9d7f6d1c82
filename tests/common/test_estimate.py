"""What a long run will take."""

import pytest

from common.estimate import duration, estimate, free_disk, peak_memory, size


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
