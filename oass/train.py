"""The training loop that the four entry scripts share; they differ by a strategy.

settings = parse("cTopk-w", argv)
summary = train(settings)
"""

import copy
from functools import partial
from typing import Any

import torch

from common.aliases import one_module
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
    least_images,
)
from oass.build_objective import Objective
from oass.core.networks import Classifier
from oass.data import VOC_Dataset_For_Classification
from oass.evaluate import Walk, measure, score_split
from oass.method import re_loss_weight, total_loss
from oass.options import Settings
from oass.options_check import differences
from oass.options_flags import PUZZLES
from oass.train_step import (
    copy_buffers,
    count_together,
    move_teacher,
    present_weights,
    to_device,
    weight_by_images,
    weight_by_pairs,
)

one_module(__name__, "oass.train")

LOGGED = ("loss", "class_loss", "p_class_loss", "re_loss", "conf_loss", "dead_cam", "num_pairs")


def train(settings: Settings) -> dict[str, Any]:
    """One run of a strategy: train, evaluate after every epoch, save; returns the summary."""
    args = settings.args
    strategy = args.strategy
    name = args.tag or strategy
    accelerator = build_accelerator(settings)
    seed_everything(args.seed)

    train_data, val_data, loader = build_data(settings, accelerator)
    run = start_run(args, f"experiments/{name}", accelerator)
    sampler: Any = loader.batch_sampler
    steps = len(sampler)
    max_iteration = args.max_epoch * steps

    student, teacher = build_networks(settings, accelerator, run.poll)
    optimizer = build_optimizer(settings, student, steps)
    meter = report.Average_Meter(LOGGED, accelerator)
    objective = build_objective(settings, student, teacher)
    terms = objective.terms
    network, optimizer = accelerator.prepare(objective, optimizer)

    stateful = {"model": student, "optimizer": optimizer, "meter": meter}
    if teacher is not None:
        stateful["teacher"] = teacher
    run.restore(**stateful)

    announce(run, settings, (train_data, val_data), objective, optimizer, steps)
    every = max(1, int(steps * args.print_ratio))
    log = partial(report.log_if_due, run, meter, optimizer, every, max_iteration, strategy != "gap")
    weights = {"cl": 1.0, "pcl": args.alpha_p, "re": 0.0, "conf": 1.0}
    fewest = least_images(args.architecture)
    pictures = build_pictures(settings, objective, accelerator)
    walk = build_walk(settings)
    measured = build_measure(settings)

    for epoch in run.epochs(args.max_epoch):
        network.train()
        sampler.set_epoch(epoch, run.progress.batch)
        for batch in run.bar(loader, f"epoch {epoch + 1}/{args.max_epoch}", steps):
            log()
            counts = count_together(batch, args.skip_corrupt, accelerator)
            if counts.smallest < fewest:  # a process could read none of its images
                run.step(0, counts.images + counts.skipped)
                continue
            images, labels, pairs = to_device(batch.data, accelerator.device, student.normalisation)

            with accelerator.autocast():
                losses = network(images, labels, pairs)
            i = run.progress.step
            weights["re"] = re_loss_weight(args.alpha_re, args.alpha_schedule_re, i, max_iteration)
            weight_by_pairs(losses, terms, accelerator)
            weight_by_images(losses, terms, len(labels) * run.world / counts.images)
            loss = total_loss(losses, present_weights(weights, terms.present))

            lr = optimizer.param_groups[0]["lr"]
            ids = train_data.split.ids
            explain = partial(report.what_was, ids, batch.index, losses["dead_cam"], lr)
            run.guard(loss, batch.index, explain)
            accelerator.backward(loss)
            if args.clip_grad is not None:
                accelerator.clip_grad_norm_(network.parameters(), args.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
            if teacher is not None:
                move_teacher(teacher, student, args.alpha_ema, args.teacher_bn, accelerator, i)

            meter.add({**losses, "loss": loss}, counts.images / run.world)
            run.step(counts.images, counts.skipped)
        run.save_before_evaluation()
        log()
        if run.stopped:
            break
        averaged = teacher if args.eval_ema else None
        evaluate(run, student, averaged, val_data, walk, plain=strategy == "gap", **measured)
        report.after_epoch(run, name, args.max_epoch, with_teacher=args.eval_ema)
        if run.is_main:
            pictures.save(run, student, teacher or student, val_data)
        run.end_epoch(score=run.values("Evaluation", "map")[-1])

    return report.finish(run, strategy, name, val_data.domain, with_teacher=args.eval_ema)


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
