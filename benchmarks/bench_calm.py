"""How much faster calm's parts are than the plain way, and what a step costs beside a bare one.

Both are timed in this process. The best of n counts, in CPU seconds.

    python benchmarks/bench_calm.py             # about five minutes on one core

The plain ways are written for this file after the description of the released procedure (a
forward for every use, one numpy histogram per map, the mask of each image made anew for each pair);
every result is checked against ours.
"""

import atexit
import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import ratios
import torch
from PIL import Image
from ratios import alternating, timed
from torch import nn
from torch.nn import functional as F

from calm import network
from calm.build import with_data
from calm.data_loaders import ImageLabelDataset, make_transforms
from calm.evaluate import to_device
from calm.evaluate_cue import CueLocaliser
from calm.evaluate_erasing import evaluate_batch, get_topk_to_zero_mask, random_ranking
from calm.evaluate_maps import ScoreMapper
from calm.evaluate_pixels import PixelPR
from calm.method import EPS_DIVIDE, pixel_average_precision, safe_log
from calm.network.universal import UniversalProcess
from calm.network.util import without_batch_norm
from calm.options import parse
from calm.training import Trainer
from calm.util import get_threshold_list, resize_scoremaps
from calm.util_cub_trait import CUBTrait
from common.cam import normalize_scoremap
from common.loading import Batch

KS = (0.1, 0.3, 0.5, 0.7, 0.9)


def remove_and_classify(pictures: int, side: int, repeats: int) -> tuple[float, float]:
    """One batch, resnet50, large feature map, 200 classes, jointll, five shares k.

    The plain way follows the released order, in NCHW and with BatchNorm as a layer: 12 forwards, of
    the whole images for the prediction, the same for the map, and of the images without the
    highest-scoring pixels and without as many random ones for each k. A mask is cut from a sort of
    the scores for each k. Both ways erase the same pixels, and find the same to be correct. The
    forwards are all but 1 % of its time, and they are those of the released network.
    """
    torch.manual_seed(0)
    model = network.resnet50(
        num_classes=200, large_feature_map=True, attribution_method="CALM-EM"
    ).eval()
    x = torch.randn(pictures, 3, side, side)
    y = torch.arange(pictures)
    index = torch.arange(pictures)
    order = random_ranking(index, side * side, 0)

    @torch.no_grad()
    def plain() -> list[torch.Tensor]:
        found = [model(x)["probs"].argmax(1) == y]
        maps = model(x, y, return_cam="jointll").numpy()
        scores = resize_scoremaps(torch.from_numpy(maps), "tensor", (side, side))
        for k in KS:
            found.append(model(x * get_topk_to_zero_mask(scores, k))["probs"].argmax(1) == y)
        for k in KS:
            mask = np.ones((pictures, side * side), np.float32)
            np.put_along_axis(mask, order[:, : int(k * side * side)].numpy(), 0.0, axis=1)
            kept = torch.from_numpy(mask).view(pictures, 1, side, side)
            found.append(model(x * kept)["probs"].argmax(1) == y)
        return found

    whole = copy.deepcopy(model).to(memory_format=torch.channels_last).requires_grad_(False)
    mapper = ScoreMapper(whole, "jointll")
    classifier = without_batch_norm(whole)

    def ours() -> list[torch.Tensor]:
        images = x.contiguous(memory_format=torch.channels_last)
        maps, probs = mapper.with_probs(images, y)
        _, top, at_random = evaluate_batch(
            classifier,
            images,
            y,
            index,
            maps,
            ks=KS,
            seed=0,
            repeats=1,
            baseline="zero",
            tie_break="index",
            auc_steps=0,
        )
        return [probs.argmax(1) == y, *top[:, 0].T, *at_random[:, 0].T]

    slow, quick = alternating(plain, ours, repeats)
    assert all(torch.equal(a, b) for a, b in zip(plain(), ours(), strict=True))
    return slow, quick


def bench_remove_and_classify_small(repeats: int) -> tuple[float, float]:
    """16 pictures of 64 px."""
    return remove_and_classify(16, 64, repeats)


def bench_remove_and_classify_large(repeats: int) -> tuple[float, float]:
    """4 pictures of 224 px."""
    return remove_and_classify(4, 224, repeats)


def sample() -> tuple[Path, ImageLabelDataset, list[tuple[torch.Tensor, int, str]]]:
    """The CUB sample's folder, its test set, and its items."""
    _, data_set = with_data(parse(["--sample"]))
    data = ImageLabelDataset(
        data_set.paths["test"], data_set.metadata / "test", make_transforms(68, 64)["test"]
    )
    return data_set.root, data, [data[i] for i in range(len(data))]


def plain_mask(trait: CUBTrait, file: str, pair: tuple[int, int], side: int) -> np.ndarray | None:
    """All anew for each call, as released and as it is vectorised there.

    Points at the mask's size, squared distances of all pixels (column, row) to all points, argmin,
    the part of the nearest point, whether it is one of the differing parts, and the segmentation,
    resized. The masks are ours to the last pixel. The released function was not timed beside this
    one. An earlier plain way, a loop over pixels, was measured at 5.6 times its time, and takes 11
    times that of this one on the same machine. So the released function should take about twice as
    long as this one, and the ratio here is then too low rather than too high.
    """
    with Image.open(trait.data_dir / "images" / file) as image:
        size = image.size
    points, parts = trait._get_parts_union(trait.image_file2image_id[file], size, side)
    differing = trait.differing_parts(*pair)
    if not set(parts.tolist()) & differing:
        return None
    pixels = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 1, 2)
    nearest = parts[((pixels - points) ** 2).sum(-1).argmin(1)]
    mask = np.isin(nearest, list(differing)).reshape(side, side).astype(np.uint8)
    with Image.open((trait.data_dir / "segmentations" / file).with_suffix(".png")) as soft:
        return mask * (np.asarray(soft.resize((side, side), Image.Resampling.BICUBIC)) > 0)


def forget_masks(trait: CUBTrait) -> None:
    """Empty all caches of images."""
    trait._parts_of_bird.cache_clear()
    trait.points_and_parts.cache_clear()


def masks(count: int, repeats: int) -> tuple[float, float]:
    """Masks of one image for its first pairs of classes at 224 px, from empty caches."""
    folder, data, _ = sample()
    trait = CUBTrait(folder)
    file = data.image_ids[0]
    pairs = [p for d in (1, 2, 3) for p in trait.diff2class_pair_dict[d] if 1 in p][:count]

    def plain() -> list[np.ndarray | None]:
        return [plain_mask(trait, file, pair, 224) for pair in pairs]

    def ours() -> list[np.ndarray | None]:
        forget_masks(trait)
        return [trait.get_pseudo_segment_mask(file, pair) for pair in pairs]

    slow, quick = alternating(plain, ours, 10 * repeats)
    assert len(pairs) == count
    assert all(np.array_equal(a, b) for a, b in zip(plain(), ours(), strict=True))
    return slow, quick


def bench_mask(repeats: int) -> tuple[float, float]:
    """One image and pair."""
    return masks(1, repeats)


def bench_masks(repeats: int) -> tuple[float, float]:
    """One image and its five pairs."""
    return masks(5, repeats)


def bench_cues(repeats: int) -> tuple[float, float]:
    """Cue localisation of the sample's 120 test images: every pair anew against one pass.

    The plain way runs the network twice for each pair and image of its classes, one image at a
    time, makes the mask anew and counts with numpy.histogram, as released. The released program
    also builds three loaders and reads six lists anew for each pair, and decodes the images; here
    they lie in memory, so that the plain way is faster than the released one. The scores are equal
    but for pixels that rounding moves to the next bin.
    """
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
                    mask = plain_mask(trait, image_id, pair, 64)
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
        forget_masks(trait)
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
    """100 maps of 224 x 224, 1000 log thresholds: numpy.histogram per map against one bincount.

    The plain way is two calls of numpy.histogram a map, of the values inside and outside the mask,
    as in the released accumulate; the counts are equal. All its time is numpy's own.
    """
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
    runs it four times, and makes eight (B, C, h, w) tensors, as the released process does in NCHW.
    The gradients are equal to 1e-4 of the largest.
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


# ---- steps -----------------------------------------------------------------------------


def training_step(flags: list[str], options: ratios.Options, bare_of: Callable) -> ratios.Step:
    """`Trainer.learn` on the next batch of its own loader, and the bare step of the same network.

    The bare network is that of CAM: the mean over the grid of conv_last(F), and cross entropy.
    """
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    given = ["--sample", "--pretrained=False", "--attribution_method=CALM_EM", *flags]
    given += [f"--mixed_precision={options.mixed_precision}", f"--output_dir={folder}/run"]
    trainer = Trainer(parse(given))
    trainer.network = options.compiled(trainer.network)
    trainer.network.train()
    loader = trainer.loaders["train"]
    size = trainer.args.batch_size

    def batches() -> Iterator[Batch]:
        epoch = 0
        while True:
            loader.batch_sampler.set_epoch(epoch)
            yield from (batch for batch in loader if len(batch.index) == size)
            epoch += 1

    endless = batches()

    def ours() -> None:
        trainer.learn(next(endless), size)
        trainer.run.step(size)

    bare = bare_of(num_classes=6, attribution_method="CAM", prior_activation="softplus")
    bare = bare.to(options.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        bare.parameters(), 0.02, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True
    )
    images, labels, _ = next(endless).data
    images, labels = to_device(images, labels, options.device)
    forward = options.compiled(lambda x: bare.conv_last(bare.extract(x)).mean((2, 3)))

    def bare_step() -> None:
        with options.autocast():
            logits = forward(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    # The images lie in memory after the first epoch, as in all later ones of a run.
    for _ in range(len(loader)):
        next(endless)
    return ratios.Step(ours, bare_step, size)


def step_sample(options: ratios.Options) -> ratios.Step:
    """The sample's own settings: five convolutions, batches of 32 pictures of 64 px."""
    return training_step([], options, network.small)


def step_resnet50(options: ratios.Options) -> ratios.Step:
    """The sample's pictures at 224 px, batch 4, resnet50 with the large feature map."""
    flags = ["--architecture=resnet50", "--large_feature_map", "--batch_size=4"]
    flags += ["--resize_size=256", "--crop_size=224", "--lr=0.001"]
    return training_step(flags, options, partial(network.resnet50, large_feature_map=True))


BENCHES = {
    "remove-and-classify, resnet50, 4 x 224 px": (bench_remove_and_classify_large, 1.2),
    "remove-and-classify, resnet50, 16 x 64 px": (bench_remove_and_classify_small, 1.2),
    "cue localisation, sample, resnet18": (bench_cues, 10),
    "pseudo mask, one image and pair, 224 px": (bench_mask, 20),
    "pseudo masks, one image's five pairs, 224 px": (bench_masks, 20),
    "mask accumulation, 100 maps of 224 px": (bench_accumulation, 5),
    "EM loss from F (16,2048,28,28), 200 classes": (bench_loss, 2),
}

STEPS = {
    "sample, small, batch 32 of 64 px": (step_sample, 1.2),
    "resnet50, batch 4 of 224 px": (step_resnet50, 1.2),
}


if __name__ == "__main__":
    ratios.main(__doc__, BENCHES, STEPS)
