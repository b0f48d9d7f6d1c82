"""CAM, CALM-EM and CALM-ML on one feature grid: the probabilities, the training inputs, the score maps.

Shapes: B images, C classes, D feature channels, h x w grid, N = h w positions. f (B,C,h,w) is
`conv_last(F)`, F (B,D,h,w) the last feature map, g = p(z|x) the attention normalised over the grid, and

    p(y,z|x) = softmax_y(f_z) g_z        p(y|x) = sum_z p(y,z|x)        p(z|x,y) = p(y,z|x) / p(y|x)

CALM-ML maximises log p(y|x); CALM-EM maximises sum_z q_z log p(y,z|x) with the posterior q held fixed.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from calm.domain import check_labels, check_not_negative
from common.aliases import one_module

one_module(__name__, "calm.network.universal")

METHODS = ("CAM", "CALM-EM", "CALM-ML")
PROCESSES = (
    *("vanilla", "vanilla-saliency", "vanilla-superclass", "saliency"),
    *("gtcond", "gtcond-superclass", "gtcond-superclass-mean"),
    *("jointll", "jointll-superclass", "jointll-superclass-mean"),
)
EPS_LOG, EPS_DIVIDE = 1e-8, 1e-10

Superclass = Mapping[object, Sequence[int]] | Sequence[Sequence[int]]


def canonical_method(name: str) -> str:
    """CAM, CALM-EM or CALM-ML, from a spelling with - or _; ValueError lists the choices."""
    method = name.replace("_", "-")
    if method not in METHODS:
        raise ValueError(f"attribution_method {name!r}: choose from {', '.join(METHODS)}")
    return method


def safe_log(g: torch.Tensor) -> torch.Tensor:
    """log(g + 1e-8 [g < 1e-8]): the small number is added, not clamped, so that the gradient stays finite."""
    return (g + EPS_LOG * (g < EPS_LOG)).log()


class UniversalProcess:
    """The arithmetic of the three attribution methods; holds no weights of its own.

    `prior_gradient`: "detach" (released: the normaliser of g gets no gradient) or "full".
    """

    def __init__(self, attribution_method: str = "CAM", prior_gradient: str = "detach") -> None:
        self.attribution_method = canonical_method(attribution_method)
        if prior_gradient not in ("detach", "full"):
            raise ValueError(f"prior_gradient {prior_gradient!r}: choose from detach, full")
        self.prior_gradient = prior_gradient
        self.conv_last: nn.Module | None = None
        self.attention: nn.Module | None = None

    @property
    def is_cam(self) -> bool:
        """Whether the method is CAM: no latent position."""
        return self.attribution_method == "CAM"

    def set_layers(self, conv_last: nn.Module | None, attention: nn.Module) -> None:
        """Use these layers: conv_last (D to C channels), attention (D to 1, not negative)."""
        self.conv_last, self.attention = conv_last, attention

    def scores(self, f_former: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """f (B,C,h,w) and the attention (B,1,h,w) from one convolution of C+1 channels over F."""
        first, *rest = self.attention
        weight = torch.cat([self.conv_last.weight, first.weight])
        bias = torch.cat([self.conv_last.bias, first.bias])
        out = F.conv2d(f_former, weight, bias)
        return out[:, :-1], nn.Sequential(*rest)(out[:, -1:])

    # ---- the five probabilities of the model ----------------------------------------------------

    def _latent_prior(
        self,
        f_former: torch.Tensor,
        log: bool = False,
        attention: torch.Tensor | None = None,
        full: bool = False,
    ) -> torch.Tensor:
        """g = p(z|x) (B,1,h,w), or its log. A row of zeros gets the uniform prior; ValueError for a negative value."""
        a = self.attention(f_former) if attention is None else attention
        check_not_negative(a, "the attention")
        total = a.sum((2, 3), keepdim=True)
        if self.prior_gradient == "detach" and not full:
            total = total.detach()
        dead = total <= 0
        uniform = 1 / (a.shape[2] * a.shape[3])
        g = torch.where(dead, uniform, a / torch.where(dead, 1.0, total))
        return safe_log(g) if log else g

    def _conditional_likelihood(self, f: torch.Tensor, log: bool = False) -> torch.Tensor:
        """s = p(y|x,z) (B,C,h,w): the softmax over classes at each position, or its log."""
        return F.log_softmax(f, 1) if log else F.softmax(f, 1)

    def _joint_likelihood(
        self,
        f: torch.Tensor,
        f_former: torch.Tensor,
        log: bool = False,
        attention: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """p(y,z|x) (B,C,h,w), or its log."""
        s, g = self._conditional_likelihood(f, log), self._latent_prior(f_former, log, attention)
        return s + g if log else s * g

    def _likelihood(
        self, f: torch.Tensor, f_former: torch.Tensor, attention: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """p(y|x) (B,C,1,1), and f: pooled to (B,C,1,1) for CAM, as it is for CALM."""
        if self.is_cam:
            pooled = f.mean((2, 3), keepdim=True)
            return F.softmax(pooled, 1), pooled
        return self._joint_likelihood(f, f_former, attention=attention).sum((2, 3), keepdim=True), f

    def _latent_posterior(
        self, f: torch.Tensor, f_former: torch.Tensor, attention: torch.Tensor | None = None
    ) -> torch.Tensor:
        """p(z|x,y) (B,C,h,w) = joint / (likelihood + 1e-10); for CAM a defined but meaningless quotient."""
        joint = self._joint_likelihood(f, f_former, attention=attention)
        likelihood = (
            F.softmax(f.mean((2, 3), keepdim=True), 1)
            if self.is_cam
            else joint.sum((2, 3), keepdim=True)
        )
        return joint / (likelihood + EPS_DIVIDE)

    # ---- training -------------------------------------------------------------------------------

    def input_for_loss(
        self, f: torch.Tensor, f_former: torch.Tensor, attention: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """{'logits', 'probs', 'inputs'}, each (B,C); NLLLoss(inputs, labels) is the objective.

        logits: mean_z f for CAM, log p(y|x) for CALM (the released code has none there), with the gradient
        through the whole prior, as gradient maps need it.
        """
        if self.is_cam:
            logits = f.mean((2, 3))
            return {
                "logits": logits,
                "probs": F.softmax(logits, 1),
                "inputs": F.log_softmax(logits, 1),
            }
        a = self.attention(f_former) if attention is None else attention
        log_s = self._conditional_likelihood(f, log=True)
        g = self._latent_prior(f_former, attention=a)
        logits = log_sum(log_s, self._latent_prior(f_former, attention=a, full=True))
        if self.attribution_method == "CALM-ML":
            inputs = log_sum(log_s, g)
        else:
            joint = (log_s.exp() * g).detach()
            posterior = joint / (joint.sum((2, 3), keepdim=True) + EPS_DIVIDE)
            inputs = (posterior * (log_s + safe_log(g))).sum((2, 3))
        return {"logits": logits, "probs": logits.exp(), "inputs": inputs}

    def loss(
        self,
        f: torch.Tensor,
        f_former: torch.Tensor,
        labels: torch.Tensor,
        attention: torch.Tensor | None = None,
        posterior: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """{'loss' (B,), 'probs' (B,C)}: the same objective from the label's row alone, without (B,C,N) copies.

        CALM also gives 'attention' (B,), the sum over the grid that normalises the prior.

        posterior (B,h,w): the E-step of another model (an EMA teacher) in place of this model's own.
        ValueError for labels that are no class, and for a negative posterior or attention.
        """
        check_labels(labels, f.shape[1], len(f))
        if self.is_cam:
            logits = f.mean((2, 3))
            log_p = F.log_softmax(logits, 1)
            loss = -log_p.gather(1, labels[:, None])[:, 0]
            return {"loss": loss, "probs": logits.detach().softmax(1)}
        attention = self.attention(f_former) if attention is None else attention
        g = self._latent_prior(f_former, attention=attention).flatten(1)
        log_z = f.logsumexp(1)
        row = f.gather(1, labels.view(-1, 1, 1, 1).expand(-1, 1, *f.shape[2:])).squeeze(1)
        log_s = (row - log_z).flatten(1)
        if self.attribution_method == "CALM-ML":
            loss = -log_sum(log_s[:, None], g[:, None]).squeeze(1)
        else:
            if posterior is None:
                joint = (log_s.exp() * g).detach()
                posterior = joint / (joint.sum(1, keepdim=True) + EPS_DIVIDE)
            elif posterior.flatten(1).shape != g.shape:
                expected = (len(f), *f.shape[2:])
                raise ValueError(f"the posterior must be {expected}, not {tuple(posterior.shape)}")
            else:
                check_not_negative(posterior, "the posterior")
            loss = -(posterior.flatten(1) * (log_s + safe_log(g))).sum(1)
        with torch.no_grad():
            probs = torch.einsum("bcn,bn->bc", (f - log_z[:, None]).exp().flatten(2), g)
        return {"loss": loss, "probs": probs, "attention": attention.detach().sum((1, 2, 3))}

    # ---- score maps -----------------------------------------------------------------------------

    @torch.no_grad()
    def get_cam(
        self,
        f: torch.Tensor,
        f_former: torch.Tensor,
        labels: torch.Tensor,
        superclass: Superclass | None = None,
        return_cam: str = "vanilla",
    ) -> torch.Tensor:
        """The score map (B,h,w) of `labels` (B,).

        ValueError names an unknown process, a missing superclass, a label that is no class.
        """
        process = return_cam if isinstance(return_cam, str) else "vanilla"
        base, *suffix = process.split("-")
        if suffix != ["saliency"]:  # the only maps that are of no label
            check_labels(labels, f.shape[1], len(f))
        cams = self.class_maps(f, f_former, process)
        if suffix == ["saliency"]:
            return self.cam_saliency(cams)
        if suffix:
            mean, minmax = suffix[-1] == "mean", base == "vanilla"
            return self.add_subclass_maps(cams, labels, superclass, mean=mean, minmax=minmax)
        place = labels.view(-1, 1, 1, 1).expand(-1, 1, *cams.shape[2:])
        return cams.gather(1, place)[:, 0]

    @torch.no_grad()
    def class_maps(self, f: torch.Tensor, f_former: torch.Tensor, process: str) -> torch.Tensor:
        """The maps of all classes (B,C,h,w) that `process` starts from."""
        if process not in PROCESSES:
            raise ValueError(
                f"Invalid score_map_process argument: {process}; choose from {', '.join(PROCESSES)}"
            )
        f, f_former = f.detach(), f_former.detach()
        base: dict[str, Callable[[], torch.Tensor]] = {
            "vanilla": lambda: f,
            "saliency": lambda: self._latent_prior(f_former).expand_as(f),
            "gtcond": lambda: self._latent_posterior(f, f_former),
            "jointll": lambda: self._joint_likelihood(f, f_former),
        }
        return base[process.split("-")[0]]()

    def cam_saliency(self, cams: torch.Tensor) -> torch.Tensor:
        """sum over all classes of the min-max scaled maps (B,C,h,w): (B,h,w); a constant map contributes 0."""
        return scale_to_unit(cams).sum(1)

    def add_subclass_maps(
        self,
        cams: torch.Tensor,
        labels: torch.Tensor,
        superclass: Superclass | None,
        mean: bool = False,
        minmax: bool = False,
    ) -> torch.Tensor:
        """sum (or mean) over the classes of superclass[label] of maps (B,C,h,w): (B,h,w).

        superclass: label (a number or its text) -> classes, or a list of such lists; a class that stands there twice
        counts twice. ValueError without a group of a label.
        """
        if superclass is None:
            raise ValueError(
                "a superclass process needs the label groups; name them with --superclass_file"
            )
        groups = superclass if isinstance(superclass, Mapping) else dict(enumerate(superclass))
        maps = []
        for cam, label in zip(cams, labels.tolist(), strict=True):
            classes = groups.get(label, groups.get(str(label), ()))
            if not len(classes):
                raise ValueError(f"label {label} has no group of classes")
            strange = [c for c in classes if not 0 <= c < len(cam)]
            if strange:
                raise ValueError(
                    f"the group of label {label} holds {strange[0]}; classes are 0..{len(cam) - 1}"
                )
            members = scale_to_unit(cam[list(classes)]) if minmax else cam[list(classes)]
            maps.append(members.mean(0) if mean else members.sum(0))
        return torch.stack(maps)


class DeadAttention:
    """Counts images whose attention is zero everywhere, without waiting for the device, and warns once a run."""

    def __init__(self) -> None:
        self.count: torch.Tensor | int = 0
        self._has_warned = False

    def add(self, attention: torch.Tensor) -> None:
        """Count a batch (B,1,h,w); each image should come once."""
        self.count = self.count + (attention.detach().amax((1, 2, 3)) <= 0).sum()

    def warn(self, count: int, images: int) -> None:
        """Warn that so many of `images` are dead, unless none is, or it was told before."""
        if count and not self._has_warned:
            self._has_warned = True
            advice = (
                "for training from scratch use --prior_activation softplus --prior_gradient full"
            )
            warnings.warn(
                f"the attention of {count} of {images} images is zero everywhere: uniform prior; {advice}",
                stacklevel=2,
            )


def log_sum(log_s: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """log sum_z exp(log_s_z) g_z over all axes after the second, without underflow: (B,C); some g must be above 0."""
    g = g.flatten(2)
    empty = g < torch.finfo(g.dtype).tiny
    log_g = g.masked_fill(empty, 1.0).log().masked_fill(empty, -torch.inf)
    return (log_s.flatten(2) + log_g).logsumexp(2)


def scale_to_unit(maps: torch.Tensor) -> torch.Tensor:
    """(m - min m) / max(m - min m) over the grid of each map (..., h, w); a constant map becomes 0."""
    shifted = maps - maps.amin((-2, -1), keepdim=True)
    top = shifted.amax((-2, -1), keepdim=True)
    return torch.where(top > 0, shifted / torch.where(top > 0, top, 1.0), 0.0)
