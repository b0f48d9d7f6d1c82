"""CALM around a network of your own: torch and calm.method alone.

    model = CALM(network, num_classes=3)               # network: images (B,3,H,W) to (B,D,h,w)
    model = attach(resnet50(weights="DEFAULT"), "layer4")   # a trained classifier
    model.loss(images, labels).backward()
    probabilities, maps, names = model.explain(images)

Shapes: B images, C classes, D channels, h x w places of the map.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from calm import method as equations

__all__ = ["CALM", "Explained", "attach"]

METHODS = ("CAM", "EM", "ML")
ACTIVATIONS: dict[str, Callable[..., torch.Tensor]] = {"relu": F.relu, "softplus": F.softplus}


class Explained(NamedTuple):
    """What `CALM.explain` answers.

    probabilities (B,C): p(y|x). maps (B,C,h,w): p(y,z|x), whose sum over the places is p(y|x); of a
    CAM network its scores. class_names: C names.
    """

    probabilities: torch.Tensor
    maps: torch.Tensor
    class_names: list[str]


class CALM(nn.Module):
    """A network with the class scores and the attention as two 1x1 convolutions on its map.

    Args:
        network: images (B,3,H,W) to a feature map (B,D,h,w).
        num_classes: C.
        method: "EM" or "ML", the objectives of CALM; "CAM" has no latent position.
        channels: D; by default `network.channels` or `network.num_features`.
        prior_activation: of the attention, "relu" or "softplus" (better from scratch).
        prior_gradient: through the normaliser of p(z|x), "detach" as released, or "full" (better
            from scratch).
        class_names: C names; their numbers by default.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        method: str = "EM",
        *,
        channels: int | None = None,
        prior_activation: str = "relu",
        prior_gradient: str = "detach",
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.method = _canonical(method)
        _require_one_of("prior_activation", prior_activation, tuple(ACTIVATIONS))
        _require_one_of("prior_gradient", prior_gradient, ("detach", "full"))
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes {num_classes!r}: must be a whole number from 1 on")
        if channels is None:
            channels = getattr(network, "channels", getattr(network, "num_features", None))
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels {channels!r}: how many has the map of the network?")
        names = [str(name) for name in range(num_classes)]
        if class_names is not None:
            names = [str(name) for name in class_names]
        if len(names) != num_classes:
            raise ValueError(f"{len(names)} class_names for {num_classes} classes")

        self.network = network
        self.prior_activation = prior_activation
        self.prior_gradient = prior_gradient
        self.class_names = names
        self.conv_last = nn.Conv2d(channels, num_classes, 1)
        self.attention = nn.Conv2d(channels, 1, 1)
        for head in (self.conv_last, self.attention):
            nn.init.xavier_uniform_(head.weight)
            nn.init.zeros_(_bias(head))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """log p(y|x) (B,C), in float32 at least."""
        f, attention = self.scores(images)
        if self.method == "CAM":
            return F.log_softmax(equations.cam_logits(f), 1)
        log_s = equations.log_conditional_likelihood(f)
        return equations.log_likelihood(log_s, self._prior(attention))

    def scores(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores f (B,C,h,w) and the attention a (B,1,h,w), in float32 at least."""
        features = self.network(images)
        channels = self.conv_last.in_channels
        if features.ndim != 4 or features.shape[1] != channels:
            expected = f"(B, {channels}, h, w)"
            raise ValueError(f"the network's map is {tuple(features.shape)}, expected {expected}")
        with torch.autocast(features.device.type, enabled=False):
            precise = features.to(torch.promote_types(features.dtype, torch.float32))
            f = _convolved(precise, self.conv_last)
            attention = ACTIVATIONS[self.prior_activation](_convolved(precise, self.attention))
        return f, attention

    def loss(
        self, images: torch.Tensor, labels: torch.Tensor, posterior: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The objective's mean over the images, one number.

        Args:
            labels: (B,) whole numbers in 0..C-1; ValueError otherwise.
            posterior: p(z|x,y) (B,h,w) of another model as the E-step; None for this model's own.
        """
        if posterior is not None and self.method != "EM":
            raise ValueError(f"a posterior belongs to method EM, not to {self.method}")
        f, attention = self.scores(images)
        equations.require_labels(labels, f.shape[1], len(f))
        if self.method == "CAM":
            return F.cross_entropy(equations.cam_logits(f), labels)

        log_s = equations.log_conditional_likelihood(f)
        of_label = equations.map_of_label(log_s, labels)
        g = self._prior(attention)
        if self.method == "ML":
            return -equations.log_likelihood(of_label, g).mean()
        if posterior is not None:
            if posterior.shape != (len(f), *f.shape[2:]):
                raise ValueError(f"the posterior is {tuple(posterior.shape)}, expected (B, h, w)")
            posterior = posterior[:, None]
        return -equations.expected_log_joint(of_label, g, posterior).mean()

    def maps(self, images: torch.Tensor, kind: str | None = None) -> torch.Tensor:
        """The maps of all classes (B,C,h,w); `kind` is one of `method.attribution_maps`.

        The default is p(y,z|x), "jointll", and of a CAM network its scores, "vanilla".
        """
        return self._maps_of(*self.scores(images), kind)

    @torch.no_grad()
    def explain(self, images: torch.Tensor) -> Explained:
        """p(y|x), the map of each class, and the classes' names, in evaluation mode."""
        was_training = self.training
        self.eval()
        try:
            f, attention = self.scores(images)
        finally:
            self.train(was_training)
        maps = self._maps_of(f, attention, None)
        if self.method == "CAM":
            probabilities = F.softmax(equations.cam_logits(f), 1)
        else:
            probabilities = maps.sum((2, 3))
        return Explained(probabilities, maps, list(self.class_names))

    def _prior(self, attention: torch.Tensor) -> torch.Tensor:
        return equations.latent_prior(attention, self.prior_gradient == "full")

    def _maps_of(self, f: torch.Tensor, attention: torch.Tensor, kind: str | None) -> torch.Tensor:
        is_cam = self.method == "CAM"
        if kind is None:
            kind = "vanilla" if is_cam else "jointll"
        _require_one_of("kind", kind, ("vanilla", "saliency", "jointll", "gtcond"))
        return equations.attribution_maps(kind, f, attention, is_cam)


def attach(
    model: nn.Module,
    layer: str | nn.Module,
    *,
    num_classes: int | None = None,
    method: str = "EM",
    prior_activation: str = "relu",
    prior_gradient: str = "detach",
    class_names: Sequence[str] | None = None,
) -> CALM:
    """CALM on a trained classifier whose last layer is linear: its classes, at each place.

    The scores begin as the classifier itself, the attention the same everywhere: with method="CAM"
    its class activation maps need no training; with "EM" or "ML" train on from there.

    Args:
        model: of torchvision or timm, or another that ends in pooling and an nn.Linear.
        layer: the module whose output is the last map, or its name: "layer4". Maps (B,D,h,w),
            (B,h,w,D), or tokens (B,N,D) of a square grid.
        num_classes: other classes than the model's; their scores begin anew.
    Raises:
        ValueError: no such layer, or no linear layer in the model.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no nn.Linear, so no linear classifier")
    classifier = linear[-1]
    network = _Layer(model, _found(model, layer), classifier.in_features)
    made = CALM(
        network,
        classifier.out_features if num_classes is None else num_classes,
        method,
        prior_activation=prior_activation,
        prior_gradient=prior_gradient,
        class_names=class_names,
    )
    with torch.no_grad():
        if num_classes in (None, classifier.out_features):
            made.conv_last.weight.copy_(classifier.weight[:, :, None, None])
            if classifier.bias is not None:
                _bias(made.conv_last).copy_(classifier.bias)
        made.attention.weight.zero_()
        _bias(made.attention).fill_(1.0)
    return made.to(classifier.weight.device)


class _Layer(nn.Module):
    """What a layer of a model puts out, as a map (B,D,h,w)."""

    def __init__(self, model: nn.Module, layer: nn.Module, channels: int) -> None:
        super().__init__()
        self.model = model
        self.channels = channels
        self._layer = [layer]  # not a second time among the parameters

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run the model, and catch the layer's output on its way."""
        caught: list[torch.Tensor] = []

        def catch(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            caught.append(output)

        handle = self._layer[0].register_forward_hook(catch)
        try:
            self.model(images)
        finally:
            handle.remove()
        if not caught:
            raise ValueError("the layer was not reached by the model's forward")
        return self._as_map(caught[-1])

    def __deepcopy__(self, memo: dict) -> "_Layer":
        """The copy listens to its own model's layer."""
        import copy

        names = [name for name, module in self.model.named_modules() if module is self._layer[0]]
        model = copy.deepcopy(self.model, memo)
        return _Layer(model, model.get_submodule(names[0]), self.channels)

    def _as_map(self, output: torch.Tensor) -> torch.Tensor:
        if output.ndim == 4 and output.shape[1] != self.channels:
            return output.permute(0, 3, 1, 2)
        if output.ndim != 3:
            return output
        tokens = output[:, getattr(self.model, "num_prefix_tokens", 0) :]
        side = round(tokens.shape[1] ** 0.5)
        if side * side != tokens.shape[1]:
            raise ValueError(f"{tokens.shape[1]} tokens are no square grid")
        return tokens.transpose(1, 2).unflatten(2, (side, side))


def _found(model: nn.Module, layer: str | nn.Module) -> nn.Module:
    modules = dict(model.named_modules())
    if isinstance(layer, str):
        if layer not in modules or not layer:
            known = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"{type(model).__name__} has no layer {layer!r}; it has {known}, ...")
        return modules[layer]
    if not any(layer is module for module in modules.values()):
        raise ValueError("the layer is no part of the model")
    return layer


def _canonical(method: str) -> str:
    name = str(method).replace("_", "-").removeprefix("CALM-")
    _require_one_of("method", name, METHODS)
    return name


def _require_one_of(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{what} {value!r}: choose from {', '.join(known)}")


def _bias(layer: nn.Conv2d) -> torch.Tensor:
    assert layer.bias is not None
    return layer.bias


def _convolved(features: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    """A 1x1 convolution in the precision of the features."""
    weight = layer.weight.to(features.dtype)
    return F.conv2d(features, weight, _bias(layer).to(features.dtype))
