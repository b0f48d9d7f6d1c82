"""The matrices of numbers in a MATLAB file, version 7 and earlier: `common.own_mat`."""

from common.aliases import one_module
from common.own_mat import read_matrices

__all__ = ["read_matrices"]

one_module(__name__, "cavl.data_mat")
