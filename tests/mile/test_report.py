"""What is printed beside the numbers."""

import torch

from mile.evaluate import (
    classes_without_positive,
)
from mile.report import averaged_over


def test_what_the_means_leave_out_is_said():
    real = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]).bool()
    names = ["cat", "dog", "hen", "cow"]
    assert classes_without_positive(real) == [1, 3]
    assert averaged_over(real, names, "authors") == [
        "  mAP is over 2 of 4 classes; without a positive: dog, cow",
        "  1 of 3 images have no label: real_acc, F1 and coverage are over the other 2",
    ]
    assert averaged_over(real, names, "unofficial")[1].endswith("are divided by all images")
    assert averaged_over(real[:1].expand(1, 4) | True, names, "authors") == []
    many = torch.zeros(1, 9, dtype=torch.bool)
    many[0, 0] = True
    assert averaged_over(many, list("abcdefghi"), "authors")[0].endswith("b, c, d, e, f and 3 more")
