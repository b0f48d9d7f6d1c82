"""Several runs from one command: phase 1 before the target network, and rows side by side."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.aliases import one_module
from common.cli import UserError
from common.compare import PlannedRun, child_of, run_each
from common.plots import save_curves
from common.run import Run
from common.text import is_kind, read_json
from csl.data import open_dataset
from csl.data_pixels import Pixels
from csl.data_prior import match_prior, read_prior
from csl.options import Settings
from csl.options_checks import param_of
from csl.options_choices import RECIPES, SAMPLE_DEFAULTS

if TYPE_CHECKING:
    import pandas as pd

one_module(__name__, "csl.compare")

Train = Callable[[Settings, str], dict[str, Any]]
PAPER_ROWS = ("ignore_ce", "negative_ce", "negative_asl", "csl")
HEADLINE = "mAP_ema_final"
COCO_CLASSES = 80


# --- phase 1 ---


def prior_file(settings: Settings, run: Run, train: Train) -> str | None:
    """The prior's file: the one that was given, or with --estimate_prior the one of RUN/phase1.

    Phase 1 trains a network of the same kind for N epochs in ignore mode with cross entropy (all
    gammas 0), on the same partial labels; P(c) is its mean predicted probability over the training
    images.
    """
    args = settings.args
    if not args.estimate_prior:
        return args.prior_path
    folder = run.folder / "phase1"
    if not _is_done(folder / "summary.json", args.estimate_prior):
        run.print(f"--- phase 1: {args.estimate_prior} epochs in ignore mode, for the prior")
        changed = {
            "recipe": "ignore_ce",
            "epochs": args.estimate_prior,
            "stop_epoch": None,
            "estimate_prior": None,
            "prior_quantile": None,
        }
        child = child_of(args, folder, **RECIPES["ignore_ce"], **changed)
        summary = train(replace(settings, args=child), str(folder))
        if summary["epochs"] < child.epochs:  # --max_steps ended within phase 1
            run.stopped = True
            return None
        run.print("--- phase 2: the target network")
    return str(folder / "train_avg_preds.csv")


def _is_done(summary: Path, epochs: int) -> bool:
    """Whether a summary is that of a whole phase 1; a damaged one is written anew by its run."""
    try:
        done = read_json(summary, dict).get("epochs")
    except UserError:
        return False
    return is_kind(done, int) and done >= epochs


# --- rows side by side ---


def compare(settings: Settings, train: Train) -> dict[str, float]:
    """Run what `plan` lists, then print and save the table.

    It holds the mean, the sample deviation (ddof 1) and the number of runs. Returns SCHEME_ROW_mean
    and SCHEME_ROW_std; {}, without a table, where --max_steps cut a run.
    """
    args = settings.args
    found = settings.found
    parent, frame = run_each(
        args,
        Path(args.path_dest) / f"compare_{found.name}",
        lambda folder: plan(settings, folder),
        lambda child: train(child, str(child.args.output_dir)),
        check=lambda: require_prior(settings),
    )
    if parent.stopped:
        return {}
    table = table_of(frame)
    if found.files.train.name == "instances_train2014.json":
        if (frame["classes"] == COCO_CLASSES).all():
            paper = paper_numbers()
            table["paper"] = [paper.get((line.scheme, line.row)) for line in table.itertuples()]
    parent.print(table.to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    if parent.is_main:
        groups = frame.groupby(["scheme", "row"], sort=False)
        curves = {f"{scheme} {row}": list(part[HEADLINE]) for (scheme, row), part in groups}
        path = parent.figure("compare")
        save_curves(path, curves, xlabel="run", ylabel="mAP of the averaged model (%)")

    means: dict[str, float] = {}
    for line in table.to_dict("records"):
        for name in ("mean", "std"):
            means[f"{line['scheme']}_{line['row']}_{name}"] = line[name]
    parent.finish(runs=len(frame), offline_sample=found.is_sample, **means)
    return means


def plan(settings: Settings, folder: Path) -> list[PlannedRun]:
    """The runs of --compare: schemes x seeds x rows, each with a folder of its own in `folder`."""
    args = settings.args
    rows: list[str] = []
    for row in args.compare:
        rows += PAPER_ROWS if row == "all" else (row,)
    runs = []
    for scheme in args.schemes or [args.simulate_partial_type]:
        for seed in args.seeds or [args.seed]:
            for row in dict.fromkeys(rows):
                runs.append(_planned(settings, folder, scheme, row, seed))
    return runs


def _planned(
    settings: Settings, folder: Path, scheme: str | None, row: str, seed: int
) -> PlannedRun:
    args = settings.args
    is_sample = settings.found.is_sample
    recipe = row
    if row == "csl":
        recipe = "csl_fpc"
        if scheme == "rps":
            recipe = "csl_rps"
    fixed = set(settings.given)
    if is_sample:
        fixed |= set(SAMPLE_DEFAULTS)
    changed = {name: value for name, value in RECIPES[recipe].items() if name not in fixed}
    changed |= {"recipe": recipe, "seed": seed, "simulate_partial_type": scheme}
    changed |= {"compare": None, "schemes": None, "seeds": None}
    if scheme:
        param = param_of(args, settings.given, scheme, is_sample=is_sample)
        changed["simulate_partial_param"] = param
    if not row.startswith("csl"):
        changed |= {"prior_path": None, "estimate_prior": None, "prior_quantile": None}

    shown = scheme or "given"
    place = folder / f"{shown}-{row}-seed{seed}"
    child = child_of(args, place, **changed)
    columns = {"scheme": shown, "row": row, "seed": seed}
    return PlannedRun(place, columns, replace(settings, args=child))


def require_prior(settings: Settings) -> None:
    """DomainError where the prior file of some row is missing, or of other classes than the data.

    The rows without a prior come first, and may take days.
    """
    args = settings.args
    if args.prior_path is None:
        return
    prior = read_prior(args.prior_path)
    train = open_dataset(
        settings.found,
        "train",
        Pixels(args.image_size),
        keep_empty=args.keep_empty,
        class_list=args.class_list,
    )
    match_prior(prior, list(train.classes.values()), args.prior_path)


def table_of(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A line a scheme and row: mean, std and count of the averaged model's mAP; the model's."""
    groups = frame.groupby(["scheme", "row"], sort=False)
    table = groups[HEADLINE].agg(["mean", "std", "count"]).reset_index()
    if "eval_skipped" in frame and frame["eval_skipped"].any():
        table["eval_skipped"] = groups["eval_skipped"].max().to_numpy(int)
    table["model_mean"] = groups["mAP_model_final"].mean().to_numpy(float)
    return table


def paper_numbers() -> dict[tuple[str, str], float]:
    """(scheme, row) -> the published mAP on COCO 2014: TResNet-M, 448 pixels, model or average."""
    import pandas as pd

    names = {
        "Ignore, CE": "ignore_ce",
        "Negative, CE": "negative_ce",
        "Negative, ASL": "negative_asl",
        "CSL": "csl",
    }
    table = pd.read_csv(Path(__file__).parent / "results" / "paper.csv")
    rows = table.query("dataset == 'COCO 2014'")
    schemes = rows.setting.str.split().str[0].str.lower()
    methods = rows.method.map(names)
    return dict(zip(zip(schemes, methods, strict=True), rows.value, strict=True))
