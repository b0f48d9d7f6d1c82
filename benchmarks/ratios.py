"""Timing and the table that all benchmarks print: plain seconds, our seconds, ratio, target."""

import argparse
import contextlib
import io
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Bench = Callable[[int], tuple[float, float]]  # repeats -> (plain seconds, our seconds)


def timed(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The shortest of `repeats` calls in seconds, and what the last call returned.

    CPU seconds of this process, which other jobs on the machine disturb less; with a GPU wall
    seconds, synchronised.
    """
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else time.process_time
    best = float("inf")
    result = None
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        start = clock()
        result = function()
        if cuda:
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return best, result


def best_seconds(function: Callable[[], Any], repeats: int) -> float:
    """The shortest of `repeats` calls, as `timed` measures it."""
    return timed(function, repeats)[0]


def main(description: str, benches: Mapping[str, tuple[Bench, float | None]]) -> None:
    """Time the benchmarks (name -> function and target ratio or None) and print a line for each."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="timings of each; the best counts")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, {args.threads} thread(s), best of {args.repeats}")
    chosen = {name: bench for name, bench in benches.items() if args.only in name}
    width = max(map(len, benches)) + 2
    print(f"{'name':<{width}}{'plain ms':>12}{'ours ms':>12}{'ratio':>9}{'target':>9}")
    for name, (bench, target) in chosen.items():
        with contextlib.redirect_stdout(io.StringIO()):  # what the timed code says
            plain, ours = bench(args.repeats)
        wanted = f"{target:g}x" if target else "-"
        times = f"{1e3 * plain:>12.2f}{1e3 * ours:>12.2f}"
        print(f"{name:<{width}}{times}{plain / ours:>8.1f}x{wanted:>9}", flush=True)
