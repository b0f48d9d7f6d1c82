"""Maps in input space, from the gradient of the label's logit.

The plain gradient and the standard integrated gradient are captum's; the released sums differ from
captum's NoiseTunnel (the maximum over colours is inside the mean) and from IntegratedGradients, so
they are written here. All return (B,H,W); none changes its input.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from calm.method import require_labels
from common.aliases import one_module
from common.domain import require_number

one_module(__name__, "calm.score_map_method.gradients")

PIXELS_PER_FORWARD = 64 * 224 * 224  # how many path or noise steps share one forward
Backprop = Callable[..., torch.Tensor]


def label_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the logits (B,C) of a model that returns them, or a dict of them.

    ValueError if there are none.
    """
    out = model(images)
    logits = out.get("logits") if isinstance(out, dict) else out
    if logits is None:
        raise ValueError(f"{type(model).__name__} gives no logits, which gradient maps need")
    return logits


def logits_of_classes(
    model: nn.Module, targets: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function images -> logits (B,C) of a model.

    ValueError for targets that are no class of it.
    """

    def forward(x: torch.Tensor) -> torch.Tensor:
        logits = label_logits(model, x)
        require_labels(targets, logits.shape[1], name="targets")
        return logits

    return forward


def backprop(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    num_classes: int | None = None,
    **_: object,
) -> torch.Tensor:
    """max over colours of |d logit_y / d x| (B,H,W); `num_classes` is only checked."""
    from captum.attr import Saliency

    known = logits_of_classes(model, targets)

    def forward(x: torch.Tensor) -> torch.Tensor:
        logits = known(x)
        if num_classes is not None and logits.shape[1] != num_classes:
            raise ValueError(f"the model has {logits.shape[1]} classes, expected {num_classes}")
        return logits

    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        return Saliency(forward).attribute(x, target=targets, abs=True).amax(1).detach()


def input_grad(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    num_classes: int | None = None,
    method: Backprop = backprop,
    **_: object,
) -> torch.Tensor:
    """The plain gradient map (B,H,W)."""
    return method(model=model, images=images, targets=targets, num_classes=num_classes)


def _steps(
    inputs: Iterator[torch.Tensor],
    count: int,
    model: nn.Module,
    targets: torch.Tensor,
    num_classes: int | None,
    method: Backprop,
) -> Iterator[torch.Tensor]:
    """Maps (k,B,H,W) of `count` variants of the batch, as many at a time as share a forward."""
    first = next(inputs)
    size = max(1, PIXELS_PER_FORWARD // (first.shape[0] * first.shape[2] * first.shape[3]))
    pending = [first]
    left = count - 1
    while pending:
        while left and len(pending) < size:
            pending.append(next(inputs))
            left -= 1
        maps = method(
            model=model,
            images=torch.cat(pending),
            targets=targets.repeat(len(pending)),
            num_classes=num_classes,
        )
        yield maps.unflatten(0, (len(pending), -1))
        pending = [next(inputs)] if left else []
        left -= len(pending)


def integrated_grad(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    num_classes: int | None = None,
    method: Backprop = backprop,
    integrated_grad_nr_iter: int = 50,
    ig_variant: str = "released",
    **_: object,
) -> torch.Tensor:
    """Return the maps of integrated gradients, as released or as usual.

    released: (1/n) sum_{i=0..n} backprop(x i/n), n+1 terms; standard: captum's, max over colours of
    |.|.
    """
    n = integrated_grad_nr_iter
    require_number(n, "integrated_grad_nr_iter", 1)
    if ig_variant not in ("released", "standard"):
        raise ValueError(f"ig_variant {ig_variant!r}: choose from released, standard")
    if ig_variant == "standard":
        from captum.attr import IntegratedGradients

        with torch.enable_grad():
            attribution = IntegratedGradients(logits_of_classes(model, targets)).attribute(
                images.detach(), target=targets, n_steps=n, internal_batch_size=max(64, len(images))
            )
        return attribution.abs().amax(1).to(images.dtype)
    path = (images.detach() * (i / n) for i in range(n + 1))
    total = torch.zeros((), device=images.device)
    for maps in _steps(path, n + 1, model, targets, num_classes, method):
        total = total + maps.sum(0)
    return total / n


def _noise_moments(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    num_classes: int | None,
    method: Backprop,
    n: int,
    sigma: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of m and of m^2 over n maps m of x + noise.

    The noise of map t is the t-th randn_like of the global generator.
    """
    require_number(n, "smooth_grad_nr_iter", 1)
    require_number(sigma, "smooth_grad_sigma", 0, open_low=True)
    x = images.detach()
    std = (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)) / sigma
    noisy = (x + std * torch.randn_like(x) for _ in range(n))
    first = torch.zeros((), device=x.device)
    second = torch.zeros((), device=x.device)
    for maps in _steps(noisy, n, model, targets, num_classes, method):
        first = first + maps.sum(0)
        second = second + maps.square().sum(0)
    return first / n, second / n


def smooth_grad(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    num_classes: int | None = None,
    method: Backprop = backprop,
    smooth_grad_nr_iter: int = 50,
    smooth_grad_sigma: float = 4.0,
    **_: object,
) -> torch.Tensor:
    """The mean map over noisy copies, sigma = (max x - min x) / smooth_grad_sigma per image."""
    return _noise_moments(
        model, images, targets, num_classes, method, smooth_grad_nr_iter, smooth_grad_sigma
    )[0]


def smooth_grad_square(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    num_classes: int | None = None,
    method: Backprop = backprop,
    smooth_grad_nr_iter: int = 50,
    smooth_grad_sigma: float = 4.0,
    **_: object,
) -> torch.Tensor:
    """The mean squared map over noisy copies."""
    return _noise_moments(
        model, images, targets, num_classes, method, smooth_grad_nr_iter, smooth_grad_sigma
    )[1]


def var_grad(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    num_classes: int | None = None,
    method: Backprop = backprop,
    smooth_grad_nr_iter: int = 50,
    smooth_grad_sigma: float = 4.0,
    **_: object,
) -> torch.Tensor:
    """The variance of the map over noisy copies, mean(m^2) - mean(m)^2."""
    mean, square = _noise_moments(
        model, images, targets, num_classes, method, smooth_grad_nr_iter, smooth_grad_sigma
    )
    return square - mean.square()
