"""CSL: multi-label training with partial annotations and the class-aware selective loss (CVPR 2022).

Only some labels of an image are annotated. The loss takes the rest as negatives, but leaves out those that are
likely missed positives: classes with a large prior, and the labels that the network itself believes in most.

    python train.py --partial_loss_mode=selective          # COCO 2014 in ./data, or the sample (a minute or two)
    python train.py --partial_loss_mode=selective --estimate_prior 6       # phase 1 (prior), then phase 2
    python train.py --compare all --schemes fpc,rps --seeds 0,1,2          # the rows of the paper's tables
"""

import common.interrupt  # noqa: F401

import argparse
import copy
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from common.aliases import one_module
from common.cli import run_main
from common.run import Run, start_run
from common.rundir import make_accelerator, seed_everything
from csl.src import phases, report
from csl.src.build import Parts, build, make_optimizer
from csl.src.evaluation import Scored, score_both
from csl.src.helper_functions.get_data import get_data, require_scorable, require_trainable
from csl.src.helper_functions.helper_functions import ModelEma
from csl.src.options import build_parser, parse_args

one_module(__name__, "csl.train")

__all__ = ["main", "make_optimizer", "parser", "train", "validate_multi"]

parser = build_parser()


def train(args: argparse.Namespace, default_dir: str) -> dict[str, float | None]:
    """One run: train, score model and averaged model after every epoch; returns the summary."""
    accelerator = make_accelerator(args)
    run = start_run(args, default_dir, accelerator)
    loss_args = copy.copy(args)
    loss_args.prior_path = phases.prior_file(args, run, train)  # --estimate_prior: phase 1
    seed_everything(args.seed)

    train_loader, val_loader = get_data(args, accelerator)
    run.poll()
    train_set, val_set, sampler = (
        train_loader.dataset.dataset,
        val_loader.dataset.dataset,
        train_loader.batch_sampler,
    )
    require_trainable(train_set, args._found)
    require_scorable(val_set, args._found)
    phases.require_prior_of_sweep(args, list(train_set.classes.values()))
    labels_sha = report.describe_labels(args, run, train_set)
    parts = build(args, loss_args, run, train_set, sampler.batches)
    network, optimizer = accelerator.prepare(parts.model, parts.optimizer)
    run.restore(**parts._replace(optimizer=optimizer)._asdict())

    epochs = min(args.epochs, args.stop_epoch or args.epochs)
    last = None
    rows = args.batch_size * accelerator.num_processes
    for epoch in run.epochs(epochs):
        network.train()
        sampler.set_epoch(epoch, run.progress.batch)
        if run.progress.batch == 0:
            parts.drops.reset()
            if args.prior_window == "epoch":
                parts.prior.reset()
        for batch in run.bar(train_loader, f"epoch {epoch + 1}/{epochs}", sampler.batches):
            if batch.data is None:  # nothing in it could be decoded
                run.step(0, batch.skipped)
                continue
            images, targets = (t.to(accelerator.device, non_blocking=True) for t in batch.data)
            with accelerator.autocast():
                logits = network(images)
            loss = parts.criterion(logits, targets)  # in float32
            run.guard(loss, batch.index, partial(parts.criterion.explain, logits.detach(), targets))
            optimizer.zero_grad()
            accelerator.backward(
                loss * accelerator.num_processes
            )  # a sum: several processes as one
            optimizer.step()
            parts.scheduler.step()
            parts.ema.update(parts.model)

            parts.prior.update(logits)
            parts.drops.update(parts.criterion.kept, targets, batch.index)
            parts.loss.add(loss / len(images), len(images))
            run.step(min(rows, len(train_set) - run.progress.batch * rows), batch.skipped)
            if run.progress.step % args.print_freq == 0:
                run.print(f"step {run.progress.step}  loss {loss.item():.4g}")
        if run.stopped:
            break
        run.save_before_evaluation()
        last = end_epoch(args, run, parts, val_loader, epochs)

    if (
        last is None and not run.stopped and not run.progress.finished
    ):  # the report is still to be written
        _, last = score_both(parts.model, parts.ema.module, val_loader, accelerator, run.poll)
    pixels = parts.info.pixels
    summary = report.write(
        args, run, train_set, val_set, parts.ema.module, last, parts.prior, parts.drops, pixels
    )
    run.finish(**summary, partial_labels_sha256=labels_sha)
    return summary


def end_epoch(
    args: argparse.Namespace, run: Run, parts: Parts, val_loader: Iterable, epochs: int
) -> Scored:
    """Score both models, write the prior, log, save; returns the scores of both."""
    metrics, scored = score_both(
        parts.model, parts.ema.module, val_loader, run.accelerator, run.poll
    )
    parts.prior.synchronize()
    if run.is_main:
        parts.prior.save_prior(verbose=False)
    run.log("train", loss=parts.loss.compute(), lr=parts.scheduler.get_last_lr()[0])
    run.log("test", **metrics)
    score = best_of(metrics, args.best)
    report.print_epoch(run, epochs, score, scored.targets)
    states = {"model": parts.model.state_dict(), "ema": parts.ema.module.state_dict()}
    report.export_best(run, states, parts.info.state_dict())
    run.end_epoch(score=score)
    return scored


def best_of(metrics: dict[str, float], which: str) -> float:
    """The mAP of the averaged model ("ema"), of the model ("model"), or the larger ("max", the released habit)."""
    scores = {"model": metrics["mAP_model"], "ema": metrics["mAP_ema"]}
    return max(scores.values()) if which == "max" else scores[which]


def validate_multi(
    val_loader: Iterable,
    model: nn.Module,
    ema_model: ModelEma,
    accelerator: Accelerator | None = None,
    best: str = "max",
) -> float:
    """The larger mAP of model and averaged model, in percent (`best="model"`, "ema": of that one); prints both."""
    metrics, *_ = score_both(model, ema_model.module, val_loader, accelerator or Accelerator())
    skipped = report.told_skipped(metrics)
    print(
        f"{skipped}mAP score regular {metrics['mAP_model']:.2f}, mAP score EMA {metrics['mAP_ema']:.2f}",
        flush=True,
    )
    return best_of(metrics, best)


def main(argv: list[str] | None = None) -> None:
    """Parse, then run once, or every row of --compare."""
    args = parse_args(parser, argv)
    if phases.is_compared(args):
        phases.compare(args, train)
    else:
        name = f"{args._found.name}_{args.model_name.replace('/', '_')}_{args.partial_loss_mode}"
        train(args, str(Path(args.path_dest) / name))


if __name__ == "__main__":
    run_main(main)
