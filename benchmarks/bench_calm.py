"""How much faster calm's parts are than the plain way, both timed in this process.

The best of n counts, in CPU seconds.

    python benchmarks/bench_calm.py             # about five minutes on one core

The plain ways are written for this file after the description of the released procedure (a
forward for every use, one numpy histogram per map, the mask of each image made anew for each pair);
every result is checked against ours.
"""

from pathlib import Path

import numpy as np
import ratios
import torch
from PIL import Image
from ratios import timed
from torch import nn
from torch.nn import functional as F

from calm import network
from calm.build import with_data
from calm.data_loaders import ImageLabelDataset, make_transforms
from calm.evaluate_cue import CueLocaliser
from calm.evaluate_erasing import classify_erased, get_topk_to_zero_mask, random_ranking
from calm.evaluate_maps import ScoreMapper
from calm.evaluate_pixels import PixelPR
from calm.method import EPS_DIVIDE, pixel_average_precision, rank_pixels, safe_log
from calm.network.universal import UniversalProcess
from calm.options import parse
from calm.util import get_threshold_list, resize_scoremaps
from calm.util_cub_trait import CUBTrait
from common.cam import normalize_scoremap

KS = (0.1, 0.3, 0.5, 0.7, 0.9)


def bench_remove_and_classify(repeats: int) -> tuple[float, float]:
    """16 images of 64 px, resnet50, large feature map, 200 classes, jointll: 12 forwards for 11."""
    torch.manual_seed(0)
    model = network.resnet50(
        num_classes=200, large_feature_map=True, attribution_method="CALM-EM"
    ).eval()
    x = torch.randn(16, 3, 64, 64)
    y = torch.arange(16)
    index = torch.arange(16)

    @torch.no_grad()
    def plain() -> list[torch.Tensor]:
        found = [model(x)["probs"].argmax(1) == y]
        maps = model(x, y, return_cam="jointll").numpy()
        scores = resize_scoremaps(torch.from_numpy(maps), "tensor", (64, 64))
        order = random_ranking(index, 64 * 64, 0)
        for k in KS:
            found.append(model(x * get_topk_to_zero_mask(scores, k))["probs"].argmax(1) == y)
        for k in KS:
            mask = np.ones((16, 64 * 64), np.float32)
            np.put_along_axis(mask, order[:, : int(k * 64 * 64)].numpy(), 0.0, axis=1)
            found.append(
                model(x * torch.from_numpy(mask).view(16, 1, 64, 64))["probs"].argmax(1) == y
            )
        return found

    fast = network.resnet50(
        num_classes=200, large_feature_map=True, attribution_method="CALM-EM"
    ).eval()
    fast.load_state_dict(model.state_dict())
    fast = fast.to(memory_format=torch.channels_last).requires_grad_(False)
    mapper = ScoreMapper(fast, "jointll")

    def ours() -> list[torch.Tensor]:
        images = x.contiguous(memory_format=torch.channels_last)
        maps, probs = mapper.with_probs(images, y)
        with torch.inference_mode():
            scores = resize_scoremaps(maps, "tensor", (64, 64))
            top = classify_erased(fast, images, y, rank_pixels(scores), KS)
            at_random = classify_erased(fast, images, y, random_ranking(index, 64 * 64, 0), KS)
        return [probs.argmax(1) == y, *top, *at_random]

    slow, expected = timed(plain, repeats)
    quick, found = timed(ours, repeats)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    return slow, quick


def sample() -> tuple[Path, ImageLabelDataset, list[tuple[torch.Tensor, int, str]]]:
    """The CUB sample's folder, its test set, and its items."""
    _, data_set = with_data(parse(["--sample"]))
    data = ImageLabelDataset(
        data_set.paths["test"], data_set.metadata / "test", make_transforms(68, 64)["test"]
    )
    return data_set.root, data, [data[i] for i in range(len(data))]


def plain_mask(trait: CUBTrait, file: str, pair: tuple[int, int], side: int) -> np.ndarray | None:
    """All anew for each call: points, distances pixel row by pixel row, lookup, segmentation."""
    with Image.open(trait.data_dir / "images" / file) as image:
        points, parts = trait._get_parts_union(trait.image_file2image_id[file], image.size, side)
    differing = trait.differing_parts(*pair)
    if not set(parts.tolist()) & differing:
        return None
    mask = np.zeros((side, side), np.uint8)
    for row in range(side):
        for column in range(side):
            nearest = ((points - (column, row)) ** 2).sum(1).argmin() if len(points) else None
            mask[row, column] = parts[nearest] in differing
    with Image.open((trait.data_dir / "segmentations" / file).with_suffix(".png")) as soft:
        return mask * (np.asarray(soft.resize((side, side), Image.Resampling.BICUBIC)) > 0)


def bench_masks(repeats: int) -> tuple[float, float]:
    """Pseudo masks of one image for its class pairs at 224 px."""
    folder, data, _ = sample()
    trait = CUBTrait(folder)
    file = data.image_ids[0]
    pairs = [p for d in (1, 2, 3) for p in trait.diff2class_pair_dict[d] if 1 in p]
    slow, expected = timed(lambda: [plain_mask(trait, file, p, 224) for p in pairs[:1]], 1)

    def ours() -> list[np.ndarray]:
        trait._nearest.cache_clear()
        trait._front.cache_clear()
        return [trait.get_pseudo_segment_mask(file, p) for p in pairs]

    quick, found = timed(ours, repeats)
    assert np.array_equal(expected[0], found[0])
    return slow * len(pairs), quick


def bench_cues(repeats: int) -> tuple[float, float]:
    """Cue localisation of the sample's 120 test images: every pair anew against one pass."""
    folder, _, items = sample()
    trait = CUBTrait(folder)
    thresholds = get_threshold_list(0.001, "log")
    torch.manual_seed(0)
    model = network.resnet18(
        num_classes=6, large_feature_map=True, attribution_method="CALM-EM"
    ).eval()
    edges = [*thresholds, 1, 2, 3]

    @torch.no_grad()
    def plain() -> list[float]:
        scores = []
        for d in (1, 2, 3):
            for pair in trait.diff2class_pair_dict[d]:
                true = np.zeros(len(edges) - 1)
                false = np.zeros(len(edges) - 1)
                for image, label, image_id in items:
                    if label + 1 not in pair:
                        continue
                    trait._nearest.cache_clear()
                    trait._front.cache_clear()
                    mask = trait.get_pseudo_segment_mask(image_id, pair, 64)
                    if mask is None:
                        continue
                    a, b = (
                        model(image[None], torch.tensor([c - 1]), return_cam="jointll")[0]
                        for c in pair
                    )
                    big = F.interpolate(
                        (a - b)[None, None], size=(64, 64), mode="bilinear", align_corners=False
                    )
                    values = normalize_scoremap(
                        big[0, 0].abs().numpy().astype(np.float64), "clipping"
                    )
                    true += np.histogram(values[mask == 1], edges)[0]
                    false += np.histogram(values[mask == 0], edges)[0]
                scores.append(pixel_average_precision(true, false)[0])
        return scores

    def ours() -> list[float]:
        trait._nearest.cache_clear()
        trait._front.cache_clear()
        cues = CueLocaliser(
            trait,
            ScoreMapper(model, "jointll"),
            {c: c - 1 for c in range(1, 7)},
            thresholds,
            "clipping",
        )
        for first in range(0, len(items), 32):
            images, labels, ids = zip(*items[first : first + 32], strict=True)
            cues.add(torch.stack(images), labels, ids)
        return cues.scores("per_pair", keep=False)

    slow, expected = timed(plain, 1)
    quick, found = timed(ours, repeats)
    assert np.allclose(expected, found, rtol=5e-3)
    return slow, quick


def bench_accumulation(repeats: int) -> tuple[float, float]:
    """100 maps of 224 x 224, 1000 log thresholds: numpy.histogram per map against one bincount."""
    rng = np.random.default_rng(0)
    maps = rng.random((100, 224, 224))
    gt = rng.integers(0, 2, (100, 224, 224)).astype(np.uint8)
    thresholds = get_threshold_list(0.001, "log")
    edges = [*thresholds, 1, 2, 3]

    def plain() -> np.ndarray:
        return sum(
            np.stack([np.histogram(m[g == 1], edges)[0], np.histogram(m[g == 0], edges)[0]])
            for m, g in zip(maps, gt, strict=True)
        )

    def ours() -> np.ndarray:
        pixels = PixelPR(thresholds)
        pixels.add(torch.from_numpy(maps), torch.from_numpy(gt))
        return np.stack(pixels.histograms())

    slow, expected = timed(plain, repeats)
    quick, found = timed(ours, repeats)
    assert np.array_equal(expected, found)
    return slow, quick


def bench_loss(repeats: int) -> tuple[float, float]:
    """Both heads, EM loss and backward from F (16, 2048, 28, 28), 200 classes.

    In training the attention is one more channel of conv_last over channels-last F; the plain way
    runs it four times, and makes eight (B, C, h, w) tensors.
    """
    torch.manual_seed(0)
    f_former = torch.rand(16, 2048, 28, 28)
    labels = torch.arange(16)
    last = nn.Conv2d(2048, 200, 1)
    attention = nn.Sequential(nn.Conv2d(2048, 1, 1), nn.ReLU())
    process = UniversalProcess("CALM-EM")
    process.set_layers(last, attention)
    contiguous = f_former.clone().requires_grad_()
    channels_last = f_former.contiguous(memory_format=torch.channels_last).requires_grad_()

    def prior() -> torch.Tensor:
        a = attention(contiguous)
        return a / a.sum((2, 3), keepdim=True).detach()

    def plain() -> torch.Tensor:
        f = last(contiguous)
        log_joint = F.log_softmax(f, 1) + safe_log(prior())
        joint = F.softmax(f, 1) * prior()
        likelihood = (F.softmax(f, 1) * prior()).sum((2, 3), keepdim=True)
        probs = (F.softmax(f, 1) * prior()).sum((2, 3))
        inputs = ((joint / (likelihood + EPS_DIVIDE)).detach() * log_joint).sum((2, 3))
        assert probs.shape == (16, 200)
        return gradient(nn.NLLLoss()(inputs, labels), contiguous)

    def ours() -> torch.Tensor:
        f, scores = process.scores(channels_last)
        return gradient(
            process.loss(f, channels_last, labels, scores)["loss"].mean(), channels_last
        )

    def gradient(loss: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        features.grad = None
        loss.backward()
        return features.grad

    slow, expected = timed(plain, repeats)
    quick, found = timed(ours, repeats)
    assert (expected - found).abs().max() < 1e-4 * expected.abs().max()
    return slow, quick


BENCHES = {
    "remove-and-classify, resnet50, 16 x 64 px": (bench_remove_and_classify, 1.2),
    "cue localisation, sample, resnet18": (bench_cues, 10),
    "pseudo masks, one image's pairs, 224 px": (bench_masks, 20),
    "mask accumulation, 100 maps of 224 px": (bench_accumulation, 5),
    "EM loss from F (16,2048,28,28), 200 classes": (bench_loss, 2),
}


if __name__ == "__main__":
    ratios.main(__doc__, BENCHES)
