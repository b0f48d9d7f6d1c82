"""Which folder a run gets, who holds it, and what config.json says about the run."""

import argparse
import atexit
import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import random
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from common.checkpoint import atomic_write, clear_parts
from common.checkpoint import load as load_checkpoint
from common.cli import FREE_SETTINGS
from common.errors import UserError

# Open files by process and folder: a POSIX lock lives as long as its process holds the file.
_locks: dict[tuple[int, Path], Any] = {}


@atexit.register
def _unlock_all() -> None:
    """Left to the interpreter's teardown, each file would print a ResourceWarning (the warnings' filters go first)."""
    for (process, _), file in _locks.items():
        if process == os.getpid():
            file.close()


class _HeldElsewhere(UserError):
    """Another process writes into the run directory."""


def holds_run(folder: Path) -> bool:
    """A directory holds a run once it has a checkpoint or a metrics line."""
    metrics = folder / "metrics.jsonl"
    return any((folder / "checkpoints").glob("*.pt")) or (
        metrics.is_file() and metrics.stat().st_size > 0
    )


def claim(args: argparse.Namespace, default: Path, named: Path | None) -> tuple[Path, Path | None]:
    """The run directory, locked, and the checkpoint to go on from (None: a new run)."""
    resume, overwrite = getattr(args, "resume", None), getattr(args, "overwrite", False)
    if resume:
        return _claim_for_checkpoint(Path(resume), named or default, named is not None)
    if resume is not None:
        folder = named or _newest(default)
        lock(folder)
        last = folder / "checkpoints" / "last.pt"
        if last.is_file():
            return folder, last
        if holds_run(folder):
            _move_aside(folder)
        print(f"--resume: no checkpoint in {folder}; starting anew", flush=True)
        return folder, None
    if named is None and not overwrite:
        return _claim_free_sibling(default), None
    folder = named or default
    lock(folder)
    if holds_run(folder):
        if not overwrite:
            raise UserError(
                f"{folder} holds a run; go on with --resume, start over with --overwrite, or name another"
            )
        print(f"the run in {folder} was moved to {_move_aside(folder)}", flush=True)
    return folder, None


def _claim_for_checkpoint(path: Path, folder: Path, is_named: bool) -> tuple[Path, Path]:
    source = path / "checkpoints" / "last.pt" if path.is_dir() else path
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
        folder = default if number == 1 else default.with_name(f"{default.name}-{number}")
        with contextlib.suppress(_HeldElsewhere):
            if not holds_run(folder):
                lock(folder)
                if number > 1:
                    print(f"{default} holds a run; this one goes to {folder}", flush=True)
                return folder
    raise UserError(f"{default}: ten thousand runs beside each other; name an --output_dir")


def _newest(default: Path) -> Path:
    """The folder with the highest number that holds a run, among `default` and its numbered siblings."""
    pattern = re.compile(re.escape(default.name) + r"(?:-(\d+))?")
    beside = default.parent.iterdir() if default.parent.is_dir() else ()
    numbered = [
        (int(m[1] or 1), p) for p in beside if (m := pattern.fullmatch(p.name)) and holds_run(p)
    ]
    return max(numbered)[1] if numbered else default


def _move_aside(folder: Path) -> Path:
    aside = next(
        p
        for k in range(1, 10_000)
        if not (p := folder.with_name(f"{folder.name}.old-{k}")).exists()
    )
    folder.rename(aside)
    _locks.pop((os.getpid(), folder.resolve()), None)
    lock(folder)
    return aside


def lock(folder: Path) -> None:
    """Hold `folder` for this process until it ends; UserError if another process holds it.

    A POSIX record lock: the operating system drops it with the process, and forked loader workers do
    not inherit it. What a killed save left half written is cleared away.
    """
    if _is_locked_here(folder):
        return
    path = folder / ".lock"
    was_used = path.exists() or (folder / "config.json").exists() or holds_run(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a FIFO would wait for its reader
            raise UserError(f"{folder}: cannot be used as a run directory ({path} is no file)")
        file = path.open("a")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be used as a run directory ({error.strerror})"
        ) from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise _HeldElsewhere(
            f"{folder}: another process is writing there; wait for it or name another"
        ) from error
    _locks[os.getpid(), folder.resolve()] = file
    if was_used:  # another folder of the user's may be large
        clear_parts(folder)


def _is_locked_here(folder: Path) -> bool:
    """Whether this process holds the folder: closing a second handle of the file would give the lock up."""
    folder = folder.resolve()
    file = _locks.get((os.getpid(), folder))
    with contextlib.suppress(OSError):
        return file is not None and os.path.samestat(
            os.fstat(file.fileno()), (folder / ".lock").stat()
        )
    return False


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that a continued run must share, as plain data."""
    return {
        key: _setting(value)
        for key, value in sorted(vars(args).items())
        if key not in FREE_SETTINGS and not key.startswith("_")
    }


def _setting(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_setting(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def load_run(source: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A run's checkpoint; UserError where it is none, or where the run was started with other settings."""
    saved = load_checkpoint(source)
    kinds = {
        "state": Mapping,
        "progress": Mapping,
        "metrics": list,
        "random": list,
        "settings": Mapping,
    }
    if not isinstance(saved, Mapping) or any(
        not isinstance(saved.get(key), kind) for key, kind in kinds.items()
    ):
        raise UserError(f"{source}: not a checkpoint of a run; --resume wants checkpoints/last.pt")
    then, now = saved["settings"], settings_of(args)
    different = sorted(
        str(key) for key in {**then, **now} if not _is_equal(then.get(key), now.get(key))
    )
    if different:
        told = ", ".join(f"{k} {then.get(k)!r} then, {now.get(k)!r} now" for k in different[:4])
        raise UserError(f"--resume: other settings than the run was started with: {told}")
    return dict(saved)


def _is_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (ValueError, RuntimeError):  # an array or a tensor: no setting
        return False


def _earlier_launches(path: Path) -> list[dict[str, Any]]:
    """The launches that config.json lists; none where it is damaged, which a line says."""
    try:
        launches = json.loads(path.read_bytes())["launches"]
        if not all(isinstance(launch, dict) for launch in launches):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        print(f"{path}: damaged; it is written anew, without the earlier launches", flush=True)
        return []
    return list(launches)


def describe_launch(folder: Path, args: argparse.Namespace, accelerator: Accelerator) -> None:
    """Write config.json: settings, command line, commit, package versions, hardware; a resume adds a launch."""
    path = folder / "config.json"
    launches = _earlier_launches(path) if path.is_file() and holds_run(folder) else []
    launches.append(
        {
            "command": shlex.join(sys.argv),
            "commit": commit(),
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
    )
    packages = (
        "torch",
        "torchvision",
        "numpy",
        "accelerate",
        "timm",
        "scikit-learn",
        "opencv-python",
    )
    device = accelerator.device
    config = {
        "settings": {
            k: str(v) if isinstance(v, Path) else v
            for k, v in sorted(vars(args).items())
            if k[0] != "_"
        },
        "command": launches[-1]["command"],
        "commit": launches[-1]["commit"],
        "launches": launches,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "hardware": {
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else platform.machine(),
            "processes": accelerator.num_processes,
            "cpu_cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "mixed_precision": accelerator.mixed_precision,
        },
    }
    atomic_write(path, (json.dumps(config, indent=1, default=str) + "\n").encode())


def plain(value: Any) -> Any:
    """Plain JSON data: numbers as float or int, undefined (NaN, inf) as null, paths as text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (bool, int, str, type(None))):
        return value
    if isinstance(value, Path):
        return str(value)
    value = float(value)
    return value if math.isfinite(value) else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checkout's commit, with `+` when tracked files differ from it; None outside git."""
    root = Path(__file__).parent
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if dirty else "")


def seed_everything(seed: int | None) -> int:
    """Seed Python, NumPy and torch; ask the GPU libraries for their deterministic algorithms."""
    seed = seed or 0
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the originals' functions draw from the global stream
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    # Weight decay drives the weights of always-black pixels, and Adam's squares of them, below 1e-38: on a CPU
    # such numbers cost a hundred cycles each, and an MNIST epoch took three times as long after some epochs.
    torch.set_flush_denormal(True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return seed


# Variables that `accelerate launch` sets from its flags or its config file -> what they ask for.
_UNSUPPORTED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_TP": "tensor parallelism",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
}


def _refuse_unsupported() -> None:
    for variable, name in _UNSUPPORTED.items():
        if os.environ.get(variable, "").strip().lower() in ("1", "true", "t", "yes", "y", "on"):
            raise UserError(
                f"{variable}: {name} is not supported; launch with plain data parallelism (--multi_gpu)"
            )

    variable = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
    steps = os.environ.get(variable, "1").strip()
    if steps not in ("", "1"):
        raise UserError(
            f"{variable}={steps}: accumulation of gradients is not supported; unset it, or make it 1"
        )


def make_accelerator(args: argparse.Namespace, **kwargs: Any) -> Accelerator:
    """accelerate's Accelerator for the shared flags: device, processes and precision come from it.

    UserError names what `accelerate config` or the environment asks for and the five do not support.
    """
    _refuse_unsupported()
    precision = args.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION") or None
    on_gpu = torch.cuda.is_available() and not args.cpu
    if precision is None:
        precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "no"
    if precision not in ("no", "fp16", "bf16"):
        raise UserError(f"ACCELERATE_MIXED_PRECISION={precision}: choose from no, fp16, bf16")
    if precision == "fp16" and not on_gpu:
        raise UserError("--mixed_precision fp16 needs a GPU; on a CPU use no or bf16")
    return Accelerator(cpu=args.cpu, mixed_precision=precision, **kwargs)


def prepare(
    accelerator: Accelerator, network: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """accelerate's prepare for a network and its optimiser; the optimiser stays plain without a loss scaler.

    accelerate's wrapper looks installed modules up in every step, 0.5 ms: a third of an MLP's step on a CPU.
    """
    network = accelerator.prepare(network)
    return network, optimizer if accelerator.scaler is None else accelerator.prepare(optimizer)


def backward(accelerator: Accelerator, loss: torch.Tensor) -> None:
    """loss.backward(), scaled where the precision asks for it (see `prepare`)."""
    if accelerator.scaler is None:
        loss.backward()
    else:
        accelerator.backward(loss)


def share_buffers(accelerator: Accelerator, model: torch.nn.Module) -> None:
    """Give every process the main one's buffers; call it before an evaluation that several processes share.

    Running statistics of BatchNorm differ between processes after a step; only the main one's are saved.
    """
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer.contiguous(), from_process=0))
