"""Somebody else's training loop around the class-aware selective loss: python -m docs.examples.csl

The pictures are those that `python -m common.samples own DIR` draws.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common import samples
from common.own import read_own
from csl.method import PartialSelectiveLoss

folder = samples.draw("own", Path(tempfile.mkdtemp()) / "own", samples.SEED)
data = read_own(folder / "partial.csv")

pictures = [np.asarray(Image.open(path).resize((32, 32))) for path in data.train.paths]
images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255  # (N, 3, 32, 32)
targets = torch.from_numpy(data.train.matrix)  # (N, C): 1 positive, 0 negative, -1 unknown

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 5, stride=2),
    torch.nn.ReLU(),
    torch.nn.Flatten(),
    torch.nn.LazyLinear(data.num_classes),
)
criterion = PartialSelectiveLoss(mode="selective", likelihood_topk=1)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(20):
    loss = criterion(model(images), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f} of {len(images)} pictures, classes {', '.join(data.classes)}")
