"""Cue localisation on CUB: mPxAP of |map(i) - map(j)| against the parts in which classes i and j differ.

    python eval_cue_location.py --experiment_name=NAME --attribution_method=CALM_EM --score_map_process=jointll \\
        --norm_type=clipping --threshold_type=log

Reported are the released protocol (one histogram that is never reset, values below the first threshold
dropped) and ours (a fresh one for each pair; values kept) side by side.
"""

import common.interrupt  # noqa: F401

import csv
import io
from pathlib import Path

from calm.config import cub_root, located
from calm.cue_localiser import NUM_DIFF_LIST, CueLocaliser, class_number, columns_of
from calm.cue_pictures import draw_pairs
from calm.evaluation import LocalizationEvaluator, MaskEvaluator, get_mask, load_mask_image  # noqa: F401
from calm.flags import CUES
from calm.pixel_pr import UnfitDataset
from calm.tester import Tester
from calm.util import get_threshold_list
from calm.util_cub_trait import CUBTrait, has_segmentations
from common.aliases import one_module
from common.checkpoint import atomic_write
from common.cli import UserError, run_main

one_module(__name__, "calm.eval_cue_location")

# mPxAP percent of the original README for 1, 2, 3 parts and all pairs; its protocol is not known
PUBLISHED = {
    ("CAM", "vanilla"): (24.1, 28.3, 32.2, 29.6),
    ("CALM-ML", "jointll"): (23.6, 26.7, 28.8, 27.3),
    ("CALM-EM", "jointll"): (30.4, 33.3, 36.3, 34.3),
}
SCRIPT = "eval_cue_location"


def make_trait(folder: Path, foreground: str | None, rule: str) -> tuple[CUBTrait, str]:
    """The parts and attributes of a CUB folder, and a line on what is the foreground."""
    chosen = foreground or ("segmentation" if has_segmentations(folder) else "box")
    told = f"foreground: {chosen}"
    if foreground is None and chosen == "box":
        told += f" ({folder}/segmentations is not there)"
    return CUBTrait(folder, rule, chosen), told


def write(tester: Tester, cues: CueLocaliser, foreground: str) -> None:
    """The table on the screen, cue_pairs.csv, summary.json, figures."""
    args, run = tester.args, tester.run
    protocols = ("per_pair", "released") if args.cue_protocol == "both" else (args.cue_protocol,)
    table = cues.table(protocols)
    counts = {str(d): cues.parts_of.count(d) for d in NUM_DIFF_LIST}
    skipped = int(cues.images[:, 1].sum())
    distance = cues.peak_distance()
    flat = {
        f"{name}/{d}": v
        for name, row in {**table, "peak_distance": distance}.items()
        for d, v in row.items()
    }
    run.log("test", **flat)
    run.print(
        f"{foreground}; {len(cues.pairs)} pairs ({', '.join(f'{n} with {d}' for d, n in counts.items())} parts), "
        f"{int(cues.images[:, 0].sum())} maps, {skipped} without a visible differing part, "
        f"{int((cues.images[:, 0] == 0).sum())} pairs without an image"
    )
    run.print("mPxAP (percent)       1 part  2 parts  3 parts     mean")
    undefined = cues.undefined(protocols)
    for name, row in table.items():
        note = f"  without {undefined[name]} undefined pairs" if undefined[name] else ""
        run.print(
            f"  {name:<18}"
            + "".join("     none" if v is None else f"{v:9.2f}" for v in row.values())
            + note
        )
    shown = "".join("     none" if v is None else f"{v:9.1f}" for v in distance.values())
    run.print(f"peak to part, pixels {shown}")
    published = PUBLISHED.get((args.attribution_method, args.score_map_process))
    if published and not args._is_sample:
        run.print(
            "  published (191 pairs)" + "".join(f"{v:9.1f}" for v in published).removeprefix("   ")
        )
    if run.is_main:
        text = io.StringIO()
        columns = {
            name: cues.scores(protocol, keep)
            for name, (protocol, keep) in columns_of(protocols).items()
        }
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["first", "second", "parts", "images", "skipped", *columns])
        for n, pair in enumerate(cues.pairs):
            rows.writerow(
                [
                    *pair,
                    cues.parts_of[n],
                    *cues.images[n].tolist(),
                    *(column[n] for column in columns.values()),
                ]
            )
        atomic_write(run.folder / "cue_pairs.csv", text.getvalue().encode())
    tester.finish(
        foreground=foreground,
        pairs=counts,
        skipped_images=skipped,
        undefined_pairs=undefined,
        **flat,
        mPxAP=table,
    )


def main(argv: list[str] | None = None) -> None:
    """One pass over the test images; all protocols from its histograms."""
    args = located(argv, prog=f"{SCRIPT}.py", place=CUES)
    if args.dataset_name != "CUB":
        raise UnfitDataset(
            f"cue localisation needs CUB's parts and attributes; {args.dataset_name} has none"
        )
    trait, foreground = make_trait(cub_root(args._data), args.foreground, args.attribute_rule)
    tester = Tester(args, SCRIPT)
    data = tester.loader.dataset.dataset
    label_of = {class_number(i, data.image_labels[i]): data.image_labels[i] for i in data.image_ids}
    trait.check_segmentations(data.image_ids)
    thresholds = get_threshold_list(args.cam_curve_interval, args.threshold_type)
    cues = CueLocaliser(trait, tester.mapper, label_of, thresholds, args.norm_type, args.max_pairs)
    if not cues.pairs:
        raise UserError(
            f"no pair of the {len(label_of)} test classes differs in {NUM_DIFF_LIST} parts"
        )
    for images, labels, ids, _ in tester.batches():
        cues.add(images, labels.tolist(), ids)
    cues.reduce(tester.accelerator)
    if tester.run.is_main:
        draw_pairs(tester, cues)
    write(tester, cues, foreground)


if __name__ == "__main__":
    run_main(main)
