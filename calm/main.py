"""CALM: an attribution map that is part of the model (Kim et al., ICCV 2021).

Trains CAM, CALM-EM or CALM-ML. The position z of the decisive cue is a latent variable,
p(y,z|x) = p(y|x,z) p(z|x); its joint probability is the map (method.py).

    # CUB in dataset/, or the drawn birds: about a minute
    python main.py --attribution_method=CALM_EM
    python main.py --experiment_name=experiment_name/ --architecture=resnet50 \\
        --attribution_method=CALM_EM --dataset=CUB --use_bn=True --large_feature_map=True
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from collections.abc import Sequence
from functools import partial

from calm.options import Settings, parse
from common.cli import parse_or_exit, run_main

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(parse)

from calm.data import data_of
from calm.figures import draw_maps
from calm.report import PerformanceMeter, told_of_skipped
from calm.training import Trainer
from common.aliases import one_module
from common.rundir import seed_everything

one_module(__name__, "calm.main")

__all__ = ["PerformanceMeter", "Trainer", "main", "set_random_seed"]

set_random_seed = seed_everything


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Train, evaluate on val after each epoch and on test once, and save.

    With --is_train=False only evaluate on test.
    """
    settings = settings or parse(argv)
    trainer = Trainer(settings)
    args = trainer.args
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
            last = {split: meter.current_value for split, meter in trainer.performance.items()}
            return run.finish(**last)
        if run.progress.finished:
            return run.finish(**trainer.summary())

    scores = trainer.evaluate_cls("test")
    trainer.report(args.epochs, "test", scores)
    trainer.save_performances()
    if args.is_train:
        trainer.save_checkpoint(args.epochs)
    if run.is_main:
        data = data_of(trainer.loaders["test"])
        with trainer.accelerator.autocast():
            figure = run.figure("maps")
            draw_maps(figure, trainer.model, data, trainer.device, names=args.class_names)

    network = f"{args.attribution_method}, {args.architecture}"
    run.print(f"test accuracy {scores['accuracy']:.2f} % ({network}){told_of_skipped(scores)}")
    run.finish(**trainer.summary(scores))


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
