"""Pixel perturbation, the name of the README's command; the same as eval_remove_classify.py."""

import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

from collections.abc import Sequence
from functools import partial

from calm.options import Settings, parse
from common.cli import parse_or_exit, run_main

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(partial(parse, script="eval_pixel_perturb"))

from calm import eval_remove_classify
from common.aliases import one_module

one_module(__name__, "calm.eval_pixel_perturb")


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Run remove-and-classify under this name."""
    eval_remove_classify.main(argv, settings=settings, script="eval_pixel_perturb")


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
