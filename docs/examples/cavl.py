"""CAVL in a plain training loop: of these pictures only candidate labels are known.

python -m docs.examples.cavl    # the sample of thirty pictures; or give a csv with candidates
"""

import sys

import torch
from torchvision.transforms.functional import to_tensor

from cavl.method import CAVL
from common import own, samples
from common.images import read_image

data = own.read_own(sys.argv[1] if sys.argv[1:] else samples.ensure("own") / "candidates.csv").train
sets = torch.from_numpy(data.candidates).float()  # (n,K), 1 for a candidate
images = torch.stack([to_tensor(read_image(path).resize((32, 32))) for path in data.paths])

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, sets.shape[1]))
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
cavl = CAVL(num_classes=sets.shape[1])
selected = cavl.init(sets)  # (n,) the label of each picture, -1 for none yet

for epoch in range(10):
    for batch in torch.randperm(len(images)).split(8):
        known = selected[batch] if epoch > 0 else None  # the first epoch averages
        loss = cavl.loss(network(images[batch]), sets[batch], known)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            selected[batch] = cavl.update(network(images[batch]), sets[batch])
    print(f"epoch {epoch + 1}: loss of the last batch {loss.item():.3f}")
print(f"selected labels: {selected.tolist()}")
