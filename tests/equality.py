"""When two checkpoints are the same: used by the resume tests of several papers."""

import torch


def same(a: object, b: object) -> bool:
    """Equal to the last bit, tensors inside dicts, lists and tuples included."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
