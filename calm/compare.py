"""Train and evaluate every method with every seed, and make the table of the runs.

The scripts do the training and the evaluation.

A folder that holds a run is gone on with, and a finished one is not done again: a stopped
comparison goes on, and seeds can be added to one that is done. `common.compare.run_each` fixes the
seeds in the settings of the comparison's own run directory, so it is not used here.
"""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calm import eval_cue_location, eval_remove_classify, eval_wsol
from calm import main as training
from calm.options import Settings, as_arguments, parse_flags
from calm.options_own import ERASED
from common.aliases import one_module
from common.compare import PlannedRun
from common.files import atomic_write
from common.guard import StopSignals
from common.jobs import SideBySide, own_task
from common.rundir import holds_run
from common.text import read_json

one_module(__name__, "calm.compare")

# the map of a method, and the normalisation and thresholds that suit it
MAPS = {
    "CAM": ("vanilla", "minmax", "even"),
    "CALM-EM": ("jointll", "clipping", "log"),
    "CALM-ML": ("jointll", "clipping", "log"),
}
SHOWN = (
    *("accuracy", "R_0.02", "R_0.1", "R_0.5", "deletion_auc"),
    *("mPxAP", "peak_distance", "MaxBoxAccV2"),
)
EVALUATIONS = {  # folder -> the script
    "erase": ("eval_remove_classify", eval_remove_classify.main),
    "cue": ("eval_cue_location", eval_cue_location.main),
    "wsol": ("eval_wsol", eval_wsol.main),
    "wsol_prior": ("eval_wsol", eval_wsol.main),
}


def train_and_evaluate(flags: Sequence[str], folder: Path, auc_steps: int) -> dict[str, Any]:
    """One method and seed: the numbers of its evaluations; `flags` name both, data and network."""
    settings = parse_flags(flags, script="compare_methods")
    resume = ["--resume"] if holds_run(folder) else []
    arguments = as_arguments(settings, "main")
    training.main([*arguments, "--output_dir", str(folder), *resume])

    maps = _flags_of_maps(settings.args.attribution_method)
    shares = [f"{k:g}" for k in settings.typed.get("erase_k", map(float, ERASED))]
    jobs = {
        "erase": [*maps, "--erase_k", *shares, "--auc_steps", str(auc_steps)],
        "cue": maps,
        "wsol": maps,
    }
    if settings.args.attribution_method != "CAM":
        jobs["wsol_prior"] = ["--score_map_process=saliency"]
    for name, more in jobs.items():
        if not (folder / name / "summary.json").is_file():
            _evaluate(settings, folder, name, more)
    found = {name: read_json(folder / name / "summary.json", dict) for name in jobs}
    return _numbers(found, shares)


def _flags_of_maps(method: str) -> list[str]:
    process, norm, thresholds = MAPS[method]
    return [
        f"--score_map_process={process}",
        f"--norm_type={norm}",
        f"--threshold_type={thresholds}",
    ]


def _evaluate(settings: Settings, folder: Path, name: str, more: Sequence[str]) -> None:
    """One evaluation of the run in `folder`, into a folder in it."""
    script, run = EVALUATIONS[name]
    own = as_arguments(settings, script)
    # An evaluation finds the checkpoint in SAVE_ROOT/EXPERIMENT_NAME and writes where --output_dir
    # says.
    where = ["--save_root", str(folder.parent), "--experiment_name", folder.name]
    run([*own, *where, *more, "--output_dir", str(folder / name), "--overwrite"])


def _numbers(found: Mapping[str, Mapping[str, Any]], shares: Sequence[str]) -> dict[str, Any]:
    """A row of results.csv, from the summaries of the evaluations; R_k of these shares k."""
    erase = found["erase"]
    cue = found["cue"]
    row = {"accuracy": erase["accuracy"]}
    for k in shares:
        row[f"R_{k}"] = erase[f"R_{k}"]
    row["deletion_auc"] = erase["deletion_auc"]
    row["insertion_auc"] = erase["insertion_auc"]
    row["mPxAP"] = cue["per_pair/kept/mean"]
    row["mPxAP_released"] = cue["released/dropped/mean"]
    row["peak_distance"] = cue["peak_distance/mean"]
    row["MaxBoxAccV2"] = found["wsol"]["MaxBoxAccV2"]
    row["MaxBoxAccV2_prior"] = found.get("wsol_prior", {}).get("MaxBoxAccV2")
    return row


def compare(
    flags: Sequence[str],
    folder: Path,
    *,
    methods: Sequence[str],
    data_of_seed: Mapping[int, Sequence[str]],
    auc_steps: int,
    jobs: int = 1,
) -> None:
    """Every method with every seed in FOLDER/METHOD-SEED, then the table.

    Args:
        flags: of all runs. data_of_seed: seed -> further flags of its runs.
        auc_steps: of deletion and insertion.
        jobs: so many runs at a time.
    """
    runs = []
    for seed, data in data_of_seed.items():
        for method in methods:
            of_run = [*flags, *data, f"--attribution_method={method}", f"--seed={seed}"]
            columns = {"method": method, "seed": seed}
            runs.append(PlannedRun(folder / f"{method}-{seed}", columns, of_run))

    task = own_task()
    if task is not None:  # this process is one of the runs
        run = runs[task.number]
        task.hand_back(train_and_evaluate(run.settings, run.folder, auc_steps))

    rows = []
    if jobs > 1:
        rows = _side_by_side(runs, folder, jobs, is_on_cpu={"--cpu", "-cpu"} & set(flags) != set())
    else:
        for run in runs:
            print(f"--- {run.columns['method']}, seed {run.columns['seed']}", flush=True)
            numbers = train_and_evaluate(run.settings, run.folder, auc_steps)
            rows.append({**run.columns, **numbers})
    report(rows, folder / "results.csv")


def _side_by_side(
    runs: Sequence[PlannedRun], folder: Path, jobs: int, *, is_on_cpu: bool
) -> list[dict[str, Any]]:
    """The rows of the runs, `jobs` at a time; exit status 1 where some failed.

    SystemExit with 128 + its number after a signal, when all have saved.
    """
    signals = StopSignals()
    places = [run.folder for run in runs]
    working = SideBySide(
        places, jobs, folder, is_on_cpu=is_on_cpu, received=lambda: signals.received
    )
    numbers = dict(working.finished())
    signals.give_back()
    if signals.received:
        raise SystemExit(128 + signals.received)

    rows = [{**runs[number].columns, **numbers[number]} for number in sorted(numbers)]
    if working.failed and rows:
        report(rows, folder / "results.csv")
    working.report_failed()
    return rows


def report(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """results.csv, and mean ± standard deviation over the seeds on the screen."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())

    of_methods: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_methods.setdefault(row["method"], []).append(row)
    print(_line("method", SHOWN))
    for method, of_method in of_methods.items():
        cells = []
        for name in SHOWN:
            cells.append(_mean_and_spread([row.get(name) for row in of_method]))
        print(_line(method, cells))
    print(f"results: {path}")


def _line(first: str, cells: Sequence[str]) -> str:
    """A line of the table."""
    return f"{first:<10}" + "".join(f"{cell:>17}" for cell in cells)


def _mean_and_spread(values: Sequence[float | None]) -> str:
    """mean ± standard deviation of the defined values."""
    defined = [value for value in values if value is not None]
    if not defined:
        return "none"
    text = f"{statistics.fmean(defined):.3f}"
    if len(defined) > 1:
        text += f" ± {statistics.stdev(defined):.3f}"
    return text
