"""TResNet M, L, XL and L v2."""

from csl.src.models.tresnet.tresnet import TResNet, TResnetL, TResnetL_V2, TResnetM, TResnetXL

__all__ = ["TResNet", "TResnetL", "TResnetL_V2", "TResnetM", "TResnetXL"]
