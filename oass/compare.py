"""Many runs: strategies and seeds, and the table of their means."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.aliases import one_module
from common.compare import PlannedRun, child_of, run_each
from common.run import Run
from common.text import write_csv
from oass.options import Settings
from oass.options_comparison import Comparison
from oass.report import without
from oass.train import train

if TYPE_CHECKING:
    import pandas as pd

one_module(__name__, "oass.compare")

METRICS = ("map", "best_map", "pointing", "dead_cam")


def compare(comparison: Comparison) -> list[dict[str, Any]]:
    """Train every variant with every seed; print, write and return the table, a row a variant.

    The runs lie in the folder's VARIANT/seed_N, the table in its ablation.csv.
    """
    plan = partial(planned_runs, comparison)
    parent, frame = run_each(comparison.args, "experiments/ablation", plan, summary_of)
    rows = table_of(frame)
    if parent.is_main and rows:
        write_table(parent, rows)
    if not parent.stopped:
        parent.finish(runs=len(frame))
    return rows


def planned_runs(comparison: Comparison, folder: Path) -> list[PlannedRun]:
    """A run for every variant and seed, in folder/VARIANT/seed_N."""
    runs = []
    for name, settings in comparison.variants.items():
        place = folder / name.replace(" ", "_").replace("--", "").replace("/", "-")
        for seed in comparison.args.seeds:
            args = child_of(settings.args, place / f"seed_{seed}", seed=seed)
            columns = {"variant": name, "seed": seed}
            runs.append(PlannedRun(args.output_dir, columns, replace(settings, args=args)))
    return runs


def summary_of(settings: Settings) -> dict[str, Any]:
    """Train one run; what the table needs of its summary."""
    summary = train(settings)
    found = {name: summary[name] for name in METRICS}
    found["eval_skipped"] = summary.get("eval_skipped", 0)
    return found


def table_of(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """A row for every variant: mean and sample deviation of each metric over its seeds."""
    rows: list[dict[str, Any]] = []
    if not len(frame):
        return rows
    for name, runs in frame.groupby("variant", sort=False):
        seeds = " ".join(map(str, runs["seed"]))
        row: dict[str, Any] = {"strategy": name, "seeds": seeds}
        for metric in METRICS:
            values = runs[metric].dropna().astype(float)
            row[metric] = round(values.mean(), 4) if len(values) else ""
            row[f"{metric}_std"] = round(values.std(), 4) if len(values) > 1 else ""
        row["each"] = " ".join(map("{:.2f}".format, runs["map"].dropna()))
        skipped = int(runs["eval_skipped"].max())
        if skipped:
            row["eval_skipped"] = skipped
        rows.append(row)
    return rows


def write_table(parent: Run, rows: Sequence[dict[str, Any]]) -> None:
    """ablation.csv in the parent's folder, and the same on the screen."""
    path = parent.folder / "ablation.csv"
    columns = max(map(list, rows), key=len)
    lines = [columns]
    for row in rows:
        lines.append([row.get(name, "") for name in columns])
    write_csv(path, lines)

    width = max(10, *(len(row["strategy"]) + 1 for row in rows))
    heads = f"{'mAP %':>8}{'std':>7}{'pointing':>10}{'dead maps':>11}   each seed"
    parent.print(f"{'strategy':<{width}}{heads}")
    for row in rows:
        numbers = f"{row['map']!s:>8.6}{row['map_std']!s:>7.5}"
        maps = f"{row['pointing']!s:>10.5}{row['dead_cam']!s:>11.5}"
        parent.print(f"{row['strategy']:<{width}}{numbers}{maps}   {row['each']}{without(row)}")
    parent.print(f"table: {path}")
