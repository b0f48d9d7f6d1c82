"""The training loop that the four entry scripts share; they differ by a strategy.

settings = parse("cTopk-w", argv)
summary = train(settings)
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from common.accumulation import equal_parts, micro_batches
from common.aliases import one_module
from common.estimate import FirstSteps
from common.loading import Batch
from common.run import Run, start_run
from common.rundir import seed_everything, share_buffers
from oass import report
from oass.build import (
    build_accelerator,
    build_data,
    build_measure,
    build_networks,
    build_objective,
    build_optimizer,
    build_pictures,
    build_walk,
    check_architecture,
    least_images,
)
from oass.build_frozen import build_frozen
from oass.build_objective import Objective
from oass.core.networks import Classifier
from oass.data import VOC_Dataset_For_Classification
from oass.data_voc import write_lines
from oass.evaluate import Walk, measure, score_split
from oass.method import re_loss_weight, total_loss
from oass.options import Settings
from oass.options_check import differences
from oass.options_flags import ARCHITECTURES, PUZZLES
from oass.options_own import CLASS_FILE
from oass.train_step import (
    Described,
    LossesOfPart,
    copy_buffers,
    count_together,
    move_teacher,
    pairs_together,
    present_weights,
    rows_of,
    sum_of_parts,
    to_device,
    weight_by_images,
    weight_by_pairs,
)

one_module(__name__, "oass.train")

LOGGED = ("loss", "class_loss", "p_class_loss", "re_loss", "conf_loss", "dead_cam", "num_pairs")


@dataclass
class Training:
    """What a run works with from its first step to its last."""

    settings: Settings
    run: Run
    train_data: VOC_Dataset_For_Classification
    val_data: VOC_Dataset_For_Classification
    loader: DataLoader
    student: Classifier
    teacher: Classifier | None
    objective: Objective
    network: torch.nn.Module  # the objective, as accelerate prepared it
    optimizer: torch.optim.Optimizer
    meter: report.Average_Meter
    weights: dict[str, float]  # of each part of the loss; that of L_re follows the step
    steps: int  # of an epoch


def prepare(settings: Settings) -> Training:
    """Data, networks, losses, optimiser and run directory; a run that is resumed is restored."""
    args = settings.args
    check_architecture(settings)
    accelerator = build_accelerator(settings)
    seed_everything(args.seed, fast=args.fast)

    train_data, val_data, loader = build_data(settings, accelerator)
    run = start_run(args, f"experiments/{args.tag or args.strategy}", accelerator)

    classes = train_data.classes
    student, teacher = build_networks(settings, accelerator, run.poll, len(classes))
    if args.frozen_features:
        loader = build_frozen(settings, run, student, train_data, val_data)
    sampler: Any = loader.batch_sampler
    steps = len(sampler)
    transform: Any = train_data.transform
    transform.resample_as(student.interpolation)
    optimizer: torch.optim.Optimizer = build_optimizer(settings, student, steps)
    meter = report.Average_Meter(LOGGED, accelerator)
    objective = build_objective(settings, student, teacher)
    network, optimizer = accelerator.prepare(objective, optimizer)

    stateful: dict[str, Any] = {"model": student, "optimizer": optimizer, "meter": meter}
    if args.architecture not in ARCHITECTURES:
        stateful["input"] = Described(student.described_input())
    if settings.own is not None:
        stateful["class_names"] = Described({"names": list(classes)})
        if run.is_main:
            write_lines(run.folder / CLASS_FILE, classes)
    if teacher is not None:
        stateful["teacher"] = teacher
    run.restore(**stateful)
    return Training(
        settings=settings,
        run=run,
        train_data=train_data,
        val_data=val_data,
        loader=loader,
        student=student,
        teacher=teacher,
        objective=objective,
        network=network,
        optimizer=optimizer,
        meter=meter,
        weights={"cl": 1.0, "pcl": args.alpha_p, "re": 0.0, "conf": 1.0},
        steps=steps,
    )


def train(settings: Settings) -> dict[str, Any]:
    """One run of a strategy: train, evaluate after every epoch, save; returns the summary."""
    args = settings.args
    strategy = args.strategy
    name = args.tag or strategy
    made = prepare(settings)
    run = made.run
    val_data = made.val_data
    announce(run, settings, (made.train_data, val_data), made.objective, made.optimizer, made.steps)

    sampler: Any = made.loader.batch_sampler
    every = max(1, int(made.steps * args.print_ratio))
    max_iteration = args.max_epoch * made.steps
    is_gated = strategy != "gap"
    log = partial(
        report.log_if_due, run, made.meter, made.optimizer, every, max_iteration, is_gated
    )
    classes = made.train_data.classes
    pictures = build_pictures(settings, made.objective, run.accelerator, classes)
    walk = build_walk(settings)
    measured = build_measure(settings)
    first_steps = watch_first_steps(made)

    for epoch in run.epochs(args.max_epoch):
        made.network.train()
        sampler.set_epoch(epoch, run.progress.batch)
        first_steps.begin()
        for batch in run.bar(made.loader, f"epoch {epoch + 1}/{args.max_epoch}", made.steps):
            log()
            train_step(made, batch)
            first_steps.add()
        run.save_before_evaluation()
        log()
        if run.stopped:
            break
        averaged = made.teacher if args.eval_ema else None
        evaluate(run, made.student, averaged, val_data, walk, plain=not is_gated, **measured)
        report.after_epoch(run, name, args.max_epoch, with_teacher=args.eval_ema, classes=classes)
        if run.is_main:
            pictures.save(run, made.student, made.teacher or made.student, val_data)
        score = None if args.last_only else run.values("Evaluation", "map")[-1]
        run.end_epoch(score=score)

    return report.finish(
        run, strategy, name, val_data.domain, with_teacher=args.eval_ema, classes=classes
    )


def train_step(made: Training, batch: Batch) -> None:
    """One step: losses, backward, optimiser, teacher; the means of the log move with it.

    With --grad_accum N a step has N parts, whose gradients add up to that of all its images.
    """
    args = made.settings.args
    run = made.run
    accelerator = run.accelerator
    terms = made.objective.terms
    counts = count_together(batch, args.skip_corrupt, accelerator)
    least = least_images(args.architecture)
    if counts.smallest < least:  # a process could read none of its images
        run.step(0, counts.images + counts.skipped)
        return
    cut = equal_parts(len(batch.index), min(args.grad_accum, counts.smallest // least))
    total = pairs_together(batch.data[1], args.strategy, len(cut), accelerator)
    i = run.progress.step
    made.weights["re"] = re_loss_weight(
        args.alpha_re, args.alpha_schedule_re, i, args.max_epoch * made.steps
    )

    parts = []
    for part in micro_batches(cut, accelerator, made.network):
        images, labels, pairs = to_device(
            rows_of(batch.data, part.rows), accelerator.device, made.student.normalisation
        )
        with accelerator.autocast():
            losses = made.network(images, labels, pairs)
        weight_by_pairs(losses, terms, total, run.world)
        weight_by_images(losses, terms, len(labels) * run.world / counts.images)
        loss = total_loss(losses, present_weights(made.weights, terms.present))
        guard(made, batch.index[part.rows], loss, losses)
        accelerator.backward(loss)
        told = {name: value.detach() for name, value in {**losses, "loss": loss}.items()}
        parts.append(LossesOfPart(told, part.share, labels.sum()))

    if args.clip_grad is not None:
        accelerator.clip_grad_norm_(made.network.parameters(), args.clip_grad)
    made.optimizer.step()
    made.optimizer.zero_grad()
    if made.teacher is not None:
        move_teacher(made.teacher, made.student, args.alpha_ema, args.teacher_bn, accelerator, i)

    made.meter.add(sum_of_parts(parts, terms), counts.images / run.world)
    run.step(counts.images, counts.skipped)


def guard(
    made: Training, index: torch.Tensor, loss: torch.Tensor, losses: dict[str, torch.Tensor]
) -> None:
    """Stop the run where the loss of images `index` is not finite, and say what they are."""
    lr = made.optimizer.param_groups[0]["lr"]
    ids = made.train_data.split.ids
    explain = partial(report.what_was, ids, index, losses["dead_cam"], lr)
    made.run.guard(loss, index, explain)


def watch_first_steps(made: Training) -> FirstSteps:
    """What tells how long a run will take; silent on the offline sample."""
    settings = made.settings
    args = settings.args
    weights = sum(p.numel() * p.element_size() for p in made.student.parameters())
    copies = 2 if made.teacher is None else 3  # momentum, and the teacher
    is_sample = settings.location is not None and settings.location.is_sample
    return FirstSteps(
        made.run,
        steps=4,
        pictures=made.steps * args.batch_size * args.grad_accum,
        batch_size=args.batch_size * args.grad_accum,
        epochs=args.max_epoch,
        checkpoint_bytes=copies * weights,
        is_due=made.run.progress.step == 0 and (settings.own is not None or not is_sample),
        ending="; evaluations come on top",
    )


def announce(
    run: Run,
    settings: Settings,
    data: tuple[VOC_Dataset_For_Classification, VOC_Dataset_For_Classification],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    steps: int,
) -> None:
    """The first lines: data (training, validation), network, what surprises, what differs."""
    args = settings.args
    for asked, split in zip((args.train_domain, args.val_domain), data, strict=True):
        report.print_data(run, asked, split)
    student = objective.student
    report.print_network(run, args.strategy, args.architecture, args.weights, student, steps)
    if args.frozen_features:
        report.print_features(run, student)
    report.print_momentum(run, optimizer, is_released=args.sgd_momentum is None)
    changed = differences(args) if args.strategy in PUZZLES else None
    report.print_method(run, changed, objective.terms)


def evaluate(
    run: Run,
    student: Classifier,
    teacher: Classifier | None,
    data: VOC_Dataset_For_Classification,
    walk: Walk,
    *,
    plain: bool,
    difficult: str,
    drop_last: int,
) -> None:
    """Log Evaluation/{map, best map, ...} of the student on the validation split, and a teacher's.

    plain, difficult, drop_last: as of `oass.evaluate`'s score_split and measure.
    """
    share_buffers(run.accelerator, student)
    if teacher is not None:
        averaged = copy.deepcopy(teacher)
        copy_buffers(student, averaged)
        scores = score_split(averaged, data, walk, run)
        found = measure(scores, data.split, difficult=difficult, drop_last=drop_last)
        run.log("Evaluation_ema", **found, **report.count_of(data))
    scores = score_split(student, data, walk, run, plain=plain)
    found = measure(scores, data.split, difficult=difficult, drop_last=drop_last)
    report.log_evaluation(run, found, data)
