"""The trained network of a run directory, as `common.export` writes it for other programs."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from cavl.build_named import NamedNetwork
from cavl.build_saved import SavedRun, load_any_run
from cavl.options_rules import has_maps
from common.aliases import one_module
from common.backbones import source_of
from common.backbones_names import is_remote
from common.deployed import Deployed, Preparation

one_module(__name__, "cavl.build_deployed")


def deployed(run: Path) -> Deployed:
    """The network of a run on pictures, on the CPU; UserError for one on features."""
    saved = load_any_run(run)
    takes = saved.takes
    channels, height, width = takes.shape
    preparation = Preparation(
        size=(height, width),
        mean=takes.mean or (0.0,) * channels,
        std=takes.std or (1.0,) * channels,
        resize="squash",
        interpolation=takes.interpolation or "bilinear",
        channels=channels,
    )
    timm_name, timm_state = _in_timm(saved)
    classes = tuple(saved.called(k) for k in range(takes.num_classes))
    return Deployed(
        paper="cavl",
        architecture=saved.mo,
        network=saved.model,
        classes=classes,
        preparation=preparation,
        answer="softmax",
        settings={"ds": saved.ds, "cav": saved.cav, "mask": saved.mask, "select": saved.select},
        maps=_maps_of(saved),
        timm_name=timm_name,
        timm_state=timm_state,
    )


def _in_timm(saved: SavedRun) -> tuple[str | None, Mapping[str, torch.Tensor] | None]:
    """Name and weights under which timm builds the same network; of others None.

    Only where timm's own classifier is linear on the pooled map, as ours is, and takes colour.
    """
    if not isinstance(saved.model, NamedNetwork) or saved.takes.shape[0] != 3:
        return None, None
    source, name = source_of(saved.mo)
    network = saved.model.classifier_network
    target = network.weight_target()
    if source != "timm" or is_remote(name) or not target.published:
        return None, None
    state = {**target.backbone, **target.optional}
    for part, value in network.head.state_dict().items():
        state[f"{target.published[0]}.{part}"] = value
    return name, state


def _maps_of(saved: SavedRun) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """(B,C,H,W) -> class activation maps (B,K,h,w), where the network has them."""
    if not has_maps(saved.mo, saved.head):
        return None
    return lambda x: saved.model.class_activation_maps(x)[1]
