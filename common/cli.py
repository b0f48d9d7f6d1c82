"""What every script's command line has in common: flags and their types, what the user set, the one-line errors.

What the user set is known by one mechanism for all five papers:

    defaults, given = parse_given(build_parser, argv)
    found = locate_data(settle(defaults, given), is_given="data_dir" in given)
    args = settle(defaults, given, RECIPES[name], SAMPLE_DEFAULTS if found.is_sample else {})
    return Settings(args, frozenset(given), found)

A value that the user gave wins over every layer, also where it equals the default.
"""

import argparse
import atexit
import contextlib
import errno
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from common import interrupt

T = TypeVar("T")

# Settings that may differ between a run and its continuation.
FREE_SETTINGS = {
    *("output_dir", "resume", "overwrite", "max_steps", "checkpoint_every"),
    *("workers", "num_workers", "cpu", "device", "gpu", "print_freq", "print_ratio"),
}


# What the user can do about errors of the operating system, wherever they come up.
_ANSWERS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check the permissions"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space and go on with --resume"),
    errno.EFBIG: "the file is larger than allowed; raise the limit (ulimit -f) and go on with --resume",
    errno.ENAMETOOLONG: "give a shorter path",
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        "raise the limit of open files (ulimit -n), or use fewer --workers",
    ),
}
# Errors that come without a path when they are met in the middle of a file.
_OF_WRITING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENXIO),
    *(errno.ENODEV, errno.EMFILE, errno.ENFILE),
}


class UserError(Exception):
    """A user's mistake: one line that says what is wrong and what to do. Ends the program with status 2."""


class DomainError(UserError, ValueError):
    """A value outside a function's domain. A ValueError for callers, one line for a script's user."""


class NonFiniteError(Exception):
    """The loss or a gradient is not finite. Ends the program with status 1."""


class OneLineParser(argparse.ArgumentParser):
    """argparse, with errors on one line and no abbreviated flags."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print `prog: error: message` on one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see --help)\n")


# ---- types of flags ---------------------------------------------------------------------------------


def number(
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> Callable[[str], float]:
    """An argparse type: a finite number, low <= value <= high and above < value < below.

    >>> number(above=0)("1e-3")
    0.001
    """

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from error
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"must be a finite number, not {text}")
        _check_bounds(value, low, high, above, below)
        return value

    return convert


def whole(low: int | None = None, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number, low <= value <= high.

    >>> whole(1, 16384)("448")
    448
    """

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            shown = text if len(text) <= 30 else f"{text[:30]}..."
            raise argparse.ArgumentTypeError(f"must be a whole number, not {shown!r}") from error
        _check_bounds(value, low, high, None, None)
        return value

    return convert


def _check_bounds(
    value: float,
    low: float | None,
    high: float | None,
    above: float | None,
    below: float | None,
) -> None:
    problem = None
    if above is not None and not value > above:
        problem = f"must be above {above}"
    elif low is not None and not value >= low:
        problem = "must not be negative" if low == 0 else f"must be at least {low}"
    elif below is not None and not value < below:
        problem = f"must be below {below}"
    elif high is not None and not value <= high:
        problem = f"must be at most {high}"
    if problem:
        raise argparse.ArgumentTypeError(f"{problem}, not {value}")


def positive_int(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    return whole(1)(text)


def non_negative_int(text: str) -> int:
    """argparse type: a whole number of at least 0."""
    return whole(0)(text)


def seed(text: str) -> int:
    """argparse type of --seed: 0 to 2**63 - 1, what torch, NumPy and the shuffling of epochs all take."""
    return whole(0, 2**63 - 1)(text)


def image_size(text: str) -> int:
    """argparse type of a side in pixels: 1 to 16384."""
    return whole(1, 16384)(text)


def seed_list(text: str) -> list[int]:
    """argparse type of --seeds: whole numbers with commas between them, none negative, each once.

    >>> seed_list("0,1,2")
    [0, 1, 2]
    """
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(
            f"integers from 0 on with commas between them, not {text!r}"
        )
    seeds = [seed(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"each seed once, not {text!r}")
    return seeds


def readable_file(text: str) -> Path:
    """argparse type: a regular file that is there and can be read; `~` is the user's home.

    A folder, a FIFO or a device is refused: reading a FIFO would wait for its writer.
    """
    path = _expanded(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{path}: no such file")
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{path}: {_kind_of(path)}, expected a file")
    if not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"{path}: cannot be read; check the permissions")
    return path


def folder_path(text: str) -> Path:
    """argparse type: a folder that is there or can be made; `~` is the user's home."""
    path = _expanded(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: {_kind_of(path)}, expected a folder")
    return path


def _checkpoint(text: str) -> str:
    """argparse type of --resume: a path as text, the empty text for the run directory's own checkpoint."""
    return str(_expanded(text)) if text else ""


def _expanded(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        user = text.split("/")[0]
        raise argparse.ArgumentTypeError(f"{text}: there is no user {user[1:]!r}") from error


def _kind_of(path: Path) -> str:
    kinds = {
        "a folder": path.is_dir(),
        "a file": path.is_file(),
        "a FIFO": path.is_fifo(),
        "a socket": path.is_socket(),
    }
    return next((kind for kind, holds in kinds.items() if holds), "a device")


_seed = seed  # add_shared_flags has a parameter of that name


# ---- the shared flags -------------------------------------------------------------------------------


def add_shared_flags(
    parser: argparse.ArgumentParser, *, seed: int | None = 0, skip_corrupt: bool = True
) -> argparse._ArgumentGroup:
    """Add the flags that every training script has and return their group.

    `skip_corrupt=False` for scripts that read no list of images.
    """
    group = parser.add_argument_group("run (the same in all five papers)")
    group.add_argument(
        "--seed",
        "-seed",
        type=_seed,
        default=seed,
        help="every random choice comes from it",
    )
    group.add_argument(
        "--output_dir",
        "-output_dir",
        type=folder_path,
        default=None,
        help="run directory",
    )
    group.add_argument(
        *("--resume", "-resume"),
        nargs="?",
        type=_checkpoint,
        const="",
        default=None,
        metavar="PATH",
        help="go on from the run directory's last checkpoint, or from PATH",
    )
    group.add_argument("--sample", "-sample", action="store_true", help="use the offline sample")
    group.add_argument(
        "--max_steps", "-max_steps", type=positive_int, default=None, help="stop after N steps"
    )
    group.add_argument(
        "--checkpoint_every",
        "-checkpoint_every",
        type=positive_int,
        default=None,
        help="also save every N steps",
    )
    group.add_argument(
        "--mixed_precision",
        "-mixed_precision",
        choices=("no", "fp16", "bf16"),
        default=None,
        help="default: bf16 on a GPU that has it, no on a CPU",
    )
    group.add_argument("--cpu", "-cpu", action="store_true", help="stay on the CPU")
    group.add_argument(
        "--overwrite",
        "-overwrite",
        action="store_true",
        help="move a run that is in the way aside and start over",
    )
    if skip_corrupt:
        group.add_argument(
            "--skip_corrupt",
            "-skip_corrupt",
            action="store_true",
            help="leave unreadable images out, in evaluation too, and count them",
        )
    return group


# ---- what the user set ------------------------------------------------------------------------------


def parse_given(
    parser: argparse.ArgumentParser | Callable[[], argparse.ArgumentParser],
    argv: Sequence[str] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The default of every flag, and the values of those that `argv` holds (default: the command line).

    A flag counts as given also where its value equals the default. A script may add to `given` what was
    set in another way (attributes of a class of settings, say) before it calls `settle`.

    Args:
        parser: the parser, or a function that makes it. It comes back as it was.
        argv: the arguments without the program's name.
    Returns:
        defaults: every flag's name and default; given: names and values of the given ones.
    Raises:
        SystemExit: status 2 and one line on stderr for a wrong argument; 0 after --help.
    """
    if not isinstance(parser, argparse.ArgumentParser):
        parser = parser()
    parser.parse_args(argv)  # errors and --help, while the parser still knows its defaults

    with _nothing_required(parser):
        defaults = vars(parser.parse_args([]))

    with _without_defaults(parser):
        given = vars(parser.parse_args(argv))
    given = {name: value for name, value in given.items() if value is not _ABSENT}
    return defaults, given


_ABSENT = object()


@contextlib.contextmanager
def _nothing_required(parser: argparse.ArgumentParser) -> Iterator[None]:
    requiring = [*parser._actions, *parser._mutually_exclusive_groups]
    before = [part.required for part in requiring]
    for part in requiring:
        part.required = False
    try:
        yield
    finally:
        for part, required in zip(requiring, before, strict=True):
            part.required = required


@contextlib.contextmanager
def _without_defaults(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Flags that are not given leave no trace in the namespace.

    A positional argument that may be absent stores its default in any case, and would convert a text.
    """
    before = [action.default for action in parser._actions]
    set_defaults = parser._defaults
    for action in parser._actions:
        action.default = argparse.SUPPRESS if action.option_strings else _ABSENT
    parser._defaults = {}
    try:
        yield
    finally:
        for action, default in zip(parser._actions, before, strict=True):
            action.default = default
        parser._defaults = set_defaults


def settle(
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    *layers: Mapping[str, Any],
) -> argparse.Namespace:
    """The settings: defaults, then the layers in their order (recipes, a sample's values), then what was given.

    The keys of `given` are the names that the user set: a script's Settings keep them as a frozenset.

    >>> settle({"epochs": 250, "lr": 0.1}, {"lr": 0.1}, {"epochs": 5, "lr": 1.0})
    Namespace(epochs=5, lr=0.1, _given={'lr'})

    Raises:
        ValueError: a layer names a setting that has no default, a mistake in the program.
    """
    settings = dict(defaults)
    for layer in layers:
        unknown = sorted(set(layer) - set(defaults))
        if unknown:
            raise ValueError(f"no such setting: {', '.join(unknown)}")
        settings.update(layer)
    settings.update(given)
    # `_given` serves the scripts that have no Settings yet.
    return argparse.Namespace(**settings, _given=set(given))


def parse_with_sample_defaults(
    build_parser: Callable[[], argparse.ArgumentParser],
    argv: Sequence[str] | None,
    is_sample_run: Callable[[argparse.Namespace], bool],
    sample_defaults: dict | Callable[[argparse.Namespace], dict],
) -> argparse.Namespace:
    """The settings, with the sample's defaults in a sample run; given flags win (`parse_given`, `settle`).

    `sample_defaults` may depend on the settings without them (for instance on the data set).
    """
    defaults, given = parse_given(build_parser, argv)
    args = settle(defaults, given)
    if not is_sample_run(args):
        return args
    layer = sample_defaults(args) if callable(sample_defaults) else sample_defaults
    return settle(defaults, given, layer)


# ---- how a script ends ------------------------------------------------------------------------------


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's main function and end the program with its status.

    A user's error, an error of the operating system that names a file, and Ctrl-C become one line on stderr,
    with status 2 (130 for Ctrl-C, 143 for SIGTERM, 1 for a loss that is not finite). A mistake in the program
    keeps its traceback.

    >>> if __name__ == "__main__":
    ...     run_main(main)
    """
    interrupt.give_back()
    with _signals_of_a_script():
        try:
            status = main()
            sys.stdout.flush()
        except BaseException as error:
            interrupt.quit_at_once()
            status = _status_of(error)
        # Whatever comes now, to the last exit function, is over in a moment: a signal ends it, in one line too.
        interrupt.quit_at_once()
        atexit.unregister(interrupt.quit_at_once)
        atexit.register(interrupt.quit_at_once)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _leave_at_once(status or 0)
    sys.exit(status or 0)


def parse_or_exit(parse: Callable[[Sequence[str] | None], T]) -> T:
    """What `parse(None)` returns: the settings of the command line, before torch is imported.

    What it raises ends the program as `run_main` does: a user's error is one line and status 2.

    >>> if __name__ == "__main__":
    ...     settings = parse_or_exit(parse)
    """
    with interrupt.paused(), _signals_of_a_script():
        try:
            return parse(None)
        except BaseException as error:
            interrupt.quit_at_once()
            status = _status_of(error)
    sys.exit(status or 0)


class _Terminated(SystemExit):
    """SIGTERM while no run takes care of it."""


@contextlib.contextmanager
def _signals_of_a_script() -> Iterator[None]:
    """SIGTERM ends the main function as Ctrl-C does; afterwards the handlers are those from before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in interrupt.SAID}
    process = os.getpid()

    def terminate(number: int, _frame: object) -> None:
        if os.getpid() != process:  # a forked child, which has no main function to end
            os._exit(128 + number)
        signal.signal(number, signal.SIG_DFL)  # a second one quits at once
        raise _Terminated(128 + number)

    if before[signal.SIGTERM] == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: set by a library in C, and still there
                signal.signal(number, handler)


def _status_of(error: BaseException) -> int | None:
    """The exit status, after one line on stderr; what is not a user's error is raised again."""
    if isinstance(error, _Terminated):
        return _one_line(interrupt.SAID[signal.SIGTERM], error.code)
    if isinstance(error, SystemExit) and isinstance(error.code, int | None):
        return error.code
    if isinstance(error, UserError):
        return _one_line(error, 2)
    if isinstance(error, NonFiniteError):
        return _one_line(error, 1)
    if isinstance(error, KeyboardInterrupt):
        return _one_line(interrupt.SAID[signal.SIGINT], 130)
    if isinstance(error, OSError):
        text = told(error)
        if text is not None:
            return _one_line(text, 2)
    raise error


def told(error: OSError) -> str | None:
    """What to tell about an error of the operating system; None where it looks like a mistake in the program.

    Told is every error that names a file (or an address), and without one those that writing meets.
    """
    text = str(error)
    if _IN_A_WORKER in text:
        return _message_of_a_worker(error)

    reason = error.strerror or text
    if error.filename is not None:
        what = (
            os.fsdecode(error.filename)
            if isinstance(error.filename, bytes)
            else str(error.filename)
        )
    elif error.errno == errno.EPIPE:
        what = "the output is closed"
    elif error.errno in _OF_WRITING:
        what = "writing"
    else:
        return None
    answer = answer_to(error)
    return f"{what}: {reason}; {answer}" if answer else f"{what}: {reason}"


def answer_to(error: OSError) -> str | None:
    """What the user can do about an error of the operating system; None where that is not known."""
    return _ANSWERS.get(error.errno)


def _leave_at_once(status: int) -> NoReturn:
    """End one of several processes without the interpreter's teardown, as multiprocessing ends its children.

    gloo's threads live until the process ends. One that still drops the tensors of the last collective needs
    the interpreter's lock for it; Python before 3.14 answers a thread that asks during the teardown with
    pthread_exit, and unwinding C++ that way aborts the process: a finished run that ends with SIGABRT.
    """
    atexit._run_exitfuncs()  # loader workers end here
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _one_line(error: object, status: int) -> int:
    try:
        sys.stdout.flush()
    except OSError:  # whoever read it is gone: nothing may be written at the end either
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    text = str(error)
    if isinstance(error, Exception) and _IN_A_WORKER in text:
        text = _message_of_a_worker(error)
    with contextlib.suppress(OSError):
        print(f"error: {' '.join(text.split())}", file=sys.stderr, flush=True)
    return status


_IN_A_WORKER = "\nOriginal Traceback"


def _message_of_a_worker(error: Exception) -> str:
    """The message of an error that was raised in a loader worker: it stands at the end of a traceback."""
    return str(error).rpartition(f"{type(error).__name__}: ")[2]
