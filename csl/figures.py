"""Pictures and plots: class frequencies, annotated pictures, test pictures with activation maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from common.aliases import one_module
from common.cam import normalize_scoremap, overlay, resize_maps
from common.modes import evaluating
from common.plots import new_figure, save_figure, save_grid
from csl.data import DataSet
from csl.data_pixels import Pixels
from csl.evaluate import Scored
from csl.src.models.tresnet.tresnet import TResNet
from csl.src.models.utils.factory import CamNetwork, activation_maps

one_module(__name__, "csl.figures")


def plot_class_freq(targets: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draw how many annotated positives and negatives each class has, into a PNG.

    The labels are (N,C); the classes are ordered by frequency.
    """
    positives = (targets == 1).sum(axis=0)
    negatives = (targets == 0).sum(axis=0)
    order = np.argsort(-positives, kind="stable")
    places = range(len(order))
    figure = new_figure(8, 3.5)
    axis = figure.add_subplot()
    axis.bar(places, positives[order], label="annotated positives")
    axis.plot(places, negatives[order], ".", color="tab:orange", label="annotated negatives")
    axis.set(ylabel="images", yscale="symlog", title="annotated labels per class")
    if len(order) <= 80:
        names = [list(classes)[column] for column in order]
        axis.set_xticks(places, names, rotation=90, fontsize=6)
    axis.legend(fontsize=7)
    save_figure(figure, path)


def plot_two_frequencies(before: Any, after: Any, path: Path) -> Path:
    """Draw how many positives each class has before and after a simulation, into a PNG.

    Each is (C,) counts, labels (N,C), or a mapping class -> count; ordered by frequency before.
    ValueError where the numbers of classes differ.
    """
    first = _counts(before)
    second = _counts(after)
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} classes before, {len(second)} after")
    order = np.argsort(-first, kind="stable")
    figure = new_figure(8, 3.5)
    axis = figure.add_subplot()
    axis.bar(range(len(order)), first[order], label="before")
    axis.bar(range(len(order)), second[order], label="after")
    axis.set(ylabel="images", yscale="symlog", title="positives per class")
    axis.legend(fontsize=7)
    save_figure(figure, path)
    return path


def _counts(statistics: Any) -> np.ndarray:
    """Counts (C,) of counts, of a mapping, or of the positives of labels (N,C)."""
    if isinstance(statistics, Mapping):
        statistics = list(statistics.values())
    values = np.asarray(statistics)
    if values.ndim == 2:
        values = (values == 1).sum(axis=0)
    return values.astype(np.float64)


def with_scores(names: Sequence[str], scores: Sequence[float]) -> list[str]:
    """Each name with its score behind it."""
    return [f"{name} {score:.3f}" for name, score in zip(names, scores, strict=True)]


def draw_annotated(
    path: Path, image: Image.Image, names: Sequence[str], scores: Sequence[float]
) -> None:
    """The picture with its names and scores above it, as a PNG."""
    title = "\n".join(with_scores(names, scores)[:10]) or "nothing above the threshold"
    scale = 448 / max(image.size)
    width = max(1, round(image.width * scale))
    height = max(1, round(image.height * scale))
    shown = np.asarray(image.resize((width, height)))
    save_grid(path, [[shown]], [[title]], cell=4)


@torch.inference_mode()
def draw_examples(
    path: Path, model: nn.Module, val: DataSet, scored: Scored, pixels: Pixels, count: int = 6
) -> None:
    """Draw test pictures with their three best classes and activation maps, into a PNG.

    The classes and maps are those of the averaged model. Probabilities stand above; a * marks a
    class that is there.
    """
    rows = []
    titles = []
    names = list(val.classes.values())
    numbers = pixels.to_numbers()
    for scores, place in zip(scored.scores[1], scored.index[:count].tolist(), strict=False):
        image, _ = val[place]
        is_there = val.labels_of(place) == 1
        picture = image.permute(1, 2, 0).numpy()
        maps = None
        if isinstance(model, TResNet | CamNetwork):
            maps = _maps(model, numbers(image[None]))
        row = [picture]
        there = [names[c] for c in np.flatnonzero(is_there)[:4]]
        title = ["\n".join(filter(None, (", ".join(there[:2]), ", ".join(there[2:]))))]
        for c in np.argsort(-scores, kind="stable")[:3].tolist():
            shown = picture
            if maps is not None:
                shown = overlay(picture, normalize_scoremap(maps[c], "max"))
            mark = "*" if is_there[c] else ""
            row.append(shown)
            title.append(f"{names[c]}{mark} {scores[c]:.2f}")
        rows.append(row)
        titles.append(title)
    if rows:
        save_grid(path, rows, titles, suptitle="test pictures, best classes (* is there)")


def _maps(model: nn.Module, image: torch.Tensor) -> np.ndarray:
    """Class activation maps (C,H,W) of one image (1,3,H,W), negative values as 0."""
    parameter = next(model.parameters())
    with evaluating(model):
        maps = activation_maps(model, image.to(parameter)).relu()
    height, width = image.shape[2:]
    return resize_maps(maps, (height, width))[0].float().cpu().numpy()
