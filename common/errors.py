"""Errors that end a program in one line, and what a user can do about those of the system."""

import errno
import os

# What the user can do about errors of the operating system, wherever they come up.
_ANSWERS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check the permissions"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space and go on with --resume"),
    errno.EFBIG: "the file is larger than allowed; raise the limit (ulimit -f) "
    "and go on with --resume",
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
_IN_A_WORKER = "\nOriginal Traceback"


class UserError(Exception):
    """A user's mistake: one line, what is wrong and what to do. Ends the program with status 2."""


class DomainError(UserError, ValueError):
    """A value, a setting or data that do not fit: a ValueError for callers, one line for users."""


class MissingFileError(UserError, FileNotFoundError):
    """A file that is not there: a FileNotFoundError for callers, one line for users."""


class NonFiniteError(Exception):
    """The loss or a weight is not finite. Ends the program with status 1."""


def message_of(error: object) -> str:
    """The message of an error; of one from a loader worker it is the end of a traceback."""
    text = str(error)
    if _IN_A_WORKER in text:
        return text.rpartition(f"{type(error).__name__}: ")[2]
    return text


def told(error: OSError) -> str | None:
    """What to tell about an error of the operating system; None for a mistake in the program.

    Told is every error that names a file or an address, and those that writing meets without.
    """
    if _IN_A_WORKER in str(error):
        return message_of(error)

    if error.filename is not None:
        is_bytes = isinstance(error.filename, bytes)
        what = os.fsdecode(error.filename) if is_bytes else str(error.filename)
    elif error.errno == errno.EPIPE:
        what = "the output is closed"
    elif error.errno in _OF_WRITING:
        what = "writing"
    else:
        return None
    parts = [f"{what}: {error.strerror or error}", answer_to(error)]
    return "; ".join(part for part in parts if part)


def answer_to(error: OSError) -> str | None:
    """What the user can do about an error of the operating system; None where it is unknown."""
    return _ANSWERS.get(error.errno or 0)
