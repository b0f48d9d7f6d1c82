"""Names of networks: their source, their spelling, the nearest known ones. Imports nothing heavy.

    resnet18                 a paper's own network, else timm's, else torchvision's
    resnet18.a1_in1k         timm's, with the tag of its published weights
    hf-hub:ORG/NAME          timm's, from the hub;  local-dir:FOLDER  from a folder
    timm/NAME  timm:NAME  torchvision/NAME  torchvision:NAME         that one and no other

`require_spelling` is what a command line can check before it imports torch. Whether timm has a name
is known only by importing timm (2 s): `common.backbones.source_of` does that.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError

TIMM = "timm"
TORCHVISION = "torchvision"
SOURCES = (TIMM, TORCHVISION)
HUB = "hf-hub:"
FOLDER = "local-dir:"


def split_name(name: str) -> tuple[str | None, str]:
    """The source that a name forces (None: it forces none), and the name without it."""
    for source in SOURCES:
        for mark in "/:":
            start = source + mark
            if name.startswith(start):
                return source, name[len(start) :]
    if name.startswith((HUB, FOLDER)):
        return TIMM, name
    return None, name


def is_remote(name: str) -> bool:
    """Whether the name, without its source, is of the hub or of a folder and not of a list."""
    return name.startswith((HUB, FOLDER))


def is_on_hub(name: str) -> bool:
    """Whether the name, without its source, is of the hub."""
    return name.startswith(HUB)


def require_spelling(name: str, own: Iterable[str] = ()) -> str:
    """The name; UserError where no network can be called so. `own`: a paper's networks."""
    if name in own:
        return name
    _, rest = split_name(name)
    if not rest.strip() or rest != rest.strip():
        raise UserError(f"{name!r} names no network")

    if rest.startswith(FOLDER):
        folder = Path(rest.removeprefix(FOLDER))
        if not (folder / "config.json").is_file():
            problem = "there is no config.json, expected a folder that timm can open"
            raise UserError(f"{name}: {folder}: {problem}")
        return name
    if rest.startswith(HUB):
        if rest.count("/") != 1:
            raise UserError(f"{name}: expected {HUB}ORGANISATION/NAME")
        return name

    if "/" in rest or ":" in rest:
        start = rest.replace(":", "/").split("/")[0]
        known = ", ".join([f"{source}/" for source in SOURCES] + [HUB, FOLDER])
        raise UserError(f"{name}: no source of networks is called {start!r}; choose from {known}")
    return name


def unknown(name: str, known: Iterable[str], where: str) -> UserError:
    """The error for a name that is not among the known ones; it tells the nearest."""
    _, rest = split_name(name)
    near = nearest(rest, known)
    remedy = "`timm.list_models()` lists the names"
    if near:
        remedy = f"did you mean {', '.join(near)}?"
    return UserError(f"{name}: {where} no such network; {remedy}")


def nearest(name: str, known: Iterable[str], count: int = 4) -> list[str]:
    """The most similar names, the nearest first."""
    return difflib.get_close_matches(name, sorted(set(known)), count, 0.6)
