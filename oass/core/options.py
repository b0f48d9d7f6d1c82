"""The flags of the training scripts, under the name of the room they moved from."""

from common.aliases import one_module
from oass.options import build_parser

one_module(__name__, "oass.core.options")

__all__ = ["build_parser"]
