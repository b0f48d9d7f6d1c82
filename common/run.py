"""A run: its directory, what it measures, its checkpoints, signals, and exact resume.

A training script uses one `Run` and reads like the experiment:

    run = start_run(args, default_dir="save/NAME", accelerator=accelerator)
    run.restore(model=model, optimizer=optimizer, confidence=confidence)
    for epoch in run.epochs(args.ep):
        for batch in loader:
            ...                                   # run.guard(loss, index) before backward
            run.step(len(batch))                  # counts, polls signals, saves
        if run.stopped: break                     # --max_steps
        run.save_before_evaluation()              # before anything else that follows the last batch
        run.log("test", accuracy=...)
        run.end_epoch(score=...)
    run.finish(accuracy=...)
"""

import argparse
import contextlib
import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tensorboardX import SummaryWriter
from tqdm import tqdm

from common import checkpoint
from common.errors import UserError
from common.files import atomic_save, atomic_write
from common.guard import FiniteGuard, StopSignals
from common.processes import of_main_process
from common.progress import NOT_WHOLE, Progress, pack_lines, read_lines, read_progress
from common.run_figures import add_figures
from common.rundir import claim, describe_launch, load_run, plain, settings_of
from common.text import read_json


class Run:
    """One run directory and the state of the run in it. Use `start_run` to make one."""

    def __init__(
        self, folder: Path, accelerator: Accelerator, args: argparse.Namespace, source: Path | None
    ) -> None:
        self.folder = folder
        self.accelerator = accelerator
        self.args = args
        self.source = source
        self.rank = accelerator.process_index
        self.world = accelerator.num_processes
        self.is_main = accelerator.is_main_process
        self.progress = Progress()
        self.lines: list[dict[str, Any]] = []
        self.stopped = False
        self.stateful: dict[str, Any] | None = None  # None: cannot be resumed (evaluation)
        self._guard = FiniteGuard(self.last)
        self._signals = StopSignals()
        self._tensorboard: SummaryWriter | None = None
        self._since = time.perf_counter()
        self._is_saved = False  # no step was taken since last.pt was written
        self._was_restored = False  # until the first batches are walked

    # --- what stands in the directory ---

    @property
    def last(self) -> Path:
        """checkpoints/last.pt"""
        return self.folder / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        """checkpoints/best.pt"""
        return self.folder / "checkpoints" / "best.pt"

    def figure(self, name: str) -> Path:
        """figures/NAME.png, its folder made."""
        path = self.folder / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def print(self, *parts: object) -> None:
        """Print on the main process only."""
        if self.is_main:
            print(*parts, flush=True)

    # --- resume ---

    def restore(self, **stateful: Any) -> bool:
        """Name everything that has state; on --resume put it back. True if a checkpoint was read.

        Modules, optimisers, schedulers, tensors (label state; filled in place), anything with
        state_dict/load_state_dict. Random states, the position inside the epoch, the metrics so far
        and the loss scaler are kept besides.
        """
        self.stateful = stateful
        if self.accelerator.scaler is not None:
            self.stateful["scaler"] = self.accelerator.scaler
        if self.source is None:
            if self.rank > 0:  # the same weights (broadcast), but other dropout masks everywhere
                torch.manual_seed((getattr(self.args, "seed", 0) or 0) + 1_000_003 * self.rank)
            return False

        self._read(self.source, stateful)
        self._was_restored = True
        self._is_saved = self.source.resolve() == self.last.resolve()
        if self.is_main:
            self._bring_files_up_to(self.source)

        p = self.progress
        limit = self.args.max_steps
        self.stopped = limit is not None and p.step >= limit and not p.finished
        if not p.finished:
            place = f"epoch {p.epoch + 1}, batch {p.batch}, step {p.step}"
            self.print(f"resumed {self.source}: {place}")
        return True

    def _read(self, source: Path, stateful: Mapping[str, Any]) -> None:
        saved = load_run(source, self.args)
        progress = read_progress(saved["progress"], source)
        lines = read_lines(saved["metrics"], source)
        checkpoint.restore(stateful, saved["state"], source)
        self.progress = progress
        self.lines = lines
        try:
            checkpoint.set_random_state(saved["random"][self.rank % len(saved["random"])])
        except Exception as error:  # three libraries, each with its own errors for a wrong state
            raise UserError(f"{source}: {NOT_WHOLE} (random: {error})") from error

    def _bring_files_up_to(self, source: Path) -> None:
        """config.json, best.pt and metrics.jsonl, now that it is sure that the run goes on."""
        describe_launch(self.folder, self.args, self.accelerator)
        best = source.with_name("best.pt")
        if self.progress.best is not None and best.is_file() and not self.best.is_file():
            atomic_save(self.best, lambda temporary: shutil.copyfile(best, temporary))
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        atomic_write(self.folder / "metrics.jsonl", text.encode())

    def save(self, path: Path | None = None) -> None:
        """Write the whole state to `path` (default checkpoints/last.pt); all processes call it."""
        self._guard.check()
        self._tick()
        stateful = self.stateful or {}
        for item in stateful.values():  # what lives on several processes comes together first
            if hasattr(item, "synchronize"):
                item.synchronize()
        randoms = [checkpoint.random_state()]
        if self.world > 1:
            randoms = gather_object(randoms)

        if self.is_main:
            state = checkpoint.collect(stateful)
            self._guard.check_weights(self.progress.step, state)
            content = {
                "state": state,
                "progress": asdict(self.progress),
                "metrics": pack_lines(self.lines),
                "random": randoms,
                "settings": settings_of(self.args),
            }
            checkpoint.save(path or self.last, content)
        if path is None:
            self._is_saved = True

    def save_before_evaluation(self) -> None:
        """Save last.pt behind the last batch of an epoch; all processes call it, first of all.

        The resumed run walks no batch of the epoch and goes right to what follows them. So what an
        evaluation stops at (an unreadable image, a signal, a full disk) costs no step; and it is
        repeated as it was: what is logged or changed from here to `end_epoch` is not saved before.
        """
        if self.stateful is None or self.stopped:  # `step` has saved where --max_steps stopped
            return
        if not self._is_saved:
            self.save()

    def _tick(self) -> None:
        now = time.perf_counter()
        if not self.progress.finished:
            self.progress.seconds += now - self._since
        self._since = now

    # --- the loop ---

    def epochs(self, total: int) -> Iterator[int]:
        """The epochs still to do, counted from 0; after a resume the first is the interrupted one.

        UserError where the checkpoint stands behind the last epoch.
        """
        done = self.progress.epoch
        if done > total:
            problem = f"{done} epochs are done, the run has {total}"
            raise UserError(f"{self.source}: {NOT_WHOLE} ({problem})")
        while self.progress.epoch < total and not self.stopped:
            yield self.progress.epoch

    def bar(self, batches: Iterable, what: str, total: int) -> Iterator:
        """The batches of an epoch until --max_steps is reached, under a bar on a terminal.

        UserError where the checkpoint stands behind the last batch.
        """
        done = self.progress.batch
        was_stopped = self.stopped
        if self._was_restored and done > total:
            problem = f"{done} batches are done, the epoch has {total}"
            raise UserError(f"{self.source}: {NOT_WHOLE} ({problem})")
        self._was_restored = False
        is_silent = None if self.is_main else True  # None: where the output is no terminal
        shown = tqdm(batches, what, total, initial=done, leave=False, disable=is_silent)
        for batch in shown:
            yield batch
            if self.stopped and not was_stopped:
                return

    def guard(
        self, loss: torch.Tensor, indices: torch.Tensor, explain: Callable[[], str] | None = None
    ) -> None:
        """Stop the run (exit status 1) if the loss is not finite; call it before backward."""
        self._guard.add(self.progress.epoch + 1, self.progress.step + 1, loss, indices, explain)

    def step(self, images: int, skipped: int = 0) -> None:
        """Count one optimiser step over `images` images of all processes; save when it is due."""
        p = self.progress
        p.batch += 1
        p.step += 1
        p.images += images
        p.skipped += skipped
        self._is_saved = False
        limit = self.args.max_steps
        if limit is not None and p.step >= limit:
            self.stopped = True
        if self.world == 1 or p.step % 10 == 0:
            self._poll_together()
        every = self.args.checkpoint_every
        if self.stopped or (every and p.step % every == 0):
            self.save()

    @property
    def received(self) -> int:
        """The signal that asked this process to end, 0 for none."""
        return int(self._signals.received)

    def poll(self) -> None:
        """After SIGTERM, SIGINT or SIGUSR1: save, exit with 128 + its number. For any loop.

        What they changed or logged since the last `step` is then done again by the resumed run:
        where last.pt was written since (`save_before_evaluation`, `end_epoch`) it stands, and is
        not written once more. Several processes agree by a reduction, all at one place: only `step`
        polls, every tenth time, and `end_epoch`.
        """
        if self.world == 1:
            self._poll_together()

    def _poll_together(self) -> None:
        if self.world > 1:
            flag = torch.tensor(self._signals.received, device=self.accelerator.device)
            if self.accelerator.reduce(flag, "sum").item() and not self._signals.received:
                self._signals.received = signal.SIGTERM
        received = self.received
        if not received:
            return
        if self.stateful is not None:
            if not self._is_saved:
                self.save()
            self.print(f"stopped by signal {received}; saved {self.last}; go on with --resume")
        self._wait_for_the_main_process()
        self.close()
        raise SystemExit(128 + received)

    def _wait_for_the_main_process(self) -> None:
        """It writes the checkpoint, and torchrun ends all processes once one of them has failed."""
        if self.world > 1 and self.stateful is not None:
            self.accelerator.wait_for_everyone()

    def end_epoch(self, score: float | None = None) -> None:
        """Close the epoch: save last.pt, and best.pt when `score` (higher is better) is a new best.

        An undefined score (None, NaN) is never the best.
        """
        p = self.progress
        p.epoch += 1
        p.batch = 0
        if score is not None and not math.isnan(score) and (p.best is None or score > p.best):
            p.best = float(score)
            # Before last.pt: after a kill in between the resumed run makes it again.
            self.save(self.best)
        self.save()
        self._poll_together()

    # --- what is measured ---

    def log(self, split: str, **metrics: float | None) -> None:
        """One line of metrics.jsonl and the TensorBoard tags SPLIT/NAME at the present step."""
        step = self.progress.step
        values = plain(metrics)
        line = {"step": step, "epoch": self.progress.epoch + 1, "split": split, **values}
        self.lines.append(line)
        if not self.is_main:
            return
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        # Its writer thread ends on a full disk, which the run's own files report.
        with contextlib.suppress(OSError):
            writer = self._writer()
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    writer.add_scalar(f"{split}/{name}", value, step)

    def _writer(self) -> SummaryWriter:
        """TensorBoard's; what a run that was killed had written behind the present step goes."""
        if self._tensorboard is None:
            place = str(self.folder / "tensorboard")
            self._tensorboard = SummaryWriter(place, purge_step=self.progress.step)
        return self._tensorboard

    def values(self, split: str, metric: str) -> list[float]:
        """All values of a metric so far, in order."""
        return [line[metric] for line in self.lines if line["split"] == split and metric in line]

    def images_per_second(self) -> float | None:
        """Images a second over the whole run, evaluation included; None where none was counted."""
        self._tick()
        p = self.progress
        return p.images / p.seconds if p.images and p.seconds > 0 else None

    def finish(self, **summary: Any) -> None:
        """Write summary.json, mark the run as finished unless --max_steps cut it, print its place.

        A signal that came since the last poll ends the program here, with 128 + its number.
        """
        was_finished = self.progress.finished
        path = self.folder / "summary.json"
        said = f"{self.folder}: this run was finished already"
        if was_finished and _holds_an_object(path):
            self.print(f"{said}; its summary.json stands")
        else:
            self._summarise(path, summary)
            if was_finished:
                self.print(f"{said}; its missing summary.json is written")
        if self.is_main and not was_finished:
            with contextlib.suppress(OSError):
                add_figures(self._writer(), self.folder / "figures", self.progress.step)
        self.print(f"results: {self.folder}")
        self._wait_for_the_main_process()
        self.close()

        received = self.received
        if received:  # while figures were drawn, say, where nothing polls: all is saved now
            self.print(f"stopped by signal {received}; everything was saved before")
            raise SystemExit(128 + received)

    def _summarise(self, path: Path, summary: Mapping[str, Any]) -> None:
        p = self.progress
        speed = self.images_per_second()
        if self.stateful is not None and not p.finished and not self.stopped:
            p.finished = True
            self.save()
        own = {"wall_seconds": round(p.seconds, 3), "images_per_second": speed}
        if self.is_main:
            text = json.dumps(plain({**summary, **own}), indent=1)
            atomic_write(path, f"{text}\n".encode())

    def close(self) -> None:
        """Close TensorBoard and give the signal handlers back."""
        with contextlib.suppress(OSError):
            if self._tensorboard is not None:
                self._tensorboard.close()
        self._signals.give_back()


def _holds_an_object(path: Path) -> bool:
    """Whether a JSON file is there, whole, and an object."""
    with contextlib.suppress(UserError):
        read_json(path, dict)
        return True
    return False


def start_run(
    args: argparse.Namespace,
    default_dir: str | Path,
    accelerator: Accelerator,
    *,
    named: str | Path | None = None,
) -> Run:
    """Choose, lock and describe the run directory; every process gets the same one.

    `named` (default: args.output_dir; "" for none) is a directory that the user named: a run in it
    is never overwritten. Without a name a second run gets a new numbered folder beside the first.
    """
    if named is None:
        named = getattr(args, "output_dir", None)

    def choose() -> tuple[Path, Path | None]:
        folder, source = claim(args, Path(default_dir), Path(named) if named else None)
        if source is None:  # otherwise Run.restore does, once the settings are found equal
            describe_launch(folder, args, accelerator)
        return folder, source

    folder, source = of_main_process(choose, accelerator)
    return Run(folder, accelerator, args, source)
