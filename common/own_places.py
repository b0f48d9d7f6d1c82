"""What kind of data a place holds: told by names of files and folders, so that it is light.

In this order: a marker SAMPLE.json, a VOC devkit, COCO or LVIS, a file, class folders.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from common import samples
from common.errors import UserError
from common.files import files_below, image_files, is_image, visible
from common.own_names import counted
from common.text import expanded, read_bytes, read_json

TRAIN_WORDS = ("train", "training")
VAL_WORDS = ("val", "valid", "validation", "dev", "eval", "test", "testing")  # the first counts
TABLES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".mat": "mat", ".npz": "npz"}
ROBOFLOW = "_annotations.coco.json"  # lies beside the pictures of train/, valid/, test/
SAID = {
    "voc": "a VOC devkit",
    "coco": "COCO or LVIS json",
    "csv": "a csv",
    "json": "a json of records",
    "mat": "a MATLAB file of features",
    "npz": "a file of arrays",
    "folders": "class folders",
    "": "a layout of its own",
}
PEEK = 1 << 20
NO_CLASSES = ("captions", "image_info", "panoptic")  # of COCO's files in annotations/
COCO_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')


class Kind(NamedTuple):
    """What a place was recognised as.

    layout: a key of SAID; "" only for a sample that no reader of own data knows.
    path: what is read: the file, the root of the devkit, the folder.
    sample: the name in the marker SAMPLE.json ("VOC2012"), "" for real data.
    """

    layout: str
    path: Path
    sample: str = ""

    def describe(self) -> str:
        """In a few words what was recognised, and where."""
        said = SAID[self.layout]
        if self.sample:
            said = f"the offline sample {self.sample}, {said}"
        return f"{said}, {self.path}"


def recognise(place: str | Path, *, flag: str = "--data") -> Kind:
    """What a place holds. UserError names a place that is missing, empty, or holds several sets."""
    path = expanded(place)
    if not str(place).strip():
        raise UserError(f"{flag}: the path is empty")
    if not path.exists():
        raise UserError(f"{flag} {path} does not exist; give a folder, a csv, json, mat or npz")

    root = samples.root_of(path)
    if root is None:
        return _without_marker(path, flag)
    try:
        name = str(read_json(root / samples.MARKER, dict).get("name", "unknown"))
    except UserError:
        name = "unknown"
    try:
        kind = _without_marker(path, flag)
    except UserError:
        return Kind("", path, name)
    return kind._replace(sample=name)


def _without_marker(path: Path, flag: str) -> Kind:
    if not path.is_dir():
        return _file(path, flag)

    roots = voc_roots(path)
    if len(roots) > 1:
        names = ", ".join(str(root) for root in roots)
        raise UserError(f"{flag} {path} holds several VOC devkits: give one of {names}")
    if roots:
        return Kind("voc", roots[0])
    if coco_files(path):
        return Kind("coco", path)

    tables = [found for found in visible(path) if found.suffix.lower() in TABLES]
    tables = [found for found in tables if found.name != samples.MARKER]
    folders = class_folders(path, flag)
    if folders is not None:
        # pictures/ beside labels.csv is no class.
        tables = [found for found in tables if lists_pictures(found)]
    if len(tables) == 1:
        return _file(tables[0], flag)
    if tables:
        names = ", ".join(found.name for found in tables[:5])
        raise UserError(f"{flag} {path} holds several files of labels: give one of {names}")
    if folders is not None:
        return Kind("folders", path)

    pictures = len(image_files(path))
    if pictures:
        problem = f"{flag} {path} holds {counted(pictures, 'picture')} and no labels"
        raise UserError(f"{problem}; sort them into class folders, or write a csv with path,label")
    raise UserError(f"{flag} {path} holds no pictures and no file of labels")


def lists_pictures(path: Path) -> bool:
    """Whether a csv has a column `path` in its first line."""
    if TABLES.get(path.suffix.lower()) != "csv":
        return False
    with path.open("rb") as file:
        header = file.readline(PEEK)
    words = re.split(rb"[^a-z0-9_]+", header.lower())
    return b"path" in words


def _file(path: Path, flag: str) -> Kind:
    layout = TABLES.get(path.suffix.lower())
    if layout is None:
        expected = "expected .csv, .tsv, .json, .mat, .npz or a folder"
        raise UserError(f"{flag} {path}: not a file of labels; {expected}")
    if layout == "json" and looks_like_coco(path):
        layout = "coco"
    return Kind(layout, path)


# --- VOC ---


def voc_roots(place: Path) -> list[Path]:
    """The folders VOC20xx of a devkit: the place, or those in it or in its VOCdevkit."""
    if _is_voc(place):
        return [place]
    devkit = place / "VOCdevkit"
    if devkit.is_dir():
        return [folder for folder in _folders(devkit) if _is_voc(folder)]
    years = [folder for folder in _folders(place) if folder.name.startswith("VOC")]
    return [folder for folder in years if _is_voc(folder)]


def _is_voc(folder: Path) -> bool:
    beside = ("Annotations", "ImageSets", "SegmentationClass")
    has_labels = any((folder / name).is_dir() for name in beside)
    return has_labels and (folder / "JPEGImages").is_dir()


# --- COCO ---


def looks_like_coco(path: Path) -> bool:
    """Whether a json file begins as COCO's do; it is not read whole."""
    if path.stat().st_size <= PEEK:
        start = read_bytes(path)
    else:
        with path.open("rb") as file:
            start = file.read(PEEK)
    begins = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return begins.startswith(b"{") and COCO_KEYS.search(start) is not None


def coco_files(place: Path) -> dict[str, Path]:
    """The json file of "train" and of "val" in a folder; {"": the only one} where nothing is split.

    They lie in annotations/, or beside the pictures of train/ and valid/. UserError names files
    among which one cannot choose.
    """
    folder = place / "annotations"
    if folder.is_dir():
        files = [path for path in visible(folder) if path.suffix.lower() == ".json"]
        return _of_splits([path for path in files if looks_like_coco(path)], folder)

    found: dict[str, Path] = {}
    for split, words in (("train", TRAIN_WORDS), ("val", VAL_WORDS)):
        for word in words:
            path = place / word / ROBOFLOW
            if path.is_file():
                found.setdefault(split, path)
    return found


def _of_splits(files: list[Path], folder: Path) -> dict[str, Path]:
    files = [path for path in files if not path.name.startswith(NO_CLASSES)]
    # Beside them COCO has person_keypoints and stuff.
    instances = [path for path in files if path.name.startswith("instances")]
    files = instances or files
    if len(files) == 1:
        name = "train" if split_of(files[0].stem) == "train" else ""
        return {name: files[0]}

    found: dict[str, Path] = {}
    for split in ("train", "val"):
        chosen = [path for path in files if split_of(path.stem) == split]
        if len(chosen) > 1 and split == "val":  # val before test
            chosen = [path for path in chosen if "val" in path.stem.lower()] or chosen
        if len(chosen) > 1:
            names = ", ".join(path.name for path in chosen)
            raise UserError(f"{folder}: several files of the {split} part ({names}); give one file")
        if chosen:
            found[split] = chosen[0]
    if files and "train" not in found:
        names = ", ".join(path.name for path in files[:5])
        raise UserError(f"{folder}: which file is the training part? {names}; give one file")
    return found


def split_of(name: str) -> str:
    """The part that a file's name tells: "train", "val" or "".

    >>> split_of("instances_val2017"), split_of("lvis_v1_train"), split_of("training_course")
    ('val', 'train', 'train')
    """
    words = re.split("[^a-z]+", name.lower())
    if any(word in TRAIN_WORDS for word in words):
        return "train"
    if any(word in VAL_WORDS for word in words):
        return "val"
    return ""


# --- class folders ---


class Folders(NamedTuple):
    """Where class folders lie.

    train, val: the folders that hold them; val is None where the val part has yet to be drawn.
    left: folders and parts beside them that are not read.
    """

    train: Path
    val: Path | None
    left: list[Path]


def class_folders(place: Path, flag: str = "--data") -> Folders | None:
    """Where the class folders of a place are; None where there are none.

    A folder `train` holds a part where class folders lie in it, and beside it are only other parts,
    or a val with class folders as well. Otherwise it is the class "train".
    UserError for a folder of several sets, and for parts that hold pictures without classes.
    """
    found = _parts(place)
    if found is not None:
        return found

    inside = _folders(place)
    with_pictures = list(filter(_has_pictures, inside))
    if not with_pictures:
        return None
    sets = [folder for folder in inside if voc_roots(folder) or _parts(folder) is not None]
    if sets:
        sets += [path for path in visible(place) if lists_pictures(path)]
        names = ", ".join(found.name for found in sets[:7])
        raise UserError(f"{flag} {place} holds data sets of its own: give one of {names}")
    are_parts = all(folder.name.lower() in TRAIN_WORDS + VAL_WORDS for folder in with_pictures)
    if are_parts and not any(lists_pictures(path) for path in visible(place)):
        names = ", ".join(f"{folder.name}/" for folder in with_pictures)
        problem = f"{flag} {place}: {names} hold pictures and no class folders"
        raise UserError(f"{problem}; sort them into class folders, or write a csv with path,label")
    return Folders(place, None, [])


def _parts(place: Path) -> Folders | None:
    """The folders train and val of a place, where class folders lie in them."""
    inside = _folders(place)
    train = _first_named(TRAIN_WORDS, inside)
    if train is None or not _folders(train):
        return None
    val = _first_named(VAL_WORDS, inside)
    others = [folder for folder in inside if folder not in (train, val)]
    if val is not None and _folders(val):
        return Folders(train, val, others)
    are_parts = all(folder.name.lower() in VAL_WORDS for folder in others)
    if val is None and are_parts and not image_files(train):
        return Folders(train, None, others)
    return None


def _folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir()]


def _first_named(words: Iterable[str], folders: list[Path]) -> Path | None:
    for word in words:
        for folder in folders:
            if folder.name.lower() == word:
                return folder
    return None


def _has_pictures(folder: Path) -> bool:
    return any(map(is_image, files_below(folder, lambda error: None)))
