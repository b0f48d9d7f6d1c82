"""The loss as training calls it, with its settings checked and its prior beside it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from common.aliases import one_module
from common.cli import DomainError
from common.domain import require_number, require_one_of
from common.processes import rows_of_all
from common.sync_bn import world_size
from csl import fast, method
from csl.data_errors import require_count
from csl.options_choices import mode_of

one_module(__name__, "csl.build_loss")

SETS = ("pos", "neg", "unann")


def keywords_of(args: Any) -> dict[str, Any]:
    """The arguments of `SelectiveLoss` from the flags.

    The released code's namespace will do for `args`: ours beside it have their defaults.
    """
    return {
        "mode": args.partial_loss_mode,
        "gammas": (args.gamma_pos, args.gamma_neg, args.gamma_unann),
        "alphas": (args.alpha_pos, args.alpha_neg, args.alpha_unann),
        "clip": args.clip,
        "stable": bool(getattr(args, "stable_loss", False)),
        "prior_threshold": args.prior_threshold,
        **selection_of(args),
    }


def selection_of(args: Any) -> dict[str, Any]:
    """The arguments of `method.most_likely` from the flags."""
    return {
        "topk": args.likelihood_topk,
        "share": getattr(args, "likelihood_share", None),
        "scope": getattr(args, "likelihood_scope", "batch"),
    }


class SelectiveLoss(nn.Module):
    """The class-aware selective loss: `method.label_weights`, then `partial_asymmetric_loss`.

    >>> loss = SelectiveLoss("selective", gammas=(0, 3, 4), prior=prior, prior_threshold=0.5)
    >>> loss(logits, targets).backward()

    Several processes choose among the labels of all their batches, as one with the whole batch.
    `kept` of the last batch, (B, C) numbers 0 and 1: what selective mode left of U; None in the
    other modes and in transforms of torch.func. `prior_classes`: the prior, (C,), or None.
    """

    prior_classes: torch.Tensor | None
    kept: torch.Tensor | None = None

    def __init__(
        self,
        mode: str | None = "negative",
        *,
        gammas: Sequence[float] = (0, 1, 2),
        alphas: Sequence[float] = (1, 1, 1),
        clip: float | None = None,
        stable: bool = False,
        topk: int | None = 5,
        share: float | None = None,
        scope: str = "batch",
        prior: torch.Tensor | None = None,
        prior_threshold: float | None = 0.05,
    ) -> None:
        """Arguments as those of the functions of `csl.method`; gammas, alphas: of P, N and U.

        DomainError: an unknown mode or scope, a number that is not finite or out of its range.
        """
        super().__init__()
        self.mode = mode_of(mode)
        self.factors: dict[str, Any] = {"clip": clip, "stable": stable}
        for kind, values in (("gamma", gammas), ("alpha", alphas)):
            for name, value in zip(SETS, values, strict=True):
                require_number(value, f"{kind}_{name}", 0)
                self.factors[f"{kind}_{name}"] = value
        require_number(clip or 0, "clip", 0, 1, open_high=True)
        if clip and stable:
            raise DomainError("stable_loss: not together with a clip, which bounds q already")

        require_count(topk or 0, "likelihood_topk")
        require_number(share or 0, "likelihood_share", 0, 1)
        require_one_of(scope, method.SCOPES, "likelihood_scope")
        self.selection = {"topk": int(topk or 0), "share": share, "scope": scope}

        require_number(prior_threshold or 0, "prior_threshold", 0)
        self.prior_threshold = prior_threshold
        self.register_buffer("prior_classes", prior)

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of a batch, a scalar; logits (B, C) of any float dtype, targets (B, C).

        `weights`, (B, C), those of a larger batch that this one is a part of (`weights` below).

        ValueError: shapes that do not belong together, and, in eager mode on the CPU, targets other
        than 1, 0, -1. Elsewhere such a target makes the loss NaN.
        """
        if weights is not None:
            self.kept = (targets == method.UNKNOWN) * weights
            return method.partial_asymmetric_loss(logits, targets, weights, **self.factors)
        selection = self._selection(logits, targets)
        if self._is_over_processes():
            own = self.weights_of_step(logits, targets)
            return self(logits, targets, own)
        loss, kept = fast.selective_loss(logits, targets, self.mode, selection, **self.factors)
        is_told = torch.compiler.is_compiling() or not method.is_transformed()
        self.kept = kept if self.mode == "selective" and is_told else None
        return loss

    @property
    def selects_in_batch(self) -> bool:
        """Whether the weights of an image depend on the others of its batch."""
        counts = self.selection["topk"] or self.selection["share"]
        return self.mode == "selective" and bool(counts) and self.selection["scope"] == "batch"

    def _is_over_processes(self) -> bool:
        """Whether the labels that are left out are chosen among those of several batches."""
        return self.selects_in_batch and world_size() > 1

    def weights_of_step(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The weights w of this process's rows (B, C), K * B labels left out of all processes'.

        With several processes all of them call this together.
        """
        if not self._is_over_processes():
            return self.weights(logits, targets)
        selection = self._selection(logits, targets)
        _, q = method.probabilities(method.at_least_float32(logits), self.factors["clip"])
        of_all, start = rows_of_all(q)
        targets_of_all, _ = rows_of_all(targets)
        weights = method.label_weights(self.mode, targets_of_all, of_all, **selection)
        return weights[start : start + len(logits)]

    def weights(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The weights w of a batch, (B, C)."""
        selection = self._selection(logits, targets)
        _, q = method.probabilities(logits, self.factors["clip"])
        return method.label_weights(self.mode, targets, q, **selection)

    def _selection(self, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
        """The arguments of `method.selective_weights`; DomainError where shapes are not theirs."""
        prior = self.prior_classes
        if logits.dim() != 2 or logits.shape != targets.shape:
            shapes = f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}"
            raise DomainError(f"{shapes}: both must be (B, C), of one shape")
        if prior is not None and len(prior) != logits.shape[1]:
            told = f"a prior of {len(prior)} classes, but the logits have {logits.shape[1]}"
            raise DomainError(told)
        return {**self.selection, "prior": prior, "prior_threshold": self.prior_threshold}

    def parts(self, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """The loss of each set: annotated positives P, annotated negatives N, un-annotated U."""
        weights = self.weights(logits, targets)
        found = {}
        for name, label in (("P", method.POSITIVE), ("N", method.NEGATIVE), ("U", method.UNKNOWN)):
            members = targets == label
            of_set = (logits[members], targets[members], weights[members])
            found[name] = method.partial_asymmetric_loss(*of_set, **self.factors).item()
        return found

    def explain(self, logits: torch.Tensor, targets: torch.Tensor) -> str:
        """The parts as text, and how many labels are none, for a loss that is not finite."""
        parts = self.parts(logits.detach(), targets)
        told = "its parts: " + ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
        unknown = int(method.nan_outside(torch.zeros_like(logits), targets).isnan().sum())
        if unknown:
            told += f"; {unknown} targets are none of 1, 0, -1"
        return told
