"""CAM, CALM-EM and CALM-ML side by side: trained and evaluated with the same flags, over several seeds.

    python compare_methods.py --sample --fresh --seeds 10,11,12       # birds drawn anew with each seed
    python compare_methods.py --data_root DATA --pretrained=False --prior_activation softplus --prior_gradient full

Flags that are not named here go to main.py and to the evaluations. Each run is OUTPUT_DIR/METHOD-SEED with erase/,
cue/ and wsol/ in it, for CALM also wsol_prior/, the boxes of p(z|x) (`saliency`); what is there already is not done
again. results.csv holds a row a run.
"""

import common.interrupt  # noqa: F401

import csv
import io
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from calm import eval_cue_location, eval_remove_classify, eval_wsol
from calm import main as training
from calm.config import parse
from calm.flags import BOXES, CUES, ERASING, TRAINING, as_arguments, build_parser
from calm.network.universal import canonical_method
from common import samples
from common.aliases import one_module
from common.checkpoint import atomic_write
from common.cli import OneLineParser, UserError, non_negative_int, parse_given, run_main, seed_list
from common.rundir import holds_run
from common.text import read_json

one_module(__name__, "calm.compare_methods")

ERASED = ("0.02", "0.05", "0.1", "0.3", "0.5", "0.7", "0.9")
# the map of a method, and the normalisation and thresholds that suit it (spec f.1)
MAPS = {
    "CAM": ("vanilla", "minmax", "even"),
    "CALM-EM": ("jointll", "clipping", "log"),
    "CALM-ML": ("jointll", "clipping", "log"),
}
SHOWN = (
    "accuracy",
    "R_0.02",
    "R_0.1",
    "R_0.5",
    "deletion_auc",
    "mPxAP",
    "peak_distance",
    "MaxBoxAccV2",
)


def _summary(folder: Path) -> dict:
    return read_json(folder / "summary.json", dict)


def train_and_evaluate(flags: list[str], folder: Path, auc_steps: int) -> dict[str, float | None]:
    """One method and seed: the numbers of its three evaluations; `flags` name both, data and network."""
    args = parse(flags)
    process, norm, thresholds = MAPS[args.attribution_method]
    train = as_arguments(args, TRAINING)
    training.main(
        [*train, "--output_dir", str(folder), *(["--resume"] if holds_run(folder) else [])]
    )
    # an evaluation finds the checkpoint in SAVE_ROOT/EXPERIMENT_NAME and writes where --output_dir says
    where = ["--save_root", str(folder.parent), "--experiment_name", folder.name]
    maps = [
        f"--score_map_process={process}",
        f"--norm_type={norm}",
        f"--threshold_type={thresholds}",
    ]
    jobs = {
        "erase": (
            eval_remove_classify,
            ERASING,
            [*maps, "--erase_k", *ERASED, "--auc_steps", str(auc_steps)],
        ),
        "cue": (eval_cue_location, CUES, maps),
        "wsol": (eval_wsol, BOXES, maps),
    }
    if args.attribution_method != "CAM":
        jobs["wsol_prior"] = (eval_wsol, BOXES, ["--score_map_process=saliency"])
    for name, (script, place, more) in jobs.items():
        if not (folder / name / "summary.json").is_file():
            own = as_arguments(args, place)
            script.main([*own, *where, *more, "--output_dir", str(folder / name), "--overwrite"])
    found = {name: _summary(folder / name) for name in jobs}
    erase, cue = found["erase"], found["cue"]
    return {
        "accuracy": erase["accuracy"],
        **{f"R_{k}": erase[f"R_{k}"] for k in ERASED},
        "deletion_auc": erase["deletion_auc"],
        "insertion_auc": erase["insertion_auc"],
        "mPxAP": cue["per_pair/kept/mean"],
        "mPxAP_released": cue["released/dropped/mean"],
        "peak_distance": cue["peak_distance/mean"],
        "MaxBoxAccV2": found["wsol"]["MaxBoxAccV2"],
        "MaxBoxAccV2_prior": found.get("wsol_prior", {}).get("MaxBoxAccV2"),
    }


def report(rows: Sequence[dict], path: Path) -> None:
    """results.csv, and mean ± standard deviation over the seeds on the screen."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())
    print(f"{'method':<10}" + "".join(f"{name:>17}" for name in SHOWN))
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for name in SHOWN:
            values = [
                row[name] for row in rows if row["method"] == method and row[name] is not None
            ]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.3f}{spread}" if values else "none")
        print(f"{method:<10}" + "".join(f"{cell:>17}" for cell in cells))
    print(f"results: {path}")


# What the runs differ in, and what each script needs, is set here.
SET_HERE = {
    "attribution_method": "use --methods",
    "seed": "use --seeds",
    "erase_k": f"it is {' '.join(ERASED)}",
    "score_map_process": "each method has its own",
    "score_map_method": "each method has its own",
    "norm_type": "each method has its own",
    "threshold_type": "each method has its own",
    "experiment_name": "use --output_dir",
    "save_root": "use --output_dir",
    "use_load_checkpoint": "each run is trained, or gone on with",
    "load_checkpoint": "each run is trained, or gone on with",
    "is_train": "each run is trained, or gone on with",
    "resume": "each run is trained, or gone on with",
    "overwrite": "name another --output_dir",
    "override_cache": "name another --output_dir",
}


def own_flags() -> OneLineParser:
    """The flags that only this script has."""
    own = OneLineParser(description=__doc__.split("\n")[0], add_help=False)
    own.add_argument("--methods", default="CAM,CALM_EM,CALM_ML", help="comma-separated")
    own.add_argument("--seeds", type=seed_list, default="0,1,2", help="comma-separated")
    own.add_argument(
        "--fresh", action="store_true", help="the sample only: pictures drawn anew with each seed"
    )
    own.add_argument(
        "--output_dir",
        "-output_dir",
        type=Path,
        default=Path("save/compare"),
        help="holds METHOD-SEED folders",
    )
    own.add_argument(
        "--auc_steps", type=non_negative_int, default=10, help="of deletion and insertion; 0: not"
    )
    return own


def refuse_what_is_set_here(rest: list[str]) -> None:
    """Exit status 2 for a flag of the runs that this script sets itself."""
    parser = build_parser("compare_methods.py")
    _, given = parse_given(parser, rest)
    for flag, remedy in SET_HERE.items():
        if flag in given:
            parser.error(f"--{flag} is set by compare_methods.py; {remedy}")


def main(argv: list[str] | None = None) -> None:
    """Every method with every seed, then the table."""
    argv = sys.argv[1:] if argv is None else argv
    own = own_flags()
    if {"-h", "--help"} & set(argv):
        build_parser("compare_methods.py", own).parse_args(["--help"])
    mine, rest = own.parse_known_args(argv)
    refuse_what_is_set_here(rest)
    try:
        methods = [canonical_method(m) for m in mine.methods.split(",")]
    except ValueError as error:
        raise UserError(f"--methods {mine.methods}: {error}") from error
    if mine.fresh and "--sample" not in rest:
        raise UserError("--fresh draws the offline sample anew; it needs --sample")
    rows = []
    for seed in mine.seeds:
        data = []
        if mine.fresh:
            data = ["--data_root", str(samples.draw("CUB", mine.output_dir / f"birds{seed}", seed))]
        for method in methods:
            print(f"--- {method}, seed {seed}", flush=True)
            given = [f for f in rest if f != "--sample"] if mine.fresh else rest
            flags = [*given, *data, f"--attribution_method={method}", f"--seed={seed}"]
            numbers = train_and_evaluate(
                flags, mine.output_dir / f"{method}-{seed}", mine.auc_steps
            )
            rows.append({"method": method, "seed": seed, **numbers})
    report(rows, mine.output_dir / "results.csv")


if __name__ == "__main__":
    run_main(main)
