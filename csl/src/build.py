"""What a run trains, measures and averages, and how it is made."""

import argparse
import math
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR

from common.aliases import one_module
from common.meter import Meter
from common.run import Run
from csl.src import report
from csl.src.domain import require_count, require_number
from csl.src.errors import SettingsError
from csl.src.helper_functions.ema import ModelEma, add_weight_decay
from csl.src.helper_functions.get_data import DataSet, pixels_of
from csl.src.loss_functions.partial_asymmetric_loss import ComputePrior, PartialSelectiveLoss
from csl.src.models import create_model
from csl.src.models.utils.checkpoint import ModelInfo, load_pretrained
from csl.src.selection import DropStatistics

one_module(__name__, "csl.src.build")


class Parts(NamedTuple):
    """Everything that a run trains, measures or averages."""

    info: ModelInfo
    model: nn.Module
    optimizer: Adam
    scheduler: OneCycleLR
    ema: ModelEma
    criterion: PartialSelectiveLoss
    prior: ComputePrior
    drops: DropStatistics
    loss: Meter


def build(
    args: argparse.Namespace,
    loss_args: argparse.Namespace,
    run: Run,
    train_set: DataSet,
    steps: int,
) -> Parts:
    """Network, optimiser, loss and averages; `steps` of an epoch."""
    device, names = run.accelerator.device, list(train_set.classes.values())
    info = ModelInfo(args, train_set.columns, pixels_of(args))
    model = create_model(info.settings).to(device, memory_format=torch.channels_last)
    load_pretrained(args, model)
    optimizer, scheduler = make_optimizer(model, args.lr, args.weight_decay, args.epochs, steps)
    warmup = args.ema_warmup == "on" or (args.ema_warmup == "auto" and args.epochs * steps < 20_000)
    criterion = PartialSelectiveLoss(loss_args, names).to(device)
    if args.prior_quantile is not None and criterion.prior_classes is not None:
        loss_args.prior_threshold = criterion.prior_classes.quantile(args.prior_quantile).item()
    report.describe_prior(loss_args, run, criterion, names)
    return Parts(
        info=info,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        ema=ModelEma(model, args.ema_decay, warmup=warmup),
        criterion=criterion,
        prior=ComputePrior(train_set.classes, run.folder, run.accelerator),
        drops=DropStatistics(
            loss_args, criterion.prior_classes, train_set.complete, run.accelerator
        ),
        loss=Meter(run.accelerator),
    )


def make_optimizer(
    model: nn.Module, lr: float, weight_decay: float, epochs: int, steps_per_epoch: int
) -> tuple[Adam, OneCycleLR]:
    """Adam with L2 on all but biases and norms; one cycle: warm-up over 0.2, cosine, beta1 0.95 to 0.85 and back.

    SettingsError (a ValueError): a rate that is not above 0, a negative decay, no epoch, no step.
    """
    require_number(lr, "lr", 0)
    require_count(epochs, "epochs", 1)
    require_count(steps_per_epoch, "steps_per_epoch", 1)
    if lr == 0:
        raise SettingsError("lr 0: must be above 0")
    optimizer = Adam(add_weight_decay(model, weight_decay), lr=lr, weight_decay=0, fused=True)
    scheduler = OneCycleLR(
        optimizer,
        lr,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        pct_start=warmup_share(epochs * steps_per_epoch),
    )
    return optimizer, scheduler


def warmup_share(steps: int) -> float:
    """The share of a run of `steps` that the warm-up takes: 0.2, as released.

    OneCycleLR ends the warm-up at step 0.2 * steps - 1. With five steps that is its first step, step 0, and the
    position inside the warm-up is 0/0. There it ends a rounding error later, so that the run begins at lr / 25 as
    all longer runs do.
    """
    share = 0.2
    return math.nextafter(share, 1) if share * steps - 1 == 0 else share
