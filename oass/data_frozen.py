"""Features of a frozen backbone in the place of pictures: computed once, fetched by rows.

Shapes: N pictures, K channels, G and h cells of a picture's map and a tile's.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common.aliases import one_module
from common.frozen import View, computed, network_sha, sha_of_files
from common.loading import Batch, EpochSampler, loader_processes
from oass.core.networks import Classifier
from oass.data import EvalTransform, Picture, VOC_Dataset_For_Classification, normalise
from oass.method import TILES

one_module(__name__, "oass.data_frozen")

CPU = torch.device("cpu")
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


class Features(NamedTuple):
    """What a frozen backbone makes of a batch.

    maps: (B,K,G,G) of the whole pictures. tiles: (B,K,2h,2h) of the four tiles of the centre cut,
    side by side as they lie in the picture; None where nothing is cut.
    """

    maps: torch.Tensor
    tiles: torch.Tensor | None = None


def network_input(shown: Any, device: torch.device, normalisation: Normalisation) -> Any:
    """What the network takes: a batch of pictures normalised, computed features as they are."""
    if isinstance(shown, torch.Tensor):
        return shown.to(device, non_blocking=True)
    if isinstance(shown, Features):
        maps = shown.maps.to(device, non_blocking=True)
        if shown.tiles is None:
            return Features(maps)
        return Features(maps, shown.tiles.to(device, non_blocking=True))
    return normalise(Picture(*shown), device, *normalisation)


# --- computing ---


class Shown(Dataset):
    """The pictures as an evaluation shows them, (3,S,S); or their tiles, (3,S/2,S/2), four each.

    Tiles are of the centre cut, in the order of `oass.method.tile_at_keypoints`.
    """

    def __init__(
        self,
        data: VOC_Dataset_For_Classification,
        side: int,
        normalisation: Normalisation,
        *,
        as_tiles: bool,
    ) -> None:
        self.data = data
        self.transform = EvalTransform(side)
        self.normalisation = normalisation
        self.as_tiles = as_tiles
        self._last: tuple[int, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.data) * (TILES if self.as_tiles else 1)

    def __getitem__(self, row: int) -> torch.Tensor:
        if not self.as_tiles:
            return self._picture(row)
        index, tile = divmod(row, TILES)
        if self._last is None or self._last[0] != index:
            self._last = (index, self._picture(index))
        halves = self._last[1].unflatten(1, (2, -1)).unflatten(3, (2, -1))  # (3,2,S/2,2,S/2)
        return halves[:, tile // 2, :, tile % 2].clone()

    def _picture(self, index: int) -> torch.Tensor:
        parts = self.transform(self.data.image(index))
        batch = Picture(*(part[None] for part in parts))
        return normalise(batch, CPU, *self.normalisation)[0]


def compute(
    student: Classifier,
    data: VOC_Dataset_For_Classification,
    side: int,
    *,
    device: torch.device,
    workers: int,
    poll: Callable[[], None] = lambda: None,
    as_tiles: bool = False,
) -> np.ndarray:
    """The features of all pictures (N,K,G,G), or of their tiles (4N,K,h,h), from the cache.

    The backbone of `student` must be frozen. `poll` is called before every batch that is computed,
    so that a stop signal is answered. UserError for a picture that cannot be read.
    """
    body = student.frozen_backbone
    if body is None:
        raise ValueError("the backbone is trained: freeze it first")
    mean, std = student.normalisation
    shown_side = getattr(data, "side", None)
    resized = "as stored" if shown_side is None else f"longer side {shown_side}, {data.resample}"
    parts = [f"oass, top left of {side} px", resized, f"mean {mean}, deviation {std}"]
    if as_tiles:
        parts.append("the four tiles of the centre cut")
    content = sha_of_files(map(data.image_path, range(len(data))))
    view = View(network_sha(body), "; ".join(parts), content)
    shown = Shown(data, side, student.normalisation, as_tiles=as_tiles)
    processes = loader_processes(workers)
    return computed(body, shown, view, device=device, workers=processes, poll=poll)


# --- fetching ---


class TrainingRows(Dataset):
    """Batches of features and labels, (`Features`, (B,C)), each fetched at once."""

    def __init__(self, maps: np.ndarray, tiles: np.ndarray | None, labels: np.ndarray) -> None:
        self.maps = maps
        self.tiles = tiles
        self.labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """The rows of (epoch, index) as a batch."""
        index = np.array([row for _, row in keys])
        maps = torch.from_numpy(self.maps[index])
        tiles = None
        if self.tiles is not None:
            rows = index[:, None] * TILES + np.arange(TILES)
            tiles = side_by_side(torch.from_numpy(self.tiles[rows]))
        data = (Features(maps, tiles), self.labels[index])
        return Batch(data, torch.from_numpy(index), 0)


def side_by_side(tiles: torch.Tensor) -> torch.Tensor:
    """The tiles (B,4,K,h,h) where they lie in the picture, (B,K,2h,2h)."""
    rows = tiles.unflatten(1, (2, 2)).permute(0, 3, 1, 4, 2, 5)  # (B,K,2,h,2,h)
    return rows.flatten(4, 5).flatten(2, 3)


def _as_it_is(batch: Any) -> Any:
    return batch


def rows_loader(
    rows: TrainingRows, batch_size: int, *, seed: int, rank: int, world: int, parts: int = 1
) -> DataLoader:
    """A loader of whole batches in the order that pictures would have."""
    how = {"seed": seed, "rank": rank, "world": world, "parts": parts}
    sampler = EpochSampler(len(rows), batch_size, drop_last=True, **how)
    return DataLoader(
        rows, batch_sampler=sampler, collate_fn=_as_it_is, generator=torch.Generator()
    )


class EvaluatedRows(Dataset):
    """What an evaluation walks: (((map,), size), label), as its data set with one plain view."""

    def __init__(self, maps: np.ndarray, labels: np.ndarray, side: int) -> None:
        self.maps = maps
        self.labels = torch.from_numpy(labels)
        self.size = torch.tensor([side, side])  # only other views look at it

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        row = torch.from_numpy(np.array(self.maps[index]))
        return ((row,), self.size), self.labels[index]
