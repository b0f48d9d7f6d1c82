"""Networks by name, the start of their last bias, weight files of every kind."""

import pytest
import torch

from common.cli import UserError
from mile.models import build_model, load_weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; expected weights by name"),
        ({"model": {}, "epoch": 3}, r"holds 'model' \(dict\), 'epoch' \(int\), no tensors"),
        ({1: torch.zeros(1)}, r"holds 1 \(Tensor\)"),
        ({"state": {"learner": "x"}}, "a checkpoint without a learner"),
        ({"state": {}}, "a checkpoint without a learner"),
    ],
)
def test_a_weight_file_of_something_else_says_what_it_holds(tmp_path, content, message):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_weights(build_model("small-10"), path)


def equal(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def test_bias_starts_at_the_prior():
    for name, classes in (("resnet18-10", 10), ("small", 1000)):
        model = build_model(name)
        last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
        assert torch.allclose(last.bias.sigmoid(), torch.full((classes,), 1 / (classes + 1)))
    assert build_model("small-10", bias_init="default")[-1].bias.std() > 0
    assert build_model("resnet50d", 7)(torch.zeros(1, 3, 32, 32).expand(2, 3, 32, 32)).shape == (
        2,
        7,
    )
    with pytest.raises(UserError, match="resnet9000"):
        build_model("resnet9000")


def test_weight_files_of_all_kinds_load_and_others_are_named(tmp_path):
    torch.manual_seed(1)
    source, state = build_model("small-10"), None
    state = source.state_dict()
    authors = {"backbone.module." + k: v for k, v in state.items()} | {
        "teacher.module.x": torch.zeros(1)
    }
    for number, content in enumerate(
        (state, {"module." + k: v for k, v in state.items()}, {"state_dict": authors})
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        model = build_model("small-10")
        load_weights(model, path)
        assert equal(state, model.state_dict())
    torch.save(build_model("small-10", 7).state_dict(), path)
    with pytest.raises(UserError, match=r"11\.weight \(7, 576\) instead of \(10, 576\)"):
        load_weights(model, path)
