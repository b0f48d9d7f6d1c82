"""CAVL's released training program, written anew after its description: the plain way in full.

What is described, and followed here line by line: torchvision's MNIST through ToTensor; the whole
training set in one batch of a DataLoader; candidate sets by a double loop; a DataLoader over single
items, shuffled, batches of 64; an MLP; Adam as torch builds it by default (not fused); the loss and
the update of the table, the latter from a second forward after the step; after every epoch the
accuracy on the training and on the test images, decoded one by one. None of these functions looks
at the values that it is given, as ours for other programs do (`cavl.utils`): they are the formulas
alone. Losses, updates, sets and accuracies are compared with ours in tests/cavl/test_speed.py.
"""

import time
from math import comb
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from cavl.method import initial_confidence
from cavl.utils.gen_index_dataset import gen_index_dataset
from cavl.utils.models import mlp_model

K = 10
BATCH = 64
HIDDEN = 500
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def now() -> float:
    """CPU seconds of this process; with a GPU wall seconds, synchronised."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


# ---- the parts -----------------------------------------------------------------------------------


def candidate_sets(labels: torch.Tensor) -> torch.Tensor:
    """The double loop over samples and sizes, with a tensor comparison in its middle: (n, K)."""
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


def confidence_loss(
    outputs: torch.Tensor, confidence: torch.Tensor, index: torch.Tensor
) -> torch.Tensor:
    """The cross-entropy weighted by the rows `index` (B,) of the table (n, K), a scalar."""
    log_p = F.log_softmax(outputs, dim=1)
    weighted = log_p * confidence[index, :]
    return -weighted.sum(dim=1).mean()


@torch.no_grad()
def update_confidence(
    model: nn.Module,
    confidence: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    index: torch.Tensor,
) -> None:
    """A second forward, and a one-hot row for each sample of the batch: argmax |z - 1| z Y."""
    outputs = model(x)
    values = torch.abs(outputs - 1) * outputs * y
    selected = values.argmax(dim=1)
    confidence[index, :] = F.one_hot(selected, confidence.shape[1]).float()


@torch.no_grad()
def accuracy(loader: DataLoader, model: nn.Module) -> float:
    """The accuracy over a loader of (images, labels), read from the device after every batch."""
    hits = 0
    count = 0
    for images, labels in loader:
        outputs = model(images.to(DEVICE))
        predicted = outputs.argmax(dim=1)
        hits += (predicted == labels.to(DEVICE)).sum().item()
        count += len(labels)
    return hits / count


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    confidence: torch.Tensor,
) -> None:
    """Forward, loss, backward, step, second forward, update; for every batch of the loader."""
    for x, y, _, index in loader:
        x = x.to(DEVICE)
        y = y.to(DEVICE)
        index = index.to(DEVICE)
        optimizer.zero_grad()
        loss = confidence_loss(model(x), confidence, index)
        loss.backward()
        optimizer.step()
        update_confidence(model, confidence, x, y, index)


class Task:
    """Network, Adam, table and shuffled loader of a training set: images (n, ...), sets (n, K)."""

    def __init__(self, images: torch.Tensor, sets: torch.Tensor, labels: torch.Tensor) -> None:
        self.model = mlp_model(images[0].numel(), HIDDEN, K).to(DEVICE)
        self.confidence = initial_confidence(sets).to(DEVICE)
        weights = self.model.parameters()
        self.optimizer = torch.optim.Adam(weights, lr=1e-3, weight_decay=1e-3)
        items = gen_index_dataset(images, sets, labels.float())
        self.loader = DataLoader(items, batch_size=BATCH, shuffle=True)

    def train_epoch(self) -> None:
        train_epoch(self.model, self.optimizer, self.loader, self.confidence)


class DecodedImages(Dataset):
    """One image at a time through PIL and ToTensor, as torchvision's MNIST does."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        from PIL import Image

        self.pixels = pixels
        self.labels = labels
        self.transform = ToTensor()
        self.decode = Image.fromarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.decode(self.pixels[index].numpy())), int(self.labels[index])


# ---- the whole program ---------------------------------------------------------------------------


def run_program(root: Path, epochs: int, *, flush_denormals: bool = False) -> list[float]:
    """Seconds from the start to the end of each epoch; root: the folder above MNIST/raw."""
    torch.set_flush_denormal(flush_denormals)
    start = now()
    train = MNIST(str(root), train=True, transform=ToTensor())
    test = MNIST(str(root), train=False, transform=ToTensor())
    everything = DataLoader(train, batch_size=len(train), shuffle=True)
    train_loader = DataLoader(train, batch_size=BATCH, shuffle=True)
    test_loader = DataLoader(test, batch_size=BATCH)

    images, labels = next(iter(everything))
    task = Task(images, candidate_sets(labels), labels)
    accuracy(train_loader, task.model)
    accuracy(test_loader, task.model)

    ends = []
    for _ in range(epochs):
        task.train_epoch()
        accuracy(train_loader, task.model)
        accuracy(test_loader, task.model)
        ends.append(now() - start)
    return ends
