"""Candidate sets of large data as bits: an eighth of their bytes, in memory and in checkpoints.

Small ones stay a matrix (n, K) uint8. Both give the rows of an index as uint8 of 0 and 1.
"""

from collections.abc import Iterator

import torch

from common.aliases import one_module

one_module(__name__, "cavl.data_sets")

PACKED_FROM = 2**28  # entries of a matrix from which on its sets are kept as bits
BLOCK = 2**22  # entries that are drawn or unpacked at a time


class PackedSets:
    """Candidate sets (n, K) as bits (n, ceil(K / 8)) uint8; the lowest bit is the first class."""

    def __init__(self, bits: torch.Tensor, num_classes: int) -> None:
        self.bits = bits
        self.num_classes = num_classes

    @property
    def shape(self) -> tuple[int, int]:
        """(n, K), as of the matrix."""
        return len(self.bits), self.num_classes

    @property
    def device(self) -> torch.device:
        """Where the bits lie."""
        return self.bits.device

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, index: int | slice | torch.Tensor) -> torch.Tensor:
        """(K,) or (B, K) uint8 of 0 and 1."""
        return unpacked(self.bits[index], self.num_classes)

    def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:
        """The rows `index`, (B, K) uint8; dim is 0."""
        return unpacked(self.bits.index_select(dim, index), self.num_classes)

    def to(self, device: torch.device | str) -> "PackedSets":
        """The same on a device."""
        return PackedSets(self.bits.to(device), self.num_classes)


Sets = torch.Tensor | PackedSets


def packed(rows: torch.Tensor) -> torch.Tensor:
    """Bits (b, ceil(K / 8)) uint8 of rows (b, K) of 0 and 1."""
    missing = -rows.shape[1] % 8
    eights = torch.nn.functional.pad(rows.to(torch.uint8), (0, missing)).unflatten(1, (-1, 8))
    shifts = torch.arange(8, dtype=torch.uint8, device=rows.device)
    return (eights << shifts).sum(2, dtype=torch.uint8)


def unpacked(bits: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Rows (..., K) uint8 of 0 and 1."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[..., None] >> shifts) & 1).flatten(-2)[..., :num_classes]


def is_large(rows: int, num_classes: int) -> bool:
    """Whether sets of so many samples and classes are kept as bits."""
    return rows * num_classes >= PACKED_FROM


def row_blocks(rows: int, num_classes: int) -> Iterator[slice]:
    """The rows of a matrix, as many at a time as are unpacked at once."""
    step = max(1, BLOCK // num_classes)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def compact(sets: torch.Tensor) -> Sets:
    """A matrix of 0 and 1 as uint8, as bits where it is large."""
    n, K = sets.shape
    if not is_large(n, K):
        return sets.to(torch.uint8)
    return PackedSets(torch.cat([packed(sets[rows]) for rows in row_blocks(n, K)]), K)


def blocks_of(sets: Sets) -> Iterator[tuple[slice, torch.Tensor]]:
    """The sets as matrices of their rows one after the other; a matrix is one of itself."""
    if isinstance(sets, torch.Tensor):
        yield slice(0, len(sets)), sets
        return
    for rows in row_blocks(*sets.shape):
        yield rows, sets[rows]


def sizes_of(sets: Sets) -> torch.Tensor:
    """How many candidates each sample has, (n,) int64."""
    return torch.cat([block.sum(1) for _, block in blocks_of(sets)])


def is_same(sets: Sets, saved: torch.Tensor) -> bool:
    """Whether sets are those of a checkpoint, which holds a matrix or bits."""
    n, K = sets.shape
    mine = sets if isinstance(sets, torch.Tensor) else sets.bits
    if saved.shape == mine.shape:
        return torch.equal(saved, mine.cpu())
    if isinstance(sets, torch.Tensor):
        return saved.shape == (n, -(-K // 8)) and torch.equal(unpacked(saved, K), sets.cpu())
    if saved.shape != (n, K):
        return False
    return all(torch.equal(saved[rows], block.cpu()) for rows, block in blocks_of(sets))
