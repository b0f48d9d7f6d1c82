"""Why R_2% comes out as it does on the drawn birds: how much of the wing, which tells the classes apart, is erased.

    python compare_methods.py --sample --fresh --seeds 10,11,12 --output_dir save/compare
    python sample_check.py --compared save/compare

Per method, over all runs and test images: the distance from the map's maximum to the wing's centre in input pixels,
the share of the wing's disc among the 2 % of pixels ranked first, and accuracy after erasing these where less, and
where at least, half of the disc is among them.
"""

import common.interrupt  # noqa: F401

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from calm.compare_methods import MAPS
from calm.config import configure
from calm.erasing import rank_pixels
from calm.eval_remove_classify import classify_erased
from calm.tester import Tester
from calm.util import resize_scoremaps
from calm.util_cub_trait import PARTS, CUBTrait
from common.aliases import one_module
from common.cli import OneLineParser, UserError, run_main
from common.text import read_json

one_module(__name__, "calm.sample_check")

ERASED = 0.02
RADIUS = 3 / 64  # of the wing's disc, in sides of the smallest picture (common/samples/cub.py)
WING = PARTS["wing"][0]


@torch.inference_mode()
def examine(tester: Tester, trait: CUBTrait) -> np.ndarray:
    """(n,3) per test image with a visible wing: distance to it, share of its disc that is erased, still correct."""
    rows = []
    for images, labels, ids, _ in tester.batches():
        side = images.shape[-1]
        scores = resize_scoremaps(tester.mapper(images, labels), "tensor", (side, side))
        ranking = rank_pixels(scores)
        correct = classify_erased(tester.model, images, labels, ranking, [ERASED])[0]
        for image_id, order, is_correct in zip(ids, ranking, correct.tolist(), strict=True):
            points, parts = trait._points(image_id, side)
            wings = points[parts == WING]
            if len(wings):
                pixels = np.stack([order.numpy() % side, order.numpy() // side], 1)
                away = np.hypot(*(pixels - wings[0]).T)
                on_disc = away <= RADIUS * side
                share = on_disc[: int(ERASED * side * side)].sum() / on_disc.sum()
                rows.append((away[0], share, float(is_correct)))
    return np.array(rows)


def main(argv: list[str] | None = None) -> None:
    """Every run of compare_methods.py --fresh, then a line per method."""
    parser = OneLineParser(prog="sample_check.py", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--compared", type=Path, default=Path("save/compare"), help="of compare_methods.py --fresh"
    )
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for method in MAPS:
        for folder in sorted(args.compared.glob(f"{method}-*")):
            birds = args.compared / f"birds{folder.name.removeprefix(f'{method}-')}"
            settings = read_json(folder / "config.json", dict)["settings"]
            sizes = [f"--{name}={settings[name]}" for name in ("crop_size", "resize_size")]
            flags = [
                f"--data_root={birds}",
                f"--save_root={args.compared}",
                f"--experiment_name={folder.name}",
            ]
            flags += [
                f"--attribution_method={method}",
                f"--score_map_process={MAPS[method][0]}",
                "--cpu",
                *sizes,
            ]
            tester = Tester(
                configure([*flags, f"--output_dir={folder}/check", "--overwrite"]), "sample_check"
            )
            found[method].append(examine(tester, CUBTrait(birds / "CUB_200_2011")))
            tester.run.finish()
    if not found:
        raise UserError(
            f"{args.compared}: no runs; make them with compare_methods.py --sample --fresh"
        )
    for method, parts in found.items():
        distance, share, correct = np.concatenate(parts).T
        few, many = correct[share < 0.5], correct[share >= 0.5]
        print(
            f"{method}: {len(share)} images; peak to wing {np.median(distance):.1f} pixels (median)"
        )
        print(
            f"  {100 * share.mean():.0f} % of the disc erased; where less than half is, correct {_percent(few)}, ",
            end="",
        )
        print(f"elsewhere {_percent(many)}")


def _percent(correct: np.ndarray) -> str:
    return f"{100 * correct.mean():.0f} %" if len(correct) else "none"


if __name__ == "__main__":
    run_main(main)
