"""Pictures of maps: of true classes, and of one class pair for each number of differing parts."""

import contextlib
from pathlib import Path

import numpy as np
import torch

from calm.cue_localiser import NUM_DIFF_LIST, CueLocaliser, class_number, map_difference
from calm.data_loaders import MEAN, STD, ImageLabelDataset
from calm.network.head import AttributionNet
from calm.score_mapper import ScoreMapper
from calm.tester import Tester
from common.aliases import one_module
from common.cam import normalize_maps, overlay, resize_maps
from common.data import CorruptImage
from common.plots import save_grid

one_module(__name__, "calm.cue_pictures")


def to_picture(image: torch.Tensor, side: int = 160) -> np.ndarray:
    """A normalised image (3,H,W) as (side,side,3) uint8."""
    mean, std = (torch.tensor(v, device=image.device).view(3, 1, 1) for v in (MEAN, STD))
    pixels = resize_maps((image * std + mean)[None], (side, side))[0]
    return (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


@torch.no_grad()
def draw_maps(
    path: Path, model: AttributionNet, data: ImageLabelDataset, device: torch.device, count: int = 8
) -> None:
    """`count` images spread over the data set, and below each the map of its true class with p(y|x)."""
    drawn = []
    for i in np.linspace(0, len(data) - 1, count).astype(int).tolist():
        with contextlib.suppress(
            CorruptImage
        ):  # left out of the scores as well, or they had not been reached
            drawn.append(data[i])
    if not drawn:
        return
    images, labels, _ = zip(*drawn, strict=True)
    process = "vanilla" if model.process.is_cam else "jointll"
    x, y = torch.stack(images).to(device), torch.tensor(labels, device=device)
    maps, probs = (
        ScoreMapper(model, process)(x, y),
        model(x)["probs"].gather(1, y[:, None])[:, 0].tolist(),
    )
    pictures = [to_picture(image) for image in x]
    shown = normalize_maps(maps.double(), "minmax").cpu().numpy()
    overlays = [overlay(picture, m) for picture, m in zip(pictures, shown, strict=True)]
    titles = [[f"class {label}" for label in labels], [f"p {p:.3f}" for p in probs]]
    save_grid(
        path,
        [pictures, overlays],
        titles,
        suptitle=f"{model.process.attribution_method}, {process}, true class",
    )


def draw_pairs(tester: Tester, cues: CueLocaliser) -> None:
    """figures/cue_pairs.png: image, map of both classes, normalised difference, true part; a row a pair."""
    data = tester.loader.dataset.dataset
    rows, titles = [], []
    for d in NUM_DIFF_LIST:
        number = next((n for n, k in enumerate(cues.parts_of) if k == d), None)
        if number is None:
            continue
        pair = cues.pairs[number]
        row = _row(tester, cues, data, pair)
        if row is not None:
            rows.append(row)
            difference = f"|difference|, {cues.norm_type}"
            titles.append(
                [
                    f"{d} part{'s' * (d > 1)}",
                    f"class {pair[0]}",
                    f"class {pair[1]}",
                    difference,
                    "true parts",
                ]
            )
    if rows:
        title = f"{tester.args.attribution_method}, {tester.args.score_map_process}"
        save_grid(tester.run.figure("cue_pairs"), rows, titles, suptitle=title)


def _row(
    tester: Tester, cues: CueLocaliser, data: object, pair: tuple[int, int]
) -> list[np.ndarray] | None:
    for index, image_id in enumerate(data.image_ids):
        if class_number(image_id, data.image_labels[image_id]) not in pair:
            continue
        image = data[index][0].to(tester.device)
        mask = cues.trait.get_pseudo_segment_mask(image_id, pair, image.shape[-1])
        if mask is None or not mask.any():
            continue
        maps = tester.mapper.of_classes(
            image[None], [0, 0], [cues.label_of[c] for c in pair]
        ).double()
        difference = map_difference(maps[:1], maps[1:], image.shape[-2:])
        shown = [*normalize_maps(maps, "minmax"), *normalize_maps(difference, cues.norm_type)]
        picture = to_picture(image)
        panels = [overlay(picture, m.cpu().numpy()) for m in shown]
        return [picture, *panels, overlay(picture, mask.astype(np.float32))]
    return None
