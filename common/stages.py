"""The stages of a backbone, and training the last of them only.

    stages_of(body)        # ["blocks.0", ..., "blocks.6"] of an EfficientNet
    train_last(body, 2)    # what comes before blocks.5 keeps its weights and batch statistics

A stage is one of several parts that are named alike and numbered, such as layer1 to layer4 of a
ResNet, blocks of a ViT, stages of a ConvNeXt. What follows the last stage is trained with it.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from common.errors import UserError

DEPTH = 3  # levels of names that are looked through


class Still:
    """What `keep_still` puts before the class of a part that is not trained."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)  # type: ignore[misc]


def stages_of(body: nn.Module) -> list[str]:
    """The names of the stages, in their order; [] where no parts are numbered.

    They are the first group of numbered parts, from the outside inwards, that holds most of the
    weights.
    """
    whole = _weights(body)
    level = [("", body)]
    for _ in range(DEPTH):
        below = []
        for prefix, module in level:
            groups: dict[str, list[str]] = {}
            for name, child in module.named_children():
                stem = name.rstrip("0123456789")
                if stem != name:
                    groups.setdefault(stem, []).append(f"{prefix}{name}")
                below.append((f"{prefix}{name}.", child))
            for names in groups.values():
                held = sum(_weights(body.get_submodule(name)) for name in names)
                if len(names) > 1 and 2 * held > whole:
                    return names
        level = below
    return []


def train_last(body: nn.Module, count: int, what: str = "the network") -> None:
    """Let only the last `count` stages be trained, and what follows them.

    The rest keeps weights and batch statistics, whatever train() is called. With 0 nothing of the
    body is trained. UserError names the stages where there are fewer, or says that there are none.
    """
    if count == 0:
        keep_still(body)
        return
    stages = stages_of(body)
    if not stages:
        raise UserError(f"{what}: no stages are known of it; only 0 or all can be trained")
    if count > len(stages):
        told = f"{stages[0]} to {stages[-1]}"
        raise UserError(f"{what}: has {len(stages)} stages ({told}), not {count}")
    for part in _before(body, stages[-count]):
        keep_still(part)
    module = body
    for name in stages[-count].split("."):
        for parameter in module.parameters(recurse=False):  # a ViT's embedding of places
            parameter.requires_grad_(False)
        module = module.get_submodule(name)


def _before(body: nn.Module, stage: str) -> Iterator[nn.Module]:
    """The parts that come before a stage, none of which holds it."""
    module = body
    for name in stage.split("."):
        for other, part in module.named_children():
            if other == name:
                break
            yield part
        module = module.get_submodule(name)


def keep_still(module: nn.Module, kind: type = Still, name: str = "Still") -> None:
    """Let a module keep weights and batch statistics, whatever train() is called.

    kind: the class, `Still` or one of it, that comes before the module's own; `name` begins that
    of the class of both. Names in the state dict stay.
    """
    own = type(module)
    if not issubclass(own, kind):
        module.__class__ = type(f"{name}{own.__name__}", (kind, own), {})
    module.requires_grad_(False)
    module.eval()


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
