"""The small models: linear, two-layer perceptron, LeNet."""

from torch import Tensor, nn
from torch.nn import functional as F

from common.aliases import one_module

one_module(__name__, "cavl.utils.models")


class linear_model(nn.Module):  # noqa: N801 (the reference's name)
    """One linear layer on the flattened input: (B, ...) -> logits (B, output_dim)."""

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class mlp_model(nn.Module):  # noqa: N801
    """Two linear layers, ReLU between, on the flattened input: (B, ...) -> (B, output_dim)."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max-pooling: (B, 1, 28, 28) -> logits (B, output_dim)."""

    def __init__(self, output_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.conv1(x)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        h = F.relu(self.fc1(h.flatten(1)))
        return self.fc3(F.relu(self.fc2(h)))
