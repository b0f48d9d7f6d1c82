"""How much faster cavl's parts are than the plain way, both timed in this process, best of n.

    python benchmarks/bench_cavl.py             # about a minute on one core

The plain ways are written for this file after the description of the released code (Python
loops over samples, a DataLoader over single items, images decoded one by one); their results
are checked against ours. Both train and evaluate on the GPU where there is one, in float32.
"""

import tempfile
from math import comb
from pathlib import Path

import numpy as np
import ratios
import torch
from PIL import Image
from ratios import best_seconds
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from cavl.build import Learner, build_optimizer
from cavl.data_candidates import generate_uniform_cv_candidate_labels
from cavl.data_labels import LabelState
from cavl.data_resident import Images
from cavl.main import train_epoch
from cavl.method import CAVL, initial_confidence
from cavl.options import build_parser
from cavl.utils.gen_index_dataset import gen_index_dataset
from cavl.utils.models import mlp_model
from cavl.utils.utils_algo import accuracy_check, confidence_update
from cavl.utils.utils_loss import rc_loss
from common.meter import Meter
from common.run import Run, start_run
from common.rundir import make_accelerator, prepare

K = 10
BATCH = 64
EVAL_BATCH = 4096
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETS = 10_000
TRAIN_IMAGES = 10_000
EVAL_IMAGES = 60_000


def plain_candidate_sets(labels: torch.Tensor) -> torch.Tensor:
    """The double loop over samples and sizes, with a tensor comparison in its middle."""
    n = len(labels)
    frequencies = torch.tensor([comb(K, s) for s in range(1, K)]).float() / float(2**K - 2)
    thresholds = torch.zeros(K - 1)
    for s in range(K - 1):
        thresholds[s] = frequencies[s] + (thresholds[s - 1] if s else 0.0)
    u = torch.from_numpy(np.random.uniform(0, 1, n)).float()  # noqa: NPY002
    sets = torch.zeros(n, K)
    sets[torch.arange(n), labels] = 1.0
    is_open = torch.ones(n)
    for i in range(n):
        for s in range(K - 1):
            if u[i] <= thresholds[s] and is_open[i] == 1:
                size = s + 1
                is_open[i] = 0
        order = torch.from_numpy(np.random.permutation(K))  # noqa: NPY002
        false = order[order != labels[i]]
        sets[i, false[: size - 1]] = 1.0
    return sets


def bench_candidate_sets(repeats: int) -> tuple[float, float]:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, K, SETS))
    np.random.seed(0)  # noqa: NPY002
    plain = plain_candidate_sets(labels)
    np.random.seed(0)  # noqa: NPY002
    assert torch.equal(plain, generate_uniform_cv_candidate_labels("bench", labels))

    generator = np.random.default_rng(1)
    return (
        best_seconds(lambda: plain_candidate_sets(labels), repeats),
        best_seconds(
            lambda: generate_uniform_cv_candidate_labels("bench", labels, generator=generator), 30
        ),
    )


def make_training_task() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.rand(TRAIN_IMAGES, 1, 28, 28)
    labels = torch.randint(0, K, (TRAIN_IMAGES,))
    Y = generate_uniform_cv_candidate_labels("bench", labels, generator=np.random.default_rng(0))
    return mlp_model(784, 500, K).to(DEVICE), images, labels, Y


def bench_training_epoch(repeats: int) -> tuple[float, float]:
    """One epoch after the first: forward, loss, step, second forward, new labels.

    In a fresh process: once blocks of some MB were freed, glibc keeps them, and the plain way's
    Adam, which makes such temporaries in every step, runs a third faster (cavl/README.md, Speed).
    """
    model, images, labels, Y = make_training_task()
    confidence = initial_confidence(Y).to(DEVICE)
    loader = DataLoader(
        gen_index_dataset(images, Y, labels.float()), batch_size=BATCH, shuffle=True
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-3)

    def plain() -> None:
        for x, y, _, index in loader:
            x = x.to(DEVICE)
            y = y.to(DEVICE)
            index = index.to(DEVICE)
            loss = rc_loss(model(x), confidence, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            confidence_update(model, confidence, x, y, index)

    with tempfile.TemporaryDirectory() as folder:
        learner, run = resident_learner(Path(folder))
        epochs = iter(range(1, 1 + repeats))

        def ours() -> None:
            run.progress.batch = 0
            train_epoch(learner, run, next(epochs), selecting=True)

        plain_seconds = best_seconds(plain, repeats)
        our_seconds = best_seconds(ours, repeats)
        run.close()
    return plain_seconds, our_seconds


def resident_learner(folder: Path) -> tuple[Learner, Run]:
    """The training loop of cavl/main.py on the same task, past its averaging epoch."""
    model, images, _, Y = make_training_task()
    flags = ["--mixed_precision", "no", "--output_dir", str(folder)]
    args = build_parser().parse_args(flags)
    accelerator = make_accelerator(args)
    run = start_run(args, folder, accelerator)
    network, optimizer = prepare(accelerator, model, build_optimizer(args, model))
    labels = LabelState(CAVL(), Y.to(torch.uint8), accelerator)
    labels.rows.copy_(Y.argmax(1))
    labels.has_selected = True
    learner = Learner(
        accelerator=accelerator,
        model=model,
        network=network,
        optimizer=optimizer,
        images=Images(images, accelerator.device),
        labels=labels,
        loss=Meter(accelerator),
        seed=args.seed,
        epochs=args.ep,
        batch_size=args.bs,
        augment=False,
        looks_again=True,
        by_maps=False,
    )
    return learner, run


class DecodedImages(Dataset):
    """One image at a time through PIL and ToTensor, as torchvision's MNIST does."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        self.pixels = pixels
        self.labels = labels
        self.transform = ToTensor()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index].numpy())), int(self.labels[index])


def bench_evaluation(repeats: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (EVAL_IMAGES, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, K, (EVAL_IMAGES,), generator=generator)
    model = mlp_model(784, 500, K).to(DEVICE)
    loader = DataLoader(DecodedImages(pixels, labels), batch_size=BATCH)
    resident = (pixels[:, None].float() / 255).to(DEVICE)
    answers = labels.to(DEVICE)

    def plain() -> float:
        return accuracy_check(loader, model, DEVICE)

    def ours() -> float:
        return accuracy_check(
            zip(resident.split(EVAL_BATCH), answers.split(EVAL_BATCH), strict=True), model, DEVICE
        )

    assert abs(plain() - ours()) < 1e-3  # float sums in another order may turn a near tie
    return best_seconds(plain, repeats), best_seconds(ours, 2 * repeats)


BENCHES = {
    f"candidate sets, n={SETS:,}, K={K}": (bench_candidate_sets, 200.0),
    f"training epoch, MLP, {TRAIN_IMAGES:,} images": (bench_training_epoch, 2.2),
    f"evaluation, MLP, {EVAL_IMAGES:,} images 28x28": (bench_evaluation, 4.0),
}


if __name__ == "__main__":
    ratios.main(__doc__, BENCHES)
