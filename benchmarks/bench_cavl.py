"""How much faster cavl is than the plain way: its parts, its whole program, its training step.

    python benchmarks/bench_cavl.py                   # about five minutes on one idle core
    python benchmarks/bench_cavl.py --only program    # the whole program alone

The plain ways stand in benchmarks/released_cavl.py, written after the description of the released
code; their results are checked against ours. Both train and evaluate on the GPU where there is
one, in float32. Plain and ours train in processes of their own, in the state of memory that the
released program trains in (`warm_allocator`).

The whole program is main.py on drawn idx files of MNIST's size, digits of 20x20 at random places in
28x28. On a CPU the released program slows down from epoch to epoch: weight decay drives the weights
of always-black pixels, and Adam's averages of their gradients, below 1e-38, and a processor is slow
with such denormal numbers. Ours flushes them to zero (`common.processes.seed_everything`), and does
not slow down. The row "flushing" gives the released program the same switch: the rest of the
slowdown in its row "epoch 4" is due to denormals alone.

The whole step is an epoch of the offline sample (21 batches) through the program's own loop; the
bare step is 21 times forward, cross-entropy, backward and fused Adam on batches in memory. The
recipe `after` has a second forward in every step, which the bare step has not.
"""

import functools
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import ratios
import released_cavl as plain
import torch
from ratios import Options, Step, best_seconds
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import DataLoader

from cavl.build import Learner, build_optimizer, on_device
from cavl.data import load_dataset
from cavl.data_candidates import generate_uniform_cv_candidate_labels
from cavl.data_labels import LabelState
from cavl.data_resident import Images
from cavl.main import main as our_main
from cavl.main import train_epoch
from cavl.method import CAVL
from cavl.options import build_parser
from cavl.options_datasets import locate_dataset
from cavl.utils.models import mlp_model
from cavl.utils.utils_algo import accuracy_check
from common.meter import Meter
from common.run import Run, start_run
from common.rundir import make_accelerator, prepare, seed_everything
from common.samples.mnist import write_idx

K = plain.K
BATCH = plain.BATCH
DEVICE = plain.DEVICE
EVAL_BATCH = 4096
SETS = 10_000
TRAIN_IMAGES = 10_000
EVAL_IMAGES = 60_000
EPOCHS = 4


def in_fresh_process(function: Callable, *args: Any) -> Any:
    """function(*args), in a process that has done nothing else, with as many threads as here."""
    context = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (threads,)) as pool:
        return pool.submit(function, *args).result()


def bench_candidate_sets(repeats: int) -> tuple[float, float]:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, K, SETS))
    np.random.seed(0)  # noqa: NPY002
    slow = plain.candidate_sets(labels)
    np.random.seed(0)  # noqa: NPY002
    assert torch.equal(slow, generate_uniform_cv_candidate_labels("bench", labels))

    generator = np.random.default_rng(1)
    return (
        best_seconds(lambda: plain.candidate_sets(labels), repeats),
        best_seconds(
            lambda: generate_uniform_cv_candidate_labels("bench", labels, generator=generator), 30
        ),
    )


# ---- an epoch of training ------------------------------------------------------------------------


def make_training_task() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.rand(TRAIN_IMAGES, 1, 28, 28)
    labels = torch.randint(0, K, (TRAIN_IMAGES,))
    Y = generate_uniform_cv_candidate_labels("bench", labels, generator=np.random.default_rng(0))
    return images, labels, Y


def warm_allocator() -> None:
    """Bring glibc into the state in which the released program trains: no page fault in a step.

    A block of some MB was freed there before (the test images). Without that, every temporary of an
    Adam that is not fused is asked of the kernel anew, and the plain way takes a third longer.
    """
    torch.ones(4_000_000).sum()


def time_plain_epoch(repeats: int) -> float:
    warm_allocator()
    images, labels, Y = make_training_task()
    task = plain.Task(images, Y, labels)
    return best_seconds(task.train_epoch, repeats)


def time_our_epoch(repeats: int, looks_again: bool) -> float:
    warm_allocator()
    images, _, Y = make_training_task()
    with tempfile.TemporaryDirectory() as folder:
        learner, run = learner_of(Path(folder), images, Y, looks_again=looks_again)
        epoch = epoch_of(learner, run)
        seconds = best_seconds(epoch, repeats)
        run.close()
    return seconds


def bench_training_epoch(repeats: int, looks_again: bool) -> tuple[float, float]:
    """One epoch after the first: forward, loss, step, second forward, new labels."""
    slow = in_fresh_process(time_plain_epoch, repeats)
    quick = in_fresh_process(time_our_epoch, repeats, looks_again)
    return slow, quick


def learner_of(
    folder: Path,
    images: torch.Tensor,
    Y: torch.Tensor,
    *,
    looks_again: bool,
    options: Options | None = None,
) -> tuple[Learner, Run]:
    """The training loop of cavl/main.py on images (n, ...), past its averaging epoch."""
    options = options or Options()
    flags = ["--mixed_precision", options.mixed_precision, "--output_dir", str(folder)]
    args = build_parser().parse_args(flags)
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    run = start_run(args, folder, accelerator)
    model = on_device(mlp_model(images[0].numel(), plain.HIDDEN, K), accelerator.device)
    optimizer = build_optimizer(args, model)
    network, optimizer = prepare(accelerator, options.compiled(model), optimizer)
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
        looks_again=looks_again,
        by_maps=False,
    )
    return learner, run


def epoch_of(learner: Learner, run: Run) -> Callable[[], None]:
    """A call that trains the next epoch."""
    numbers = iter(range(1, 1_000_000))

    def epoch() -> None:
        run.progress.batch = 0
        train_epoch(learner, run, next(numbers), selecting=True)

    return epoch


def build_sample_step(options: Options, looks_again: bool) -> Step:
    """An epoch of the offline sample, batch by batch, against as many bare steps."""
    data = load_dataset("mnist", locate_dataset("mnist", None, want_sample=True))
    labels = data.train_y.numpy()
    Y = generate_uniform_cv_candidate_labels("bench", labels, generator=np.random.default_rng(0))
    folder = Path(tempfile.mkdtemp())
    learner, run = learner_of(folder, data.train_x, Y, looks_again=looks_again, options=options)

    model = on_device(mlp_model(784, plain.HIDDEN, K), options.device)
    network = options.compiled(model)
    weights = model.parameters()
    optimizer = torch.optim.Adam(weights, lr=1e-3, weight_decay=1e-3, fused=True)
    order = torch.randperm(len(labels), device=options.device)
    pixels = learner.images.pixels[order].split(BATCH)
    answers = data.train_y.to(options.device)[order].split(BATCH)

    def bare() -> None:
        for x, y in zip(pixels, answers, strict=True):
            with options.autocast():
                loss = F.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return Step(epoch_of(learner, run), bare, len(labels))


# ---- the whole program ---------------------------------------------------------------------------


def draw_mnist(root: Path) -> None:
    """Idx files of MNIST's size: digits at random places, between rows that stay black.

    They leave 57 of the 784 pixels black in all training images; in MNIST 67 are.
    """
    rng = np.random.default_rng(0)
    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None]
    large = F.interpolate(small, size=(20, 20), mode="bilinear")[:, 0].numpy() * (255 / 16)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, n in (("train", 60_000), ("t10k", 10_000)):
        chosen = rng.integers(len(large), size=n)
        places = rng.integers((1, 0), (8, 9), size=(n, 2))
        images = np.zeros((n, 28, 28), np.uint8)
        for image, digit, (top, left) in zip(images, chosen, places, strict=True):
            image[top : top + 20, left : left + 20] = large[digit]
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", digits.target[chosen].astype(np.uint8))


def run_our_program(root: Path, epochs: int) -> list[float]:
    """Seconds from the start of main.py to the end of each epoch."""
    ends = []
    end_epoch = Run.end_epoch

    def noting_end_epoch(run: Run, score: float | None = None) -> None:
        end_epoch(run, score)
        ends.append(plain.now() - start)

    Run.end_epoch = noting_end_epoch  # type: ignore[method-assign]
    folder = root / "run"
    flags = ["--data_dir", str(root), "-ep", str(epochs), "--mixed_precision", "no"]
    start = plain.now()
    our_main([*flags, "--output_dir", str(folder)])
    return ends


@functools.cache
def time_programs() -> dict[str, list[float]]:
    """The ends of all epochs: the released program, the same flushing denormals, and ours."""
    flushing = functools.partial(plain.run_program, flush_denormals=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_mnist(root)
        return {
            "released": in_fresh_process(plain.run_program, root, EPOCHS),
            "flushing": in_fresh_process(flushing, root, EPOCHS),
            "ours": in_fresh_process(run_our_program, root, EPOCHS),
        }


def bench_program_start(_: int) -> tuple[float, float]:
    """From the start to the end of the first epoch: reading, sets, training, evaluation."""
    ends = time_programs()
    return ends["released"][0], ends["ours"][0]


def bench_program_epoch(_: int, first: str) -> tuple[float, float]:
    """The last epoch: training and evaluation."""
    ends = time_programs()
    slow = ends[first][-1] - ends[first][-2]
    quick = ends["ours"][-1] - ends["ours"][-2]
    return slow, quick


# ---- evaluation ----------------------------------------------------------------------------------


def bench_evaluation(repeats: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (EVAL_IMAGES, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, K, (EVAL_IMAGES,), generator=generator)
    model = mlp_model(784, plain.HIDDEN, K).to(DEVICE)
    loader = DataLoader(plain.DecodedImages(pixels, labels), batch_size=BATCH)
    resident = (pixels[:, None].float() / 255).to(DEVICE)
    answers = labels.to(DEVICE)

    def slow() -> float:
        return plain.accuracy(loader, model)

    def ours() -> float:
        return accuracy_check(
            zip(resident.split(EVAL_BATCH), answers.split(EVAL_BATCH), strict=True), model, DEVICE
        )

    assert abs(slow() - ours()) < 1e-3  # float sums in another order may turn a near tie
    return best_seconds(slow, repeats), best_seconds(ours, 2 * repeats)


EPOCH = f"training epoch, MLP, {TRAIN_IMAGES:,} images"

BENCHES = {
    f"candidate sets, n={SETS:,}, K={K}": (bench_candidate_sets, 200.0),
    EPOCH: (functools.partial(bench_training_epoch, looks_again=True), 2.2),
    f"{EPOCH}, -cav_forward before": (
        functools.partial(bench_training_epoch, looks_again=False),
        2.2,
    ),
    f"evaluation, MLP, {EVAL_IMAGES:,} images 28x28": (bench_evaluation, 4.0),
    "whole program, start and epoch 1": (bench_program_start, None),
    f"whole program, epoch {EPOCHS}": (
        functools.partial(bench_program_epoch, first="released"),
        None,
    ),
    f"whole program, epoch {EPOCHS}, both flushing denormals": (
        functools.partial(bench_program_epoch, first="flushing"),
        None,
    ),
}

SAMPLE = "training step x 21, MLP, sample"

STEPS = {
    f"{SAMPLE}, -cav_forward before": (
        functools.partial(build_sample_step, looks_again=False),
        1.2,
    ),
    f"{SAMPLE}, -cav_forward after": (functools.partial(build_sample_step, looks_again=True), None),
}


if __name__ == "__main__":
    ratios.main(__doc__, BENCHES, STEPS)
