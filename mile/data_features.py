"""Features of a frozen backbone in the place of pictures, `--frozen_features`.

A row of features is computed once for each picture, under the transform of the evaluation. Batches
of rows come in the order of the batches of pictures, with the same labels.

Shapes: N pictures, B of a batch, a row (C,h,w), S the side of the network's input.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from common.aliases import one_module
from common.errors import UserError
from common.frozen import View, computed, network_sha, sha_of_arrays, sha_of_files
from common.frozen_batches import FeatureBatches
from common.images import CorruptImage
from common.loading import loader_processes
from mile.data_folders import LabelledImages, files_of, labels_of
from mile.data_grids import GridLoader
from mile.data_images import Statistics, normalize
from mile.models_frozen import Body

one_module(__name__, "mile.data_features")


class InputPictures(Dataset):
    """The inputs (3,S,S) float32 of a set's pictures; NaN for one that cannot be read.

    Without `skip_corrupt` that is a CorruptImage.
    """

    def __init__(
        self, images: LabelledImages, size: int, statistics: Statistics, *, skip_corrupt: bool
    ) -> None:
        self.images = images
        self.size = size
        self.statistics = statistics
        self.skip_corrupt = skip_corrupt

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        try:
            pixels = self.images.picture(index)
        except CorruptImage:
            if not self.skip_corrupt:
                raise
            return torch.full((3, self.size, self.size), torch.nan)
        return normalize(pixels[None], self.statistics)[0]


class InputGrids(Dataset):
    """The inputs (3,S,S) float32 of the grids of a loader."""

    def __init__(self, loader: GridLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return self.loader.grids

    def __getitem__(self, index: int) -> torch.Tensor:
        number = torch.tensor([index], device=self.loader.digits.device)
        return self.loader.batch(number).input[0].cpu()


class FeatureLoader(FeatureBatches):
    """`Batch`es of rows, as the loader of the pictures gives them: order, labels, label sets.

    Args:
        images: the set; its pictures are not read.
        rows: (N,C,h,w) float32, NaN for a picture that cannot be read.
        batch_sampler: lists of (epoch, place), that of the pictures' loader.
        skip_corrupt: leave unreadable pictures out of the batches, and count them.
    Raises:
        UserError: names the first unreadable picture, without `skip_corrupt`.
    """

    def __init__(
        self, images: LabelledImages, rows: np.ndarray, batch_sampler: Any, *, skip_corrupt: bool
    ) -> None:
        super().__init__(rows, batch_sampler, self._beside)
        self._labels = torch.tensor(labels_of(images.samples))
        self._real = images.real
        is_broken = np.isnan(rows[:, 0, 0, 0])
        if not skip_corrupt and is_broken.any():
            path, _ = images.samples[int(is_broken.argmax())]
            raise UserError(f"{path}: cannot be decoded; replace it, or --skip_corrupt")

    def _beside(self, places: list[int]) -> tuple[Any, ...]:
        labels = self._labels[places]
        if self._real is None:
            return (labels,)
        return labels, [self._real[place] for place in places]


class Extractor:
    """Computes the rows of a set, or finds them in the cache.

    Args:
        body: the frozen part of the network.
        device: where it computes.
        workers: loader processes that read pictures.
        poll: called before each batch that is computed, so that a stop signal is answered.
    """

    def __init__(
        self,
        body: Body,
        *,
        device: torch.device,
        workers: int = 0,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        self.body = body
        self.device = device
        self.workers = loader_processes(workers)
        self.poll = poll
        self._network = network_sha(body.network)

    def of_pictures(
        self,
        images: LabelledImages,
        look: str,
        size: int,
        statistics: Statistics,
        *,
        skip_corrupt: bool,
    ) -> np.ndarray:
        """The rows of a set of pictures.

        Args:
            look: the transform of the pictures in words.
            size: S.
            statistics: what they are normalised with.
            skip_corrupt: a picture that cannot be read gets a row of NaN.
        """
        inputs = InputPictures(images, size, statistics, skip_corrupt=skip_corrupt)
        transform = f"{look}; upright {images.upright}; {tuple(statistics)}"
        return self._rows(inputs, transform, sha_of_files(files_of(images.samples)), self.workers)

    def of_grids(self, loader: GridLoader) -> np.ndarray:
        """The rows of the grids of digits of a loader."""
        drawn = [loader.digits, loader.table]
        content = sha_of_arrays(*(tensor.cpu().numpy() for tensor in drawn))
        return self._rows(InputGrids(loader), f"grid of digits, {loader.size} px", content, 0)

    def _rows(self, inputs: Any, transform: str, content: str, workers: int) -> np.ndarray:
        view = View(self._network, transform, content, pooled=self.body.pooled)
        return computed(
            self.body.network, inputs, view, device=self.device, workers=workers, poll=self.poll
        )
