"""The metadata lists of the three data sets, built from their official files.

python prepare_metadata.py CUB dataset/CUB_200_2011 metadata/CUB
python prepare_metadata.py ILSVRC dataset/ILSVRC metadata/ILSVRC
python prepare_metadata.py OpenImages dataset/OpenImages metadata/OpenImages
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from calm.data_metadata import (
    BUILDERS,
    build_cub_metadata,
    build_ilsvrc_metadata,
    build_openimages_metadata,
    told_of_splits,
)
from calm.options_own import parse_prepare
from common.aliases import one_module
from common.cli import run_main

one_module(__name__, "calm.prepare_metadata")

__all__ = ["build_cub_metadata", "build_ilsvrc_metadata", "build_openimages_metadata", "main"]


def main(argv: list[str] | None = None) -> None:
    """`python prepare_metadata.py DATASET ROOT OUT`."""
    args = parse_prepare(argv)
    counts = BUILDERS[args.dataset](args.root, args.out)
    print(f"{args.out}: {told_of_splits(counts)}")


if __name__ == "__main__":
    run_main(main)
