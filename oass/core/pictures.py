"""Pictures of the puzzle (the paper's figure 2 for one's own images): maps, peaks, cut, tiles, merged map."""

import argparse
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from common.aliases import one_module
from oass.core.datasets import VOC_Dataset_For_Classification
from oass.core.keypoints import positive_pairs, scaled_distances, topk_peaks, upsample_cams
from oass.core.losses import cut_points, tile_class_maps
from oass.core.networks import Classifier
from oass.core.options import WITHOUT_TILES
from oass.core.puzzle_utils import merge_at_keypoints, tile_at_keypoints
from oass.core.transforms import EvalTransform, Picture, normalise
from oass.tools.ai.demo_utils import caption, colormap, draw_cross, draw_points, mosaic, save_png
from oass.tools.ai.torch_utils import make_cam
from oass.tools.dataset.voc_utils import CLASS_NAMES

one_module(__name__, "oass.core.pictures")

SIDE, MOST_ROWS = 144, 12


def save_pictures(
    path: Path,
    student: Classifier,
    tiler: Classifier,
    data: VOC_Dataset_For_Classification,
    args: argparse.Namespace,
    accelerator: Accelerator,
) -> None:
    """`draw_puzzles` of the first `args.pictures` images with an object."""
    chosen = [int(i) for i in np.flatnonzero(data.split.labels.any(1))[: args.pictures]]
    if not chosen:
        return
    transform = EvalTransform(args.image_size)
    parts = [transform(data.image(i)) for i in chosen]
    picture = Picture(*(torch.stack(column) for column in zip(*parts, strict=True)))
    draw_puzzles(
        path,
        student,
        tiler,
        picture,
        torch.from_numpy(data.split.labels[chosen]),
        args,
        accelerator,
    )


@torch.no_grad()
def draw_puzzles(
    path: Path,
    student: Classifier,
    tiler: Classifier,
    picture: Picture,
    labels: torch.Tensor,
    args: argparse.Namespace,
    accelerator: Accelerator,
    before: Classifier | None = None,
) -> None:
    """A row for every image and class of labels (B,C); PNG.

    Image, the student's map (and that of `before`), its peaks and the cut, the four tiles, and the map glued
    from the tiles' maps, which `tiler` computes with the statistics of --teacher_bn. An image's rows do not depend on
    the other images.
    """
    rows = []
    for b in range(len(labels)):
        if len(rows) < MOST_ROWS:
            own = Picture(*(part[b : b + 1] for part in picture))
            rows += _rows_of(student, tiler, own, labels[b : b + 1], args, accelerator, before)
    save_png(path, mosaic(rows[:MOST_ROWS]))


def _rows_of(
    student: Classifier,
    tiler: Classifier,
    picture: Picture,
    labels: torch.Tensor,
    args: argparse.Namespace,
    accelerator: Accelerator,
    before: Classifier | None,
) -> list[list[np.ndarray]]:
    """The rows of one image, labels (1,C)."""
    labels = labels.to(accelerator.device)
    images = normalise(picture, accelerator.device, *student.normalisation)
    features = _maps(student, images, accelerator)
    strategy = args.strategy if args.strategy not in WITHOUT_TILES else "cMax"
    points = cut_points(
        *(features, labels, strategy, args.image_size),
        **{
            "rule": args.keypoint_rule,
            "k": args.topk,
            "min_distance": args.min_distance,
            "radius": args.radius,
        },
    )
    tiles = tile_at_keypoints(images, points.image_index, points.keypoints)
    with accelerator.autocast():
        maps = tile_class_maps(tiler, tiles, mode=args.teacher_bn, chunk=args.tile_chunk)
    merged = make_cam(
        merge_at_keypoints(maps, points.keypoints, args.image_size, features.shape[-1])
    )
    cams = make_cam(features)[0]
    tile_pixels = tile_at_keypoints(
        picture.pixels.to(images.device), points.image_index, points.keypoints
    )
    earlier = None
    if before is not None:
        same_pixels = normalise(picture, accelerator.device, *before.normalisation)
        earlier = make_cam(_maps(before, same_pixels, accelerator))[0]

    rows = []
    for p, c in enumerate(points.class_index.tolist()):
        for k in [c] if c >= 0 else positive_pairs(labels)[1].tolist():
            row = _row(
                picture.pixels[0],
                cams[k],
                merged[p, k],
                tile_pixels[p],
                points.keypoints[p],
                k,
                args,
            )
            if earlier is not None:
                row.insert(1, _heat(picture.pixels[0], earlier[k], "map before", args))
            rows.append(row)
    return rows


def _maps(network: Classifier, images: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    was_training = network.training
    with accelerator.autocast():
        features = network.eval().class_maps(images).float()
    network.train(was_training)
    return features


def _heat(
    pixels: torch.Tensor, cam: torch.Tensor, text: str, args: argparse.Namespace
) -> np.ndarray:
    up = upsample_cams(cam[None], args.image_size)[0].cpu().numpy()
    return caption(colormap(up, pixels.permute(1, 2, 0).numpy()), text, SIDE)


def _row(
    pixels: torch.Tensor,
    cam: torch.Tensor,
    merged: torch.Tensor,
    tiles: torch.Tensor,
    keypoint: torch.Tensor,
    c: int,
    args: argparse.Namespace,
) -> list[np.ndarray]:
    image = pixels.permute(1, 2, 0).numpy()
    up = upsample_cams(cam[None], args.image_size)
    distance = args.min_distance or scaled_distances(args.image_size)[0]
    coords, _, count = topk_peaks(up, args.topk, distance)
    y, x = keypoint.tolist()
    peaks = draw_points(image, coords[0, : int(count[0])].tolist())
    plain = [(draw_cross(peaks, y, x), f"peaks, cut at {y},{x}")]
    plain += [
        (np.ascontiguousarray(tile.permute(1, 2, 0).cpu().numpy()), f"tile {t}")
        for t, tile in enumerate(tiles)
    ]
    return [
        caption(np.ascontiguousarray(image), CLASS_NAMES[c], SIDE),
        _heat(pixels, cam, "map of the image", args),
        *(caption(cell, text, SIDE) for cell, text in plain),
        _heat(pixels, merged, "map of the tiles", args),
    ]
