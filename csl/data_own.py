"""A user's own data, which `common.own` reads, as the data sets of training and scoring."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.aliases import one_module
from common.own import data_lines, read_own, require_pictures
from common.own_data import UNKNOWN, OwnData, Part
from csl.data_classes import Columns, match_categories
from csl.data_coco import LabelledImages
from csl.data_errors import as_domain_errors
from csl.data_labels import LabelTable
from csl.data_locate import Found

one_module(__name__, "csl.data_own")


class OwnPictures(LabelledImages):
    """A part of a user's own data: positives 1, negatives 0, unknown -1, as the data say.

    Class folders and csv columns `label` and `labels` are complete; `positives`, `negatives` and
    LVIS's lists are partial. Of `candidates` the classes outside are negatives, the candidates
    themselves are unknown, but for the `label` where it is known.
    """

    def __init__(
        self,
        data: OwnData,
        part: Part,
        transform: Callable | None = None,
        columns: Columns | None = None,
    ) -> None:
        """`columns`: the classes of a network, whose columns these labels shall have, by name.

        DomainError names the classes that are none of them.
        """
        super().__init__(transform)
        self.data = data
        self.source = data.kind.path
        self.upright = part.upright
        self.unreadable = data.skipped.get(part.name, 0)
        self.num_all = len(part) + self.unreadable
        self.ids = list(part.ids)
        self._path_of = dict(zip(part.ids, part.paths, strict=True))
        matrix = part.matrix
        if columns is None:
            columns = Columns(data.classes, None, str(self.source))
        else:
            matrix = _in_columns(matrix, data.classes, columns, self.source)
        self.columns = columns
        self.classes = dict(enumerate(columns.names))
        self.targets_all = LabelTable(self.ids, matrix)

    def path(self, image_id: Any) -> Path:
        """The file of a picture."""
        return self._path_of[image_id]

    def has_all_labels(self) -> bool:
        """Whether every class of every picture is known to be there or not."""
        return bool((self.targets_all.matrix != UNKNOWN).all())


def _in_columns(matrix: np.ndarray, names: list[str], columns: Columns, source: Path) -> np.ndarray:
    """Labels (N,C) in the columns of other classes; those that the data lack are negative.

    Where labels are partial, they are unknown.
    """
    column_of = match_categories(dict(enumerate(names)), columns, source)
    absent = UNKNOWN if (matrix == UNKNOWN).any() else 0
    moved = np.full((len(matrix), len(columns.names)), absent, np.int8)
    moved[:, list(column_of.values())] = matrix[:, list(column_of)]
    return moved


def read_own_data(found: Found, *, seed: int = 0, skip_corrupt: bool = False) -> OwnData:
    """The data of --data, --images and --classes; a part that the data do not name is drawn."""
    assert found.own is not None
    own = found.own
    with as_domain_errors():
        data = read_own(
            found.root,
            images=own.images,
            classes=own.classes,
            seed=seed,
            skip_corrupt=skip_corrupt,
        )
        require_pictures(data, "this program")
    return data


def tell_own(data: OwnData) -> None:
    """Print what was recognised and counted."""
    for line in data_lines(data):
        print(line, flush=True)
