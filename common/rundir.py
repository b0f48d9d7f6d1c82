"""Which folder a run gets, who holds it, and what config.json says about the run."""

import argparse
import atexit
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import Accelerator

from common import checkpoint
from common.cli import FREE_SETTINGS, LATER_SETTINGS
from common.errors import UserError
from common.files import atomic_write, clear_parts
from common.locks import hold
from common.processes import (  # noqa: F401
    backward,
    make_accelerator,
    prepare,
    seed_everything,
    share_buffers,
)
from common.text import read_json

# Named in config.json with their versions.
PACKAGES = (
    *("torch", "torchvision", "numpy", "accelerate", "timm", "scikit-learn", "opencv-python"),
)

# Open files by process and folder: a POSIX lock lives as long as its process holds the file.
_locks: dict[tuple[int, Path], tuple[IO[str], Any]] = {}


@atexit.register
def _unlock_all() -> None:
    """Left to the interpreter's teardown, each open file would print a ResourceWarning."""
    for (process, _), (file, held) in _locks.items():
        if process == os.getpid():
            file.close()
            if held is not file:
                held.release()


class _HeldElsewhere(UserError):
    """Another process writes into the run directory."""


# --- which folder ---


def holds_run(folder: Path) -> bool:
    """A directory holds a run once it has a checkpoint or a metrics line."""
    if any((folder / "checkpoints").glob("*.pt")):
        return True
    metrics = folder / "metrics.jsonl"
    return metrics.is_file() and metrics.stat().st_size > 0


def claim(args: argparse.Namespace, default: Path, named: Path | None) -> tuple[Path, Path | None]:
    """The run directory, locked, and the checkpoint to go on from (None: a new run)."""
    resume = getattr(args, "resume", None)
    if resume:
        return _claim_for_checkpoint(Path(resume), named or default, named is not None)
    if resume is not None:
        return _claim_for_going_on(named or _newest(default))

    overwrite = getattr(args, "overwrite", False)
    if named is None and not overwrite:
        return _claim_free_sibling(default), None
    folder = named or default
    lock(folder)
    if holds_run(folder):
        if not overwrite:
            ways = "go on with --resume, start over with --overwrite, or name another"
            raise UserError(f"{folder} holds a run; {ways}")
        print(f"the run in {folder} was moved to {_move_aside(folder)}", flush=True)
    return folder, None


def _claim_for_going_on(folder: Path) -> tuple[Path, Path | None]:
    lock(folder)
    last = folder / "checkpoints" / "last.pt"
    if last.is_file():
        return folder, last
    if holds_run(folder):
        _move_aside(folder)
    print(f"--resume: no checkpoint in {folder}; starting anew", flush=True)
    return folder, None


def _claim_for_checkpoint(path: Path, folder: Path, is_named: bool) -> tuple[Path, Path]:
    source = path
    if path.is_dir():
        source = path / "checkpoints" / "last.pt"
    if not source.is_file():
        raise UserError(f"--resume {path}: no checkpoint there (looked for {source})")
    home = source.resolve().parent
    if home.name == "checkpoints" and not is_named:
        folder = home.parent
    lock(folder)
    if holds_run(folder) and home.parent != folder.resolve():
        raise UserError(f"{folder} holds another run than {source}; name another --output_dir")
    return folder, source


def _claim_free_sibling(default: Path) -> Path:
    for number in range(1, 10_000):
        folder = default
        if number > 1:
            folder = default.with_name(f"{default.name}-{number}")
        if holds_run(folder):
            continue
        with contextlib.suppress(_HeldElsewhere):
            lock(folder)
            if number > 1:
                print(f"{default} holds a run; this one goes to {folder}", flush=True)
            return folder
    raise UserError(f"{default}: ten thousand runs beside each other; name an --output_dir")


def _newest(default: Path) -> Path:
    """The folder with the highest number that holds a run, among `default` and its siblings."""
    pattern = re.compile(re.escape(default.name) + r"(?:-(\d+))?")
    newest = (0, default)
    for folder in default.parent.glob("*"):
        match = pattern.fullmatch(folder.name)
        if match and holds_run(folder):
            newest = max(newest, (int(match[1] or 1), folder))
    return newest[1]


def _move_aside(folder: Path) -> Path:
    names = (folder.with_name(f"{folder.name}.old-{number}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    folder.rename(aside)
    _locks.pop((os.getpid(), folder.resolve()), None)
    lock(folder)
    return aside


# --- who holds it ---


def lock(folder: Path) -> None:
    """Hold `folder` for this process until it ends; UserError if another process holds it.

    A POSIX record lock: the operating system drops it with the process, and forked loader workers
    do not inherit it. What a killed save left half written is cleared away.
    """
    if _is_locked_here(folder):
        return
    path = folder / ".lock"
    was_used = path.exists() or (folder / "config.json").exists() or holds_run(folder)
    unusable = f"{folder}: cannot be used as a run directory"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a FIFO would wait for its reader
            raise UserError(f"{unusable} ({path} is no file)")
        file = path.open("a")
    except OSError as error:
        raise UserError(f"{unusable} ({error.strerror})") from error
    try:
        held = hold(file)
    except OSError as error:
        problem = f"{folder}: another process is writing there"
        raise _HeldElsewhere(f"{problem}; wait for it or name another") from error
    _locks[os.getpid(), folder.resolve()] = (file, held)
    if was_used:  # another folder of the user's may be large
        clear_parts(folder)


def _is_locked_here(folder: Path) -> bool:
    """Whether this process holds the folder; closing a second handle would give the lock up."""
    folder = folder.resolve()
    known = _locks.get((os.getpid(), folder))
    if known is None:
        return False
    file, _ = known
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), (folder / ".lock").stat())
    return False


# --- settings ---


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """All settings, as plain data."""
    settings = {}
    for key, value in sorted(vars(args).items()):
        if not key.startswith("_"):
            settings[key] = _setting(value)
    return settings


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that a continued run must share, as plain data."""
    settings = _settings(args)
    return {key: value for key, value in settings.items() if key not in FREE_SETTINGS}


def _setting(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_setting(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def load_run(source: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A run's checkpoint; UserError where it is none, or of a run with other settings."""
    saved = checkpoint.load(source)
    kinds: dict[str, Any] = {
        "state": Mapping,
        "progress": Mapping,
        "metrics": (str, list),
        "random": list,
        "settings": Mapping,
    }
    is_run = isinstance(saved, Mapping)
    is_run = is_run and all(isinstance(saved.get(key), kind) for key, kind in kinds.items())
    if not is_run:
        raise UserError(f"{source}: not a checkpoint of a run; --resume wants checkpoints/last.pt")

    then = {**LATER_SETTINGS, **saved["settings"]}
    now = {**LATER_SETTINGS, **settings_of(args)}
    different = []
    for key in sorted({**then, **now}, key=str):
        if not _is_equal(then.get(key), now.get(key)):
            different.append(f"{key} {then.get(key)!r} then, {now.get(key)!r} now")
    if different:
        told = ", ".join(different[:4])
        raise UserError(f"--resume: other settings than the run was started with: {told}")
    return dict(saved)


def _is_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (ValueError, RuntimeError):  # an array or a tensor: no setting
        return False


# --- config.json ---


def describe_launch(folder: Path, args: argparse.Namespace, accelerator: Accelerator) -> None:
    """Write config.json: settings, command line, commit, packages, hardware.

    A resumed run keeps the launches that stand there and adds one.
    """
    path = folder / "config.json"
    launches = []
    if path.is_file() and holds_run(folder):
        launches = _earlier_launches(path)
    launch = {
        "command": shlex.join(sys.argv),
        "commit": commit(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    device = platform.machine()
    if accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    config = {
        "settings": _settings(args),
        "command": launch["command"],
        "commit": launch["commit"],
        "launches": [*launches, launch],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": {
            "device": device,
            "processes": accelerator.num_processes,
            "cpu_cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "mixed_precision": accelerator.mixed_precision,
        },
    }
    text = json.dumps(config, indent=1, default=str)
    atomic_write(path, f"{text}\n".encode())


def _earlier_launches(path: Path) -> list[dict[str, Any]]:
    """The launches that config.json lists; none where it is damaged, which a line says."""
    with contextlib.suppress(UserError):
        launches = read_json(path, dict).get("launches")
        if isinstance(launches, list) and all(isinstance(launch, dict) for launch in launches):
            return launches
    print(f"{path}: damaged; it is written anew, without the earlier launches", flush=True)
    return []


def plain(value: Any) -> Any:
    """Plain JSON data: numbers as float or int, undefined (NaN, inf) as null, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (bool, int, str, type(None))):
        return value
    if isinstance(value, Path):
        return str(value)
    number = float(value)
    return number if math.isfinite(number) else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checkout's commit, with `+` when tracked files differ from it; None outside git."""
    try:
        head = _git("rev-parse", "HEAD")
        is_changed = _git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+" if is_changed else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
