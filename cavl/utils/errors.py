"""The error of unusable data."""

from common.aliases import one_module
from common.domain import DomainError

one_module(__name__, "cavl.utils.errors")

DataError = DomainError  # a ValueError for callers, one line and exit status 2 for a script's user
