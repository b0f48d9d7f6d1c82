"""Pixel perturbation, the name of the README's command; the same as eval_remove_classify.py."""

import common.interrupt  # noqa: F401

from calm import eval_remove_classify
from common.cli import run_main


def main(argv: list[str] | None = None) -> None:
    """Run remove-and-classify under this name."""
    eval_remove_classify.main(argv, script="eval_pixel_perturb")


if __name__ == "__main__":
    run_main(main)
