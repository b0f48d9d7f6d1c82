"""What accelerate gives the papers: device, processes and precision; and the seed of a run."""

import argparse
import os
import random
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    broadcast,
    broadcast_object_list,
)

from common.compiling import require_compiler
from common.errors import UserError
from common.launch import asked_of_us

T = TypeVar("T")


def seed_everything(seed: int | None, *, fast: bool = False) -> int:
    """Seed Python, NumPy and torch; ask the GPU libraries for their deterministic algorithms.

    `fast` asks them for their fastest ones, and for TF32 in products of float32: the same seed then
    gives slightly other numbers each time.
    """
    seed = seed or 0
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the originals draw from the global stream
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = not fast
    torch.backends.cudnn.benchmark = fast
    torch.set_float32_matmul_precision("high" if fast else "highest")
    # Weight decay drives the weights of always-black pixels, and Adam's squares of them, below
    # 1e-38: on a CPU such numbers cost a hundred cycles each, and an MNIST epoch took three times
    # as long after some epochs.
    torch.set_flush_denormal(True)
    if not fast:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return seed


def _keep_buckets(handlers: list[Any]) -> list[Any]:
    """Tell DDP never to lay its buckets of gradients anew, as it does after its first step.

    How more than two numbers are added up over processes depends on their place in a bucket. A
    resumed run's first step would add in another order than the run that was not interrupted. That
    DDP looks for unused parameters, found or not, is what keeps the buckets.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 3:
        return handlers
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    for handler in handlers:
        if isinstance(handler, DistributedDataParallelKwargs):
            handler.find_unused_parameters = True
            return handlers
    return [*handlers, DistributedDataParallelKwargs(find_unused_parameters=True)]


def make_accelerator(args: argparse.Namespace, **kwargs: Any) -> Accelerator:
    """accelerate's Accelerator for the shared flags: device, processes and precision come from it.

    What the launch asks for is in the settings by then (`common.launch`). accelerate itself neither
    divides losses nor compiles.

    Raises:
        UserError: what `accelerate config` or the environment asks for in vain; no compiler for
            --compile.
    """
    _require_as_launched(args)
    precision = args.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION") or None
    on_cpu = args.cpu or _several_without_gpu()
    on_gpu = torch.cuda.is_available() and not on_cpu
    if precision is None:
        precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "no"
    if precision == "fp16" and not on_gpu:
        raise UserError("--mixed_precision fp16 needs a GPU; on a CPU use no or bf16")
    kwargs["kwargs_handlers"] = _keep_buckets(kwargs.get("kwargs_handlers", []))
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        **kwargs,
    )
    if getattr(args, "compile", False):
        require_compiler(accelerator.device.type)
    return accelerator


def _several_without_gpu() -> bool:
    """Whether torchrun started several processes where there is no GPU.

    accelerate, unless it is told of the CPU, would let each of them train by itself.
    """
    is_several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return is_several and not torch.accelerator.is_available()


def _require_as_launched(args: argparse.Namespace) -> None:
    """UserError where the launch asks for other settings than `args` have."""
    for name, asked in asked_of_us().items():
        value = getattr(args, name, asked.value)
        is_open = name == "mixed_precision" and value is None
        if value != asked.value and not is_open:
            problem = f"{asked.variable} asks for {asked.value}, the settings have {name} {value}"
            raise UserError(f"{problem}; make them equal")


def prepare(
    accelerator: Accelerator, network: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """accelerate's prepare for a network and its optimiser; without a loss scaler that stays plain.

    accelerate's wrapper looks installed modules up in every step, 0.5 ms: a third of an MLP's step
    on a CPU.
    """
    network = accelerator.prepare(network)
    if accelerator.scaler is not None:
        optimizer = accelerator.prepare(optimizer)
    return network, optimizer


def backward(accelerator: Accelerator, loss: torch.Tensor) -> None:
    """loss.backward(), scaled where the precision asks for it (see `prepare`)."""
    if accelerator.scaler is None:
        loss.backward()
    else:
        accelerator.backward(loss)


def share_buffers(accelerator: Accelerator, model: torch.nn.Module) -> None:
    """Give every process the main one's buffers, before an evaluation that several share.

    Running statistics of BatchNorm differ between processes after a step; the main one's are saved.
    """
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer.contiguous(), from_process=0))


def on_main_process(values: torch.Tensor, accelerator: Accelerator | None) -> torch.Tensor:
    """The values on the main process, zeros on the others: sums of all that count once."""
    if accelerator is None or accelerator.is_main_process:
        return values
    return torch.zeros_like(values)


def sum_on_main_process(values: torch.Tensor, accelerator: Accelerator | None) -> torch.Tensor:
    """The sum over all processes on the main one, zeros on the others; every process calls it."""
    if accelerator is None or accelerator.num_processes == 1:
        return values
    return on_main_process(accelerator.reduce(values, "sum"), accelerator)


def rows_of_all(values: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The rows (b, ...) of every process, one below the other, and where this process's begin.

    b may differ between processes. No gradient runs through them.
    """
    values = values.detach().contiguous()
    world = torch.distributed.get_world_size()
    own = torch.tensor([len(values)], device=values.device)
    counts = [torch.empty_like(own) for _ in range(world)]
    torch.distributed.all_gather(counts, own)
    sizes = torch.cat(counts).tolist()

    padded = values.new_zeros(max(sizes), *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in range(world)]
    torch.distributed.all_gather(parts, padded)
    rows = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return rows, sum(sizes[: torch.distributed.get_rank()])


def of_main_process(function: Callable[[], T], accelerator: Accelerator) -> T:
    """What `function` returns or raises in the main process, in every process."""
    answer: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            answer = [function()]
        except Exception as error:  # whatever it is, the other processes wait for an answer
            answer = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]
