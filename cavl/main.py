"""CAVL: partial-label learning by class activation value (ICLR 2022).

Every training sample has a set S of candidate labels that hides the true one. Epoch 1 averages over
the candidates; after each step the sample's label becomes the argmax over S of |z - 1| * z, where z
are the logits.

    # MNIST in ./data, or the offline sample: about 15 s, test accuracy 0.84
    python main.py
    python main.py -ds cifar10 -mo convnet
    python main.py -compare cavl,rc,uniform -seeds 0,1,2
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from cavl.options import Settings, parse
from common.cli import UserError, parse_or_exit, run_main

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(parse)

import argparse
import os
import time
from collections.abc import Sequence
from functools import partial

import torch

from cavl import compare, report
from cavl.build import (
    Learner,
    build_learner,
    default_dir,
    images_of,
    require_fitting,
    set_learning_rate,
)
from cavl.build_candidates import draw_candidates
from cavl.build_data import load_data
from cavl.data import PartialData, fold_of
from cavl.data_input import ClassNames, InputFormat
from cavl.data_labels import Warmup
from cavl.data_resident import epoch_batches
from cavl.evaluate import Statistics, measure, measure_selection, predict
from cavl.figures import draw_cams, draw_learning_curves
from common.accumulation import micro_batches, parts_together
from common.aliases import one_module
from common.estimate import FirstSteps
from common.run import Run, start_run
from common.rundir import backward, make_accelerator, seed_everything

one_module(__name__, "cavl.main")


def train(args: argparse.Namespace, data: PartialData) -> dict[str, float | None]:
    """One run: train on the candidate sets, evaluate after every epoch; returns the summary."""
    accelerator = make_accelerator(args)
    seed_everything(args.seed, fast=args.fast)
    run = start_run(args, args.output_dir or default_dir(args), accelerator)
    device = accelerator.device

    candidates = draw_candidates(args, data, run)  # (n, K) uint8, or bits
    learner = build_learner(args, data, candidates, accelerator, run.poll)
    labels = learner.labels
    model = learner.model
    test_images = learner.test_images
    warmup = Warmup(args.warmup)
    true_labels = data.train_y.to(device)
    on_train = Statistics(data.train_y, candidates, device)
    on_test = Statistics(data.test_y, data.test_sets, device)

    own = {} if data.classes is None else {"classes": ClassNames(data.classes)}
    run.restore(
        model=model,
        optimizer=learner.optimizer,
        labels=labels,
        warmup=warmup,
        loss=learner.loss,
        input=InputFormat.of(data),
        **own,
    )
    report.describe_candidates(candidates, data.train_y, run)
    report.save_candidates(candidates, run)
    estimate = None
    if run.progress.step == 0 and not run.values("start", "mean_candidates"):
        began = time.perf_counter()
        tr = measure(model, learner.images, on_train, run)
        te = measure(model, test_images, on_test, run)
        report.log_start(run, tr.get("accuracy"), te.get("accuracy"), candidates)
        if data.classes is not None:
            seconds = time.perf_counter() - began
            estimate = report.first_steps(
                run,
                model,
                samples=len(learner.images),
                batch_size=args.bs * args.grad_accum,
                epochs=args.ep,
                evaluation=seconds,
            )

    for epoch in run.epochs(args.ep):
        selecting = warmup.is_over(epoch)
        lr = set_learning_rate(
            learner.optimizer, epoch, lr=args.lr, schedule=args.schedule, epochs=args.ep
        )
        train_epoch(learner, run, epoch, selecting, estimate)
        if run.stopped:
            break
        run.save_before_evaluation()
        labels.end_epoch(selecting)

        te = measure(model, test_images, on_test, run)
        tr = measure(model, learner.images, on_train, run)
        warmup.observe(tr["covering_rate"])
        if args.selection_curve and "accuracy" in tr:
            how = {"count": args.selection_curve, "cav": args.cav, "mask": args.mask}
            sets = labels.candidates
            rates = measure_selection(model, learner.images, sets, true_labels, run, **how)
            run.log("selection", **rates)
        share = labels.disambiguation(true_labels)
        beliefs = {"disambiguation": share, "selecting": int(selecting)}
        run.log("train", loss=learner.loss.compute(), **tr, **beliefs, lr=lr)
        run.log("test", **te)
        report.print_epoch(run, args.ep)
        run.end_epoch(score=te.get("accuracy", te.get("approximated_accuracy")))

    summary = report.summary_of(run, labels, true_labels, is_sample=data.is_sample)
    if run.is_main:
        write_files(args, run, learner, data)
    run.finish(**summary)
    return summary


def write_files(
    args: argparse.Namespace,
    run: Run,
    learner: Learner,
    data: PartialData,
) -> None:
    """Figures, selected.csv, and the last line but one."""
    labels = learner.labels
    true_labels = data.train_y.to(run.accelerator.device)
    on_what = "the offline sample" if data.is_sample else args.ds
    draw_learning_curves(run, f"{args.method} on {on_what}")
    belief = labels.belief(lambda: predict(learner.model, learner.images))
    called = {"classes": data.classes, "names": data.names}
    path = run.folder / "selected.csv"
    report.export_selected(path, belief, labels.candidates, true_labels, **called)
    if args.cam_vis:
        shown = {"count": args.cam_vis, "cav": args.cav, "names": data.classes}
        path = run.figure("cams")
        pictures = learner.images
        if args.frozen_features:
            pictures = images_of(args, data, data.train_x, pictures.device)
        draw_cams(path, learner.model, pictures, labels.candidates, true_labels, **shown)
    report.print_headline(run, args.method + " (offline sample)" * data.is_sample)


def train_epoch(
    learner: Learner, run: Run, epoch: int, selecting: bool, estimate: FirstSteps | None = None
) -> None:
    """One pass over the images: loss on the present beliefs, step, new beliefs for the batch."""
    accelerator = learner.accelerator
    images = learner.images
    labels = learner.labels
    learner.network.train()
    if learner.augment:
        images.draw_augmentation(learner.seed, epoch)
    batches = epoch_batches(
        len(images),
        learner.batch_size,
        seed=learner.seed,
        epoch=epoch,
        start=run.progress.batch,
        accelerator=accelerator,
        at_once=learner.at_once,
    )
    batches = images.ahead(batches)
    total = -(-len(images) // (learner.batch_size * accelerator.num_processes))
    for index, weight, size in run.bar(batches, f"epoch {epoch + 1}/{learner.epochs}", total):
        x = images.augmented(index) if learner.augment else images[index]
        outputs = []
        parts = parts_together(len(index), learner.at_once, accelerator, of_all=size)
        for part in micro_batches(parts, accelerator, learner.network):
            rows = index[part.rows]
            with accelerator.autocast():
                z = learner.network(x[part.rows])
            loss = labels.loss(z.float(), rows)
            run.guard(loss, rows)
            mean = part.weigh(loss)
            backward(accelerator, mean if weight == 1 else mean * weight)
            learner.loss.add(loss, len(rows) * (weight > 0))
            outputs.append(z.detach())
        learner.optimizer.step()
        learner.optimizer.zero_grad()

        if labels.updates(selecting):  # the method's own step
            for part, z in zip(parts, outputs, strict=True):
                labels.update(index[part.rows], *second_look(learner, x[part.rows], z))
        run.step(size)
        if estimate is not None:
            estimate.add()


def second_look(
    learner: Learner, x: torch.Tensor, outputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The logits, and maps or None, that the update reads: of a second forward, or reused."""
    if not learner.looks_again:
        return outputs.detach().float(), None
    with torch.no_grad(), learner.accelerator.autocast():
        if learner.by_maps:
            return learner.model.class_activation_maps(x)  # type: ignore[operator]
        return learner.model(x).float(), None


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Parse, load, and run once, or once for each fold, seed and method."""
    settings = settings or parse(argv)
    args = settings.args
    is_open = "CUDA_VISIBLE_DEVICES" not in os.environ and "LOCAL_RANK" not in os.environ
    if is_open and args.jobs == 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu  # CUDA has not started yet
    data = load_data(settings, args.seed)
    require_fitting(args, data)

    def train_one(own: argparse.Namespace) -> dict[str, float | None]:
        if data.split_seed not in (None, own.seed):
            return train(own, load_data(settings, own.seed))
        if not data.has_folds:
            return train(own, data)
        return train(own, fold_of(data, own.fold, own.folds, own.seed, own.standardize))

    if compare.is_wanted(args, data):
        compare.run_all(args, data, train_one)
    elif args.jobs > 1:
        raise UserError(f"--jobs {args.jobs}: for -compare, -seeds and folds; this is one run")
    else:
        train_one(args)


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
