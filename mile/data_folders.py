"""Image folders: which files, which classes, which share of them; the items that loaders read."""

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from common.aliases import one_module
from common.cli import UserError
from common.domain import require_indices, require_number
from common.files import IMAGE_SUFFIXES, image_files, is_image, visible
from common.images import read_image
from common.text import inside, numbered_lines, once
from mile.data_images import stack_pictures
from mile.data_labels import labels_by_name, labels_of_val_files

one_module(__name__, "mile.data_folders")

Samples = list[tuple[str, int]]
LISTED = re.compile(r"(.+?)\s+([0-9]{1,3})")  # WebVision's "PATH LABEL"


def class_folders(root: Path, what: str) -> list[str]:
    """The sorted names of the class folders, hidden ones left out.

    UserError where there is none (a flat folder).
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(
            f"{root} does not exist; {what} belongs there, one folder a class; or run with --sample"
        )
    entries = visible(root)
    names = [entry.name for entry in entries if entry.is_dir()]
    if not names:
        flat = sum(is_image(entry) for entry in entries)
        raise UserError(
            f"{root}: no class folders, {flat} images at its top; sort {what} into one folder a "
            "class (ImageNet: val/n01440764/ILSVRC2012_val_00000293.JPEG)"
        )
    return names


def numbered(names: Sequence[str]) -> dict[str, int]:
    """Class name -> its place in the list."""
    return dict(zip(names, range(len(names)), strict=True))


def require_a_step(images: int, batch_size: int, grad_accum: int) -> None:
    """UserError where there are fewer training images than a step of the optimiser takes."""
    if images >= batch_size * grad_accum:
        return
    told = f"batch_size {batch_size}"
    if grad_accum > 1:
        told = f"{told} x grad_accum {grad_accum}"
    raise UserError(f"{told}: more than the {images} training images")


def imagenet_wnids() -> list[str]:
    """The 1,000 WNIDs of ImageNet, sorted."""
    from timm.data import ImageNetInfo

    return list(ImageNetInfo().label_names())


def wnid_index(names: Sequence[str], root: Path) -> dict[str, int]:
    """Folder name -> index among all 1,000 sorted WNIDs, also where only some are there."""
    table = numbered(imagenet_wnids())
    strangers = [name for name in names if name not in table]
    if strangers:
        shown = ", ".join(strangers[:5])
        raise UserError(
            f"{root}: {len(strangers)} folders are no ImageNet class (WNID): {shown}; "
            "--dataset folder?"
        )
    return {name: table[name] for name in names}


def list_images(root: Path, index: dict[str, int], names: Iterable[str] | None = None) -> Samples:
    """All images (path, class index) below the class folders, in ImageFolder's order.

    Hidden ones are left out.

    UserError where there is none.
    """
    samples = []
    for name in sorted(index if names is None else names):
        files = image_files(Path(root) / name, recursive=True)
        files.sort(key=lambda path: (str(path.parent), path.name))
        samples += [(str(path), index[name]) for path in files]
    if not samples:
        raise UserError(f"{root}: the class folders hold no image ({', '.join(IMAGE_SUFFIXES)})")
    return samples


def list_validation(root: Path, index: dict[str, int]) -> Samples:
    """Validation images (path, class index).

    Class folders, or Tiny-ImageNet's images/ with val_annotations.txt.

    UserError names a class without a training folder, and a file that is listed twice.
    """
    root = Path(root)
    listing = root / "val_annotations.txt"
    if listing.is_file():
        samples = _read_annotations(root, listing, index)
        if not samples:
            raise UserError(f"{listing}: names no image")
        return samples

    names = class_folders(root, "the validation images")
    _require_training_folders(names, index, root)
    return list_images(root, index, names)


def _read_annotations(root: Path, listing: Path, index: dict[str, int]) -> Samples:
    """The images of val_annotations.txt, lines FILE, a tab, CLASS and more."""
    numbers = []
    files = []
    names = []
    for number, line in numbered_lines(listing):
        file, tab, rest = line.partition("\t")
        if not tab:
            raise UserError(f"{listing}: line {number}: expected FILE, a tab and CLASS")
        numbers.append(number)
        files.append(file)
        names.append(rest.split("\t")[0])
    once(files, str(listing), lines=numbers)
    _require_training_folders(names, index, root)

    samples = []
    for file, name in zip(files, names, strict=True):
        samples.append((str(inside(root / "images", file, str(listing))), index[name]))
    return samples


def _require_training_folders(names: Iterable[str], index: dict[str, int], root: Path) -> None:
    strangers = [name for name in names if name not in index]
    if strangers:
        raise UserError(f"{root}: class {strangers[0]!r} has no folder among the training images")


def balanced_subset(
    samples: Samples, frac: float, seed: int = 42, num_classes: int | None = None
) -> Samples:
    """The same share of each class, chosen as the authors do.

    Samples (path, target) as ImageFolder lists them.

    r = RandomState(seed); kept classes = r.permutation(C)[:num_classes], renumbered by rank; r
    shuffles all samples; of each class, in order of first appearance, the first int(n * frac).
    Everything: unchanged. UserError names a class that is left empty; ValueError for frac outside
    (0, 1], more classes than there are.
    """
    require_number(frac, "frac", 0, 1, open_low=True)
    classes = sorted(set(labels_of(samples)))
    kept_count = len(classes) if num_classes is None else num_classes
    require_number(kept_count, "num_classes", 1, len(classes))
    if frac >= 1 and kept_count >= len(classes):
        return list(samples)
    r = np.random.RandomState(seed)  # noqa: NPY002 - the authors' stream
    kept = sorted(np.asarray(classes)[r.permutation(len(classes))[:kept_count]].tolist())
    numbers = range(len(kept)) if num_classes is not None else kept
    new = dict(zip(kept, numbers, strict=True))
    shuffled = list(samples)
    r.shuffle(shuffled)
    groups: dict[int, Samples] = {}
    for path, target in shuffled:
        if target in new:
            groups.setdefault(new[target], []).append((path, new[target]))
    for target, group in groups.items():
        if int(len(group) * frac) == 0:
            where = f"class {target} (folder {Path(group[0][0]).parent.name})"
            raise UserError(
                f"train_frac {frac}: {where} has {len(group)} images, none would be left"
            )
    chosen: Samples = []
    for group in groups.values():
        chosen += group[: int(len(group) * frac)]
    return chosen


def subset_of(samples: Samples, *, file: str, share: float, seed: int) -> Samples:
    """`listed_subset` where a file is named, else `balanced_subset`."""
    if file:
        return listed_subset(samples, Path(file))
    return balanced_subset(samples, share, seed)


def listed_subset(samples: Samples, path: Path) -> Samples:
    """The samples whose names stand in the file `path`, one a line (the SimCLR 1% and 10% lists).

    A line is FILE, or CLASS/FILE where several classes have a file of that name. UserError names a
    line that is there twice, that no image has, or that more than one has.
    """
    lines = numbered_lines(Path(path))
    if not lines:
        raise UserError(f"subset_file {path}: names no file; one training file name a line")
    numbers, wanted = zip(*lines, strict=True)
    once(wanted, f"subset_file {path}", lines=numbers)

    places = defaultdict(list)
    for place, (file, _) in enumerate(samples):
        names = _names_of(file)
        for name in names:
            places[name].append(place)
    missing = [name for name in wanted if name not in places]
    if missing:
        raise UserError(
            f"subset_file {path}: {len(missing)} of {len(wanted)} names are not there: "
            f"{min(missing)}"
        )
    chosen: dict[int, str] = {}
    for name in wanted:
        place, *others = places[name]
        if others:
            one = _names_of(samples[place][0])[1]
            other = _names_of(samples[others[0]][0])[1]
            raise UserError(f"subset_file {path}: {name} may be {one} or {other}; write CLASS/FILE")
        if place in chosen:
            raise UserError(
                f"subset_file {path}: {chosen[place]} and {name} are one file; list it once"
            )
        chosen[place] = name
    return [samples[place] for place in sorted(chosen)]


def _names_of(file: str) -> tuple[str, str]:
    """What a list may call an image: FILE, CLASS/FILE."""
    path = Path(file)
    return path.name, f"{path.parent.name}/{path.name}"


def class_weights(targets: Sequence[int], num_classes: int) -> torch.Tensor:
    """`reweight uniform`.

    1 / class count for each class, (C,) float32 (the authors' WebVision weights).

    ValueError for a target that is no class.
    """
    require_indices(torch.tensor(targets), num_classes, "targets")
    return 1 / torch.bincount(torch.tensor(targets), minlength=num_classes).clamp(min=1).float()


class LabelledImages(Dataset):
    """Items (image, class index) or, with label sets, (image, class index, list of class indices).

    With `keep` decoded images stay in memory: for small sets under a transform without chance.
    `upright` turns pictures as their cameras say; without it they are read as the originals do.
    """

    def __init__(
        self,
        samples: Samples,
        transform: Callable[[Image.Image], Any],
        real: Sequence[Sequence[int]] | None = None,
        *,
        keep: bool = False,
        upright: bool = False,
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.real = real
        self.keep = keep
        self.upright = upright
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple:
        _, target = self.samples[index]
        image = self._kept.get(index)
        if image is None:
            image = self.picture(index)
            if self.keep:
                self._kept[index] = image
        if self.real is None:
            return image, target
        return image, target, self.real[index]

    def picture(self, index: int) -> Any:
        """The transformed picture alone, which is not kept in memory."""
        path, _ = self.samples[index]
        return self.transform(read_image(path, upright=self.upright))


def collate_real(items: list[tuple]) -> tuple[torch.Tensor, torch.Tensor, list]:
    """(images, labels (B,) int64, B lists) of items with label sets."""
    images, labels, real = zip(*items, strict=True)
    return torch.stack(images), torch.tensor(labels), list(real)


def collate_pictures(items: list[tuple]) -> tuple:
    """As torch's own collation and `collate_real`, with uint8 pictures in channels-last memory."""
    images, labels, *real = zip(*items, strict=True)
    return stack_pictures(images), torch.tensor(labels), *map(list, real)


def _read_webvision(file: Path, folder: Path) -> Samples:
    """The samples of a list of WebVision, whose paths are below `folder`."""
    found = []
    for number, line in numbered_lines(file):
        match = LISTED.fullmatch(line)
        if match is None:
            raise UserError(f"{file}: line {number} is not 'PATH LABEL', LABEL in 0..999")
        path = inside(folder, match[1], f"{file}: line {number}")
        found.append((str(path), int(match[2])))
    return found


def webvision_lists(root: Path) -> tuple[Samples, Samples]:
    """WebVision 1.0: training and validation samples from info/*_filelist*.txt, lines "PATH LABEL".

    UserError names the first line that is not, LABEL in 0..999.
    """
    root = Path(root)
    info = root / "info"
    train = _read_webvision(info / "train_filelist_flickr.txt", root)
    train += _read_webvision(info / "train_filelist_google.txt", root)
    val = _read_webvision(info / "val_filelist.txt", root / "val_images")
    for part, samples in (("training", train), ("validation", val)):
        if not samples:
            raise UserError(f"{info}: the lists of {part} images are empty")
        twice = len(samples) - len(set(files_of(samples)))
        if twice:
            said = f"{info}: {twice} {part} images stand twice in the lists; each counts"
            warnings.warn(said, stacklevel=2)
    return train, val


# ---- what a run reads ----------------------------------------------------------------------------


class FolderSet(NamedTuple):
    """The images of a run and their labels."""

    train: Samples
    val: Samples
    real: list[list[int]]  # the true labels of each validation image
    class_names: list[str]
    root: Path  # of the training images
    second: Samples  # a second validation set, with single labels; or empty
    upright: bool = False  # turn pictures as their cameras say
    val_left_out: int = 0  # validation images that were left out before: they cannot be read


def imagenet(train: Path, val: Path, real: Path) -> FolderSet:
    """ImageNet with ReaL labels; classes are indices in the full ImageNet."""
    index = wnid_index(class_folders(train, "ImageNet train"), train)
    samples = list_images(train, index)
    validation = imagenet_val(val)
    sets = labels_of_val_files(files_of(validation), real)
    return FolderSet(samples, validation, sets, imagenet_wnids(), train, [])


def imagenet_val(root: Path) -> Samples:
    """ImageNet's validation images with their index in the full ImageNet."""
    return list_images(root, wnid_index(class_folders(root, "ImageNet val"), root))


def webvision(root: Path, imagenet_root: Path | None) -> FolderSet:
    """WebVision, which is also scored on ImageNet's validation set, where that is there."""
    train, val = webvision_lists(root)
    second = [] if imagenet_root is None else imagenet_val(imagenet_root)
    names = list(map(str, range(1000)))
    return FolderSet(train, val, singletons(val), names, root, second)


def own_folders(train: Path, val: Path, real: Path | None) -> FolderSet:
    """Any class folders, with a file of label sets or the single label of each image."""
    names = class_folders(train, "the training images")
    index = numbered(names)
    samples = list_images(train, index)
    validation = list_validation(val, index)
    sets = singletons(validation)
    if real is not None:
        sets = labels_by_name(files_of(validation), real, names)
    return FolderSet(samples, validation, sets, names, train, [])


def labels_of(samples: Samples) -> list[int]:
    """The class index of each image."""
    return [label for _, label in samples]


def files_of(samples: Samples) -> list[Path]:
    """The path of each image."""
    return [Path(path) for path, _ in samples]


def singletons(samples: Samples) -> list[list[int]]:
    """The label sets of images that have one label each."""
    return [[label] for _, label in samples]
