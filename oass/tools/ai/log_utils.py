"""The running means, under the original's name; they live in oass/report.py."""

from common.aliases import one_module
from oass.report import Average_Meter, log_line

one_module(__name__, "oass.tools.ai.log_utils")

__all__ = ["Average_Meter", "log_line"]
