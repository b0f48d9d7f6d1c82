"""Pictures of candidate class activation maps: a row an image, a column a class."""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cavl.utils.resident import Images
from cavl.utils.utils_algo import class_activation_value, evaluating
from common.aliases import one_module
from common.cam import normalize_scoremap, overlay
from common.plots import save_grid
from common.run import Run

one_module(__name__, "cavl.utils.cam_pictures")

ZOOM = 4  # screen pixels an image pixel


class CandidateMaps:
    """Logits, maps, CAV and probabilities of a batch x (B,...) float32, and the pictures made of them."""

    @torch.inference_mode()
    def __init__(self, model: nn.Module, x: torch.Tensor, cav: str) -> None:
        with evaluating(model):
            self.outputs, self.maps = model.class_activation_maps(x)
        self.areas, self.p = (self.maps > 0).sum((2, 3)), self.outputs.softmax(1)
        self.values = class_activation_value(self.outputs, cav)
        self.pictures = [_picture(image) for image in x]

    def row(
        self, i: int, classes: Iterable[int], name: str, true: int | None = None
    ) -> tuple[list, list[str]]:
        """Pictures and titles of image i: itself, then each class's map under area, CAV, probability; * is true."""
        pictures = [self.pictures[i]]
        titles = [_as_title(name)]
        for k in classes:
            score_map = normalize_scoremap(self.maps[i, k].float().cpu().numpy(), "max")
            pictures.append(overlay(self.pictures[i], score_map))
            star = "*" if k == true else ""
            told = f"CAV {self.values[i, k]:.2f} p {self.p[i, k]:.2f}"
            titles.append(f"{k}{star} area {self.areas[i, k]}\n{told}")
        return pictures, titles


def _as_title(name: str) -> str:
    """The name of a file as matplotlib draws it: no formula between two dollars, no half of a pair of surrogates."""
    return name.encode("utf-8", "replace").decode("utf-8").replace("$", r"\$")


def _picture(image: torch.Tensor) -> np.ndarray:
    """A network input (C,H,W), its range stretched, as (ZOOM H, ZOOM W, 3) uint8."""
    picture = image.float().cpu().numpy().transpose(1, 2, 0)
    picture = (255 * normalize_scoremap(np.repeat(picture, 3 // picture.shape[2], 2))).astype(
        np.uint8
    )
    return np.kron(picture, np.ones((ZOOM, ZOOM, 1), np.uint8))


def save(path: Path, rows: Iterable[tuple[list, list[str]]]) -> None:
    """Draw rows of `CandidateMaps.row` into a PNG."""
    pictures, titles = zip(*rows, strict=True)
    title = "candidates and their class activation maps (* true label)"
    save_grid(path, list(pictures), list(titles), suptitle=title)


def draw_cams(
    args: argparse.Namespace,
    run: Run,
    model: nn.Module,
    images: Images,
    candidates: torch.Tensor,
    true_labels: torch.Tensor,
) -> None:
    """figures/cams.png: the candidates of the first -cam_vis training images."""
    index = torch.arange(min(args.cam_vis, len(images)), device=images.device)
    maps = CandidateMaps(model, images[index], args.cav)
    listed = [candidates[i].nonzero().flatten().tolist() for i in index.tolist()]
    save(
        run.figure("cams"),
        [maps.row(i, c, f"sample {i}", int(true_labels[i])) for i, c in enumerate(listed)],
    )
