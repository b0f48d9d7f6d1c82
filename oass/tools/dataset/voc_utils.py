"""What VOC defines: class names, colours, the devkit's tree, its id lists, its masks and result files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import images
from common.aliases import one_module
from common.cli import UserError
from common.text import expanded
from oass.tools.general.io_utils import create_directory
from oass.tools.general.json_utils import read_json
from oass.tools.general.txt_utils import write_lines

one_module(__name__, "oass.tools.dataset.voc_utils")

PACKAGE_DATA = Path(__file__).parents[2] / "data"
META = read_json(PACKAGE_DATA / "VOC_2012.json")
CLASS_NAMES: list[str] = META["class_names"]
CLASS_DIC: dict[str, int] = META["class_dic"]
HOW_TO_GET = "unpack VOCtrainval_11-May-2012.tar there"
LEVELS = ("", "VOC2012", "VOC2007", "VOCdevkit/VOC2012", "VOCdevkit/VOC2007")


def devkit_root(path: str | Path) -> Path | None:
    """The folder with JPEGImages: `path`, its VOC2012 or VOC2007, or those of its VOCdevkit; None without."""
    places = (expanded(path) / level for level in LEVELS)
    return next((place for place in places if (place / "JPEGImages").is_dir()), None)


def require_devkit(path: str | Path) -> Path:
    """`devkit_root`, or UserError: there is no such folder, or it holds no JPEGImages."""
    root = devkit_root(path)
    if root is None:
        problem = (
            "holds no VOC devkit (JPEGImages)"
            if expanded(path).exists()
            else "does not exist (VOC devkit)"
        )
        raise UserError(f"{path} {problem}; {HOW_TO_GET}")
    return root


def find_split(root: Path, name: str) -> tuple[Path, str]:
    """The id list of a split, and the split's name: a path given, oass/data/NAME.txt, then the devkit's own.

    Without train_aug (VOC and SBD together) VOC's own train is taken; the name then differs.
    """
    lists = root / "ImageSets"
    aliases = {"train_aug": ("train_aug", "trainaug")}.get(name, (name,))
    places = [Path(name), PACKAGE_DATA / f"{name}.txt"]
    places += [
        lists / kind / f"{alias}.txt" for kind in ("Segmentation", "Main") for alias in aliases
    ]
    for place in places:
        if place.is_file():
            return place, name
    if name == "train_aug":
        return find_split(root, "train")[0], "train"
    raise UserError(
        f"there is no list {name!r}: expected a split of {lists}/{{Segmentation,Main}}, or a path"
    )


def read_mask(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """A segmentation mask (H,W) int64: class index + 1, 0 background, 255 void.

    Palette indices, grey values, or VOC's colours. UserError for another value or colour, for another size than
    `size` (width, height); CorruptImage for a file that cannot be decoded.
    """
    return images.read_mask(path, size, highest=len(CLASS_NAMES)).astype(np.int64)


def write_server_files(
    folder: Path, ids: Sequence[str], scores: np.ndarray, test_set: str = "test"
) -> Path:
    """The classification results as the VOC server takes them: Main/comp2_cls_SET_CLASS.txt, "ID score" lines.

    scores (N,C). Competition 2: training data of one's own choice (here ImageNet weights). Returns the folder.
    """
    main = create_directory(folder / "results" / "VOC2012" / "Main")
    for c, name in enumerate(CLASS_NAMES[: scores.shape[1]]):
        lines = (
            f"{image} {score:.6f}" for image, score in zip(ids, scores[:, c].tolist(), strict=True)
        )
        write_lines(main / f"comp2_cls_{test_set}_{name}.txt", lines)
    return main
