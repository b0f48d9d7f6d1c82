"""A run directory: config.json, metrics.jsonl, summary.json, checkpoints, TensorBoard, figures; signals; exact resume.

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
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from tensorboardX import SummaryWriter
from tqdm import tqdm

from common import checkpoint
from common.errors import UserError
from common.guard import FiniteGuard, StopSignals
from common.rundir import claim, describe_launch, load_run, plain, settings_of

T = TypeVar("T")


@dataclass
class Progress:
    """Where a run stands; saved in every checkpoint. `batch` is the next batch of `epoch`."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    images: int = 0
    skipped: int = 0
    seconds: float = 0.0
    best: float | None = None
    finished: bool = False


NOT_WHOLE = "not a whole checkpoint of a run"
_COUNTS = ("epoch", "batch", "step", "images", "skipped")


def read_progress(values: Mapping[str, Any], source: object) -> Progress:
    """A checkpoint's progress; UserError names the first value that cannot be one."""
    names = {field.name for field in fields(Progress)}
    if set(values) != names:
        different = ", ".join(sorted(str(name) for name in names ^ set(values)))
        raise UserError(f"{source}: {NOT_WHOLE} (progress: {different})")

    seconds, best = values["seconds"], values["best"]
    problems = {name: not _is_count(values[name]) for name in _COUNTS}
    problems["seconds"] = not _is_number(seconds) or not 0 <= seconds < math.inf
    problems["best"] = best is not None and not _is_number(best)
    problems["finished"] = not isinstance(values["finished"], bool)
    problems["batch"] = problems["batch"] or (
        _is_count(values["step"]) and values["batch"] > values["step"]
    )
    for name, is_wrong in problems.items():
        if is_wrong:
            raise UserError(f"{source}: {NOT_WHOLE} ({name} is {values[name]!r:.40})")

    progress = Progress(**values)
    if best is not None and math.isnan(best):
        progress.best = None
    return progress


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_lines(lines: list[Any], source: object) -> list[dict[str, Any]]:
    """A checkpoint's lines of metrics.jsonl; UserError names the first that cannot be one."""
    for number, line in enumerate(lines, 1):
        is_line = isinstance(line, dict) and isinstance(line.get("split"), str)
        is_line = is_line and _is_count(line.get("step")) and _is_count(line.get("epoch"))
        try:
            json.dumps(line, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            is_line = False
        if not is_line:
            raise UserError(f"{source}: {NOT_WHOLE} (line {number} of the metrics is {line!r:.40})")
    return list(lines)


def _holds_an_object(path: Path) -> bool:
    """Whether a JSON file is there, whole, and an object."""
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError, RecursionError):
        return False


class Run:
    """One run directory and the state of the run in it. Use `start_run` to make one."""

    def __init__(
        self, folder: Path, accelerator: Accelerator, args: argparse.Namespace, source: Path | None
    ) -> None:
        self.folder, self.accelerator, self.args, self.source = folder, accelerator, args, source
        self.progress, self.lines, self.stopped = Progress(), [], False
        self.stateful: dict[str, Any] | None = None  # None: this run cannot be resumed (evaluation)
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.is_main = accelerator.is_main_process
        self._guard, self._signals = FiniteGuard(self.last), StopSignals()
        self._tensorboard: SummaryWriter | None = None
        self._since = time.perf_counter()
        self._is_saved = False  # no step was taken since last.pt was written
        self._was_restored = False  # until the first batches are walked

    # ---- what stands in the directory -----------------------------------------------------------

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

    # ---- resume ---------------------------------------------------------------------------------

    def restore(self, **stateful: Any) -> bool:
        """Name everything that has state; on --resume put it back. True if the run goes on from a checkpoint.

        Modules, optimisers, schedulers, tensors (label state; filled in place), anything with
        state_dict/load_state_dict. Random states, the position inside the epoch, the metrics so far and
        the loss scaler are kept besides.
        """
        self.stateful = stateful
        if self.accelerator.scaler is not None:
            self.stateful["scaler"] = self.accelerator.scaler
        if self.source is None:
            if (
                self.rank > 0
            ):  # the same weights (broadcast), but other dropout masks on every process
                torch.manual_seed((getattr(self.args, "seed", 0) or 0) + 1_000_003 * self.rank)
            return False
        saved = load_run(self.source, self.args)
        progress = read_progress(saved["progress"], self.source)
        lines = read_lines(saved["metrics"], self.source)
        checkpoint.restore(stateful, saved["state"], self.source)
        self.progress = progress
        self.lines = lines
        try:
            checkpoint.set_random_state(saved["random"][self.rank % len(saved["random"])])
        except (
            Exception
        ) as error:  # three libraries, each with its own errors for a state that is none
            raise UserError(f"{self.source}: {NOT_WHOLE} (random: {error})") from error
        self._was_restored = True
        self._is_saved = self.source.resolve() == self.last.resolve()
        best = self.source.with_name("best.pt")
        if self.is_main:
            describe_launch(
                self.folder, self.args, self.accelerator
            )  # now that it is sure to go on
            if self.progress.best is not None and best.is_file() and not self.best.is_file():
                checkpoint.atomic_save(
                    self.best, lambda temporary: shutil.copyfile(best, temporary)
                )
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            checkpoint.atomic_write(self.folder / "metrics.jsonl", text.encode())
        p, limit = self.progress, self.args.max_steps
        self.stopped = limit is not None and p.step >= limit and not p.finished
        if not p.finished:
            self.print(
                f"resumed {self.source}: epoch {p.epoch + 1}, batch {p.batch}, step {p.step}"
            )
        return True

    def save(self, path: Path | None = None) -> None:
        """Write the whole state to `path` (default checkpoints/last.pt); all processes call it."""
        self._guard.check()
        self._tick()
        for (
            item
        ) in self.stateful.values():  # state that lives on several processes comes together first
            if hasattr(item, "synchronize"):
                item.synchronize()
        randoms = (
            gather_object([checkpoint.random_state()])
            if self.world > 1
            else [checkpoint.random_state()]
        )
        if self.is_main:
            state = checkpoint.collect(self.stateful)
            self._guard.check_weights(self.progress.step, state)
            checkpoint.save(
                path or self.last,
                {
                    "state": state,
                    "progress": asdict(self.progress),
                    "metrics": self.lines,
                    "random": randoms,
                    "settings": settings_of(self.args),
                },
            )
        if path is None:
            self._is_saved = True

    def save_before_evaluation(self) -> None:
        """Save last.pt behind the last batch of an epoch; all processes call it, before anything else.

        The resumed run walks no batch of the epoch and goes right to what follows them. So what an evaluation
        stops at (an unreadable image, a signal, a full disk) costs no step; and it is repeated as it was: nothing
        that is logged or changed from here to `end_epoch` is saved before.
        """
        if self.stateful is None or self.stopped:  # `step` has saved where --max_steps stopped
            return
        if not self._is_saved:
            self.save()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += 0.0 if self.progress.finished else now - self._since
        self._since = now

    # ---- the loop -------------------------------------------------------------------------------

    def epochs(self, total: int) -> Iterator[int]:
        """The epochs still to do, counted from 0; after a resume the first is the interrupted one.

        UserError where the checkpoint stands behind the last epoch.
        """
        if self.progress.epoch > total:
            raise UserError(
                f"{self.source}: {NOT_WHOLE} ({self.progress.epoch} epochs are done, the run has {total})"
            )
        while self.progress.epoch < total and not self.stopped:
            yield self.progress.epoch

    def bar(self, batches: Iterable, what: str, total: int) -> Iterator:
        """The batches of an epoch under a progress bar (quiet when not on a terminal), until --max_steps is reached.

        UserError where the checkpoint stands behind the last batch.
        """
        start, stopped = self.progress.batch, self.stopped
        if self._was_restored and start > total:
            raise UserError(
                f"{self.source}: {NOT_WHOLE} ({start} batches are done, the epoch has {total})"
            )
        self._was_restored = False
        for batch in tqdm(
            batches, what, total, initial=start, leave=False, disable=None if self.is_main else True
        ):
            yield batch
            if self.stopped and not stopped:
                return

    def guard(
        self, loss: torch.Tensor, indices: torch.Tensor, explain: Callable[[], str] | None = None
    ) -> None:
        """Stop the run (exit status 1) if the loss is not finite (`FiniteGuard`); call it before backward."""
        self._guard.add(self.progress.epoch + 1, self.progress.step + 1, loss, indices, explain)

    def step(self, images: int, skipped: int = 0) -> None:
        """Count one optimiser step over `images` images (of all processes); save when it is due."""
        p = self.progress
        p.batch += 1
        p.step += 1
        p.images += images
        p.skipped += skipped
        self._is_saved = False
        if self.args.max_steps is not None and p.step >= self.args.max_steps:
            self.stopped = True
        if self.world == 1 or p.step % 10 == 0:
            self._poll_together()
        if self.stopped or (
            self.args.checkpoint_every and p.step % self.args.checkpoint_every == 0
        ):
            self.save()

    def poll(self) -> None:
        """After SIGTERM or SIGINT: save and exit with 143 or 130. Loops outside training may call it too.

        What they changed or logged since the last `step` is then done again by the resumed run: where last.pt
        was written since (`save_before_evaluation`, `end_epoch`) it stands, and is not written once more.
        Several processes agree by a reduction, all at one place: only `step` polls, every tenth time, and
        `end_epoch`.
        """
        if self.world == 1:
            self._poll_together()

    def _poll_together(self) -> None:
        if self.world > 1:
            flag = torch.tensor(self._signals.received, device=self.accelerator.device)
            if self.accelerator.reduce(flag, "sum").item() and not self._signals.received:
                self._signals.received = signal.SIGTERM
        received = int(self._signals.received)
        if received:
            if self.stateful is not None:
                if not self._is_saved:
                    self.save()
                self.print(f"stopped by signal {received}; saved {self.last}; go on with --resume")
            self.close()
            raise SystemExit(128 + received)

    def end_epoch(self, score: float | None = None) -> None:
        """Close the epoch: save last.pt, and best.pt when `score` (higher is better) is a new best.

        An undefined score (None, NaN) is never the best.
        """
        p = self.progress
        p.epoch += 1
        p.batch = 0
        is_defined = score is not None and not math.isnan(score)
        is_best = is_defined and (p.best is None or score > p.best)
        if is_best:
            p.best = float(score)
        if is_best:  # before last.pt: after a kill in between the resumed run makes it again
            self.save(self.best)
        self.save()
        self._poll_together()

    # ---- what is measured -----------------------------------------------------------------------

    def log(self, split: str, **metrics: float | None) -> None:
        """One line of metrics.jsonl and the TensorBoard tags SPLIT/NAME at the present step."""
        line = {
            "step": self.progress.step,
            "epoch": self.progress.epoch + 1,
            "split": split,
            **plain(metrics),
        }
        self.lines.append(line)
        if not self.is_main:
            return
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._tensorboard is None:
            self._tensorboard = SummaryWriter(
                str(self.folder / "tensorboard"), purge_step=self.progress.step
            )
        with contextlib.suppress(
            OSError
        ):  # its writer thread ends on a full disk, which the run's own files report
            for name, value in plain(metrics).items():
                if isinstance(value, (int, float)):
                    self._tensorboard.add_scalar(f"{split}/{name}", value, self.progress.step)

    def values(self, split: str, metric: str) -> list[float]:
        """All values of a metric so far, in order."""
        return [line[metric] for line in self.lines if line["split"] == split and metric in line]

    def images_per_second(self) -> float | None:
        """Images a second over the whole run, evaluation included; None where none was counted."""
        self._tick()
        p = self.progress
        return p.images / p.seconds if p.images and p.seconds > 0 else None

    def finish(self, **summary: Any) -> None:
        """Write summary.json, mark the run as finished (unless --max_steps cut it), print where it lies.

        A signal that came since the last poll ends the program here, with 143 or 130.
        """
        was_finished, path = self.progress.finished, self.folder / "summary.json"
        if was_finished and _holds_an_object(path):
            self.print(f"{self.folder}: this run was finished already; its summary.json stands")
        else:
            speed = self.images_per_second()
            if self.stateful is not None and not was_finished and not self.stopped:
                self.progress.finished = True
                self.save()
            summary = {
                **summary,
                "wall_seconds": round(self.progress.seconds, 3),
                "images_per_second": speed,
            }
            if self.is_main:
                checkpoint.atomic_write(
                    path, (json.dumps(plain(summary), indent=1) + "\n").encode()
                )
            if was_finished:
                self.print(
                    f"{self.folder}: this run was finished already; its missing summary.json is written"
                )
        self.print(f"results: {self.folder}")
        self.close()
        if (
            self._signals.received
        ):  # while figures were drawn, say, where nothing polls: all is saved now
            self.print(
                f"stopped by signal {int(self._signals.received)}; everything was saved before"
            )
            raise SystemExit(128 + self._signals.received)

    def close(self) -> None:
        """Close TensorBoard and give the signal handlers back."""
        with contextlib.suppress(OSError):
            if self._tensorboard is not None:
                self._tensorboard.close()
        self._signals.give_back()


def start_run(
    args: argparse.Namespace,
    default_dir: str | Path,
    accelerator: Accelerator,
    *,
    named: str | Path | None = None,
) -> Run:
    """Choose, lock and describe the run directory; every process gets the same one.

    `named` (default: args.output_dir; "" for none) is a directory that the user named: a run in it is never
    overwritten. Without a name a second run gets a new numbered folder beside the first.
    """
    named = getattr(args, "output_dir", None) if named is None else named

    def choose() -> tuple[Path, Path | None]:
        folder, source = claim(args, Path(default_dir), Path(named) if named else None)
        if source is None:  # otherwise Run.restore does, once the settings are found equal
            describe_launch(folder, args, accelerator)
        return folder, source

    folder, source = of_main_process(choose, accelerator)
    return Run(folder, accelerator, args, source)


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
