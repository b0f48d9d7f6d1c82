"""create_model."""

from csl.src.models.utils.factory import create_model

__all__ = ["create_model"]
