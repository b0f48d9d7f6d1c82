"""The 9-layer convolutional network of the co-teaching papers."""

import torch
import torch.nn.functional as F
from torch import nn

from cavl.cifar_models.class_activation import ClassActivationNetwork
from common.aliases import one_module

one_module(__name__, "cavl.cifar_models.convnet")

WIDTHS = (128, 128, 128, 256, 256, 256, 512, 256, 128)


class Cnn(ClassActivationNetwork):
    """(B, input_channels, 32, 32) -> logits (B, n_outputs); 28 is the least size.

    Dropout acts on whole maps and in training only (the released code leaves it on in evaluation).
    """

    def __init__(
        self, input_channels: int = 3, n_outputs: int = 10, dropout_rate: float = 0.25
    ) -> None:
        super().__init__()
        self.dropout_rate = dropout_rate
        channels = (input_channels, *WIDTHS)
        for i in range(1, 10):
            padding = 1 if i <= 6 else 0
            setattr(
                self,
                f"c{i}",
                nn.Conv2d(channels[i - 1], channels[i], kernel_size=3, padding=padding),
            )
        self.l_c1 = nn.Linear(channels[-1], n_outputs)
        for i in range(1, 10):
            setattr(self, f"bn{i}", nn.BatchNorm2d(channels[i]))

    @property
    def classifier(self) -> nn.Linear:
        return self.l_c1

    def feature_maps(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for i in range(1, 10):
            h = getattr(self, f"bn{i}")(getattr(self, f"c{i}")(h))
            h = F.leaky_relu(h, negative_slope=0.01)
            if i in (3, 6):
                h = F.max_pool2d(h, kernel_size=2)
                h = F.dropout2d(h, p=self.dropout_rate, training=self.training)
        return h
