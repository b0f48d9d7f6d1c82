"""The original's util_cub_trait.py: its class, which lives in data_cub_trait.py."""

from calm.data_cub_trait import CUBTrait
from common.aliases import one_module

one_module(__name__, "calm.util_cub_trait")

__all__ = ["CUBTrait"]
