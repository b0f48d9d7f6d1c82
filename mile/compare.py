"""Several runs from one command: schemas side by side with equal steps, seeds; one table of mean and range.

The parent directory holds a folder for each run, results.csv and table.txt; --resume goes on with the run that was
interrupted.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator

from common.checkpoint import atomic_write
from common.cli import UserError
from common.run import Run, start_run
from common.rundir import holds_run, make_accelerator
from mile.config import setting

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


def plan(conf: Any, folder: Path) -> list[Any]:
    """The settings of each run, schemas x seeds, each with a folder of its own in the parent's."""
    runs = []
    for schema in conf.compare or [conf.schema]:
        for seed in conf.seeds or [conf.seed]:
            child = copy.copy(conf)
            child.schema, child.seed, child.compare, child.seeds = schema, seed, None, None
            child.eval_rho = setting(conf, "eval_rho")  # one threshold for all
            child.output_dir, child.overwrite = folder / f"{schema}-seed{seed}", False
            child.checkpoint_path = str(child.output_dir / "weights")
            child.resume = "" if holds_run(child.output_dir) else None
            runs.append(child)
    return runs


def run_all(conf: Any, train: Callable[[Any, Accelerator], dict[str, Any]]) -> pd.DataFrame:
    """Run everything `plan` lists; print and save the table, which is returned."""
    schemas = conf.compare or [conf.schema]
    if len(set(schemas)) > 1 and not conf.total_steps:
        raise UserError("--compare: give --total_steps N, so that all schemas take equally many steps")
    accelerator = make_accelerator(conf)
    name = f"{conf.dataset}_{conf.model}_{'compare' if conf.compare else conf.schema + '_seeds'}"
    parent = start_run(conf, Path(conf.checkpoint_path) / name, accelerator)
    parent.restore()
    runs = plan(conf, parent.folder)
    for number in parent.epochs(len(runs)):
        child = runs[number]
        parent.print(f"--- run {number + 1} of {len(runs)}: {child.output_dir.name}")
        summary = train(child, accelerator)
        parent.log("runs", schema=child.schema, seed=child.seed, **summary)
        parent.end_epoch()
    table = write_table(parent, setting(conf, "eval_rho"), conf._is_sample)
    rows = table.to_dict("index")
    means = {f"{schema}_{key}": row[f"{key} mean"] for schema, row in rows.items() for key in SHOWN.values()}
    parent.finish(runs=len(runs), offline_sample=conf._is_sample, **means)
    return table


def write_table(parent: Run, rho: float, is_sample: bool) -> pd.DataFrame:
    """results.csv (a row a run) and table.txt (mean, lowest and highest of each schema)."""
    frame = pd.DataFrame([line for line in parent.lines if line["split"] == "runs"])
    columns = {}
    for key, name in SHOWN.items():
        groups = frame.groupby("schema", sort=False)[key]
        columns |= {f"{name} mean": groups.mean(), f"{name} low": groups.min(), f"{name} high": groups.max()}
    table = pd.DataFrame(columns)
    if parent.is_main:
        frame.drop(columns=["step", "epoch", "split"]).to_csv(parent.folder / "results.csv", index=False)
        text = _as_text(table, frame, rho, is_sample)
        atomic_write(parent.folder / "table.txt", text.encode())
        parent.print(text)
    return table


def _as_text(table: pd.DataFrame, frame: pd.DataFrame, rho: float, is_sample: bool) -> str:
    what = "offline sample, " if is_sample else ""
    lines = [f"{what}threshold rho {rho:g}, {frame.seed.nunique()} seeds: mean (lowest-highest)"]
    lines.append("".join(f"{head:<22}" for head in ("schema", *SHOWN.values())))
    for schema, row in table.iterrows():
        cells = [f"{row[f'{n} mean']:.3f} ({row[f'{n} low']:.3f}-{row[f'{n} high']:.3f})" for n in SHOWN.values()]
        lines.append("".join(f"{cell:<22}" for cell in (schema, *cells)))
    first = frame.iloc[0]
    one, every = first["trivial_f1_one_right_label"], first["trivial_f1_all_labels"]
    lines.append(f"F1 of answers that need no network: one right label {one:.3f}, all labels {every:.3f}")
    return "\n".join(lines) + "\n"
