"""What every script's command line has in common: flags, what the user set, how a script ends.

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
import copy
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from common import interrupt
from common.cli_flags import (  # noqa: F401
    add_jobs_flag,
    add_shared_flags,
    add_sync_bn_flag,
    add_training_flags,
)
from common.cli_parser import OneLineParser  # noqa: F401
from common.cli_types import (  # noqa: F401
    folder_path,
    image_size,
    non_negative_int,
    number,
    positive_int,
    readable_file,
    seed,
    seed_list,
    whole,
)
from common.errors import (  # noqa: F401
    DomainError,
    MissingFileError,
    NonFiniteError,
    UserError,
    message_of,
    told,
)
from common.launch import given_by_launch

T = TypeVar("T")

# Settings that may differ between a run and its continuation.
FREE_SETTINGS = {
    *("output_dir", "resume", "overwrite", "max_steps", "checkpoint_every"),
    *("workers", "num_workers", "cpu", "device", "gpu", "print_freq", "print_ratio", "jobs"),
}
# Settings that earlier runs did not have -> the value by which they went.
LATER_SETTINGS = {
    "grad_accum": 1,
    "compile": False,
    "fast": False,
    "eval_autocast": False,
    "half_scores": False,
    "sync_bn": False,
}


# --- what the user set ---


def parse_given(
    parser: argparse.ArgumentParser | Callable[[], argparse.ArgumentParser],
    argv: Sequence[str] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The default of every flag, and the values of those that `argv` holds (default: sys.argv).

    A flag counts as given also where its value equals the default, and where `accelerate launch`
    asks for it. A script may add to `given` what was set in another way (attributes of a class of
    settings, say) before it calls `settle`.

    Args:
        parser: the parser, or a function that makes it; it stays as it is.
        argv: the arguments without the program's name.
    Returns:
        defaults: every flag's name and default; given: names and values of the given ones.
    Raises:
        SystemExit: status 2 and one line on stderr for a wrong argument; 0 after --help.
        UserError: the launch asks for what is not supported, or for another value than `argv`.
    """
    if not isinstance(parser, argparse.ArgumentParser):
        parser = parser()
    parser.parse_args(argv)  # errors and --help

    nothing_required = _twin(parser)
    for action in nothing_required._actions:
        action.required = False
    defaults = vars(nothing_required.parse_args([]))

    # Flags that are not given leave no trace. A positional argument that may be absent stores its
    # default in any case, and would convert a text.
    absent = object()
    without_defaults = _twin(parser)
    without_defaults._defaults = {}
    for action in without_defaults._actions:
        action.default = argparse.SUPPRESS if action.option_strings else absent
    given = vars(without_defaults.parse_args(argv))
    given = {name: value for name, value in given.items() if value is not absent}
    return defaults, {**given, **given_by_launch(defaults, given)}


def _twin(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same parser with actions of its own; any flags may stand together or be left out."""
    own = {id(action): copy.copy(action) for action in parser._actions}
    twin = copy.copy(parser)
    twin._actions = [own[id(action)] for action in parser._actions]
    twin._option_string_actions = {
        flag: own[id(action)] for flag, action in parser._option_string_actions.items()
    }
    twin._defaults = dict(parser._defaults)
    twin._mutually_exclusive_groups = []
    return twin


def settle(
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    *layers: Mapping[str, Any],
) -> argparse.Namespace:
    """The settings: defaults, then the layers in their order, then what was given.

    Layers are recipes, a sample's values, what a checkpoint was trained with, and the like.

    >>> settle({"epochs": 250, "lr": 0.1}, {"lr": 0.1}, {"epochs": 5, "lr": 1.0})
    Namespace(epochs=5, lr=0.1)

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
    return argparse.Namespace(**settings)


# --- how a script ends ---


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's main function and end the program with its status.

    A user's error, an error of the operating system that names a file, and Ctrl-C become one line
    on stderr, with status 2 (130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1, 1 for a loss that is
    not finite). A mistake in the program keeps its traceback.

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
        # Whatever comes now, to the last exit function, is over in a moment: a signal ends it too.
        interrupt.quit_at_once()
        atexit.unregister(interrupt.quit_at_once)
        atexit.register(interrupt.quit_at_once)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _leave_at_once(status or 0)
    sys.exit(status or 0)


_command: list[str] = []


def own_command(wanted_by: str) -> list[str]:
    """The words that start this very program once more.

    UserError where it is none: its main function was called from somebody's Python.
    """
    if not _command:
        raise UserError(f"{wanted_by}: only from a command line")
    return list(_command)


def parse_or_exit(parse: Callable[[Sequence[str] | None], T]) -> T:
    """What `parse(None)` returns: the settings of the command line, before torch is imported.

    What it raises ends the program as `run_main` does: a user's error is one line and status 2.

    >>> if __name__ == "__main__":
    ...     settings = parse_or_exit(parse)
    """
    _command[:] = [sys.executable, *sys.orig_argv[1:]]
    with interrupt.paused(), _signals_of_a_script():
        try:
            return parse(None)
        except BaseException as error:
            interrupt.quit_at_once()
            status = _status_of(error)
    sys.exit(status or 0)


class _Terminated(SystemExit):
    """SIGTERM or SIGUSR1 while no run takes care of it."""


@contextlib.contextmanager
def _signals_of_a_script() -> Iterator[None]:
    """SIGTERM and SIGUSR1 end the main function as Ctrl-C does; afterwards all is as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in interrupt.SAID}
    process = os.getpid()

    def terminate(signum: int, _frame: object) -> None:
        if os.getpid() != process:  # a forked child, which has no main function to end
            os._exit(128 + signum)
        signal.signal(signum, signal.SIG_DFL)  # a second one quits at once
        raise _Terminated(128 + signum)

    for signum, handler in before.items():
        if signum != signal.SIGINT and handler == signal.SIG_DFL:
            signal.signal(signum, terminate)
    try:
        yield
    finally:
        for signum, handler in before.items():
            if handler is not None:  # None: set by a library in C, and still there
                signal.signal(signum, handler)


def _status_of(error: BaseException) -> int | None:
    """The exit status, after one line on stderr; what is not a user's error is raised again."""
    if isinstance(error, _Terminated):
        number = signal.Signals(int(str(error.code)) - 128)
        return _one_line(interrupt.SAID[number], 128 + number)
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


def _leave_at_once(status: int) -> NoReturn:
    """End one of several processes without the interpreter's teardown, as multiprocessing does.

    gloo's threads live until the process ends. One that still drops the tensors of the last
    collective needs the interpreter's lock for it; Python before 3.14 answers a thread that asks
    during the teardown with pthread_exit, and unwinding C++ that way aborts the process: a finished
    run that ends with SIGABRT.
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
    with contextlib.suppress(OSError):
        print(f"error: {' '.join(message_of(error).split())}", file=sys.stderr, flush=True)
    return status
