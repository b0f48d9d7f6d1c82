"""Where the data lie, and in which of the official layouts. Needs no torch."""

from pathlib import Path
from typing import NamedTuple

from common.aliases import one_module
from common.errors import UserError
from common.locate import locate
from common.own import Kind, recognise
from csl.data_errors import MissingFileError, expanded

one_module(__name__, "csl.data_locate")

NAMES = {"openimages": "Open Images", "lvis": "LVIS"}  # of --dataset; else COCO 2014
HOW_TO_GET = {
    "COCO 2014": "unpack train2014.zip, val2014.zip, annotations_trainval2014.zip"
    " of cocodataset.org there",
    "LVIS": "put lvis_v1_{train,val}.json (lvisdataset.org), train2017, val2017"
    " (cocodataset.org) there",
    "Open Images": "put data.csv and the pictures there"
    " (links: OpenImages.md of Alibaba-MIIL/PartialLabelingCSL)",
}
SAMPLES = {"openimages": "OpenImages", "lvis": None}  # of --dataset; else COCO_2014
SUBFOLDERS = ("COCO_2014", "coco")
OF_DEBUG_MODE = {"on_farm": {"coco"}, "hyperml": {"hyperml"}}
OF_DATASET = {"coco": {"coco", "hyperml"}, "lvis": {"lvis"}, "openimages": {"openimages"}}
EVERY = {"coco", "lvis", "openimages", "hyperml"}


class Layout(NamedTuple):
    """Annotation files and image roots of a layout.

    name: coco, lvis, openimages, or hyperml, whose file names are relative to the data root.
    """

    name: str
    train: Path
    val: Path
    train_images: Path
    val_images: Path


class Own(NamedTuple):
    """A user's own data: what `common.own` recognised, and the flags --images and --classes."""

    kind: Kind
    images: str | None
    classes: str | None


class Found(NamedTuple):
    """A data set that was found.

    It holds the layout, its root, whether it is an offline sample, and its name for folders. The
    layout "own" has `own` beside it, and one file or folder for all of its parts.
    """

    layout: str
    root: Path
    files: Layout
    is_sample: bool
    name: str
    own: Own | None = None

    def annotations(self, split: str) -> Path:
        """The annotation file of "train" or "val"."""
        return self.files.train if split == "train" else self.files.val

    def images(self, split: str) -> Path:
        """The folder that the image names of "train" or "val" are relative to."""
        return self.files.train_images if split == "train" else self.files.val_images


def layouts_in(root: Path, metadata: Path | None = None) -> list[Layout]:
    """Every layout that could lie in `root`, in the order of preference."""
    found = []
    for year in (2014, 2017):
        train = root / "annotations" / f"instances_train{year}.json"
        val = root / "annotations" / f"instances_val{year}.json"
        found.append(Layout("coco", train, val, root / f"train{year}", root / f"val{year}"))
    for version in ("v1", "v0.5"):
        for folder in (root / "annotations", root):
            train = folder / f"lvis_{version}_train.json"
            val = folder / f"lvis_{version}_val.json"
            found.append(Layout("lvis", train, val, root, root))

    of_open_images = (
        ("data.csv", "data.csv"),
        (
            "oidv6-train-annotations-human-imagelabels.csv",
            "oidv6-validation-annotations-human-imagelabels.csv",
        ),
        (
            "oidv6-train-annotations-human-imagelabels.csv",
            "validation-annotations-human-imagelabels.csv",
        ),
    )
    for train_name, val_name in of_open_images:
        found.append(Layout("openimages", root / train_name, root / val_name, root, root))
    if metadata is not None:
        found.append(Layout("hyperml", metadata / "train.json", metadata / "val.json", root, root))
    return found


def wanted_names(dataset: str, debug_mode: str) -> set[str]:
    """The layouts that --dataset and --debug_mode both allow.

    Empty where they contradict each other.
    """
    return OF_DATASET.get(dataset, EVERY) & OF_DEBUG_MODE.get(debug_mode, EVERY)


def locate_data(
    data: str | Path,
    *,
    is_given: bool,
    dataset: str = "auto",
    debug_mode: str = "auto",
    metadata: str | Path | None = None,
    sample: bool = False,
    images: str | None = None,
    classes: str | None = None,
) -> Found:
    """Find the data of the flags of these names, or the offline sample.

    The official layouts come first; what is none of them may be one of `common.own`.

    Args:
        is_given: whether the user gave the path; then the sample does not stand in for it.
        images, classes: of own data, which the place then is in any case.
    Raises:
        UserError: what is missing, where it belongs, and whether the sample serves.
    """
    folder = None
    if metadata:
        folder = expanded(metadata, "--metadata")
    wanted = wanted_names(dataset, debug_mode)

    def find(root: Path) -> Layout | None:
        """Return the first layout whose two annotation files are there.

        It is looked for in `root`, or in its SUBFOLDERS.
        """
        for place in (root, *(root / name for name in SUBFOLDERS)):
            for layout in layouts_in(place, folder):
                if layout.name in wanted and layout.train.is_file() and layout.val.is_file():
                    return layout
        return None

    root = expanded(data, "--data")
    may_be_own = is_given and not sample and not layout_is_named(dataset, debug_mode)
    if may_be_own and root.exists() and (images or classes or find(root) is None):
        own = own_data(root, images, classes)
        if own is not None:
            return own
    name = NAMES.get(dataset, "COCO 2014")
    location = locate(
        name,
        given=root if is_given else None,
        default="./data",
        holds=lambda path: find(path) is not None,
        how_to_get=HOW_TO_GET[name],
        sample=SAMPLES.get(dataset, "COCO_2014"),
        want_sample=sample,
        with_sample=("--dataset coco", "--dataset openimages"),
        flag="--data",
    )
    files = find(location.path)
    if files is None:  # --sample with a --debug_mode of another layout
        files = layouts_in(location.path)[0]
    shown = files.name
    if location.is_sample:
        shown = location.path.name.split("-v")[0]
    return Found(files.name, location.path, files, location.is_sample, shown)


def layout_is_named(dataset: str, debug_mode: str) -> bool:
    """Whether one of the official layouts was asked for by its name."""
    return (dataset, debug_mode) != ("auto", "auto")


def own_data(root: Path, images: str | None, classes: str | None) -> Found | None:
    """A place with data of the user's own; None for a folder with neither pictures nor labels.

    UserError where something is there that cannot be used.
    """
    if root.is_dir() and not any(root.iterdir()):
        return None
    kind = recognise(root)
    if not kind.layout:
        told = f"the offline sample {kind.sample}, which is not for this program"
        raise UserError(f"--data {root}: {told}; run with --sample for one that is")
    files = Layout("own", kind.path, kind.path, kind.path, kind.path)
    own = Own(kind, images, classes)
    return Found("own", root, files, bool(kind.sample), root.resolve().stem, own)


def require_metadata(folder: Path) -> None:
    """MissingFileError where a given --metadata has not both lists."""
    lists = ("train.json", "val.json")
    missing = [name for name in lists if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(
            f"--metadata {folder}: {' and '.join(missing)} of COCO's form not there"
        )
