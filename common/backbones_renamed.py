"""Known families of weight files whose names differ from those of timm and torchvision.

Each entry of RENAMINGS recognises its files and translates all names. Nothing but names changes.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Renaming:
    """A family of files: how it is told, how it is recognised, and its translation.

    `rename(names, own)`: from the file's names and the network's to new name -> the file's.
    """

    of: str
    recognise: Callable[[Iterable[str]], bool]
    rename: Callable[[list[str], list[str]], dict[str, str]]


def renamed(tensors: Tensors, own: Iterable[str]) -> list[tuple[str, Tensors]]:
    """Each translation that applies to these tensors: whose names they are, and the result."""
    names = list(tensors)
    found = []
    for renaming in RENAMINGS:
        if renaming.recognise(names):
            table = renaming.rename(names, list(own))
            found.append((renaming.of, {new: tensors[old] for new, old in table.items()}))
    return found


# --- EfficientNet as the package efficientnet_pytorch calls its parts ---

_STEM = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_SEPARABLE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
    **_SQUEEZE,
}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    **_SQUEEZE,
}


def _efficientnet(names: list[str], own: list[str]) -> dict[str, str]:
    """`_blocks.N.` are counted through there; here they are `blocks.STAGE.N.`."""
    places = set()
    for name in own:
        place = re.match(r"blocks\.(\d+)\.(\d+)\.", name)
        if place:
            places.add((int(place[1]), int(place[2])))
    blocks = [f"blocks.{stage}.{block}" for stage, block in sorted(places)]
    expanded = {name.split("._expand_conv")[0] for name in names if "._expand_conv" in name}

    table = {}
    for name in names:
        start, _, rest = name.rpartition("_blocks.")
        if not rest or "_blocks." not in name:
            part, _, last = name.partition(".")
            table[f"{_STEM.get(part, part)}.{last}"] = name
            continue
        number, part, last = rest.split(".", 2)
        parts = _INVERTED if f"{start}_blocks.{number}" in expanded else _SEPARABLE
        block = blocks[int(number)] if int(number) < len(blocks) else f"blocks.{number}"
        table[f"{block}.{parts.get(part, part)}.{last}"] = name
    return table


# --- DenseNet as torchvision's files have been since 2017 ---

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)")


def _densenet(names: list[str], own: list[str]) -> dict[str, str]:
    """`denselayer1.norm.1.weight` there; here `denselayer1.norm1.weight`."""
    return {_OLD_DENSENET.sub(r"\1\2", name): name for name in names}


RENAMINGS = (
    Renaming("efficientnet_pytorch", lambda names: "_conv_stem.weight" in names, _efficientnet),
    Renaming(
        "torchvision's first DenseNets",
        lambda names: any(_OLD_DENSENET.search(name) for name in names),
        _densenet,
    ),
)
