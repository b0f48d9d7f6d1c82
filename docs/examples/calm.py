"""A plain loop around CALM: python -m docs.examples.calm, or with a FOLDER of train/ and val/."""

import sys

import torch
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import calm
from common import samples

folder = sys.argv[1] if sys.argv[1:] else samples.ensure("own") / "folders"
prepare = v2.Compose([v2.Resize((64, 64)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
train = ImageFolder(f"{folder}/train", prepare)
val = ImageFolder(f"{folder}/val", prepare)

torch.manual_seed(0)
layers = []
for inputs, outputs, stride in ((3, 24, 2), (24, 48, 2), (48, 96, 1)):
    layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
model = calm.CALM(  # the images (B,3,64,64) become a map (B,96,16,16)
    nn.Sequential(*layers),
    num_classes=len(train.classes),
    channels=96,
    prior_activation="softplus",
    prior_gradient="full",
    class_names=train.classes,
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
for _ in range(20):
    for images, labels in torch.utils.data.DataLoader(train, batch_size=8, shuffle=True):
        optimizer.zero_grad()
        model.loss(images, labels).backward()
        optimizer.step()

images, labels = next(iter(torch.utils.data.DataLoader(val, batch_size=len(val))))
probabilities, maps, names = model.explain(images)  # (B,C), (B,C,16,16): each sums to its p
for label, p in zip(labels.tolist(), probabilities, strict=True):
    print(f"{names[label]}: {names[int(p.argmax())]} with p {p.max():.2f}")
