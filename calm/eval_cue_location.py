"""Cue localisation on CUB: mPxAP of |map(i) - map(j)| against the parts that tell i and j apart.

    python eval_cue_location.py --experiment_name=NAME --attribution_method=CALM_EM \\
        --score_map_process=jointll --norm_type=clipping --threshold_type=log

Two protocols stand side by side: the released one (one histogram that is never reset, values below
the first threshold dropped) and ours (a fresh histogram for each pair, all values kept).
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
script = Script("eval_cue_location", __name__)

from calm.build import build_cues, build_tester, build_trait
from calm.evaluate_boxes import LocalizationEvaluator
from calm.evaluate_cue import NUM_DIFF_LIST, PROTOCOLS
from calm.evaluate_masks import MaskEvaluator, get_mask, load_mask_image
from calm.figures import draw_pairs
from calm.report_tables import write_cues
from common.aliases import one_module

one_module(__name__, "calm.eval_cue_location")

__all__ = [
    "NUM_DIFF_LIST",
    "LocalizationEvaluator",
    "MaskEvaluator",
    "get_mask",
    "load_mask_image",
    "main",
]


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """One pass over the test images; all protocols from its histograms."""
    settings = script.settings(argv, settings)
    trait, foreground = build_trait(settings, "cue localisation needs CUB's parts and attributes")

    tester = build_tester(settings, script.name)
    cues = build_cues(settings, trait, tester)

    for images, labels, ids, _ in tester.batches():
        cues.add(images, labels.tolist(), ids)
    cues.reduce(tester.accelerator)

    if tester.run.is_main:
        figure = tester.run.figure("cue_pairs")
        draw_pairs(figure, cues, tester.data, tester.device, f"{tester.method}, {tester.process}")
    wanted = settings.args.cue_protocol
    protocols = PROTOCOLS if wanted == "both" else (wanted,)
    write_cues(tester, cues, protocols, foreground, settings.is_sample)


script.run(main)
