"""A training that has everything a run must carry over.

Dropout, momentum, a schedule, an EMA teacher, label state, augmentation from all three global
generators, a running mean.
"""

import random
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.loading import eval_loader, gather_in_order, train_loader
from common.meter import Meter
from common.run import Run, start_run
from common.rundir import make_accelerator, seed_everything

SAMPLES, BATCH, EPOCHS = 15, 4, 3
STEPS = EPOCHS * 4  # batches of 4, 4, 4 and 3


def settings(folder: Path | None, **changed: Any) -> Namespace:
    """The settings of a toy run, as its parser would return them."""
    return Namespace(
        **{
            **{"output_dir": folder, "resume": None, "overwrite": False, "max_steps": None},
            **{"checkpoint_every": None, "seed": 0, "cpu": True, "mixed_precision": None},
            **{
                "epochs": EPOCHS,
                "lr": 0.1,
                "workers": 0,
                "data": Path("somewhere"),
                "sizes": (3, 4),
            },
            **changed,
        }
    )


class Points(torch.utils.data.Dataset):
    """Four numbers and a class, with noise from torch, NumPy and Python's global generators."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        x = torch.linspace(-1, 1, 4) * (index - 7) / 4
        return x + 0.1 * torch.randn(4) + 0.1 * np.random.rand() + 0.1 * random.random(), index % 3  # noqa: NPY002


def train(
    args: Namespace,
    *,
    default_dir: str = "toy",
    after_step: Callable[[Run], None] = lambda run: None,
    spoil: Callable[[torch.Tensor, Run], torch.Tensor] = lambda loss, run: loss,
    in_evaluation: Callable[[Run], None] = lambda run: None,
    before_finish: Callable[[Run], None] = lambda run: None,
) -> Run:
    """Train the toy; `after_step` is called before each `run.step`, `spoil` may change the loss.

    `in_evaluation` is called in the middle of each evaluation, when part of it is logged already;
    `before_finish` after the last epoch.
    """
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    run = start_run(args, default_dir, accelerator)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    network = accelerator.prepare(model)
    teacher = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=STEPS)
    confidence, mean_loss = torch.full((SAMPLES, 3), 1 / 3), Meter(accelerator)
    loader = train_loader(
        Points(), BATCH, seed=args.seed, accelerator=accelerator, workers=args.workers
    )
    tests = eval_loader(Points(), BATCH, accelerator=accelerator)
    run.restore(
        **{"model": network, "teacher": teacher, "optimizer": optimizer, "scheduler": scheduler},
        **{"confidence": confidence, "mean_loss": mean_loss},
    )
    for _ in run.epochs(args.epochs):
        loader.batch_sampler.set_epoch(run.progress.epoch, run.progress.batch)
        network.train()
        for (x, _), index, _ in run.bar(loader, "toy", 4):
            logits = network(x * (1 + np.random.rand() * 0.1))  # noqa: NPY002
            loss = spoil(-(confidence[index] * logits.log_softmax(1)).sum(1).mean(), run)
            run.guard(loss, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            teacher.update_parameters(model)
            where, rows = gather_in_order(
                index, logits.detach().softmax(1), accelerator=accelerator
            )
            confidence[where] = 0.7 * confidence[where] + 0.3 * rows
            mean_loss.add(loss, len(index))
            after_step(run)
            run.step(len(where))
        if run.stopped:
            break
        run.save_before_evaluation()
        model.eval()
        run.log("train", loss=mean_loss.compute(), nothing=float("nan"), draw=random.random())
        in_evaluation(run)
        rows = [(index, model(x).argmax(1), y) for (x, y), index, _ in tests]
        columns = map(torch.cat, zip(*rows, strict=True))
        _, guess, truth = gather_in_order(*columns, accelerator=accelerator)
        run.log("test", accuracy=(guess == truth).double().mean().item())
        run.end_epoch(score=run.values("test", "accuracy")[-1])
    before_finish(run)
    run.finish(accuracy=(run.values("test", "accuracy") or [None])[-1], undefined=float("nan"))
    return run
