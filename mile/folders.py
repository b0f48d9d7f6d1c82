"""Image folders: which files, which classes, which share of them; the items that loaders read (spec d)."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from common.aliases import one_module
from common.cli import UserError
from common.data import read_image
from common.domain import require_indices, require_number

one_module(__name__, "mile.folders")

Samples = list[tuple[str, int]]
LISTED = re.compile(r"(.+?)\s+([0-9]{1,3})")  # WebVision's "PATH LABEL"


def class_folders(root: Path, what: str) -> list[str]:
    """The sorted names of the class folders; UserError where there is none (a flat folder)."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} does not exist; {what} belongs there, one folder a class; or run with --sample")
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if not names:
        flat = sum(entry.suffix.lower() in IMG_EXTENSIONS for entry in root.iterdir())
        raise UserError(
            f"{root}: no class folders, {flat} images at its top; sort {what} into one folder a class "
            "(ImageNet: val/n01440764/ILSVRC2012_val_00000293.JPEG)"
        )
    return names


def wnid_index(names: Sequence[str], root: Path) -> dict[str, int]:
    """Folder name -> index among ImageNet's 1,000 sorted WNIDs, also where only some classes are there."""
    table = {wnid: c for c, wnid in enumerate(ImageNetInfo().label_names())}
    strangers = [name for name in names if name not in table]
    if strangers:
        shown = ", ".join(strangers[:5])
        raise UserError(f"{root}: {len(strangers)} folders are no ImageNet class (WNID): {shown}; --dataset folder?")
    return {name: table[name] for name in names}


def list_images(root: Path, index: dict[str, int]) -> Samples:
    """All images (path, class index) below the class folders, sorted by folder and name."""
    samples = make_dataset(str(root), index, extensions=IMG_EXTENSIONS, allow_empty=True)
    if not samples:
        raise UserError(f"{root}: the class folders hold no image ({', '.join(IMG_EXTENSIONS)})")
    return samples


def list_validation(root: Path, index: dict[str, int]) -> Samples:
    """Validation images (path, class index): class folders, or Tiny-ImageNet's images/ with val_annotations.txt."""
    root, strangers = Path(root), []
    listing = root / "val_annotations.txt"
    if listing.is_file():
        lines = [line.split("\t")[:2] for line in listing.read_text().splitlines() if line.strip()]
        strangers = [line[-1] for line in lines if line[-1] not in index]
    else:
        strangers = [name for name in class_folders(root, "the validation images") if name not in index]
    if strangers:
        raise UserError(f"{root}: class {strangers[0]!r} has no folder among the training images")
    if listing.is_file():
        return [(str(root / "images" / name), index[label]) for name, label in lines]
    return list_images(root, index)


def balanced_subset(samples: Samples, frac: float, seed: int = 42, num_classes: int | None = None) -> Samples:
    """The same share of each class, chosen as the authors do; samples (path, target) as ImageFolder lists them.

    r = RandomState(seed); kept classes = r.permutation(C)[:num_classes], renumbered by rank; r shuffles all
    samples; of each class, in order of first appearance, the first int(n * frac). Everything: unchanged.
    UserError names a class that is left empty; ValueError for frac outside (0, 1], more classes than there are.
    """
    require_number(frac, "frac", 0, 1, open_low=True)
    classes = sorted({target for _, target in samples})
    kept_count = len(classes) if num_classes is None else num_classes
    require_number(kept_count, "num_classes", 1, len(classes))
    if frac >= 1 and kept_count >= len(classes):
        return list(samples)
    r = np.random.RandomState(seed)  # noqa: NPY002 - the authors' stream
    kept = sorted(np.asarray(classes)[r.permutation(len(classes))[:kept_count]].tolist())
    new = {c: rank for rank, c in enumerate(kept)} if num_classes is not None else {c: c for c in kept}
    shuffled = list(samples)
    r.shuffle(shuffled)
    groups: dict[int, Samples] = {}
    for path, target in shuffled:
        if target in new:
            groups.setdefault(new[target], []).append((path, new[target]))
    for target, group in groups.items():
        if int(len(group) * frac) == 0:
            where = f"class {target} (folder {Path(group[0][0]).parent.name})"
            raise UserError(f"train_frac {frac}: {where} has {len(group)} images, none would be left")
    return [sample for group in groups.values() for sample in group[: int(len(group) * frac)]]


def listed_subset(samples: Samples, path: Path) -> Samples:
    """The samples whose file names stand in the file `path`, one a line (the SimCLR 1% and 10% lists)."""
    try:
        names = {line.strip() for line in Path(path).read_text().splitlines() if line.strip()}
    except OSError as error:
        raise UserError(f"subset_file {path}: cannot be read ({error.strerror})") from error
    if not names:
        raise UserError(f"subset_file {path}: names no file; one training file name a line")
    chosen = [sample for sample in samples if Path(sample[0]).name in names]
    if len(chosen) < len(names):
        missing = next(iter(sorted(names - {Path(p).name for p, _ in chosen})))
        raise UserError(
            f"subset_file {path}: {len(names) - len(chosen)} of {len(names)} names are not there: {missing}"
        )
    return chosen


def class_weights(targets: Sequence[int], num_classes: int) -> torch.Tensor:
    """`reweight uniform`: 1 / class count for each class, (C,) float32 (the authors' WebVision weights).

    ValueError for a target that is no class.
    """
    require_indices(torch.tensor(targets), num_classes, "targets")
    return 1 / torch.bincount(torch.tensor(targets), minlength=num_classes).clamp(min=1).float()


class LabelledImages(Dataset):
    """Items (image, class index) or, with label sets, (image, class index, list of class indices).

    With `keep` decoded images stay in memory: for small sets under a transform without chance.
    """

    def __init__(
        self,
        samples: Samples,
        transform: Callable[[Image.Image], Any],
        real: Sequence[Sequence[int]] | None = None,
        *,
        keep: bool = False,
    ) -> None:
        self.samples, self.transform, self.real, self.keep = samples, transform, real, keep
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple:
        path, target = self.samples[index]
        image = self._kept.get(index)
        if image is None:
            image = self.transform(read_image(path))
            if self.keep:
                self._kept[index] = image
        return (image, target) if self.real is None else (image, target, self.real[index])


def collate_real(items: list[tuple]) -> tuple[torch.Tensor, torch.Tensor, list]:
    """(images, labels (B,) int64, B lists) of items with label sets."""
    images, labels, real = zip(*items, strict=True)
    return torch.stack(images), torch.tensor(labels), list(real)


def webvision_lists(root: Path) -> tuple[Samples, Samples]:
    """WebVision 1.0: training and validation samples from info/*_filelist*.txt, lines "PATH LABEL".

    UserError names the first line that is not, LABEL in 0..999.
    """

    def read(name: str, folder: Path) -> Samples:
        file = root / "info" / name
        try:
            lines = file.read_text().splitlines()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); data_path is WebVision's root") from error
        found = []
        for number, line in enumerate(lines, 1):
            match = LISTED.fullmatch(line.strip())
            if match:
                found.append((str(folder / match[1]), int(match[2])))
            elif line.strip():
                raise UserError(f"{file}: line {number} is not 'PATH LABEL', LABEL in 0..999")
        return found

    root = Path(root)
    train = read("train_filelist_flickr.txt", root) + read("train_filelist_google.txt", root)
    return train, read("val_filelist.txt", root / "val_images")
