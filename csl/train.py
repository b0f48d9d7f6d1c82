"""CSL: multi-label training with partial annotations and the class-aware selective loss.

The method is from CVPR 2022.

Only some labels of an image are annotated. The loss takes the rest as negatives, but leaves out
those that are likely missed positives: classes with a large prior, and the labels that the network
itself believes in most.

    python train.py --partial_loss_mode=selective          # COCO 2014 in ./data, or the sample
    python train.py --partial_loss_mode=selective --estimate_prior 6     # phase 1 (prior), 2
    python train.py --compare all --schemes fpc,rps --seeds 0,1,2          # the paper's tables
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from common.cli import parse_or_exit, run_main
from csl.options import Settings, build_parser, parse

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings_of_command = parse_or_exit(parse)

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from common.accumulation import Part, looking_ahead, micro_batches, parts_together
from common.aliases import one_module
from common.compiling import compiled
from common.loading import Batch, is_empty
from common.run import Run, start_run
from common.rundir import make_accelerator, seed_everything
from csl import compare, report
from csl.build import Parts, build, build_feature_loaders, build_loaders
from csl.build_optimizer import ModelEma, make_optimizer
from csl.data import DataSet, require_scorable, require_trainable
from csl.data_locate import Found
from csl.evaluate import Forward, Scored, best_of, eval_kind, score_both
from csl.options_choices import mode_of

one_module(__name__, "csl.train")

__all__ = ["main", "make_optimizer", "parser", "train", "validate_multi"]

parser = build_parser()


def train(settings: Settings, default_dir: str) -> dict[str, Any]:
    """One run: train, score model and averaged model after every epoch; returns the summary."""
    args = settings.args
    found = settings.found
    accelerator = make_accelerator(args)
    run = start_run(args, default_dir, accelerator)
    prior_path = compare.prior_file(settings, run, train)  # --estimate_prior: phase 1
    seed_everything(args.seed, fast=args.fast)

    # Data
    loaded = build_loaders(args, found, accelerator)
    train_set, val_set, *_, sampler = loaded
    run.poll()
    require_trainable(train_set, found)
    require_scorable(val_set, found)
    labels_sha = report.describe_labels(run, train_set, mode_of(args.partial_loss_mode))

    # Network, loss, optimiser, averages
    parts = build(settings, run, train_set, sampler.batches, prior_path)
    if args.frozen_features:
        loaded = build_feature_loaders(args, loaded, parts, run)
    network = compiled(parts.model, args.compile)
    network, optimizer = accelerator.prepare(network, parts.optimizer)
    parts = parts._replace(optimizer=optimizer)
    run.restore(**parts._asdict())

    # The loop
    epochs = min(args.epochs, args.stop_epoch or args.epochs)
    rows = args.batch_size * args.grad_accum * accelerator.num_processes
    size = {"pictures": len(train_set), "rows": rows, "epochs": epochs}
    is_due = found.own is not None or not found.is_sample
    pace = report.first_steps(run, parts.model, **size, is_due=is_due)
    last = None
    for epoch in run.epochs(epochs):
        network.train()
        sampler.set_epoch(epoch, run.progress.batch)
        if run.progress.batch == 0:
            parts.drops.reset()
            if args.prior_window == "epoch":
                parts.prior.reset()
        pace.begin()
        for batch in run.bar(loaded.train_loader, f"epoch {epoch + 1}/{epochs}", sampler.batches):
            if is_empty(batch, accelerator.num_processes):
                run.step(0, batch.skipped)
                continue
            of_all = min(rows, len(train_set) - run.progress.batch * rows)
            loss = train_batch(run, parts, network, batch, args.batch_size, of_all)
            run.step(of_all, batch.skipped)
            pace.add()
            if run.progress.step % args.print_freq == 0:
                run.print(f"step {run.progress.step}  loss {loss.item():.4g}")
        if run.stopped:
            break
        run.save_before_evaluation()
        last = end_epoch(run, parts, loaded.val_loader, epochs, args)

    if (
        last is None and not run.stopped and not run.progress.finished
    ):  # the report is to be written
        _, last = score_parts(run, parts, loaded.val_loader)
    summary = end_run(run, parts, train_set, val_set, last, found)
    run.finish(**summary, partial_labels_sha256=labels_sha)
    return summary


def train_batch(
    run: Run,
    parts: Parts,
    network: nn.Module,
    batch: Batch,
    at_once: int | None = None,
    of_all: int | None = None,
) -> torch.Tensor:
    """Forward, loss, backward, the optimiser's step and its schedule, averages; returns the loss.

    With --grad_accum N that is in parts of `at_once` images; `of_all` are those of the step in all
    processes. Nothing of it waits for a GPU, but with --skip_corrupt for the other processes.
    """
    accelerator = run.accelerator
    images, targets = batch.data
    images = images.to(accelerator.device, non_blocking=True)
    targets = targets.to(accelerator.device, non_blocking=True)
    cut = parts_together(
        len(images),
        at_once or len(images),
        accelerator,
        of_all=of_all or len(images) * accelerator.num_processes,
        may_lack=getattr(run.args, "skip_corrupt", False),
    )
    weights = weights_of_step(run, parts, images, targets, cut)

    losses = []
    parts.optimizer.zero_grad()
    for part in micro_batches(cut, accelerator, network):
        labels = targets[part.rows]
        index = batch.index[part.rows]
        with accelerator.autocast():
            logits = network(parts.info.numbers(images[part.rows]))
        chosen = None if weights is None else weights[part.rows]
        loss = parts.criterion(logits, labels, chosen)  # in float32
        run.guard(loss, index, partial(parts.criterion.explain, logits.detach(), labels))
        # A sum over the batch: that of several processes is as large as that of one.
        accelerator.backward(loss * accelerator.num_processes)

        parts.prior.update(logits)
        parts.drops.update(parts.criterion.kept, labels, index)
        parts.loss.add(loss / part.size, part.size)
        losses.append(loss.detach())
    parts.optimizer.step()
    parts.scheduler.step()
    parts.ema.update(parts.model)
    return torch.stack(losses).sum()


def weights_of_step(
    run: Run, parts: Parts, images: torch.Tensor, targets: torch.Tensor, cut: Sequence[Part]
) -> torch.Tensor | None:
    """The weights of all labels of a step in several parts, by a look at all its images first.

    None where a part needs no other to choose what is left out, or is alone.
    """
    if len(cut) == 1 or not parts.criterion.selects_in_batch:
        return None
    logits = []
    with looking_ahead(parts.model), run.accelerator.autocast():
        for part in cut:
            logits.append(parts.model(parts.info.numbers(images[part.rows])).float())
    return parts.criterion.weights_of_step(torch.cat(logits), targets)


def score_parts(run: Run, parts: Parts, loader: Iterable) -> tuple[dict[str, float], Scored]:
    """Metrics and scores of the model and of its average."""
    models = (parts.model, parts.ema.module)
    forward = Forward(eval_kind(run.args.eval_autocast, run.accelerator))
    half = run.args.half_scores
    numbers = parts.info.numbers
    return score_both(*models, loader, run.accelerator, run.poll, numbers, forward, half)


def end_epoch(run: Run, parts: Parts, val_loader: Iterable, epochs: int, args: Any) -> Scored:
    """Score both models, write the prior, log, save; returns the scores of both."""
    metrics, scored = score_parts(run, parts, val_loader)
    parts.prior.synchronize()
    if run.is_main:
        parts.prior.save_prior(verbose=False)
    run.log("train", loss=parts.loss.compute(), lr=float(parts.scheduler.get_last_lr()[0]))
    run.log("test", **metrics)
    score = best_of(metrics, args.best)
    report.print_epoch(run, epochs, score, scored.targets)
    if args.only_last:
        run.end_epoch()
        return scored
    states = {"model": parts.model.state_dict(), "ema": parts.ema.module.state_dict()}
    report.export_best(run, states, parts.info.state_dict())
    run.end_epoch(score=score)
    return scored


def end_run(
    run: Run,
    parts: Parts,
    train_set: DataSet,
    val_set: DataSet,
    last: Scored | None,
    found: Found,
) -> dict[str, Any]:
    """Tables and pictures of the last scores, where there are some; returns the summary."""
    summary = report.summarize(run, train_set, val_set, parts.prior, parts.drops)
    summary["offline_sample"] = found.is_sample
    report.draw_frequencies(run, train_set)
    if run.is_main and last is not None:
        label = "offline sample" if found.is_sample else found.name
        report.write_results(
            run,
            train_set,
            val_set,
            parts.ema.module,
            last,
            parts.prior,
            parts.drops,
            pixels=parts.info.pixels,
            title=f"{parts.criterion.mode} on {label}",
            mean_of_others=summary.get(f"{report.OTHERS}_ema_final"),
        )
    return summary


def validate_multi(
    val_loader: Iterable,
    model: nn.Module,
    ema_model: ModelEma,
    accelerator: Accelerator | None = None,
    best: str = "max",
) -> float:
    """The larger mAP of model and averaged model, in percent (`best`: as in `best_of`).

    Prints both.
    """
    metrics, _ = score_both(model, ema_model.module, val_loader, accelerator or Accelerator())
    both = f"regular {metrics['mAP_model']:.2f}, mAP score EMA {metrics['mAP_ema']:.2f}"
    print(f"{report.told_skipped(metrics)}mAP score {both}", flush=True)
    return best_of(metrics, best)


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Run once, or every row of --compare."""
    settings = settings or parse(argv)
    args = settings.args
    if args.compare is not None:
        compare.compare(settings, train)
        return
    network = args.model_name.replace("/", "_")
    name = f"{settings.found.name}_{network}_{args.partial_loss_mode}"
    train(settings, str(Path(args.path_dest) / name))


if __name__ == "__main__":
    run_main(partial(main, settings=settings_of_command))
