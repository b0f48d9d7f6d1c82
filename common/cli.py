"""What every script's command line has in common: the shared flags, the two-pass parse, the one-line errors."""

import argparse
import atexit
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

# Settings that may differ between a run and its continuation (DESIGN.md, flags).
FREE_SETTINGS = {
    *("output_dir", "resume", "overwrite", "max_steps", "checkpoint_every"),
    *("workers", "num_workers", "cpu", "device", "gpu", "print_freq", "print_ratio"),
}


# What the user can do about errors of the operating system, wherever they come up.
_ANSWERS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check the permissions"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space and go on with --resume"),
    errno.ENAMETOOLONG: "give a shorter path",
}


class UserError(Exception):
    """A user's mistake: one line that says what is wrong and what to do. Ends the program with status 2."""


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


def positive_int(text: str) -> int:
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def non_negative_int(text: str) -> int:
    """argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, not {value}")
    return value


def seed_list(text: str) -> list[int]:
    """argparse type of --seeds: whole numbers with commas between them, none negative, each once.

    >>> seed_list("0,1,2")
    [0, 1, 2]
    """
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"integers from 0 on with commas between them, not {text!r}")
    seeds = [int(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"each seed once, not {text!r}")
    return seeds


def add_shared_flags(
    parser: argparse.ArgumentParser, *, seed: int | None = 0, skip_corrupt: bool = True
) -> argparse._ArgumentGroup:
    """Add the flags that every training script has (DESIGN.md, flags) and return their group.

    `skip_corrupt=False` for the scripts of evaluation, which never skip.
    """
    group = parser.add_argument_group("run (the same in all five papers)")
    group.add_argument("--seed", "-seed", type=int, default=seed, help="every random choice comes from it")
    group.add_argument("--output_dir", "-output_dir", type=Path, default=None, help="run directory")
    group.add_argument(
        *("--resume", "-resume"),
        nargs="?",
        const="",
        default=None,
        metavar="PATH",
        help="go on from the run directory's last checkpoint, or from PATH",
    )
    group.add_argument("--sample", "-sample", action="store_true", help="use the offline sample")
    group.add_argument("--max_steps", "-max_steps", type=positive_int, default=None, help="stop after N steps")
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
            help="skip and count unreadable images in training",
        )
    return group


def parse_with_sample_defaults(
    build_parser: Callable[[], argparse.ArgumentParser],
    argv: Sequence[str] | None,
    is_sample_run: Callable[[argparse.Namespace], bool],
    sample_defaults: dict | Callable[[argparse.Namespace], dict],
) -> argparse.Namespace:
    """Parse once; for a sample run set the sample's defaults and parse again, so that given flags win.

    `sample_defaults` may depend on what the first pass saw (for instance the data set).
    """
    args = build_parser().parse_args(argv)
    if is_sample_run(args):
        parser = build_parser()
        parser.set_defaults(**(sample_defaults(args) if callable(sample_defaults) else sample_defaults))
        args = parser.parse_args(argv)
    return args


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's main function; user errors become one line on stderr and exit status 2.

    >>> if __name__ == "__main__":
    ...     run_main(main)
    """
    try:
        status = main()
    except SystemExit as stop:
        if not isinstance(stop.code, int | None):  # sys.exit("text") prints it
            raise
        status = stop.code
    except UserError as error:
        status = _one_line(error, 2)
    except NonFiniteError as error:
        status = _one_line(error, 1)
    except KeyboardInterrupt:
        status = _one_line("interrupted", 130)
    except OSError as error:
        if error.errno not in _ANSWERS:
            raise
        status = _one_line(f"{error.filename or 'writing'}: {error.strerror}; {_ANSWERS[error.errno]}", 2)
    sys.stdout.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _leave_at_once(status or 0)
    sys.exit(status or 0)


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
    sys.stdout.flush()
    text = str(error)
    if "\nOriginal Traceback" in text:  # raised in a loader worker: the message stands at the end
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return status
