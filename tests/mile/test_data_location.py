"""Where data are found."""

import pytest

from common import samples
from mile.data_grids import read_digits
from mile.data_location import idx_folder
from mile.options import parse


@pytest.mark.parametrize("below", [".", "MNIST", "MNIST/raw"])
def test_the_folder_of_mnist_is_taken_at_any_depth(below):
    root = samples.ensure("MNIST_clean")
    assert idx_folder(root / below) == root / "MNIST" / "raw"
    data = parse(["--dataset", "mnist", "--mnist_path", str(root / below)]).data
    assert data.is_sample and len(read_digits(data.root).train.labels) == 1300
