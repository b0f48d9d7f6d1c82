"""The flags that the scripts of the five papers share."""

import argparse
from functools import partial
from typing import Any

from common.cli_types import checkpoint_path, folder_path, positive_int
from common.cli_types import seed as seed_number


def add_shared_flags(
    parser: argparse.ArgumentParser, *, seed: int | None = 0, skip_corrupt: bool = True
) -> argparse._ArgumentGroup:
    """Add the flags that every training script has and return their group.

    `skip_corrupt=False` for scripts that read no list of images.
    """
    group = parser.add_argument_group("run (the same in all five papers)")
    add = partial(_add_either_dash, group)
    add("seed", "of every random choice", type=seed_number, default=seed)
    add("output_dir", "run directory", type=folder_path)
    what = "go on from the run directory's last checkpoint, or from PATH"
    add("resume", what, nargs="?", type=checkpoint_path, const="", metavar="PATH")
    add("sample", "use the offline sample", action="store_true")
    add("max_steps", "stop after N steps", type=positive_int)
    add("checkpoint_every", "also save every N steps", type=positive_int)
    what = "no, fp16 or bf16 (default: bf16 on a GPU that has it, no on a CPU)"
    add("mixed_precision", what, choices=("no", "fp16", "bf16"))
    add("cpu", "stay on the CPU", action="store_true")
    add("overwrite", "move a run that is in the way aside and start over", action="store_true")
    if skip_corrupt:
        what = "leave unreadable images out, in evaluation too, and count them"
        add("skip_corrupt", what, action="store_true")
    return group


def add_training_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags of a training step, the same in all five papers, to the shared ones."""
    add = partial(_add_either_dash, group)
    what = "an optimiser step covers N batches, computed one after the other (memory of one)"
    add("grad_accum", what, type=positive_int, default=1, metavar="N")
    what = "torch.compile the network: first steps slow, results differ in the last digits"
    add("compile", what, action="store_true")
    what = "cuDNN's fastest kernels, TF32, no determinism: no run can be repeated to the bit"
    add("fast", what, action="store_true")


def _add_either_dash(group: argparse._ArgumentGroup, name: str, what: str, **kind: Any) -> None:
    """Add a flag that is spelled with one dash or two, as the originals do."""
    group.add_argument(f"--{name}", f"-{name}", help=what, **kind)


def add_sync_bn_flag(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, *names: str
) -> None:
    """Add --sync_bn, of the papers whose networks have batch norm of each process by default."""
    told = "batch norm over the images of all processes"
    parser.add_argument("--sync_bn", *names, action="store_true", help=told)


def add_jobs_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *names: str) -> None:
    """Add --jobs, of the scripts that may train several runs."""
    parser.add_argument(
        "--jobs",
        *names,
        type=positive_int,
        default=1,
        metavar="N",
        help="N of these runs at a time: threads are shared out, each has one GPU",
    )
