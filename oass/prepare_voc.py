"""Write the id lists that VOC's devkit does not ship into oass/data (or --to).

    python3 prepare_voc.py --data_dir $your_dir --sbd benchmark_RELEASE/dataset

train, val, test: the devkit's ImageSets/Segmentation. train_aug = (SBD train + SBD val + VOC train)
minus VOC val: 10,582 ids, sorted. Without --sbd only the first three. The training scripts look
here first.
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

import hashlib
from collections.abc import Sequence
from pathlib import Path

from common.aliases import one_module
from common.cli import UserError, run_main
from oass.data_voc import read_id_list, require_devkit, write_lines
from oass.options_trained import parse_preparation

one_module(__name__, "oass.prepare_voc")

# name -> (number of ids, sha256 of the sorted ids, each followed by a line feed)
KNOWN = {
    "train": (1464, "aa623bd2c8ce4443a8aaae51c524c0eb165e8e44caf6aa9e3ad33d7b75a3ef20"),
    "val": (1449, "cdc1326d12f69ce5153aa5da04a4d8783e146868d42d19f82f44e74b97ac907d"),
    "test": (1456, "5e8fe0c14b2e6633fb2e3a0f5db65fb6b8f5217b574478bb21127a48fd33010f"),
    "train_aug": (10582, "d1326bd532648d73bc4b1bd275434eba81930982dc7401a65a8cecb26c028e24"),
}


def digest(ids: Sequence[str]) -> str:
    """sha256 of the sorted ids, each followed by a line feed."""
    return hashlib.sha256("".join(f"{i}\n" for i in sorted(ids)).encode()).hexdigest()


def augmented_ids(voc_train: Sequence[str], voc_val: Sequence[str], sbd: Path) -> list[str]:
    """(SBD train + SBD val + VOC train) minus VOC val, sorted. UserError without SBD's lists."""
    union = set(voc_train)
    for name in ("train", "val"):
        path = sbd / f"{name}.txt"
        if not path.is_file():
            raise UserError(
                f"--sbd {sbd}: no {name}.txt; give the folder dataset of SBD's benchmark_RELEASE"
            )
        union |= set(read_id_list(path))
    return sorted(union - set(voc_val))


def main(argv: Sequence[str] | None = None) -> None:
    """Read the devkit's lists, join, compare with the known counts and sums, write."""
    args = parse_preparation(argv).args
    folder = require_devkit(args.data_dir) / "ImageSets" / "Segmentation"
    lists = {}
    for name in ("train", "val", "test"):
        path = folder / f"{name}.txt"
        if path.exists():
            lists[name] = read_id_list(path)
    if args.sbd is not None:
        if not {"train", "val"} <= set(lists):
            raise UserError(f"{folder}: train.txt and val.txt are needed to make train_aug")
        lists["train_aug"] = augmented_ids(lists["train"], lists["val"], args.sbd)
    if not lists:
        raise UserError(f"{folder} holds no train.txt, val.txt or test.txt")

    for name, ids in lists.items():
        count, known = KNOWN[name]
        is_official = len(ids) == count and digest(ids) == known
        verdict = "the official list" if is_official else f"not the official {count}"
        write_lines(args.to / f"{name}.txt", ids)
        print(f"{args.to / name}.txt: {len(ids)} ids, {verdict}")


if __name__ == "__main__":
    run_main(main)
