"""The metadata lists of the three data sets, built from their official files.

python prepare_metadata.py CUB dataset/CUB_200_2011 metadata/CUB
python prepare_metadata.py ILSVRC dataset/ILSVRC metadata/ILSVRC
python prepare_metadata.py OpenImages dataset/OpenImages metadata/OpenImages
"""

import common.interrupt  # noqa: F401

from pathlib import Path

from calm.data_metadata import (
    BUILDERS,
    build_cub_metadata,
    build_ilsvrc_metadata,
    build_openimages_metadata,
)
from common.aliases import one_module
from common.cli import OneLineParser, UserError, run_main

one_module(__name__, "calm.prepare_metadata")

__all__ = ["build_cub_metadata", "build_ilsvrc_metadata", "build_openimages_metadata", "main"]


def main(argv: list[str] | None = None) -> None:
    """`python prepare_metadata.py DATASET ROOT OUT`."""
    parser = OneLineParser(
        prog="prepare_metadata.py", description="Write the metadata lists of a data set."
    )
    parser.add_argument("dataset", choices=tuple(BUILDERS))
    parser.add_argument("root", type=Path, help="the data set's official folder")
    parser.add_argument(
        "out", type=Path, help="the metadata folder of this data set, for instance metadata/CUB"
    )
    args = parser.parse_args(argv)
    if not args.root.is_dir():
        raise UserError(f"{args.root}: no such folder")
    counts = BUILDERS[args.dataset](args.root, args.out)
    print(f"{args.out}: " + ", ".join(f"{split} {count}" for split, count in counts.items()))


if __name__ == "__main__":
    run_main(main)
