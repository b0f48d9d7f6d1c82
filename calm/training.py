"""The loop of a training run, as the original's Trainer.

`train` runs one epoch, and `evaluate_cls` a split.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from calm.build import (
    Parts,
    build_optimizer,
    build_parts,
    build_teacher,
    print_what_counts,
    start_evaluation,
    start_training,
)
from calm.build_checkpoint import load_checkpoint
from calm.data import SPLITS, ReadableBatches, data_of
from calm.data_folders import NUM_CLASSES
from calm.data_frozen import told_of_start
from calm.data_own import told_of_data
from calm.evaluate import classification_scores, classify, to_device
from calm.network.universal import DeadAttention
from calm.options import Settings, parse
from calm.report import (
    CHECKPOINT_NAME,
    PerformanceMeter,
    describe_batch,
    log_epoch,
    log_scores,
    logged,
    print_epoch,
    save_accuracy,
    save_original_checkpoint,
    summary_of,
    told_of_idle_flags,
)
from calm.report_logger import load_logger
from common.accumulation import micro_batches, parts_together
from common.aliases import one_module
from common.compiling import compiled
from common.estimate import FirstSteps
from common.loading import Batch, is_empty
from common.meter import Meter
from common.rundir import backward, prepare, share_buffers

one_module(__name__, "calm.training")


class Trainer:
    """One run: data, network, optimiser, run directory, and what each epoch does with them.

    Args:
        args: the settings of `options.parse`, or a namespace of `config.get_configs`; the command
            line without it.
    """

    _CHECKPOINT_NAME_TEMPLATE = CHECKPOINT_NAME
    _NUM_CLASSES_MAPPING = NUM_CLASSES

    def __init__(self, args: Settings | argparse.Namespace | None = None) -> None:
        settings = parse() if args is None else args
        if not isinstance(settings, Settings):
            settings = Settings.of(settings)
        self.is_train = settings.args.is_train
        splits = SPLITS if self.is_train else ("test",)
        parts: Parts = build_parts(settings, is_evaluation=not self.is_train, splits=splits)
        self.args = parts.settings.args
        self.is_sample = parts.settings.is_sample
        self.accelerator = parts.accelerator
        self.device = parts.accelerator.device
        self.loaders = parts.loaders
        self.model = parts.model

        if self.is_train:
            self.run = start_training(parts.settings, self.accelerator)
        else:
            self.run = start_evaluation(parts.settings, "main_evaluate", self.accelerator)
        self._say_what_counts(parts)

        self.optimizer: Optimizer = build_optimizer(self.args, self.model)
        self.teacher = build_teacher(self.args, self.model)
        self.network: nn.Module
        network = compiled(self.model, self.args.compile)
        self.network, self.optimizer = prepare(self.accelerator, network, self.optimizer)
        self.loss = Meter(self.accelerator)
        self.accuracy = Meter(self.accelerator)
        if self.is_train:
            self.run.restore(**self._stateful())

        self.logger = None
        if self.run.is_main:
            self.logger = load_logger(self.args.logger_type)(self.run.folder)
        self.dead = DeadAttention()
        self._watch: FirstSteps | None = None  # from the first epoch on
        self.performance: dict[str, PerformanceMeter] = {}
        for split in SPLITS:
            self.performance[split] = PerformanceMeter(split)
            for value in self.run.values(split, "accuracy"):
                self.performance[split].update(value)

    def _say_what_counts(self, parts: Parts) -> None:
        for line in told_of_start(self.args):
            self.run.print(line)
        for line in told_of_data(parts.data):
            self.run.print(line)
        if self.is_train and parts.settings.idle:
            self.run.print(told_of_idle_flags(parts.settings.idle))
        elif not self.is_train:
            print_what_counts(self.run, parts)

    def _stateful(self) -> dict[str, Any]:
        """What a checkpoint holds besides the progress."""
        stateful: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "loss": self.loss,
            "accuracy": self.accuracy,
        }
        if self.teacher is not None:
            stateful["teacher"] = self.teacher
        return stateful

    # ---- one epoch -------------------------------------------------------------------

    def train(self, split: str = "train") -> None:
        """One epoch, from where the run stands."""
        run = self.run
        loader = self.loaders[split]
        epoch = run.progress.epoch
        self.network.train()
        sampler: Any = loader.batch_sampler
        sampler.set_epoch(epoch, run.progress.batch)
        n = len(data_of(loader))
        size = self.args.batch_size * self.args.grad_accum * run.world
        watch = self._first_steps(n, size)
        for batch in run.bar(loader, f"epoch {epoch + 1}/{self.args.epochs}", -(-n // size)):
            rows = min(size, n - run.progress.batch * size)  # of all processes
            if is_empty(batch, self.accelerator.num_processes):
                run.step(0, batch.skipped)
                continue

            watch.begin()
            self.learn(batch, rows)
            watch.add()
            run.step(rows - batch.skipped, batch.skipped)
            if run.stopped:
                break

    def _first_steps(self, pictures: int, rows: int) -> FirstSteps:
        """What tells, but on the offline sample, what the run will take; one for all epochs."""
        if self._watch is None:
            weights = sum(value.nbytes for value in self.model.state_dict().values())
            self._watch = FirstSteps(
                self.run,
                steps=3,
                within_epoch=True,
                pictures=pictures,
                batch_size=rows,
                epochs=self.args.epochs,
                checkpoint_bytes=3 * weights,  # ours with the momentum, and the original's
                checkpoints=1,
                is_due=self.args.data is not None or not self.is_sample,
            )
        return self._watch

    def learn(self, batch: Batch, rows: int) -> None:
        """One step of the optimiser on a batch, this process's share of `rows` images.

        Of --grad_accum N batches that is, a part of --batch_size images after the other.
        """
        parts = parts_together(
            len(batch.index),
            self.args.batch_size,
            self.accelerator,
            of_all=rows,
            may_lack=self.args.skip_corrupt,
        )
        for part in micro_batches(parts, self.accelerator, self.network):
            self._descend(batch, part.rows, rows)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.teacher is not None:
            self.teacher.update_parameters(self.model)

    def _descend(self, batch: Batch, part: slice, rows: int) -> None:
        """Add the gradient of a part of a step of `rows` images."""
        images, labels, ids = batch.data
        images, labels = to_device(images[part], labels[part], self.device)
        with self.accelerator.autocast():
            posterior = None
            if self.teacher is not None:
                posterior = self.teacher(images, labels, return_cam="gtcond")
            out = self.network(images, labels, with_loss=True, posterior=posterior)
        loss = out["loss"].mean()
        known = {name: value.detach() for name, value in out.items()}
        self.run.guard(loss, batch.index[part], partial(describe_batch, ids[part], known))
        backward(self.accelerator, loss * (len(labels) * self.run.world / rows))

        self.loss.add(loss, len(labels))
        is_correct = out["probs"].argmax(1) == labels
        self.accuracy.add(is_correct.float().mean(), len(labels))

    def evaluate_cls(self, split: str) -> dict[str, float]:
        """Return the measures of classification over a split, each image once.

        They are accuracy, calibration_error, dead_share (percent), nll and prior_entropy.

        With --skip_corrupt also `eval_skipped`: how many images of the split could not be read and
        are missing.
        """
        self.model.eval()
        share_buffers(self.accelerator, self.model)
        batches = ReadableBatches(self.loaders[split])
        parts = []
        for part in classify(self.model, batches, self.device, self.accelerator.autocast):
            parts.append(part)
            if self.run.world == 1:
                self.run.poll()

        scores, dead, images = classification_scores(parts, self.accelerator)
        if self.run.is_main and not self.model.process.is_cam:
            self.dead.warn(dead, images)
        if self.args.skip_corrupt:
            scores["eval_skipped"] = batches.total(self.accelerator)
        return scores

    def adjust_learning_rate(self, epoch: int) -> None:
        """x 0.1 at the start of every epoch (from 1) that is a multiple of --lr_decay_frequency."""
        factor = 0.1 ** (epoch // self.args.lr_decay_frequency)
        rates = (self.args.lr, self.args.lr * self.args.lr_classifier_ratio)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor

    # ---- what it says and keeps ------------------------------------------------------

    def report_train(self, epoch: int) -> None:
        """Log and reset the epoch's training loss and accuracy."""
        accuracy = 100 * (self.accuracy.compute() or 0)
        log_epoch(
            self.run,
            epoch,
            loss=self.loss.compute(),
            accuracy=accuracy,
            rate=self.optimizer.param_groups[0]["lr"],
            count_skipped=self.args.skip_corrupt,
        )
        self.performance["train"].update(accuracy)

    def report(self, epoch: int, split: str, scores: Mapping[str, float]) -> None:
        """Log a split's scores and write them as reports/EPOCH_SPLIT.json."""
        log_scores(self.run, self.logger, epoch, split, scores)
        self.performance[split].update(scores["accuracy"])

    def print_performances(self, epoch: int) -> None:
        """One line an epoch."""
        print_epoch(self.run, epoch, self.args.epochs)

    def summary(self, scores: Mapping[str, float] | None = None) -> dict[str, float | None]:
        """What summary.json says at the end, of these test scores, or of those that were logged."""
        if scores is None:
            scores = logged(self.run, "test")
        return summary_of(self.run, scores, self.args.skip_corrupt)

    def save_performances(self) -> None:
        """figures/accuracy.png and log.json."""
        if self.logger is not None:
            save_accuracy(self.run, self.performance)
            self.logger.finalize_log()

    def save_checkpoint(self, epoch: int) -> None:
        """last_checkpoint.pth.tar in the original's form, beside our checkpoints/last.pt.

        With --only_last neither it nor best.pt stays.
        """
        if self.run.is_main and self.args.only_last:
            self.run.best.unlink(missing_ok=True)
        elif self.run.is_main:
            path = self.run.folder / self._CHECKPOINT_NAME_TEMPLATE.format("last")
            save_original_checkpoint(path, vars(self.args), epoch, self.model.state_dict())

    def load_checkpoint(self, path: str) -> None:
        """Load weights of ours or of the original."""
        load_checkpoint(self.model, path, self.args.is_different_checkpoint)
