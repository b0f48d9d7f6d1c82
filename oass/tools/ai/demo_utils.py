"""Drawing, under the original's names; it lives in oass/figures.py."""

from common.aliases import one_module
from oass.figures import colormap

one_module(__name__, "oass.tools.ai.demo_utils")

__all__ = ["colormap"]
