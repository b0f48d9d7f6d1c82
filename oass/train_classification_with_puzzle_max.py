"""OASS (ICIP 2022), strategy max: multi-label classification with puzzles cut at objects.

One keypoint per image, the maximum over its classes' maps; the student itself sees the tiles.

    L = L_cl + alpha_p L_pcl + alpha_re(i) L_re

Every term is in oass/method.py, the loop in oass/train.py.

    python3 train_classification_with_puzzle_max.py --architecture resnet50 \\
        --alpha_schedule_re 0.05 --alpha_re 3.00 --alpha_p 0.5 --tag ResNet50_Max \\
        --data_dir $your_dir

Without VOC2012 it runs on the offline sample; without --architecture there on a small network that
learns.
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from collections.abc import Sequence
from functools import partial

from common.aliases import one_module
from common.cli import parse_or_exit, run_main
from oass.options import Settings, parse

STRATEGY = "max"

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(partial(parse, STRATEGY))

from oass.train import train  # noqa: E402

one_module(__name__, "oass.train_classification_with_puzzle_max")


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Parse and train."""
    train(settings or parse(STRATEGY, argv))


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
