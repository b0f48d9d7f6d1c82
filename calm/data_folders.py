"""Where the pictures and the lists of a data set lie, and how many classes it has."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calm.data_lists import SPLITS, Attributes, configure_metadata, get_image_ids
from calm.data_metadata import BUILDERS, second_val, source_of, told_of_splits
from calm.options import cub_root, holds_lists
from calm.options_names import DATASETS
from common.aliases import one_module
from common.cli import UserError
from common.text import numbered_lines, once, read_json

if TYPE_CHECKING:
    from common.own_data import OwnData

one_module(__name__, "calm.data_folders")

NUM_CLASSES = {"CUB": 200, "ILSVRC": 1000, "OpenImages": 100}


@dataclass(frozen=True)
class DataSet:
    """A data set that was found, with its metadata.

    Args:
        name: one of DATASETS.
        root: the folder of the official files.
        paths: {train, val, test: folder below which the ids of the split lie}.
        metadata: the folder of the lists.
        num_classes: lines of CUB's classes.txt, else the official number.
        own: the user's own data (--data); the other places are empty then.
    """

    name: str
    root: Path
    paths: Mapping[str, str]
    metadata: Path
    num_classes: int
    own: "OwnData | None" = None


def set_data_path(dataset_name: str, data_root: str | Path) -> Attributes:
    """{train, val, test: folder below which the ids lie}; ValueError for an unknown data set."""
    root = Path(data_root)
    if dataset_name == "CUB":
        images = cub_root(root) / "images"
        second = second_val("CUB", cub_root(root)) or root / "CUBV2"
        return Attributes(train=str(images), val=str(second), test=str(images))

    if dataset_name not in DATASETS:
        raise ValueError(f"dataset {dataset_name!r}: choose from {', '.join(DATASETS)}")
    base = root
    if (root / dataset_name).is_dir() or not (root / "train").is_dir():
        base = root / dataset_name
    paths = Attributes(dict.fromkeys(SPLITS, str(base)))
    if dataset_name == "ILSVRC" and not (base / "val2").is_dir():
        paths.val = str(base.parent / "ImageNetV2")
    return paths


def official_root(dataset_name: str, data_root: str | Path) -> Path:
    """The folder of the data set's official files."""
    if dataset_name == "CUB":
        return cub_root(data_root)
    return Path(set_data_path(dataset_name, data_root).train)


def find_data_set(
    name: str, data_root: str | Path, metadata_root: str | Path, save_root: str | Path
) -> DataSet:
    """The data set below `data_root`, with its metadata found or built (`find_metadata`)."""
    root = official_root(name, data_root)
    paths = set_data_path(name, data_root)
    if second_val(name, root) is None:  # val is held out of train
        paths.val = paths.train

    metadata = find_metadata(name, root, metadata_root, save_root)
    return DataSet(name, root, paths, metadata, official_classes(name, data_root))


def official_classes(name: str, data_root: str | Path) -> int:
    """Return the number of classes.

    It is the number of lines of CUB's classes.txt below `data_root`, else the official number.
    """
    listing = official_root(name, data_root) / "classes.txt"
    if name == "CUB" and listing.is_file():
        return len(numbered_lines(listing))
    return NUM_CLASSES[name]


def find_metadata(name: str, root: Path, metadata_root: str | Path, save_root: str | Path) -> Path:
    """Return the metadata folder of the data set in `root`, built if need be.

    It is built where it is missing or was built from other lists.

    Looked for, and built, in `metadata_root`, else in SAVE_ROOT/metadata/NAME. UserError where
    neither can be written.
    """
    source = source_of(name, root)
    for folder in (Path(metadata_root), Path(save_root) / "metadata" / name):
        if holds_lists(folder) and not _is_of_others(folder, source):
            return folder
        counts = _built(name, root, folder)
        if counts is not None:
            line = f"metadata built from {root} into {folder}: {told_of_splits(counts)}"
            print(line, file=sys.stderr, flush=True)
            return folder
    raise UserError(
        f"metadata is missing in {metadata_root} and cannot be built there; "
        "name another --metadata_root"
    )


def _built(name: str, root: Path, folder: Path) -> dict[str, int] | None:
    """Return how many images are in the lists that were written into a folder.

    None where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return BUILDERS[name](root, folder)
    except OSError:
        return None
    except UserError as error:
        if "cannot be written" not in str(error):
            raise
        return None


def _is_of_others(folder: Path, source: Mapping[str, str]) -> bool:
    """Tell whether we built this folder from other lists, or another val set.

    A folder of the user's never is of others.
    """
    path = folder / "source.json"
    if not path.is_file():
        return False
    try:
        return read_json(path) != source
    except UserError:  # damaged: built anew
        return True


def listed_test_ids(
    image_list: str | Path, metadata: Path, known: Iterable[str] | None = None
) -> list[str]:
    """Return the ids of --image_list; `known` are the test ids, those of the lists by default.

    UserError for one that is no test image, or comes twice, and for an empty list.
    """
    lines = numbered_lines(image_list)
    wanted = [line for _, line in lines]
    once(wanted, str(image_list), lines=[number for number, _ in lines])
    if not wanted:
        raise UserError(f"{image_list}: an empty list is not in the test split")

    if known is None:
        known = get_image_ids(configure_metadata(metadata / "test"))
    of_test = set(known)
    for image_id in wanted:
        if image_id not in of_test:
            raise UserError(f"{image_list}: {image_id} is not in the test split")
    return wanted
