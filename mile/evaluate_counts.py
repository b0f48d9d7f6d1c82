"""How predicted and true label sets overlap: counted batch by batch, at several thresholds at once.

N images of a batch, n of a set, C classes, L true labels of all n images together. Only the sizes
of the predicted sets take work over (n,C); what they share with the true sets takes work over L.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from common.aliases import one_module
from common.domain import require_indices, require_shape
from mile import fast
from mile.data import Real
from mile.method import Overlap

one_module(__name__, "mile.evaluate_counts")


class Entries(NamedTuple):
    """The labels of n sets."""

    row: torch.Tensor  # (L,) int64, the image, in order
    column: torch.Tensor  # (L,) int64, the class
    sizes: torch.Tensor  # (n,) int64, labels of each image


def entries_of_lists(
    lists: Sequence[Sequence[int]], num_classes: int, device: torch.device | str
) -> Entries:
    """The entries of lists of class indices; a label listed twice is one.

    ValueError for an index that is no class.
    """
    sets = [labels if len(labels) < 2 else set(labels) for labels in lists]
    # From NumPy: torch takes five times as long over a list.
    sizes = torch.from_numpy(np.fromiter(map(len, sets), np.int64, len(sets)))
    column = torch.from_numpy(np.fromiter(chain.from_iterable(sets), np.int64))
    require_indices(column, num_classes, "label sets")
    row = torch.repeat_interleave(sizes)
    return Entries(row.to(device), column.to(device), sizes.to(device))


def entries_of(real: Real, num_classes: int, device: torch.device) -> Entries:
    """The entries of label sets, given as bool (n,C) or as lists of class indices."""
    if not isinstance(real, torch.Tensor):
        return entries_of_lists(real, num_classes, device)
    require_shape(real, (len(real), num_classes), "real")
    mask = real.to(device, torch.bool)
    row, column = mask.nonzero(as_tuple=True)
    return Entries(row, column, fast.count(mask))


class Counted(NamedTuple):
    """What is counted of n images."""

    top: torch.Tensor  # (n,) int64, argmax z
    overlaps: list[Overlap]  # one for each threshold


def count_overlaps(
    batches: Sequence[torch.Tensor],
    entries: Entries,
    rhos: Sequence[float],
    schema: str,
    protocol: str,
) -> Counted:
    """method.overlap_of method.prediction_set for each threshold, of a set that came in batches.

    Args:
        batches: logits (N,C) float32 each, n rows together.
        entries: the true labels of the n images, on the same device.
        rhos, schema, protocol: see method.prediction_set.
    """
    lengths = [len(z) for z in batches]
    labels_of_batch = [int(part.sum()) for part in entries.sizes.cpu().split(lengths)]
    rows = entries.row.split(labels_of_batch)
    columns = entries.column.split(labels_of_batch)

    tops = []
    of_top = []  # the score of each image's top class
    of_true = []  # the scores of all true labels
    sizes = []  # of the sets above each of T cuts, (T,N)
    cuts: list[float] = []
    start = 0
    for z, row, column in zip(batches, rows, columns, strict=True):
        scores, cuts = fast.comparable(z, rhos, schema, protocol)
        top = fast.argmax(z)
        tops.append(top)
        of_top.append(scores.gather(1, top[:, None]))
        of_true.append(scores[row - start, column])
        sizes.append(fast.sizes_above(scores, cuts))
        start += len(z)

    top = torch.cat(tops)
    scores_of_top = torch.cat(of_top)[:, 0]
    scores_of_true = torch.cat(of_true)
    is_top = entries.column == top[entries.row]
    zeros = torch.zeros_like(entries.sizes)
    top_is_true = zeros.index_add(0, entries.row, is_top.long()) > 0

    overlaps = []
    for predicted, cut in zip(torch.cat(sizes, 1), cuts, strict=True):
        is_predicted = scores_of_true > cut
        if protocol == "authors":
            predicted = predicted + ~(scores_of_top > cut)
            is_predicted = is_predicted | is_top
        hits = zeros.index_add(0, entries.row, is_predicted.long())
        overlaps.append(Overlap(predicted, entries.sizes, hits, top_is_true))
    return Counted(top, overlaps)
