"""How much faster mile's parts are than the plain way, both timed in this process, best of n.

    python benchmarks/bench_mile.py             # about a minute on one core

The plain ways are written for this file after the description of the released codes: a PIL pipeline
for each digit and grid, Python sets for each image. Their results are checked against ours. The
unofficial code's evaluation takes 4 microseconds a predicted label (1.6 s at 76 an image, 22 s at
940): labels read one by one from a tensor, which is the plain way that has the target of 50; a
plain way that turns them into Python lists at once is timed besides.
"""

import numpy as np
import ratios
import torch
from PIL import Image
from ratios import best_seconds
from torchvision.transforms import v2

from mile.data_grids import annotated_cell, compose_grids, mnist_preprocess
from mile.data_images import IMAGENET_MEAN, IMAGENET_STD
from mile.data_labels import BUNDLED, read_real_labels
from mile.evaluate import RealMetrics

GRIDS = 100
IMAGES = 5000
CLASSES = 1000
RHO = 0.25


def plain_grids(
    digits: np.ndarray, labels: list[int], cells: list[int], size: int
) -> tuple[torch.Tensor, list, list]:
    """Paste nine PIL pictures into one, convert, resize, normalise: one grid after the other."""
    steps = [v2.Resize(256), v2.CenterCrop(224)] if size == 224 else []
    look = v2.Compose(
        [
            *steps,
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    pictures = []
    singles = []
    sets = []
    for k, cell in enumerate(cells):
        canvas = Image.new("L", (84, 84))
        found = set()
        for place in range(9):
            row, column = divmod(place, 3)
            canvas.paste(Image.fromarray(digits[9 * k + place]), (28 * column, 28 * row))
            found.add(labels[9 * k + place])
        pictures.append(look(canvas.convert("RGB")))
        singles.append(labels[9 * k + cell])
        sets.append(found)
    return torch.stack(pictures), singles, sets


def bench_grids(size: int, repeats: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    digits = torch.randint(0, 256, (9 * GRIDS, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (9 * GRIDS,), generator=generator)
    u = torch.rand(GRIDS, generator=generator, dtype=torch.float64)
    arrays = digits.numpy()
    names = labels.tolist()
    cells = annotated_cell(u).tolist()

    def plain() -> tuple[torch.Tensor, list, list]:
        return plain_grids(arrays, names, cells, size)

    def ours() -> tuple[torch.Tensor, ...]:
        grids, single, real = compose_grids(digits, labels, u)
        return mnist_preprocess(grids, size), single, real

    x, single, sets = plain()
    our_x, our_single, our_real = ours()
    assert (x - our_x).abs().max() < 0.03 and single == our_single.tolist()
    assert [set(row.nonzero().flatten().tolist()) for row in our_real] == sets
    return best_seconds(plain, repeats), best_seconds(ours, 4 * repeats)


def plain_metrics(
    logits: torch.Tensor, label: torch.Tensor, real: list[list[int]], *, at_once: bool
) -> tuple[float, ...]:
    """The unofficial protocol with a Python list and set for each image.

    The labels are read from the tensor one by one, or `at_once` by tolist().
    """
    p = logits.sigmoid()
    top = logits.argmax(1)
    predicted = [[] for _ in range(len(logits))]
    entries = (p > RHO).nonzero()
    for row, column in entries.tolist() if at_once else entries:
        predicted[int(row)].append(int(column))
    correct = real_correct = coverage = 0
    f1 = 0.0
    for i, truth in enumerate(real):
        correct += int(top[i] == label[i])
        if truth:
            real_correct += int(top[i]) in truth
            coverage += len(predicted[i])
            f1 += 2 * len(set(predicted[i]) & set(truth)) / (len(predicted[i]) + len(truth))
    n = len(real)
    return correct / n, f1 / n, real_correct / n, coverage / n


def bench_metrics(
    labels_per_image: int, repeats: int, *, at_once: bool = False
) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    real = read_real_labels(BUNDLED)[:IMAGES]
    logits = torch.randn(IMAGES, CLASSES, generator=generator) - 9
    chosen = torch.randint(0, CLASSES, (IMAGES, labels_per_image), generator=generator)
    logits.scatter_(1, chosen, torch.randn(chosen.shape, generator=generator) + 2)
    label = torch.randint(0, CLASSES, (IMAGES,), generator=generator)
    batches = [slice(i, i + 500) for i in range(0, IMAGES, 500)]

    def plain() -> tuple[float, ...]:
        parts = [plain_metrics(logits[b], label[b], real[b], at_once=at_once) for b in batches]
        return tuple(float(np.mean(column)) for column in zip(*parts, strict=True))

    def ours() -> dict[str, float]:
        metrics = RealMetrics(CLASSES, rho=RHO, protocol="unofficial")
        for b in batches:
            metrics.update(logits[b], label[b], real[b])
        return metrics.compute()

    found = ours()
    names = ("acc", "real_f1", "real_acc", "label_coverage")
    assert np.allclose(plain(), [found[name] for name in names], atol=1e-6)
    return best_seconds(plain, repeats), best_seconds(ours, 4 * repeats)


BENCHES = {
    f"{GRIDS} grids at 84x84": (lambda n: bench_grids(84, n), 15.0),
    f"{GRIDS} grids at 224x224": (lambda n: bench_grids(224, n), 1.0),
    f"metrics, {IMAGES:,} x {CLASSES:,}, 1 label an image": (lambda n: bench_metrics(1, n), 1.0),
    f"metrics, {IMAGES:,} x {CLASSES:,}, 76 labels an image": (
        lambda n: bench_metrics(76, n),
        50.0,
    ),
    "  the same against tolist() at once": (lambda n: bench_metrics(76, n, at_once=True), 1.0),
}


if __name__ == "__main__":
    ratios.main(__doc__, BENCHES)
