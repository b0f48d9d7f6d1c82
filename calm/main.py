"""CALM: an attribution map that is part of the model (Kim et al., ICCV 2021): training of CAM, CALM-EM, CALM-ML.

The position z of the decisive cue is a latent variable, p(y,z|x) = p(y|x,z) p(z|x); its joint probability
is the map.

    python main.py --attribution_method=CALM_EM      # CUB in dataset/, or the drawn birds: about 35 s on one core
    python main.py --experiment_name=experiment_name/ --architecture=resnet50 --attribution_method=CALM_EM \\
        --dataset=CUB --use_bn=True --large_feature_map=True
"""

import common.interrupt  # noqa: F401

from functools import partial

import torch

from calm.config import Configs, located, with_data
from calm.cue_pictures import draw_maps
from calm.data_loaders import SPLITS, ReadableBatches, get_data_loader
from calm.flags import TRAINING
from calm.logger import load_logger
from calm.network.universal import DeadAttention
from calm.reporting import PerformanceMeter, Reports, told_of_skipped
from calm.training import (
    NUM_CLASSES,
    build_model,
    build_optimizer,
    build_teacher,
    calibration_error,
    check_class_count,
    checkpoint_file,
    classify,
    comparable,
    count_classes,
    describe_batch,
    listed_test_ids,
    start_evaluation,
    start_training,
    take_from_checkpoint,
    to_device,
    told_of_idle_flags,
)
from common.aliases import one_module
from common.cli import run_main
from common.data import gather_in_order
from common.meter import Meter
from common.rundir import backward, make_accelerator, prepare, seed_everything, share_buffers

one_module(__name__, "calm.main")

set_random_seed = seed_everything


class Trainer(Reports):
    """One run: data, network, optimiser, run directory, and what each epoch does with them."""

    _NUM_CLASSES_MAPPING = NUM_CLASSES

    def __init__(self, args: Configs | None = None) -> None:
        args = located(place=TRAINING) if args is None else args
        needs_start = args.use_load_checkpoint or not args.is_train
        start = (
            checkpoint_file(args, None if args.is_train else args.experiment)
            if needs_start
            else None
        )
        if not args.is_train:
            take_from_checkpoint(args, start)
        self.args = args = with_data(args)
        if not args.is_train:
            check_class_count(args, start)
        self.accelerator = make_accelerator(args)
        self.device = self.accelerator.device
        seed = set_random_seed(args.seed)
        self.loaders = get_data_loader(
            args.data_paths, args._metadata, args.batch_size, args.workers, args.resize_size, args.crop_size,
            args.proxy_training_set, accelerator=self.accelerator, seed=seed, num_classes=count_classes(args),
            skip_corrupt=args.skip_corrupt, cache_images=args.cache_images,
            splits=SPLITS if args.is_train else ("test",), test_ids=listed_test_ids(args),
        )  # fmt: skip
        self.model = build_model(args, start).to(self.device, memory_format=torch.channels_last)
        if args.is_train:
            self.run = start_training(args, self.accelerator)
        else:
            self.run = start_evaluation(args, "main_evaluate", self.accelerator)
            self.run.print(comparable(args))
        if args._idle:
            self.run.print(told_of_idle_flags(args))
        self.optimizer = build_optimizer(args, self.model)
        self.teacher = build_teacher(args, self.model)
        self.network, self.optimizer = prepare(self.accelerator, self.model, self.optimizer)
        self.loss, self.accuracy = Meter(self.accelerator), Meter(self.accelerator)
        stateful = {
            "model": self.model,
            "optimizer": self.optimizer,
            "loss": self.loss,
            "accuracy": self.accuracy,
        }
        if args.is_train:
            self.run.restore(**stateful, **({"teacher": self.teacher} if self.teacher else {}))
        self.logger = load_logger(args.logger_type)(self.run.folder) if self.run.is_main else None
        self.dead = DeadAttention()
        self.performance = {split: PerformanceMeter(split) for split in ("train", "val", "test")}
        for split, meter in self.performance.items():
            for value in self.run.values(split, "accuracy"):
                meter.update(value)

    def train(self, split: str = "train") -> None:
        """One epoch, from where the run stands."""
        run, loader, epoch = self.run, self.loaders[split], self.run.progress.epoch
        self.network.train()
        loader.batch_sampler.set_epoch(epoch, run.progress.batch)
        n, size = len(loader.dataset), self.args.batch_size * run.world
        for batch in run.bar(loader, f"epoch {epoch + 1}/{self.args.epochs}", -(-n // size)):
            rows = min(size, n - run.progress.batch * size)  # of all processes
            if batch.data is None:
                run.step(0, batch.skipped)
                continue
            images, labels, ids = batch.data
            images, labels = to_device(images, labels, self.device)
            with self.accelerator.autocast():
                posterior = (
                    self.teacher(images, labels, return_cam="gtcond") if self.teacher else None
                )
                out = self.network(images, labels, with_loss=True, posterior=posterior)
            loss = out["loss"].mean()
            run.guard(
                loss,
                batch.index,
                partial(describe_batch, ids, {k: v.detach() for k, v in out.items()}),
            )
            backward(self.accelerator, loss * (len(labels) * run.world / rows))
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.teacher:
                self.teacher.update_parameters(self.model)
            self.loss.add(loss, len(labels))
            self.accuracy.add((out["probs"].argmax(1) == labels).float().mean(), len(labels))
            run.step(rows - batch.skipped, batch.skipped)
            if run.stopped:
                break

    def evaluate_cls(self, split: str) -> dict[str, float]:
        """accuracy, calibration_error, dead_share (percent), nll, prior_entropy over a split, each image once.

        With --skip_corrupt also `eval_skipped`: how many images of the split could not be read and are missing.
        """
        self.model.eval()
        share_buffers(self.accelerator, self.model)
        parts = []
        batches = ReadableBatches(self.loaders[split])
        for part in classify(self.model, batches, self.device, self.accelerator.autocast):
            parts.append(part)
            if self.run.world == 1:
                self.run.poll()
        whole = (torch.cat(column) for column in zip(*parts, strict=True))
        _, log_p, correct, top, entropy, dead = gather_in_order(
            *whole, accelerator=self.accelerator
        )
        if self.run.is_main and not self.model.process.is_cam:
            self.dead.warn(int(dead.sum()), len(dead))
        missing = (
            {"eval_skipped": batches.total(self.accelerator)} if self.args.skip_corrupt else {}
        )
        return {
            "accuracy": 100 * correct.double().mean().item(),
            "nll": -log_p.double().mean().item(),
            "calibration_error": calibration_error(top, correct),
            "prior_entropy": entropy.double().mean().item(),
            "dead_share": 100 * dead.double().mean().item(),
            **missing,
        }

    def adjust_learning_rate(self, epoch: int) -> None:
        """x 0.1 at the start of every epoch (from 1) that is a multiple of --lr_decay_frequency."""
        factor = 0.1 ** (epoch // self.args.lr_decay_frequency)
        rates = (self.args.lr, self.args.lr * self.args.lr_classifier_ratio)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate on val after each epoch and on test once, save; with --is_train=False only evaluate on test."""
    args = located(argv, place=TRAINING)
    trainer = Trainer(args)
    run = trainer.run
    if args.is_train:
        for epoch in run.epochs(args.epochs):
            trainer.adjust_learning_rate(epoch + 1)
            trainer.train("train")
            if run.stopped:
                break
            run.save_before_evaluation()
            scores = trainer.evaluate_cls("val")
            trainer.report_train(epoch + 1)
            trainer.report(epoch + 1, "val", scores)
            trainer.print_performances(epoch + 1)
            run.end_epoch(score=scores["accuracy"])
        if run.stopped:
            return run.finish(**{s: m.current_value for s, m in trainer.performance.items()})
        if run.progress.finished:
            return run.finish(**trainer.summary(trainer.logged("test")))

    scores = trainer.evaluate_cls("test")
    trainer.report(args.epochs, "test", scores)
    trainer.save_performances()
    if args.is_train:
        trainer.save_checkpoint(args.epochs)
    if run.is_main:
        with trainer.accelerator.autocast():
            draw_maps(
                run.figure("maps"),
                trainer.model,
                trainer.loaders["test"].dataset.dataset,
                trainer.device,
            )
    network = f"{args.attribution_method}, {args.architecture}"
    run.print(f"test accuracy {scores['accuracy']:.2f} % ({network}){told_of_skipped(scores)}")
    run.finish(**trainer.summary(scores))


if __name__ == "__main__":
    run_main(main)
