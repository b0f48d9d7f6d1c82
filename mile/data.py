"""Which pictures and labels: the two kinds of source that the training loop reads.

A source gives an endless stream of training batches, a function of (seed, step) alone, and the
evaluation batches of this process, everything on the device: grids of digits, or image folders.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.cli import UserError
from common.images import check_images, left_out
from common.loading import eval_loader, seed_of, train_loader
from mile.data_features import FeatureLoader
from mile.data_folders import (  # noqa: F401
    FolderSet,
    LabelledImages,
    Samples,
    class_weights,
    collate_pictures,
    files_of,
    imagenet,
    labels_of,
    own_folders,
    require_a_step,
    singletons,
    subset_of,
    webvision,
)
from mile.data_grids import TEST_SEED, Digits, GridLoader, read_digits  # noqa: F401
from mile.data_images import (  # noqa: F401
    IMAGENET,
    Statistics,
    Transform,
    eval_transform,
    normalize,
    short_side,
    train_transform,
)
from mile.data_location import Located, locate_data  # noqa: F401

one_module(__name__, "mile.data")

KEPT_BYTES = 1 << 30  # decoded images up to here stay in memory
EVALUATED = 128  # images of an evaluation's batch, at least
HELD_OUT = 0.1  # share of the training images on which rho_cover chooses rho
DIGITS = list("0123456789")

Real = torch.Tensor | Sequence[Sequence[int]]  # bool (B,C), or B lists of class indices


class TrainBatch(NamedTuple):
    """A batch of training, on the device."""

    input: torch.Tensor  # (B,3,S,S) float32, or (B,C,h,w) features
    label: torch.Tensor  # (B,) int64
    ids: torch.Tensor  # (B,) int64, sample numbers
    skipped: int = 0  # unreadable images that the batch is without
    weight: torch.Tensor | None = None  # (B,) a weight for each image
    sets: torch.Tensor | None = None  # (B,C) float32 of 0 and 1, taught in the place of the labels


class EvalBatch(NamedTuple):
    """A batch of an evaluation, on the device."""

    input: torch.Tensor  # (B,3,S,S) float32, or (B,C,h,w) features
    label: torch.Tensor  # (B,) int64
    real: Real
    ids: torch.Tensor  # (B,) int64, places in the set


class GridSource:
    """Multi-label MNIST."""

    left_out = 0  # test images that cannot be read
    second_left_out = 0
    second_size = 0
    statistics = IMAGENET

    def __init__(self, train: GridLoader, test: GridLoader, held_out: GridLoader | None) -> None:
        self.train = train
        self.test = test
        self._held_out = held_out
        self.num_classes = train.classes
        self.class_names = DIGITS
        self.pass_steps = len(train)
        self.train_size = train.grids
        self.test_size = test.grids
        self.feature_shape: tuple[int, ...] | None = None

    def use_features(self, features_of: Callable[[GridLoader], np.ndarray]) -> None:
        """From now on batches hold rows of features (C,h,w), which `features_of` gives of a set."""
        for loader in (self.train, self.test, self._held_out):
            if loader is None:
                continue
            rows = torch.from_numpy(np.array(features_of(loader)))
            loader.features = rows.to(loader.digits.device)
            self.feature_shape = tuple(rows.shape[1:])

    def stream(self, step: int) -> Iterator[TrainBatch]:
        """Training batches from optimiser step `step` on, without end."""
        number, start = divmod(step, self.pass_steps)
        while True:
            for batch in self.train.batches(number, start):
                yield TrainBatch(batch.input, batch.label, batch.ids)
            number += 1
            start = 0

    def evaluation(self) -> Iterator[EvalBatch]:
        """The test grids of this process, in order."""
        return _evaluated(self.test)

    def held_out(self) -> Iterator[EvalBatch]:
        """The grids set aside for the choice of rho."""
        if self._held_out is not None:
            yield from _evaluated(self._held_out)

    def second_evaluation(self) -> Iterator[EvalBatch] | None:
        """There is no second test set."""
        return None

    def relabelled(self) -> Iterator[EvalBatch]:
        """The training grids of this process, in order, with their true sets."""
        loader = self.train
        mine = torch.arange(loader.rank, loader.grids, loader.world, device=loader.digits.device)
        for index in mine.split(loader.batch_size):
            batch = loader.batch(index)
            yield EvalBatch(batch.input, batch.label, batch.real, batch.ids)

    def pictures(self, index: torch.Tensor) -> torch.Tensor:
        """The test grids of `index` (B,) as pictures (B,84,84) uint8."""
        return self.test.grid_pixels(index.to(self.test.digits.device)).cpu()

    def names_of_training_images(self) -> list[str]:
        """What the exported label sets are listed under."""
        return list(map(str, range(self.train_size)))


def _evaluated(loader: GridLoader) -> Iterator[EvalBatch]:
    for batch in loader.batches(0):
        yield EvalBatch(batch.input, batch.label, batch.real, batch.ids)


class FolderSource:
    """ImageNet with ReaL labels, WebVision, or any class folders with an optional multi-label file.

    Every image that the run will read is looked at when this is made. With skip_corrupt those that
    cannot be read are named and left out: training batches become smaller, evaluation sets too
    (`left_out` images).

    Args:
        images: what there is.
        train_look, look: the transforms of training and of evaluation.
        image_size: the side of the network's input, pixels.
        batch_size: of all processes together.
        grad_accum: a batch of training is so many times larger.
        workers: loader processes.
        holds_out: set a share HELD_OUT of the training images aside, to choose rho on.
        reads_train: whether training images will be read at all.
        has_chance: whether train_look draws random numbers; else decoded images may be kept.
        weighs_classes: weight 1 / class count for each image.
        names_empty: say which classes have no training image.
        sets: training image -> class indices that are taught in the place of its label; or None.
        statistics: mean and deviation of the channels that the network's input is normalised with.
    """

    def __init__(
        self,
        images: FolderSet,
        accelerator: Accelerator,
        *,
        train_look: Transform,
        look: Transform,
        image_size: int,
        batch_size: int,
        workers: int,
        seed: int,
        skip_corrupt: bool,
        holds_out: bool,
        reads_train: bool,
        has_chance: bool,
        weighs_classes: bool,
        names_empty: bool,
        grad_accum: int = 1,
        sets: Mapping[str, Sequence[int]] | None = None,
        statistics: Statistics = IMAGENET,
    ) -> None:
        self.accelerator = accelerator
        self.device = accelerator.device
        self.class_names = images.class_names
        self.num_classes = len(images.class_names)
        self._root = images.root
        self._skip_corrupt = skip_corrupt
        self._upright = images.upright
        self.statistics = statistics
        self._workers = workers
        self._size = max(1, batch_size // accelerator.num_processes)
        self._named: set[str] = set()  # unreadable images that were found in an evaluation

        train = images.train
        held_out: Samples = []
        if holds_out:
            train, held_out = _set_aside(images.train, seed)
        if names_empty:
            _say_empty_classes(train, self.class_names, accelerator)
        require_a_step(len(train), batch_size, grad_accum)

        bad = self._unreadable(images.train, "train") if reads_train else set()
        bad_val = self._unreadable(images.val, "val")
        bad_second = self._unreadable(images.second, "ImageNet's val")
        held_out = _without(held_out, bad)
        if holds_out and not held_out:
            raise UserError(
                "rho_cover: none of the images held out can be read; it chooses rho on them"
            )
        val = _without(images.val, bad_val)
        second = _without(images.second, bad_second)
        labelled = zip(images.real, images.val, strict=True)
        real = [labels for labels, sample in labelled if sample[0] not in bad_val]

        self.train_size = len(train)
        self.test_size = len(val)
        self.left_out = images.val_left_out + len(images.val) - len(val)
        self.second_size = len(second)
        self.second_left_out = len(images.second) - len(second)

        kept_bytes = (len(train) + len(val)) * 3 * image_size**2
        keep = workers == 0 and kept_bytes <= KEPT_BYTES
        taught = None if sets is None else [sets[path] for path, _ in train]
        self._train = self._pictures(train, train_look, taught, keep=keep and not has_chance)
        self._plain_train = self._single(_without(train, bad), look)
        self._held_out = self._single(held_out, look)
        self._test = self._pictures(val, look, real, keep=keep)
        self._second_test = self._single(second, look)
        self._loader = self._shuffled(seed, grad_accum)
        self._features_of: Callable[[LabelledImages], np.ndarray] | None = None
        self.feature_shape: tuple[int, ...] | None = None
        batch_sampler: Any = self._loader.batch_sampler
        self.pass_steps: int = batch_sampler.batches
        self._loaders: dict[int, Any] = {}  # of evaluations, by the data set's id
        self._weights: torch.Tensor | None = None
        if weighs_classes:
            weights = class_weights(labels_of(train), self.num_classes)
            self._weights = weights.to(self.device)

    def _shuffled(self, seed: int, parts: int) -> Any:
        """The loader of training batches, all whole."""
        return train_loader(
            self._train,
            self._size * parts,
            seed=seed,
            parts=parts,
            accelerator=self.accelerator,
            workers=self._workers,
            drop_last=True,
            skip_corrupt=self._skip_corrupt,
            collate=collate_pictures,
        )

    def use_features(self, features_of: Callable[[LabelledImages], np.ndarray]) -> None:
        """From now on batches hold rows of features (C,h,w), which `features_of` gives of a set.

        Those of a set are asked for when it is first read; of the training set at once.
        """
        self._features_of = features_of
        self._loaders.clear()
        self._loader = self._with_features(self._train, self._loader)
        self.feature_shape = self._loader.features.shape[1:]

    def _with_features(self, images: LabelledImages, loader: Any) -> Any:
        """The loader, or one of features in the same order."""
        if self._features_of is None:
            return loader
        rows = self._features_of(images)
        return FeatureLoader(images, rows, loader.batch_sampler, skip_corrupt=self._skip_corrupt)

    def _unreadable(self, samples: Samples, what: str) -> set[str]:
        """The paths that cannot be read, named in a line; without skip_corrupt an error.

        UserError where none can be read.
        """
        paths = [path for path, _ in samples]
        positions = check_images(paths, what=what, skip_corrupt=self._skip_corrupt)
        if len(positions):
            self.accelerator.print(left_out(paths, positions, what))
        if paths and len(positions) == len(paths):
            raise UserError(
                f"{what}: none of the {len(paths)} images can be read, the first is {paths[0]}"
            )
        return {paths[k] for k in positions.tolist()}

    def _pictures(
        self, samples: Samples, look: Transform, real: Any = None, *, keep: bool = False
    ) -> LabelledImages:
        return LabelledImages(samples, look, real, keep=keep, upright=self._upright)

    def _single(self, samples: Samples, look: Transform) -> LabelledImages:
        """Images whose label set is their one label."""
        return self._pictures(samples, look, singletons(samples))

    def _put(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B,3,S,S) from the host as the network's input; features as they are."""
        on_device = images.to(self.device, non_blocking=True)
        if self._features_of is not None:
            return on_device
        return normalize(on_device, self.statistics)

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
                input = self._put(batch.data[0])
                sets = None
                if len(batch.data) > 2:
                    sets = _as_targets(batch.data[2], self.num_classes).to(self.device)
                yield TrainBatch(input, label, batch.index, batch.skipped, weight, sets)
            number += 1
            start = 0

    def evaluation(self) -> Iterator[EvalBatch]:
        """The validation images of this process, in order."""
        return self._in_order(self._test)

    def held_out(self) -> Iterator[EvalBatch]:
        """The images set aside for the choice of rho."""
        return self._in_order(self._held_out)

    def second_evaluation(self) -> Iterator[EvalBatch] | None:
        """ImageNet's validation images, of a run on WebVision that has them."""
        if not self.second_size:
            return None
        return self._in_order(self._second_test)

    def relabelled(self) -> Iterator[EvalBatch]:
        """The training images of this process, in order, under the evaluation transform."""
        return self._in_order(self._plain_train)

    def _in_order(self, dataset: LabelledImages) -> Iterator[EvalBatch]:
        loader = self._loader_of(dataset)
        for batch, keys in zip(loader, loader.batch_sampler, strict=True):
            if batch.skipped:
                self._name_skipped(dataset, keys, batch.index)
            if batch.data is not None:
                images, label, real = batch.data
                label = label.to(self.device, non_blocking=True)
                yield EvalBatch(self._put(images), label, real, batch.index)

    def _loader_of(self, dataset: LabelledImages) -> Any:
        """The set's loader, whose workers stay from one evaluation to the next."""
        if id(dataset) not in self._loaders:
            loader = eval_loader(
                dataset,
                max(EVALUATED, self._size),
                accelerator=self.accelerator,
                workers=self._workers,
                skip_corrupt=self._skip_corrupt,
                collate=collate_pictures,
            )
            self._loaders[id(dataset)] = self._with_features(dataset, loader)
        return self._loaders[id(dataset)]

    def _name_skipped(
        self, dataset: LabelledImages, keys: list[tuple[int, int]], kept: torch.Tensor
    ) -> None:
        """Say once which images cannot be read although they begin and end as their format does."""
        missing = {i for _, i in keys}.difference(kept.tolist())
        found = {dataset.samples[i][0] for i in missing}
        new = sorted(found - self._named)
        self._named |= found
        if new:
            shown = ", ".join(new)
            said = f"damaged in the middle and left out of the evaluation: {shown}"
            print(said, flush=True)

    def pictures(self, index: torch.Tensor) -> torch.Tensor:
        """The validation pictures of `index` (B,) as (B,S,S,3) uint8."""
        return torch.stack([self._test[i][0] for i in index.tolist()]).permute(0, 2, 3, 1)

    def names_of_training_images(self) -> list[str]:
        """The paths below the root, CLASS/FILE, of the training images that can be read.

        An image that lies elsewhere (a csv may name it) has its whole path, without the first `/`.
        """
        return [_below(path, self._root) for path in files_of(self._plain_train.samples)]


Source = GridSource | FolderSource


def _without(samples: Samples, paths: set[str]) -> Samples:
    """The images that are not among `paths`."""
    return [sample for sample in samples if sample[0] not in paths]


def _below(path: Path, root: Path) -> str:
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return path.as_posix().lstrip("/")


def _as_targets(lists: Sequence[Sequence[int]], num_classes: int) -> torch.Tensor:
    """B lists of class indices as (B,C) float32 of 0 and 1."""
    target = torch.zeros(len(lists), num_classes)
    for row, labels in zip(target, lists, strict=True):
        row[list(labels)] = 1.0
    return target


def _say_empty_classes(train: Samples, names: list[str], accelerator: Accelerator) -> None:
    """Name the class folders without a training image.

    They count as classes, which nothing teaches.
    """
    present = set(labels_of(train))
    empty = [name for c, name in enumerate(names) if c not in present]
    if empty:
        shown = ", ".join(empty[:5])
        accelerator.print(
            f"warning: {len(empty)} of {len(names)} classes have no training image: {shown}"
        )


def _set_aside(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """The training images, and a share HELD_OUT that is kept from training, drawn from the seed."""
    n = len(samples)
    generator = torch.Generator().manual_seed(seed_of(seed, 4))
    drawn = set(torch.randperm(n, generator=generator)[: int(HELD_OUT * n)].tolist())
    if not drawn:
        raise UserError(
            f"rho_cover: a tenth of the {n} training images is none; it chooses rho on that"
        )
    trained_on = [sample for i, sample in enumerate(samples) if i not in drawn]
    held_out = [samples[i] for i in sorted(drawn)]
    return trained_on, held_out
