"""The losses and the prior against numbers of the released code (tests/golden/csl/README.md)."""

from argparse import Namespace

import numpy as np
import pytest
import torch

from csl.src.loss_functions import losses
from csl.src.loss_functions.partial_asymmetric_loss import ComputePrior, PartialSelectiveLoss
from tests.csl.golden import assert_close, load

SELECTIVE, ASL = load("loss_partial_selective"), load("loss_asl")


def loss_and_gradient(loss, logits, targets):
    logits = torch.from_numpy(logits).requires_grad_()
    value = loss(logits, torch.from_numpy(targets))
    value.sum().backward()
    return value.item(), logits.grad.numpy()


@pytest.mark.parametrize(
    "index", range(len(SELECTIVE["cases"])), ids=[c["name"] for c in SELECTIVE["cases"]]
)
def test_partial_selective_loss(index, tmp_path):
    case = SELECTIVE["cases"][index]
    args, data = Namespace(**case["args"]), case["data"]
    if case["prior"] is not None:
        values = (
            SELECTIVE[f"prior_{case['prior']}"] if isinstance(case["prior"], str) else case["prior"]
        )
        args.prior_path = tmp_path / "prior.csv"
        rows = "".join(f"c{k},{v}\n" for k, v in enumerate(values))
        args.prior_path.write_text("Classes,avg_pred\n" + rows)
    targets = SELECTIVE[f"targets_{data}"]
    before = targets.copy()
    value, gradient = loss_and_gradient(
        PartialSelectiveLoss(args), SELECTIVE[f"logits_{data}"], targets
    )
    assert_close([value], [SELECTIVE["loss"][index]], 2e-5)
    assert_close(gradient, SELECTIVE[f"grad_{index}"], 2e-4)
    assert (targets == before).all()


@pytest.mark.parametrize("index", range(len(ASL["cases"])))
def test_asymmetric_losses(index):
    case = ASL["cases"][index]
    data, single = case["data"], case["cls"] == "ASLSingleLabel"
    targets = ASL[f"single_{data}" if single else f"y_{data}"]
    loss = getattr(losses, case["cls"])(**case["kwargs"])
    value, gradient = loss_and_gradient(loss, ASL[f"x_{data}"], targets)
    assert_close([value], [case["loss"]], 2e-5)
    assert_close(gradient, ASL[f"grad_{index}"], 2e-4)


def test_compute_prior(tmp_path):
    golden = load("compute_prior")
    prior = ComputePrior(dict(enumerate(golden["classes"].tolist())), tmp_path)
    for i in range(golden["n_updates"]):
        prior.update(torch.from_numpy(golden[f"logits_{i}"]))
        assert_close(prior.avg_pred_train, golden[f"avg_{i}"], 1e-5)
    assert prior.get_top_freq_classes() == golden["top10"].tolist()
    assert prior.save_prior() == tmp_path / "train_avg_preds.csv"
    ours = [line.split(",") for line in (tmp_path / "train_avg_preds.csv").read_text().splitlines()]
    theirs = [line.split(",") for line in str(golden["csv"]).splitlines()]
    assert [row[0] for row in ours] == [row[0] for row in theirs] and ours[0] == theirs[0]
    assert_close(
        np.array([r[1] for r in ours[1:]], float), np.array([r[1] for r in theirs[1:]], float), 1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["AsymmetricLoss", "AsymmetricLossOptimized", "ASLSingleLabel"])
def test_half_precision_logits_are_computed_in_float32(name, dtype):
    logits = torch.tensor([[20.0, -6.0, 0.5], [-20.0, 3.0, 1.0]], dtype=dtype)
    targets = (
        torch.tensor([2, 0], dtype=torch.int32) if name == "ASLSingleLabel" else torch.zeros(2, 3)
    )
    loss = getattr(losses, name)()
    found, expected = (loss(x.requires_grad_(), targets) for x in (logits, logits.float().detach()))
    assert found.dtype == torch.float32 and found.item() == expected.item()
    found.backward()
    assert torch.isfinite(logits.grad).all()
