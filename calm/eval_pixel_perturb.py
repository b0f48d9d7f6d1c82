"""Pixel perturbation, the name of the README's command; the same as eval_remove_classify.py."""

# ruff: noqa: E402  (imports after the command line was read)
try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from collections.abc import Sequence

from calm.options_script import Script, Settings

# --help and mistakes are answered here, before torch is imported
script = Script("eval_pixel_perturb", __name__)

from calm import eval_remove_classify
from common.aliases import one_module

one_module(__name__, "calm.eval_pixel_perturb")


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Run remove-and-classify under this name."""
    eval_remove_classify.main(argv, settings=settings, script=script)


script.run(main)
