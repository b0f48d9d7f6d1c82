"""RandAugment, under the original's name; it lives in oass/data_randaugment.py."""

from common.aliases import one_module
from oass.data_randaugment import RandAugmentMC

one_module(__name__, "oass.tools.ai.randaugment")

__all__ = ["RandAugmentMC"]
