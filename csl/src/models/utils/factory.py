"""create_model: a network by its name, and the normalisation of its input."""

from typing import Any

from torch import nn

from common.aliases import one_module
from csl.src.domain import require_count
from csl.src.errors import SettingsError
from csl.src.models.tresnet.tresnet import LAYOUTS, build_tresnet
from csl.src.pixels import Statistics, statistics_of

one_module(__name__, "csl.src.models.utils.factory")

ALIASES = {"tresnet_v2_l": "tresnet_l_v2"}
TIMM = "timm/"


def canonical_name(name: str) -> str:
    """The name in lower case, aliases resolved; SettingsError lists the known ones. `timm/NAME` stays as it is."""
    if name.lower().startswith(TIMM):
        return TIMM + name[len(TIMM) :]
    lower = ALIASES.get(name.lower(), name.lower())
    if lower not in LAYOUTS:
        known = ", ".join([*LAYOUTS, *ALIASES, "timm/NAME"])
        raise SettingsError(f"model {name!r} is not known; there are: {known}")
    return lower


def create_model(args: Any) -> nn.Module:
    """The network `args.model_name` with `args.num_classes` outputs and, if asked, a bottleneck head."""
    name = canonical_name(args.model_name)
    bottleneck = getattr(args, "do_bottleneck_head", False)
    require_count(args.num_classes, "num_classes", 1)
    if not name.startswith(TIMM):
        return build_tresnet(name, args.num_classes, bottleneck)
    if bottleneck:
        raise SettingsError(f"model {name}: timm's networks have no bottleneck head")
    return _of_timm(name, args.num_classes)


def _of_timm(name: str, num_classes: int) -> nn.Module:
    import timm

    try:
        return timm.create_model(name[len(TIMM) :], pretrained=False, num_classes=num_classes)
    except RuntimeError as error:
        raise SettingsError(f"model {name!r} is not one of timm's ({error})") from error


def input_statistics(model_name: str | None) -> Statistics | None:
    """Mean and deviation that the weights of a network were trained with, from its own configuration.

    None, values as they are in 0..1: TResNet, timm's networks that say so, and no name.
    """
    if model_name is None or not canonical_name(model_name).startswith(TIMM):
        return None
    name = canonical_name(model_name)
    try:
        from timm.models import get_pretrained_cfg

        found = get_pretrained_cfg(name[len(TIMM) :])
    except RuntimeError as error:
        raise SettingsError(f"model {name!r} is not one of timm's ({error})") from error
    if found is not None:
        return statistics_of(found.mean, found.std, name)
    return statistics_of_model(
        _of_timm(name, 1)
    )  # of a hub: the configuration comes with the network


def statistics_of_model(model: nn.Module) -> Statistics | None:
    """The same of a network that is there: timm's keep their configuration, TResNet has none."""
    found = getattr(model, "pretrained_cfg", None) or {}
    return statistics_of(found.get("mean"), found.get("std"), type(model).__name__)
