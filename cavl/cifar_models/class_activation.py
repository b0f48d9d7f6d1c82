"""Networks that end in global average pooling and one linear layer, and their activation maps."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from cavl.method import activation_area, class_activation_map
from common.aliases import one_module

one_module(__name__, "cavl.cifar_models.class_activation")


def conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A size x size convolution without bias that keeps height and width, but for the stride."""
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


def init_he_fan_out(module: nn.Module) -> None:
    """Fill convolutions with N(0, 2 / (k k out)); BatchNorm starts at weight 1, bias 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, (2.0 / fan_out) ** 0.5)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


class ClassActivationNetwork(nn.Module, ABC):
    """A network z = W mean_positions(A) + b with feature maps A = feature_maps(x).

    Subclasses define `feature_maps`; the last layer is `fc`, or what their `classifier` returns.
    """

    @abstractmethod
    def feature_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return A (B, C, h, w), the activations before global average pooling."""

    @property
    def classifier(self) -> nn.Linear:
        """The last layer, weight W (K, C)."""
        assert isinstance(self.fc, nn.Linear)
        return self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K)."""
        return self._logits(self.feature_maps(x))

    def class_activation_maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, K) and maps (B, K, h, w) of one pass, see `method.class_activation_map`."""
        features = self.feature_maps(x)
        return self._logits(features), class_activation_map(features, self.classifier.weight)

    def forward_cam(self, x: torch.Tensor) -> torch.Tensor:
        """Return the area of each class's map, #{positions with M_k > 0}: (B, K) float."""
        _, maps = self.class_activation_maps(x)
        return activation_area(maps).to(maps.dtype)

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(features.mean(dim=(2, 3)))
