"""Where the data lie and in which of the official layouts."""

import argparse
from pathlib import Path
from typing import NamedTuple

from common.aliases import one_module
from common.data import locate
from csl.src.helper_functions.files import expanded

one_module(__name__, "csl.src.helper_functions.locate")

NAMES = {"openimages": "Open Images", "lvis": "LVIS"}  # of --dataset; else COCO 2014
HOW_TO_GET = {
    "COCO 2014": "unpack train2014.zip, val2014.zip, annotations_trainval2014.zip of cocodataset.org there",
    "LVIS": "put lvis_v1_{train,val}.json (lvisdataset.org), train2017, val2017 (cocodataset.org) there",
    "Open Images": "put data.csv and the pictures there (links: OpenImages.md of Alibaba-MIIL/PartialLabelingCSL)",
}
SUBFOLDERS = ("COCO_2014", "coco")


class Layout(NamedTuple):
    """Annotation files and image roots of a layout. `hyperml`: file names are relative to the data root."""

    name: str  # coco, lvis, openimages, hyperml
    train: Path
    val: Path
    train_images: Path
    val_images: Path


class Found(NamedTuple):
    """The layout that was found, its root, whether it is an offline sample."""

    layout: str
    root: Path
    files: Layout
    is_sample: bool
    name: str


def layouts_in(root: Path, metadata: Path | None = None) -> list[Layout]:
    """Every layout that could lie in `root`, in the order of preference."""
    found = []
    for year in (2014, 2017):
        train, val = (
            root / "annotations" / f"instances_{split}{year}.json" for split in ("train", "val")
        )
        found.append(Layout("coco", train, val, root / f"train{year}", root / f"val{year}"))
    for version in ("v1", "v0.5"):
        for folder in (root / "annotations", root):
            train, val = (folder / f"lvis_{version}_{split}.json" for split in ("train", "val"))
            found.append(Layout("lvis", train, val, root, root))
    found.append(Layout("openimages", root / "data.csv", root / "data.csv", root, root))
    long = [
        root / f"oidv6-{split}-human-imagelabels.csv"
        for split in ("train-annotations", "validation-annotations")
    ]
    short = [
        root / f"{split}-annotations-human-imagelabels.csv"
        for split in ("oidv6-train", "validation")
    ]
    found += [Layout("openimages", *pair, root, root) for pair in (long, short)]
    if metadata is not None:
        found.append(Layout("hyperml", metadata / "train.json", metadata / "val.json", root, root))
    return found


OF_DEBUG_MODE = {"on_farm": {"coco"}, "hyperml": {"hyperml"}}
OF_DATASET = {"coco": {"coco", "hyperml"}, "lvis": {"lvis"}, "openimages": {"openimages"}}
EVERY = {"coco", "lvis", "openimages", "hyperml"}


def wanted_names(args: argparse.Namespace) -> set[str]:
    """The layouts that --dataset and --debug_mode both allow; empty where they contradict each other."""
    return OF_DATASET.get(args.dataset, EVERY) & OF_DEBUG_MODE.get(args.debug_mode, EVERY)


def wanted_layouts(root: Path, args: argparse.Namespace) -> list[Layout]:
    """The layouts that could lie in `root` and that --dataset and --debug_mode ask for."""
    metadata = getattr(args, "metadata", None)
    metadata = expanded(metadata, "--metadata") if metadata else None
    names = wanted_names(args)
    return [layout for layout in layouts_in(root, metadata) if layout.name in names]


def find_layout(root: Path, args: argparse.Namespace) -> Layout | None:
    """The first layout in `root`, or in its SUBFOLDERS, whose two annotation files are there."""
    for folder in (root, *(root / name for name in SUBFOLDERS)):
        for layout in wanted_layouts(folder, args):
            if layout.train.is_file() and layout.val.is_file():
                return layout
    return None


def locate_data(args: argparse.Namespace, *, is_given: bool) -> Found:
    """Find the data of `args` (data, metadata, dataset, debug_mode, sample), or the offline sample.

    UserError says what is missing, where it belongs, and whether the sample serves.
    """
    sample = (
        "OpenImages"
        if args.dataset == "openimages"
        else None
        if args.dataset == "lvis"
        else "COCO_2014"
    )
    root = expanded(args.data, "--data")
    dataset = NAMES.get(args.dataset, "COCO 2014")
    location = locate(
        dataset,
        given=root if is_given else None,
        default="./data",
        holds=lambda path: find_layout(path, args) is not None,
        how_to_get=HOW_TO_GET[dataset],
        sample=sample,
        want_sample=args.sample,
        with_sample=("--dataset coco", "--dataset openimages"),
        flag="--data",
    )
    files = find_layout(location.path, args)
    if files is None:  # --sample with a --debug_mode of another layout
        files = layouts_in(location.path)[0]
    name = location.path.name.split("-v")[0] if location.is_sample else files.name
    return Found(files.name, location.path, files, location.is_sample, name)
