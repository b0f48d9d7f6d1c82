"""From settings to objects. Below this file nothing sees the argparse namespace."""

import argparse
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from accelerate import Accelerator
from torch import nn

from cavl.baselines import BASELINES
from cavl.build_frozen import with_features
from cavl.build_named import HIDDEN, MlpNetwork, NamedNetwork, named_network
from cavl.cifar_models import convnet, densenet, resnet
from cavl.data import PartialData
from cavl.data_candidates import read_candidates
from cavl.data_input import InputFormat
from cavl.data_labels import LabelState
from cavl.data_pictures import PictureFiles
from cavl.data_resident import Images
from cavl.data_sets import Sets
from cavl.method import CAVL, PartialLabelMethod
from cavl.options_rules import MODELS, needs_maps
from cavl.utils.models import LeNet, linear_model, mlp_model
from common.accumulation import smallest_part
from common.aliases import one_module
from common.backbones import Report, load_weights
from common.cli import UserError
from common.compiling import compiled
from common.meter import Meter
from common.rundir import prepare
from common.sync_bn import synchronised

one_module(__name__, "cavl.build")

DROPOUT = 0.25  # of the convnet

METHODS: dict[str, type[PartialLabelMethod]] = {"cavl": CAVL, **BASELINES}


@dataclass
class Learner:
    """What a training step touches, and how it trains.

    model: the network without wrappers. images: those that are trained on, or their features.
    looks_again: the update reads a second forward, after the step. by_maps: it reads class
    activation maps.
    """

    accelerator: Accelerator
    model: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer
    images: Images
    test_images: Images
    labels: LabelState
    loss: Meter
    seed: int
    epochs: int
    batch_size: int  # of each process, in a step
    at_once: int  # of these so many in one pass
    augment: bool
    looks_again: bool
    by_maps: bool


def build_learner(
    args: argparse.Namespace,
    data: PartialData,
    candidates: Sets,
    accelerator: Accelerator,
    poll: Callable[[], None] = lambda: None,
) -> Learner:
    """Everything that learns, on its device, from data and candidate sets (n, K).

    poll: called now and then while features are computed; it may end the program.
    """
    require_full_batches(args, data, accelerator.num_processes)
    device = accelerator.device
    method = build_method(args)
    model = on_device(build_model(args, data), device)
    if args.sync_bn:
        synchronised(model, accelerator)
    if args.frozen_features:
        pooled = not needs_maps(args)
        data = with_features(data, model, pooled=pooled, device=device, poll=poll)
    wrapped = compiled(model, args.compile)
    network, optimizer = prepare(accelerator, wrapped, build_optimizer(args, model))
    return Learner(
        accelerator=accelerator,
        model=model,
        network=network,
        optimizer=optimizer,
        images=images_of(args, data, data.train_x, device),
        test_images=images_of(args, data, data.test_x, device),
        labels=LabelState(method, candidates, accelerator),
        loss=Meter(accelerator),
        seed=args.seed,
        epochs=args.ep,
        batch_size=args.bs * args.grad_accum,
        at_once=args.bs,
        augment=args.augment,
        looks_again=method.looks_again and args.cav_forward == "after",
        by_maps=args.method == "cavl" and args.select == "cam",
    )


def images_of(
    args: argparse.Namespace,
    data: PartialData,
    pixels: torch.Tensor | PictureFiles,
    device: torch.device,
) -> Images:
    """A part of the data, in the scale of the data."""
    return Images(pixels, device, mean=data.mean, std=data.std, limit_gb=args.resident_gb)


def default_dir(args: argparse.Namespace) -> str:
    """save/DATA_MODEL_METHOD, or of a comparison save/DATA_MODEL_compare."""
    what = "compare" if args.compare else args.method
    network = re.sub(r"[/:]+", "_", args.mo)
    return f"save/{args.ds}_{network}_{what}"


def build_method(args: argparse.Namespace) -> PartialLabelMethod:
    """The method of -method; each field of its dataclass is the flag of the same name."""
    method = METHODS[args.method]
    settings = {}
    for field in fields(method):  # type: ignore[arg-type]  # every method is a dataclass
        if field.name == "num_classes":
            continue  # the sets, which a run has checked, say it
        settings[field.name] = getattr(args, field.name)
    return method(**settings)


def build_model(args: argparse.Namespace, data: PartialData) -> nn.Module:
    """The network of -mo for the data, on the CPU, with the weights that it starts from."""
    return build_loaded(args, data)[0]


def build_loaded(args: argparse.Namespace, data: PartialData) -> tuple[nn.Module, Report | None]:
    """The network, and what was loaded of -weights."""
    takes = InputFormat.of(data)
    pretrained = bool(args.pretrained)
    model = build_network(
        args.mo, takes, ds=args.ds, depth=args.depth, pretrained=pretrained, head=args.head
    )
    if args.weights is None:
        return model, None
    target = model
    if isinstance(model, NamedNetwork):
        target = model.classifier_network
    elif isinstance(model, MlpNetwork):
        target = model.features
    return model, load_weights(target, args.weights)


def build_network(
    name: str,
    takes: InputFormat,
    *,
    ds: str,
    depth: int,
    pretrained: bool = False,
    head: str = "linear",
) -> nn.Module:
    """The network `name` (-mo) for an input; UserError names the models that can take it.

    ds: the data set, for that message. depth: of a resnet. pretrained: with the published weights.
    head: of a network of a library, linear or mlp.
    """
    shape = takes.shape
    k = takes.num_classes
    size = math.prod(shape)
    if len(shape) != 3 and name not in ("linear", "mlp", "lenet"):
        raise UserError(f"-mo {name} takes images, {ds} has {size} features: use linear or mlp")
    if name == "convnet" and min(shape[1:]) < 28:
        problem = f"-mo convnet takes images from 28x28 on, {ds} is {shape}"
        raise UserError(f"{problem}: use another model")
    if name == "lenet" and shape != (1, 28, 28):
        others = "linear, mlp, convnet, resnet or densenet"
        raise UserError(f"-mo lenet takes 1x28x28, {ds} is {shape}: use {others}")
    if name not in MODELS:
        return named_network(name, shape, k, pretrained=pretrained, head=head)
    makers = {
        "linear": lambda: linear_model(size, k),
        "mlp": lambda: mlp_model(size, HIDDEN, k),
        "lenet": lambda: LeNet(k),
        "convnet": lambda: convnet.Cnn(shape[0], k, DROPOUT),
        "resnet": lambda: resnet(depth=depth, num_classes=k, in_channels=shape[0]),
        "densenet": lambda: densenet(num_classes=k, in_channels=shape[0]),
    }
    return makers[name]()


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The network on a device, its weights channels-last (README, speed)."""
    return model.to(device).to(memory_format=torch.channels_last)


def require_full_batches(args: argparse.Namespace, data: PartialData, processes: int) -> None:
    """UserError where a process gets a batch of one image that BatchNorm cannot take.

    The convnet's last map is one pixel for 28x28, so that a single image leaves one value a
    channel; so it is with the maps of many networks for small images.
    """
    n = len(data.train_x)
    batch = args.bs * args.grad_accum * processes
    smallest = smallest_part(n % batch or batch, args.bs, processes)
    if smallest >= 2 or not needs_two(args, data):
        return
    problem = "a single image a batch"
    if args.bs > 1:
        problem = f"the last batch of {n} images leaves a single one"
    size = "x".join(map(str, data.train_x.shape[2:]))
    raise UserError(
        f"-bs {args.bs}: {problem}, which {args.mo} cannot normalise at {size}; choose another size"
    )


def needs_two(args: argparse.Namespace, data: PartialData) -> bool:
    """Whether the network cannot be trained on one image of this size at a time."""
    if args.frozen_features:
        return False
    if args.mo in MODELS:
        return args.mo == "convnet" and data.train_x.shape[-1] < 32
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build_network(args.mo, InputFormat.of(data), ds=args.ds, depth=args.depth)
        try:
            network.train()(torch.zeros(1, *data.train_x.shape[1:]))
        except ValueError:  # of BatchNorm
            return True
    return False


def require_fitting(args: argparse.Namespace, data: PartialData) -> None:
    """UserError where network, batches or sets do not fit the data, before a folder is touched."""
    is_light = args.mo in MODELS and args.weights is None
    if is_light:
        with torch.device("meta"):  # takes no memory and draws no random numbers
            build_model(args, data)
    else:
        with torch.random.fork_rng(devices=[]):
            _, report = build_loaded(args, data)
        if report is not None and os.environ.get("RANK", "0") == "0":
            print(report, flush=True)
    require_full_batches(args, data, processes=int(os.environ.get("WORLD_SIZE", "1")))
    if args.partial_type == "file":
        read_candidates(args.partial_file, len(data.train_y), data.num_classes)


def build_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """Adam (L2 in the gradient, not AdamW) or SGD with momentum 0.9."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if args.op == "adam":
        return torch.optim.Adam(weights, lr=args.lr, weight_decay=args.wd, fused=True)
    return torch.optim.SGD(weights, lr=args.lr, weight_decay=args.wd, momentum=0.9, fused=True)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, epoch: int, *, lr: float, schedule: str, epochs: int
) -> float:
    """Set and return an epoch's rate: constant, or lr (1 + cos(pi epoch / epochs)) / 2."""
    if schedule == "cosine":
        lr = lr * (1 + math.cos(math.pi * epoch / epochs)) / 2
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr
