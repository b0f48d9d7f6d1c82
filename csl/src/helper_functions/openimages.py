"""Open Images' lists and the data set over them; see csl/data_openimages.py."""

from common.aliases import one_module
from csl.data_openimages import OpenImagesDataset
from csl.data_openimages_csv import read_openimages_csv

one_module(__name__, "csl.src.helper_functions.openimages")

__all__ = ["OpenImagesDataset", "read_openimages_csv"]
