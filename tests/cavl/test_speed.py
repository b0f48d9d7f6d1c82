"""What a training step costs: dispatched operations, no wait for the device; and what it keeps."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from cavl import data_labels
from cavl.build import METHODS, Learner, build_learner
from cavl.build_candidates import draw_candidates
from cavl.data import load_dataset
from cavl.data_candidates import generate_uniform_cv_candidate_labels
from cavl.data_labels import LabelState
from cavl.data_resident import Images
from cavl.main import train_epoch
from cavl.options import parse
from cavl.utils.utils_algo import accuracy_check, confidence_update
from cavl.utils.utils_loss import rc_loss
from common.run import Run, start_run
from common.rundir import make_accelerator, seed_everything

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Counter(TorchDispatchMode):
    """Counts the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def learner_of(folder: Path, *flags: str) -> tuple[Learner, Run]:
    """The learner of main.py on the sample, and its run."""
    settings = parse(["--sample", "--output_dir", str(folder), *flags])
    args = settings.args
    data = load_dataset(args.ds, settings.location)
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    run = start_run(args, folder, accelerator)
    learner = build_learner(args, data, draw_candidates(args, data, run), accelerator)
    return learner, run


@pytest.fixture
def released(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("released_cavl")


@pytest.mark.parametrize(("moment", "most"), [("after", 64), ("before", 59)])
def test_a_step_of_the_sample_dispatches_few_operations(tmp_path, moment, most):
    learner, run = learner_of(tmp_path, "--cpu", "-cav_forward", moment)
    train_epoch(learner, run, 0, selecting=True)
    learner.labels.end_epoch(selecting=True)
    run.progress.batch = 20  # the last batch of the epoch is left
    with Counter() as counter:
        train_epoch(learner, run, 1, selecting=True)
    run.close()
    assert run.progress.step == 22
    assert counter.count <= most


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("moment", ["after", "before"])
def test_no_step_waits_for_the_gpu(tmp_path, monkeypatch, moment):
    learner, run = learner_of(tmp_path, "-cav_forward", moment)
    train_epoch(learner, run, 0, selecting=True)
    learner.labels.end_epoch(selecting=True)
    run.progress.batch = 0
    first = run.progress.step + 2
    count_step = run.step

    def step(images: int) -> None:
        count_step(images)
        if run.progress.step == first:
            torch.cuda.set_sync_debug_mode("error")
        if run.progress.step == first + 10:
            assert learner.labels.rows is not None  # written in here, without a wait
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(run, "step", step)
    try:
        train_epoch(learner, run, 1, selecting=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        run.close()


METHOD_FLAGS = [
    *((name, ()) for name in METHODS if name not in ("cc", "uniform")),
    ("cavl", ("-smoothing", "0.1")),
    ("cavl", ("-temperature", "0.5")),
    ("cavl", ("-mask", "product")),
]


@pytest.mark.parametrize(("name", "flags"), METHOD_FLAGS)
def test_rows_of_many_batches_written_at_once_are_those_written_one_by_one(
    tmp_path, monkeypatch, name, flags
):
    learner, run = learner_of(tmp_path, "--cpu", "-method", name, *flags)
    run.close()
    method = learner.labels.method
    sets = learner.labels.candidates
    outputs = 30 * torch.randn(len(sets), sets.shape[1])
    batches = torch.randperm(len(sets)).split(64)

    rows = []
    for at_once in (1, 7, 256):
        monkeypatch.setattr(data_labels, "WRITTEN_AT_ONCE", at_once)
        labels = LabelState(method, sets, Accelerator(cpu=True))
        for index in batches:
            labels.update(index, outputs[index])
        rows.append(labels.rows)
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])
    for index in batches:
        alone = method.update(outputs[index], sets[index])
        assert torch.equal(rows[2][index], alone.to(rows[2].dtype))


def test_waiting_rows_reach_checkpoint_belief_and_disambiguation(tmp_path):
    learner, run = learner_of(tmp_path, "--cpu")
    run.close()
    labels = learner.labels
    index = torch.arange(len(labels.candidates))
    labels.update(index, labels.candidates.float() * (1 + index[:, None]))
    selected = labels.candidates.argmax(1)
    assert torch.equal(labels.state_dict()["selected"], selected)
    labels.update(index, -labels.candidates.float())
    assert labels.disambiguation(selected) == 1.0


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_gathered_images_are_the_indexed_ones(kind):
    pixels = torch.randint(0, 256, (20, 3, 8, 8)).to(kind)
    limit = {"limit_gb": 1e-7} if kind == torch.uint8 else {}  # kept as bytes
    images = Images(pixels, torch.device("cpu"), mean=(0.5,) * 3, std=(0.25,) * 3, **limit)
    index = torch.randperm(20)[:7]
    wanted = (pixels.float() / (255 if kind == torch.uint8 else 1) - 0.5) / 0.25
    assert images[index].dtype == torch.float32
    assert torch.equal(images[index], wanted[index])


# ---- the released program of the benchmarks ------------------------------------------------------


def test_the_plain_candidate_sets_are_ours(released):
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 10, 300))
    np.random.seed(3)  # noqa: NPY002
    plain = released.candidate_sets(labels)
    np.random.seed(3)  # noqa: NPY002
    assert torch.equal(plain, generate_uniform_cv_candidate_labels("mnist", labels))


def test_the_plain_loss_update_and_accuracy_are_ours(released, monkeypatch):
    monkeypatch.setattr(released, "DEVICE", "cpu")
    torch.manual_seed(0)
    images = torch.rand(100, 1, 28, 28)
    labels = torch.randint(0, 10, (100,))
    sets = generate_uniform_cv_candidate_labels("mnist", labels, generator=np.random.default_rng(0))
    task = released.Task(images, sets, labels)
    index = torch.randperm(100)[:64]
    model = task.model
    outputs = model(images[index])
    ours = rc_loss(outputs, task.confidence, index)
    assert torch.equal(released.confidence_loss(outputs, task.confidence, index), ours)

    table = task.confidence.clone()
    released.update_confidence(model, task.confidence, images[index], sets[index], index)
    confidence_update(model, table, images[index], sets[index], index, mask="product")
    assert torch.equal(task.confidence, table)

    loader = [(images[:64], labels[:64]), (images[64:], labels[64:])]
    assert released.accuracy(loader, model) == accuracy_check(loader, model, "cpu")
