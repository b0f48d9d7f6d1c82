"""What is measured: covering rate, rules of selection, accuracies over loaders."""

import pytest
import torch

from cavl.evaluate import (
    accuracy_check,
    accuracy_check_cam,
    accuracy_check_train,
    approximated_hit,
    is_covered,
    selection_accuracy,
)


def test_covering_rate_and_approximated_accuracy():
    outputs = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 5.0]])
    candidates = torch.tensor([[1, 1, 0], [1, 1, 0]], dtype=torch.uint8)
    assert is_covered(outputs, candidates).tolist() == [True, False]
    p = torch.tensor(1.0).exp() / (torch.tensor(1.0).exp() + 1)
    torch.testing.assert_close(
        approximated_hit(outputs, candidates), torch.stack([p, torch.tensor(0.0)])
    )


def test_selection_accuracy():
    outputs = torch.tensor([[1.0, 0.4, 9.0], [3.0, 2.0, 0.0]])
    Y = torch.tensor([[1, 1, 0], [1, 1, 0]])
    maps = torch.zeros(2, 3, 2, 2)
    maps[:, 0, 0, 0] = 8
    maps[:, 1] = 1
    rates = selection_accuracy(outputs, Y, torch.tensor([0, 0]), maps)
    assert {rule: rate.item() for rule, rate in rates.items()} == {
        "logit": 1.0,
        "cav": 0.5,
        "cam_area": 0.0,
        "cam_sum": 1.0,
    }
    assert set(selection_accuracy(outputs, Y, torch.tensor([0, 0]))) == {"logit", "cav"}


class Noisy(torch.nn.Module):
    """Fails in train mode; `frozen` is a submodule that its user keeps in eval mode."""

    def __init__(self, fails=False):
        super().__init__()
        self.frozen, self.fails = torch.nn.BatchNorm1d(3), fails

    def forward(self, x):
        assert not self.training and not torch.is_grad_enabled()
        if self.fails:
            raise RuntimeError("broken")
        return x

    def forward_cam(self, x):
        return self(x).flip(1)


def loaders():
    x = torch.tensor([[3.0, 2.0, 0.0], [0.0, 3.0, 2.0], [2.0, 0.0, 3.0], [5.0, 4.0, 3.0]])
    Y = torch.tensor([[1.0, 1, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1]])
    true = torch.tensor([1.0, 2.0, 2.0, 1.0])
    full = [(x[i], Y[i], true[i], i) for i in (torch.tensor([0, 1, 2]), torch.tensor([3]))]
    return [(image, label.long()) for image, _, label, _ in full], full


@pytest.mark.parametrize("training", [True, False])
def test_accuracies_count_each_sample_once_and_restore_every_mode(training):
    plain, full = loaders()
    model = Noisy().train(training)
    model.frozen.eval()
    assert accuracy_check(plain, model, "cpu") == 0.25
    assert accuracy_check_train(full, model, torch.device("cpu")) == 0.75
    cam, cav = accuracy_check_cam(full, model, "cpu")
    assert (cam, cav) == (0.25, 0.75)
    assert accuracy_check_cam(full, model, "cpu", restrict=False) == (0.0, 0.25)
    assert model.training is training and not model.frozen.training


def test_accuracy_restores_the_mode_and_rejects_an_empty_loader():
    model = Noisy(fails=True).train()
    with pytest.raises(RuntimeError, match="broken"):
        accuracy_check(loaders()[0], model, "cpu")
    assert model.training and model.frozen.training
    with pytest.raises(ValueError, match="empty"):
        accuracy_check([], model, "cpu")
