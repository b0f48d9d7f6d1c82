"""Does csl's pipeline learn real photographs by heart? Trained and scored on 126 of COCO's.

    python benchmarks/overfit_csl.py --coco DIR

DIR holds train2017/ and annotations/instances_train2017.json.

With every label shown, a network that cannot reach a mAP near 100 % on its own training pictures
has a fault in reading, labels, loss or metric. With half of the labels hidden, the hidden ones are
scored too. The mean is over the classes that are there: the mAP of csl counts the others as zero,
and says so. Half a minute a line on one core. Status 1 where the first line stays under 99 %.
"""

import common.interrupt  # noqa: F401

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

from common.cli import OneLineParser, UserError, positive_int, run_main
from csl import train

HALF = ["--simulate_partial_type", "rps", "--simulate_partial_param", "0.5"]
RUNS = {
    "all labels, negative CE": ["--recipe", "negative_ce"],
    "RPS 0.5, negative CE": ["--recipe", "negative_ce", *HALF],
    "RPS 0.5, ignore CE": ["--recipe", "ignore_ce", *HALF],
    "RPS 0.5, CSL": ["--recipe", "csl_rps", "--likelihood_topk", "5", *HALF],
}


def link(coco: Path, root: Path) -> None:
    """COCO 2014's layout in `root` with the training pictures as both splits."""
    annotations = coco / "annotations" / "instances_train2017.json"
    if not annotations.is_file():
        raise UserError(
            f"--coco {coco}: {annotations} is missing;"
            " give the folder with train2017 and annotations"
        )
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"{split}2014").symlink_to((coco / "train2017").resolve())
        (root / "annotations" / f"instances_{split}2014.json").symlink_to(annotations.resolve())


def main(argv: list[str] | None = None) -> int:
    """Run every line; 1 where the complete labels are not learnt."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--coco", type=Path, required=True, help="a folder of COCO 2017, or a part of it"
    )
    parser.add_argument("--epochs", type=positive_int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        link(args.coco, Path(folder) / "data")
        for number, (name, flags) in enumerate(RUNS.items()):
            out = Path(folder) / str(number)
            fixed = "--model_name tresnet_tiny --image_size 64 --batch_size 16 --lr 6e-3"
            fixed += " --workers 0 --augment none --cpu"
            fixed += f" --epochs {args.epochs} --seed {args.seed}"
            paths = [
                "--data",
                str(Path(folder) / "data"),
                "--output_dir",
                str(out),
                "--model_path",
                "",
            ]
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                train.main([*fixed.split(), *paths, *flags])
            summary = json.loads((out / "summary.json").read_text())
            found[name] = summary.get(
                "mAP_classes_with_positives_model_final", summary["mAP_model_final"]
            )
            told = f"mAP on the training pictures, all labels: {found[name]:6.2f} %"
            print(f"{name:<26}{told}  {summary['wall_seconds']:.0f} s", flush=True)
    return int(next(iter(found.values())) < 99)


if __name__ == "__main__":
    run_main(main)
