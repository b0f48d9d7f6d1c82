"""A user's own data (--data): pictures or features, with candidates, with labels, or with both.

Candidates are used as they are; without any, each sample needs one label, and sets are drawn. A
label that is not known is -1. The val part is what the program measures on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cavl.data import PartialData
from cavl.data_pictures import PictureFiles
from cavl.data_pll import standardize_features
from common.aliases import one_module
from common.own import data_lines, read_own, require_one_label
from common.own_data import OwnData, Part

one_module(__name__, "cavl.data_own")

UNKNOWN = -1  # of a label


@dataclass(frozen=True)
class PictureInput:
    """What a network takes: squares of `size` pixels, each colour with mean and deviation."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


@dataclass(frozen=True)
class OwnPlace:
    """Where own data lie: --data, --images, --classes; and whether damaged pictures may."""

    data: str
    images: str | None = None
    classes: str | None = None
    skip_corrupt: bool = False


def load_own(
    place: OwnPlace,
    seed: int,
    *,
    picture: PictureInput | None,
    standardize: str = "train",
    limit_gb: float = 8.0,
    is_sample: bool = False,
) -> PartialData:
    """Read own data; UserError names file and line of a mistake.

    Args:
        seed: draws the val part where the data name none.
        picture: of pictures; None for features.
        standardize: of features, the rows that mean and deviation are taken from: train, all, none.
        limit_gb: pictures above this are read from their files when they are needed.
    """
    own = read_own(
        place.data,
        images=place.images,
        classes=place.classes,
        seed=seed,
        skip_corrupt=place.skip_corrupt,
    )
    if own.train.candidates is None:
        require_one_label(own, "cavl without candidates")
    train, val = own.train, own.val
    lines = data_lines(own)
    train_x: torch.Tensor | PictureFiles
    test_x: torch.Tensor | PictureFiles
    if picture is None:
        train_x, test_x = _features(own, standardize)
    else:
        limit = limit_gb * 1e9
        (train, train_x), (val, test_x) = (
            _pictures(part, picture, limit, lines, skip_corrupt=place.skip_corrupt)
            for part in (train, val)
        )
    return PartialData(
        name="features" if picture is None else "pictures",
        train_x=train_x,
        train_y=torch.from_numpy(train.labels.astype(np.int64)),
        test_x=test_x,
        test_y=torch.from_numpy(val.labels.astype(np.int64)),
        num_classes=own.num_classes,
        is_sample=is_sample,
        own_sets=_sets(train),
        test_sets=_sets(val),
        mean=None if picture is None else picture.mean,
        std=None if picture is None else picture.std,
        interpolation=None if picture is None else picture.interpolation,
        classes=tuple(own.classes),
        names=tuple(train.ids),
        split_seed=seed if "seed" in own.how_split else None,
        lines=(*lines, *_unknown_lines(train), *_unknown_lines(val)),
    )


def _sets(part: Part) -> torch.Tensor | None:
    """Candidates (n,K) uint8, or None."""
    if part.candidates is None:
        return None
    return torch.from_numpy(part.candidates.astype(np.uint8))


def _features(own: OwnData, standardize: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Train and val features (n,d) float32, in the scale that -standardize names."""
    assert own.train.features is not None and own.val.features is not None
    train = torch.from_numpy(own.train.features)
    val = torch.from_numpy(own.val.features)
    if standardize == "none":
        return train, val
    reference = train if standardize == "train" else torch.cat([train, val])
    return standardize_features(train, reference), standardize_features(val, reference)


def _pictures(
    part: Part, picture: PictureInput, limit: float, lines: list[str], *, skip_corrupt: bool
) -> tuple[Part, torch.Tensor | PictureFiles]:
    """The part, and its pictures in memory or in their files."""
    files = PictureFiles(
        part.paths, picture.size, interpolation=picture.interpolation, upright=part.upright
    )
    if files.bytes > limit:
        lines.append(f"{part.name}: {len(files)} pictures are read from their files as needed")
        return part, files
    pixels, kept = files.read_all(part.name, skip_corrupt=skip_corrupt)
    left_out = len(files) - len(kept)
    if left_out:
        lines.append(f"{part.name}: {left_out} pictures are damaged inside and left out")
    return part.take(kept), pixels


def _unknown_lines(part: Part) -> Sequence[str]:
    """What is measured where not every label of a part is known."""
    total = len(part.labels)
    known = int((part.labels != UNKNOWN).sum())
    if known == total:
        return ()
    if not known:
        measured = "covering rate and approximated accuracy are measured, no accuracy"
        return (f"{part.name}: no true label is known; {measured}",)
    return (f"{part.name}: accuracy is measured on the {known} of {total} with a known label",)
