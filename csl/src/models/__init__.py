"""create_model."""

from common.aliases import one_module
from csl.src.models.utils.factory import create_model

one_module(__name__, "csl.src.models")

__all__ = ["create_model"]
