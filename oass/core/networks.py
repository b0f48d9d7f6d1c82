"""The classifier: backbone, class maps, and the head over class-specific instances."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from common import checkpoint
from common.aliases import one_module
from common.backbones import FeatureNetwork
from common.backbones import load_weights as load_any_weights
from common.cli import UserError
from common.frozen import freeze
from oass.core.abc_modules import ABC_Model
from oass.core.backbones import build_backbone, load_weights, normalisation_of
from oass.core.csi import csi_logits
from oass.data_checks import require_count
from oass.method import make_cam

one_module(__name__, "oass.core.networks")

HEAD = ("BN.", "stage6.")
AnyBackbone = TypeVar("AnyBackbone", bound="Backbone")


class Backbone(nn.Module, ABC_Model):
    """`model`, and aliases of its five stages under the names of the released code."""

    def __init__(
        self, model_name: str, pretrained: bool = True, image_size: int | None = None
    ) -> None:
        super().__init__()
        self.model_name = model_name
        # One module, or none; a tuple, so that it has no name in state dicts.
        self._frozen: tuple[nn.Module, ...] = ()
        self.model, self.num_features = build_backbone(model_name, pretrained, image_size)
        self.normalisation = normalisation_of(model_name)  # mean and deviation of its input
        self.interpolation = "bicubic"  # by which pictures are resized, as released
        if isinstance(self.model, FeatureNetwork):
            self.normalisation = (self.model.mean, self.model.std)
            self.interpolation = self.model.interpolation
        if hasattr(self.model, "layer1"):
            m: Any = self.model
            self.stage1 = nn.Sequential(m.conv1, m.bn1, m.relu, m.maxpool)
            self.stage2 = nn.Sequential(m.layer1)
            self.stage3 = nn.Sequential(m.layer2)
            self.stage4 = nn.Sequential(m.layer3)
            self.stage5 = nn.Sequential(m.layer4)

    def described_input(self) -> dict[str, Any]:
        """What a picture becomes before it is shown: plain data for a checkpoint."""
        mean, std = self.normalisation
        described: dict[str, Any] = {"mean": list(mean), "std": list(std)}
        described["interpolation"] = self.interpolation
        return described

    def set_input(self, described: object) -> None:
        """Take over what `described_input` gave of the network in a checkpoint, if it holds it."""
        if not isinstance(described, Mapping):
            return
        self.normalisation = (tuple(described["mean"]), tuple(described["std"]))
        self.interpolation = str(described["interpolation"])

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """X = phi(x): images (B,3,S,S) to (B,K,G,G); with a frozen phi an X is its own."""
        for body in self._frozen:
            return body(x)
        if not hasattr(self, "stage1"):
            return self.model(x)
        return self.stage5(self.stage4(self.stage3(self.stage2(self.stage1(x)))))

    def freeze_backbone(self) -> nn.Module:
        """From now on weights and statistics of phi stay, whatever train() says; returns phi."""
        body: nn.Module = self.model
        if hasattr(self, "stage1"):
            body = nn.Sequential(self.stage1, self.stage2, self.stage3, self.stage4, self.stage5)
        self._frozen = (freeze(body, self.num_features),)
        return body

    @property
    def frozen_backbone(self) -> nn.Module | None:
        """phi where it is frozen."""
        return self._frozen[0] if self._frozen else None

    def train(self: AnyBackbone, mode: bool = True) -> AnyBackbone:
        """As every module; a frozen phi stays in eval mode."""
        super().train(mode)
        for body in self._frozen:  # its stages have other names here, under which they followed
            body.eval()
        return self


class Classifier(Backbone):
    """Class maps F = W X, and a logit per class from the feature map gated with its own map.

    pretrained: True for ImageNet weights, False for none, or the path of a classifier's checkpoint.
    image_size: for networks that are made for one size, see `oass.core.backbones.other_network`.
    State dicts have the names of the released code, so its checkpoints load as they are. ValueError
    for less than one class.
    """

    def __init__(
        self,
        model_name: str,
        num_classes: int = 20,
        pretrained: bool | str | Path = True,
        *,
        image_size: int | None = None,
    ) -> None:
        require_count(num_classes, "num_classes", 1)
        super().__init__(model_name, pretrained is True, image_size)
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
    """Load a checkpoint: a run's last.pt or best.pt, or a state dict, official or PuzzleCAM's.

    `module.` prefixes and absent stage aliases are no matter; a file without BN and stage6
    (PuzzleCAM) keeps the fresh ones, and says so; of ImageNet weights in torchvision's names only
    the backbone is taken. `saved`: what the file holds, if it has been read. UserError names what
    differs and what the file looks like.
    """
    if saved is None and _is_of_another_origin(model, source):
        return load_backbone(model, source)
    state = read_state(source, saved)
    own = model.state_dict()
    if "fc.weight" in state:
        rest = "the rest stays as initialised"
        print(f"{source} holds a backbone with its own classes: {rest}", flush=True)
        return load_backbone(model, source, saved)

    if not _part(state, *HEAD):
        state.update(_part(own, *HEAD))
        print(f"{source} has no instance head (BN, stage6): it stays as initialised", flush=True)
    backbone = _part(own, "model.")
    names = {value.data_ptr(): key for key, value in backbone.items() if value.numel()}
    for key, value in _part(own, "stage").items():
        name = names.get(value.data_ptr())  # an alias of this tensor
        if key not in state and name in state:
            state[key] = state[name]
    try:
        checkpoint.load_into(model, state, source)
    except UserError as error:
        this = f"this is {model.model_name}, {model.num_classes}"
        raise UserError(f"{error}; {looks_like(state)}, {this}") from error


def _part(state: Mapping[str, torch.Tensor], *prefixes: str) -> dict[str, torch.Tensor]:
    """The entries whose names begin with one of the prefixes."""
    return {key: value for key, value in state.items() if key.startswith(prefixes)}


def load_backbone(model: Classifier, source: str | Path, saved: object = None) -> None:
    """Load only the backbone, of a classifier's checkpoint or in torchvision's or timm's names."""
    if saved is None and _is_of_another_origin(model, source):
        print(load_any_weights(model.model, source), flush=True)
        return
    state = read_state(source, saved)
    own = _part(state, "model.")
    if own:
        own = {key.removeprefix("model."): value for key, value in own.items()}
    else:
        own = {key: value for key, value in state.items() if not key.startswith("fc.")}
    load_weights(model.model, own, source)


def _is_of_another_origin(model: Classifier, source: str | Path) -> bool:
    """Whether the file holds no classifier of ours and is of a kind that common.backbones reads.

    So .safetensors, folders, wrappers, and all backbones of timm's and torchvision's networks.
    """
    path = Path(source)
    if path.is_dir() or path.suffix in (".safetensors", ".npz"):
        return True
    try:
        state = read_state(source)
    except UserError:
        return path.is_file() and _holds_mappings(path)
    if "classifier.weight" in state and _part(state, "model."):
        return False
    return isinstance(model.model, FeatureNetwork) or not _fits_by_name(model, state)


def _holds_mappings(path: Path) -> bool:
    """Whether a file holds named things under names, as wrappers of state dicts do."""
    content = checkpoint.load(path)
    if not isinstance(content, Mapping):
        return False
    return any(isinstance(value, Mapping) for value in content.values())


def _fits_by_name(model: Classifier, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the file has a name in common with the classifier or its backbone."""
    own = {*model.state_dict(), *model.model.state_dict()}
    return not own.isdisjoint(state)


def read_state(source: str | Path, saved: object = None) -> dict[str, torch.Tensor]:
    """The state dict in a file, or of the model in a run's checkpoint, without prefixes.

    `saved`: what the file holds, if it has been read. UserError where it holds none.
    """
    state = saved
    if state is None:
        state = checkpoint.load(Path(source))
    if isinstance(state, Mapping) and isinstance(state.get("state"), Mapping):
        state = state["state"].get("model", state["state"])
    if not isinstance(state, Mapping) or _first_that_is_no_tensor(state) is not None:
        raise UserError(f"{source}: holds no classifier's state dict, but {what_is(state)}")
    return checkpoint.strip_prefixes(state)


def _first_that_is_no_tensor(content: Mapping) -> object:
    """The first name whose value is no tensor; None where all are."""
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            return name
    return None


def what_is(content: object) -> str:
    """What a file holds that is no state dict, in a few words."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    strange = _first_that_is_no_tensor(content)
    return f"a {type(content[strange]).__name__} under the name {strange!r:.40}"


# Blocks of the four stages, and the depth of the network that has them.
DEPTHS = {
    (2, 2, 2, 2): 18,
    (3, 4, 6, 3): 50,
    (3, 4, 23, 3): 101,
    (3, 8, 36, 3): 152,
    (3, 24, 36, 3): 200,
    (3, 30, 48, 8): 269,
}


def looks_like(state: Mapping[str, torch.Tensor]) -> str:
    """What a state dict seems to hold, from its classifier and its block counts; one phrase."""
    weight = state.get("classifier.weight")
    if weight is None:
        return "the file has no classifier.weight"
    counts = [0, 0, 0, 0]
    for key in _part(state, "model.layer1.", "model.layer2.", "model.layer3.", "model.layer4."):
        stage = int(key.removeprefix("model.layer")[0]) - 1
        counts[stage] = max(counts[stage], int(key.split(".")[2]) + 1)

    blocks = tuple(counts)
    channels = weight.shape[1]
    name = f"blocks {blocks}, K = {channels}"
    if blocks in DEPTHS:
        depth = DEPTHS[blocks]
        if depth == 50 and channels == 512:
            depth = 34
        family = "resnest" if "model.conv1.0.weight" in state else "resnet"
        name = f"{family}{depth}"
    return f"the file looks like --architecture {name} with {weight.shape[0]} classes"
