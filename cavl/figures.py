"""Pictures: candidates and their class activation maps, curves of a run and of a comparison."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from cavl.data_resident import Images
from cavl.data_sets import Sets
from cavl.method import CavKind, activation_area, class_activation_value
from common.aliases import one_module
from common.cam import normalize_scoremap, overlay
from common.modes import evaluating
from common.plots import save_curves, save_grid
from common.run import Run

one_module(__name__, "cavl.figures")

ZOOM = 4  # screen pixels an image pixel, of images up to LARGE
LARGE = 64  # pixels


class Row(NamedTuple):
    """Pictures side by side, and the title over each."""

    pictures: list[np.ndarray]
    titles: list[str]


class CandidateMaps:
    """Logits, maps, CAV and probabilities of a batch x (B, ...) float32, and their pictures."""

    @torch.inference_mode()
    def __init__(self, model: nn.Module, x: torch.Tensor, cav: CavKind) -> None:
        with evaluating(model):
            self.outputs, self.maps = model.class_activation_maps(x)  # type: ignore[operator]
        self.areas = activation_area(self.maps)
        self.p = self.outputs.softmax(1)
        self.values = class_activation_value(self.outputs, cav)
        self.pictures = [_picture(image) for image in x]

    def row(
        self,
        i: int,
        classes: Iterable[int],
        name: str,
        true: int | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> Row:
        """Image i, then each class's map under area, CAV and probability; * is the true label.

        names: of the classes, which else are numbers.
        """
        row = Row([self.pictures[i]], [_as_title(name)])
        for k in classes:
            score_map = normalize_scoremap(self.maps[i, k].float().cpu().numpy(), "max")
            star = "*" if k == true else ""
            values = f"CAV {self.values[i, k]:.2f} p {self.p[i, k]:.2f}"
            row.pictures.append(overlay(self.pictures[i], score_map))
            called = k if names is None else _as_title(names[k])
            row.titles.append(f"{called}{star} area {self.areas[i, k]}\n{values}")
        return row


def _as_title(name: str) -> str:
    """Return the name of a file as matplotlib draws it.

    It holds no formula between two dollars and no half of a pair of surrogates.
    """
    return name.encode("utf-8", "replace").decode("utf-8").replace("$", r"\$")


def _picture(image: torch.Tensor) -> np.ndarray:
    """A network input (C, H, W), its range stretched, as (zoom H, zoom W, 3) uint8."""
    pixels = image.float().cpu().numpy().transpose(1, 2, 0)
    coloured = np.repeat(pixels, 3 // pixels.shape[2], 2)
    picture = (255 * normalize_scoremap(coloured)).astype(np.uint8)
    side = max(picture.shape[:2])
    zoom = ZOOM if side <= LARGE else max(1, ZOOM * LARGE // side)
    return np.kron(picture, np.ones((zoom, zoom, 1), np.uint8))


def save_rows(path: Path, rows: list[Row]) -> None:
    """Draw rows of `CandidateMaps.row` into a PNG."""
    pictures = [row.pictures for row in rows]
    titles = [row.titles for row in rows]
    suptitle = "candidates and their class activation maps (* true label)"
    save_grid(path, pictures, titles, suptitle=suptitle)


def draw_cams(
    path: Path,
    model: nn.Module,
    images: Images,
    candidates: Sets,
    true_labels: torch.Tensor,
    *,
    count: int,
    cav: CavKind,
    names: Sequence[str] | None = None,
) -> None:
    """The candidates of the first `count` training images, and their maps."""
    index = torch.arange(min(count, len(images)), device=images.device)
    maps = CandidateMaps(model, images[index], cav)
    rows = []
    for i in index.tolist():
        listed = candidates[i].nonzero().flatten().tolist()
        rows.append(maps.row(i, listed, f"sample {i}", int(true_labels[i]), names=names))
    save_rows(path, rows)


def draw_learning_curves(run: Run, title: str) -> None:
    """figures/curves.png, accuracies over the epochs, and with -selection_curve selection.png."""
    test = run.values("test", "accuracy")
    train = run.values("train", "accuracy")
    if not test:
        _draw_covering(run, title)
    else:
        curves = {"test": test}
        if len(train) == len(test):
            curves["train (true labels)"] = train
        disambiguation = run.values("train", "disambiguation")
        if None not in disambiguation:
            curves["disambiguation"] = disambiguation
        save_curves(run.figure("curves"), curves, xlabel="epoch", ylabel="accuracy", title=title)

    rules = selection_rules(run)
    if rules:
        curves = {rule: run.values("selection", rule) for rule in rules}
        save_curves(
            run.figure("selection"),
            curves,
            xlabel="epoch",
            ylabel="share of samples",
            title="which rule picks the true label inside S",
        )


def _draw_covering(run: Run, title: str) -> None:
    """figures/curves.png where no true label of the test part is known."""
    curves = {}
    for split in ("test", "train"):
        for name in ("covering_rate", "approximated_accuracy"):
            values = run.values(split, name)
            if values:
                curves[f"{split} {name.replace('_', ' ')}"] = values
    if curves:
        place = run.figure("curves")
        save_curves(place, curves, xlabel="epoch", ylabel="share of samples", title=title)


def selection_rules(run: Run) -> list[str]:
    """The rules that -selection_curve measured in this run."""
    lines = [line for line in run.lines if line["split"] == "selection"]
    if not lines:
        return []
    return [name for name in lines[0] if name not in ("step", "epoch", "split")]


def draw_comparison(path: Path, measured: list[pd.DataFrame], what: str = "test accuracy") -> None:
    """Draw the test accuracy over the epochs, with a curve for each method.

    A curve is the mean over the method's runs, with a band of one standard deviation.

    measured: a table a run, with the columns split, epoch, accuracy, method.
    """
    if not measured:
        return
    lines = pd.concat(measured)
    epochs = lines[lines.split == "test"].groupby(["method", "epoch"], sort=False).accuracy
    means = _by_method(epochs.mean())
    deviations = _by_method(epochs.std().fillna(0.0))
    save_curves(path, means, xlabel="epoch", ylabel=what, spread=deviations)


def _by_method(values: pd.Series) -> dict[str, list[float]]:
    curves = {}
    for method, own in values.groupby("method", sort=False):
        curves[str(method)] = own.tolist()
    return curves
