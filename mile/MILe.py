"""MILe: multi-label iterated learning (CVPR 2022).

Images have several true labels, the annotator wrote down one. Each generation has two phases: the teacher
learns the single labels for k_t steps; then the student learns, for k_s steps, the label sets
{c: sigmoid(teacher)_c > rho}, and becomes the next teacher.

    python MILe.py                                  # ImageNet in ../data, or the offline sample: about a minute
    python MILe.py --dataset mnist --sample         # multi-label MNIST's sample
    python MILe.py --dataset mnist --sample --compare softmax,sigmoid,MILe --seeds 0,1,2
"""

import common.interrupt  # noqa: F401

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.cli import NonFiniteError, run_main
from common.run import Run, start_run
from common.rundir import make_accelerator, seed_everything
from mile import compare, report
from mile.build import build_learner
from mile.config import parse_config
from mile.evaluation import Outputs, chosen_rho, evaluate, metrics_of, skipped_of
from mile.figures import SHOWN
from mile.learning import IteratedLearning
from mile.locate import choose_device, locate_data
from mile.phase_log import PhaseLog, is_checked
from mile.provenance import ClassNames, describe_evaluation, require_same_classes, take_from_weights
from mile.schedule import LearningRate, Phases, Plan
from mile.sources import TrainBatch, open_source
from mile.utils import probabilities, save_model, writable

one_module(__name__, "mile.MILe")


def train(conf: Any, accelerator: Accelerator) -> dict[str, Any]:
    """One run: all generations, evaluated and exported one by one; returns the summary."""
    seed_everything(conf.seed)
    source = open_source(conf, accelerator)
    conf._classes = list(source.class_names)
    require_same_classes(conf, source.class_names)
    run = start_run(conf, default_dir(conf), accelerator)
    writable(conf.checkpoint_path)

    learner = build_learner(conf, source, accelerator)
    learner.guard = run.guard
    plan = Plan(conf, source.pass_steps)
    rates, log = LearningRate(conf, learner.optimizers, plan), PhaseLog(accelerator)
    history = torch.zeros(plan.epochs, min(SHOWN, source.test_size), source.num_classes)
    run.restore(
        learner=learner,
        rates=rates,
        log=log,
        history=history,
        classes=ClassNames(source.class_names),
    )
    stream = source.stream(run.progress.step)

    def student_outputs() -> Outputs:
        return evaluate(
            learner.student, source.evaluation(), source.num_classes, accelerator, run.poll
        )

    if conf.eval_only:
        run.print(describe_evaluation(conf, source.num_classes))
    outputs: Outputs | None = None  # of the student as it is
    for generation in run.epochs(plan.epochs if not conf.eval_only else 0):
        outputs, phases = None, plan.phases(generation)
        batches = islice(stream, max(0, phases.total - run.progress.batch))
        for batch in run.bar(batches, f"generation {generation + 1}/{plan.epochs}", phases.total):
            rates.before_step(run.progress.step)
            if learner.phase == "interactive" and run.progress.batch == phases.interactive:
                if conf.rho_cover is not None:
                    run.save_before_evaluation()
                log.write(run, learner.phase, rates.now, learner.rho)
                learner.rho = chosen_rho(
                    conf, learner.teacher, source, generation, plan.epochs, accelerator, run.poll
                )
                learner.begin_imitation()
            loss = one_step(learner, batch)
            log.add(loss, learner.target, batch.label)
            if is_checked(run.progress.batch + 1 - phases.interactive, phases.imitation):
                log.check_collapse(run, source.num_classes, learner.rho, strict=conf.strict)
            run.step(conf.batch_size, batch.skipped)
        if run.stopped:
            break
        run.save_before_evaluation()
        end_generation(run, learner, log, rates, phases)

        outputs = student_outputs()
        metrics = metrics_of(outputs, conf)
        rates.after_evaluation(metrics["real_f1"])
        first = outputs.index < history.shape[1]
        history[generation, outputs.index[first]] = probabilities(
            outputs.logits[first], conf.schema
        )
        what = f"generation {generation + 1}/{plan.epochs}"
        report.write_evaluation(run, metrics, what, skipped_of(outputs, source))
        if run.is_main:
            save_model(learner.student, f"{conf.schema}_{generation}.pth", conf)
        run.end_epoch(score=metrics["real_f1"])

    outputs = outputs or student_outputs()
    if conf.eval_only and not run.progress.finished:
        report.write_evaluation(
            run, metrics_of(outputs, conf), conf.pretrained, skipped_of(outputs, source)
        )
    summary = report.summarize(
        run, outputs, learner.student, source, conf, history[: run.progress.epoch]
    )
    if conf.export_labels:
        report.export_label_sets(run, learner, source, conf)
    run.finish(**summary)
    return summary


def one_step(learner: IteratedLearning, batch: TrainBatch) -> torch.Tensor:
    """The optimiser step of the present phase; the loss, 0-d."""
    try:
        if learner.phase == "interactive":
            return learner.interactive_step(batch.input, batch.label, batch.weight, batch.index)
        return learner.imitation_step(batch.input, batch.label, batch.index)
    except NonFiniteError as error:
        raise NonFiniteError(f"{learner.phase} phase, {error}") from error


def end_generation(
    run: Run, learner: IteratedLearning, log: PhaseLog, rates: LearningRate, phases: Phases
) -> None:
    """Log the last phase; after an imitation phase the student becomes the teacher."""
    log.write(run, learner.phase, rates.now, learner.rho)
    if learner.phase == "imitation":
        learner.end_generation()


def default_dir(conf: Any) -> Path:
    """checkpoint_path/DATASET_MODEL_SCHEMA."""
    return (
        Path(conf.checkpoint_path) / f"{conf.dataset}_{conf.model.replace('/', '-')}_{conf.schema}"
    )


def main(argv: list[str] | None = None) -> None:
    """Settings and data; then one run, or one for each schema and seed of --compare and --seeds."""
    conf = parse_config(argv)
    choose_device(conf)
    take_from_weights(conf)
    locate_data(conf)
    if conf.compare or conf.seeds:
        compare.run_all(conf, train)
    else:
        train(conf, make_accelerator(conf))


if __name__ == "__main__":
    run_main(main)
