"""create_model: a network by its name, and the normalisation of its input."""

from typing import Any

from torch import nn

from common.aliases import one_module
from common.cli import DomainError
from csl.data_errors import require_count
from csl.data_pixels import Statistics, statistics_of
from csl.options_choices import TIMM, canonical_name
from csl.src.models.tresnet.tresnet import build_tresnet

one_module(__name__, "csl.src.models.utils.factory")

__all__ = [
    "build_network",
    "canonical_name",
    "create_model",
    "input_statistics",
    "statistics_of_model",
]


def create_model(args: Any) -> nn.Module:
    """Return the network that the namespace `args` describes.

    It is `build_network` of args.model_name, args.num_classes and, where it is there,
    args.do_bottleneck_head.
    """
    bottleneck = getattr(args, "do_bottleneck_head", False)
    return build_network(args.model_name, args.num_classes, bottleneck=bottleneck)


def build_network(name: str, num_classes: int, *, bottleneck: bool = False) -> nn.Module:
    """The network of a name with a number of outputs and, if asked, a bottleneck head.

    DomainError: an unknown name, a bottleneck head on one of timm's networks.
    """
    name = canonical_name(name)
    require_count(num_classes, "num_classes", 1)
    if not name.startswith(TIMM):
        return build_tresnet(name, num_classes, bottleneck)
    if bottleneck:
        raise DomainError(f"model {name}: timm's networks have no bottleneck head")
    return _of_timm(name, num_classes)


def _of_timm(name: str, num_classes: int) -> nn.Module:
    import timm

    try:
        return timm.create_model(name[len(TIMM) :], pretrained=False, num_classes=num_classes)
    except RuntimeError as error:
        raise DomainError(f"model {name!r} is not one of timm's ({error})") from error


def input_statistics(model_name: str | None) -> Statistics | None:
    """Return mean and deviation that the weights of a network were trained with.

    They come from the network's own configuration. None, values as they are in 0..1: TResNet,
    timm's networks that say so, and no name.
    """
    if model_name is None or not canonical_name(model_name).startswith(TIMM):
        return None
    name = canonical_name(model_name)
    try:
        from timm.models import get_pretrained_cfg

        found = get_pretrained_cfg(name[len(TIMM) :])
    except RuntimeError as error:
        raise DomainError(f"model {name!r} is not one of timm's ({error})") from error
    if found is not None:
        return statistics_of(found.mean, found.std, name)
    return statistics_of_model(
        _of_timm(name, 1)
    )  # of a hub: the configuration comes with the network


def statistics_of_model(model: nn.Module) -> Statistics | None:
    """The same of a network that is there: timm's keep their configuration, TResNet has none."""
    found = getattr(model, "pretrained_cfg", None) or {}
    return statistics_of(found.get("mean"), found.get("std"), type(model).__name__)
