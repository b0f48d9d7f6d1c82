"""The two kinds of source that the loop reads: grids of digits, image folders.

A source gives an endless stream of training batches, a function of (seed, step) alone, and the evaluation
batches of this process, everything on the device.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.cli import UserError
from common.data import eval_loader, train_loader
from common.images import check_images, left_out
from common.loading import seed_of
from mile import folders
from mile.dataset import eval_transform, train_samples, train_transform
from mile.grids import GridLoader, MultilabelMNIST, normalize
from mile.real_labels import labels_by_name, labels_of_val_files
from mile.utils import multi_hot

one_module(__name__, "mile.sources")

KEPT_BYTES = 1 << 30  # decoded images up to here stay in memory
HELD_OUT = 0.1  # share of the training images on which rho_cover chooses rho
DIGITS = [str(digit) for digit in range(10)]


class TrainBatch(NamedTuple):
    """Inputs (B,3,S,S) float32, labels (B,) int64, sample numbers (B,), unreadable images, row weights (B,) or None."""

    input: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor
    skipped: int = 0
    weight: torch.Tensor | None = None


class EvalBatch(NamedTuple):
    """Inputs (B,3,S,S) float32, labels (B,), label sets (lists, or bool (B,C)), sample numbers (B,)."""

    input: torch.Tensor
    label: torch.Tensor
    real: Any
    index: torch.Tensor


class GridSource:
    """Multi-label MNIST."""

    left_out = 0  # test images that cannot be read

    def __init__(self, conf: Any, accelerator: Accelerator) -> None:
        mnist = MultilabelMNIST(conf._paths["root"], conf.model, conf)
        place = {
            "device": accelerator.device,
            "rank": accelerator.process_index,
            "world": accelerator.num_processes,
        }
        self._held_out = None if conf.rho_cover is None else mnist.set_aside(HELD_OUT, **place)
        self.train: GridLoader = mnist.getDataloader(True, **place)
        self.test: GridLoader = mnist.getDataloader(False, **place)
        self.num_classes, self.class_names = self.train.classes, DIGITS
        self.pass_steps, self.train_size, self.test_size = (
            len(self.train),
            self.train.grids,
            self.test.grids,
        )

    def stream(self, step: int) -> Iterator[TrainBatch]:
        """Training batches from optimiser step `step` on, without end."""
        number, start = divmod(step, self.pass_steps)
        while True:
            for batch in self.train.batches(number, start):
                yield TrainBatch(batch.input, batch.label, batch.index)
            number, start = number + 1, 0

    def evaluation(self) -> Iterator[EvalBatch]:
        """The test grids of this process, in order."""
        yield from _evaluated(self.test)

    def held_out(self) -> Iterator[EvalBatch]:
        """The grids set aside for the choice of rho."""
        yield from _evaluated(self._held_out)

    def second_evaluation(self) -> None:
        """There is no second test set."""

    def relabelled(self) -> Iterator[EvalBatch]:
        """The training grids of this process, in order, with their true sets (for the export of label sets)."""
        mine = torch.arange(
            self.train.rank, self.train.grids, self.train.world, device=self.train.digits.device
        )
        for index in mine.split(self.train.batch_size):
            yield EvalBatch(*self.train.batch(index)[:4])

    def pictures(self, index: torch.Tensor) -> torch.Tensor:
        """The test grids of `index` (B,) as pictures (B,84,84) uint8."""
        return self.test.grid_pixels(index.to(self.test.digits.device)).cpu()

    def names_of_training_images(self) -> list[str]:
        """What the exported label sets are listed under."""
        return [str(i) for i in range(self.train_size)]


def _evaluated(loader: GridLoader) -> Iterator[EvalBatch]:
    for batch in loader.batches(0):
        yield EvalBatch(batch.input, batch.label, batch.real, batch.index)


class FolderSource:
    """ImageNet with ReaL labels, WebVision, or any class folders with an optional multi-label file.

    Every image that the run will read is looked at when this is made. With skip_corrupt those that cannot be read
    are named and left out: training batches become smaller, evaluation sets too (`left_out` images).
    """

    def __init__(self, conf: Any, accelerator: Accelerator) -> None:
        self.accelerator, self.device = accelerator, accelerator.device
        train, val, real, self.class_names = _read_folders(conf)
        second = conf._paths.get(
            "imagenet"
        )  # WebVision is also scored on ImageNet's validation set
        second = [] if second is None else _imagenet_val(second)
        listed = train
        train, held_out = (train, []) if conf.rho_cover is None else _set_aside(train, conf.seed)
        self.num_classes = len(self.class_names)
        if conf.dataset == "folder":
            _say_empty_classes(train, self.class_names, accelerator)
        if conf.batch_size > len(train):
            raise UserError(
                f"batch_size {conf.batch_size}: more than the {len(train)} training images"
            )

        reads_train = not conf.eval_only or conf.export_labels
        bad = _unreadable(listed, "train", conf, accelerator) if reads_train else set()
        bad_val = _unreadable(val, "val", conf, accelerator)
        bad_second = _unreadable(second, "ImageNet's val", conf, accelerator)
        held_out = _without(held_out, bad)
        if conf.rho_cover is not None and not held_out:
            raise UserError(
                "rho_cover: none of the images held out can be read; it chooses rho on them"
            )
        real = [labels for labels, (path, _) in zip(real, val, strict=True) if path not in bad_val]
        self.left_out = len(val) - len(real)
        val = _without(val, bad_val)
        self.second_left_out = len(second) - len(_without(second, bad_second))

        self.train_size, self.test_size = len(train), len(val)
        look, image_bytes = eval_transform(conf, conf.model), 3 * conf.image_size**2
        keep = conf.num_workers == 0 and (len(train) + len(val)) * image_bytes <= KEPT_BYTES
        no_chance = conf.augment == "none"
        self._train = folders.LabelledImages(
            train, train_transform(conf, conf.model), keep=keep and no_chance
        )
        self._plain_train, self._held_out = (
            _single(_without(train, bad), look),
            _single(held_out, look),
        )
        self._test = folders.LabelledImages(val, look, real, keep=keep)
        self._second_test = _single(_without(second, bad_second), look) if second else None
        self.second_size = len(second) - self.second_left_out
        self._root = conf._paths.get("train") or conf._paths["root"]
        self._skip_corrupt = conf.skip_corrupt
        self._named: set[str] = set()  # unreadable images that were found in an evaluation
        self._workers, self._size = (
            conf.num_workers,
            max(1, conf.batch_size // accelerator.num_processes),
        )
        self._loader = train_loader(
            *(self._train, self._size),
            seed=conf.seed,
            accelerator=accelerator,
            workers=conf.num_workers,
            drop_last=True,
            skip_corrupt=conf.skip_corrupt,
        )
        self.pass_steps = self._loader.batch_sampler.batches
        uniform = conf.reweight == "uniform"
        weights = (
            folders.class_weights([label for _, label in train], self.num_classes)
            if uniform
            else None
        )
        self._weights = None if weights is None else weights.to(self.device)

    def _put(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B,3,S,S) from the host as the network's input."""
        return normalize(images.to(self.device, non_blocking=True))

    def stream(self, step: int) -> Iterator[TrainBatch]:
        """Training batches from optimiser step `step` on, without end."""
        number, start = divmod(step, self.pass_steps)
        while True:
            self._loader.batch_sampler.set_epoch(number, start)
            for batch in self._loader:
                if batch.data is None:
                    raise UserError(
                        f"pass {number + 1}: no image of a whole batch can be read; check the data"
                    )
                label = batch.data[1].to(self.device, non_blocking=True)
                weight = None if self._weights is None else self._weights[label]
                yield TrainBatch(
                    self._put(batch.data[0]), label, batch.index, batch.skipped, weight
                )
            number, start = number + 1, 0

    def evaluation(self) -> Iterator[EvalBatch]:
        """The validation images of this process, in order."""
        yield from self._in_order(self._test)

    def held_out(self) -> Iterator[EvalBatch]:
        """The images set aside for the choice of rho."""
        yield from self._in_order(self._held_out)

    def second_evaluation(self) -> Iterator[EvalBatch] | None:
        """ImageNet's validation images, of a run on WebVision that has them."""
        return None if self._second_test is None else self._in_order(self._second_test)

    def relabelled(self) -> Iterator[EvalBatch]:
        """The training images of this process, in order, under the evaluation transform."""
        yield from self._in_order(self._plain_train)

    def _in_order(self, dataset: folders.LabelledImages) -> Iterator[EvalBatch]:
        loader = eval_loader(
            *(dataset, max(64, self._size)),
            accelerator=self.accelerator,
            workers=self._workers,
            skip_corrupt=self._skip_corrupt,
            collate=folders.collate_real,
        )
        for batch, keys in zip(loader, loader.batch_sampler, strict=True):
            if batch.skipped:
                self._name_skipped(dataset, keys, batch.index)
            if batch.data is not None:
                images, label, real = batch.data
                yield EvalBatch(self._put(images), label.to(self.device), real, batch.index)

    def _name_skipped(
        self, dataset: folders.LabelledImages, keys: list[tuple[int, int]], kept: torch.Tensor
    ) -> None:
        """Say once which images cannot be read although they begin and end as their format does."""
        found = {dataset.samples[i][0] for _, i in keys} - {
            dataset.samples[i][0] for i in kept.tolist()
        }
        new = sorted(found - self._named)
        self._named |= found
        if new:
            print(
                f"damaged in the middle and left out of the evaluation: {', '.join(new)}",
                flush=True,
            )

    def pictures(self, index: torch.Tensor) -> torch.Tensor:
        """The validation pictures of `index` (B,) as (B,S,S,3) uint8."""
        return torch.stack([self._test[i][0] for i in index.tolist()]).permute(0, 2, 3, 1)

    def names_of_training_images(self) -> list[str]:
        """The paths below the root, CLASS/FILE, of the training images that can be read."""
        return [
            Path(path).relative_to(self._root).as_posix() for path, _ in self._plain_train.samples
        ]


def _read_folders(conf: Any) -> tuple:
    """Training samples, validation samples, validation label sets, class names."""
    paths = conf._paths
    if conf.dataset == "webvision":
        train, val = folders.webvision_lists(paths["root"])
        train = _subset(train, conf)
        return train, val, [[label] for _, label in val], [str(c) for c in range(1000)]
    if conf.dataset == "imagenet":
        train, names = train_samples(paths["train"], conf), folders.ImageNetInfo().label_names()
        val = _imagenet_val(paths["val"])
        return (
            train,
            val,
            labels_of_val_files([Path(p) for p, _ in val], paths["real"]),
            list(names),
        )
    names = folders.class_folders(paths["train"], "the training images")
    index = {name: c for c, name in enumerate(names)}
    train, val = (
        folders.list_images(paths["train"], index),
        folders.list_validation(paths["val"], index),
    )
    files = [Path(path) for path, _ in val]
    sets = (
        [[label] for _, label in val]
        if paths["real"] is None
        else labels_by_name(files, paths["real"], names)
    )
    return _subset(train, conf), val, sets, names


def _unreadable(
    samples_: folders.Samples, what: str, conf: Any, accelerator: Accelerator
) -> set[str]:
    """The paths that cannot be read, named in a line; without skip_corrupt an error. UserError where none can be."""
    paths = [path for path, _ in samples_]
    positions = check_images(paths, what=what, skip_corrupt=conf.skip_corrupt)
    if len(positions):
        accelerator.print(left_out(paths, positions, what))
    if paths and len(positions) == len(paths):
        raise UserError(
            f"{what}: none of the {len(paths)} images can be read, the first is {paths[0]}"
        )
    return {paths[k] for k in positions.tolist()}


def _without(samples_: folders.Samples, paths: set[str]) -> folders.Samples:
    """The images that are not among `paths`."""
    return [sample for sample in samples_ if sample[0] not in paths]


def _say_empty_classes(train: folders.Samples, names: list[str], accelerator: Accelerator) -> None:
    """Name the class folders without a training image: they count as classes, which nothing teaches."""
    present = {label for _, label in train}
    empty = [name for c, name in enumerate(names) if c not in present]
    if empty:
        shown = ", ".join(empty[:5])
        accelerator.print(
            f"warning: {len(empty)} of {len(names)} classes have no training image: {shown}"
        )


def _imagenet_val(root: Path) -> folders.Samples:
    """ImageNet's validation images with their index in the full ImageNet."""
    return folders.list_images(
        root, folders.wnid_index(folders.class_folders(root, "ImageNet val"), root)
    )


def _single(samples_: folders.Samples, look: Any) -> folders.LabelledImages:
    """Images whose label set is their one label."""
    return folders.LabelledImages(samples_, look, [[label] for _, label in samples_])


def _set_aside(samples_: folders.Samples, seed: int) -> tuple[folders.Samples, folders.Samples]:
    """The training images and a share HELD_OUT that is kept from training, drawn from the seed; in their order."""
    n, order = len(samples_), torch.Generator().manual_seed(seed_of(seed, 4))
    drawn = set(torch.randperm(n, generator=order)[: int(HELD_OUT * n)].tolist())
    if not drawn:
        raise UserError(
            f"rho_cover: a tenth of the {n} training images is none; it chooses rho on that"
        )
    return [s for i, s in enumerate(samples_) if i not in drawn], [
        samples_[i] for i in sorted(drawn)
    ]


def _subset(samples_: folders.Samples, conf: Any) -> folders.Samples:
    if conf.subset_file:
        return folders.listed_subset(samples_, Path(conf.subset_file))
    return folders.balanced_subset(samples_, conf.train_frac, conf.subset_seed)


Source = GridSource | FolderSource


def open_source(conf: Any, accelerator: Accelerator) -> Source:
    """The source of a located data set; UserError where its files or the batch size do not fit."""
    world = accelerator.num_processes
    if conf.batch_size % world:
        raise UserError(f"batch_size {conf.batch_size} is not divisible by the {world} processes")
    return (
        GridSource(conf, accelerator)
        if conf.dataset == "mnist"
        else FolderSource(conf, accelerator)
    )


def as_matrix(real: Any, num_classes: int, device: torch.device) -> torch.Tensor:
    """Label sets as bool (B,C) on the device."""
    return real if isinstance(real, torch.Tensor) else multi_hot(real, num_classes, device)
