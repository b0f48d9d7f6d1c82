"""What is not finite stops a run and is named; signals are noted once."""

import os
import signal
import threading

import pytest
import torch

from common.cli import NonFiniteError
from common.guard import FiniteGuard, StopSignals

# --- losses ---


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_names_step_samples_and_checkpoint(tmp_path, value):
    guard = FiniteGuard(tmp_path / "last.pt")
    guard.add(1, 1, torch.tensor(0.5), torch.tensor([1, 2]))
    with pytest.raises(NonFiniteError) as caught:
        guard.add(2, 7, torch.tensor(value), torch.tensor([4, 9, 11]))
    expected = (
        f"epoch 2, step 7: the loss is {value} (samples 4, 9, 11); last good checkpoint: none yet"
    )
    assert str(caught.value) == expected


def test_an_existing_checkpoint_is_named_and_long_batches_are_cut(tmp_path):
    (tmp_path / "last.pt").touch()
    with pytest.raises(NonFiniteError) as caught:
        FiniteGuard(tmp_path / "last.pt").add(1, 1, torch.tensor([float("nan")]), torch.arange(10))
    expected = f"(samples 0, 1, 2, 3, 4, 5, 6, 7, …); last good checkpoint: {tmp_path / 'last.pt'}"
    assert str(caught.value).endswith(expected)


def test_what_explains_the_loss_is_asked_only_where_it_is_not_finite(tmp_path):
    guard, asked = FiniteGuard(tmp_path / "last.pt"), []

    def explain():
        asked.append(1)
        return "parts nan, 3"

    guard.add(1, 1, torch.tensor(0.5), torch.tensor([1]), explain)
    assert not asked
    with pytest.raises(NonFiniteError, match=r"\(samples 2\); parts nan, 3; last good checkpoint"):
        guard.add(1, 2, torch.tensor(float("nan")), torch.tensor([2]), explain)


class OnDevice:
    """A loss whose reading is counted, as on a device that a step must not wait for."""

    def __init__(self, value: float, reads: list) -> None:
        self.value, self.reads, self.device = value, reads, torch.device("cuda")

    def detach(self) -> "OnDevice":
        return self

    def float(self) -> torch.Tensor:
        self.reads.append(self.value)
        return torch.tensor(self.value)


def test_a_devices_losses_are_read_every_twenty_steps_and_on_demand(tmp_path):
    guard, reads = FiniteGuard(tmp_path / "last.pt"), []
    for step in range(1, 20):
        guard.add(
            1, step, OnDevice(float("nan") if step == 3 else 0.0, reads), torch.tensor([step])
        )
    assert not reads
    with pytest.raises(NonFiniteError, match=r"step 3: .*\(samples 3\)"):
        guard.add(1, 20, OnDevice(0.0, reads), torch.tensor([20]))
    assert len(reads) == 20
    guard.add(1, 21, OnDevice(float("inf"), reads), torch.tensor([21]))
    with pytest.raises(NonFiniteError, match="step 21: the loss is inf"):
        guard.check()
    guard.check()  # nothing waits any more


def test_weights_are_checked_by_name(tmp_path):
    guard = FiniteGuard(tmp_path / "last.pt")
    good = {"model": {"w": torch.ones(2), "n": torch.tensor(3)}, "optimizer": {"param_groups": []}}
    guard.check_weights(1, good)
    with pytest.raises(
        NonFiniteError, match="step 5: model b is not finite; last good checkpoint: none yet"
    ):
        guard.check_weights(
            5, {**good, "model": {"w": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}}
        )


# --- signals ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_first_signal_is_noted_the_second_quits(number):
    before = signal.getsignal(number)
    signals = StopSignals()
    assert signals.received == 0
    os.kill(os.getpid(), number)
    assert signals.received == number
    assert signal.getsignal(number) == signal.SIG_DFL
    signals.give_back()
    assert signal.getsignal(number) == before


def test_what_a_launcher_hands_on_is_no_second_signal(monkeypatch):
    """srun signals every process of a job; torchrun, one of them, signals its own once more."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    signals = StopSignals()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.received == signal.SIGTERM
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(StopSignals, "FORWARDED", -1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert ends == [143]
    signals.give_back()


def test_in_another_thread_nothing_is_noted_and_nothing_fails():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    made = []

    def work() -> None:
        made.append(StopSignals())
        made[0].give_back()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert made[0].received == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
