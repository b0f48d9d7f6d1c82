"""The classifier: backbone, class maps, and the head over class-specific instances."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from oass.core.abc_modules import ABC_Model
from oass.core.backbones import build_backbone, load_weights, normalisation_of
from oass.core.csi import csi_logits
from oass.data_checks import require_count
from oass.method import make_cam

one_module(__name__, "oass.core.networks")

HEAD = ("BN.", "stage6.")


class Backbone(ABC_Model):
    """`model`, and its five stages under the names of the released code (aliases of the same
    tensors).
    """

    def __init__(self, model_name: str, pretrained: bool = True) -> None:
        super().__init__()
        self.model_name = model_name
        self.normalisation = normalisation_of(model_name)  # mean and deviation of its input
        self.model, self.num_features = build_backbone(model_name, pretrained)
        if hasattr(self.model, "layer1"):
            m: Any = self.model
            self.stage1 = nn.Sequential(m.conv1, m.bn1, m.relu, m.maxpool)
            self.stage2 = nn.Sequential(m.layer1)
            self.stage3 = nn.Sequential(m.layer2)
            self.stage4 = nn.Sequential(m.layer3)
            self.stage5 = nn.Sequential(m.layer4)

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """X = phi(x): images (B,3,S,S) to (B,K,G,G)."""
        if not hasattr(self, "stage1"):
            return self.model(x)
        return self.stage5(self.stage4(self.stage3(self.stage2(self.stage1(x)))))


class Classifier(Backbone):
    """Class maps F = W X, and one logit per class from the feature map gated with that class's own
    map.

    pretrained: True for ImageNet weights, False for none, or the path of a classifier's checkpoint.
    State dicts have the names of the released code, so its checkpoints load as they are. ValueError
    for less than one class.
    """

    def __init__(
        self, model_name: str, num_classes: int = 20, pretrained: bool | str | Path = True
    ) -> None:
        require_count(num_classes, "num_classes", 1)
        super().__init__(model_name, pretrained is True)
        K = self.num_features
        self.num_classes = num_classes
        self.BN = nn.ModuleList(nn.BatchNorm2d(K) for _ in range(num_classes))
        self.stage6 = nn.ModuleList(nn.Conv2d(K, 1, 1, bias=False) for _ in range(num_classes))
        self.classifier = nn.Conv2d(K, num_classes, 1, bias=False)
        self.initialize([self.classifier])
        if not isinstance(pretrained, bool):
            load_classifier(self, pretrained)

    def class_maps(self, x: torch.Tensor) -> torch.Tensor:
        """F = W X (B,C,G,G) of images (B,3,S,S), without the instance head."""
        return self.classifier(self.feature_map(x))

    def global_average_pooling_2d(self, maps: torch.Tensor) -> torch.Tensor:
        """The mean over the pixels, (B,C,G,G) to (B,C), in float32."""
        return maps.float().mean((-2, -1))

    def forward(
        self, x: torch.Tensor, with_cam: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """with_cam: instance logits (B,C) and class maps F (B,C,G,G), float32; else GAP(F) (B,C).

        Without `with_cam` the instances are bypassed: another classifier, which the EMA scripts
        never train directly (README, deviations: with_cam).
        """
        X = self.feature_map(x)
        F = self.classifier(X)
        if not with_cam:
            return self.global_average_pooling_2d(F)
        with torch.autocast(x.device.type, enabled=False):
            X = X.float()
            F = F.float()
            BN: Any = self.BN
            stage6: Any = self.stage6
            return csi_logits(X, make_cam(F), BN, stage6, self.training), F


def load_classifier(model: Classifier, source: str | Path, saved: object = None) -> None:
    """Load a checkpoint: a run's last.pt or best.pt, an official state dict, or a PuzzleCAM
    classifier.

    `module.` prefixes and absent stage aliases are no matter; a file without BN and stage6
    (PuzzleCAM) keeps the fresh ones, and says so; of ImageNet weights in torchvision's names only
    the backbone is taken. `saved`: what the file holds, if it has been read. UserError names what
    differs and what the file looks like.
    """
    state, own = read_state(source, saved), model.state_dict()
    if "fc.weight" in state:
        print(
            f"{source} holds a backbone with its own classes: the rest stays as initialised",
            flush=True,
        )
        return load_backbone(model, source, saved)
    if not any(key.startswith(HEAD) for key in state):
        state.update({key: value for key, value in own.items() if key.startswith(HEAD)})
        print(f"{source} has no instance head (BN, stage6): it stays as initialised", flush=True)
    aliases = {
        value.data_ptr(): key
        for key, value in own.items()
        if key.startswith("model.") and value.numel()
    }
    for key, value in own.items():
        if key.startswith("stage") and key not in state and aliases.get(value.data_ptr()) in state:
            state[key] = state[aliases[value.data_ptr()]]
    try:
        checkpoint.load_into(model, state, source)
    except UserError as error:
        raise UserError(
            f"{error}; {looks_like(state)}, this is {model.model_name}, {model.num_classes}"
        ) from error


def load_backbone(model: Classifier, source: str | Path, saved: object = None) -> None:
    """Load only the backbone: of a classifier's checkpoint, or of a file in torchvision's or timm's
    own names.
    """
    state = read_state(source, saved)
    own = {
        key.removeprefix("model."): value
        for key, value in state.items()
        if key.startswith("model.")
    }
    own = own or {key: value for key, value in state.items() if not key.startswith("fc.")}
    load_weights(model.model, own, source)


def read_state(source: str | Path, saved: object = None) -> dict[str, torch.Tensor]:
    """The state dict in a file, or of the model in a run's checkpoint, without prefixes. UserError
    where none is.

    `saved`: what the file holds, if it has been read.
    """
    state = checkpoint.load(Path(source)) if saved is None else saved
    if isinstance(state, Mapping) and isinstance(state.get("state"), Mapping):
        state = state["state"].get("model", state["state"])
    if not isinstance(state, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        raise UserError(f"{source}: holds no classifier's state dict, but {what_is(state)}")
    return checkpoint.strip_prefixes(state)


def what_is(content: object) -> str:
    """What a file holds that is no state dict, in a few words."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    strange = next(
        (name for name, value in content.items() if not isinstance(value, torch.Tensor)), None
    )
    return f"a {type(content[strange]).__name__} under the name {strange!r:.40}"


def looks_like(state: Mapping[str, torch.Tensor]) -> str:
    """What a state dict seems to hold, from its classifier and its block counts; one phrase."""
    weight = state.get("classifier.weight")
    if weight is None:
        return "the file has no classifier.weight"
    blocks = tuple(
        1 + max([int(k.split(".")[2]) for k in state if k.startswith(f"model.layer{n}.")] or [-1])
        for n in range(1, 5)
    )
    family = "resnest" if "model.conv1.0.weight" in state else "resnet"
    depths = {
        (3, 4, 6, 3): 50,
        (3, 4, 23, 3): 101,
        (3, 8, 36, 3): 152,
        (3, 24, 36, 3): 200,
        (3, 30, 48, 8): 269,
    }
    depths |= {(2, 2, 2, 2): 18} | ({(3, 4, 6, 3): 34} if weight.shape[1] == 512 else {})
    name = (
        f"{family}{depths[blocks]}"
        if blocks in depths
        else f"blocks {blocks}, K = {weight.shape[1]}"
    )
    return f"the file looks like --architecture {name} with {weight.shape[0]} classes"
