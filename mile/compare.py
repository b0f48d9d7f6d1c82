"""Several runs from one command.

Schemas side by side with equal steps, seeds; one table of mean and range.

The parent directory holds a folder for each run, results.csv, table.txt and figures/compare.png.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from common.aliases import one_module
from common.cli import UserError
from common.compare import PlannedRun, child_of, run_each
from common.files import atomic_write
from common.rundir import make_accelerator
from common.text import numbered_lines
from mile.figures import draw_comparison
from mile.options import Settings
from mile.report import decimals, without_unreadable

if TYPE_CHECKING:
    import pandas as pd

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
COLUMN = 22  # characters

Train = Callable[[Settings, Accelerator], dict[str, Any]]


def plan(settings: Settings, folder: Path) -> list[PlannedRun]:
    """The runs, schemas x seeds, each with a folder of its own in the parent's."""
    args = settings.args
    runs = []
    for schema in args.compare or [args.schema]:
        for seed in args.seeds or [args.seed]:
            place = folder / f"{schema}-seed{seed}"
            child = child_of(
                args,
                place,
                schema=schema,
                seed=seed,
                compare=None,
                seeds=None,
                checkpoint_path=str(place / "weights"),
            )
            columns = {"schema": schema, "seed": seed}
            runs.append(PlannedRun(place, columns, replace(settings, args=child)))
    return runs


def run_all(settings: Settings, train: Train) -> "pd.DataFrame":
    """Run everything `plan` lists.

    Print, save and return the table (the rows so far where --max_steps cut a run).
    """
    args = settings.args
    schemas = args.compare or [args.schema]
    if len(schemas) > 1 and not args.total_steps:
        raise UserError(
            "--compare: give --total_steps N, so that all schemas take equally many steps"
        )

    def train_child(child: Settings) -> dict[str, Any]:
        return train(child, make_accelerator(child.args))

    what = "compare" if args.compare else f"{args.schema}_seeds"
    parent, frame = run_each(
        args,
        Path(args.checkpoint_path) / f"{args.dataset}_{args.model}_{what}",
        lambda folder: plan(settings, folder),
        train_child,
    )
    if parent.stopped:
        return frame

    frame = frame.where(frame.notna(), math.nan)  # undefined is null in a summary
    table = table_of(frame)
    text = as_text(table, frame, args.eval_rho, is_sample=settings.data.is_sample)
    parent.print(text)
    if parent.is_main:
        atomic_write(parent.folder / "table.txt", text.encode())
        draw_curves_of(parent.folder, frame, args.eval_rho, parent.figure("compare"))
    means = {}
    for schema, row in table.to_dict("index").items():
        for name in SHOWN.values():
            means[f"{schema}_{name}"] = row[f"{name} mean"]
    parent.finish(runs=len(frame), offline_sample=settings.data.is_sample, **means)
    return table


def table_of(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Mean, lowest and highest of each metric, a row a schema."""
    import pandas as pd

    groups = frame.groupby("schema", sort=False)
    columns = {}
    for key, name in SHOWN.items():
        columns[f"{name} mean"] = groups[key].mean()
        columns[f"{name} low"] = groups[key].min()
        columns[f"{name} high"] = groups[key].max()
    return pd.DataFrame(columns)


def draw_curves_of(folder: Path, frame: "pd.DataFrame", rho: float, path: Path) -> None:
    """figures/compare.png from the runs in `folder`, named in `frame` (its results.csv)."""
    curves: dict[str, list[list[dict[str, Any]]]] = {}
    for schema, seed in zip(frame.schema, frame.seed, strict=True):
        lines = _metrics_lines(folder / f"{schema}-seed{seed}" / "metrics.jsonl")
        of_test = [line for line in lines if line["split"] == "test"]
        curves.setdefault(schema, []).append(of_test)

    first = frame.iloc[0]
    title = f"{frame.seed.nunique()} seeds (thin) and their mean"
    if first["offline_sample"]:
        title += ", offline sample"
    draw_comparison(path, curves, rho, first["trivial_f1_all_labels"], title)


def _metrics_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where --max_steps ended the run before the first."""
    if not file.is_file():
        return []
    return [_metrics_line(file, number, text) for number, text in numbered_lines(file)]


def _metrics_line(file: Path, number: int, text: str) -> dict[str, Any]:
    try:
        return {"split": "", **json.loads(text)}
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file}: line {number}: no line of metrics; delete the run's folder to repeat it"
        ) from error


def as_text(table: "pd.DataFrame", frame: "pd.DataFrame", rho: float, *, is_sample: bool) -> str:
    """The table for the terminal and table.txt, with what its means are over."""
    what = "offline sample, " if is_sample else ""
    seeds = frame.seed.nunique()
    lines = [
        f"{what}threshold rho {rho:g}, {seeds} seeds: mean (lowest-highest)",
        _padded(["schema", *SHOWN.values()]),
    ]
    for schema, row in table.iterrows():
        cells = [_range_of(row, name) for name in SHOWN.values()]
        lines.append(_padded([str(schema), *cells]))

    first = frame.iloc[0]
    if first["mAP_classes"] < first["classes"]:
        counted = f"{first['mAP_classes']:.0f} of {first['classes']:.0f}"
        lines.append(f"mAP is over the {counted} classes with a positive")
    skipped = int(frame["eval_skipped"].max()) if "eval_skipped" in frame else 0
    if skipped:
        lines.append(f"measured {without_unreadable(skipped)} of the evaluation set")
    one = decimals(first["trivial_f1_one_right_label"], 3)
    every = decimals(first["trivial_f1_all_labels"], 3)
    lines.append(f"F1 of answers that need no network: one right label {one}, all labels {every}")
    return "\n".join(lines) + "\n"


def _range_of(row: "pd.Series", name: str) -> str:
    """mean (lowest-highest)."""
    mean = decimals(row[f"{name} mean"], 3)
    low = decimals(row[f"{name} low"], 3)
    high = decimals(row[f"{name} high"], 3)
    return f"{mean} ({low}-{high})"


def _padded(cells: list[str]) -> str:
    return "".join(f"{cell:<{COLUMN}}" for cell in cells)
