"""The error of unusable data."""

from common.aliases import one_module
from common.cli import UserError

one_module(__name__, "cavl.utils.errors")


class DataError(UserError, ValueError):
    """Data that cannot be used. A ValueError for callers, one line and exit status 2 for a script's user."""
