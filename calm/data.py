"""Which pictures and labels: the data sets' folders and lists, and their images as tensors."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from calm.data_cub_trait import CUBTrait, has_segmentations  # noqa: F401
from calm.data_folders import DataSet, find_metadata, set_data_path  # noqa: F401
from calm.data_lists import (  # noqa: F401
    SPLITS,
    Attributes,
    check_name,
    configure_metadata,
    get_bounding_boxes,
    get_class_labels,
    get_image_ids,
    get_image_sizes,
    get_mask_paths,
    line_of,
)
from calm.data_superclass import read_superclass  # noqa: F401
from common.aliases import one_module
from common.cli import UserError
from common.images import CorruptImage, check_images, left_out, read_image
from common.loading import Batch, eval_loader, train_loader
from common.normalize import Normalize

one_module(__name__, "calm.data")

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def make_transforms(
    resize_size: int, crop_size: int, interpolation: str = "bilinear"
) -> dict[str, tuple[v2.Transform, v2.Transform]]:
    """Return for each split how its images are transformed, in two parts.

    The fixed part is a resize, which may be cached; the rest is crop, flip and normalisation.
    """

    tail = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    train = v2.Compose([v2.RandomCrop(crop_size), v2.RandomHorizontalFlip(), *tail])
    evaluation = (_resized(crop_size, interpolation), v2.Compose(tail))
    before_train = _resized(resize_size, interpolation)
    return {"train": (before_train, train), "val": evaluation, "test": evaluation}


def make_byte_transforms(
    resize_size: int, crop_size: int
) -> dict[str, tuple[v2.Transform, "ToBytes"]]:
    """Return `make_transforms` without the normalisation: images become (3,h,w) uint8.

    `normalizer` does the rest, for a whole batch and where the network is.
    """
    evaluation = (_resized(crop_size), ToBytes())
    train = (_resized(resize_size), CropAndFlip(crop_size))
    return {"train": train, "val": evaluation, "test": evaluation}


def _resized(side: int, interpolation: str = "bilinear") -> v2.Transform:
    return v2.Resize((side, side), v2.InterpolationMode(interpolation), antialias=True)


class ToBytes:
    """A picture, or its pixels (h,w,3) uint8, as a tensor (3,h,w) uint8."""

    def __call__(self, picture: Image.Image | np.ndarray) -> torch.Tensor:
        """The pixels, copied."""
        pixels = np.array(picture)
        return torch.from_numpy(pixels).permute(2, 0, 1)


class CropAndFlip(ToBytes):
    """torchvision's RandomCrop(side) and RandomHorizontalFlip() of square pictures.

    They draw the same numbers from torch's global stream, so that the same pixels come out.
    """

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, picture: Image.Image | np.ndarray) -> torch.Tensor:
        """(3,side,side) uint8."""
        pixels = np.asarray(picture)
        room = len(pixels) - self.side
        if pixels.shape[0] != pixels.shape[1] or room < 0:
            height, width = pixels.shape[:2]
            wanted = f"a square of side {self.side} at least"
            raise ValueError(f"picture of {width} x {height} pixels: expected {wanted}")

        top = left = 0
        if room:
            top, left = torch.randint(room + 1, (2,)).tolist()
        cropped = pixels[top : top + self.side, left : left + self.side]
        is_flipped = torch.rand(1).tolist()[0] < 0.5
        if is_flipped:
            cropped = cropped[:, ::-1]
        return super().__call__(cropped)


@lru_cache
def normalizer(device: torch.device) -> Normalize:
    """ImageNet's normalisation of batches of bytes, its constants on the device."""
    return Normalize(MEAN, STD).to(device)


class ImageLabelDataset(Dataset):
    """(image, label, image_id) of a split; images as RGB.

    `transform`: one callable, or a pair (fixed, rest); `superclass_labels`: label -> coarser label.
    `upright`: turn photographs as they say; boxes and masks lie in the frame as it is stored.
    """

    upright = False

    def __init__(
        self,
        data_root: str | Path,
        metadata_root: str | Path,
        transform: Callable | tuple[Callable, Callable] | None,
        proxy: bool = False,
        superclass_labels: Mapping[int, int] | None = None,
        *,
        image_ids: Iterable[str] | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.data_root = Path(data_root)
        self.folder = Path(metadata_root)
        self.split = self.folder.name
        self.metadata = configure_metadata(metadata_root)
        self.fixed: Callable | None = None
        self.rest: Callable | None
        if isinstance(transform, tuple):
            self.fixed, self.rest = transform
        else:
            self.rest = transform
        if image_ids is None:
            image_ids = get_image_ids(self.metadata, proxy)
        self.image_ids = [check_name(image_id, f"the {self.split} list") for image_id in image_ids]
        self.image_labels = get_class_labels(self.metadata)
        self._check_labels(proxy, num_classes)
        if superclass_labels is not None:
            for image_id, label in self.image_labels.items():
                self.image_labels[image_id] = superclass_labels[label]
        self.start_empty()

    def start_empty(self) -> None:
        """No image is left out, none is kept in memory."""
        self.unreadable = 0  # images that were left out
        self._cache: torch.Tensor | None = None
        self._is_cached = torch.zeros(0, dtype=torch.bool)

    def _check_labels(self, proxy: bool, num_classes: int | None) -> None:
        """UserError names the line of an image without a label, or with one that is no class."""
        listing = self.metadata["image_ids_proxy" if proxy else "image_ids"]
        path = self.metadata["class_labels"]
        known = "0, 1, ..." if num_classes is None else f"0..{num_classes - 1}"
        for image_id in self.image_ids:
            label = self.image_labels.get(image_id)
            if label is None:
                raise UserError(f"{line_of(listing, image_id)} has no label in {path}")
            if label < 0 or (num_classes is not None and label >= num_classes):
                problem = f"label {label} is outside {known}"
                raise UserError(f"{line_of(path, image_id)}: {problem}")

    def resize_with(self, interpolation: str) -> None:
        """Resize as a network wants it, before the first image is read."""
        if isinstance(self.fixed, v2.Resize):
            self.fixed = _resized(self.fixed.size[0], interpolation)

    def cache_images(self, side: int) -> None:
        """Keep every image after the fixed resize in memory.

        The loader workers share it; it takes n side side 3 bytes.
        """
        n = len(self)
        self._cache = torch.zeros(n, side, side, 3, dtype=torch.uint8).share_memory_()
        self._is_cached = torch.zeros(n, dtype=torch.bool).share_memory_()

    @property
    def paths(self) -> list[Path]:
        """The files of the images, in order."""
        return [self.path_of(image_id) for image_id in self.image_ids]

    def path_of(self, image_id: str) -> Path:
        """The file of an image."""
        return self.data_root / image_id

    def check(self, skip_corrupt: bool = False) -> np.ndarray:
        """Return the positions of unreadable images, found by a look at every file.

        They are an error without `skip_corrupt`. An image that is not there is an error in any
        case.
        """
        return check_images(self.paths, what=f"the {self.split} list", skip_corrupt=skip_corrupt)

    def leave_out(self, positions: np.ndarray) -> None:
        """Take images off the list, for good; `unreadable` counts them."""
        kept = np.delete(np.arange(len(self)), positions)
        self.image_ids = [self.image_ids[k] for k in kept]
        self.unreadable += len(positions)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Any, int, str]:
        image_id = self.image_ids[index]
        image: Any = self._load(index)
        if self.rest is not None:
            image = self.rest(image)
        return image, self.image_labels[image_id], image_id

    def _load(self, index: int) -> Image.Image | np.ndarray:
        if self._cache is not None and self._is_cached.numpy()[index]:
            pixels = self._cache.numpy()[index]
            return pixels if isinstance(self.rest, ToBytes) else Image.fromarray(pixels)
        try:
            image = read_image(self.path_of(self.image_ids[index]), upright=self.upright)
        except CorruptImage as error:
            raise CorruptImage(f"{error}; it is image {index} of {self.split}") from error
        except UserError as error:
            raise UserError(f"{error}; it is image {index} of {self.split}") from error
        if self.fixed is not None:
            image = self.fixed(image)
        if self._cache is not None:
            self._cache[index] = torch.from_numpy(np.array(image))
            self._is_cached[index] = True
        return image


def get_data_loader(
    data_roots: Mapping[str, str | Path],
    metadata_root: str | Path,
    batch_size: int,
    workers: int,
    resize_size: int,
    crop_size: int,
    proxy_training_set: bool = False,
    *,
    grad_accum: int = 1,
    accelerator: Accelerator | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    skip_corrupt: bool = False,
    cache_images: bool = False,
    splits: Iterable[str] = SPLITS,
    test_ids: Iterable[str] | None = None,
    as_bytes: bool = False,
    is_frozen: bool = False,
    own: Callable[..., ImageLabelDataset] | None = None,
) -> dict[str, DataLoader]:
    """A loader of `Batch((images, labels, image_ids), index, skipped)` per split.

    Training images that are also in the val list (held out where there is no other val set) are
    left out of training. `test_ids` restricts the test split. train: shuffled by (seed, epoch);
    val, test: in order. Every file is looked at before anything else happens: a missing one is a
    UserError, an unreadable one a CorruptImage, or with `skip_corrupt` left out of val and test, by
    name. `as_bytes`: images are uint8, for `normalizer`, and not normalised float32. `grad_accum`:
    a batch of training is so many times larger.
    `is_frozen`: the view of the training images is the evaluation's too, and unreadable ones are
    left out as there. `own` makes the images of a split in place of the lists: (split, transform,
    image_ids=).
    """
    accelerator = accelerator or Accelerator()
    transforms: Mapping[str, tuple[Callable, Callable]]
    if as_bytes:
        transforms = make_byte_transforms(resize_size, crop_size)
    else:
        transforms = make_transforms(resize_size, crop_size)
    if is_frozen:
        transforms = dict.fromkeys(SPLITS, transforms["test"])
    root = Path(metadata_root)
    how = {"accelerator": accelerator, "workers": workers, "skip_corrupt": skip_corrupt}

    loaders = {}
    for split in splits:
        is_train = split == "train"
        is_proxy = proxy_training_set and is_train
        ids = test_ids if split == "test" else None
        if own is not None:
            data = own(split, transforms[split], image_ids=ids)
        else:
            data = ImageLabelDataset(
                data_roots[split],
                root / split,
                transforms[split],
                is_proxy,
                image_ids=training_ids(root, is_proxy) if is_train else ids,
                num_classes=num_classes,
            )
        is_complete = is_frozen or not is_train
        _leave_out_unreadable(data, skip_corrupt, accelerator, is_complete)
        if cache_images:
            data.cache_images(resize_size if is_train else crop_size)
        if is_train:
            rows = batch_size * grad_accum
            loaders[split] = train_loader(data, rows, seed=seed, parts=grad_accum, **how)
        else:
            loaders[split] = eval_loader(data, batch_size, **how)
    return loaders


def training_ids(metadata_root: Path, proxy: bool = False) -> list[str]:
    """The ids of the training list that are not in the val list; UserError where none is left."""
    held = set()
    val = configure_metadata(metadata_root / "val")
    if Path(val.image_ids).is_file():
        held = set(get_image_ids(val))

    folder = metadata_root / "train"
    listed = get_image_ids(configure_metadata(folder), proxy)
    ids = [image_id for image_id in listed if image_id not in held]
    if listed and not ids:
        problem = "all training images are in the val list too: none is left"
        raise UserError(f"{folder}: {problem}")
    return ids


def _leave_out_unreadable(
    data: "ImageLabelDataset", skip_corrupt: bool, accelerator: Accelerator, is_due: bool
) -> None:
    """Look at every image, and where it `is_due` take the unreadable ones off the list.

    It is not in training on pictures: there the loader skips them, and counts.
    """
    split = data.split
    if not len(data):
        problem = f"the {split} list is empty; nothing can be done with it"
        raise UserError(f"{data.folder}: {problem}")
    unreadable = data.check(skip_corrupt)
    if len(unreadable) == len(data):
        raise UserError(f"{data.folder}: no image of the {split} list can be read")
    if is_due and len(unreadable):
        accelerator.print(left_out(data.image_ids, unreadable, split))
        data.leave_out(unreadable)


def data_of(loader: DataLoader) -> ImageLabelDataset:
    """The images of a loader of `get_data_loader`."""
    return loader.dataset.dataset  # type: ignore[attr-defined]  # of common.loading.Seeded


class ReadableBatches:
    """The batches of an evaluation loader in which something could be read.

    It counts the images that could not be read.

    A look at the ends of a file does not see damage in its middle: such images come up here, with
    `skip_corrupt`.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.skipped = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            self.skipped += batch.skipped
            if batch.data is not None:
                yield batch

    def total(self, accelerator: Accelerator) -> int:
        """How many images of the split are missing in what was measured, over all processes."""
        skipped = torch.tensor(self.skipped, device=accelerator.device)
        if accelerator.num_processes > 1:
            skipped = accelerator.reduce(skipped, "sum")
        return int(skipped) + data_of(self.loader).unreadable
