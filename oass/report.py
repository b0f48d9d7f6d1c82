"""What a run says and writes: first lines, log lines, curves, the JSON log, tables, the summary."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.files import atomic_save, atomic_write
from common.meter import Meter
from common.plots import save_curves
from common.run import Run
from common.text import write_csv
from oass.core.networks import Classifier
from oass.data import VOC_Dataset_For_Classification
from oass.data_voc import CLASS_NAMES, write_lines
from oass.evaluate import left_out
from oass.options_check import Terms
from oass.options_flags import LOSS_PARTS

one_module(__name__, "oass.report")

DEAD_LIMIT = 0.5
SHOWN = 4  # examples in a line


class Average_Meter:
    """One running mean for each key; the sums stay on the device until `get`."""

    def __init__(self, keys: tuple[str, ...], accelerator: Accelerator) -> None:
        self.meters = {key: Meter(accelerator) for key in keys}

    def add(self, values: Mapping[str, torch.Tensor], count: int) -> None:
        """Add means over `count` samples; no host synchronisation."""
        for key, meter in self.meters.items():
            meter.add(values[key], count)

    def get(self) -> dict[str, float | None]:
        """All means; starts again from zero."""
        return {key: meter.compute() for key, meter in self.meters.items()}

    def synchronize(self) -> None:
        """Sums of all processes to the main one, before saving."""
        for meter in self.meters.values():
            meter.synchronize()

    def state_dict(self) -> dict[str, Any]:
        """The sums of every key."""
        return {key: meter.state_dict() for key, meter in self.meters.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the sums back."""
        for key, meter in self.meters.items():
            meter.load_state_dict(state[key])


def log_line(values: Mapping[str, float | None], digits: int = 4) -> str:
    """`name 0.1234` for every value, two spaces between; undefined is `-`."""
    parts = []
    for name, value in values.items():
        is_defined = value is not None and value == value
        shown = f"{value:.{digits}g}" if is_defined else "-"
        parts.append(f"{name} {shown}")
    return "  ".join(parts)


# --- the first lines ---


def print_data(run: Run, asked: str, data: VOC_Dataset_For_Classification) -> None:
    """Which images a split has; also where another list stands in for the one asked for."""
    for line in data.first_lines:
        run.print(line)
    text = describe_data(data)
    if data.domain != asked:
        text += f" (there is no list {asked}; make it with oass/prepare_voc.py)"
    run.print(text)


def print_network(
    run: Run, strategy: str, architecture: str, weights: str, student: Classifier, steps: int
) -> None:
    """What is trained; steps: of an epoch."""
    size = f"{sum(p.numel() for p in student.parameters()) / 1e6:.2f} M parameters"
    run.print(f"{strategy}, {architecture} ({size}), weights {weights}, {steps} steps an epoch")


def print_features(run: Run, student: Classifier) -> None:
    """That the backbone is frozen, and how much is trained beside it."""
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    text = f"the backbone is frozen, {trained / 1e6:.2f} M parameters are trained"
    run.print(f"{text}; every picture as in evaluation, its features computed once")


def print_momentum(run: Run, optimizer: torch.optim.Optimizer, *, is_released: bool) -> None:
    """SGD's momentum, which surprises where it is as released."""
    text = f"SGD's momentum is {optimizer.param_groups[0]['momentum']:g}"
    if is_released:
        text += " as released (README, deviations: sgd_momentum)"
    run.print(text)


def print_method(run: Run, differences: Sequence[str] | None, terms: Terms) -> None:
    """What differs from the released code (None: a baseline), and which terms have no gradient."""
    if differences is not None:
        text = "every switch is as released"
        if differences:
            text = f"differs from the release in {', '.join(differences)}; --released"
        run.print(text)
    constant = sorted(LOSS_PARTS[part] for part in terms.present - terms.trained)
    if constant:
        text = "logged and added, but without a gradient"
        if "p_class_loss" in constant:
            text += ", so --alpha_p has no effect"
        run.print(f"{text} (README, deviations: p_loss): {', '.join(constant)}")


def describe_data(data: VOC_Dataset_For_Classification) -> str:
    """How many images, and what is odd about their labels, in a line."""
    text = f"{data.domain}: {len(data)} images of {data.root}"
    if not data.has_labels:
        return f"{text}, without annotations"
    empty = int((data.split.labels.sum(1) == 0).sum())
    text += f", {empty} without any object"
    flat = data.split.without_area
    if flat:
        shown = ", ".join(flat[:SHOWN])
        if len(flat) > SHOWN:
            shown += ", ..."
        text += f"; boxes without width or height, whose labels count: {len(flat)}, {shown}"
    return text


def without(line: Mapping[str, Any]) -> str:
    """What stands beside a number that was measured without unreadable images.

    ", eval_skipped 2"; "" where none was left out.
    """
    if not line.get("eval_skipped"):
        return ""
    return f", eval_skipped {line['eval_skipped']}"


def count_of(data: VOC_Dataset_For_Classification) -> dict[str, Any]:
    """The same for a line of metrics.jsonl: {"eval_skipped": 2}; else {}."""
    return {"eval_skipped": data.skipped} if data.skipped else {}


# --- while it trains ---


def what_was(ids: Sequence[str], index: torch.Tensor, dead_cam: torch.Tensor, lr: float) -> str:
    """Of a step whose loss is not finite: its images, the share of dead maps, the learning rate."""
    shown = ", ".join(ids[k] for k in index[:SHOWN].tolist())
    return f"images {shown}, dead_cam {float(dead_cam):.2f}, lr {lr:.3g}: lower --lr"


def log_if_due(
    run: Run,
    meter: Average_Meter,
    optimizer: torch.optim.Optimizer,
    every: int,
    max_iteration: int,
    is_gated: bool,
) -> None:
    """Every `every` steps Train/{loss, class_loss, ..., dead_cam} since the last line.

    Called before a step and after the last one, so that the line of a step whose checkpoint was
    written before it could be logged is logged by the resumed run. A warning names dead maps where
    maps are gates (`is_gated`); pooled ones may be negative and learn.
    """
    step = run.progress.step
    logged = _lines_of(run, "Train")
    is_logged = step == 0 or bool(logged) and logged[-1]["step"] == step
    if step % every or is_logged:
        return
    values = {**meter.get(), "learning_rate": optimizer.param_groups[0]["lr"]}
    run.log("Train", **values)
    left = (max_iteration - step) * run.progress.seconds / max(step, 1) / 60
    speed = f"{run.images_per_second() or 0:.1f} images/s"
    run.print(f"step {step}/{max_iteration}  {log_line(values)}  {speed}  {left:.1f} min left")
    dead = values["dead_cam"]
    if is_gated and dead is not None and dead > DEAD_LIMIT:
        run.print(
            f"warning: {100 * dead:.0f} % of the present classes have a map of zeros (dead maps): "
            "they learn nothing any more; lower --lr or --alpha_re, lengthen --alpha_schedule_re, "
            "or try --p_loss full"
        )


def log_evaluation(run: Run, found: dict[str, Any], data: VOC_Dataset_For_Classification) -> None:
    """Evaluation/{map, best map, ...} of what `oass.evaluate.measure` found."""
    values = [found["map"], *run.values("Evaluation", "map")]
    defined = [v for v in values if v is not None and v == v]
    best = max(defined, default=float("nan"))  # NaN: no class of this split has a positive
    first = {"map": found.pop("map"), "best map": best}
    run.log("Evaluation", **first, **found, **count_of(data))


def after_epoch(
    run: Run,
    name: str,
    epochs: int,
    *,
    with_teacher: bool,
    classes: Sequence[str] = CLASS_NAMES,
) -> None:
    """A line about the last evaluation, and the JSON log data/NAME.json.

    The first evaluation also names the classes that it leaves out.
    """
    line = run.lines[-1]
    is_first = len(_lines_of(run, "Evaluation")) == 1
    if is_first and left_out(line["ap"], classes):
        run.print(left_out(line["ap"], classes))
    names = ("map", "best map", "eval class loss", "pointing", "map without difficult")
    counted = f"{line['classes']} of {len(line['ap'])} classes{without(line)}"
    values = {metric: line[metric] for metric in names}
    if with_teacher:
        values["map of the teacher"] = run.lines[-2]["map"]
    run.print(f"epoch {line['epoch']}/{epochs}  {log_line(values)}  ({counted})")
    if not run.is_main:
        return
    lines = {"train": _lines_of(run, "Train"), "validation": _lines_of(run, "Evaluation")}
    path = run.folder / "data" / f"{name}.json"
    atomic_write(path, (json.dumps(lines, indent=1) + "\n").encode())


def _lines_of(run: Run, split: str) -> list[dict[str, Any]]:
    return [line for line in run.lines if line["split"] == split]


# --- at the end ---


def finish(
    run: Run,
    strategy: str,
    name: str,
    domain: str,
    *,
    with_teacher: bool,
    classes: Sequence[str] = CLASS_NAMES,
) -> dict[str, Any]:
    """Curves, summary.json, the last lines; returns the summary. domain: the split's name."""
    evaluations = _lines_of(run, "Evaluation")
    trains = _lines_of(run, "Train")
    last = evaluations[-1] if evaluations else {}
    summary = {
        "strategy": strategy,
        "map": last.get("map"),
        "best_map": last.get("best map"),
        "map_voc2010": last.get("map voc2010"),
        "map_without_difficult": last.get("map without difficult"),
        "pointing": last.get("pointing"),
        "classes": last.get("classes"),
    }
    if with_teacher and last:
        summary["map_ema"] = run.values("Evaluation_ema", "map")[-1]
    summary["dead_cam"] = trains[-1]["dead_cam"] if trains else None
    summary["ap"] = last.get("ap")
    summary["steps"] = run.progress.step
    summary["skipped"] = run.progress.skipped
    if without(last):
        summary["eval_skipped"] = last["eval_skipped"]

    if run.is_main and evaluations:
        _save_curves(run, name)
    if last.get("map") is not None:
        numbers = f"mAP {last['map']:.1f} % (best {last['best map']:.1f} %)"
        run.print(f"{strategy}: {numbers} on {domain}{without(last)}")
        if left_out(last["ap"], classes):
            run.print(left_out(last["ap"], classes))
    run.finish(**summary)
    return summary


def _save_curves(run: Run, name: str) -> None:
    maps = {"mAP": run.values("Evaluation", "map")}
    save_curves(run.figure("map"), maps, xlabel="epoch", ylabel="per cent", title=name)
    names = ("loss", "class_loss", "p_class_loss", "re_loss", "dead_cam")
    losses = {metric: run.values("Train", metric) for metric in names}
    save_curves(run.figure("loss"), losses, xlabel="log line", ylabel="", title=name)


# --- files of an evaluation ---


def write_predictions(
    path: Path, ids: Sequence[str], logits: torch.Tensor, classes: Sequence[str] = CLASS_NAMES
) -> None:
    """predictions.csv: id, then the probability of every class."""
    rows: list[list[str]] = [["id", *classes]]
    for name, probabilities in zip(ids, logits.sigmoid().tolist(), strict=True):
        rows.append([name, *map("{:.6f}".format, probabilities)])
    write_csv(path, rows)


def write_server_files(
    folder: Path, ids: Sequence[str], scores: np.ndarray, test_set: str = "test"
) -> Path:
    """The results as the VOC server takes them: Main/comp2_cls_SET_CLASS.txt, ID and score.

    scores (N,C). Competition 2: training data of one's own choice (here ImageNet weights). Returns
    the folder.
    """
    main = folder / "results" / "VOC2012" / "Main"
    main.mkdir(parents=True, exist_ok=True)
    for name, column in zip(CLASS_NAMES, scores.T.tolist(), strict=True):
        lines = [f"{image} {score:.6f}" for image, score in zip(ids, column, strict=True)]
        write_lines(main / f"comp2_cls_{test_set}_{name}.txt", lines)
    return main


def save_instances(path: Path, instances: np.ndarray, data: VOC_Dataset_For_Classification) -> None:
    """An npz with instances (n,C,K) float16, labels (n,C), ids (n,), class_names (C,)."""
    arrays: dict[str, Any] = {
        "instances": instances.astype(np.float16),
        "labels": data.split.labels.astype(np.uint8),
    }
    arrays["ids"] = np.array(data.split.ids)
    arrays["class_names"] = np.array(data.classes)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    atomic_save(path, write)
