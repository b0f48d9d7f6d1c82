"""What all networks share.

These are the features F, the two 1x1 heads, and the forward that trains or returns a map.
"""

import torch
from torch import nn

from calm.method import Superclass
from calm.network.universal import UniversalProcess
from common.aliases import one_module
from common.domain import require_number
from common.stages import keep_still

one_module(__name__, "calm.network.head")

HEADS = ("conv_last", "attention")
ACTIVATIONS = {"relu": nn.ReLU, "softplus": nn.Softplus}


class AttributionNet(nn.Module):
    """A network with two heads on its last feature map F.

    F feeds `conv_last` (classes) and `attention` (one channel). Images are resized as
    `interpolation` says. `merges_batch_norm`: each BatchNorm stands behind its convolution.
    `is_frozen`: only the heads learn, and F may come in place of images (`freeze`).
    """

    interpolation = "bilinear"
    merges_batch_norm = True
    is_frozen = False

    def __init__(self, attribution_method: str, prior_activation: str, prior_gradient: str) -> None:
        if prior_activation not in ACTIVATIONS:
            raise ValueError(
                f"prior_activation {prior_activation!r}: choose from {', '.join(ACTIVATIONS)}"
            )
        super().__init__()
        self.process = UniversalProcess(attribution_method, prior_gradient)
        self.prior_activation = prior_activation

    def make_heads(self, channels: int, num_classes: int) -> None:
        """conv_last: D to C; attention: D to 1, then ReLU (released) or softplus."""
        require_number(num_classes, "num_classes", 1)
        self.conv_last = nn.Conv2d(channels, num_classes, 1)
        self.attention = nn.Sequential(
            nn.Conv2d(channels, 1, 1), ACTIVATIONS[self.prior_activation]()
        )
        self.process.set_layers(self.conv_last, self.attention)

    def extract(self, x: torch.Tensor) -> torch.Tensor:
        """The last feature map F (B,D,h,w) of images (B,3,H,W)."""
        raise TypeError(f"{type(self).__name__} must define extract")

    def body(self) -> dict[str, nn.Module]:
        """The parts that F is made with, by name: all but the two heads."""
        return {name: part for name, part in self.named_children() if name not in HEADS}

    def freeze(self) -> None:
        """Keep weights and batch statistics of the body as they are, whatever train() is called."""
        self.is_frozen = True
        for part in self.body().values():
            keep_still(part)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """f (B,C,h,w), F (B,D,h,w) and the attention (B,1,h,w), in float32 also under autocast.

        x: images (B,3,H,W); of a frozen network also F, which was computed from them before.
        """
        f_former = self._features(x)
        with torch.autocast(x.device.type, enabled=False):
            f_former = f_former.float()
            f, attention = self.process.scores(f_former)
        return f, f_former, attention

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        """F of images, or F itself; without gradient where the network is frozen."""
        if not self.is_frozen:
            return self.extract(x)
        if x.shape[1] == self.conv_last.in_channels:
            return x
        with torch.no_grad():
            return self.extract(x)

    def forward(
        self,
        x: torch.Tensor,
        labels: torch.Tensor | None = None,
        superclass: Superclass | None = None,
        return_cam: str | bool = False,
        with_loss: bool = False,
        posterior: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor] | torch.Tensor:
        """Return the outputs for training, or the map (B,h,w) of `return_cam`.

        The outputs are dict(logits, probs, features) with `features` the input of NLLLoss.

        with_loss: dict(loss (B,), probs (B,C)) of `labels`, the same objective with less memory and
            time.
        """
        f, f_former, attention = self.encode(x)
        if return_cam:
            return self.process.get_cam(f, f_former, labels, superclass, return_cam)
        with torch.autocast(x.device.type, enabled=False):
            if with_loss:
                if labels is None:
                    raise ValueError("the loss needs labels")
                return self.process.loss(f, f_former, labels, attention, posterior)
            out = self.process.input_for_loss(f, f_former, attention)
        return {"logits": out["logits"], "probs": out["probs"], "features": out["inputs"]}
