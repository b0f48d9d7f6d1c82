"""What every classifier of this family has: initialisation and four groups of parameters."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from common.aliases import one_module

one_module(__name__, "oass.core.abc_modules")


class ABC_Model:
    """Mix-in of a module, `class Net(nn.Module, ABC_Model)`: pooling, initialisation, groups."""

    named_parameters: Callable[[], Iterable[tuple[str, nn.Parameter]]]

    def global_average_pooling_2d(self, x: torch.Tensor, keepdims: bool = False) -> torch.Tensor:
        """The mean over the pixels, (B,C,h,w) to (B,C) or (B,C,1,1), in float32."""
        return x.float().mean((-2, -1), keepdim=keepdims)

    def initialize(self, modules: Iterable[nn.Module]) -> None:
        """Kaiming-normal convolutions; batch norms at scale 1 and shift 0."""
        for module in modules:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def get_parameter_groups(
        self, print_fn: Callable[[str], object] | None = print
    ) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
        """Backbone weights and biases, new weights and biases (learning rates x1, x2, x10, x20).

        By name: "model" is the backbone, "weight" a weight; so scales of batch norms are decayed,
        shifts not. `print_fn=None` is silent.
        """
        groups: tuple[list, list, list, list] = ([], [], [], [])
        names = ("pretrained weight", "pretrained bias", "scratch weight", "scratch bias")
        for name, parameter in self.named_parameters():
            number = 2 * ("model" not in name) + ("weight" not in name)
            groups[number].append(parameter)
            if print_fn is not None:
                print_fn(f"{names[number]}: {name}")
        return groups
