"""Labels as one int8 matrix, seen as the mapping id -> row that the released code keeps."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch


class LabelTable(Mapping):
    """A mapping image id -> int8 tensor (C,), a view of `matrix` (N,C); the ids keep their order."""

    def __init__(self, ids: Sequence, matrix: np.ndarray) -> None:
        if len(ids) != len(matrix):
            raise ValueError(f"{len(ids)} ids for {len(matrix)} rows of labels")
        self.matrix = np.ascontiguousarray(matrix, np.int8)
        self.rows = {image_id: row for row, image_id in enumerate(ids)}

    def __getitem__(self, image_id: object) -> torch.Tensor:
        return torch.from_numpy(self.matrix[self.rows[image_id]])

    def __iter__(self) -> Iterator:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def label_matrix(targets: Mapping) -> np.ndarray:
    """(N,C) int8 of any mapping id -> row; no copy where it is a LabelTable."""
    if isinstance(targets, LabelTable):
        return targets.matrix
    return np.stack([np.asarray(row) for row in targets.values()]).astype(np.int8)
