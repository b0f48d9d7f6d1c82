"""The original's logger.py: its names, which live in report_logger.py."""

from calm.options_names import LOGGER_TYPES
from calm.report_logger import PythonLogger, TensorboardLogger, load_logger
from common.aliases import one_module

one_module(__name__, "calm.logger")

__all__ = ["LOGGER_TYPES", "PythonLogger", "TensorboardLogger", "load_logger"]
