"""Cutting images in four at keypoints and gluing the class maps of the four tiles, for all pairs at once.

Tiles: 0 upper left, 1 upper right, 2 lower left, 3 lower right of the keypoint; each is stretched to the same
size, nearest neighbour. Index tables replace the loop over cuts: one gather for all tiles.
"""

import torch

from common.aliases import one_module
from oass.core.domain import require_count, require_in_range, require_shape

one_module(__name__, "oass.core.puzzle_utils")


def _nearest(n: torch.Tensor, m: int | torch.Tensor, count: int) -> torch.Tensor:
    """src(r) = min(floor(r * (n/m)), n - 1), r = 0 .. count-1, in float32 as torch's nearest resize does.

    n (P,) source lengths, m target lengths (a number, or (P,)); (P,count) int64.
    """
    scale = n.float() / m
    r = torch.arange(count, device=n.device, dtype=torch.float32)
    return torch.minimum((r * scale[:, None]).floor().long(), n[:, None] - 1).clamp_min(0)


def _tile_table(cut: torch.Tensor, size: int, patch: int) -> torch.Tensor:
    """Source rows (P,2,patch) of the upper and the lower half of images of `size` rows, cut (P,) at a row."""
    return torch.stack(
        [_nearest(cut, patch, patch), cut[:, None] + _nearest(size - cut, patch, patch)], 1
    )


def tile_at_keypoints(
    images: torch.Tensor,
    image_index: torch.Tensor,
    keypoints: torch.Tensor,
    patch_size: int | None = None,
) -> torch.Tensor:
    """The four tiles of every pair, (P,4,c,ps,ps); ps defaults to S // 2.

    images (B,c,S,S); image_index (P,) in 0 .. B-1; keypoints (P,2) [y, x] in 1 .. S-1. ValueError for others.
    """
    require_shape(images, (None, None, None, None), "images")
    require_shape(keypoints, (len(image_index), 2), "keypoints")
    require_in_range(image_index, 0, len(images) - 1, "image_index")
    for axis, length in ((0, images.shape[-2]), (1, images.shape[-1])):
        require_in_range(keypoints[:, axis], 1, length - 1, "keypoints")
    if patch_size is not None:
        require_count(patch_size, "patch_size", 1)
    P, (_, channels, height, width) = len(keypoints), images.shape
    patch = patch_size or height // 2
    rows = _tile_table(keypoints[:, 0], height, patch)[:, :, None, None, :, None]
    columns = _tile_table(keypoints[:, 1], width, patch)[:, None, :, None, None, :]
    which = image_index[:, None, None, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, None, None, :, None, None]
    return images[which, channel, rows, columns].reshape(P, 4, channels, patch, patch)


def _merge_table(cut: torch.Tensor, cells: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each of `cells` cells (P,cells): the half it lies in (0, 1), and the tile's row that lands in it."""
    position = torch.arange(cells, device=cut.device)
    half = (position >= cut[:, None]).long()
    source = torch.full_like(cut, length)
    upper = _nearest(source, cut, cells)
    lower = _nearest(source, cells - cut, cells)
    after = (position - cut[:, None]).clamp_min(0)
    return half, torch.where(half == 1, lower.gather(1, after), upper)


def merge_at_keypoints(
    tile_features: torch.Tensor,
    keypoints: torch.Tensor,
    image_size: int,
    grid_size: int | None = None,
) -> torch.Tensor:
    """The maps of the four tiles, resized to the cells they came from and glued, (P,C,G,G); differentiable.

    tile_features (P,4,C,h,w); keypoints (P,2) in pixels; G defaults to 2h. The keypoint's cell is clamped
    to [1, G-1], so that every tile keeps a cell. ValueError for keypoints outside 1 .. S-1, a grid of one cell or
    finer than the image.
    """
    P, _, channels, h, w = tile_features.shape
    G = 2 * h if grid_size is None else grid_size
    require_count(G, "grid_size", 2)
    require_count(image_size, "image_size", G)
    require_shape(tile_features, (len(keypoints), 4, None, None, None), "tile_features")
    require_shape(keypoints, (None, 2), "keypoints")
    require_in_range(keypoints, 1, image_size - 1, "keypoints")
    cut = (keypoints // (image_size // G)).clamp(1, G - 1)
    lower, row = (t[:, None, :, None] for t in _merge_table(cut[:, 0], G, h))
    right, column = (t[:, None, None, :] for t in _merge_table(cut[:, 1], G, w))
    pair = torch.arange(P, device=cut.device)[:, None, None, None]
    channel = torch.arange(channels, device=cut.device)[None, :, None, None]
    return tile_features[pair, 2 * lower + right, channel, row, column]


def _pieces_a_side(num_pieces: int) -> int:
    require_count(num_pieces, "num_pieces", 1)
    n = round(num_pieces**0.5)
    if n * n != num_pieces:
        raise ValueError(f"num_pieces {num_pieces}: must be a square number")
    return n


def tile_features(features: torch.Tensor, num_pieces: int) -> torch.Tensor:
    """PuzzleCAM's uniform cut: (B,c,H,W) to (B*num_pieces,c,H/n,W/n), n*n = num_pieces, piece-major.

    ValueError where num_pieces is no square, or n does not divide H and W.
    """
    n = _pieces_a_side(num_pieces)
    B, c, H, W = features.shape
    if H % n or W % n:
        raise ValueError(f"features: {H} x {W} cells cannot be cut in {n} x {n} equal pieces")
    pieces = features.reshape(B, c, n, H // n, n, W // n).permute(2, 4, 0, 1, 3, 5)
    return pieces.reshape(num_pieces * B, c, H // n, W // n)


def merge_features(features: torch.Tensor, num_pieces: int, batch_size: int) -> torch.Tensor:
    """The inverse of `tile_features`: (batch_size*num_pieces,c,h,w), piece-major, to (batch_size,c,n*h,n*w)."""
    n = _pieces_a_side(num_pieces)
    count, c, h, w = features.shape
    if count != num_pieces * batch_size:
        raise ValueError(
            f"features: {count} pieces, expected {num_pieces} of each of {batch_size} images"
        )
    pieces = features.reshape(n, n, batch_size, c, h, w).permute(2, 3, 0, 4, 1, 5)
    return pieces.reshape(batch_size, c, n * h, n * w)
