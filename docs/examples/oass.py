"""Your own loop around ObjectAwareLoss: python -m docs.examples.oass, or with a csv or folder."""

import sys

import torch
import torchvision
from torchvision.transforms.v2 import functional as T

from common import samples
from common.own import read_own
from oass.library import InstanceClassifier, ObjectAwareLoss


def load(part):
    pictures = [torchvision.io.decode_image(str(path)) for path in part.paths]
    images = [T.resize(T.to_dtype(p, torch.float32, scale=True), [64, 64]) for p in pictures]
    return torch.stack(images) - 0.5, torch.from_numpy(part.matrix).float()


torch.manual_seed(0)
data = read_own(sys.argv[1] if sys.argv[1:] else samples.ensure("own") / "multi.csv")
images, labels = load(data.train)
resnet = torchvision.models.resnet18()
backbone = torch.nn.Sequential(*list(resnet.children())[:-4])  # stride 8, 128 channels
student = InstanceClassifier(backbone, channels=128, num_classes=data.num_classes)
loss = ObjectAwareLoss(student, strategy="cTopk-w", total_steps=60, alpha_re=1.0)
optimizer = torch.optim.AdamW(student.parameters(), 1e-3)
for _ in range(60):
    chosen = torch.randperm(len(images))[:8]
    value = loss(images[chosen], labels[chosen])
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    loss.update_teacher()

images, labels = load(data.val)
with torch.no_grad():
    logits, maps = student.eval()(images, with_cam=True)
right = ((logits > 0) == (labels > 0)).float().mean(0).tolist()
print("right in val:", dict(zip(data.classes, right, strict=True)), "maps", tuple(maps.shape))
