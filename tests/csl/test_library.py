"""The loss as a library, and what the released code exports, with the released calls."""

import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import csl.method
from csl import method
from csl.build_optimizer import ModelEma as TrainingEma
from csl.src.helper_functions import helper_functions
from csl.src.helper_functions.coco_simulation import plot_class_freq, simulate_coco
from csl.src.helper_functions.get_data import get_data
from csl.src.helper_functions.helper_functions import CocoDetection, ModelEma, parse_args
from csl.src.loss_functions.partial_asymmetric_loss import PartialSelectiveLoss
from csl.src.models.tresnet.layers.general_layers import SpaceToDepth, SpaceToDepthModule
from csl.src.models.tresnet.tresnet import bottleneck_head
from tests.csl.tiny import write_coco

BOTH = {"method": method.PartialSelectiveLoss, "released": PartialSelectiveLoss}
PRIOR = (0.9, 0.1, 0.2, 0.7, 0.3, 0.0)


def batch(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(7, 6, generator=generator)
    targets = torch.randint(-1, 2, (7, 6), generator=generator)
    return logits.to(dtype), targets


def released_namespace(**more):
    settings = {"partial_loss_mode": "selective", "clip": 0, "prior_path": None}
    settings |= {"gamma_pos": 0, "gamma_neg": 1, "gamma_unann": 4, "prior_threshold": 0.5}
    settings |= {"alpha_pos": 1, "alpha_neg": 1, "alpha_unann": 1, "likelihood_topk": 5}
    return Namespace(**settings | more)


# --- the object ---


@pytest.mark.slow
def test_the_method_works_where_nothing_else_can_be_imported(tmp_path):
    """The file is copied, and run where common and csl are not to be found."""
    source = Path(csl.method.__file__).read_text()
    (tmp_path / "borrowed.py").write_text(source)
    program = (
        "import sys; sys.modules['common'] = sys.modules['csl'] = None\n"
        "import torch, borrowed\n"
        "loss = borrowed.PartialSelectiveLoss(mode='selective', likelihood_topk=1)\n"
        "z = torch.zeros(2, 3, requires_grad=True)\n"
        "loss(z, torch.tensor([[1, 0, -1], [-1, -1, 0]])).backward()\n"
        "print(bool(z.grad.any()))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("kind", BOTH)
def test_keywords_have_the_papers_defaults(kind):
    logits, targets = batch()
    found = BOTH[kind]()(logits, targets)
    written = BOTH[kind](
        mode="selective", gamma_pos=0, gamma_neg=1, gamma_unann=4, prior=None, likelihood_topk=5
    )
    namespace = PartialSelectiveLoss(released_namespace())
    torch.testing.assert_close(found, written(logits, targets))
    torch.testing.assert_close(found, namespace(logits, targets))


def test_the_released_keyword_names_the_mode_too():
    logits, targets = batch()
    for mode in method.MODES:
        found = PartialSelectiveLoss(partial_loss_mode=mode)(logits, targets)
        again = PartialSelectiveLoss(mode)(logits, targets)
        plain = method.PartialSelectiveLoss(mode)(logits, targets)
        torch.testing.assert_close(found, plain)
        torch.testing.assert_close(found, again)


@pytest.mark.parametrize("kind", BOTH)
def test_a_prior_is_a_tensor_or_a_list(kind):
    logits, targets = batch()
    settings = {"likelihood_topk": 0, "prior_threshold": 0.5}
    found = BOTH[kind](prior=PRIOR, **settings)(logits, targets)
    same = BOTH[kind](prior=torch.tensor(PRIOR), **settings)(logits, targets)
    without = BOTH[kind](**settings)(logits, targets)
    assert found == same
    assert found < without


WRONG = {
    "mode": "selected",
    "gamma_pos": -1,
    "gamma_neg": float("nan"),
    "alpha_unann": float("inf"),
    "clip": 1.0,
    "likelihood_topk": 1.5,
    "likelihood_share": 2,
    "likelihood_scope": "all",
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("name", WRONG)
def test_settings_outside_their_domain(kind, name):
    with pytest.raises(ValueError, match=name.removeprefix("partial_loss_")):
        BOTH[kind](**{name: WRONG[name]})


@pytest.mark.parametrize("kind", BOTH)
def test_unknown_arguments_and_wrong_labels(kind):
    with pytest.raises(TypeError, match="gama"):
        BOTH[kind](gama_pos=1)
    logits, targets = batch()
    with pytest.raises(ValueError, match="no label"):
        BOTH[kind]()(logits, targets + 1)
    with pytest.raises(ValueError, match="prior of 2 classes"):
        BOTH[kind](prior=[0.1, 0.2])(logits, targets)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(kind, dtype):
    logits, targets = batch(dtype)
    logits = (10 * logits).requires_grad_()
    loss = BOTH[kind]()(logits, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, BOTH[kind]()(logits.detach().float(), targets))
    loss.backward()
    assert logits.grad.dtype == dtype
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", BOTH)
def test_derivatives_agree_with_eager(kind):
    logits, targets = batch(torch.float64)
    logits.requires_grad_()
    loss = BOTH[kind](prior=PRIOR, likelihood_topk=1)
    (gradient,) = torch.autograd.grad(loss(logits, targets), logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), logits)
    assert second.isfinite().all()
    assert second.any()
    plain = logits.detach()
    through = torch.func.grad(lambda z: loss(z, targets))(plain)
    torch.testing.assert_close(through, gradient.detach())
    twice = torch.func.grad(lambda z: torch.func.grad(lambda x: loss(x, targets))(z).sum())
    torch.testing.assert_close(twice(plain), second)


@pytest.mark.parametrize("kind", BOTH)
def test_one_graph_of_torch_compile_agrees_with_eager(kind):
    logits, targets = batch()
    loss = BOTH[kind](prior=PRIOR, likelihood_topk=1)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = []
    values = []
    for function in (loss, compiled):
        z = logits.clone().requires_grad_()
        value = function(z, targets)
        value.backward()
        values.append(value.detach())
        gradients.append(z.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


# --- what the released code exports ---


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"))


def test_get_data_takes_the_released_namespace(data):
    args = Namespace(
        data=str(data),
        metadata="./data/COCO_2014",
        model_name="tresnet_m",
        num_classes=80,
        workers=0,
        image_size=32,
        batch_size=8,
        simulate_partial_type="fpc",
        simulate_partial_param=5,
        partial_loss_mode="selective",
    )
    train_loader, val_loader = get_data(args)
    assert len(train_loader) == len(train_loader.batch_sampler)
    images, targets = next(iter(train_loader))
    assert images.shape == (8, 3, 32, 32)
    assert targets.shape == (8, 5)
    assert list(val_loader.dataset.classes.values())[0] == "person"


def test_parse_args_takes_the_released_parser():
    parser = ArgumentParser()
    parser.add_argument("--dataset_type", default="OpenImages")
    parser.add_argument("--th", default=None)
    args = parse_args(parser, [])
    assert (args.do_bottleneck_head, args.th) == (True, 0.995)
    args = parse_args(parser, ["--dataset_type", "MS-COCO"])
    assert (args.do_bottleneck_head, args.th) == (False, 0.7)
    from csl import infer

    assert infer.parse_args is parse_args
    assert helper_functions.parse_args(infer.parser, []).do_bottleneck_head


def test_layers_under_the_released_names():
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(SpaceToDepthModule()(images), SpaceToDepth()(images))
    assert torch.equal(SpaceToDepthModule(remove_model_jit=True)(images), SpaceToDepth()(images))
    head = bottleneck_head(16, 5, bottleneck_features=4)
    assert head(torch.rand(2, 16)).shape == (2, 5)
    assert bottleneck_head(16, 5).FC.in_features == 200


def test_class_frequencies_before_and_after(data, tmp_path):
    images = CocoDetection(str(data / "train2014"), data / "annotations/instances_train2014.json")
    before = images.targets_all.matrix.copy()
    args = Namespace(simulate_partial_type="rps", simulate_partial_param=0.5, seed=0)
    after = simulate_coco(args, images, verbose=False).targets_all.matrix
    drawn = plot_class_freq(before, after, tmp_path / "labels.png")
    assert drawn.stat().st_size > 1000
    counts = (before == 1).sum(0)
    assert plot_class_freq(counts, dict(enumerate(counts)), tmp_path / "counts.png").is_file()
    with pytest.raises(ValueError, match="5 classes before, 2 after"):
        plot_class_freq(before, [1, 2], tmp_path / "wrong.png")


def test_the_average_is_a_module(tmp_path):
    assert ModelEma is TrainingEma
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = ModelEma(model, 0.5)
    assert isinstance(average, nn.Module)
    average.update(model)
    torch.save(average.state_dict(), tmp_path / "ema.pt")
    state = torch.load(tmp_path / "ema.pt", weights_only=True)
    again = ModelEma(model, 0.5)
    again.load_state_dict(state)
    assert again.updates == 1
    earlier = {"module": average.module.state_dict(), "updates": 7}
    again.load_state_dict(earlier)
    assert again.updates == 7


def test_annotations_answer_as_pycocotools(data):
    images = CocoDetection(str(data / "train2014"), data / "annotations/instances_train2014.json")
    coco = images.coco
    for image_id in images.ids[:5]:
        ids = coco.getAnnIds(imgIds=image_id)
        records = coco.loadAnns(ids)
        assert records == coco.imgToAnns[image_id]
        classes = {images.cat2cat[record["category_id"]] for record in records}
        assert classes == set(np.flatnonzero(images.targets_all[image_id].numpy() == 1).tolist())
    with pytest.raises(AttributeError, match="getNothing"):
        _ = coco.getNothing
