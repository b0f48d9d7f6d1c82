"""A script with --jobs, as the papers' are: a sweep of the toy over seeds.

    python jobs_toy.py --output_dir FOLDER --seeds 0,1,2 --jobs 2

A seed of 7 fails; with --slow the seeds 0 and 1 wait in their second step until they are told to
stop.
"""

import common.interrupt  # noqa: F401

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common.cli import (
    UserError,
    add_jobs_flag,
    add_shared_flags,
    parse_or_exit,
    run_main,
    seed_list,
)
from common.compare import PlannedRun, child_of, run_each
from common.run import Run
from tests.common import toy


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_shared_flags(parser)
    parser.add_argument("--seeds", type=seed_list)
    parser.add_argument("--slow", action="store_true")
    add_jobs_flag(parser)
    return toy.settings(None, **vars(parser.parse_args(argv)))


def plan(args: argparse.Namespace, folder: Path) -> list[PlannedRun]:
    runs = []
    for seed in args.seeds:
        place = folder / f"seed{seed}"
        child = child_of(args, place, seed=seed, seeds=None)
        runs.append(PlannedRun(place, {"seed": seed}, child))
    return runs


def train(args: argparse.Namespace) -> dict[str, Any]:
    if args.seed == 7:
        raise UserError("seven is not to be trained")

    def wait(run: Run) -> None:
        is_early = run.progress.step == 1 and run.source is None
        if args.slow and args.seed < 2 and is_early:
            print("waiting", flush=True)
            while not run.received:
                time.sleep(0.05)

    run = toy.train(args, after_step=wait)
    accuracy = run.values("test", "accuracy")[-1] if run.values("test", "accuracy") else None
    threads = [torch.get_num_threads(), os.environ.get("CUDA_VISIBLE_DEVICES", "")]
    print("threads and GPU", *threads)
    return {"accuracy": accuracy, "draw": sum(run.values("train", "draw")), "nothing": float("nan")}


def main(settings: argparse.Namespace) -> None:
    parent, frame = run_each(settings, "sweep", lambda folder: plan(settings, folder), train)
    if not parent.stopped:
        parent.finish(runs=len(frame))


if __name__ == "__main__":
    settings = parse_or_exit(parse)
    run_main(lambda: main(settings))
