"""The identities of the model, the objectives, the prior's switches (method.py, by way of
UniversalProcess).
"""

import warnings

import pytest
import torch
from torch import nn

from calm.method import log_likelihood, safe_log, scale_to_unit
from calm.network.head import AttributionNet
from calm.network.universal import DeadAttention, UniversalProcess


def make(
    method: str = "CALM-EM", gradient: str = "detach", activation: type = nn.ReLU, seed: int = 0
):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(3, 5, 4, 6, generator=generator, dtype=torch.float64).mul_(3).requires_grad_()
    features = torch.randn(3, 7, 4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    torch.manual_seed(seed)
    attention = nn.Sequential(nn.Conv2d(7, 1, 1), activation()).double()
    process = UniversalProcess(method, gradient)
    process.set_layers(None, attention)
    return process, f, features, torch.tensor([0, 4, 2])


def grads(process, f, features, labels) -> list[torch.Tensor]:
    process.loss(f, features, labels)["loss"].mean().backward()
    return [f.grad, features.grad, *(p.grad for p in process.attention.parameters())]


def test_the_probabilities_sum_to_one() -> None:
    process, f, features, labels = make()
    p, _ = process._likelihood(f, features)
    assert torch.allclose(process._latent_prior(features).sum((2, 3)), torch.ones(3, 1).double())
    assert torch.allclose(
        process._joint_likelihood(f, features).sum((1, 2, 3)), torch.ones(3).double()
    )
    rows = torch.arange(3)
    joint = process.get_cam(f, features, labels, None, "jointll")
    assert torch.allclose(joint.sum((1, 2)), p[rows, labels, 0, 0])
    posterior = process.get_cam(f, features, labels, None, "gtcond")
    assert torch.allclose(
        posterior.sum((1, 2)), p[rows, labels, 0, 0] / (p[rows, labels, 0, 0] + 1e-10)
    )


def test_logarithms_agree_with_the_plain_forms() -> None:
    process, f, features, _ = make(activation=nn.Softplus)
    assert torch.allclose(
        process._joint_likelihood(f, features, log=True).exp(),
        process._joint_likelihood(f, features),
    )
    g = process._latent_prior(features)
    assert torch.allclose(log_likelihood(f.log_softmax(1), g), (f.softmax(1) * g).sum((2, 3)).log())
    assert safe_log(torch.tensor([0.0, 0.5])).tolist() == pytest.approx([-18.420681, -0.6931472])


@pytest.mark.parametrize("gradient", ["detach", "full"])
def test_em_and_ml_have_the_same_gradient(gradient: str) -> None:
    pairs = zip(grads(*make("CALM-EM", gradient)), grads(*make("CALM-ML", gradient)), strict=True)
    for em, ml in pairs:
        assert (em - ml).abs().max() <= 1e-6 * ml.abs().max()


class Heads(AttributionNet):
    """Both heads on maps of 32 channels."""

    def __init__(self, method: str) -> None:
        super().__init__(method, "softplus", "full")
        self.make_heads(32, 20)
        self.freeze()


def test_heads_that_em_trained_are_those_that_ml_trained() -> None:
    """One gradient, so one network: neither explains or classifies better."""
    torch.manual_seed(0)
    maps = torch.randn(40, 32, 14, 14).relu()
    labels = torch.arange(40) % 20
    start = Heads("CALM-EM").state_dict()
    trained = {}
    for method in ("CALM-EM", "CALM-ML"):
        model = Heads(method)
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)
        for _ in range(20):
            for rows in torch.arange(40).split(8):
                loss = model(maps[rows], labels[rows], with_loss=True)["loss"].mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        trained[method] = model.eval()

    em, ml = trained.values()
    assert not torch.equal(em.conv_last.weight, start["conv_last.weight"])
    for one, other in zip(em.parameters(), ml.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    maps_of = [model(maps, labels, return_cam="jointll") for model in (em, ml)]
    torch.testing.assert_close(*maps_of, rtol=1e-3, atol=1e-6)


def test_the_full_prior_is_the_derivative_the_detached_one_only_pushes_up() -> None:
    process, f, features, labels = make("CALM-ML", "full", nn.Softplus)
    assert torch.autograd.gradcheck(lambda a, b: process.loss(a, b, labels)["loss"], (f, features))
    bias_full = grads(*make("CALM-ML", "full", nn.Softplus))[3]
    bias_detached = grads(*make("CALM-ML", "detach", nn.Softplus))[3]
    assert bias_detached < 0 and not torch.allclose(bias_full, bias_detached)


def test_input_gradients_of_the_logits_go_through_the_whole_prior() -> None:
    process, f, features, _ = make("CALM-ML", "detach", nn.Softplus)
    assert torch.autograd.gradcheck(
        lambda a, b: process.input_for_loss(a, b)["logits"], (f, features)
    )


def test_another_models_posterior_changes_the_e_step() -> None:
    process, f, features, labels = make()
    own = process.get_cam(f, features, labels, None, "gtcond")
    same = process.loss(f, features, labels, posterior=own)["loss"]
    assert torch.allclose(same, process.loss(f, features, labels)["loss"])
    uniform = torch.full_like(own, 1 / 24)
    assert not torch.allclose(process.loss(f, features, labels, posterior=uniform)["loss"], same)


def test_dead_attention_is_uniform() -> None:
    process, f, features, labels = make()
    with torch.no_grad():
        process.attention[0].weight.zero_()
        process.attention[0].bias.fill_(-1)
    out = process.loss(f, features, labels)
    assert torch.allclose(process._latent_prior(features), torch.tensor(1 / 24).double())
    out["loss"].mean().backward()
    assert f.grad.isfinite().all()


def test_dead_attention_is_counted_by_image_and_warned_about_once() -> None:
    dead, attention = DeadAttention(), torch.zeros(3, 1, 2, 2)
    attention[1, 0, 1, 1] = 0.5
    dead.add(attention)
    dead.add(attention[:1])
    assert int(dead.count) == 3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dead.warn(0, 4)
        dead.warn(3, 4)
        dead.warn(3, 4)
    assert len(caught) == 1 and "attention of 3 of 4 images" in str(caught[0].message)


def test_classes_can_be_permuted() -> None:
    process, f, features, labels = make()
    order = torch.tensor([3, 0, 4, 1, 2])
    place = order.argsort()
    before, after = (
        process.input_for_loss(f, features),
        process.input_for_loss(f[:, order], features),
    )
    for key in ("inputs", "probs", "logits"):
        assert torch.allclose(before[key][:, order], after[key])
    assert torch.allclose(
        process.get_cam(f, features, labels, None, "gtcond"),
        process.get_cam(f[:, order], features, place[labels], None, "gtcond"),
    )


def test_underflow_keeps_the_loss_finite() -> None:
    process, f, features, labels = make("CALM-ML")
    big = (f.detach().float() * 200).requires_grad_()
    process.attention.float()
    loss = process.loss(big, features.detach().float(), labels)["loss"]
    loss.sum().backward()
    assert loss.isfinite().all() and big.grad.isfinite().all()


def test_a_class_without_mass_at_its_high_score_keeps_value_and_gradient() -> None:
    f = torch.tensor([[120.0, -60.0], [0.0, 60.0]]).view(1, 2, 1, 2).requires_grad_()
    attention = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    inputs = UniversalProcess("CALM-ML").input_for_loss(f, f, attention)["inputs"]
    assert inputs.tolist() == [[-120.0, 0.0]]
    inputs[0, 0].backward()
    assert f.grad.flatten().tolist() == [0, 1, 0, -1]


def test_superclass_maps() -> None:
    process, _, _, _ = make()
    cams = torch.arange(24.0).view(2, 3, 2, 2)
    cams[:, 2] = torch.nan
    for groups in ({0: [0, 1], 1: [1]}, {"0": [0, 1], "1": [1]}, [[0, 1], [1], [2]]):
        maps = process.add_subclass_maps(cams, torch.tensor([0, 1]), groups)
        assert torch.equal(maps, torch.stack([cams[0, :2].sum(0), cams[1, 1]]))
    for mean in (False, True):  # a class that stands there twice counts twice
        twice = process.add_subclass_maps(cams, torch.tensor([0, 0]), {0: [0, 1, 1]}, mean=mean)
        assert torch.allclose(twice, (cams[:, 0] + 2 * cams[:, 1]) / (3 if mean else 1))
    with pytest.raises(ValueError, match="label 2 has no group"):
        process.add_subclass_maps(cams, torch.tensor([2, 0]), {0: [0]})


def test_channels_last_and_scores() -> None:
    process, f, features, labels = make()
    process.conv_last = nn.Conv2d(7, 5, 1).double()
    ours, attention = process.scores(features)
    assert torch.allclose(ours, process.conv_last(features)) and torch.allclose(
        attention, process.attention(features)
    )
    last = [t.detach().contiguous(memory_format=torch.channels_last) for t in (f, features)]
    assert torch.allclose(
        process.loss(*last, labels)["loss"], process.loss(f, features, labels)["loss"]
    )


def test_constant_maps_contribute_nothing() -> None:
    maps = torch.stack([torch.ones(2, 2), torch.tensor([[0.0, 1.0], [2.0, 4.0]])])
    assert scale_to_unit(maps).tolist() == [[[0, 0], [0, 0]], [[0, 0.25], [0.5, 1]]]


def test_bad_arguments() -> None:
    process, f, features, labels = make()
    with pytest.raises(ValueError, match="sideways.*choose from vanilla"):
        process.get_cam(f, features, labels, None, "sideways")
    with pytest.raises(ValueError, match="--superclass_file"):
        process.get_cam(f, features, labels, None, "jointll-superclass")
    with pytest.raises(ValueError, match="CALM_XX"):
        UniversalProcess("CALM_XX")
    with pytest.raises(ValueError, match="prior_gradient"):
        UniversalProcess("CAM", "half")
