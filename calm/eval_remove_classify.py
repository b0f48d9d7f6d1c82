"""Remove and classify: how fast does accuracy fall when the highest-scoring pixels are erased?

          images still classified correctly after erasing the k highest-scoring pixels
    R_k =  ----------------------------------------------------------------------------
          images still classified correctly after erasing as many random pixels

over all test images, with the map of the ground-truth class; lower is better.

    python eval_remove_classify.py --experiment_name=NAME --attribution_method=CALM_EM \\
        --score_map_process=jointll
"""

import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

from collections.abc import Sequence
from functools import partial

from calm.options import Settings, parse
from common.cli import parse_or_exit, run_main

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(partial(parse, script="eval_remove_classify"))

from calm.build import build_tester
from calm.evaluate_erasing import erase_and_classify, evaluate_batch, gather_erased
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
    script: str = "eval_remove_classify",
) -> None:
    """Erase, classify, report; `script` names the run directory."""
    settings = settings or parse(argv, script=script)
    args = settings.args
    tester = build_tester(settings, script)
    parts = []
    for images, labels, _, index in tester.batches():
        maps, probs = tester.mapper.with_probs(images, labels)
        with tester.accelerator.autocast():
            areas, top, at_random = evaluate_batch(
                tester.model,
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
    process = args.score_map_process
    method = tester.model.process.attribution_method
    write_erasing(tester, erased, args.erase_k, process, method, args.auc_steps)


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
