"""What is measured, and how: accuracies, measures without true labels, rules of selection.

All are fractions in [0, 1], means over the samples. Networks are in evaluation mode while they are
measured.
"""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from cavl.cifar_models.class_activation import ClassActivationNetwork
from cavl.data_checks import require_candidates
from cavl.data_resident import Images
from cavl.data_sets import Sets
from cavl.method import (
    CavKind,
    Mask,
    argmax_within,
    candidate_probabilities,
    select_by_cam,
    select_by_cav,
)
from common.aliases import one_module
from common.cam import at_least_float32
from common.domain import require_indices, require_shape
from common.modes import evaluating
from common.run import Run
from common.rundir import share_buffers

one_module(__name__, "cavl.evaluate")

EVAL_BATCH = 4096  # images

STATISTICS = ("accuracy", "covering_rate", "approximated_accuracy")

# ---- whole sets on the device --------------------------------------------------------------------


@torch.inference_mode()
def predict(model: nn.Module, images: Images) -> torch.Tensor:
    """The logits (n, K) float32 of all images."""
    index = torch.arange(len(images), device=images.device)
    with evaluating(model):
        found = None
        for part in index.split(batch_of(images)):
            outputs = model(images[part]).float()
            if found is None:
                found = outputs.new_empty((len(images), *outputs.shape[1:]))
            found[part] = outputs
    assert found is not None, "there are no images"
    return found


class Statistics:
    """STATISTICS of logits (B, K) and index (B,): (B, m) float, and over how many each is a mean.

    Accuracy uses the hidden true labels (n,): prediction == label, ties to the lowest class; it is
    measured on those that are known (not -1), and absent where none is. The other two need none,
    but the candidate sets (n, K).
    """

    def __init__(self, labels: torch.Tensor, candidates: Sets | None, device: torch.device) -> None:
        self.labels = labels.to(device)
        self.sets = None if candidates is None else candidates.to(device)
        known = int((self.labels >= 0).sum())
        self.counts: dict[str, int] = {}
        if known:
            self.counts["accuracy"] = known
        if self.sets is not None:
            self.counts |= dict.fromkeys(STATISTICS[1:], len(labels))

    def __call__(self, outputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        columns = []
        if "accuracy" in self.counts:
            columns.append(outputs.argmax(1) == self.labels[index])  # never where it is -1
        if self.sets is not None:
            columns.append(is_covered(outputs, self.sets[index]))
            columns.append(approximated_hit(outputs, self.sets[index]))
        return torch.stack([column.float() for column in columns], 1)


def batch_of(images: Images) -> int:
    """How many images are measured at once: EVAL_BATCH of up to 32x32, fewer larger ones."""
    return max(1, min(EVAL_BATCH, EVAL_BATCH * 32**2 // images.side**2))


@torch.inference_mode()
def measure(model: nn.Module, images: Images, statistics: Statistics, run: Run) -> dict[str, float]:
    """Means of `statistics` by name, each image counted once, shared among the processes.

    A signal ends the program between two batches.
    """
    accelerator = run.accelerator
    mine = torch.arange(
        accelerator.process_index, len(images), accelerator.num_processes, device=accelerator.device
    )
    total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    share_buffers(accelerator, model)
    with evaluating(model):
        for index in mine.split(batch_of(images)):
            with accelerator.autocast():
                outputs = model(images[index])
            total = total + statistics(outputs.float(), index).double().sum(0)
            run.poll()
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total, "sum")
    sums = total.expand(len(statistics.counts)).tolist()
    counts = statistics.counts.items()
    return {name: part / count for (name, count), part in zip(counts, sums, strict=True)}


@torch.inference_mode()
def measure_selection(
    model: nn.Module,
    images: Images,
    candidates: Sets,
    true_labels: torch.Tensor,
    run: Run,
    *,
    count: int,
    cav: CavKind,
    mask: Mask,
) -> dict[str, float]:
    """`selection_accuracy` on the first `count` images whose true label is known.

    By CAM, too, where the network has maps.
    """
    known = (true_labels >= 0).nonzero().flatten()[:count]
    n = len(known)
    total: dict[str, float] = {}
    with evaluating(model):
        for index in known.split(max(1, batch_of(images) // 8)):
            maps = None
            if isinstance(model, ClassActivationNetwork):
                outputs, maps = model.class_activation_maps(images[index])
            else:
                outputs = model(images[index])
            rates = selection_accuracy(
                outputs, candidates[index], true_labels[index], maps, cav=cav, mask=mask
            )
            for rule, rate in rates.items():
                total[rule] = total.get(rule, 0.0) + rate.item() * len(index) / n
            run.poll()
    return total


# ---- measures of a batch -------------------------------------------------------------------------


def is_covered(outputs: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Whether each prediction lies in its candidate set, (n,) bool; the mean is the covering rate.

    outputs: (n, K) logits. candidates: (n, K) of 0 and 1, no empty row. Needs no true label.
    """
    _require_sets(outputs, candidates)
    return candidates.gather(1, outputs.argmax(dim=1, keepdim=True))[:, 0] != 0


def approximated_hit(outputs: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """p of the prediction, renormalised over the candidates, 0 outside: (n,).

    The mean is the approximated accuracy (PLENCH). The prediction is the argmax over all classes.
    outputs: (n, K) logits. candidates: (n, K) of 0 and 1, no empty row. Needs no true label.
    """
    rows = candidate_probabilities(outputs, candidates)
    return rows.gather(1, outputs.argmax(dim=1, keepdim=True))[:, 0]


def selection_accuracy(
    outputs: torch.Tensor,
    candidates: torch.Tensor,
    true_labels: torch.Tensor,
    maps: torch.Tensor | None = None,
    *,
    cav: CavKind = "logit",
    mask: Mask = "candidates",
) -> dict[str, torch.Tensor]:
    """How often each rule picks the true label inside the candidate set: name -> scalar in [0, 1].

    Rules: "logit", "cav" (`method.select_by_cav`), and where maps (n, K, h, w) are given "cam_area"
    (`method.select_by_cam`) and "cam_sum". outputs, candidates: (n, K). true_labels: (n,).
    """
    _require_sets(outputs, candidates)
    require_indices(true_labels, outputs.shape[1], "true_labels")
    selected = {
        "logit": argmax_within(outputs, candidates),
        "cav": select_by_cav(outputs, candidates, cav=cav, mask=mask),
    }
    if maps is not None:
        mass = at_least_float32(maps).sum(dim=(2, 3))
        selected["cam_area"] = select_by_cam(maps, candidates)
        selected["cam_sum"] = argmax_within(mass, candidates)

    rates = {}
    for rule, labels in selected.items():
        rates[rule] = (labels == true_labels).float().mean()
    return rates


# ---- the released accuracies, over loaders -------------------------------------------------------


def accuracy_check(loader: Iterable, model: nn.Module, device: torch.device | str) -> float:
    """The accuracy over a loader of (images, labels)."""

    def hits(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        outputs = model(images)
        require_indices(labels, outputs.shape[1], "labels")
        return outputs.argmax(dim=1) == labels

    return _mean_over_loader(loader, model, device, hits)[0]


def accuracy_check_train(loader: Iterable, model: nn.Module, device: torch.device | str) -> float:
    """The share of samples whose largest output inside the candidate set is the true label.

    The loader yields (images, Y rows (B, K), true labels, index), as gen_index_dataset does.
    """

    def hits(
        images: torch.Tensor, Y: torch.Tensor, true_labels: torch.Tensor, _: object
    ) -> torch.Tensor:
        outputs = model(images)
        _require_sets(outputs, Y)
        require_indices(true_labels, outputs.shape[1], "true labels")
        return argmax_within(outputs, Y) == true_labels

    return _mean_over_loader(loader, model, device, hits)[0]


def accuracy_check_cam(
    loader: Iterable,
    model: nn.Module,
    device: torch.device | str,
    restrict: bool = True,
    *,
    cav: CavKind = "logit",
) -> tuple[float, float]:
    """How often the CAM area and the CAV pick the true label: (cam, cav).

    The loader is that of accuracy_check_train; the model has `forward_cam(x) -> (B, K)`. Both
    maxima are taken inside the candidate set; restrict=False takes them over all classes, as the
    earlier release did.
    """

    def hits(
        images: torch.Tensor, Y: torch.Tensor, true_labels: torch.Tensor, _: object
    ) -> torch.Tensor:
        areas = model.forward_cam(images)  # type: ignore[operator]
        _require_sets(areas, Y)
        require_indices(true_labels, areas.shape[1], "true labels")
        allowed = Y if restrict else torch.ones_like(Y)
        by_cam = argmax_within(areas, allowed)
        by_cav = select_by_cav(model(images), allowed, cav=cav)
        return torch.stack([by_cam == true_labels, by_cav == true_labels], dim=1)

    by_cam, by_cav = _mean_over_loader(loader, model, device, hits)
    return by_cam, by_cav


def _mean_over_loader(
    loader: Iterable,
    model: nn.Module,
    device: torch.device | str,
    hits: Callable[..., torch.Tensor],
) -> list[float]:
    """Mean of hits(*batch), (B,) or (B, m) bool, over all samples; read from the device once."""
    total: torch.Tensor | None = None
    count = 0
    with evaluating(model), torch.inference_mode():
        for batch in loader:
            batch_hits = hits(*(part.to(device) for part in batch))
            batch_total = batch_hits.reshape(len(batch_hits), -1).sum(dim=0)
            total = batch_total if total is None else total + batch_total
            count += len(batch_hits)
    if total is None or count == 0:
        raise ValueError("the loader is empty")
    return [value / count for value in total.tolist()]


def _require_sets(outputs: torch.Tensor, candidates: torch.Tensor) -> None:
    """ValueError unless these are candidate sets, (B, K) of 0 and 1 without an empty row."""
    require_shape(candidates, outputs.shape, "candidates")
    require_candidates(candidates, "candidates")
