"""The ablation table of the method from one command: baselines and strategies, several seeds.

    python3 ablation.py --strategies gap,none,uniform,max,cMax,cTopk,cTopk-w --output_dir runs/table

gap: GAP classifier. none: class-specific instances alone. uniform: PuzzleCAM's cut at the centre. A
strategy may have flags of its own, as in --strategies "none,none --p_loss full,cMax --level cam".
All other flags are those of the training scripts; one without an effect on a strategy is named and
left out there. With --resume finished runs are kept; the interrupted one goes on.
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
from oass.options_comparison import Comparison, parse_comparison

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(parse_comparison)

from oass.compare import compare

one_module(__name__, "oass.ablation")


def main(argv: Sequence[str] | None = None, *, settings: Comparison | None = None) -> None:
    """Run everything, print and write the table."""
    compare(settings or parse_comparison(argv))


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
