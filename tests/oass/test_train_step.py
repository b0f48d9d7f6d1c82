"""What several processes agree on in a step."""

from types import SimpleNamespace

import pytest
import torch

from oass.options_check import terms_of
from oass.train_step import pairs_together, weight_by_pairs


@pytest.mark.parametrize(
    ("p_loss", "plain"), [("teacher", "class_loss"), ("full", "class_loss p_class_loss")]
)
def test_means_over_pairs_are_weighted_by_the_processes_pairs(p_loss, plain):
    names = ("class_loss", "p_class_loss", "re_loss", "conf_loss")
    found = {**dict.fromkeys(names, torch.tensor(1.0)), "num_pairs": torch.tensor(2.0)}
    both = SimpleNamespace(
        num_processes=2, device="cpu", reduce=lambda pairs, how: pairs + 6
    )  # the other process has six pairs
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    total = pairs_together(labels, "cMax", 1, both)
    weight_by_pairs(found, terms_of("cMax", p_loss, "cl_pcl_re_conf"), total, 2)
    assert {name: float(found[name]) for name in names} == {
        n: 1.0 if n in plain.split() else 0.5 for n in names
    }
