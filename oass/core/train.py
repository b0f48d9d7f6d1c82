"""The one training loop; the scripts differ by a strategy (DESIGN: parse, seed, data, model, loss, loop, save)."""

import argparse
import copy
from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from common.aliases import one_module
from common.loading import Batch
from common.run import Run, start_run
from common.rundir import make_accelerator, seed_everything, share_buffers
from common.sync_bn import synchronised
from oass.core import report
from oass.core.backbones import Normalisation
from oass.core.build import (
    build_data,
    build_optimizer,
    build_student,
    build_teacher,
    least_images,
    refuse_for_several_processes,
)
from oass.core.datasets import VOC_Dataset_For_Classification
from oass.core.evaluate import measure, score_split
from oass.core.keypoints import positive_pairs
from oass.core.losses import re_loss_weight
from oass.core.networks import Classifier
from oass.core.objective import Objective
from oass.core.options import LOSS_PARTS, WITH_TEACHER
from oass.core.terms import Terms, terms_of
from oass.core.transforms import Picture, normalise
from oass.tools.ai.log_utils import Average_Meter
from oass.tools.ai.optim_utils import copy_buffers, update_ema_variables

one_module(__name__, "oass.core.train")

LOGGED = ("loss", "class_loss", "p_class_loss", "re_loss", "conf_loss", "dead_cam", "num_pairs")


def train(args: argparse.Namespace, strategy: str) -> dict[str, object]:
    """One run of a strategy: train, evaluate after every epoch, save; returns the summary."""
    args.strategy = strategy
    terms = terms_of(strategy, args.p_loss, args.loss_option)
    # Without cl the instance head has no gradient; heads of timm's networks may lie behind the feature map.
    is_whole = (
        "cl" in terms.present and strategy != "gap" and not args.architecture.startswith("timm:")
    )
    ddp = DistributedDataParallelKwargs(find_unused_parameters=not is_whole)
    accelerator = make_accelerator(args, kwargs_handlers=[ddp])
    seed_everything(args.seed)
    refuse_for_several_processes(args, accelerator)
    train_data, val_data, loader = build_data(args, accelerator)
    run = start_run(args, f"experiments/{args.tag or strategy}", accelerator)
    steps = len(loader.batch_sampler)
    max_iteration = args.max_epoch * steps

    student = build_student(args, run.poll)
    if args.sync_bn:
        student = synchronised(student, accelerator)
    student = student.to(
        accelerator.device, memory_format=torch.channels_last
    )  # faster, on a CPU too
    teacher = build_teacher(student) if strategy in WITH_TEACHER else None
    optimizer = build_optimizer(args, student, steps)
    meter = Average_Meter(LOGGED, accelerator)
    network, optimizer = accelerator.prepare(Objective(student, teacher, args), optimizer)
    stateful = {"model": student, "optimizer": optimizer, "meter": meter}
    run.restore(**stateful, **({"teacher": teacher} if teacher is not None else {}))
    report.print_start(run, args, train_data, val_data, student, optimizer, steps)

    for epoch in run.epochs(args.max_epoch):
        network.train()
        loader.batch_sampler.set_epoch(epoch, run.progress.batch)
        for batch in run.bar(loader, f"epoch {epoch + 1}/{args.max_epoch}", steps):
            report.log_if_due(run, args, meter, optimizer, steps)
            counts = count_together(batch, args, accelerator)
            if counts.smallest < least_images(
                args.architecture
            ):  # a process could read none of its images
                run.step(0, counts.images + counts.skipped)
                continue
            images, labels, pairs = to_device(batch.data, accelerator.device, student.normalisation)

            with accelerator.autocast():
                losses = network(images, labels, pairs)
            i = run.progress.step
            weight = re_loss_weight(args.alpha_re, args.alpha_schedule_re, i, max_iteration)
            weight_by_pairs(losses, terms, accelerator)
            weight_by_images(losses, terms, len(labels) * run.world / counts.images)
            loss = total_loss(losses, terms, args.alpha_p, weight)
            lr = optimizer.param_groups[0]["lr"]
            run.guard(
                loss,
                batch.index,
                partial(what_was, train_data.split.ids, batch.index, losses["dead_cam"], lr),
            )
            accelerator.backward(loss)
            if args.clip_grad is not None:
                accelerator.clip_grad_norm_(network.parameters(), args.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
            if teacher is not None:
                move_teacher(teacher, student, args, accelerator, i)

            meter.add({**losses, "loss": loss}, counts.images / run.world)
            run.step(counts.images, counts.skipped)
        run.save_before_evaluation()
        report.log_if_due(run, args, meter, optimizer, steps)
        if run.stopped:
            break
        evaluate(args, run, student, teacher, val_data)
        run.end_epoch(score=run.lines[-1]["map"])

    return report.finish(args, run, student, teacher, val_data)


class Counts(NamedTuple):
    """Of a step, over all processes: images that could be read, and that could not; the fewest that a process read."""

    images: int
    skipped: int
    smallest: int


def count_together(batch: Batch, args: argparse.Namespace, accelerator: Accelerator) -> Counts:
    """The counts of a batch. Processes ask each other only with --skip_corrupt: otherwise all have equally many.

    A process that had nothing to do would leave the others waiting, so all decide by the same numbers.
    """
    mine = len(batch.index)
    if accelerator.num_processes == 1 or not args.skip_corrupt:
        return Counts(mine * accelerator.num_processes, batch.skipped, mine)
    counts = accelerator.gather(torch.tensor([[mine, batch.skipped]], device=accelerator.device))
    images, skipped = counts.sum(0).tolist()
    return Counts(images, skipped, int(counts[:, 0].min()))


def to_device(
    data: tuple[Picture, torch.Tensor], device: torch.device, normalisation: Normalisation
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """Normalised images, labels and their positive pairs; the pairs are found on the host, so nothing waits."""
    picture, labels = data
    pairs = tuple(index.to(device, non_blocking=True) for index in positive_pairs(labels))
    return (
        normalise(Picture(*picture), device, *normalisation),
        labels.to(device, non_blocking=True),
        pairs,
    )


def move_teacher(
    teacher: Classifier,
    student: Classifier,
    args: argparse.Namespace,
    accelerator: Accelerator,
    step: int,
) -> None:
    """The teacher after a step of the student: its averaged weights, and with --teacher_bn eval the statistics."""
    update_ema_variables(student, teacher, args.alpha_ema, step)
    if args.teacher_bn == "eval":
        share_buffers(accelerator, student)
        copy_buffers(student, teacher)


def weight_by_pairs(
    losses: dict[str, torch.Tensor], terms: Terms, accelerator: Accelerator
) -> None:
    """With several processes: weight the means over pairs by P_local * world / sum P, in place.

    Then the averaged loss and gradient are those of one process with the whole batch.
    """
    if accelerator.num_processes == 1:
        return
    pairs = losses["num_pairs"]
    share = (
        pairs * accelerator.num_processes / accelerator.reduce(pairs.clone(), "sum").clamp_min(1)
    )
    for part in terms.over_pairs:
        losses[LOSS_PARTS[part]] = share * losses[LOSS_PARTS[part]]


def weight_by_images(losses: dict[str, torch.Tensor], terms: Terms, share: float) -> None:
    """Weight the means over images by B_local * world / sum B, in place: as `weight_by_pairs`, for uneven batches."""
    if share == 1:
        return
    for part in terms.present - terms.over_pairs:
        losses[LOSS_PARTS[part]] = share * losses[LOSS_PARTS[part]]


def total_loss(
    losses: dict[str, torch.Tensor], terms: Terms, p_weight: float, re_weight: float
) -> torch.Tensor:
    """L = L_cl + alpha_p L_pcl + alpha_re(i) L_re (+ conf), of these the terms that are present."""
    weights = {"cl": 1.0, "pcl": p_weight, "re": re_weight, "conf": 1.0}
    return sum(
        weights[part] * losses[name] for part, name in LOSS_PARTS.items() if part in terms.present
    )


def what_was(ids: list[str], index: torch.Tensor, dead_cam: torch.Tensor, lr: float) -> str:
    """Of a step whose loss is not finite: its images, the share of dead maps, the learning rate."""
    shown = ", ".join(ids[k] for k in index[:4].tolist())
    return f"images {shown}, dead_cam {float(dead_cam):.2f}, lr {lr:.3g}: lower --lr"


def evaluate(
    args: argparse.Namespace,
    run: Run,
    student: Classifier,
    teacher: Classifier | None,
    data: VOC_Dataset_For_Classification,
) -> None:
    """Evaluation/{map, best map, ...} of the student on the validation split; with --eval_ema the teacher's too."""
    share_buffers(run.accelerator, student)
    options = {
        "difficult": args.difficult,
        "drop_last": args.batch_size if args.drop_last_eval else 0,
    }
    if args.eval_ema:
        averaged = copy.deepcopy(teacher)
        copy_buffers(student, averaged)
        found = measure(score_split(averaged, data, args, run), data.split, **options)
        run.log("Evaluation_ema", **found, **report.count_of(data))
    scores = score_split(student, data, args, run, plain=args.strategy == "gap")
    found = measure(scores, data.split, **options)
    values = [
        v for v in (found["map"], *run.values("Evaluation", "map")) if v is not None and v == v
    ]
    best = max(values, default=float("nan"))  # NaN: no class of this split has a positive
    run.log(
        "Evaluation",
        **{"map": found.pop("map"), "best map": best, **found, **report.count_of(data)},
    )
    report.after_epoch(args, run, student, teacher, data)
