"""create_model: a network by its name."""

from typing import Any

from torch import nn

from csl.src.errors import SettingsError
from csl.src.models.tresnet.tresnet import LAYOUTS, build_tresnet

ALIASES = {"tresnet_v2_l": "tresnet_l_v2"}


def canonical_name(name: str) -> str:
    """The name in lower case, aliases resolved; SettingsError lists the known ones. `timm/NAME` stays as it is."""
    if name.lower().startswith("timm/"):
        return "timm/" + name[5:]
    lower = ALIASES.get(name.lower(), name.lower())
    if lower not in LAYOUTS:
        known = ", ".join([*LAYOUTS, *ALIASES, "timm/NAME"])
        raise SettingsError(f"model {name!r} is not known; there are: {known}")
    return lower


def create_model(args: Any) -> nn.Module:
    """The network `args.model_name` with `args.num_classes` outputs and, if asked, a bottleneck head."""
    name, bottleneck = canonical_name(args.model_name), getattr(args, "do_bottleneck_head", False)
    if not name.startswith("timm/"):
        return build_tresnet(name, args.num_classes, bottleneck)
    if bottleneck:
        raise SettingsError(f"model {name}: timm's networks have no bottleneck head")
    import timm

    try:
        return timm.create_model(name[5:], pretrained=False, num_classes=args.num_classes)
    except RuntimeError as error:
        raise SettingsError(f"model {name!r} is not one of timm's ({error})") from error
