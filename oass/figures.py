"""Pictures of the puzzle (the paper's figure 2 for one's own images), and of nearest instances.

Pictures are (H,W,3) uint8 RGB.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import default_collate

from common.aliases import one_module
from common.cam import overlay
from common.files import atomic_write
from common.modes import evaluating
from common.run import Run
from oass.build_objective import PuzzleOptions, TileMaps, cut_points
from oass.core.networks import Classifier
from oass.data import EvalTransform, Picture, VOC_Dataset_For_Classification, normalise
from oass.data_voc import CLASS_NAMES
from oass.evaluate import nearest
from oass.method import (
    make_cam,
    merge_at_keypoints,
    positive_pairs,
    scaled_distances,
    tile_at_keypoints,
    topk_peaks,
    upsample_cams,
)
from oass.options_flags import WITHOUT_TILES

one_module(__name__, "oass.figures")

SIDE = 144
NEIGHBOUR_SIDE = 96
MOST_ROWS = 12
RED = (255, 40, 40)
WHITE = (255, 255, 255)
YELLOW = (255, 230, 0)


def colormap(cam: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A map in [0,1] over the picture, in the JET colours."""
    return overlay(image, cam)


def draw_cross(image: np.ndarray, y: int, x: int, colour: Sequence[int] = RED) -> np.ndarray:
    """The cut at a keypoint: a line through it in each direction."""
    image = np.array(image, order="C")
    cv2.line(image, (x, 0), (x, image.shape[0] - 1), colour, 1)
    cv2.line(image, (0, y), (image.shape[1] - 1, y), colour, 1)
    return image


def draw_points(
    image: np.ndarray, points: Sequence[tuple[int, int]], colour: Sequence[int] = YELLOW
) -> np.ndarray:
    """Rings at [y, x]."""
    image = np.array(image, order="C")
    for y, x in points:
        cv2.circle(image, (int(x), int(y)), max(2, image.shape[0] // 40), colour, 1, cv2.LINE_AA)
    return image


def caption(image: np.ndarray, text: str, side: int, band: int = 18) -> np.ndarray:
    """The picture at side x side under a band with text."""
    sized = cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST)
    head = np.full((band, side, 3), 30, np.uint8)
    cv2.putText(head, text, (3, band - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.36, WHITE, 1, cv2.LINE_AA)
    return np.concatenate([head, sized])


def mosaic(rows: Sequence[Sequence[np.ndarray]], gap: int = 3) -> np.ndarray:
    """Pictures of one size in rows, shorter rows filled up."""
    columns = max(len(row) for row in rows)
    empty = np.zeros_like(rows[0][0])
    lines = []
    for row in rows:
        filled = [*row, *[empty] * (columns - len(row))]
        cells = [np.pad(cell, ((0, gap), (0, gap), (0, 0))) for cell in filled]
        lines.append(np.concatenate(cells, 1))
    return np.concatenate(lines)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write a picture; UserError where it cannot be written."""
    _, content = cv2.imencode(".png", image[..., ::-1])
    atomic_write(path, content.tobytes())


# --- the puzzle ---


class PuzzlePictures:
    """Draws what the puzzle does with images.

    Args:
        options: where to cut; baselines without tiles are drawn as cMax.
        tile_maps: the class maps of tiles, `oass.build_objective.TilePass`.
        image_size: S.
        count: how many images `save` draws.
        accelerator: where networks run.
        classes: their names.
    """

    def __init__(
        self,
        options: PuzzleOptions,
        tile_maps: TileMaps,
        image_size: int,
        count: int,
        accelerator: Accelerator,
        classes: Sequence[str] = CLASS_NAMES,
    ) -> None:
        if options.strategy in WITHOUT_TILES:
            options = replace(options, strategy="cMax")
        self.options = options
        self.tile_maps = tile_maps
        self.image_size = image_size
        self.count = count
        self.accelerator = accelerator
        self.classes = classes

    def save(
        self,
        run: Run,
        student: Classifier,
        tiler: Classifier,
        data: VOC_Dataset_For_Classification,
    ) -> None:
        """`draw` the first images with an object, as figures/puzzle_epoch_NNN.png of the run."""
        chosen = np.flatnonzero(data.split.labels.any(1))[: self.count].tolist()
        if not chosen:
            return
        transform = EvalTransform(self.image_size)
        picture = default_collate([transform(data.image(i)) for i in chosen])
        labels = torch.from_numpy(data.split.labels[chosen])
        path = run.figure(f"puzzle_epoch_{run.lines[-1]['epoch']:03d}")
        self.draw(path, student, tiler, picture, labels)

    @torch.no_grad()
    def draw(
        self,
        path: Path,
        student: Classifier,
        tiler: Classifier,
        picture: Picture,
        labels: torch.Tensor,
        before: Classifier | None = None,
    ) -> None:
        """A row for every image and class of labels (B,C); PNG.

        Image, the student's map (and that of `before`), its peaks and the cut, the four tiles, and
        the map glued from the tiles' maps, which `tiler` computes. An image's rows do not depend on
        the other images.
        """
        rows: list[list[np.ndarray]] = []
        for b in range(len(labels)):
            if len(rows) < MOST_ROWS:
                own = Picture(*(part[b : b + 1] for part in picture))
                rows += self._rows_of(student, tiler, own, labels[b : b + 1], before)
        save_png(path, mosaic(rows[:MOST_ROWS]))

    def _rows_of(
        self,
        student: Classifier,
        tiler: Classifier,
        picture: Picture,
        labels: torch.Tensor,
        before: Classifier | None,
    ) -> list[list[np.ndarray]]:
        """The rows of one image, labels (1,C)."""
        device = self.accelerator.device
        labels = labels.to(device)
        images = normalise(picture, device, *student.normalisation)
        features = self._maps(student, images)
        points = cut_points(features, labels, self.image_size, self.options)
        tiles = tile_at_keypoints(images, points.image_index, points.keypoints)
        with self.accelerator.autocast():
            maps = self.tile_maps(tiler, tiles)
        glued = merge_at_keypoints(maps, points.keypoints, self.image_size, features.shape[-1])
        merged = make_cam(glued)
        cams = make_cam(features)[0]
        pixels = picture.pixels.to(device)
        tile_pixels = tile_at_keypoints(pixels, points.image_index, points.keypoints)
        earlier = None
        if before is not None:
            same_pixels = normalise(picture, device, *before.normalisation)
            earlier = make_cam(self._maps(before, same_pixels))[0]

        rows = []
        image = np.ascontiguousarray(picture.pixels[0].permute(1, 2, 0).numpy())
        present = positive_pairs(labels)[1].tolist()
        for p, c in enumerate(points.class_index.tolist()):
            for k in [c] if c >= 0 else present:
                cut = points.keypoints[p].tolist()
                name = self.classes[k]
                row = self._row(image, cams[k], merged[p, k], tile_pixels[p], cut, name)
                if earlier is not None:
                    row.insert(1, self._heat(image, earlier[k], "map before"))
                rows.append(row)
        return rows

    def _maps(self, network: Classifier, images: torch.Tensor) -> torch.Tensor:
        with evaluating(network), self.accelerator.autocast():
            return network.class_maps(images).float()

    def _heat(self, image: np.ndarray, cam: torch.Tensor, text: str) -> np.ndarray:
        up = upsample_cams(cam[None], self.image_size)[0].cpu().numpy()
        return caption(colormap(up, image), text, SIDE)

    def _row(
        self,
        image: np.ndarray,
        cam: torch.Tensor,
        merged: torch.Tensor,
        tiles: torch.Tensor,
        keypoint: Sequence[int],
        name: str,
    ) -> list[np.ndarray]:
        up = upsample_cams(cam[None], self.image_size)
        distance = self.options.min_distance or scaled_distances(self.image_size)[0]
        coords, _, count = topk_peaks(up, self.options.k, distance)
        y, x = keypoint
        peaks = draw_points(image, coords[0, : int(count[0])].tolist())
        row = [
            caption(image, name, SIDE),
            self._heat(image, cam, "map of the image"),
            caption(draw_cross(peaks, y, x), f"peaks, cut at {y},{x}", SIDE),
        ]
        for t, tile in enumerate(tiles):
            pixels = np.ascontiguousarray(tile.permute(1, 2, 0).cpu().numpy())
            row.append(caption(pixels, f"tile {t}", SIDE))
        row.append(self._heat(image, merged, "map of the tiles"))
        return row


# --- nearest instances ---


def save_neighbours(
    path: Path,
    instances: np.ndarray,
    data: VOC_Dataset_For_Classification,
    *,
    queries: int = 1,
    count: int = 6,
) -> None:
    """A row a query: the image, then its nearest by a class's descriptor, + where they have it."""
    rows = []
    for c, name in enumerate(data.classes):
        for query in np.flatnonzero(data.split.labels[:, c])[:queries].tolist():
            near = nearest(instances, c, query, count).tolist()
            texts = [name, *("+" if data.split.labels[i, c] else "-" for i in near)]
            row = []
            for i, text in zip((query, *near), texts, strict=True):
                row.append(caption(np.asarray(data.image(i)), text, NEIGHBOUR_SIDE))
            rows.append(row)
    save_png(path, mosaic(rows))
