"""CAM, CALM-EM and CALM-ML side by side: one set of flags, several seeds.

    python compare_methods.py --sample --fresh --seeds 10,11,12
    python compare_methods.py --data_root DATA --pretrained=False --prior_activation softplus \\
        --prior_gradient full

With --fresh the birds are drawn anew with each seed. Flags that are not named here go to main.py
and to the evaluations. Each run is OUTPUT_DIR/METHOD-SEED with erase/, cue/ and wsol/ in it, for
CALM also wsol_prior/, the boxes of p(z|x) (`saliency`); what is there already is not done again.
results.csv holds a row a run. --jobs N does N of them at a time.
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from collections.abc import Sequence
from functools import partial

from calm.options_own import Comparison, parse_compare
from common.cli import parse_or_exit, run_main

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(parse_compare)

from calm.compare import compare
from common import samples
from common.aliases import one_module
from common.jobs import own_task

one_module(__name__, "calm.compare_methods")


def main(argv: Sequence[str] | None = None, *, settings: Comparison | None = None) -> None:
    """Every method with every seed, then the table."""
    settings = settings or parse_compare(argv)
    mine = settings.args
    flags = settings.passed_on
    data_of_seed: dict[int, list[str]] = {seed: [] for seed in mine.seeds}
    if mine.fresh:
        flags = [flag for flag in flags if flag not in ("--sample", "-sample")]
        for seed, data in data_of_seed.items():
            birds = mine.output_dir / f"birds{seed}"
            if own_task() is None:  # with --jobs the first process draws for all
                samples.draw("CUB", birds, seed)
            data += ["--data_root", str(birds)]
    compare(
        flags,
        mine.output_dir,
        methods=mine.methods,
        data_of_seed=data_of_seed,
        auc_steps=mine.auc_steps,
        jobs=mine.jobs,
    )


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
