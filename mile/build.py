"""Networks and learner of a run, from its settings."""

import contextlib
from collections.abc import Iterator
from typing import Any

import timm
import torch
import torchvision
from accelerate import Accelerator
from torch import nn

from common.aliases import one_module
from common.cli import UserError
from common.data import connection_limits
from common.loading import seed_of
from common.sync_bn import synchronised
from mile.config import setting
from mile.learning import IteratedLearning
from mile.models import build_model, load_weights, start_at_prior
from mile.sources import Source

one_module(__name__, "mile.build")


def build_network(conf: Any, num_classes: int, accelerator: Accelerator) -> nn.Module:
    """The network of conf.model on the device, from scratch or from conf.pretrained."""
    bias_init = "default" if conf.schema == "softmax" else setting(conf, "bias_init")
    model = build_model(conf.model, num_classes, bias_init)
    if conf.pretrained == "imagenet":
        _load_published(model, conf.model, num_classes, bias_init)
    elif conf.pretrained:
        load_weights(model, conf.pretrained)
    if accelerator.num_processes > 1:
        model = synchronised(model, accelerator)
    return model.to(
        accelerator.device, memory_format=torch.channels_last
    )  # a quarter faster, on a CPU too


def _load_published(model: nn.Module, name: str, num_classes: int, bias_init: str) -> None:
    """torchvision's (resnet18, resnet50) or timm's ImageNet weights; the last layer only where 1,000 classes fit."""
    in_torchvision = name in ("resnet18", "resnet50")
    if not in_torchvision and name not in timm.list_models(pretrained=True):
        raise UserError(
            f"--pretrained imagenet: there are no published weights of {name}; give a file"
        )
    try:
        with connection_limits():
            if in_torchvision:
                state = torchvision.models.get_model(name, weights="IMAGENET1K_V1").state_dict()
            else:
                state = timm.create_model(
                    name, pretrained=True, num_classes=num_classes
                ).state_dict()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"--pretrained imagenet: download failed ({error}); give a weight file instead"
        ) from error
    own = model.state_dict()
    model.load_state_dict(
        {k: state[k] if k in state and state[k].shape == v.shape else v for k, v in own.items()}
    )
    if num_classes != 1000 and bias_init == "prior":
        start_at_prior(model, num_classes)


@contextlib.contextmanager
def _seeded(*parts: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(*parts))
        yield


def build_learner(conf: Any, source: Source, accelerator: Accelerator) -> IteratedLearning:
    """Teacher and, where it is a network of its own, student; SGD with lr * batch_size / 256 under scale_lr."""
    c, two = source.num_classes, conf.schema == "MILe" and conf.student_init != "teacher"
    teacher = build_network(conf, c, accelerator)
    student = build_network(conf, c, accelerator) if two else None

    def new_student(generation: int) -> nn.Module:
        with _seeded(conf.seed, 3, generation):
            return build_network(conf, c, accelerator)

    return IteratedLearning(
        teacher,
        student,
        num_classes=c,
        rho=conf.rho,
        threshold_on=conf.threshold_on,
        reduction=conf.reduction,
        student_init=conf.student_init if two else "teacher",
        keep_ground_truth=conf.keep_ground_truth,
        lr=conf.lr * (conf.batch_size / 256 if conf.scale_lr else 1),
        nesterov=conf.nesterov,
        accelerator=accelerator,
        schema=conf.schema,
        new_student=new_student,
    )
