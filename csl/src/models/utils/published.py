"""The weight files that the authors publish: fetched by their names where there is a network.

The addresses are those of the authors' own pages; nobody has tested them from here.
"""

import os
from pathlib import Path

import torch

from common.aliases import one_module
from common.cli import UserError
from common.download import OFFLINE, connection_limits
from csl.data_errors import say
from csl.src.models.utils.checkpoint import find_file

one_module(__name__, "csl.src.models.utils.published")

ZOO = "https://miil-public-eu.oss-eu-central-1.aliyuncs.com/model-zoo"
FILES = {
    **{
        name: f"{ZOO}/CSL/opim_v6/{name}"
        for name in (
            "mtresnet_opim_86.72.pth",
            "ltresnet_v2_opim_87.34.pth",
            "mtresnet_opim_ignore.pth",
            "mtresnet_opim_negative.pth",
        )
    },
    **{
        name: f"{ZOO}/tresnet/{name}"
        for name in (
            *("tresnet_m.pth", "tresnet_l.pth", "tresnet_xl.pth"),
            *("tresnet_m_448.pth", "tresnet_l_448.pth", "tresnet_xl_448.pth"),
        )
    },
}


def cache() -> Path:
    """The folder that torch keeps fetched weights in."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def located(path: str | Path, *, is_given: bool = True) -> Path:
    """The file of --model_path, which is fetched into the cache where its name is a published one.

    A path that is neither there nor published comes back as it is, for its reader to refuse; a
    default one is not fetched.
    UserError in one line tells the address and the place where it cannot be fetched.
    """
    path = Path(path)
    name = path.name
    if find_file(path) is not None or name not in FILES:
        return path
    place = cache() / name
    if place.is_file():
        return place
    address = FILES[name]
    by_hand = f"fetch {address} into {place}"
    if not is_given:
        raise UserError(f"--model_path {path}: no such file; {by_hand}, or run with --sample")
    if os.environ.get(OFFLINE):
        raise UserError(f"--model_path {path}: no such file, and {OFFLINE} is set; {by_hand}")
    say(f"fetching {address}")
    try:
        with connection_limits():
            place.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(place), progress=False)
    except (OSError, RuntimeError) as error:
        reason = str(getattr(error, "reason", error)).split("\n")[0]
        raise UserError(f"--model_path {path}: no network ({reason}); {by_hand}") from error
    return place
