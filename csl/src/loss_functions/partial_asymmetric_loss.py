"""The loss under the names and calls of the released code; the equations stand in csl/method.py."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from common.aliases import one_module
from common.cli import DomainError
from csl import method
from csl.build_loss import SelectiveLoss, keywords_of, selection_of
from csl.data_errors import require_count
from csl.data_prior import ComputePrior, match_prior, read_prior
from csl.options_choices import mode_of

one_module(__name__, "csl.src.loss_functions.partial_asymmetric_loss")

__all__ = [
    "ComputePrior",
    "PartialSelectiveLoss",
    "edit_targets_parital_labels",
    "negative_backprop_fun_jit",
]


DEFAULTS: Mapping[str, Any] = {
    "partial_loss_mode": "selective",
    "clip": None,
    "gamma_pos": 0,
    "gamma_neg": 1,
    "gamma_unann": 4,
    "alpha_pos": 1,
    "alpha_neg": 1,
    "alpha_unann": 1,
    "likelihood_topk": 5,
    "likelihood_scope": "batch",
    "likelihood_share": None,
    "prior_threshold": 0.5,
    "prior_path": None,
    "stable_loss": False,
}


class PartialSelectiveLoss(SelectiveLoss):
    """`SelectiveLoss`, set up as in the released code, or by keyword arguments.

    >>> PartialSelectiveLoss(args, class_names)     # the released call
    >>> PartialSelectiveLoss(mode="selective", gamma_neg=3, prior=prior)
    """

    def __init__(
        self,
        args: Any = None,
        class_names: Sequence[str] | None = None,
        *,
        prior: torch.Tensor | Sequence[float] | None = None,
        **settings: Any,
    ) -> None:
        """Take the settings from the namespace `args`, or from keyword arguments.

        The namespace has partial_loss_mode, clip, gamma_{pos,neg,unann}, alpha_{pos,neg,unann},
        likelihood_topk, prior_threshold, prior_path; optional are likelihood_scope,
        likelihood_share, stable_loss. Without one the same names, and `mode`, are keyword
        arguments with the paper's defaults (DEFAULTS).

        prior: (C,), P(c), in place of a prior_path. With `class_names` the figures of the prior
        file are matched by name, else taken in file order. DomainError, MissingFileError: settings
        or a prior file that cannot be used.
        """
        if args is None or isinstance(args, str):
            args = _namespace(args, settings)
        elif settings:
            raise TypeError(f"{', '.join(settings)}: not beside a namespace of settings")
        path = getattr(args, "prior_path", None)
        if path and prior is not None:
            raise DomainError("prior_path: not together with prior")
        if path:
            prior = match_prior(read_prior(path), class_names, path)
        if prior is not None:
            prior = torch.as_tensor(prior, dtype=torch.float32)
        super().__init__(**keywords_of(args), prior=prior)


def _namespace(mode: str | None, settings: Mapping[str, Any]) -> Namespace:
    """The released code's namespace of keyword arguments; TypeError names an unknown one."""
    given = dict(settings)
    modes = [value for value in (mode, given.pop("mode", None)) if value is not None]
    if modes:
        given["partial_loss_mode"] = modes[0]
    if len(modes) > 1 or (modes and "partial_loss_mode" in settings):
        raise TypeError("the mode is given twice")
    unknown = [name for name in given if name not in DEFAULTS]
    if unknown:
        raise TypeError(f"{unknown[0]}: no such argument; there are {', '.join(DEFAULTS)}")
    return Namespace(**{**DEFAULTS, **given})


@torch.no_grad()
def edit_targets_parital_labels(
    args: Any,
    targets: torch.Tensor,
    targets_weights: torch.Tensor | None,
    xs_neg: torch.Tensor,
    prior_classes: torch.Tensor | Mapping[str, float] | None = None,
) -> tuple[torch.Tensor | float, torch.Tensor]:
    """`method.label_weights` (B, C), 1.0 where all are 1; and `xs_neg` (B, C), q, unchanged.

    `targets_weights` is where the released code kept a buffer; it is not used.
    """
    if isinstance(prior_classes, Mapping):
        prior_classes = torch.tensor(list(prior_classes.values()), device=xs_neg.device)
    mode = mode_of(args.partial_loss_mode)
    weights = method.label_weights(
        mode,
        targets,
        xs_neg,
        prior=prior_classes,
        prior_threshold=args.prior_threshold,
        **selection_of(args),
    )
    if mode in ("none", "negative"):
        return 1.0, xs_neg
    return weights, xs_neg


def negative_backprop_fun_jit(
    targets: torch.Tensor, xs_neg_prob: torch.Tensor, targets_weights: torch.Tensor, num_top_k: int
) -> None:
    """Set the weights of the un-annotated entries with the smallest q to 0, in place.

    They are the num_top_k smallest q where targets are -1; targets_weights is (B, C).
    """
    require_count(num_top_k, "num_top_k")
    row = (targets.reshape(1, -1), xs_neg_prob.reshape(1, -1))
    kept = method.label_weights("selective", *row, topk=int(num_top_k))
    targets_weights.masked_fill_(kept.view_as(targets_weights) == 0, 0)
