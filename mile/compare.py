"""Several runs from one command: schemas side by side with equal steps, seeds; one table of mean and range.

The parent directory holds a folder for each run, results.csv, table.txt and figures/compare.png.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator

from common.aliases import one_module
from common.checkpoint import atomic_write
from common.cli import UserError
from common.compare import child_of, run_each
from common.rundir import make_accelerator
from common.text import numbered_lines
from mile.figures import draw_comparison
from mile.report import decimals, without_unreadable

one_module(__name__, "mile.compare")

SHOWN = {
    "acc_final": "acc",
    "real_acc_final": "real_acc",
    "real_f1_final": "F1@rho",
    "f1_by_threshold_at_rho": "F1@rho by threshold",
    "real_f1_025_final": "F1@0.25",
    "label_coverage_final": "coverage",
    "mAP": "mAP",
    "best_f1": "best F1",
}
_RANGE = {"mean": "mean", "low": "min", "high": "max"}


def plan(conf: Any, folder: Path) -> list[Any]:
    """The settings of each run, schemas x seeds, each with a folder of its own in the parent's."""
    runs = []
    for schema in conf.compare or [conf.schema]:
        for seed in conf.seeds or [conf.seed]:
            place = folder / f"{schema}-seed{seed}"
            own = {"schema": schema, "seed": seed, "compare": None, "seeds": None}
            runs.append(child_of(conf, place, **own, checkpoint_path=str(place / "weights")))
    return runs


def run_all(conf: Any, train: Callable[[Any, Accelerator], dict[str, Any]]) -> pd.DataFrame:
    """Run everything `plan` lists; print, save and return the table (the rows so far where --max_steps cut a run)."""
    schemas = conf.compare or [conf.schema]
    if len(schemas) > 1 and not conf.total_steps:
        raise UserError(
            "--compare: give --total_steps N, so that all schemas take equally many steps"
        )
    name = f"{conf.dataset}_{conf.model}_{'compare' if conf.compare else conf.schema + '_seeds'}"
    parent, frame = run_each(
        conf,
        Path(conf.checkpoint_path) / name,
        lambda folder: plan(conf, folder),
        lambda child: train(child, make_accelerator(child)),
        lambda child: {"schema": child.schema, "seed": child.seed},
    )
    if parent.stopped:
        return frame
    frame = frame.where(frame.notna(), math.nan)  # undefined is null in a summary
    table = table_of(frame)
    text = _as_text(table, frame, conf.eval_rho, conf._is_sample)
    parent.print(text)
    if parent.is_main:
        atomic_write(parent.folder / "table.txt", text.encode())
        draw_curves_of(parent.folder, frame, conf.eval_rho, parent.figure("compare"))
    rows = table.to_dict("index")
    means = {
        f"{schema}_{key}": row[f"{key} mean"]
        for schema, row in rows.items()
        for key in SHOWN.values()
    }
    parent.finish(runs=len(frame), offline_sample=conf._is_sample, **means)
    return table


def table_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, lowest and highest of each metric, a row a schema."""
    groups, columns = frame.groupby("schema", sort=False), {}
    for key, name in SHOWN.items():
        columns |= {f"{name} {what}": getattr(groups[key], of)() for what, of in _RANGE.items()}
    return pd.DataFrame(columns)


def draw_curves_of(folder: Path, frame: pd.DataFrame, rho: float, path: Path) -> None:
    """figures/compare.png from the runs in `folder`, named in `frame` (its results.csv)."""
    curves: dict[str, list[list[dict]]] = {}
    for schema, seed in zip(frame.schema, frame.seed, strict=True):
        file = folder / f"{schema}-seed{seed}" / "metrics.jsonl"
        # There is none where --max_steps ended the run first.
        lines = (
            [_metrics_line(file, *line) for line in numbered_lines(file)] if file.is_file() else []
        )
        curves.setdefault(schema, []).append([line for line in lines if line["split"] == "test"])
    first = frame.iloc[0]
    title = f"{frame.seed.nunique()} seeds (thin) and their mean" + ", offline sample" * bool(
        first["offline_sample"]
    )
    draw_comparison(path, curves, rho, first["trivial_f1_all_labels"], title)


def _metrics_line(file: Path, number: int, text: str) -> dict[str, Any]:
    try:
        return {"split": "", **json.loads(text)}
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file}: line {number}: no line of metrics; delete the run's folder to repeat it"
        ) from error


def _as_text(table: pd.DataFrame, frame: pd.DataFrame, rho: float, is_sample: bool) -> str:
    what = "offline sample, " if is_sample else ""
    lines = [f"{what}threshold rho {rho:g}, {frame.seed.nunique()} seeds: mean (lowest-highest)"]
    lines.append("".join(f"{head:<22}" for head in ("schema", *SHOWN.values())))
    for schema, row in table.iterrows():
        ranges = [
            [decimals(row[f"{name} {what}"], 3) for what in _RANGE] for name in SHOWN.values()
        ]
        cells = [f"{mean} ({low}-{high})" for mean, low, high in ranges]
        lines.append("".join(f"{cell:<22}" for cell in (schema, *cells)))
    first = frame.iloc[0]
    if first["mAP_classes"] < first["classes"]:
        lines.append(
            f"mAP is over the {first['mAP_classes']:.0f} of {first['classes']:.0f} classes with a positive"
        )
    skipped = int(frame["eval_skipped"].max()) if "eval_skipped" in frame else 0
    if skipped:
        lines.append(f"measured {without_unreadable(skipped)} of the evaluation set")
    one, every = (
        decimals(first[f"trivial_f1_{name}"], 3) for name in ("one_right_label", "all_labels")
    )
    lines.append(f"F1 of answers that need no network: one right label {one}, all labels {every}")
    return "\n".join(lines) + "\n"
