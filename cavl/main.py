"""CAVL: partial-label learning by class activation value (ICLR 2022).

Every training sample has a set S of candidate labels that hides the true one. Epoch 1 averages over the
candidates; after each step the sample's label becomes argmax over S of |z - 1| * z, z the logits.

    python main.py                           # MNIST in ./data, or the offline sample: about 15 s, test 0.84
    python main.py -ds cifar10 -mo convnet
    python main.py -compare cavl,rc,uniform -seeds 0,1,2
"""

import common.interrupt  # noqa: F401

import argparse
import os
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from cavl.utils import report, sweep
from cavl.utils.build import build_model, build_optimizer, require_full_batches, set_learning_rate
from cavl.utils.datasets import PartialData, fold_of, load_dataset
from cavl.utils.draw import describe_candidates, draw_candidates, read_candidates, save_candidates
from cavl.utils.input_format import InputFormat
from cavl.utils.label_state import LabelState
from cavl.utils.options import parse_args
from cavl.utils.resident import Images, epoch_batches
from cavl.utils.warmup import Warmup
from common.aliases import one_module
from common.cli import run_main
from common.meter import Meter
from common.run import Run, start_run
from common.rundir import backward, make_accelerator, prepare, seed_everything

one_module(__name__, "cavl.main")


@dataclass
class Learner:
    """What a training step touches: the network (`model` without wrappers), images, label state, optimiser."""

    args: argparse.Namespace
    accelerator: Accelerator
    model: torch.nn.Module
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    images: Images
    labels: LabelState
    loss: Meter


def train(args: argparse.Namespace, data: PartialData, default_dir: str) -> dict[str, float | None]:
    """One run: train on the candidate sets, evaluate after every epoch; returns the summary."""
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    run = start_run(args, default_dir, accelerator)
    device = accelerator.device

    require_full_batches(args, data, accelerator.num_processes)
    candidates = draw_candidates(args, data, run)  # (n,K) uint8
    scale = {"mean": data.mean, "std": data.std, "limit_gb": args.resident_gb}
    images, test_images = (
        Images(data.train_x, device, **scale),
        Images(data.test_x, device, **scale),
    )
    true_labels = data.train_y.to(device)
    on_train = report.statistics_of(data.train_y, candidates, device)
    on_test = report.statistics_of(data.test_y, data.test_sets, device)

    model = build_model(args, data).to(device, memory_format=torch.channels_last)
    optimizer = build_optimizer(args, model)
    network, optimizer = prepare(
        accelerator, torch.compile(model) if args.compile else model, optimizer
    )
    labels, loss = LabelState(args, candidates, accelerator), Meter(accelerator)
    learner = Learner(args, accelerator, model, network, optimizer, images, labels, loss)
    warmup = Warmup(args.warmup)
    run.restore(
        model=model,
        optimizer=optimizer,
        labels=labels,
        warmup=warmup,
        loss=loss,
        input=InputFormat.of(data),
    )
    describe_candidates(candidates, data, run)
    save_candidates(candidates, run)
    if run.progress.step == 0 and not run.values("start", "test_accuracy"):
        tr = report.measure(model, images, on_train, run)
        te = report.measure(model, test_images, on_test, run)
        report.log_start(run, tr["accuracy"], te["accuracy"], candidates)

    for epoch in run.epochs(args.ep):
        lr, selecting = set_learning_rate(args, optimizer, epoch), warmup.is_over(epoch)
        train_epoch(learner, run, epoch, selecting)
        if run.stopped:
            break
        run.save_before_evaluation()
        labels.end_epoch(selecting)

        te = report.measure(model, test_images, on_test, run)
        tr = report.measure(model, images, on_train, run)
        warmup.observe(tr["covering_rate"])
        report.log_selection_curve(args, run, model, images, labels.candidates, true_labels)
        run.log("train", loss=loss.compute(), **tr, disambiguation=labels.disambiguation(true_labels),
                selecting=int(selecting), lr=lr)  # fmt: skip
        run.log("test", **te)
        report.print_epoch(run, args.ep)
        run.end_epoch(score=te["accuracy"])

    summary = report.write(args, run, data, model, images, labels, true_labels)
    run.finish(**summary)
    return summary


def train_epoch(learner: Learner, run: Run, epoch: int, selecting: bool) -> None:
    """One pass over the training images: loss on the present labels, step, new labels for the batch."""
    args, images, labels, accelerator = (
        learner.args,
        learner.images,
        learner.labels,
        learner.accelerator,
    )
    learner.network.train()
    if args.augment:
        images.draw_augmentation(args.seed, epoch)
    start, n = run.progress.batch, len(images)
    batches = epoch_batches(
        n, args.bs, seed=args.seed, epoch=epoch, start=start, accelerator=accelerator
    )
    total = -(-n // (args.bs * accelerator.num_processes))
    for index, weight, rows in run.bar(batches, f"epoch {epoch + 1}/{args.ep}", total):
        x = images.augmented(index) if args.augment else images[index]
        with accelerator.autocast():
            outputs = learner.network(x)
        loss = labels.loss(outputs.float(), index)
        run.guard(loss, index)
        backward(accelerator, loss if weight == 1 else loss * weight)
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        learner.loss.add(loss, len(index) * (weight > 0))

        if labels.updates(selecting):  # the method's own step
            labels.update(index, *second_look(learner, x, outputs))
        run.step(rows)


def second_look(
    learner: Learner, x: torch.Tensor, outputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The logits (and, with -select cam, the maps) that rewrite the batch's rows: after the step, or reused."""
    args = learner.args
    if args.method == "proden" or (args.cav_forward == "before" and args.select == "cav"):
        return outputs.detach().float(), None
    with torch.no_grad(), learner.accelerator.autocast():
        if args.select == "cam" and args.method == "cavl":
            return learner.model.class_activation_maps(x)
        return learner.model(x).float(), None


def require_fitting(args: argparse.Namespace, data: PartialData) -> None:
    """UserError where network, batches or the user's own sets do not fit the data: before a folder is touched."""
    with torch.device("meta"):  # takes no memory and draws no random numbers
        build_model(args, data)
    require_full_batches(args, data, processes=int(os.environ.get("WORLD_SIZE", "1")))
    if args.partial_type == "file":
        read_candidates(args.partial_file, data.train_y, data.num_classes)


def main(argv: list[str] | None = None) -> None:
    """Parse, load, and run once, or once for each fold, seed and method."""
    args = parse_args(argv)
    if "CUDA_VISIBLE_DEVICES" not in os.environ and "LOCAL_RANK" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu  # CUDA has not started yet
    data = load_dataset(args.ds, args._location)
    require_fitting(args, data)
    if sweep.is_wanted(args, data):
        sweep.run_all(args, data, train)
    else:
        if data.has_folds:
            data = fold_of(data, args.fold, args.folds, args.seed, args.standardize)
        train(args, data, sweep.default_dir(args))


if __name__ == "__main__":
    run_main(main)
