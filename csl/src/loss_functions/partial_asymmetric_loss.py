"""The loss under the names and calls of the released code; the equations stand in csl/method.py."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from common.aliases import one_module
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


class PartialSelectiveLoss(SelectiveLoss):
    """`SelectiveLoss`, set up as in the released code.

    Its settings come from the released code's namespace and its prior from a file.
    """

    def __init__(self, args: Any, class_names: Sequence[str] | None = None) -> None:
        """Take the settings from the namespace `args`.

        It has partial_loss_mode, clip, gamma_{pos,neg,unann}, alpha_{pos,neg,unann},
        likelihood_topk, prior_threshold, prior_path; optional are likelihood_scope,
        likelihood_share, stable_loss.

        With `class_names` the figures of the prior file are matched by name, else taken in file
        order. DomainError, MissingFileError: settings or a prior file that cannot be used.
        """
        path = getattr(args, "prior_path", None)
        prior = None
        if path:
            prior = match_prior(read_prior(path), class_names, path)
        super().__init__(**keywords_of(args), prior=prior)


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
