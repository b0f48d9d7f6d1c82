"""Checkpoints: atomic save, safe load, exact resume.

A checkpoint holds tensors and plain data only, so it loads with `weights_only=True`. It is written
to a temporary file, fsynced and renamed: a kill at any moment leaves the previous file whole.
"""

import contextlib
import pickletools
import random
import re
import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.errors import MissingFileError, UserError
from common.files import atomic_save, atomic_write  # noqa: F401

_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


# --- files ---


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Save tensors and plain data (numbers, text, lists, dicts) atomically to `path`."""

    def write(temporary: Path) -> None:
        try:
            torch.save(dict(state), temporary)
        except RuntimeError as error:  # torch's own writer has one class for all that can go wrong
            reason = str(error).splitlines()[0]
            raise OSError(f"writing failed, is the disk full? {reason}") from error

    atomic_save(path, write)


def load(path: Path) -> Any:
    """A checkpoint's content, on the CPU: tensors, plain data, NumPy numbers and arrays.

    No code is run. UserError says that there is no such file, that it is damaged, or what it holds.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_globals()):
            # About the pickle's protocol; what cannot be read is an error.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # the unpickler raises a different class for every kind of damage
        problem = f"not a checkpoint of tensors and plain data: {_refusal(path, error)}"
        best = path.with_name("best.pt")
        if best.is_file() and best != path:
            problem += f"; {best} is beside it, name that one"
        raise UserError(f"{path}: {problem}") from error


# Element types whose arrays hold numbers or text. Arrays of objects are refused.
_NUMPY_KINDS = "? b B h H i I l L q Q e f d g F D G S U".split()


def _numpy_globals() -> list[Any]:
    """What pickled NumPy numbers and arrays need, under NumPy 1's and 2's names; none runs code."""
    scalar = np.float64(0).__reduce__()[0]
    reconstruct = np.zeros(0).__reduce__()[0]
    named = []
    for package in ("numpy.core", "numpy._core"):
        named.append((scalar, f"{package}.multiarray.scalar"))
        named.append((reconstruct, f"{package}.multiarray._reconstruct"))
    for package in ("__builtin__", "builtins"):  # an empty array's contents are a call of bytes()
        named.append((bytes, f"{package}.bytes"))
    kinds = {type(np.dtype(kind)) for kind in _NUMPY_KINDS}
    return [*named, np.ndarray, np.dtype, *kinds]


def _refusal(path: Path, error: Exception) -> str:
    """Why a file cannot be loaded: what it holds, what it is instead, or that it is damaged."""
    with path.open("rb") as file:
        start = file.read(200)
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-LFS pointer; run `git lfs pull`, or download the file"
    if start.lstrip()[:1] == b"<":
        return "it is an HTML page saved under this name; download the file itself"

    name = _refused_name(str(error)) or _pickled_name(path)
    if name:
        return f"it holds {name}; pickled objects and code are refused, and never executed"
    return f"the file is damaged or cut short ({type(error).__name__})"


def _refused_name(message: str) -> str | None:
    """The pickled global, class or function that torch's error message names."""
    patterns = (
        r"GLOBAL (\S+)",
        r"but got <class '([^']+)'>",
        r"unrecognized function <[\w-]+ (?:'|function )?([\w.]+)",
    )
    for pattern in patterns:
        found = re.search(pattern, message)
        if found:
            return found[1]
    return None


def _pickled_name(path: Path) -> str | None:
    """The first global of a plain pickle that is not of torch, NumPy or collections, if any."""
    texts: list[str] = []
    # Whatever breaks: not a whole pickle.
    with path.open("rb") as file, contextlib.suppress(Exception):
        for code, argument, _ in pickletools.genops(file):
            name = ""
            if code.name in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".")
            elif code.name == "STACK_GLOBAL" and len(texts) >= 2:
                name = ".".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)
            if name and not name.startswith(("torch.", "numpy.", "collections.")):
                return name
    return None


# --- state ---


def strip_prefixes(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under names without the prefixes of parallel and compiled modules."""
    stripped = {}
    for key, value in state_dict.items():
        while key.startswith(_PREFIXES):
            key = key.split(".", 1)[1]
        stripped[key] = value
    return stripped


def load_into(module: nn.Module, state_dict: Mapping[str, torch.Tensor], source: object) -> None:
    """Load all weights of `module`; UserError names the first keys and shapes that differ."""
    if not isinstance(state_dict, Mapping):
        raise UserError(f"{source}: holds a {type(state_dict).__name__}, expected weights by name")
    own = module.state_dict()
    given = strip_prefixes(state_dict)
    wanted = strip_prefixes(own)
    own_names = dict(zip(wanted, own, strict=True))

    differences: dict[str, list[str]] = {
        "missing": [key for key in wanted if key not in given],
        "unexpected": [key for key in given if key not in wanted],
        "of another shape": [],
    }
    for key in wanted:
        if key in given and _shape(given[key]) != _shape(wanted[key]):
            shapes = f"{_shape(given[key])} instead of {_shape(wanted[key])}"
            differences["of another shape"].append(f"{key} {shapes}")

    parts = []
    for what, keys in differences.items():
        if keys:
            parts.append(f"{len(keys)} {what}: {', '.join(keys[:3])}")
    if parts:
        raise UserError(f"{source}: does not fit {type(module).__name__}; {'; '.join(parts)}")
    module.load_state_dict({own_names[key]: value for key, value in given.items()})


def _shape(value: Any) -> Any:
    """A tensor's shape; the name of what is none."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    return type(value).__name__


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside torch.compile's and DistributedDataParallel's wrappers."""
    module = getattr(module, "_orig_mod", module)
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return unwrap(module.module)
    return module


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's global generators as plain data.

    Long lists are tensors: torch pickles a list number by number, at each save.
    """
    version, words, spare = random.getstate()
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    of_gpus = []
    if torch.cuda.is_available():
        of_gpus = torch.cuda.get_rng_state_all()
    return {
        "python": (version, torch.tensor(words), spare),
        "numpy": [name, _as_tensor(keys), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": of_gpus,
    }


def _as_tensor(words: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(words).astype(np.int64))


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what `random_state` returned; earlier files have lists for tensors."""
    version, words, spare = state["python"]
    random.setstate((version, tuple(map(int, words)), spare))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def collect(stateful: Mapping[str, Any]) -> dict[str, Any]:
    """The state of modules, optimisers, schedulers, and tensors (label state), by name."""
    states: dict[str, Any] = {}
    for name, item in stateful.items():
        if isinstance(item, torch.Tensor):
            states[name] = item.detach().cpu()
        elif isinstance(item, nn.Module):
            states[name] = unwrap(item).state_dict()
        else:
            states[name] = item.state_dict()
    return states


def restore(stateful: Mapping[str, Any], states: Mapping[str, Any], source: object) -> None:
    """Put collected states back; tensors are filled in place. UserError names what does not fit."""
    absent = ", ".join(name for name in stateful if name not in states)
    if absent:
        problem = f"holds no state of {absent}; it is not a checkpoint of this script"
        raise UserError(f"{source}: {problem}")

    for name, item in stateful.items():
        state = states[name]
        if isinstance(item, nn.Module):
            load_into(unwrap(item), state, source)
        elif isinstance(item, torch.Tensor):
            _fill(item, state, f"{source}: {name}")
        else:
            _load(item, state, name, source)


def _fill(tensor: torch.Tensor, state: Any, what: str) -> None:
    if _shape(tensor) != _shape(state):
        raise UserError(f"{what} is {_shape(state)}, expected {_shape(tensor)}")
    if tensor.dtype != state.dtype:
        raise UserError(f"{what} is {state.dtype}, expected {tensor.dtype}")
    with torch.no_grad():
        tensor.copy_(state)


def _load(item: Any, state: Any, name: str, source: object) -> None:
    misfit = _misfit(item.state_dict(), state, name)
    if misfit:
        raise UserError(f"{source}: {misfit}")
    try:
        item.load_state_dict(state)
    except UserError:
        raise
    except Exception as error:  # an optimiser of other groups, a value of another kind
        problem = f"{name} does not fit ({type(error).__name__}: {error})"
        raise UserError(f"{source}: {problem}") from error
    if isinstance(item, torch.optim.Optimizer):
        _check_averages(item, name, source)


def _misfit(own: Any, state: Any, name: str) -> str | None:
    """What is wrong with a state: no number, list, dict or tensor where the own one has one."""
    kinds: tuple[tuple[Any, str], ...] = (
        (Mapping, "named values"),
        ((list, tuple), "a list"),
        (torch.Tensor, "a tensor"),
    )
    for kind, told in kinds:
        if isinstance(own, kind) and state is not None and not isinstance(state, kind):
            return f"{name} is {state!r:.40}, expected {told}"
    if isinstance(own, (int, float)) and isinstance(state, (str, bytes, Mapping, list, tuple)):
        return f"{name} is {state!r:.40}, expected a number"
    if state is None:
        return None

    if isinstance(own, Mapping):
        keys = [key for key in own if key in state]
    elif isinstance(own, (list, tuple)):
        keys = list(range(min(len(own), len(state))))
    else:
        return None
    for key in keys:
        misfit = _misfit(own[key], state[key], f"{name} {key}")
        if misfit:
            return misfit
    return None


def _check_averages(optimizer: torch.optim.Optimizer, name: str, source: object) -> None:
    """UserError where an averaged gradient has another shape than its parameter."""
    parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for parameter in parameters:
        for key, value in optimizer.state.get(parameter, {}).items():
            is_average = isinstance(value, torch.Tensor) and value.dim() > 0
            if is_average and value.shape != parameter.shape:
                shapes = f"{tuple(value.shape)}, expected {tuple(parameter.shape)}"
                raise UserError(f"{source}: {name} {key} is {shapes}")
