"""Which candidate sets and weights the functions for users take; all else is a DomainError.

Values are looked at on the CPU only, outside of torch.compile and torch.func.
"""

import torch

from common.aliases import one_module
from common.domain import DomainError, is_readable

one_module(__name__, "cavl.data_checks")


def require_candidates(candidates: torch.Tensor, what: str) -> None:
    """DomainError where a matrix (n,K) is not of 0 and 1; names the first row without a 1."""
    if not is_readable(candidates):
        return
    values = candidates.detach()
    if values.dim() != 2:
        raise DomainError(f"{what}: shape {tuple(values.shape)}, expected a matrix (n, K)")

    is_one = values == 1
    is_strange = ~(is_one | (values == 0))
    if is_strange.any():
        row, column = is_strange.nonzero()[0].tolist()
        found = f"{values[row, column].item()} in row {row}, class {column}"
        raise DomainError(f"{what}: {found}; expected 0 or 1")

    is_empty = ~is_one.any(dim=1)
    if is_empty.any():
        empty = is_empty.nonzero().flatten().tolist()
        shown = ", ".join(map(str, empty[:5]))
        raise DomainError(f"{what}: {len(empty)} rows have no candidate; first: {shown}")


def require_weights(weights: torch.Tensor, what: str) -> None:
    """DomainError where a weight is negative, infinite or NaN."""
    if not is_readable(weights):
        return
    values = weights.detach()
    is_weight = (values >= 0) & values.isfinite()
    if not is_weight.all():
        value = values[~is_weight][0].item()
        raise DomainError(f"{what}: {value}; expected finite weights, none negative")
