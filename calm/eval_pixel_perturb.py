"""Pixel perturbation, the name of the README's command; the same as eval_remove_classify.py."""

import common.interrupt  # noqa: F401

from calm import eval_remove_classify
from common.aliases import one_module
from common.cli import run_main

one_module(__name__, "calm.eval_pixel_perturb")


def main(argv: list[str] | None = None) -> None:
    """Run remove-and-classify under this name."""
    eval_remove_classify.main(argv, script="eval_pixel_perturb")


if __name__ == "__main__":
    run_main(main)
