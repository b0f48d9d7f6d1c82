"""`UniversalProcess`: CAM, CALM-EM and CALM-ML on the feature grid of a network.

It computes them from the equations of method.py.
"""

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from calm import fast, method
from calm.method import Superclass
from calm.options_names import METHODS, PROCESSES, canonical_method  # noqa: F401
from common.aliases import one_module

one_module(__name__, "calm.network.universal")


class UniversalProcess:
    """The three attribution methods over the heads of a network; holds no weights of its own.

    f (B,C,h,w) is `conv_last(F)`, F (B,D,h,w) the last feature map. Where `attention` (B,1,h,w) is
    not given it is computed from F.

    Args:
        attribution_method: CAM, CALM-EM or CALM-ML, also with _ for -.
        prior_gradient: "full", or "detach" as released: the sum that normalises p(z|x) gets no
            gradient.
    """

    def __init__(self, attribution_method: str = "CAM", prior_gradient: str = "detach") -> None:
        self.attribution_method = canonical_method(attribution_method)
        if prior_gradient not in ("detach", "full"):
            raise ValueError(f"prior_gradient {prior_gradient!r}: choose from detach, full")
        self.prior_gradient = prior_gradient
        self.conv_last: Any = None
        self.attention: Any = None

    @property
    def is_cam(self) -> bool:
        """Whether the method is CAM: no latent position."""
        return self.attribution_method == "CAM"

    def set_layers(self, conv_last: nn.Module | None, attention: nn.Module) -> None:
        """Use these layers: conv_last (D to C channels), attention (D to 1, not negative)."""
        self.conv_last = conv_last
        self.attention = attention

    def scores(self, f_former: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """f (B,C,h,w) and the attention (B,1,h,w) of F."""
        return fast.heads(f_former, self.conv_last, self.attention)

    def _attention_of(self, f_former: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        return self.attention(f_former) if attention is None else attention

    # ---- the original's five probabilities -------------------------------------------

    def _latent_prior(
        self,
        f_former: torch.Tensor,
        log: bool = False,
        attention: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """p(z|x) (B,1,h,w), or its log."""
        a = self._attention_of(f_former, attention)
        g = method.latent_prior(a, self.prior_gradient == "full")
        return method.safe_log(g) if log else g

    def _conditional_likelihood(self, f: torch.Tensor, log: bool = False) -> torch.Tensor:
        """p(y|x,z) (B,C,h,w), or its log."""
        return method.log_conditional_likelihood(f) if log else method.conditional_likelihood(f)

    def _joint_likelihood(
        self, f: torch.Tensor, f_former: torch.Tensor, log: bool = False
    ) -> torch.Tensor:
        """p(y,z|x) (B,C,h,w), or its log."""
        s = self._conditional_likelihood(f, log)
        g = self._latent_prior(f_former, log)
        return s + g if log else method.joint_likelihood(s, g)

    def _likelihood(
        self, f: torch.Tensor, f_former: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """p(y|x) (B,C,1,1), and f: pooled to (B,C,1,1) for CAM, as it is for CALM."""
        if self.is_cam:
            return method.cam_likelihood(f), f.mean((2, 3), keepdim=True)
        return method.likelihood(self._joint_likelihood(f, f_former)), f

    def _latent_posterior(self, f: torch.Tensor, f_former: torch.Tensor) -> torch.Tensor:
        """p(z|x,y) (B,C,h,w); for CAM a defined but meaningless quotient."""
        return method.attribution_maps("gtcond", f, self.attention(f_former), self.is_cam)

    # ---- training --------------------------------------------------------------------

    def input_for_loss(
        self, f: torch.Tensor, f_former: torch.Tensor, attention: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """{'logits', 'probs', 'inputs'}, each (B,C); NLLLoss(inputs, labels) is the objective.

        logits: mean over z of f for CAM; log p(y|x) for CALM (the released code has none there),
            with the gradient through the whole prior, as gradient maps need it.
        """
        if self.is_cam:
            logits = method.cam_logits(f)
            probs = F.softmax(logits, 1)
            return {"logits": logits, "probs": probs, "inputs": F.log_softmax(logits, 1)}

        a = self._attention_of(f_former, attention)
        log_s = method.log_conditional_likelihood(f)
        logits = method.log_likelihood(log_s, method.latent_prior(a, full_gradient=True))
        inputs = self._objective(log_s, self._latent_prior(f_former, attention=a))
        return {"logits": logits, "probs": logits.exp(), "inputs": inputs}

    def loss(
        self,
        f: torch.Tensor,
        f_former: torch.Tensor,
        labels: torch.Tensor,
        attention: torch.Tensor | None = None,
        posterior: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """{'loss' (B,), 'probs' (B,C)}: the objective of the labels alone.

        CALM also gives 'attention' (B,), the sum over the grid that normalises the prior.

        posterior (B,h,w): the E-step of another model (an average) in place of this model's own.
        ValueError for labels that are no class, and for a negative posterior or attention.
        """
        method.require_labels(labels, f.shape[1], len(f))
        if self.is_cam:
            logits = method.cam_logits(f)
            log_p = F.log_softmax(logits, 1)
            loss = -log_p.gather(1, labels[:, None])[:, 0]
            return {"loss": loss, "probs": logits.detach().softmax(1)}

        a = self._attention_of(f_former, attention)
        g = self._latent_prior(f_former, attention=a)
        total = f.logsumexp(1, keepdim=True)
        log_s = fast.log_conditional_likelihood_of(f, labels, total)
        loss = -self._objective(log_s, g, posterior).squeeze(1)
        with torch.no_grad():
            probs = fast.likelihood_of(f, total, g)
        return {"loss": loss, "probs": probs, "attention": a.detach().sum((1, 2, 3))}

    def _objective(
        self, log_s: torch.Tensor, g: torch.Tensor, posterior: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What CALM maximises, (B,K), for log p(y|x,z) (B,K,h,w) of K classes."""
        if self.attribution_method == "CALM-ML":
            return method.log_likelihood(log_s, g)
        if posterior is not None:
            expected = (len(g), *g.shape[2:])
            if tuple(posterior.shape) != expected:
                raise ValueError(f"the posterior must be {expected}, not {tuple(posterior.shape)}")
            posterior = posterior[:, None]
        return method.expected_log_joint(log_s, g, posterior)

    # ---- score maps ------------------------------------------------------------------

    @torch.no_grad()
    def get_cam(
        self,
        f: torch.Tensor,
        f_former: torch.Tensor,
        labels: Any,
        superclass: Superclass | None = None,
        return_cam: str | bool = "vanilla",
    ) -> torch.Tensor:
        """The score map (B,h,w) of `labels` (B,); maps of no label take None.

        ValueError names an unknown process, a missing superclass, a label that is no class.
        """
        process = return_cam if isinstance(return_cam, str) else "vanilla"
        if not process.endswith("-saliency"):  # the only maps that are of no label
            method.require_labels(labels, f.shape[1], len(f))
        cams = self.class_maps(f, f_former, process)
        return self.select(cams, labels, superclass, process)

    @torch.no_grad()
    def class_maps(self, f: torch.Tensor, f_former: torch.Tensor, process: str) -> torch.Tensor:
        """The maps of all classes (B,C,h,w) that `process` starts from."""
        if process not in PROCESSES:
            known = ", ".join(PROCESSES)
            raise ValueError(f"Invalid score_map_process argument: {process}; choose from {known}")
        kind = process.split("-")[0]
        attention = None if kind == "vanilla" else self.attention(f_former.detach())
        return method.attribution_maps(kind, f.detach(), attention, self.is_cam)

    def select(
        self,
        cams: torch.Tensor,
        labels: torch.Tensor,
        superclass: Superclass | None,
        process: str,
    ) -> torch.Tensor:
        """Return the map (B,h,w) of the label, of its group or of all classes.

        It is taken out of `class_maps` (B,C,h,w).
        """
        kind, *suffix = process.split("-")
        if suffix == ["saliency"]:
            return self.cam_saliency(cams)
        if suffix:
            is_mean = suffix[-1] == "mean"
            return self.add_subclass_maps(
                cams, labels, superclass, mean=is_mean, minmax=kind == "vanilla"
            )
        return method.map_of_label(cams, labels)[:, 0]

    def cam_saliency(self, cams: torch.Tensor) -> torch.Tensor:
        """The sum over all classes of the min-max scaled maps (B,C,h,w): (B,h,w)."""
        return method.all_class_saliency(cams)

    def add_subclass_maps(
        self,
        cams: torch.Tensor,
        labels: torch.Tensor,
        superclass: Superclass | None,
        mean: bool = False,
        minmax: bool = False,
    ) -> torch.Tensor:
        """The sum (or mean) over the classes of superclass[label] of maps (B,C,h,w): (B,h,w)."""
        if superclass is None:
            remedy = "name them with --superclass_file"
            raise ValueError(f"a superclass process needs the label groups; {remedy}")
        return method.add_superclass_maps(cams, labels, superclass, mean, minmax)


class DeadAttention:
    """Counts images whose attention is zero everywhere, and warns once a run.

    It does so without waiting for the device.
    """

    def __init__(self) -> None:
        self.count: torch.Tensor | int = 0
        self._has_warned = False

    def add(self, attention: torch.Tensor) -> None:
        """Count a batch (B,1,h,w); each image should come once."""
        self.count = self.count + (attention.detach().amax((1, 2, 3)) <= 0).sum()

    def warn(self, count: int, images: int) -> None:
        """Warn that so many of `images` are dead, unless none is, or it was told before."""
        if not count or self._has_warned:
            return
        self._has_warned = True
        advice = "for training from scratch use --prior_activation softplus --prior_gradient full"
        told = f"the attention of {count} of {images} images is zero everywhere: uniform prior"
        warnings.warn(f"{told}; {advice}", stacklevel=2)
