"""Properties of the selective loss, the prior file, and their errors."""

import re
from argparse import Namespace

import numpy as np
import pytest
import torch

from csl.data_prior import read_prior
from csl.src.loss_functions.partial_asymmetric_loss import (
    ComputePrior,
    PartialSelectiveLoss,
    edit_targets_parital_labels,
    negative_backprop_fun_jit,
)


def settings(**changed):
    values = {"clip": 0.0, "likelihood_topk": 2, "prior_threshold": 0.5, "prior_path": None}
    values |= {"gamma_pos": 0.0, "gamma_neg": 1.0, "gamma_unann": 4.0}
    values |= {
        "alpha_pos": 1.0,
        "alpha_neg": 1.0,
        "alpha_unann": 1.0,
        "partial_loss_mode": "selective",
    }
    return Namespace(**(values | changed))


def batch(rows=6, classes=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator) * 2
    return logits, torch.randint(-1, 2, (rows, classes), generator=generator)


def test_by_hand():
    """One row: P with p = 1/2, N with p = 1/2, U with p = 1/2 kept, U with p = 3/4 dropped."""
    logits = torch.tensor([[0.0, 0.0, 0.0, np.log(3)]])
    targets = torch.tensor([[1, 0, -1, -1]])
    loss = PartialSelectiveLoss(settings(likelihood_topk=1, gamma_pos=2.0))(logits, targets)
    expected = np.log(2) * (0.5**2 + 0.5**1 + 0.5**4)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_permuting_rows_and_classes_changes_nothing():
    logits, targets = batch()
    rows, columns = torch.randperm(6), torch.randperm(9)
    for mode in ("negative", "ignore", "ignore_normalize_classes", "selective"):
        loss = PartialSelectiveLoss(settings(partial_loss_mode=mode))
        permuted = loss(logits[rows][:, columns], targets[rows][:, columns])
        assert permuted.item() == pytest.approx(loss(logits, targets).item(), rel=1e-5)


def test_the_batch_may_be_split_except_for_the_likelihood():
    logits, targets = batch()
    for mode, k in (
        ("negative", 2),
        ("ignore", 2),
        ("ignore_normalize_classes", 2),
        ("selective", 0),
    ):
        loss = PartialSelectiveLoss(settings(partial_loss_mode=mode, likelihood_topk=k))
        parts = sum(loss(z, y) for z, y in zip(logits.split(2), targets.split(2), strict=True))
        assert parts.item() == pytest.approx(loss(logits, targets).item(), rel=1e-5)


def test_gradient_is_that_of_the_loss_with_frozen_weights():
    logits, targets = (t for t in batch(3, 4))
    logits = logits.double().requires_grad_()
    loss = PartialSelectiveLoss(settings(likelihood_topk=1))
    (gradient,) = torch.autograd.grad(loss(logits, targets), logits)
    p = logits.detach().sigmoid()
    pt = torch.where(targets == 1, p, 1 - p)
    gamma = torch.where(targets == 1, 0.0, torch.where(targets == 0, 1.0, 4.0))
    weight = loss.weights(logits.detach(), targets) * (1 - pt) ** gamma

    def frozen(z):
        q = z.sigmoid()
        return -(weight * torch.where(targets == 1, q, 1 - q).log()).sum()

    torch.autograd.gradcheck(frozen, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(frozen(logits), logits)[0])


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float32, torch.float64])
def test_any_target_dtype_and_float32_arithmetic(dtype):
    logits, targets = batch()
    loss = PartialSelectiveLoss(settings())
    assert loss(logits, targets.to(dtype)).item() == loss(logits, targets).item()
    low = loss(logits.bfloat16(), targets)
    assert low.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(logits, targets).item() == loss(logits, targets).item()
        assert loss(logits, targets).dtype == torch.float32


def test_ignore_of_an_unannotated_row_is_zero_and_everything_is_dropped_where_u_is_small():
    logits = torch.randn(2, 5, requires_grad=True)
    loss = PartialSelectiveLoss(settings(partial_loss_mode="ignore"))(
        logits, torch.full((2, 5), -1)
    )
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
    targets = torch.tensor([[1, 0, 1, 0, -1], [0, 0, 0, 1, -1]])
    weights, _ = edit_targets_parital_labels(
        settings(likelihood_topk=5), targets, None, torch.rand(2, 5)
    )
    assert (weights == (targets != -1)).all()


def test_batch_scope_takes_the_largest_of_the_batch_and_sample_scope_of_each_image():
    q = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])
    targets = torch.full((2, 4), -1)
    batch_wide, _ = edit_targets_parital_labels(settings(likelihood_topk=1), targets, None, q)
    assert batch_wide.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    each, _ = edit_targets_parital_labels(
        settings(likelihood_topk=1, likelihood_scope="sample"), targets, None, q
    )
    assert each.tolist() == [[0, 1, 1, 1], [0, 1, 1, 1]]
    weights = torch.ones(2, 4)
    negative_backprop_fun_jit(targets, q, weights, 3)
    assert weights.tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]


def test_only_u_is_dropped_and_its_smallest_q_to_the_last_digit():
    """q is 1 inside U and 0 outside; and values of q that 1 - q rounds to the same number."""
    targets, z = torch.tensor([[1] * 5 + [-1] * 3]), torch.tensor([[30.0] * 5 + [-30.0] * 3])
    for scope in ("batch", "sample"):
        args = settings(likelihood_topk=3, likelihood_scope=scope)
        weights, _ = edit_targets_parital_labels(args, targets, None, 1 - torch.sigmoid(z))
        assert weights.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
    q, targets = torch.sigmoid(-torch.tensor([[20.0, 22, 25, 18, -1]])), torch.full((1, 5), -1)
    for chosen in ({"likelihood_topk": 1}, {"likelihood_share": 0.2}):
        weights, _ = edit_targets_parital_labels(settings(**chosen), targets, None, q)
        assert weights.tolist() == [[1, 1, 0, 1, 1]]
    weights = torch.ones(1, 5)
    negative_backprop_fun_jit(targets, q, weights, 1)
    assert weights.tolist() == [[1, 1, 0, 1, 1]]


@pytest.mark.parametrize("shape", [(3, 4), (3,), (1, 5), (3, 1)])
def test_shapes_that_do_not_belong_together(shape):
    with pytest.raises(ValueError, match=rf"logits \(3, 5\) and targets {re.escape(str(shape))}"):
        PartialSelectiveLoss(settings())(torch.zeros(3, 5), torch.zeros(shape))


def test_what_the_last_batch_kept():
    logits, targets = batch()
    loss = PartialSelectiveLoss(settings())
    loss(logits, targets)
    weights, _ = edit_targets_parital_labels(settings(), targets, None, 1 - torch.sigmoid(logits))
    assert torch.equal(loss.kept == 0, (weights == 0) | (targets != -1))
    ignoring = PartialSelectiveLoss(settings(partial_loss_mode="ignore"))
    ignoring(logits, targets)
    assert ignoring.kept is None


def test_a_share_of_u_instead_of_a_count():
    q = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])
    targets = torch.tensor([[-1, -1, -1, -1], [-1, 0, 1, -1]])
    of_batch, _ = edit_targets_parital_labels(settings(likelihood_share=0.5), targets, None, q)
    assert of_batch.tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]
    each, _ = edit_targets_parital_labels(
        settings(likelihood_share=0.5, likelihood_scope="sample"), targets, None, q
    )
    assert each.tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]
    z, y = batch()
    count = int((y == -1).sum())
    by_count = settings(likelihood_topk=count, likelihood_share=None)
    whole = PartialSelectiveLoss(settings(likelihood_share=1.0))(z, y)
    assert whole.item() == pytest.approx(PartialSelectiveLoss(by_count)(z, y).item(), rel=1e-6)


def test_parts_add_up_to_the_loss():
    z, y = batch()
    loss = PartialSelectiveLoss(settings())
    parts = loss.parts(z, y)
    assert list(parts) == ["P", "N", "U"] and sum(parts.values()) == pytest.approx(
        loss(z, y).item(), rel=1e-5
    )
    z[0, 0], y[0, 0] = float("nan"), 0
    bad = loss.parts(z, y)
    assert np.isnan(bad["N"]) and np.isfinite([bad["P"], bad["U"]]).all()


def test_gradient_with_clip_by_finite_differences():
    """gamma 0, so that the focusing factor, held fixed, is 1: the loss's own slope, also where q
    + m stops at 1."""
    z = torch.tensor([[-4.0, -0.5, 1.0, 3.0]], dtype=torch.float64).repeat(3, 1).requires_grad_()
    y = torch.tensor([[1] * 4, [0] * 4, [-1] * 4])
    plain = {"gamma_neg": 0.0, "gamma_unann": 0.0, "clip": 0.05, "partial_loss_mode": "negative"}
    loss = PartialSelectiveLoss(settings(**plain))
    (gradient,) = torch.autograd.grad(loss(z, y), z)
    for i in range(3):
        for k in range(4):
            step = torch.zeros_like(z)
            step[i, k] = 1e-6
            slope = (loss(z + step, y) - loss(z - step, y)).item() / 2e-6
            assert gradient[i, k].item() == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(
    "changed", [{}, {"likelihood_scope": "sample"}, {"likelihood_share": 0.1}, {"clip": 0.05}]
)
def test_nothing_waits_for_the_device(changed):
    """Tensors of the meta device have no values: whatever read one would fail, as it would wait
    on a GPU."""
    z = torch.empty(4, 9, device="meta", requires_grad=True)
    y = torch.empty(4, 9, device="meta", dtype=torch.int8)
    loss = PartialSelectiveLoss(settings(**changed))
    loss.prior_classes = torch.empty(9, device="meta")
    loss(z, y).backward()
    assert z.grad.shape == (4, 9)
    prior = ComputePrior(dict(enumerate("abcdefghi")))
    prior.update(z)
    prior.update(z)
    assert prior.avg_pred_train.shape == (9,)
    with pytest.raises((RuntimeError, NotImplementedError)):
        loss(z, y).item()


def test_stable_loss_keeps_the_gradient_of_confident_errors():
    logits = torch.tensor([[40.0, 1.0]], requires_grad=True)
    targets = torch.tensor([[0, 0]])
    plain = PartialSelectiveLoss(settings(partial_loss_mode="negative"))
    stable = PartialSelectiveLoss(settings(partial_loss_mode="negative", stable_loss=True))
    assert torch.autograd.grad(plain(logits, targets), logits)[0][0, 0] == 0
    assert torch.autograd.grad(stable(logits, targets), logits)[0][0, 0] == pytest.approx(1.0)
    z, y = batch()
    assert stable(z, y).item() == pytest.approx(plain(z, y).item(), rel=1e-5)


def write(path, rows, header="Classes,avg_pred"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_the_prior_is_matched_by_name(tmp_path, capsys):
    path = write(tmp_path / "p.csv", ["c,0.9", "a,0.1", '"b, big",0.2', "extra,0.3", "1542867"])
    loss = PartialSelectiveLoss(settings(prior_path=path), ["a", "b, big", "c"])
    assert loss.prior_classes.tolist() == pytest.approx([0.1, 0.2, 0.9])
    told = capsys.readouterr().err
    assert "row 6 (1542867) has no value" in told and "1 classes that the data do not have" in told
    targets = torch.full((2, 3), -1)
    weights, _ = edit_targets_parital_labels(
        settings(likelihood_topk=0), targets, None, torch.rand(2, 3), loss.prior_classes
    )
    assert weights.tolist() == [[1, 1, 0], [1, 1, 0]]
    in_file_order = PartialSelectiveLoss(settings(prior_path=path))
    with pytest.raises(ValueError, match="4 classes, but the logits have 3"):
        in_file_order(torch.zeros(1, 3), torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("rows", "header", "match"),
    [
        (["a,0.1"], "name,value", "expected Classes,avg_pred"),
        (["a,0.1", "a,0.2"], "Classes,avg_pred", "row 3: class a occurs twice"),
        (["a,1.5"], "Classes,avg_pred", "row 2, a: 1.5 is outside"),
        (["a,0.1"], "Classes,avg_pred", "no prior of 1 of the 2 classes: b"),
        (["a,nan"], "Classes,avg_pred", "no class with a value"),
    ],
)
def test_unusable_prior_files(tmp_path, rows, header, match):
    path = write(tmp_path / "p.csv", rows, header)
    with pytest.raises(ValueError, match=match):
        PartialSelectiveLoss(settings(prior_path=path), ["a", "b"])


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\x00\xff\xfe", "Classes,avg_pred\nb\xe9,0.1\n".encode("latin-1")]
)
def test_a_prior_that_is_no_text(tmp_path, content):
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"p.csv: line \d: .*save (it|the file) as UTF-8"):
        read_prior(tmp_path / "p.csv")


def test_a_prior_with_a_byte_order_mark(tmp_path):
    (tmp_path / "p.csv").write_text("\ufeffClasses,avg_pred\na,0.5\n")
    assert read_prior(tmp_path / "p.csv") == {"a": 0.5}


def test_constructor_errors(tmp_path):
    with pytest.raises(ValueError, match="ignore_normalize_classes"):
        PartialSelectiveLoss(settings(partial_loss_mode="best"))
    with pytest.raises(FileNotFoundError, match="--estimate_prior"):
        PartialSelectiveLoss(settings(prior_path=tmp_path / "none.csv"))
    z, y = batch()
    losses = [
        PartialSelectiveLoss(settings(partial_loss_mode=m))(z, y).item()
        for m in (None, "None", "none", "negative")
    ]
    assert len(set(losses)) == 1


def test_prior_file_round_trip_and_reset(tmp_path):
    prior = ComputePrior({0: "a, b", 1: "c"}, tmp_path)
    assert prior.save_prior() is None and prior.avg_pred_train is None
    prior.update(torch.tensor([[0.0, 2.0], [1.0, -1.0]]))
    prior.update(torch.tensor([[3.0, 0.0]]), training=False)
    path = prior.save_prior()
    assert list(read_prior(path)) == ["a, b", "c"] and (tmp_path / "val_avg_preds.csv").is_file()
    assert torch.allclose(torch.tensor(list(read_prior(path).values())), prior.avg_pred_train)
    again = ComputePrior({0: "a, b", 1: "c"})
    again.load_state_dict(prior.state_dict())
    assert torch.equal(again.avg_pred_train, prior.avg_pred_train)
    again.reset()
    assert again.avg_pred_train is None and again.path_dest == "./outputs"


AWKWARD = [
    "a, b",
    'Jack "o" lantern',
    '"quoted"',
    "two\nlines",
    "carriage\rreturn",
    "dos\r\nlines",
    " blanks ",
    "'",
    "é;\t",
    "#",
]


def test_prior_file_round_trip_of_awkward_names(tmp_path):
    """What save_prior writes, the loss finds again by name, in any order of the classes."""
    prior = ComputePrior(dict(enumerate(AWKWARD)), tmp_path)
    logits = torch.linspace(-2, 2, len(AWKWARD))[None]
    prior.update(logits)
    path = prior.save_prior()
    assert list(read_prior(path)) == AWKWARD
    loss = PartialSelectiveLoss(settings(prior_path=path), AWKWARD[::-1])
    torch.testing.assert_close(loss.prior_classes, logits[0].sigmoid().flip(0))
    with pytest.raises(ValueError, match="1 class names occur more than once, the first: 'c'"):
        ComputePrior({0: "c", 1: "c"}, tmp_path)
