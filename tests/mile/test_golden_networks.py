"""Our networks against those of the released codes.

Names, shapes, outputs (tests/golden/mile/README.md).
"""

import json

import numpy as np
import pytest
import torch

from mile.models import build_model
from tests.mile.test_golden import GOLDEN, load


@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow), "resnet18-10"]
)
def test_network(name):
    golden, model = load(f"network_{name}"), build_model(name).eval()
    described = json.loads((GOLDEN / f"state_dict_{name}.json").read_text())
    state = model.state_dict()
    assert [[k, list(v.shape), str(v.dtype).split(".")[1]] for k, v in state.items()] == described
    filled = {}
    for i, (key, shape, _) in enumerate(described):
        r = np.random.RandomState(i).standard_normal(int(np.prod(shape)))  # noqa: NPY002
        filled[key] = torch.from_numpy(golden_weight(key, r, shape).reshape(shape)).to(
            state[key].dtype
        )
    model.load_state_dict(filled)
    n, size = int(golden["n"]), int(golden["size"])
    flat = np.arange(n * 3 * size * size)
    x = torch.from_numpy(
        np.sin(0.01 * flat + float(golden["phase"])).reshape(n, 3, size, size)
    ).float()
    with torch.no_grad():
        error = (model(x) - golden["logits"]).abs().max() / golden["logits"].abs().max()
    assert error <= 1e-4


def golden_weight(key, r, shape):
    if key.endswith(("num_batches_tracked", "running_mean")):
        return np.zeros(len(r))
    if key.endswith("running_var"):
        return np.ones(len(r))
    if len(shape) >= 2:
        return r * np.sqrt(shape[0] / len(r))
    return 1 + 0.1 * r if key.endswith("weight") else 0.02 * r
