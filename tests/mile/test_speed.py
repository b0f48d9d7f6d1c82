"""What a training step costs: operations, bytes on the way, waits for a GPU. No clock."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from common.guard import FiniteGuard
from common.rundir import make_accelerator
from mile import build
from mile.data_folders import collate_pictures
from mile.data_images import normalize
from mile.MILe import one_step
from mile.models import build_model
from mile.options import parse
from mile.report import PhaseLog

GRIDS = ["--dataset", "mnist", "--sample"]
PICTURES = ["--sample", "--num_workers", "0"]


class Operations(TorchDispatchMode):
    """Counts what is dispatched inside."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.counts[str(operation)] += 1
        return operation(*args, **(kwargs or {}))


def stepper(flags, tmp_path):
    """A learner on a sample, and a call that does for one batch what the loop of MILe.py does."""
    settings = parse(flags)
    build.choose_device(settings.args)
    accelerator = make_accelerator(settings.args)
    source = build.open_source(settings, accelerator)
    learner = build.build_learner(settings.args, source.num_classes, accelerator)
    guard = FiniteGuard(tmp_path / "last.pt")
    learner.guard = lambda loss, ids: guard.add(1, 1, loss, ids)
    log = PhaseLog(accelerator)
    stream = source.stream(0)

    def step():
        batch = next(stream)
        loss = one_step(learner, batch)
        log.add_step(loss, learner.target, batch.label)

    return learner, step


# The bare step of the samples' network, forward to fused SGD, has 68.
@pytest.mark.parametrize(
    ("flags", "interactive", "imitation"), [(GRIDS, 122, 127), (PICTURES, 245, 250)]
)
def test_operations_of_a_step(tmp_path, flags, interactive, imitation):
    learner, step = stepper([*flags, "--cpu"], tmp_path)
    step()
    with Operations() as of_interactive:
        step()
    learner.begin_imitation()
    step()
    with Operations() as of_imitation:
        step()
    assert of_interactive.counts.total() <= interactive, of_interactive.counts
    assert of_imitation.counts.total() <= imitation, of_imitation.counts
    assert of_imitation.counts["aten._fused_sgd_.default"] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("flags", [GRIDS, PICTURES])
def test_no_step_waits_for_the_gpu(tmp_path, flags):
    learner, step = stepper(flags, tmp_path)
    for phase in ("interactive", "imitation"):
        if phase == "imitation":
            learner.begin_imitation()
        step()
        step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_pictures_are_bytes_and_channels_last_until_they_are_normalised():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 5, 5, 3), generator=generator, dtype=torch.uint8)
    items = [(picture.permute(2, 0, 1), k, [k, 7]) for k, picture in enumerate(pixels)]
    batch, label, real = collate_pictures(items)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, pixels.permute(0, 3, 1, 2))
    assert label.tolist() == [0, 1, 2] and real == [[0, 7], [1, 7], [2, 7]]

    input = normalize(batch)
    assert input.dtype == torch.float32
    assert input.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(input, normalize(batch.contiguous()))
    grey = batch[:, 0]
    of_grey = normalize(grey[:, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(normalize(grey), of_grey, rtol=0, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_fused_optimiser_takes_the_plain_one_s_steps(nesterov):
    torch.manual_seed(0)
    networks = [build_model("small-10"), build_model("small-10")]
    networks[1].load_state_dict(networks[0].state_dict())
    settings = {"lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": nesterov}
    optimizers = [
        torch.optim.SGD(network.parameters(), fused=fused, **settings)
        for network, fused in zip(networks, (True, False), strict=True)
    ]
    for _ in range(3):
        x = torch.randn(4, 3, 30, 30)
        for network, optimizer in zip(networks, optimizers, strict=True):
            network(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for fused, plain in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-8)
