"""Tables, files and console lines of a run: functions that take what they print."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cavl.data_labels import LabelState
from cavl.data_sets import Sets, blocks_of, sizes_of
from cavl.figures import selection_rules
from common import checkpoint
from common.aliases import one_module
from common.estimate import FirstSteps
from common.run import Run

one_module(__name__, "cavl.report")


def first_steps(
    run: Run, model: nn.Module, *, samples: int, batch_size: int, epochs: int, evaluation: float
) -> FirstSteps:
    """What tells, after the first steps, how long the run will take.

    `evaluation`: seconds of what is measured after each epoch, as it took before the first. A
    checkpoint is the weights and two averages of their gradients.
    """
    rows = batch_size * run.world
    values = [*model.parameters(), *model.buffers()]
    return FirstSteps(
        run,
        steps=5,
        within_epoch=True,
        pictures=samples,
        batch_size=rows,
        epochs=epochs,
        checkpoint_bytes=3 * sum(value.nbytes for value in values),
        besides=evaluation / -(-samples // rows),
    )


def describe_candidates(candidates: Sets, true_labels: torch.Tensor, run: Run) -> None:
    """Print the mean size of the candidate sets, and warn where they look wrong.

    The warning is for full or singleton matrices and for true labels outside their sets.
    """
    sizes = sizes_of(candidates)
    num_classes = candidates.shape[1]
    run.print(f"candidate sets: mean size {sizes.float().mean():.2f} of {num_classes} classes")

    at = true_labels.clamp(min=0)[:, None]
    parts = [block.gather(1, at[rows])[:, 0] for rows, block in blocks_of(candidates)]
    of_true_label = torch.cat(parts)
    outside = ((of_true_label == 0) & (true_labels >= 0)).nonzero().flatten().tolist()
    if outside:
        rows = f"{len(outside)} rows (noisy partial labels), the first are {outside[:5]}"
        run.print(f"warning: the true label is not a candidate in {rows}")
    if int(sizes.max()) == 1:
        run.print("warning: every set holds one label: this is ordinary supervised learning")
    if int(sizes.min()) == num_classes:
        run.print("warning: every set is full: there is nothing to learn from")


def save_candidates(candidates: Sets, run: Run) -> None:
    """Write candidates.npy, once it is sure that the run goes on."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": tuple(candidates.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for _, block in blocks_of(candidates):
                file.write(block.contiguous().numpy().data)

    if run.is_main:
        checkpoint.atomic_save(run.folder / "candidates.npy", write)


def log_start(
    run: Run,
    train_accuracy: float | None,
    test_accuracy: float | None,
    candidates: Sets,
) -> None:
    """Accuracies before the first step (README, deviations: starting accuracy)."""
    run.log(
        "start",
        train_accuracy=train_accuracy,
        test_accuracy=test_accuracy,
        mean_candidates=_mean_size(candidates),
    )
    told = f"Tr Acc {_shown(train_accuracy)}  Te Acc {_shown(test_accuracy)}"
    run.print(f"before training: {told}")


def print_epoch(run: Run, epochs: int) -> None:
    """One line an epoch that greps well; the names are those of metrics.jsonl."""
    train = run.lines[-2]
    test = run.lines[-1]
    done = run.progress.epoch + 1
    minutes_left = (epochs - done) * run.progress.seconds / done / 60
    measured = f"Tr Acc {_shown(train.get('accuracy'))}  Te Acc {_shown(test.get('accuracy'))}"
    if "accuracy" not in test and "covering_rate" in test:
        covered = f"covering rate {test['covering_rate']:.4f}"
        measured = f"Te {covered}  approximated accuracy {test['approximated_accuracy']:.4f}"
    run.print(
        f"epoch {done}/{epochs}  loss {train['loss']:.4f}  lr {train['lr']:.2g}  "
        f"{measured}  "
        f"disambiguation {_shown(train['disambiguation'])}  "
        f"{run.images_per_second() or 0.0:.0f} images/s  {minutes_left:.1f} min left"
    )


def summary_of(
    run: Run, labels: LabelState, true_labels: torch.Tensor, *, is_sample: bool
) -> dict[str, float | None]:
    """The numbers of summary.json.

    Accuracies are fractions, None where there is no such measure.
    """
    test = run.values("test", "accuracy")
    summary = {
        "test_accuracy_last10_mean": last_mean(run),
        "test_accuracy_final": _last(run, "test", "accuracy"),
        "test_accuracy_best_oracle": max(test, default=None),  # chosen on the test set: optimistic
        "train_accuracy_final": _last(run, "train", "accuracy"),
        "disambiguation": labels.disambiguation(true_labels),
        "covering_rate": _last(run, "train", "covering_rate"),
        "approximated_accuracy": _last(run, "train", "approximated_accuracy"),
        # None without candidate sets of the test part:
        "test_covering_rate": _last(run, "test", "covering_rate"),
        "test_approximated_accuracy": _last(run, "test", "approximated_accuracy"),
        "mean_candidates": _mean_size(labels.candidates),
        "epochs": len(run.values("train", "loss")),
        "offline_sample": is_sample,
    }
    for rule in selection_rules(run):  # how often it picked the true label, with -selection_curve
        rates = run.values("selection", rule)
        summary[f"selection_{rule}_first"] = rates[0]
        summary[f"selection_{rule}_final"] = rates[-1]
    return summary


def last_mean(run: Run) -> float | None:
    """Return the headline: the mean of the last ten test accuracies.

    There is one for each epoch; where there are fewer than ten, it is the mean of all.
    """
    last = run.values("test", "accuracy")[-10:]
    if not last:
        return None
    return sum(last) / len(last)


def print_headline(run: Run, name: str) -> None:
    """The last line of a run."""
    mean = last_mean(run)
    epochs = min(10, len(run.values("test", "accuracy")))
    if mean is not None:
        run.print(f"{name}: test accuracy, mean of the last {epochs} epochs: {mean:.4f}")
        return
    covering = _last(run, "test", "covering_rate")
    if covering is not None:
        approximated = _last(run, "test", "approximated_accuracy")
        told = f"covering rate {covering:.4f}, approximated accuracy {approximated:.4f}"
        run.print(f"{name}: without true labels, after the last epoch: {told}")


def export_selected(
    path: Path,
    belief: torch.Tensor,
    candidates: Sets,
    true_labels: torch.Tensor,
    *,
    classes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write selected.csv, with a row for each sample.

    Its columns are the index, the candidates, the label with the largest belief (n, K), that
    belief, and the true label, empty where it is not known. With the names of classes and samples
    these stand in the place of numbers, candidates with a semicolon between.
    """
    import pandas as pd

    value, selected = belief.max(1)
    members = [block.nonzero(as_tuple=True)[1].cpu() for _, block in blocks_of(candidates)]
    ends = np.cumsum(sizes_of(candidates).tolist())
    sets = np.split(torch.cat(members).numpy(), ends[:-1])
    between = " " if classes is None else ";"
    called = list(classes or map(str, range(candidates.shape[1])))
    columns = {
        "index": names or range(len(selected)),
        "candidates": [between.join(called[k] for k in part) for part in sets],
        "selected": [called[k] for k in selected.tolist()],
        "confidence": value.cpu().numpy().round(6),
        "true_label": [called[k] if k >= 0 else "" for k in true_labels.tolist()],
    }
    table = pd.DataFrame(columns)
    checkpoint.atomic_save(path, lambda temporary: table.to_csv(temporary, index=False))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _mean_size(candidates: Sets) -> float:
    return sizes_of(candidates).float().mean().item()


def _last(run: Run, split: str, metric: str) -> float | None:
    values = run.values(split, metric)
    return values[-1] if values else None
