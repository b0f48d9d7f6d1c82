"""MILe in somebody else's training loop: a network, a loader, and mile.method in the middle.

python -m docs.examples.mile            # the sample of thirty pictures; or give a folder
"""

import sys

import torch
from torch import nn
from torchvision.transforms.functional import to_tensor

from common import own, samples
from common.images import read_image
from mile.method import IteratedLearning, prediction_set

data = own.read_own(sys.argv[1] if len(sys.argv) > 1 else samples.ensure("own") / "complete.csv")
torch.manual_seed(0)


def tensors(part):
    pictures = [read_image(path).resize((32, 32)) for path in part.paths]
    return torch.stack([to_tensor(picture) for picture in pictures]), torch.from_numpy(part.labels)


pooled = [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.LazyLinear(data.num_classes)]
network = nn.Sequential(nn.Conv2d(3, 24, 3, 2), nn.ReLU(), nn.Conv2d(24, 48, 3), nn.ReLU(), *pooled)
images, labels = tensors(data.train)
network(images[:1])  # the lazy layer takes its size
learner = IteratedLearning(network, num_classes=data.num_classes, rho=0.25, lr=0.03)

for generation in range(3):
    for batch in torch.randperm(len(images)).repeat(20).split(8):
        loss = learner.interactive_step(images[batch], labels[batch])  # the single labels
    learner.begin_imitation()
    for batch in torch.randperm(len(images)).repeat(5).split(8):
        learner.imitation_step(images[batch])  # what the frozen teacher says, as sets
    learner.end_generation()
    predicted = prediction_set(learner.student(tensors(data.val)[0]), 0.25)
    print(f"generation {generation + 1}: loss {loss:.3f}, labels {predicted.sum(1).tolist()}")
