"""Networks of timm and torchvision by name, with the class activation maps of this paper's own."""

import torch
from torch import nn

from cavl.cifar_models.class_activation import ClassActivationNetwork
from cavl.data_own import PictureInput
from cavl.method import class_activation_map
from cavl.utils.models import mlp_model
from common.aliases import one_module
from common.backbones import CamClassifier, FeatureNetwork, feature_network
from common.cli import UserError

one_module(__name__, "cavl.build_named")

OWN_SIZE = 32  # pixels, of this paper's networks
HIDDEN = 500  # of the MLP, as in the reference
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class NamedNetwork(ClassActivationNetwork):
    """A network of a library up to its feature map, pooled, and one linear layer.

    Grey images (B,1,H,W) are repeated to three colours.
    """

    def __init__(self, classifier_network: CamClassifier) -> None:
        super().__init__()
        self.classifier_network = classifier_network

    @property
    def classifier(self) -> nn.Linear:
        return self.classifier_network.head

    def feature_maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier_network.features(_in_colour(x))

    def class_activation_maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, K) and maps (B, K, h, w): a norm behind the pooling is drawn into the map."""
        features = self.feature_maps(x)
        places = self.classifier_network.features.linearised(features)
        return self._logits(features), class_activation_map(places, self.classifier.weight)

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.classifier_network.features.pool(features))


class MlpNetwork(nn.Module):
    """A network of a library up to its feature map, pooled, and this paper's MLP (-head mlp).

    Images (B,3,H,W), or grey ones (B,1,H,W), to logits (B,K); it has no class activation maps.
    """

    def __init__(self, features: FeatureNetwork, num_classes: int) -> None:
        super().__init__()
        self.features = features
        self.head = mlp_model(features.channels, HIDDEN, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features.pool(self.features(_in_colour(x))))


def _in_colour(x: torch.Tensor) -> torch.Tensor:
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def named_network(
    name: str,
    shape: tuple[int, ...],
    num_classes: int,
    *,
    pretrained: bool = False,
    head: str = "linear",
) -> NamedNetwork | MlpNetwork:
    """The network `name` for images (C,H,W), with published or with random weights.

    head: "linear", with class activation maps, or "mlp". UserError: an unknown name, a size that it
    cannot take, weights that cannot be had.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise UserError(f"-mo {name} takes images of one colour or three, not of {channels}")
    features = feature_network(name, pretrained=pretrained, image_size=(height, width))
    if head == "mlp":
        return MlpNetwork(features, num_classes)
    return NamedNetwork(CamClassifier(features, num_classes))


def picture_input(name: str, size: int | None, *, is_own: bool) -> PictureInput:
    """Size and scale of the pictures that a network takes.

    Those of its configuration; of this paper's own networks 32 pixels in the scale of ImageNet.
    """
    if is_own:
        return PictureInput(size or OWN_SIZE, IMAGENET_MEAN, IMAGENET_STD, "bilinear")
    with torch.random.fork_rng(devices=[]):
        network = feature_network(name, image_size=size)
    side = size or max(network.image_size or network.native_size)
    return PictureInput(side, network.mean, network.std, network.interpolation)
