"""Tiles and merging: `oass.method` after a look at the arguments, and PuzzleCAM's uniform cut."""

import torch

from common.aliases import one_module
from oass import method
from oass.data_checks import require_count, require_in_range, require_sizes

one_module(__name__, "oass.core.puzzle_utils")


def tile_at_keypoints(
    images: torch.Tensor,
    image_index: torch.Tensor,
    keypoints: torch.Tensor,
    patch_size: int | None = None,
) -> torch.Tensor:
    """`oass.method.tile_at_keypoints`; ValueError for indices and keypoints outside the images."""
    require_sizes(images, (None, None, None, None), "images")
    require_sizes(keypoints, (len(image_index), 2), "keypoints")
    require_in_range(image_index, 0, len(images) - 1, "image_index")
    require_in_range(keypoints[:, 0], 1, images.shape[-2] - 1, "keypoints")
    require_in_range(keypoints[:, 1], 1, images.shape[-1] - 1, "keypoints")
    if patch_size is not None:
        require_count(patch_size, "patch_size", 1)
    return method.tile_at_keypoints(images, image_index, keypoints, patch_size)


def merge_at_keypoints(
    tile_features: torch.Tensor,
    keypoints: torch.Tensor,
    image_size: int,
    grid_size: int | None = None,
) -> torch.Tensor:
    """`oass.method.merge_at_keypoints`; ValueError for keypoints and sizes that do not fit."""
    require_sizes(tile_features, (len(keypoints), 4, None, None, None), "tile_features")
    G = 2 * tile_features.shape[-2] if grid_size is None else grid_size
    require_count(G, "grid_size", 2)
    require_count(image_size, "image_size", G)
    require_sizes(keypoints, (None, 2), "keypoints")
    require_in_range(keypoints, 1, image_size - 1, "keypoints")
    return method.merge_at_keypoints(tile_features, keypoints, image_size, grid_size)


def _pieces_a_side(num_pieces: int) -> int:
    require_count(num_pieces, "num_pieces", 1)
    n = round(num_pieces**0.5)
    if n * n != num_pieces:
        raise ValueError(f"num_pieces {num_pieces}: must be a square number")
    return n


def tile_features(features: torch.Tensor, num_pieces: int) -> torch.Tensor:
    """PuzzleCAM's uniform cut: (B,c,H,W) to (B*num_pieces,c,H/n,W/n), n*n pieces, piece-major.

    ValueError where num_pieces is no square, or n does not divide H and W.
    """
    n = _pieces_a_side(num_pieces)
    B, c, H, W = features.shape
    if H % n or W % n:
        raise ValueError(f"features: {H} x {W} cells cannot be cut in {n} x {n} equal pieces")
    pieces = features.reshape(B, c, n, H // n, n, W // n).permute(2, 4, 0, 1, 3, 5)
    return pieces.reshape(num_pieces * B, c, H // n, W // n)


def merge_features(features: torch.Tensor, num_pieces: int, batch_size: int) -> torch.Tensor:
    """The inverse of `tile_features`: (batch_size*num_pieces,c,h,w) to (batch_size,c,n*h,n*w)."""
    n = _pieces_a_side(num_pieces)
    count, c, h, w = features.shape
    if count != num_pieces * batch_size:
        wanted = f"{num_pieces} of each of {batch_size} images"
        raise ValueError(f"features: {count} pieces, expected {wanted}")
    pieces = features.reshape(n, n, batch_size, c, h, w).permute(2, 3, 0, 4, 1, 5)
    return pieces.reshape(batch_size, c, n * h, n * w)
