"""`--compile`: the network that a training step calls, compiled by torch.compile.

Checkpoints, evaluation and export use the network itself, so that nothing of them changes.
"""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from common.errors import UserError

Network = TypeVar("Network", bound=nn.Module)
BACKEND = "inductor"


def compiled(network: Network, is_wanted: bool) -> Network:
    """The network, compiled where that is wanted: the same parameters, called alike."""
    if not is_wanted:
        return network
    return torch.compile(network, backend=BACKEND)  # type: ignore[return-value]


def require_compiler(device: str) -> None:
    """UserError where --compile cannot work here: one line that says what is missing.

    device: cpu, cuda or mps. Looked at before the long work; the compiler itself starts with the
    first step.
    """
    if BACKEND != "inductor":
        return
    problem = _problem_of(device)
    if problem is not None:
        raise UserError(f"--compile: {problem}; install it, or leave --compile out")


def _problem_of(device: str) -> str | None:
    from torch import _dynamo as dynamo  # takes a second

    if not dynamo.is_dynamo_supported():
        return "this Python has no torch.compile"
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton on a GPU, which is not there"
    if _compiler(device) is None:
        return "torch.compile needs a C++ compiler (g++, clang++ or $CXX), which is not there"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        return f"torch.compile needs Python's headers (python3-dev), {header} is not there"
    return None


def _compiler(device: str) -> str | None:
    """Where a compiler lies: of C++ for a CPU, of C for the launchers that triton makes."""
    names = ["g++", "clang++", "c++", "cl"]
    wanted = os.environ.get("CXX")
    if device == "cuda":
        names = ["gcc", "clang", "cc", "cl"]
        wanted = os.environ.get("CC")
    if wanted:
        names = [wanted.split()[0]]
    return next((place for name in names if (place := shutil.which(name))), None)
