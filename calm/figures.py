"""Draw pictures of maps.

They are of true classes, of class pairs, or of one image with "why this class and not that one".
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from calm.data import MEAN, STD, ImageLabelDataset, normalizer
from calm.evaluate_cue import NUM_DIFF_LIST, CueLocaliser, class_number, map_difference
from calm.evaluate_maps import ScoreMapper
from calm.method import counterfactual
from calm.network.head import AttributionNet
from common.aliases import one_module
from common.cam import normalize_maps, overlay, resize_maps
from common.images import CorruptImage
from common.plots import save_grid
from common.precision import doubled

one_module(__name__, "calm.figures")


def to_picture(image: torch.Tensor, side: int = 160) -> np.ndarray:
    """A normalised image (3,H,W) as (side,side,3) uint8."""
    mean = torch.tensor(MEAN, device=image.device).view(3, 1, 1)
    std = torch.tensor(STD, device=image.device).view(3, 1, 1)
    pixels = resize_maps((image * std + mean)[None], (side, side))[0]
    return (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _over(picture: np.ndarray, maps: torch.Tensor) -> list[np.ndarray]:
    """A picture under each of the maps (n,h,w) in [0,1]."""
    return [overlay(picture, score_map) for score_map in maps.cpu().numpy()]


def name_of(label: int, names: Sequence[str] | None) -> str:
    """The class of a label as figures and lines show it: its name, or its number."""
    return f"class {label}" if names is None else str(names[label])


@torch.no_grad()
def draw_maps(
    path: Path,
    model: AttributionNet,
    data: ImageLabelDataset,
    device: torch.device,
    count: int = 8,
    *,
    names: Sequence[str] | None = None,
) -> None:
    """Draw `count` images, and below each the map of its true class with p(y|x).

    The images are spread over the data set.
    """
    images = []
    labels = []
    for index in np.linspace(0, len(data) - 1, count).astype(int).tolist():
        # What cannot be read is left out of the scores as well, or they had not been reached.
        with contextlib.suppress(CorruptImage):
            image, label, _ = data[index]
            images.append(image)
            labels.append(label)
    if not images:
        return

    x = normalizer(device)(torch.stack(images).to(device))
    y = torch.tensor(labels, device=device)
    process = "vanilla" if model.process.is_cam else "jointll"
    maps = ScoreMapper(model, process)(x, y)
    probs = model(x)["probs"].gather(1, y[:, None])[:, 0]

    pictures = list(map(to_picture, x))
    overlays = []
    for picture, score_map in zip(pictures, normalize_maps(doubled(maps), "minmax"), strict=True):
        overlays += _over(picture, score_map[None])
    classes = [name_of(label, names)[:24] for label in labels]
    titles = [classes, [f"p {p:.3f}" for p in probs.tolist()]]
    title = f"{model.process.attribution_method}, {process}, true class"
    save_grid(path, [pictures, overlays], titles, suptitle=title)


# ---- class pairs ---------------------------------------------------------------------


def draw_pairs(
    path: Path, cues: CueLocaliser, data: ImageLabelDataset, device: torch.device, title: str
) -> None:
    """Draw a row of pictures for each number of differing parts.

    A row is the image, maps of both classes, normalised difference, and true parts.
    """
    rows = []
    titles = []
    for parts in NUM_DIFF_LIST:
        if parts not in cues.parts_of:
            continue
        pair = cues.pairs[cues.parts_of.index(parts)]
        row = _row_of_pair(cues, data, device, pair)
        if row is None:
            continue
        rows.append(row)
        first = "1 part" if parts == 1 else f"{parts} parts"
        of_classes = [f"class {number}" for number in pair]
        titles.append([first, *of_classes, f"|difference|, {cues.norm_type}", "true parts"])
    if rows:
        save_grid(path, rows, titles, suptitle=title)


def _row_of_pair(
    cues: CueLocaliser, data: ImageLabelDataset, device: torch.device, pair: tuple[int, int]
) -> list[np.ndarray] | None:
    """The first image of either class with a visible differing part; None without one."""
    for index, image_id in enumerate(data.image_ids):
        if class_number(image_id, data.image_labels[image_id]) not in pair:
            continue
        image = normalizer(device)(data[index][0].to(device))
        mask = cues.trait.get_pseudo_segment_mask(image_id, pair, image.shape[-1])
        if mask is None or not mask.any():
            continue
        maps, difference = _maps_of_pair(cues.mapper, cues, image, pair)
        picture = to_picture(image)
        shown = _over(picture, normalize_maps(maps, "minmax"))
        shown += _over(picture, normalize_maps(difference, cues.norm_type))
        return [picture, *shown, overlay(picture, mask.astype(np.float32))]
    return None


def _maps_of_pair(
    mapper: ScoreMapper, cues: CueLocaliser, image: torch.Tensor, pair: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The maps of both classes (2,h,w), and how far they lie apart (1,H,W)."""
    labels = [cues.label_of[number] for number in pair]
    maps = doubled(mapper.of_classes(image[None], [0, 0], labels))
    size = (image.shape[-2], image.shape[-1])
    return maps, map_difference(maps[:1], maps[1:], size)


def draw_gallery_pair(
    path: Path,
    number: int,
    cues: CueLocaliser,
    columns: Mapping[str, ScoreMapper],
    data: ImageLabelDataset,
    side: int,
    images: int,
) -> None:
    """One class pair: the first `images` test images of each class with a visible differing part.

    Columns: the image, |map(i) - map(j)| of every mapper, the true parts.
    """
    pair = cues.pairs[number]
    device = next(next(iter(columns.values())).model.parameters()).device
    rows = []
    titles = []
    for of_pair in pair:
        drawn = 0
        for index, image_id in enumerate(data.image_ids):
            if class_number(image_id, data.image_labels[image_id]) != of_pair or drawn == images:
                continue
            mask = cues.trait.get_pseudo_segment_mask(image_id, pair, side)
            if mask is None or not mask.any():
                continue
            drawn += 1
            image = normalizer(device)(data[index][0].to(device))
            picture = to_picture(image)
            row = [picture]
            for mapper in columns.values():
                _, difference = _maps_of_pair(mapper, cues, image, pair)
                kind = "minmax" if mapper.process == "vanilla" else "max"
                row += _over(picture, normalize_maps(difference, kind))
            rows.append([*row, overlay(picture, mask.astype(np.float32))])
            titles.append([f"class {of_pair}", *columns, "true parts"])
    if rows:
        title = f"classes {pair[0]} and {pair[1]}: {cues.parts_of[number]} differing part(s)"
        save_grid(path, rows, titles, suptitle=title)


# ---- one image -----------------------------------------------------------------------


def difference_overlay(picture: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """A picture (H,W,3) uint8 under a signed map (h,w): red where positive, blue where negative."""
    height, width = picture.shape[:2]
    d: np.ndarray = cv2.resize(
        difference.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    d = d / max(1e-12, float(np.abs(d).max()))
    colour = np.stack([np.clip(d, 0, 1), np.zeros_like(d), np.clip(-d, 0, 1)], -1) * 255
    alpha = np.abs(d)[..., None] * 0.8
    return (alpha * colour + (1 - alpha) * picture).round().astype(np.uint8)


def over(image: Image.Image, score_map: torch.Tensor, norm_type: str) -> Image.Image:
    """A picture under one map (h,w), both at 224 x 224 pixels."""
    picture = np.asarray(image.convert("RGB").resize((224, 224)))
    (shown,) = _over(picture, normalize_maps(score_map[None], norm_type))
    return Image.fromarray(np.asarray(shown).astype(np.uint8))


def draw_explanation(
    path: Path,
    image: Image.Image,
    name: str,
    maps: torch.Tensor,
    probabilities: Mapping[int, float],
    norm_type: str,
    title: str,
    names: Sequence[str] | None = None,
) -> None:
    """Draw the image, a map for each class, and the difference of the first two.

    The maps (k,h,w) of the k classes are normalised.
    """
    picture = np.asarray(image.resize((224, 224)))
    row = [picture, *_over(picture, normalize_maps(maps, norm_type))]
    titles = [name]
    for label, p in probabilities.items():
        titles.append(f"{name_of(label, names)[:24]}, p {p:.3f}")
    if len(probabilities) > 1:
        first, second = list(probabilities)[:2]
        row.append(difference_overlay(picture, counterfactual(maps[0], maps[1]).cpu().numpy()))
        one, other = str(first), str(second)
        if names is not None:
            one, other = names[first][:12], names[second][:12]
        titles.append(f"why {one} and not {other}")
    save_grid(path, [row], [titles], cell=2.4, suptitle=title)
