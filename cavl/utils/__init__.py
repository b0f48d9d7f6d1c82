"""The released code's utilities."""

from common.aliases import one_module

one_module(__name__, "cavl.utils")
