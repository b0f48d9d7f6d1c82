"""MILe: multi-label iterated learning (CVPR 2022).

Images have several true labels, the annotator wrote down one. Each generation has two phases: the
teacher learns the single labels for k_t steps; then the student learns, for k_s steps, the label
sets {c: sigmoid(teacher)_c > rho}, and becomes the next teacher.

    python MILe.py                            # ImageNet in ../data, or its offline sample: a minute
    python MILe.py --dataset mnist --sample   # multi-label MNIST's sample
    python MILe.py --dataset mnist --sample --compare softmax,sigmoid,MILe --seeds 0,1,2
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from collections.abc import Sequence
from functools import partial

from common.cli import NonFiniteError, parse_or_exit, run_main
from mile.options import Settings, parse

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(parse)

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.run import Run, start_run
from common.rundir import make_accelerator, seed_everything
from mile import build, compare, report
from mile.build_features import use_features
from mile.data import Source, TrainBatch
from mile.evaluate import Evaluated, evaluate, metrics_of
from mile.figures import SHOWN
from mile.learning import IteratedLearning, LearningRate
from mile.method import Phases, probabilities
from mile.report import ClassNames, PhaseLog

one_module(__name__, "mile.MILe")


def train(settings: Settings, accelerator: Accelerator) -> dict[str, Any]:
    """One run: all generations, evaluated and exported one by one; returns the summary."""
    args = settings.args
    seed_everything(args.seed, fast=args.fast)
    source = build.open_source(settings, accelerator)
    report.require_same_classes(settings.trained.classes, source.class_names, args.pretrained)
    run = start_run(args, default_dir(args), accelerator)
    report.writable(args.checkpoint_path)

    learner = build.build_learner(args, source.num_classes, accelerator)
    learner.guard = run.guard
    plan = build.build_plan(args, source.pass_steps)
    rates = build.build_rates(args, learner, plan)
    rule = build.rule_of(args)
    threshold = build.threshold_of(args)
    log = PhaseLog(accelerator)
    history = torch.zeros(plan.epochs, min(SHOWN, source.test_size), source.num_classes)
    classes = ClassNames(source.class_names, source.statistics)
    run.restore(learner=learner, rates=rates, log=log, history=history, classes=classes)
    if args.frozen_features:
        use_features(args, source, learner, run)
    stream = source.stream(run.progress.step)

    def says(network: torch.nn.Module, batches: Any) -> Evaluated:
        return evaluate(network, batches, source.num_classes, accelerator, run.poll)

    is_due = settings.data.own is not None or not settings.data.is_sample
    if is_due and run.progress.step == 0 and not args.eval_only:
        run.print(build.estimate_of(args, learner, source, plan, accelerator, run.folder))
    if args.eval_only:
        run.print(build.describe_evaluation(settings, source.num_classes))
    evaluated: Evaluated | None = None  # the student as it is
    for generation in run.epochs(0 if args.eval_only else plan.epochs):
        evaluated = None
        phases = plan.phases(generation)
        what = f"generation {generation + 1}/{plan.epochs}"
        batches = islice(stream, max(0, phases.total - run.progress.batch))
        for batch in run.bar(batches, what, phases.total):
            rates.before_step(run.progress.step)
            if learner.phase == "interactive" and run.progress.batch == phases.interactive:
                if args.rho_cover is not None:
                    run.save_before_evaluation()
                log.write(run, learner.phase, rates.now, learner.rho)
                learner.rho = threshold.of(
                    generation, plan.epochs, lambda: says(learner.teacher, source.held_out()).whole
                )
                learner.begin_imitation()
            loss = one_step(learner, batch)
            log.add_step(loss, learner.target, batch.label)
            position = run.progress.batch + 1 - phases.interactive
            if report.is_checked(position, phases.imitation):
                log.check_collapse(run, source.num_classes, learner.rho, strict=args.strict)
            run.step(build.rows_of_step(args), batch.skipped)
        if run.stopped:
            break
        run.save_before_evaluation()
        end_generation(run, learner, log, rates, phases)

        evaluated = says(learner.student, source.evaluation())
        metrics = metrics_of(evaluated, rule)
        rates.after_evaluation(metrics["real_f1"])
        first = evaluated.first(history.shape[1])
        history[generation, first.ids] = probabilities(first.logits, rule.schema)
        report.write_evaluation(run, metrics, what, report.skipped_of(evaluated, source))
        if run.is_main and not args.last_only:
            report.save_weights(
                learner.student,
                f"{args.schema}_{generation}.pth",
                folder=args.checkpoint_path,
                keep=args.max_checkpoint_num,
                says=build.comparable(args, source),
            )
        run.end_epoch(score=None if args.last_only else metrics["real_f1"])

    if evaluated is None:
        evaluated = says(learner.student, source.evaluation())
    return conclude(run, settings, learner, source, evaluated, history[: run.progress.epoch])


def one_step(learner: IteratedLearning, batch: TrainBatch) -> torch.Tensor:
    """The optimiser step of the present phase; the loss, 0-d."""
    try:
        if learner.phase == "interactive":
            taught = batch.label if batch.sets is None else batch.sets
            return learner.interactive_step(batch.input, taught, batch.weight, batch.ids)
        return learner.imitation_step(batch.input, batch.label, batch.ids)
    except NonFiniteError as error:
        raise NonFiniteError(f"{learner.phase} phase, {error}") from error


def end_generation(
    run: Run, learner: IteratedLearning, log: PhaseLog, rates: LearningRate, phases: Phases
) -> None:
    """Log the last phase; after an imitation phase the student becomes the teacher."""
    log.write(run, learner.phase, rates.now, learner.rho)
    if learner.phase == "imitation":
        learner.end_generation()


def conclude(
    run: Run,
    settings: Settings,
    learner: IteratedLearning,
    source: Source,
    evaluated: Evaluated,
    history: torch.Tensor,
) -> dict[str, Any]:
    """Summary, figures and exported label sets of the last student; returns the summary."""
    args = settings.args
    rule = build.rule_of(args)
    if args.eval_only and not run.progress.finished:
        skipped = report.skipped_of(evaluated, source)
        report.write_evaluation(run, metrics_of(evaluated, rule), args.pretrained, skipped)
    summary = report.summarize(
        run,
        evaluated,
        learner.student,
        source,
        rule,
        history,
        is_sample=settings.data.is_sample,
        imitation_steps=args.k_s,
    )
    if args.export_labels:
        sets_of = build.taught_sets(args, learner.rho)
        report.export_label_sets(run, learner.student, source, sets_of)
    run.finish(**summary)
    return summary


def default_dir(args: Any) -> Path:
    """checkpoint_path/DATASET_MODEL_SCHEMA."""
    model = args.model.replace("/", "-").replace(":", "-")
    return Path(args.checkpoint_path) / f"{args.dataset}_{model}_{args.schema}"


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Settings and data; then one run, or one for each schema and seed of --compare and --seeds."""
    settings = settings or parse(argv)
    args = settings.args
    build.choose_device(args, is_asked="device" in settings.given)
    if args.compare or args.seeds:
        compare.run_all(settings, train)
    else:
        train(settings, make_accelerator(args))


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
