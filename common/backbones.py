"""Any network as a feature map: timm's, torchvision's, a paper's own; CNNs and transformers.

    network = feature_network("vit_tiny_patch16_224", image_size=96)
    features = network(images)                      # (B,3,96,96) -> (B,192,6,6)

    model = CamClassifier(network, num_classes=20)  # GAP, one linear layer
    logits, maps = model.forward_with_maps(images)  # (B,20), (B,20,6,6)

    print(load_weights(model, "file.safetensors"))  # what was loaded and what was left out

**Pooling.** `network.pool(features)` is the average over the places. A few networks have a layer
norm behind their pooling (ConvNeXt, MetaFormers, some ViTs that average). norm="pooled", the
default, keeps it there: pool, norm, linear layer equal the published classifier. norm="map" norms
every place of the map instead, for methods that put 1x1 convolutions on the map and never pool it
(several processes need every weight to have a gradient). ViTs and Swins have their last norm inside
the map.

**Classifiers.** The published one is linear on `pool` (`head_fits`) for most CNNs, Swin, ConvNeXt
and averaging ViTs. It is not, so that a new one starts afresh, for ViTs that read their class token
or pool by attention, and for networks with a wider layer between pooling and classifier, which is
left out (conv_head of MobileNetV3 and GhostNet; VGG, AlexNet).

**How the five papers use it.** cavl: `CamClassifier` is what its ClassActivationNetwork is
(`forward`, and `forward_with_maps` for `class_activation_maps`). csl, mile: `CamClassifier`, or the
map and an own head. oass: `feature_network(name, stride=16, norm="map")` as phi(x) with
`channels` for K; maps F = W X stay its own 1x1 convolution. calm: norm="map" in
`AttributionNet.extract`, `channels` for D; its two 1x1 heads stay its own.

**Checkpoints.** `network.described()` is plain data for a checkpoint: the name, size, stride and
the normalisation of the input; `feature_network(**described["make"])` makes the network again.

Shapes: B batch, C channels, K classes, h w map, H W image.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from common.backbones_body import Built, Facts, Linear, StrideError, as_map, probe, remove_heads
from common.backbones_dilated import by_phases
from common.backbones_names import (
    TIMM,
    TORCHVISION,
    require_spelling,
    split_name,
    unknown,
)
from common.backbones_search import Target
from common.backbones_weights import Report, fill, load_weights
from common.cam import class_activation_map
from common.errors import DomainError, UserError

__all__ = [
    "CamClassifier",
    "FeatureNetwork",
    "Report",
    "StrideError",
    "cam_classifier",
    "feature_network",
    "load_weights",
    "source_of",
]

Size = int | tuple[int, int]
Own = Mapping[str, Callable[[], nn.Module]]
Norm = Literal["pooled", "map"]


def source_of(name: str, own: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """Where a name is from ("own", "timm" or "torchvision"), and the name there.

    UserError names the nearest that are known.
    """
    own = own or {}
    require_spelling(name, own)
    forced, rest = split_name(name)
    if forced is None and name in own:
        return "own", name

    from common import backbones_timm, backbones_torchvision  # two seconds

    if forced != TORCHVISION and backbones_timm.has(rest):
        return TIMM, rest
    if forced != TIMM and backbones_torchvision.has(rest):
        return TORCHVISION, rest

    known = [*own] if forced is None else []
    if forced != TORCHVISION:
        known += backbones_timm.names()
    if forced != TIMM:
        known += backbones_torchvision.names()
    raise unknown(name, known, f"{forced} has" if forced else "timm and torchvision have")


def feature_network(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    image_size: Size | None = None,
    stride: int | None = None,
    norm: Norm = "pooled",
    own: Own | None = None,
) -> "FeatureNetwork":
    """A network whose output is a feature map: images (B,3,H,W) to (B,C,h,w).

    Args:
        name: see common.backbones_names; `own` first, then timm's, then torchvision's.
        pretrained: published weights, from the cache or (15 s for a connection) from the hub.
        weights: a weight file, see `load_weights`; what it says is `network.report`.
        image_size: H and W. Networks that are made for one size are made for this one.
        stride: 8, 16 or 32 px a place, by dilation or smaller strides; default the network's own.
        norm: where a norm behind the pooling goes, see above.
        own: a paper's networks, name -> a callable that makes a module images -> map.

    UserError: an unknown name, a size or stride that the network cannot take, weights that cannot
    be had or do not fit; each says what there is.
    """
    if pretrained and weights is not None:
        raise UserError(f"{name}: published weights or those of {weights}, not both")
    size = _pair(image_size)
    source, rest = source_of(name, own)
    if source == "own" and pretrained:
        raise UserError(f"{name}: there are no published weights of it; give a weight file")
    module, facts = _built(source, rest, own, pretrained=pretrained, image_size=size, stride=stride)
    network = FeatureNetwork(module, facts, name=name, norm=norm, image_size=size, stride=stride)

    if weights is not None:
        network.report = load_weights(network, weights)
    elif pretrained and source == TORCHVISION:
        network.load_published()
    return network


def _built(source: str, name: str, own: Own | None, **settings: Any) -> Built:
    if source == "own":
        assert own is not None
        return own[name](), Facts(_call)
    if source == TIMM:
        from common import backbones_timm

        return backbones_timm.build(name, **settings)
    from common import backbones_torchvision

    return backbones_torchvision.build(name, **settings)


# What was found of a network of timm or torchvision: a process often makes one again (a teacher, a
# deployed run, the next seed), and a quarter of a second goes into it.
_PROBED: dict[tuple[Any, ...], tuple[tuple[int, ...], list[str]]] = {}


class FeatureNetwork(nn.Module):
    """A network up to its feature map. Use `feature_network` to make one.

    Attributes:
        name: as it was asked for.
        body: the network itself, under the names of its library.
        channels: C.
        stride: px a place, rounded; `grid` is exact.
        mean, std, interpolation, crop_pct: of the input that published weights were trained with.
        image_size: (H, W) where it takes that size only, else None; H and W are multiples of
            `multiple` in any case.
        native_size: (H, W) that it was made or published for.
        head_fits: its published classifier is linear on `pool`.
        report: what `weights` held.
    """

    def __init__(
        self,
        body: nn.Module,
        facts: Facts,
        *,
        name: str,
        norm: Norm = "pooled",
        image_size: tuple[int, int] | None = None,
        stride: int | None = None,
    ) -> None:
        if norm not in ("pooled", "map"):
            raise DomainError(f"norm {norm!r}: choose from pooled, map")
        super().__init__()
        by_phases(body)
        self.name = name
        self.body = body
        self.norm_at = norm
        self.mean = facts.mean
        self.std = facts.std
        self.interpolation = facts.interpolation
        self.crop_pct = facts.crop_pct
        self.image_size = facts.image_size
        self.native_size = facts.native_size
        self.multiple = facts.multiple
        self.head_fits = facts.head_fits
        self.published: Linear | None = facts.published
        self.report: Report | None = None
        self._facts = facts
        self._made_by = (image_size, stride)
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}

        size = image_size or facts.image_size or facts.native_size
        self.require_size(*size)
        shape, unused = self._probe(size)
        self.channels = shape[1]
        self.stride = round(size[0] / shape[2])
        self._grids[size] = (shape[2], shape[3])
        if stride is not None and self.stride != stride:
            remedy = "leave the stride away, or take a network whose stride timm can change"
            problem = f"its stride is {self.stride} and cannot be {stride}"
            raise StrideError(f"{name}: {problem}; {remedy} (ResNets, EfficientNets, ConvNeXts)")
        names = [name.removeprefix("body.") for name in unused]
        remove_heads(self.body, names, facts.norm)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B,3,H,W) to the feature map (B,C,h,w)."""
        self.require_size(images.shape[-2], images.shape[-1])
        found = as_map(self._facts.features(self.body, images), self._facts, images.shape)
        norm = self._norm()
        if norm is None or self.norm_at != "map":
            return found
        return _normed(norm, found)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """The average of a map over its places, (B,C,h,w) to (B,C), and the norm behind it."""
        pooled = features.mean((2, 3))
        norm = self._norm()
        if norm is None or self.norm_at != "pooled":
            return pooled
        return _normed(norm, pooled[:, :, None, None]).flatten(1)

    def linearised(self, features: torch.Tensor) -> torch.Tensor:
        """The map whose average is `pool(features)`, up to the norm's bias: (B,C,h,w).

        A layer norm behind the pooling divides by one number an image, so that it can be pulled
        through the average: (A - mean over channels of A) / deviation of GAP(A) * weight.
        """
        norm = self._norm()
        if norm is None or self.norm_at != "pooled":
            return features
        pooled = features.mean((2, 3))
        variance = pooled.var(1, unbiased=False)
        centred = features - features.mean(1, keepdim=True)
        scaled = centred * (variance + norm.eps).rsqrt()[:, None, None, None]
        if norm.weight is None:
            return scaled
        return scaled * norm.weight[:, None, None]

    def grid(self, image_size: Size) -> tuple[int, int]:
        """(h, w) of the map of an image; UserError where the network cannot take it."""
        size = _pair(image_size)
        assert size is not None
        self.require_size(*size)
        if size not in self._grids:
            shape, _ = self._probe(size)
            self._grids[size] = (shape[2], shape[3])
        return self._grids[size]

    def require_size(self, height: int, width: int) -> None:
        """UserError, which says what it takes, where it cannot take images of this size."""
        if self.image_size is not None and (height, width) != self.image_size:
            takes = "x".join(map(str, self.image_size))
            remedy = f"make it for that size (image_size={height}), or resize the images"
            raise UserError(f"{self.name} takes {takes} px, not {height}x{width}; {remedy}")
        m = self.multiple
        if height % m or width % m:
            below = max(height // m * m, m)
            near = f"{below} or {below + m}"
            raise UserError(
                f"{self.name} takes multiples of {m} px, not {height}x{width}; choose {near}"
            )

    def described(self) -> dict[str, Any]:
        """Plain data for a checkpoint: what makes the network again, and its input."""
        image_size, stride = self._made_by
        make = {
            "name": self.name,
            "image_size": None if image_size is None else list(image_size),
            "stride": stride,
            "norm": self.norm_at,
        }
        return {
            "make": make,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "channels": self.channels,
        }

    def weight_target(self) -> Target:
        """What `load_weights` fills."""
        tensors = dict(self.body.state_dict())
        norm = self._facts.norm
        optional = {}
        for name in list(tensors):
            if norm is not None and name.startswith(f"{norm}."):
                optional[name] = tensors.pop(name)
        return Target(
            what=self.name,
            backbone=tensors,
            optional=optional,
            head=self._facts.head_names,
            module=self.body,
            convert=self._facts.convert,
        )

    def load_published(self) -> None:
        """Fetch torchvision's weights; their classifier is kept for a `CamClassifier`."""
        from common import backbones_torchvision

        state = backbones_torchvision.fetch(split_name(self.name)[1])
        fill(self.weight_target(), state, self.name)
        if self.head_fits:
            head = self._facts.head_names[0]
            self.published = Linear(state[f"{head}.weight"], state.get(f"{head}.bias"))

    def _norm(self) -> Any:
        name = self._facts.norm
        return None if name is None else self.body.get_submodule(name)

    def _probe(self, size: tuple[int, int]) -> tuple[tuple[int, ...], list[str]]:
        if self._facts.features is _call:  # a paper's or a caller's own: its name says nothing
            return self._probed_anew(size)
        names = tuple(name for name, _ in self.named_parameters())
        key = (self.name, self.norm_at, self._made_by, size, names)
        if key not in _PROBED:
            _PROBED[key] = self._probed_anew(size)
        return _PROBED[key]

    def _probed_anew(self, size: tuple[int, int]) -> tuple[tuple[int, ...], list[str]]:
        try:
            shape, unused = probe(self, size)
        except UserError:
            raise
        except Exception as error:  # each family refuses a size in its own way
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"{self.name} gives no feature map of {size[0]}x{size[1]} px ({lines[0]:.160})"
            ) from error
        if len(shape) != 4:
            raise UserError(f"{self.name}: its features have the shape {shape}, expected a map")
        return shape, unused


class CamClassifier(nn.Module):
    """A network z = W pool(A) + b with the feature map A = features(x), and its activation maps.

    The published classifier is kept where it fits and has as many classes. Dropout is the caller's.
    """

    def __init__(self, features: FeatureNetwork, num_classes: int, *, bias: bool = True) -> None:
        if num_classes < 1:
            raise DomainError(f"num_classes {num_classes}: expected at least 1")
        super().__init__()
        self.features = features
        self.head = nn.Linear(features.channels, num_classes, bias)
        published = features.published
        if published is not None and published.weight.shape == self.head.weight.shape:
            with torch.no_grad():
                self.head.weight.copy_(published.weight)
                if bias and published.bias is not None:
                    self.head.bias.copy_(published.bias)
            features.published = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B,K)."""
        return self.head(self.features.pool(self.features(images)))

    def forward_with_maps(
        self, images: torch.Tensor, *, relu: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B,K) and maps (B,K,h,w) of one pass.

        A map's average is its logit but for a constant a class. `relu`: negative values become 0.
        """
        features = self.features(images)
        logits = self.head(self.features.pool(features))
        places = self.features.linearised(features)
        return logits, class_activation_map(places, self.head.weight, relu=relu)

    def maps(self, images: torch.Tensor, *, relu: bool = False) -> torch.Tensor:
        """Class activation maps (B,K,h,w)."""
        return self.forward_with_maps(images, relu=relu)[1]

    def weight_target(self) -> Target:
        """What `load_weights` fills: a file's classifier too, where it fits."""
        target = self.features.weight_target()
        target.own = "features.body."
        if self.features.head_fits:
            target.published = target.head
        target.classifier = {
            f"head.{name}": value for name, value in self.head.state_dict().items()
        }
        return target


def cam_classifier(name: str, num_classes: int, **settings: Any) -> CamClassifier:
    """A `CamClassifier` on `feature_network(name, **settings)`; `weights` fill both."""
    weights = settings.pop("weights", None)
    if weights is not None and settings.get("pretrained"):
        raise UserError(f"{name}: published weights or those of {weights}, not both")
    model = CamClassifier(feature_network(name, **settings), num_classes)
    if weights is not None:
        model.features.report = load_weights(model, weights)
    return model


def _call(module: Any, images: torch.Tensor) -> torch.Tensor:
    return module(images)


def _pair(size: Size | list[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def _normed(norm: nn.LayerNorm, features: torch.Tensor) -> torch.Tensor:
    """A layer norm over the channels of (B,C,h,w)."""
    x = features.permute(0, 2, 3, 1)
    x = nn.functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return x.permute(0, 3, 1, 2)
