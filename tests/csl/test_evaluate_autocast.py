"""--eval_autocast: the network computes in bfloat16, its scores are float32."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from common import compiling
from csl import infer, train, validate
from csl.build_loss import SelectiveLoss
from csl.evaluate import Forward, eval_kind, predict
from tests.csl.test_build_features import arguments
from tests.csl.tiny import arguments as trained_whole
from tests.csl.tiny import write_coco


class Seen(nn.Module):
    """A linear layer that notes what kind of number it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 3)
        self.kinds: list[torch.dtype] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.linear(images.flatten(1))
        self.kinds.append(logits.dtype)
        return logits


@pytest.fixture
def network() -> Seen:
    torch.manual_seed(0)
    return Seen()


def test_the_network_computes_in_bfloat16_and_scores_are_float32(network):
    batches = [(torch.rand(4, 3, 2, 2), torch.ones(4, 3, dtype=torch.int8))]
    accelerator = Accelerator(cpu=True)
    (exact,), _ = predict([network], batches, accelerator)
    forward = Forward(eval_kind(True, accelerator))
    (scores,), _ = predict([network], batches, accelerator, forward=forward)
    assert network.kinds == [torch.float32, torch.bfloat16]
    assert scores.dtype == exact.dtype == np.float32
    assert not np.array_equal(scores, exact)
    np.testing.assert_allclose(scores, exact, atol=0.01)


@pytest.fixture
def any_precision():
    """accelerate knows one precision a process; inside the test another may be chosen."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("is_wanted", [False, True])
@pytest.mark.usefixtures("any_precision")
def test_a_prepared_network_and_a_copy_are_scored_alike(network, is_wanted):
    """A run with --mixed_precision bf16 scores model and average in float32, without the flag."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    average = copy.deepcopy(network)
    prepared = accelerator.prepare(network)
    batches = [(torch.rand(4, 3, 2, 2), torch.ones(4, 3, dtype=torch.int8))]
    forward = Forward(eval_kind(is_wanted, accelerator))
    scores, _ = predict([prepared, average], batches, accelerator, forward=forward)
    wanted = [torch.bfloat16] if is_wanted else [torch.float32]
    assert network.kinds == average.kinds == wanted
    np.testing.assert_array_equal(*scores)

    prepared(torch.rand(4, 3, 2, 2))  # training goes on as it was prepared
    assert network.kinds[-1] == torch.bfloat16


@pytest.mark.slow
@pytest.mark.usefixtures("any_precision")
@pytest.mark.parametrize("flags", [[], ["--compile"], ["--eval_autocast"]])
def test_a_run_under_mixed_precision_scores_both_networks_alike(tmp_path, monkeypatch, flags):
    kinds = {True: set(), False: set()}  # of average and model, in evaluation
    call = Forward.__call__

    def note(self, model, images):
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        is_average = not layers[0].weight.requires_grad
        seen = kinds[is_average]
        handle = layers[0].register_forward_hook(lambda *of: seen.add(of[-1].dtype))
        try:
            return call(self, model, images)
        finally:
            handle.remove()

    monkeypatch.setattr(Forward, "__call__", note)
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    data = write_coco(tmp_path / "data")
    precise = ["--mixed_precision", "bf16", "--epochs", "1", *flags]
    train.main([*trained_whole(data, tmp_path / "run"), *precise])
    wanted = torch.bfloat16 if "--eval_autocast" in flags else torch.float32
    assert kinds == {True: {wanted}, False: {wanted}}


@pytest.mark.parametrize(
    ("is_wanted", "precision", "kind"),
    [
        (False, "bf16", None),
        (True, "no", torch.bfloat16),
        (True, "bf16", torch.bfloat16),
        (True, "fp16", torch.float16),
    ],
)
def test_the_kind_of_number_follows_flag_and_precision(is_wanted, precision, kind):
    assert eval_kind(is_wanted, SimpleNamespace(mixed_precision=precision)) is kind


@pytest.mark.slow
def test_train_validate_and_infer_take_the_flag(tmp_path, monkeypatch):
    kinds = []
    call = Forward.__call__

    def note(self, model, images):
        kinds.append(self.autocast)
        return call(self, model, images)

    monkeypatch.setattr(Forward, "__call__", note)
    data = write_coco(tmp_path / "data")
    run = tmp_path / "run"
    train.main([*arguments(data, run), "--epochs", "1", "--eval_autocast"])
    weights = str(run / "checkpoints" / "last.pt")
    of_validate = ["--data", str(data), "--model_path", weights, "--workers", "0", "--cpu"]
    scored = {}
    for name, flag in (("exact", []), ("cast", ["--eval_autocast"])):
        place = ["--output_dir", str(tmp_path / name)]
        validate.main([*of_validate, *place, *flag])
        scored[name] = json.loads((tmp_path / name / "summary.json").read_text())["mAP"]
    assert scored["cast"] == pytest.approx(scored["exact"], abs=2)
    pictures = str(next(path for path in data.rglob("*") if path.suffix in (".png", ".jpg")))
    of_infer = ["--pic_path", pictures, "--model_path", weights, "--cpu", "--eval_autocast"]
    infer.main([*of_infer, "--th", "0", "--output_dir", str(tmp_path / "named")])
    assert set(kinds) == {None, torch.bfloat16}
    assert kinds[0] is kinds[-1] is torch.bfloat16


# --- the loss with weights of a larger batch ---


def test_a_part_with_the_weights_of_its_step_gives_its_share_of_the_loss():
    torch.manual_seed(1)
    logits = torch.randn(8, 5)
    targets = torch.randint(-1, 2, (8, 5))
    loss = SelectiveLoss("selective", topk=1)
    assert loss.selects_in_batch
    whole = loss(logits, targets)
    kept = loss.kept
    weights = loss.weights(logits, targets)
    parts = []
    for rows in (slice(0, 3), slice(3, 8)):
        parts.append(loss(logits[rows], targets[rows], weights[rows]))
        assert torch.equal(loss.kept, kept[rows])
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


@pytest.mark.parametrize(
    "settings", [{"mode": "ignore"}, {"scope": "sample"}, {"topk": 0}, {"topk": None}]
)
def test_without_a_choice_in_the_batch_no_look_ahead_is_needed(settings):
    assert not SelectiveLoss(**{"mode": "selective", **settings}).selects_in_batch
