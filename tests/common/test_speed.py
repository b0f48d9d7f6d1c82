"""What a run adds to a training step: few operations, and no wait for a device."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from common.meter import Meter
from common.run import Run, start_run
from tests.common.toy import settings


class Operations(TorchDispatchMode):
    """The names of the operations inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(str(operation))
        return operation(*args, **(kwargs or {}))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = start_run(settings(tmp_path / "run"), "toy", Accelerator(cpu=True))
    run.restore()
    yield run
    run.close()


def test_a_mean_costs_one_sum_and_reads_nothing():
    meter = Meter(Accelerator(cpu=True))
    loss = torch.tensor(0.5, requires_grad=True) * 1
    with Operations() as operations:
        meter.add(loss, 32)
    assert operations.names == ["aten.detach.default", "aten.add_.Tensor"]
    assert meter.totals().tolist() == [16, 32]
    assert meter.totals().tolist() == [16, 32]  # asking changes nothing


def test_a_step_on_a_cpu_costs_one_read(run):
    loss = torch.tensor(0.5, requires_grad=True) * 1
    index = torch.arange(4)
    with Operations() as operations:
        for _ in run.bar(range(3), "steps", 3):
            run.guard(loss, index)
            run.step(4)
    assert operations.names == ["aten._local_scalar_dense.default"] * 3
    assert (run.progress.step, run.progress.images) == (3, 12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks a GPU")
def test_a_step_on_a_gpu_does_not_wait(tmp_path):
    run = start_run(settings(tmp_path / "run", cpu=False), "toy", Accelerator())
    run.restore()
    meter = Meter(run.accelerator)
    loss = torch.tensor(0.5, device="cuda")
    index = torch.arange(4)
    meter.add(loss, 4)  # the first call loads the kernel
    torch.cuda.synchronize()

    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            run.guard(loss, index)
            meter.add(loss, 4)
            run.step(4)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    run.close()
    assert meter.compute() == 0.5 and run.progress.step == 3
