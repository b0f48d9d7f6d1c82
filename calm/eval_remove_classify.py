"""Remove and classify: how fast does accuracy fall when the highest-scoring pixels are erased?

          images still classified correctly after erasing the k highest-scoring pixels
    R_k =  ----------------------------------------------------------------------------
          images still classified correctly after erasing as many random pixels

over all test images, with the map of the ground-truth class; lower is better.

    python eval_remove_classify.py --experiment_name=NAME --attribution_method=CALM_EM \\
        --score_map_process=jointll
"""

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
script = Script("eval_remove_classify", __name__)

from calm.build import build_tester
from calm.evaluate_erasing import erase_and_classify, evaluate_batch, gather_erased
from calm.network.util import without_batch_norm
from calm.options_flags import ERASE_K_LIST
from calm.report_tables import write_erasing
from common.aliases import one_module

one_module(__name__, "calm.eval_remove_classify")

__all__ = ["erase_and_classify", "main"]

_ERASE_K_LIST = list(ERASE_K_LIST)


def main(
    argv: Sequence[str] | None = None,
    *,
    settings: Settings | None = None,
    script: Script = script,
) -> None:
    """Erase, classify, report; `script` names the run directory."""
    settings = script.settings(argv, settings)
    args = settings.args
    tester = build_tester(settings, script.name)
    classifier = without_batch_norm(tester.model)
    parts = []
    for images, labels, _, index in tester.batches():
        maps, probs = tester.mapper.with_probs(images, labels)
        with tester.accelerator.autocast():
            areas, top, at_random = evaluate_batch(
                classifier,
                images,
                labels,
                index,
                maps,
                ks=args.erase_k,
                seed=args.erase_seed,
                repeats=args.erase_repeats,
                baseline=args.baseline,
                tie_break=args.tie_break,
                auc_steps=args.auc_steps,
            )
        parts.append((index, areas, probs.argmax(1) == labels, top, at_random))

    erased = gather_erased(parts, tester.accelerator)
    write_erasing(tester, erased, args.erase_k, args.auc_steps)


script.run(main)
