"""The method: class activation value, label selection, the confidence updates, and how they are measured.

Shapes: B batch, K classes, N rows of the confidence table C, h w class activation map.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from cavl.utils.errors import DataError
from common.aliases import one_module
from common.domain import require_candidates, require_indices, require_number, require_shape

one_module(__name__, "cavl.utils.utils_algo")

CavKind = Literal["logit", "softmax", "grad"]
Mask = Literal["candidates", "product"]
Method = Literal["cavl", "rc", "proden", "lws", "uniform"]


def class_activation_value(outputs: torch.Tensor, kind: CavKind = "logit") -> torch.Tensor:
    """Return the class activation value v (B, K): |gradient| times activation, read off the output.

    logit: v = |z - 1| z (released code). softmax: v = p (1 - p). grad: v = (1 - p) z, since d(-log p_k)/dz_k =
    p_k - 1. outputs: (B, K) logits z; p = softmax(z).
    Not monotone in z: v is negative below 0, 0.25 at z = 0.5, 0 at 1; above 1.2071 it orders as z does.
    """
    if kind == "logit":
        return (outputs - 1).abs() * outputs
    p = outputs.softmax(dim=1)
    if kind == "softmax":
        return p * (1 - p)
    if kind == "grad":
        return outputs * (1 - p)
    raise ValueError(f"cav {kind!r} is unknown; use logit, softmax or grad")


def selected_labels(
    outputs: torch.Tensor,
    batchY: torch.Tensor,
    *,
    cav: CavKind = "logit",
    mask: Mask = "candidates",
) -> torch.Tensor:
    """Return argmax over the candidates of the CAV: (B,) int64, ties to the lowest class.

    outputs: (B, K) logits. batchY: (B, K) of 0/1, no empty row. mask "product" is the released rule, CAV
    times Y: where every candidate's CAV is negative, the zeros outside win and the lowest non-candidate
    is selected. ValueError for an unknown cav or mask, and for other values of batchY.
    """
    _require_sets(outputs, batchY)
    value = class_activation_value(_at_least_float32(outputs), cav)
    if mask == "product":
        return (value * batchY).argmax(dim=1)
    if mask != "candidates":
        raise ValueError(f"mask {mask!r} is unknown; use candidates or product")
    return _argmax_within(value, batchY)


def select_by_cam(maps: torch.Tensor, batchY: torch.Tensor) -> torch.Tensor:
    """Return the candidate whose class activation map covers the largest area: (B,) int64.

    Area = #{positions with M_k > 0}; ties go to the larger sum of M_k, then to the lowest class.
    maps: (B, K, h, w), M = relu(W A). batchY: (B, K) of 0/1, no empty row; other values are a ValueError.
    """
    _require_sets(maps[..., 0, 0], batchY)
    area = (maps > 0).sum(dim=(2, 3)).masked_fill(batchY == 0, -1)
    is_largest = area == area.amax(dim=1, keepdim=True)
    return _argmax_within(_at_least_float32(maps).sum(dim=(2, 3)), is_largest)


def update_from_outputs(
    outputs: torch.Tensor,
    batchY: torch.Tensor,
    method: Method = "cavl",
    *,
    cav: CavKind = "logit",
    mask: Mask = "candidates",
    smoothing: float = 0.0,
    temperature: float | None = None,
) -> torch.Tensor:
    """Return the batch's new rows of the confidence table, (B, K).

    cavl: one-hot of selected_labels; with smoothing e, (1-e) one-hot + e/K over all K classes; with
    temperature T, softmax(CAV / T) over the candidates. rc, proden: p Y / sum(p Y). lws: p renormalised
    separately inside and outside the candidates, each denominator sum_k(part_k + 1e-8). uniform: Y / sum(Y).
    outputs: (B, K) logits, p = softmax(z). batchY: (B, K) of 0/1, no empty row. cc has no table.
    ValueError for an unknown method, smoothing outside [0, 1), a temperature of 0 or below, other values of batchY.
    """
    _require_sets(outputs, batchY)
    require_number(smoothing, "smoothing", 0, 1, open_high=True)
    if temperature is not None:
        require_number(temperature, "temperature", 0, open_low=True)
    outputs = _at_least_float32(outputs)
    Y = batchY.to(outputs.dtype)
    if method == "cavl":
        if temperature is None:
            rows = torch.zeros_like(outputs)
            rows.scatter_(1, selected_labels(outputs, Y, cav=cav, mask=mask)[:, None], 1.0)
        elif mask == "product":
            raise DataError(
                "a temperature needs mask 'candidates'; the product mask is for hard selection"
            )
        else:
            value = class_activation_value(outputs, cav)
            rows = (value / temperature).masked_fill(Y == 0, -torch.inf).softmax(dim=1)
        return label_smoothing(rows, smoothing) if smoothing > 0 else rows
    if method in ("rc", "proden"):
        # p Y / sum(p Y) is the softmax over the candidates, without the 0/0 where all of p Y underflows.
        return (outputs + Y.log()).softmax(dim=1)
    if method == "lws":
        p = outputs.softmax(dim=1)
        inside, outside = p * Y, p * (1 - Y)
        return inside / (inside + 1e-8).sum(1, keepdim=True) + outside / (outside + 1e-8).sum(
            1, keepdim=True
        )
    if method == "uniform":
        return Y / Y.sum(dim=1, keepdim=True)
    raise ValueError(
        f"method {method!r} has no confidence table; use cavl, rc, proden, lws or uniform"
    )


@torch.no_grad()
def confidence_update(
    model: Callable[[torch.Tensor], torch.Tensor],
    confidence: torch.Tensor,
    batchX: torch.Tensor,
    batchY: torch.Tensor,
    batch_index: torch.Tensor,
    *,
    cav: CavKind = "logit",
    mask: Mask = "candidates",
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Overwrite rows batch_index of confidence (N, K) with the label selected by CAV; return the same tensor.

    The forward pass runs in the model's present mode: in train mode BatchNorm statistics move once more.
    """
    rows = update_from_outputs(
        model(batchX), batchY, "cavl", cav=cav, mask=mask, smoothing=smoothing
    )
    return _write_rows(confidence, batch_index, rows)


@torch.no_grad()
def confidence_update_rc(
    model: Callable[[torch.Tensor], torch.Tensor],
    confidence: torch.Tensor,
    batchX: torch.Tensor,
    batchY: torch.Tensor,
    batch_index: torch.Tensor,
) -> torch.Tensor:
    """Overwrite rows batch_index of confidence (N, K) with p Y / sum(p Y); return the same tensor."""
    return _write_rows(confidence, batch_index, update_from_outputs(model(batchX), batchY, "rc"))


@torch.no_grad()
def confidence_update_lw(
    model: Callable[[torch.Tensor], torch.Tensor],
    confidence: torch.Tensor,
    batchX: torch.Tensor,
    batchY: torch.Tensor,
    batch_index: torch.Tensor,
) -> torch.Tensor:
    """Overwrite rows batch_index of confidence (N, K) with the LWS weights; return the same tensor."""
    return _write_rows(confidence, batch_index, update_from_outputs(model(batchX), batchY, "lws"))


def label_smoothing(outputs: torch.Tensor, epsion: float = 0.1) -> torch.Tensor:
    """Return (1 - epsion) * outputs + epsion / K, for outputs (B, K); ValueError for epsion outside [0, 1]."""
    require_number(epsion, "epsion", 0, 1)
    return (1 - epsion) * outputs + epsion / outputs.shape[1]


def is_covered(outputs: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return whether each sample's prediction lies in its candidate set: (n,) bool. The mean is the covering rate.

    outputs: (n, K) logits. candidates: (n, K) of 0/1, no empty row. Needs no true label (PLENCH).
    """
    _require_sets(outputs, candidates)
    return candidates.gather(1, outputs.argmax(dim=1, keepdim=True))[:, 0] != 0


def approximated_hit(outputs: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return each sample's p'_pred, p' = p Y renormalised: (n,) in [0, 1]. The mean is the approximated accuracy.

    pred is the argmax over all classes; outside the set it counts 0. outputs: (n, K) logits. candidates:
    (n, K) of 0/1, no empty row. Needs no true label (PLENCH).
    """
    rows = update_from_outputs(outputs, candidates, "rc")
    return rows.gather(1, outputs.argmax(dim=1, keepdim=True))[:, 0]


def selection_accuracy(
    outputs: torch.Tensor,
    batchY: torch.Tensor,
    true_labels: torch.Tensor,
    maps: torch.Tensor | None = None,
    *,
    cav: CavKind = "logit",
    mask: Mask = "candidates",
) -> dict[str, torch.Tensor]:
    """Return how often each rule picks the true label inside the candidate set: name -> scalar in [0, 1].

    Rules: "logit", "cav" (selected_labels with `cav` and `mask`), and where maps are given "cam_area"
    (select_by_cam) and "cam_sum".
    outputs: (n, K). batchY: (n, K) of 0/1, no empty row. true_labels: (n,). maps: (n, K, h, w).
    """
    _require_sets(outputs, batchY)
    require_indices(true_labels, outputs.shape[1], "true_labels")
    selected = {
        "logit": _argmax_within(outputs, batchY),
        "cav": selected_labels(outputs, batchY, cav=cav, mask=mask),
    }
    if maps is not None:
        selected["cam_area"] = select_by_cam(maps, batchY)
        selected["cam_sum"] = _argmax_within(_at_least_float32(maps).sum(dim=(2, 3)), batchY)
    return {rule: (labels == true_labels).float().mean() for rule, labels in selected.items()}


def accuracy_check(loader: Iterable, model: nn.Module, device: torch.device | str) -> float:
    """Return the accuracy (a fraction) over a loader of (images, labels), in eval mode."""

    def hits(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        outputs = model(images)
        require_indices(labels, outputs.shape[1], "labels")
        return outputs.argmax(dim=1) == labels

    return _mean_over_loader(loader, model, device, hits)[0]


def accuracy_check_train(loader: Iterable, model: nn.Module, device: torch.device | str) -> float:
    """Return the disambiguation accuracy (a fraction), in eval mode.

    The largest output inside the candidate set against the true label. The loader yields (images,
    Y rows (B, K), true labels, index), as gen_index_dataset does.
    """

    def hits(
        images: torch.Tensor, Y: torch.Tensor, true_labels: torch.Tensor, _: object
    ) -> torch.Tensor:
        outputs = model(images)
        _require_sets(outputs, Y)
        require_indices(true_labels, outputs.shape[1], "true labels")
        return _argmax_within(outputs, Y) == true_labels

    return _mean_over_loader(loader, model, device, hits)[0]


def accuracy_check_cam(
    loader: Iterable,
    model: nn.Module,
    device: torch.device | str,
    restrict: bool = True,
    *,
    cav: CavKind = "logit",
) -> tuple[float, float]:
    """Return how often the CAM area and the CAV pick the true label: (cam, cav) fractions, in eval mode.

    The loader is that of accuracy_check_train; the model has `forward_cam(x) -> (B, K)`. Both maxima are
    taken inside the candidate set; restrict=False takes them over all classes, as the earlier release did.
    """

    def hits(
        images: torch.Tensor, Y: torch.Tensor, true_labels: torch.Tensor, _: object
    ) -> torch.Tensor:
        areas = model.forward_cam(images)
        _require_sets(areas, Y)
        require_indices(true_labels, areas.shape[1], "true labels")
        Y = Y if restrict else torch.ones_like(Y)
        by_cam = _argmax_within(areas, Y)
        by_cav = selected_labels(model(images), Y, cav=cav)
        return torch.stack([by_cam == true_labels, by_cav == true_labels], dim=1)

    cam, value = _mean_over_loader(loader, model, device, hits)
    return cam, value


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, then every submodule's own mode as it was, also after an exception."""
    was_training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training:
            module.training = training


def _mean_over_loader(
    loader: Iterable,
    model: nn.Module,
    device: torch.device | str,
    hits: Callable[..., torch.Tensor],
) -> list[float]:
    """Average hits(*batch), (B,) or (B, m) of bool, over all samples; one read from the device at the end."""
    total: torch.Tensor | int = 0
    count = 0
    with evaluating(model), torch.inference_mode():
        for batch in loader:
            batch_hits = hits(*(part.to(device) for part in batch))
            total = total + batch_hits.reshape(len(batch_hits), -1).sum(dim=0)
            count += len(batch_hits)
    if count == 0:
        raise ValueError("the loader is empty")
    return [value / count for value in total.tolist()]


def _require_sets(outputs: torch.Tensor, batchY: torch.Tensor) -> None:
    """ValueError unless batchY has the shape of outputs (B, K), values 0 and 1, and no empty row."""
    require_shape(batchY, outputs.shape, "candidates")
    require_candidates(batchY, "candidates")


def _argmax_within(values: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    # The clamp keeps a candidate whose value overflowed to -inf above the classes outside.
    lowest = torch.finfo(values.dtype).min
    return values.clamp(min=lowest).masked_fill(candidates == 0, -torch.inf).argmax(dim=1)


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    # |z - 1| z overflows float16 from z = -256 on.
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _write_rows(confidence: torch.Tensor, index: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    require_indices(index, len(confidence), "batch_index")
    confidence[index] = rows.to(confidence.dtype)
    return confidence
