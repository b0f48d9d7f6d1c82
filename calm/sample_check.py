"""Explain why R_2% comes out as it does on the drawn birds.

It is told by how much of the wing, which tells the classes apart, is erased.

    python compare_methods.py --sample --fresh --seeds 10,11,12 --output_dir save/compare
    python sample_check.py --compared save/compare

Per method, over all runs and test images: the distance from the map's maximum to the wing's centre
in input pixels, the share of the wing's disc among the 2 % of pixels ranked first, and accuracy
after erasing these where less, and where at least, half of the disc is among them.
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from pathlib import Path

import numpy as np

from calm.build import build_tester
from calm.compare import MAPS
from calm.data_cub_trait import CUBTrait
from calm.evaluate_sample import describe, examine
from calm.options import parse
from common.aliases import one_module
from common.cli import OneLineParser, UserError, run_main
from common.text import read_json

one_module(__name__, "calm.sample_check")


def main(argv: list[str] | None = None) -> None:
    """Every run of compare_methods.py --fresh, then two lines per method."""
    parser = OneLineParser(prog="sample_check.py", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--compared", type=Path, default=Path("save/compare"), help="of compare_methods.py --fresh"
    )
    args = parser.parse_args(argv)
    found: dict[str, list[np.ndarray]] = {}
    for method in MAPS:
        for folder in sorted(args.compared.glob(f"{method}-*")):
            rows = examine_run(args.compared, folder, method)
            found.setdefault(method, []).append(rows)
    if not found:
        remedy = "make them with compare_methods.py --sample --fresh"
        raise UserError(f"{args.compared}: no runs; {remedy}")
    for method, parts in found.items():
        print(describe(method, np.concatenate(parts)))


def examine_run(compared: Path, folder: Path, method: str) -> np.ndarray:
    """What `examine` finds of one run and the birds that were drawn for its seed."""
    birds = compared / f"birds{folder.name.removeprefix(f'{method}-')}"
    trained = read_json(folder / "config.json", dict)["settings"]
    flags = [
        "--cpu",
        "--overwrite",
        f"--data_root={birds}",
        f"--save_root={compared}",
        f"--experiment_name={folder.name}",
        f"--output_dir={folder}/check",
        f"--attribution_method={method}",
        f"--score_map_process={MAPS[method][0]}",
        f"--crop_size={trained['crop_size']}",
        f"--resize_size={trained['resize_size']}",
    ]
    tester = build_tester(parse(flags, script="sample_check"), "sample_check")
    rows = examine(tester, CUBTrait(birds / "CUB_200_2011"))
    tester.run.finish()
    return rows


if __name__ == "__main__":
    run_main(main)
