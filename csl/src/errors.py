"""The errors of unusable settings and files: one line for a script's user, standard classes for callers."""

from common.cli import UserError


class SettingsError(UserError, ValueError):
    """A setting, file content or shape that cannot be used; also a ValueError."""


class MissingFileError(UserError, FileNotFoundError):
    """A file that is not there; also a FileNotFoundError."""
