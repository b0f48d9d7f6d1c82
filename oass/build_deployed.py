"""A run as other programs use it: the network of its best checkpoint, its input and its classes."""

from pathlib import Path

import torch
from torch import Tensor, nn

from common.aliases import one_module
from common.cli import UserError
from common.deployed import Deployed, Preparation
from oass.build_trained import Trained
from oass.core.networks import Classifier
from oass.method import make_cam

one_module(__name__, "oass.build_deployed")


class Logits(nn.Module):
    """The logits that a run is evaluated by: images (B,3,S,S) to (B,C), float32."""

    def __init__(self, classifier: Classifier, *, is_pooled: bool) -> None:
        super().__init__()
        self.classifier = classifier
        self.is_pooled = is_pooled

    def forward(self, images: Tensor) -> Tensor:
        """Of the instance head; of pooled class maps where that is not trained."""
        if self.is_pooled:
            return self.classifier.global_average_pooling_2d(self.classifier.class_maps(images))
        return self.classifier(images, with_cam=True)[0]


def deployed(run: Path) -> Deployed:
    """The network of a run directory on the CPU, in eval mode; UserError where there is none.

    Its input is a square; the evaluation of own data puts the picture at the top left of it, its
    longer side as long as the square's, and fills up with the mean: `squash` where it is square.
    """
    if not (run / "checkpoints").is_dir():
        raise UserError(f"{run}: a run without a checkpoint; name one of a training script")
    trained = Trained(run)
    classifier = trained.network().to("cpu")
    mean, std = classifier.normalisation

    @torch.inference_mode()
    def maps(images: Tensor) -> Tensor:
        return make_cam(classifier.class_maps(images).float())

    side = trained.image_size
    return Deployed(
        paper="oass",
        architecture=trained.architecture,
        network=Logits(classifier, is_pooled=trained.is_pooled).eval(),
        classes=trained.classes,
        preparation=Preparation(
            size=(side, side),
            mean=tuple(mean),
            std=tuple(std),
            interpolation=classifier.interpolation,
        ),
        answer="sigmoid",
        settings=dict(trained.settings),
        maps=maps,
    )
