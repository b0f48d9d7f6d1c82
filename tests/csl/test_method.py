"""Labels and settings outside the domain: an error where values can be read, NaN where a check
would wait or break."""

from argparse import Namespace

import pytest
import torch

from csl import method
from csl.src.loss_functions.losses import ASLSingleLabel, AsymmetricLoss, AsymmetricLossOptimized
from csl.src.loss_functions.partial_asymmetric_loss import (
    ComputePrior,
    PartialSelectiveLoss,
    edit_targets_parital_labels,
    negative_backprop_fun_jit,
)
from tests.csl.test_build_loss import batch, settings

MODES = ("negative", "ignore", "ignore_normalize_classes", "selective")
UNKNOWN = (0.9, float("nan"), 2.0, -2.0, float("inf"), -0.5)
VARIANTS = {
    "negative": {"partial_loss_mode": "negative"},
    "ignore": {"partial_loss_mode": "ignore"},
    "normalised": {"partial_loss_mode": "ignore_normalize_classes"},
    "selective": {},
    "each image": {"likelihood_scope": "sample"},
    "share": {"likelihood_share": 0.3},
    "clip": {"clip": 0.05, "gamma_pos": 1.5},
    "stable": {"stable_loss": True, "alpha_unann": 0.3},
}


def loss_of(**changed):
    loss = PartialSelectiveLoss(settings(**changed))
    loss.prior_classes = torch.tensor([0.9, 0.1, 0.6, 0.2, 0.2, 0.7, 0.1, 0.3, 0.4])
    return loss


def value_and_gradient(loss, logits, targets):
    z = logits.clone().requires_grad_()
    value = loss(z, targets)
    value.backward()
    return value.detach(), z.grad


def spoiled(value):
    logits, targets = batch()
    targets = targets.float()
    targets[4, 3] = value
    return logits, targets


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", UNKNOWN)
def test_an_unknown_target_is_an_error_on_the_cpu(mode, value):
    with pytest.raises(
        ValueError, match=r"targets: \S+ at \[4, 3\] is no label; labels are 1 .positive., 0"
    ):
        loss_of(partial_loss_mode=mode)(*spoiled(value))


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int64, torch.float16, torch.float64]
)
def test_an_unknown_target_of_any_dtype(dtype):
    logits, targets = batch()
    targets = targets.clamp(min=0).to(dtype)
    loss_of()(logits, targets)
    targets[1, 2] = 7
    with pytest.raises(ValueError, match=r"7 at \[1, 2\]"):
        loss_of()(logits, targets)
    with pytest.raises(ValueError, match="255 at"):  # -1 that an unsigned type cannot hold
        loss_of()(logits, torch.full(targets.shape, 255, dtype=torch.uint8))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", UNKNOWN[:3])
def test_where_values_cannot_be_read_an_unknown_target_makes_the_loss_nan(mode, value, monkeypatch):
    """The way of a GPU, taken here on the CPU: nothing is looked at, and the loss says it."""
    loss = loss_of(partial_loss_mode=mode)
    known, gradient = value_and_gradient(loss, *batch())
    monkeypatch.setattr(method, "is_readable", lambda tensor: False)
    again, same = value_and_gradient(loss, *batch())
    assert torch.equal(again, known) and torch.equal(same, gradient)
    logits, targets = spoiled(value)
    bad, gradient = value_and_gradient(loss, logits, targets)
    assert bad.isnan() and gradient[4, 3].isnan()
    assert "1 targets are none of 1, 0, -1" in loss.explain(logits, targets)
    assert "none of" not in loss.explain(*batch())


def test_tensors_of_another_device_are_not_read():
    assert method.is_readable(torch.zeros(1)) and not method.is_readable(
        torch.zeros(1, device="meta")
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_torch_compile_gives_one_graph_and_the_same_numbers(variant):
    loss = loss_of(**VARIANTS[variant])
    logits, targets = batch()
    expected, gradient = value_and_gradient(loss, logits, targets)
    kept = loss.kept
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, same = value_and_gradient(compiled, logits, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(same, gradient)
    assert (loss.kept is None) == (kept is None) and (kept is None or torch.equal(loss.kept, kept))
    for value in UNKNOWN[:3]:
        assert compiled(*spoiled(value)).isnan()


@pytest.mark.slow
def test_torch_compile_with_inductor():
    loss = loss_of()
    logits, targets = batch()
    expected, gradient = value_and_gradient(loss, logits, targets)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True)
    found, same = value_and_gradient(compiled, logits, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(same, gradient)
    assert compiled(*spoiled(0.9)).isnan()


@pytest.mark.parametrize("variant", VARIANTS)
def test_torch_func_grad_and_vmap(variant):
    loss = loss_of(**VARIANTS[variant])
    logits, targets = batch()
    expected, gradient = value_and_gradient(loss, logits, targets)
    same, found = torch.func.grad_and_value(loss)(logits, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(same, gradient)

    z, y = torch.stack([logits, logits.flip(0)]), torch.stack([targets, targets.roll(1, 0)])
    each = torch.stack([loss(a, b) for a, b in zip(z, y, strict=True)])
    torch.testing.assert_close(torch.func.vmap(loss)(z, y), each)
    torch.testing.assert_close(torch.func.vmap(loss, in_dims=(0, None))(z, targets)[0], expected)
    gradients = torch.func.vmap(torch.func.grad(loss))(z, y)
    torch.testing.assert_close(gradients[0], gradient)

    for value in UNKNOWN[:3]:
        bad, wrong = spoiled(value)
        assert torch.func.grad_and_value(loss)(bad, wrong)[1].isnan()
        assert torch.func.vmap(loss)(bad[None], wrong[None]).isnan().all()
        assert torch.func.vmap(torch.func.grad(loss))(bad[None], wrong[None])[0, 4, 3].isnan()


def test_derivatives_of_torch_func_hold_the_weights_fixed():
    """By forward mode and twice: the derivative of the focusing factor must not come in."""
    loss, (logits, targets) = loss_of(likelihood_topk=0), batch(2, 9)
    logits = logits.double()
    _, gradient = value_and_gradient(loss, logits, targets)
    direction = torch.ones_like(logits)
    _, along = torch.func.jvp(lambda z: loss(z, targets), (logits,), (direction,))
    torch.testing.assert_close(along, gradient.sum())
    p = logits.sigmoid()
    weight = gradient / (p - (targets == 1).double())
    second = torch.func.jacfwd(torch.func.grad(lambda z: loss(z, targets)))(logits)
    diagonal = second.reshape(18, 18).diagonal().view(2, 9)
    torch.testing.assert_close(diagonal, (weight * p * (1 - p)).nan_to_num(0))


WEIGHTED = {
    "ignore": [[1.0, 0, 1]],
    "ignore_normalize_classes": [[4 / 3, 0, 4 / 3]],
    "selective": [[1.0, 0, 1]],
}


@pytest.mark.parametrize("mode", WEIGHTED)
def test_weights_of_unknown_targets(mode, monkeypatch):
    q, args = torch.tensor([[0.2, 0.3, 0.4]]), settings(partial_loss_mode=mode)
    known, _ = edit_targets_parital_labels(args, torch.tensor([[1, -1, 0]]), None, q)
    torch.testing.assert_close(known, torch.tensor(WEIGHTED[mode]))
    wrong = torch.tensor([[1, -1, 0.9]])
    with pytest.raises(ValueError, match=r"0.9 at \[0, 2\] is no label"):
        edit_targets_parital_labels(args, wrong, None, q)
    with pytest.raises(ValueError, match=r"0.9 at \[0, 2\] is no label"):
        negative_backprop_fun_jit(wrong, q, torch.ones(1, 3), 1)
    with pytest.raises(ValueError, match=r"targets \(1, 3\) and probabilities \(1, 2\)"):
        edit_targets_parital_labels(args, wrong, None, q[:, :2])
    with pytest.raises(ValueError, match="num_top_k -1: must be a whole number"):
        negative_backprop_fun_jit(torch.tensor([[1, -1, 0]]), q, torch.ones(1, 3), -1)
    monkeypatch.setattr(method, "is_readable", lambda tensor: False)
    weights, _ = edit_targets_parital_labels(args, wrong, None, q)
    assert weights.isnan().tolist() == [[False, False, True]]


@pytest.mark.parametrize("kind", [AsymmetricLoss, AsymmetricLossOptimized])
def test_the_asymmetric_losses_take_complete_labels_alone(kind):
    loss, (logits, targets) = kind(), batch()
    complete = targets.clamp(min=0).float()
    expected, gradient = value_and_gradient(loss, logits, complete)
    for value in (*UNKNOWN, -1.0):
        wrong = complete.clone()
        wrong[4, 3] = value
        with pytest.raises(
            ValueError, match=r"at \[4, 3\] is no label; labels are 1 .positive. or 0 .negative."
        ):
            loss(logits, wrong)
        assert torch.func.grad_and_value(loss)(logits, wrong)[1].isnan()
        assert torch.func.vmap(loss)(logits[None], wrong[None]).isnan().all()
    with pytest.raises(ValueError, match="both must be of one shape"):
        loss(logits, complete[0])  # would be broadcast
    same, found = torch.func.grad_and_value(loss)(logits, complete)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(same, gradient)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, complete), expected)
    assert compiled(logits, wrong).isnan()


def test_the_single_label_loss_takes_class_indices_alone():
    loss, logits = ASLSingleLabel(reduction="none"), batch()[0]
    targets = torch.tensor([0, 8, 3, 3, 1, 2])
    expected = loss(logits, targets)
    torch.testing.assert_close(loss(logits, targets.double()), expected)
    for value in (9, -1, -100):
        wrong = targets.clone()
        wrong[2] = value
        with pytest.raises(ValueError, match=f"{value} is no class index; there are 0 to 8"):
            loss(logits, wrong)
        assert torch.func.vmap(loss)(logits[None], wrong[None]).isnan().tolist() == [
            [False] * 2 + [True] + [False] * 3
        ]
    for value in (0.9, float("nan")):
        wrong = targets.float()
        wrong[2] = value
        with pytest.raises(ValueError, match="is no class index"):
            loss(logits, wrong)
    for shape in ((6, 1), (5,), (6, 9)):
        with pytest.raises(ValueError, match=r"must be \(B,C\) and \(B,\)"):
            loss(logits, torch.zeros(shape, dtype=torch.int64))
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, targets), expected)
    assert compiled(logits, wrong).isnan().sum() == 1


NAN, INFINITE = float("nan"), float("inf")
SETTINGS = {
    "gamma_pos": (-1.0, NAN, INFINITE, "2"),
    "gamma_neg": (-1.0, NAN, INFINITE, None),
    "gamma_unann": (-0.1, NAN, INFINITE),
    "alpha_pos": (-1.0, NAN, INFINITE),
    "alpha_neg": (-1.0, NAN, INFINITE),
    "alpha_unann": (-1.0, NAN, INFINITE),
    "clip": (-0.1, 1.0, NAN, INFINITE),
    "prior_threshold": (-0.1, NAN, INFINITE),
    "likelihood_topk": (-1, 1.5, NAN, INFINITE),
    "likelihood_share": (-0.1, 1.1, NAN),
    "likelihood_scope": ("image", None),
    "partial_loss_mode": ("best", 3),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_outside_their_range(name):
    for value in SETTINGS[name]:
        with pytest.raises(ValueError, match=name):
            PartialSelectiveLoss(settings(**{name: value}))
    with pytest.raises(ValueError, match="stable_loss: not together with a clip"):
        PartialSelectiveLoss(settings(stable_loss=True, clip=0.05))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (AsymmetricLoss, {"gamma_neg": -1}),
        (AsymmetricLoss, {"gamma_pos": NAN}),
        (AsymmetricLoss, {"clip": 1.0}),
        (AsymmetricLossOptimized, {"clip": NAN}),
        (AsymmetricLossOptimized, {"eps": -1e-8}),
        (ASLSingleLabel, {"eps": 1.5}),
        (ASLSingleLabel, {"gamma_pos": INFINITE}),
        (ASLSingleLabel, {"reduction": "sum"}),
    ],
)
def test_settings_of_the_asymmetric_losses(kind, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)


def test_what_a_prior_is_estimated_from(tmp_path):
    prior = ComputePrior({0: "a", 1: "b"}, tmp_path)
    for logits in (torch.zeros(3, 3), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"logits \(.*\): the prior is of 2 classes"):
            prior.update(logits)
    with pytest.raises(ValueError, match="logits: 1 values are nan"):
        prior.update(torch.tensor([[0.0, NAN]]))
    prior.update(torch.tensor([[0.0, INFINITE]]))
    assert prior.avg_pred_train.tolist() == [0.5, 1.0]


def test_settings_are_any_object_with_the_names():
    assert PartialSelectiveLoss(Namespace(**vars(settings())))(*batch()) > 0
