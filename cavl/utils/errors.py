"""The error of unusable data."""

from common.cli import UserError


class DataError(UserError, ValueError):
    """Data that cannot be used. A ValueError for callers, one line and exit status 2 for a script's user."""
