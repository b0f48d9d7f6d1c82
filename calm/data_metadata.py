"""The metadata lists of the three data sets, built from their official files.

CUB-200-2011: 5,994 train and 5,794 test images; val is CUBV2 (1,000) or, without it, five held-out
    training
images per class, which training leaves out.
"""

import glob
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from PIL import Image

from calm.data_lists import ById, check_name, finite, read_lines, read_rows
from common import images, shards
from common.aliases import one_module
from common.cli import UserError
from common.files import atomic_write, image_files, is_hidden, is_image, visible
from common.text import read_xml, whole

one_module(__name__, "calm.data_metadata")

HELD_OUT = 5  # training images per class that stand in for val
SOURCES = {  # of CUB: the fields of a line, from the image's number on
    "images.txt": ((int, str), "number path"),
    "image_class_labels.txt": ((int, int), "number class"),
    "train_test_split.txt": ((int, int), "number 0 or 1"),
    "bounding_boxes.txt": ((int, finite, finite, finite, finite), "number x y w h"),
}
PHOTOGRAPHS = (".jpg", ".jpeg")  # of OpenImages; masks are .png
WITHOUT_SECOND = "held out of train"
Row = tuple[str, int, tuple[int, int], list[tuple[int, ...]]]  # id, label, (W,H), boxes


def read_table(path: Path) -> dict[int, list]:
    """Return {image number: the other fields} of one of CUB's lists.

    UserError for a bad line or a number without one.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; it is part of the official archive")
    table = ById(path)
    files: dict[str, int] = {}
    for line, (number, *rest) in read_rows(path, *SOURCES[path.name]):
        if number in table:
            raise UserError(f"{path}:{line}: image {number} has a line already")
        if path.name == "images.txt":
            name = check_name(rest[0], f"{path}: line {line}")
            if name in files:
                raise UserError(f"{path}:{line}: {name!r} is image {files[name]} already")
            files[name] = number
        if path.name == "train_test_split.txt" and rest[0] not in (0, 1):
            raise UserError(
                f"{path}:{line}: image {number} is {rest[0]}, expected 0 (test) or 1 (train)"
            )
        if path.name == "image_class_labels.txt" and rest[0] < 1:
            raise UserError(
                f"{path}:{line}: image {number} has class {rest[0]}; classes count from 1"
            )
        table[number] = rest
    return table


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder with such a name, sorted, packed ones too."""
    packed = [path for path in shards.files_in(folder) if fnmatchcase(path.name, pattern)]
    return sorted([*folder.glob(pattern), *packed])


def files_in_folders(place: Path) -> Iterator[Path]:
    """What lies in the folders of a place, packed pictures too."""
    yield from place.glob("*/*")
    for folder in place.glob("*/"):
        yield from shards.files_in(folder)


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(images.source_of(path)) as image:
            return image.size
    except (OSError, SyntaxError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); metadata needs every listed image"
        ) from error


def write_split(
    folder: Path, rows: Iterable[Row], localization: Iterable[str] | None = None
) -> int:
    """Write the four lists of a split, and return the number of images.

    The files have no newline at the end.
    """
    names = ("image_ids", "class_labels", "image_sizes", "localization")
    lists: dict[str, list[str]] = {name: [] for name in names}
    count = 0
    for image_id, label, (width, height), boxes in rows:
        lists["image_ids"].append(image_id)
        lists["class_labels"].append(f"{image_id},{label}")
        lists["image_sizes"].append(f"{image_id},{width},{height}")
        for box in boxes:
            lists["localization"].append(f"{image_id},{','.join(map(str, box))}")
        count += 1
    if localization is not None:
        lists["localization"] = list(localization)

    for name, lines in lists.items():
        atomic_write(folder / f"{name}.txt", "\n".join(lines).encode())
    return count


def source_of(dataset: str, root: Path) -> dict[str, str]:
    """Return what a metadata folder is built from.

    That is the sha256 of CUB's official lists, and where val comes from.
    """
    digest = hashlib.sha256()
    for name in SOURCES:
        if (root / name).is_file():
            digest.update((root / name).read_bytes())
    second = second_val(dataset, root)
    return {"built_from": digest.hexdigest(), "val": second.name if second else WITHOUT_SECOND}


def second_val(dataset: str, root: Path) -> Path | None:
    """Return the folder of the data set's own val images.

    None where there is none and val is held out of train.
    """
    v2 = root.parent / "ImageNetV2"
    places = {
        "CUB": (root.parent / "CUBV2", root / "CUBV2"),
        "ILSVRC": (root / "val2", v2 / "val2", v2),
        "OpenImages": (root / "val",),
    }
    for place in places[dataset]:
        if any(is_picture(file) for file in files_in_folders(place)):
            return place
    return None


def is_picture(file: Path) -> bool:
    """Tell whether a file is a picture in a class folder.

    Neither of them may be hidden (__MACOSX, .ipynb_checkpoints).
    """
    return is_image(file) and not is_hidden(file.parent)


def class_folders(root: Path) -> list[Path]:
    """Return the class folders in `root`, sorted.

    Those that archivers and notebooks leave behind are left out; there are none if `root` is
    absent.
    """
    if not root.is_dir():
        return []
    return [path for path in visible(root) if path.is_dir()]


def _write_lists(
    dataset: str, root: Path, out: Path, rows: dict[str, list[Row]], masks: dict[str, list[str]]
) -> dict:
    """Write all splits and source.json, and return the numbers of images.

    With `masks`, localization lines are written instead of boxes.
    """
    counts = {}
    for split, part in rows.items():
        counts[split] = write_split(out / split, part, masks.get(split))
    source = json.dumps(source_of(dataset, root), indent=1) + "\n"
    atomic_write(out / "source.json", source.encode())
    return counts


def build_cub_metadata(cub_root: str | Path, out_dir: str | Path) -> dict[str, int]:
    """Write train, val and test lists of a CUB folder; returns the numbers of images.

    Order of images.txt; label = class - 1; box x0 = int(x), x1 = min(int(x + w), W - 1), likewise
    y.
    """
    root = Path(cub_root)
    out = Path(out_dir)
    files, labels, split, boxes = (read_table(root / name) for name in SOURCES)
    rows: dict[str, list[Row]] = {"train": [], "test": []}
    for number, (file,) in files.items():
        width, height = _size(root / "images" / file)
        x, y, w, h = boxes[number]
        box = (int(x), int(y), min(int(x + w), width - 1), min(int(y + h), height - 1))
        part = "train" if split[number] == [1] else "test"
        rows[part].append((file, labels[number][0] - 1, (width, height), [box]))
    second = second_val("CUB", root)
    if second:
        rows["val"] = _cubv2_rows(second)
    else:
        rows["val"] = _held_out(rows["train"], "CUBV2 beside the CUB folder")
    return _write_lists("CUB", root, out, rows, {})


def _held_out(train: list[Row], missing: str) -> list[Row]:
    print(
        f"no {missing}: val is the last {HELD_OUT} training images of each class, not trained on",
        file=sys.stderr,
        flush=True,
    )
    by_class: dict[int, list[Row]] = {}
    for row in train:
        by_class.setdefault(row[1], []).append(row)
    held = []
    for label in sorted(by_class):
        of_class = by_class[label]
        held += of_class[max(1, len(of_class) - HELD_OUT) :]
    return held


def _cubv2_rows(root: Path) -> list[Row]:
    """Return the rows of CUBV2, which has class-named folders.

    CUBV2_boxes.txt claims x0,y0,x1,y1 but columns 3 and 4 are width and height.
    """
    boxes: dict[str, tuple[int, ...]] = {}
    for path in (root / "CUBV2_boxes.txt", root.parent / "CUBV2_boxes.txt"):
        if not path.is_file():
            continue
        for number, text in enumerate(read_lines(path)[1:], 2):
            try:
                name, *values = text.replace(",", " ").split()
                x, y, w, h = (int(finite(value)) for value in values)
            except ValueError as error:
                raise UserError(f"{path}:{number}: {text!r} is not name,x,y,w,h") from error
            if name in boxes:
                raise UserError(f"{path}:{number}: {name!r} has a box already")
            boxes[name] = (x, y, x + w, y + h)
    rows: list[Row] = []
    files: list[Path] = []
    for folder in class_folders(root):
        files += image_files(folder)
    for file in files:
        image_id = f"{file.parent.name}/{file.name}"
        width, height = _size(file)
        x0, y0, x1, y1 = boxes.get(image_id, boxes.get(file.name, (0, 0, width - 1, height - 1)))
        box = (x0, y0, min(x1, width - 1), min(y1, height - 1))
        if not file.parent.name.split(".")[0].isdigit():
            raise UserError(
                f"{file.parent}: is not named as a class of CUB (001.Black_footed_Albatross)"
            )
        rows.append((image_id, int(file.parent.name.split(".")[0]) - 1, (width, height), [box]))
    return rows


def _xml_of(root: Path, image: Path) -> Path:
    """The file with the boxes of a validation image; UserError lists where it was looked for."""
    folders = ("Annotations/CLS-LOC/val", "bbox/val", "val")
    places = [root / folder / f"{image.stem}.xml" for folder in folders]
    for place in places:
        if place.is_file():
            return place
    tried = ", ".join(map(str, places))
    raise UserError(f"no XML for {image.name}; tried {tried} (ILSVRC2012_bbox_val_v3.tgz)")


def _read_xml(path: Path) -> tuple[str, list[tuple[int, ...]]]:
    """The wnid of the first object, and the boxes of all."""
    tree = read_xml(path)
    boxes = []
    for box in tree.iterfind("object/bndbox"):
        corners = []
        for name in ("xmin", "ymin", "xmax", "ymax"):
            corners.append(whole(box.findtext(name, ""), f"{path}: {name}"))
        boxes.append(tuple(corners))
    return tree.findtext("object/name", ""), boxes


def build_ilsvrc_metadata(root: str | Path, out_dir: str | Path) -> dict[str, int]:
    """Write the lists of ImageNet.

    The images are train/<wnid>/*.JPEG, val/*.JPEG with XML boxes (test), and val2 or ../ImageNetV2
    (val).

    label = rank of the sorted wnid; val: the folder's number, compared as an integer. The label of
    a validation image is the <name> of its XML file's object. Training images need no boxes.
    """
    root = Path(root)
    out = Path(out_dir)
    wnids = [folder.name for folder in class_folders(root / "train") if folder.name.startswith("n")]
    if not wnids:
        raise UserError(
            f"{root}/train: no folders n01440764, ...; ILSVRC2012_img_train.tar unpacks to them"
        )
    label_of = {wnid: rank for rank, wnid in enumerate(wnids)}
    rows: dict[str, list[Row]] = {"train": [], "test": [], "val": []}
    for wnid in wnids:
        for file in image_files(root / "train" / wnid):
            rows["train"].append((f"train/{wnid}/{file.name}", label_of[wnid], _size(file), []))
    for file in matching(root / "val", "ILSVRC2012_val_*.JPEG"):
        xml = _xml_of(root, file)
        wnid, boxes = _read_xml(xml)
        if wnid not in label_of:
            raise UserError(f"{xml}: {wnid!r} is no folder of {root}/train")
        rows["test"].append((f"val/{file.name}", label_of[wnid], _size(file), boxes))
    second = second_val("ILSVRC", root)
    if second:
        rows["val"] = _imagenetv2_rows(second)
    else:
        rows["val"] = _held_out(rows["train"], "ImageNetV2 in val2/ or beside ILSVRC")
    return _write_lists("ILSVRC", root, out, rows, {})


def _imagenetv2_rows(root: Path) -> list[Row]:
    """Return the rows of ImageNetV2, with ids as the loader finds them.

    It is ILSVRC/val2/<label>/, or ImageNetV2 beside ILSVRC, with or without val2/ in it.
    """
    prefix = "val2/" if root.name == "val2" else ""
    folders = [folder for folder in class_folders(root) if folder.name.isdecimal()]
    rows: list[Row] = []
    for folder in sorted(folders, key=lambda path: int(path.name)):
        for file in image_files(folder):
            rows.append((f"{prefix}{folder.name}/{file.name}", int(folder.name), _size(file), []))
    return rows


def build_openimages_metadata(root: str | Path, out_dir: str | Path) -> dict[str, int]:
    """Write the lists of OpenImages30k.

    Its images are <split>/<class code>/<hex>.jpg with <hex>_m*.png masks and <hex>_ignore.png.
    """
    root = Path(root)
    out = Path(out_dir)
    codes = [folder.name for folder in class_folders(root / "train")]
    if not codes:
        raise UserError(
            f"{root}/train: no class folders (m_01234, ...); "
            "OpenImages30k unpacks to train, val, test"
        )
    label_of = {code: rank for rank, code in enumerate(codes)}
    rows: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    masks: dict[str, list[str]] = {split: [] for split in rows}
    for split in rows:
        for folder in class_folders(root / split):
            code = folder.name
            if code not in label_of:
                raise UserError(
                    f"{folder}: this class has no folder in {root}/train, so it has no label"
                )
            for file in image_files(folder):
                if file.suffix.lower() not in PHOTOGRAPHS:
                    continue
                image_id = f"{split}/{code}/{file.name}"
                rows[split].append((image_id, label_of[code], _size(file), []))
                masks[split] += _mask_lines(image_id, file)
    if second_val("OpenImages", root) is None:
        rows["val"] = _held_out(rows["train"], "val/ in the OpenImages folder")
    return _write_lists("OpenImages", root, out, rows, masks)


def _mask_lines(image_id: str, file: Path) -> list[str]:
    """Return a line `id,mask,ignore` for each mask beside an image.

    Only the first line carries the ignore mask.
    """
    folder = image_id.rpartition("/")[0]
    ignore = file.with_name(f"{file.stem}_ignore.png")
    ignore_path = ""
    if shards.is_there(ignore):
        ignore_path = f"{folder}/{ignore.name}"
    lines = []
    for mask in matching(file.parent, f"{glob.escape(file.stem)}_m*.png"):
        lines.append(f"{image_id},{folder}/{mask.name},{ignore_path}")
        ignore_path = ""
    return lines


def told_of_splits(counts: Mapping[str, int]) -> str:
    """`train 5994, val 1000, test 5794`: how many images each split has."""
    return ", ".join(f"{split} {count}" for split, count in counts.items())


BUILDERS = {
    "CUB": build_cub_metadata,
    "ILSVRC": build_ilsvrc_metadata,
    "OpenImages": build_openimages_metadata,
}
