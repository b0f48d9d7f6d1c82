"""The papers' own settings, as commands: PAPER/results/full.toml.

For labs with GPUs and the data sets: each experiment says what it needs, how long it may take, and
which registered claims its rows decide.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import UserError
from sidebyside.register import load_claims, read_toml

FILE = "full.toml"
_COUNTS = ("runs", "epochs", "images", "images_per_second")


@dataclass(frozen=True)
class Planned:
    """One command at the paper's scale.

    gpu_hours: runs x epochs x images / images_per_second on one data-centre GPU, an estimate.
    """

    paper: str
    command: str
    data: str
    gpu_hours: float
    claims: tuple[str, ...]


def load_planned(root: Path, paper: str) -> list[Planned]:
    """The planned experiments of a paper; [] where it has no file.

    UserError names what is wrong.
    """
    path = root / paper / "results" / FILE
    if not path.is_file():
        return []
    content = read_toml(path)
    entries = content.get("experiment", [])
    known = {claim.name for claim in load_claims(root, paper)}
    planned = []
    for number, entry in enumerate(entries, 1):
        planned.append(_planned(paper, entry, known, f"{path}: experiment {number}"))
    return planned


def _planned(paper: str, entry: Mapping[str, Any], known: set[str], where: str) -> Planned:
    wanted = {"command", "data", "claims", *_COUNTS}
    if set(entry) != wanted:
        told = ", ".join(sorted(wanted ^ set(entry)))
        raise UserError(f"{where}: expected exactly {', '.join(sorted(wanted))}; differs in {told}")
    for name in _COUNTS:
        if not isinstance(entry[name], int) or entry[name] < 1:
            raise UserError(f"{where}: {name} must be a whole number from 1 on")
    for name in entry["claims"]:
        if name not in known:
            raise UserError(f"{where}: {name!r} is no registered claim of {paper}")
    if not shlex.split(entry["command"]):
        raise UserError(f"{where}: the command is empty")
    seconds = entry["runs"] * entry["epochs"] * entry["images"] / entry["images_per_second"]
    claims = tuple(entry["claims"])
    return Planned(paper, entry["command"], entry["data"], seconds / 3600, claims)
