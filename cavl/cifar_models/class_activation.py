"""Class activation maps of networks that end in global average pooling and one linear layer."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from cavl.method import activation_area, class_activation_map
from common.aliases import one_module

one_module(__name__, "cavl.cifar_models.class_activation")


class ClassActivationNetwork(nn.Module, ABC):
    """A network z = W mean_positions(A) + b with feature maps A = feature_maps(x).

    Subclasses define `feature_maps` and `classifier`, a property (a second attribute would add state-dict keys).
    """

    @abstractmethod
    def feature_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return A (B, C, h, w), the activations before global average pooling."""

    @property
    @abstractmethod
    def classifier(self) -> nn.Linear:
        """The last layer, weight W (K, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K)."""
        return self._logits(self.feature_maps(x))

    def class_activation_maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (B, K) and maps M (B, K, h, w) from one pass, M_k = relu(sum_c W[k, c] A_c).

        Without bias. relu comes last, so the mean of M is not the logit.
        """
        features = self.feature_maps(x)
        return self._logits(features), class_activation_map(features, self.classifier.weight)

    def forward_cam(self, x: torch.Tensor) -> torch.Tensor:
        """Return the area of each class's map, #{positions with M_k > 0}: (B, K) float."""
        _, maps = self.class_activation_maps(x)
        return activation_area(maps).to(maps.dtype)

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(features.mean(dim=(2, 3)))
