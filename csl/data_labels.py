"""Labels as one int8 matrix, seen as the mapping id -> row that the released code keeps."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from common.aliases import one_module
from common.cli import DomainError
from csl import method
from csl.data_classes import places_of
from csl.data_errors import as_domain_errors

one_module(__name__, "csl.data_labels")


def require_labels(values: np.ndarray | torch.Tensor, what: str) -> None:
    """Check labels as `method.require_labels` does, in one line for a script's user.

    DomainError for what is no label.
    """
    with as_domain_errors():
        method.require_labels(values, what)


class LabelTable(Mapping):
    """A mapping image id -> int8 tensor (C,), a view of `matrix` (N,C).

    The ids keep their order.
    """

    def __init__(self, ids: Sequence, matrix: np.ndarray) -> None:
        """Check ids and labels, and keep them.

        DomainError (a ValueError) for other numbers of ids and rows, an id twice, or labels other
        than 1, 0, -1.
        """
        if len(ids) != len(matrix):
            raise DomainError(f"{len(ids)} ids for {len(matrix)} rows of labels")
        require_labels(matrix, "labels")
        self.matrix = np.ascontiguousarray(matrix, np.int8)
        self.rows = places_of(ids)
        if len(self.rows) < len(ids):
            again = next(image_id for row, image_id in enumerate(ids) if self.rows[image_id] != row)
            raise DomainError(f"the id {again!r} occurs twice among {len(ids)} rows of labels")

    def __getitem__(self, image_id: object) -> torch.Tensor:
        return torch.from_numpy(self.matrix[self.rows[image_id]])

    def __iter__(self) -> Iterator:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def label_matrix(targets: Mapping) -> np.ndarray:
    """(N,C) int8 of any mapping id -> row; no copy where it is a LabelTable.

    DomainError (a ValueError): labels other than 1, 0, -1, which int8 would cut off or wrap around.
    """
    if isinstance(targets, LabelTable):
        return targets.matrix
    matrix = np.stack(list(map(np.asarray, targets.values())))
    require_labels(matrix, "labels")
    return matrix.astype(np.int8)
