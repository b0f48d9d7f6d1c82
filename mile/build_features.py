"""`--frozen_features`: a run's source gives features that are computed once."""

import argparse
from functools import partial

from common.aliases import one_module
from common.run import Run
from mile.data import GridSource, Source, short_side
from mile.data_features import Extractor
from mile.learning import IteratedLearning
from mile.models_frozen import body_of

one_module(__name__, "mile.build_features")


def use_features(
    args: argparse.Namespace, source: Source, learner: IteratedLearning, run: Run
) -> None:
    """Let the source give the features of the learner's frozen backbone; says what they are."""
    extractor = Extractor(
        body_of(learner.trained[0]),
        device=run.accelerator.device,
        workers=args.num_workers,
        poll=run.poll,
    )
    if isinstance(source, GridSource):
        source.use_features(extractor.of_grids)
    else:
        of_pictures = partial(
            extractor.of_pictures,
            look=look_in_words(args, source.statistics.interpolation),
            size=args.image_size,
            statistics=source.statistics,
            skip_corrupt=args.skip_corrupt,
        )
        source.use_features(of_pictures)
    shape = "x".join(map(str, source.feature_shape or ()))
    run.print(f"frozen features of {args.model}: {shape} numbers a picture, computed once")


def look_in_words(args: argparse.Namespace, interpolation: str) -> str:
    """The transform of the evaluation: all that the features of a picture depend on."""
    size = args.image_size
    short = round(size * short_side(args.protocol, args.model) / 224)
    return f"shorter side to {short} px, {interpolation}, its centre of {size} px"
