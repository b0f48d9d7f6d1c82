"""The mode of networks: evaluation inside a block, what it was before after it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; then every submodule gets its own mode back.

    >>> with evaluating(network, average):
    ...     logits = network(images)
    """
    before: dict[nn.Module, bool] = {}
    for model in models:
        before |= {module: module.training for module in model.modules()}
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, was_training in before.items():
            module.training = was_training
