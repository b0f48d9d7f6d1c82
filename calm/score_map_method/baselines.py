"""Further baselines for the same two metrics: captum's NoiseTunnel and occlusion, and Grad-CAM."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from calm.method import require_labels
from calm.network.head import AttributionNet
from calm.score_map_method.gradients import PIXELS_PER_FORWARD, logits_of_classes
from common.aliases import one_module
from common.domain import require_number

one_module(__name__, "calm.score_map_method.baselines")

KINDS = ("smoothgrad", "smoothgrad_sq", "vargrad")


def grad_cam(
    model: AttributionNet, images: torch.Tensor, targets: torch.Tensor, **_: object
) -> torch.Tensor:
    """relu(sum_d F_d mean_z d logit_y / d F_d) on the network's last feature map F: (B,h,w).

    captum's LayerGradCam needs a module whose output is F, which these networks do not have.
    """
    with torch.enable_grad():
        f_former = model.extract(images).detach().float().requires_grad_()
        f, attention = model.process.scores(f_former)
        logits = model.process.input_for_loss(f, f_former, attention)["logits"]
        require_labels(targets, logits.shape[1], len(images), "targets")
        (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), f_former)
    return F.relu((f_former * gradient.mean((2, 3), keepdim=True)).sum(1)).detach()


def noise_tunnel(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    smooth_grad_nr_iter: int = 50,
    smooth_grad_sigma: float = 4.0,
    kind: str = "smoothgrad",
    **_: object,
) -> torch.Tensor:
    """Return the maps (B,H,W) of captum's NoiseTunnel over the gradient.

    The maximum over colours comes after the mean or variance.

    The noise of an image has the deviation (max x - min x) / smooth_grad_sigma of that image, and
    each image of a batch meets the same draws (of one seed from the global generator): its map does
    not depend on its neighbours. captum knows one deviation for a batch, so the images go through
    it one at a time, their noisy copies together.
    """
    from captum.attr import NoiseTunnel, Saliency

    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: choose from {', '.join(KINDS)}")
    require_number(smooth_grad_nr_iter, "smooth_grad_nr_iter", 1)
    require_number(smooth_grad_sigma, "smooth_grad_sigma", 0, open_low=True)
    tunnel = NoiseTunnel(Saliency(logits_of_classes(model, targets)))
    copies = max(1, PIXELS_PER_FORWARD // (images.shape[2] * images.shape[3]))
    generators = [images.device] if images.device.type == "cuda" else []
    seed = int(torch.randint(2**31, ()))
    maps = []
    for image, target in zip(images.detach().split(1), targets, strict=True):
        deviation = float(image.max() - image.min()) / smooth_grad_sigma
        with torch.enable_grad(), torch.random.fork_rng(generators):
            torch.manual_seed(seed)
            attribution = tunnel.attribute(
                image.clone().requires_grad_(),
                nt_type=kind,
                nt_samples=smooth_grad_nr_iter,
                nt_samples_batch_size=min(copies, smooth_grad_nr_iter),
                stdevs=deviation,
                target=int(target),
            )
        maps.append(attribution.amax(1).detach())
    return torch.cat(maps).to(images.dtype)


def noise_tunnel_variance(
    model: nn.Module, images: torch.Tensor, targets: torch.Tensor, **settings: Any
) -> torch.Tensor:
    """captum's vargrad (B,H,W)."""
    return noise_tunnel(model, images, targets, **{**settings, "kind": "vargrad"})


def occlusion(
    model: nn.Module, images: torch.Tensor, targets: torch.Tensor, **_: object
) -> torch.Tensor:
    """Return the maps (B,H,W) of captum's Occlusion: the drop of the logit.

    The window is an eighth of the side, and windows are half a window apart.
    """
    from captum.attr import Occlusion

    window = max(2, images.shape[-1] // 8)
    with torch.no_grad():
        attribution = Occlusion(logits_of_classes(model, targets)).attribute(
            images.detach(),
            sliding_window_shapes=(images.shape[1], window, window),
            strides=(images.shape[1], max(1, window // 2), max(1, window // 2)),
            target=targets,
            perturbations_per_eval=max(1, 64 // len(images)),
        )
    return attribution.mean(1).to(images.dtype)
