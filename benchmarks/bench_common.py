"""What the shared code costs: reading pictures, seeding their augmentation, keeping a run's books.

    python benchmarks/bench_common.py           # a few seconds on one core

A row near 1 is what is wanted of reading and of the step: there the plain way is the floor. The
rows of dilated networks are beside timm's own, on a CPU.
"""

import argparse
import copy
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from accelerate import Accelerator
from PIL import Image
from ratios import Options, Step, alternating, main
from sklearn.datasets import load_sample_image
from torch.utils.data import DataLoader, Dataset

from common.backbones_dilated import by_phases
from common.images import read_image
from common.loading import Seeded, seed_of, train_loader
from common.meter import Meter
from common.run import start_run
from common.shards_pack import pack

PICTURES = 24
PACKED = 2000
ITEMS = 1024
BATCH = 32

# --- pictures ---


def write_pictures(folder: Path, side: int) -> list[Path]:
    """JPEGs of a photograph's parts, from side x side pixels upwards.

    Of several sizes: the address at which Pillow's decoder happens to keep a row of pixels decides
    between two speeds, 1.4 apart, and it goes by the row's length.
    """
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    paths = []
    for number in range(PICTURES):
        corner = 8 * number
        part = photograph.crop((corner, corner, corner + 240, corner + 240))
        paths.append(folder / f"{number}.jpg")
        size = (side + number, side + number)
        part.resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def plain_picture(path: Path) -> Image.Image:
    """As torchvision's folders and all five released codes read a picture: PIL, then RGB."""
    with path.open("rb") as file:
        return Image.open(file).convert("RGB")


def decode(side: int, repeats: int) -> tuple[float, float]:
    """Reading pictures, which `read_image` checks and names besides."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder), side)
        for path in paths:
            expected = np.asarray(plain_picture(path))
            assert np.array_equal(np.asarray(read_image(path, upright=False)), expected)
        return alternating(
            lambda: [plain_picture(path) for path in paths],
            lambda: [read_image(path, upright=False) for path in paths],
            3 * repeats,
        )


# --- shards ---


def in_shards(side: int, repeats: int) -> tuple[float, float]:
    """A loader's epoch over JPEGs of `side` x `side` pixels, from files and from tar shards.

    Every picture is read once and in a new order, as in training; the system holds both in memory.
    """
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        folder, packed = Path(place) / "files", Path(place) / "packed"
        for number in range(PACKED):
            left, top = generator.integers(0, [640 - side, 427 - side]).tolist()
            path = folder / f"{number % 20:02d}" / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph.crop((left, top, left + side, top + side)).save(path, quality=90)
        pack(folder, packed, shard_bytes=8_000_000)
        names = sorted(path.relative_to(folder) for path in folder.rglob("*.jpg"))
        order = generator.permutation(len(names)).tolist()
        files = [folder / names[index] for index in order]
        members = [packed / names[index] for index in order]
        for path, member in zip(files, members, strict=True):
            assert np.array_equal(np.asarray(read_image(path)), np.asarray(read_image(member)))
        return alternating(
            lambda: [read_image(path) for path in files],
            lambda: [read_image(member) for member in members],
            3 * repeats,
        )


# --- loaders ---


class Drawn(Dataset):
    """Items that cost nothing but a number from torch's global stream."""

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(())


def plain_items(data: Dataset, seed: int, keys: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
    """Each item by itself: keep the three global streams, seed them, put them back."""
    items = []
    for epoch, index in keys:
        of_python = random.getstate()
        of_numpy = np.random.get_state()  # noqa: NPY002
        of_torch = torch.get_rng_state()
        number = seed_of(seed, epoch, index)
        random.seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(number)
        items.append(data[index])
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_rng_state(of_torch)
    return items


def seeding(repeats: int) -> tuple[float, float]:
    """Items whose augmentation depends on (seed, epoch, index) alone, in batches."""
    data = Drawn()
    seeded = Seeded(data, seed=1)
    keys = [(3, index) for index in range(ITEMS)]
    batches = [keys[start : start + BATCH] for start in range(0, ITEMS, BATCH)]
    expected = plain_items(data, 1, keys)
    assert [item for _, item in seeded.__getitems__(keys)] == expected
    return alternating(
        lambda: plain_items(data, 1, keys),
        lambda: [seeded.__getitems__(batch) for batch in batches],
        3 * repeats,
    )


def loader(repeats: int) -> tuple[float, float]:
    """An epoch of ready items beside torch's own loader, which can repeat no item and no place."""
    data = Drawn()
    plain = DataLoader(data, BATCH, shuffle=True)
    ours = train_loader(data, BATCH, seed=1, accelerator=Accelerator(cpu=True))
    return alternating(lambda: list(plain), lambda: list(ours), 3 * repeats)


# --- a step ---


def network_and_optimizer(device: torch.device) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A small MLP, beside which bookkeeping shows."""
    layers = [torch.nn.Linear(784, 500), torch.nn.ReLU(), torch.nn.Linear(500, 10)]
    network = torch.nn.Sequential(*layers).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=True)
    return network, optimizer


def bookkeeping(options: Options) -> Step:
    """A step with guard, meter and `run.step`, without saving; and the same step without them."""
    folder = Path(tempfile.mkdtemp())
    args = argparse.Namespace(
        output_dir=folder / "run",
        resume=None,
        overwrite=False,
        max_steps=None,
        checkpoint_every=None,
        seed=0,
    )
    accelerator = Accelerator(cpu=options.device.type == "cpu")
    run = start_run(args, folder, accelerator)
    run.close()
    shutil.rmtree(folder)  # nothing is saved
    meter = Meter(accelerator)
    images = torch.rand(256, 784, device=options.device)
    labels = torch.randint(10, (256,), device=options.device)
    index = torch.arange(256)

    network, optimizer = network_and_optimizer(options.device)
    network = options.compiled(network)

    def forward() -> torch.Tensor:
        with options.autocast():
            return torch.nn.functional.cross_entropy(network(images), labels)

    def learn(loss: torch.Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def bare() -> None:
        learn(forward())

    def ours() -> None:
        loss = forward()
        run.guard(loss, index)
        learn(loss)
        meter.add(loss, len(images))
        run.step(len(images))

    return Step(ours, bare, len(images))


# --- a dilated network ---


def dilated(pictures: int, side: int, repeats: int) -> tuple[float, float]:
    """EfficientNet-Lite0 at stride 16, forward and backward, beside the same with plain kernels."""
    plain = timm.create_model("tf_efficientnet_lite0", output_stride=16, num_classes=0)
    plain.to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    by_phases(ours)
    images = torch.rand(pictures, 3, side, side)
    images = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours(images), plain(images), rtol=1e-3, atol=1e-4)

    def step(network: torch.nn.Module) -> None:
        network.zero_grad()
        network(images).square().mean().backward()

    return alternating(lambda: step(plain), lambda: step(ours), repeats)


BENCHES = {
    "read_image, about 224 px": (lambda repeats: decode(224, repeats), None),
    "read_image, about 448 px": (lambda repeats: decode(448, repeats), None),
    "shards beside files, 64 px": (lambda repeats: in_shards(64, repeats), 1),
    "shards beside files, 224 px": (lambda repeats: in_shards(224, repeats), 1),
    "seeded items in batches of 32": (seeding, 5),
    "loader of ready items": (loader, None),
    "Lite0 at stride 16, 96 px": (lambda repeats: dilated(24, 96, repeats), 1),
    "Lite0 at stride 16, tiles of 48 px": (lambda repeats: dilated(96, 48, repeats), 2),
    "Lite0 at stride 16, 224 px": (lambda repeats: dilated(8, 224, repeats), 1),
}
STEPS = {"MLP with a run's bookkeeping": (bookkeeping, 1.05)}

if __name__ == "__main__":
    main(__doc__, BENCHES, STEPS)
