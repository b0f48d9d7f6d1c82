"""What all benchmarks share: timing, the two tables that they print, and the file of results.

A benchmark file names its parts (the plain way against ours) and its steps (our training step
against the bare step of the same backbone), and calls `main`. Flags:

    --repeats N  --threads N  --only TEXT  --write
    --mixed_precision no|fp16|bf16  --compile  --fast      (of the steps)

`--write` puts the rows into benchmarks/results/HARDWARE.csv, where they replace those of the same
name and setting; `python benchmarks/tables.py` shows them in the READMEs.
"""

import argparse
import contextlib
import datetime
import io
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision

from common.text import read_csv, write_csv

RESULTS = Path(__file__).parent / "results"

COLUMNS = (
    "paper",
    "kind",
    "name",
    "baseline_ms",
    "ours_ms",
    "ratio",
    "wanted",
    "images_per_second",
    "bare_images_per_second",
    "peak_mb",
    "mixed_precision",
    "compile",
    "fast",
    "threads",
    "hardware",
    "python",
    "torch",
    "torchvision",
    "commit",
    "date",
)
KEY = ("paper", "kind", "name", "mixed_precision", "compile", "fast", "threads")

PART = "part"  # the plain way's time over ours: larger is better
STEP = "step"  # our step's time over the bare step's: 1 is the floor

Bench = Callable[[int], tuple[float, float]]  # repeats -> (plain seconds, our seconds)


@dataclass(frozen=True)
class Options:
    """What the command line says about precision and compilation."""

    mixed_precision: str = "no"
    compile: bool = False
    fast: bool = False

    @property
    def device(self) -> torch.device:
        """The GPU where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision in which the bare step runs its forward pass."""
        if self.mixed_precision == "no":
            return contextlib.nullcontext()
        kind = torch.bfloat16 if self.mixed_precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, kind)

    def compiled(self, module: Any) -> Any:
        """The module, compiled where that was asked for."""
        return torch.compile(module) if self.compile else module


@dataclass
class Step:
    """Our training step and the bare one on the same pictures: calls without arguments.

    Ours holds everything that happens for a batch: reading, transforms, forward, loss, backward,
    optimiser, moving averages. The bare step is the same backbone on a batch in memory: forward,
    the plain loss of the task, backward, optimiser.
    """

    ours: Callable[[], object]
    bare: Callable[[], object]
    images: int  # of a batch


Build = Callable[[Options], Step]


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


def alternating(
    plain: Callable[[], Any], ours: Callable[[], Any], repeats: int
) -> tuple[float, float]:
    """The shortest of `repeats` calls of each, taken in turns: both meet the same machine."""
    slow = float("inf")
    quick = float("inf")
    for _ in range(repeats):
        slow = min(slow, best_seconds(plain, 1))
        quick = min(quick, best_seconds(ours, 1))
    return slow, quick


def hardware() -> str:
    """The GPU's name, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def results_file() -> Path:
    """benchmarks/results/HARDWARE.csv of this machine."""
    words = re.findall(r"[a-z0-9]+", hardware().lower().replace("(r)", ""))
    return RESULTS / f"{'-'.join(words)}.csv"


def _commit() -> str:
    command = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def read_results(file: Path) -> list[dict[str, str]]:
    """The rows of a results file, each a dictionary by column."""
    if not file.is_file():
        return []
    (_, header), *rows = read_csv(file)
    return [dict(zip(header, row, strict=True)) for _, row in rows]


def write_results(file: Path, rows: list[dict[str, str]]) -> None:
    """Rows put into the file: each takes the place of the one with its name and setting."""
    kept = {tuple(row[name] for name in KEY): row for row in read_results(file)}
    for row in rows:
        kept[tuple(row[name] for name in KEY)] = row
    ordered = sorted(kept.values(), key=lambda row: (row["paper"], row["kind"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_csv(file, [COLUMNS, *([row[name] for name in COLUMNS] for row in ordered)])


def _measure_step(step: Step, repeats: int) -> tuple[float, float, float | None]:
    """Seconds of the bare step and of ours, and the peak memory of ours in MB (GPU only)."""
    for _ in range(2):
        step.bare()
        step.ours()
    peak = None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        step.ours()
        peak = torch.cuda.max_memory_allocated() / 2**20
    bare, ours = alternating(step.bare, step.ours, 5 * repeats)
    return bare, ours, peak


def _line(baseline: float, ours: float, ratio: float, wanted: str) -> str:
    """Two times in seconds, their ratio and its target, as they are printed."""
    return f"{1e3 * baseline:>12.2f}{1e3 * ours:>12.2f}{ratio:>8.2f}x{wanted:>10}"


def _cells(baseline: float, ours: float, ratio: float, wanted: str) -> dict[str, str]:
    """The same as columns of the results file."""
    return {
        "baseline_ms": f"{1e3 * baseline:.4g}",
        "ours_ms": f"{1e3 * ours:.4g}",
        "ratio": f"{ratio:.3g}",
        "wanted": wanted,
    }


def _time_parts(
    benches: Mapping[str, tuple[Bench, float | None]], repeats: int
) -> Iterator[dict[str, str]]:
    """Print a line a part, and give its row."""
    width = max(map(len, [*benches, ""])) + 2
    if benches:
        print(f"{'part':<{width}}{'plain ms':>12}{'ours ms':>12}{'ratio':>9}{'wanted':>10}")
    for name, (bench, target) in benches.items():
        with contextlib.redirect_stdout(io.StringIO()):  # what the timed code says
            plain, ours = bench(repeats)
        wanted = f">= {target:g}" if target else ""
        print(f"{name:<{width}}{_line(plain, ours, plain / ours, wanted)}", flush=True)
        yield {"kind": PART, "name": name, **_cells(plain, ours, plain / ours, wanted)}


def _time_steps(
    steps: Mapping[str, tuple[Build, float | None]], repeats: int, options: Options
) -> Iterator[dict[str, str]]:
    """Print a line a step, and give its row."""
    width = max(map(len, [*steps, ""])) + 2
    if steps:
        columns = f"{'bare ms':>12}{'ours ms':>12}{'ratio':>9}{'wanted':>10}"
        print(f"{'step':<{width}}{columns}{'images/s':>11}{'bare/s':>9}{'peak MB':>9}")
    for name, (build, target) in steps.items():
        with contextlib.redirect_stdout(io.StringIO()):
            step = build(options)
            bare, ours, peak = _measure_step(step, repeats)
        wanted = f"<= {target:g}" if target else ""
        memory = "" if peak is None else f"{peak:.0f}"
        rates = f"{step.images / ours:>11.1f}{step.images / bare:>9.1f}{memory:>9}"
        print(f"{name:<{width}}{_line(bare, ours, ours / bare, wanted)}{rates}", flush=True)
        yield {
            "kind": STEP,
            "name": name,
            **_cells(bare, ours, ours / bare, wanted),
            "images_per_second": f"{step.images / ours:.4g}",
            "bare_images_per_second": f"{step.images / bare:.4g}",
            "peak_mb": memory,
        }


def _circumstances(options: Options, threads: int) -> dict[str, str]:
    """The columns that all rows of this call share."""
    return dict.fromkeys(COLUMNS, "") | {
        "paper": Path(sys.argv[0]).stem.removeprefix("bench_"),
        "mixed_precision": options.mixed_precision,
        "compile": str(int(options.compile)),
        "fast": str(int(options.fast)),
        "threads": str(threads),
        "hardware": hardware(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


def _switch_fast() -> None:
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="timings of each; the best counts")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose name contains this")
    parser.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), default="no")
    parser.add_argument("--compile", action="store_true", help="torch.compile in the steps")
    parser.add_argument("--fast", action="store_true", help="cuDNN benchmark and TF32 in the steps")
    parser.add_argument("--write", action="store_true", help="keep the rows in results/")
    return parser


def main(
    description: str,
    benches: Mapping[str, tuple[Bench, float | None]],
    steps: Mapping[str, tuple[Build, float | None]] | None = None,
) -> None:
    """Time parts (name -> function, least ratio or None) and steps (name -> builder, most ratio).

    Parts do not know precision or compilation, and are left out where one of those flags is given.
    """
    args = _parser(description).parse_args()
    torch.set_num_threads(args.threads)
    options = Options(args.mixed_precision, args.compile, args.fast)
    if args.fast:
        _switch_fast()

    parts = {} if options != Options() else benches
    chosen = {name: bench for name, bench in parts.items() if args.only in name}
    chosen_steps = {name: build for name, build in (steps or {}).items() if args.only in name}
    print(f"{hardware()}, {args.threads} thread(s), best of {args.repeats}")
    rows = [
        *_time_parts(chosen, args.repeats),
        *_time_steps(chosen_steps, args.repeats, options),
    ]

    if args.write:
        where = _circumstances(options, args.threads)
        write_results(results_file(), [where | row for row in rows])
        print(f"written to {results_file()}")
