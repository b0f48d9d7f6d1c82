"""TResNet M, L, XL and L v2."""

from common.aliases import one_module
from csl.src.models.tresnet.tresnet import TResNet, TResnetL, TResnetL_V2, TResnetM, TResnetXL

one_module(__name__, "csl.src.models.tresnet")

__all__ = ["TResNet", "TResnetL", "TResnetL_V2", "TResnetM", "TResnetXL"]
