"""Every flag acts where its help says, or is refused, or is named as having no effect
(options_table.py).
"""

import argparse
import json
import pickle
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from accelerate.state import AcceleratorState

from calm import (
    compare_methods,
    eval_cue_location,
    eval_pixel_perturb,
    eval_remove_classify,
    eval_wsol,
    explain,
    gallery,
)
from calm import main as training
from calm import options_table as table
from calm.options import as_arguments, parse_flags
from calm.options_flags import build_parser
from calm.options_own import parse_compare
from tests.calm.conftest import TRAIN, flags

SCRIPTS = {
    table.TRAINING: training,
    table.CHECK: training,
    table.ERASING: eval_pixel_perturb,
    table.CUES: eval_cue_location,
    table.BOXES: eval_wsol,
    table.EXPLAIN: explain,
    table.GALLERY: gallery,
}
SCRIPT_OF = {place: script for script, place in table.PLACES.items()} | {table.CHECK: "main"}
EVERYWHERE = {
    *(
        "experiment_name",
        "save_root",
        "override_cache",
        "is_different_checkpoint",
        "dataset_name",
        "data_root",
    ),
    *("metadata_root", "num_classes", "crop_size", "data", "images", "classes"),
    *(
        "seed",
        "output_dir",
        "sample",
        "mixed_precision",
        "cpu",
        "overwrite",
        "skip_corrupt",
        "help",
    ),
}
# A value of each flag that is listed, and what else it needs to be without fault.
VALUES = {
    "architecture": ["resnet50"],
    "attribution_method": ["CAM"],
    "weights": ["FILE"],
    "use_bn": ["True"],
    "large_feature_map": ["True"],
    "prior_activation": ["relu"],
    "use_load_checkpoint": ["False"],
    "load_checkpoint": ["em"],
    "is_train": ["True"],
    "logger_type": ["tensorboard"],
    "proxy_training_set": ["True"],
    "resize_size": ["300"],
    "cache_images": ["True"],
    "frozen_features": ["True"],
    "only_last": ["True"],
    "pretrained": ["False"],
    "pretrained_path": ["FILE"],
    "prior_gradient": ["full"],
    "em_teacher": ["none"],
    "ema_decay": ["0.9"],
    "param_groups": ["clean"],
    "epochs": ["3"],
    "lr": ["0.1"],
    "lr_decay_frequency": ["3"],
    "lr_classifier_ratio": ["3"],
    "momentum": ["0.5"],
    "sync_bn": [],
    "weight_decay": ["0"],
    "resume": [],
    "max_steps": ["3"],
    "checkpoint_every": ["3"],
    "grad_accum": ["3"],
    "compile": [],
    "fast": [],
    "batch_size": ["3"],
    "workers": ["0"],
    "image_list": ["FILE"],
    "mask_root": ["masks"],
    "iou_thresholds": ["40"],
    "multi_contour_eval": ["False"],
    "save_maps": [],
    "score_map_method": ["activation_map"],
    "score_map_process": ["gtcond"],
    "smoothing_ksize": ["3"],
    "superclass_file": ["FILE"],
    "smooth_grad_nr_iter": ["3"],
    "smooth_grad_sigma": ["3"],
    "integrated_grad_nr_iter": ["3"],
    "ig_variant": ["standard"],
    "norm_type": ["max"],
    "threshold_type": ["log"],
    "cue_protocol": ["released"],
    "cam_curve_interval": ["0.1"],
    "foreground": ["box"],
    "attribute_rule": ["name"],
    "max_pairs": ["3"],
    "erase_k": ["0.2"],
    "erase_seed": ["3"],
    "erase_repeats": ["3"],
    "baseline": ["mean"],
    "auc_steps": ["3"],
    "tie_break": ["random"],
}


def test_the_table_knows_every_flag() -> None:
    known = {action.dest for action in build_parser()._actions}
    known -= {argparse.SUPPRESS}  # --version
    assert known == set(table.ACTS) | EVERYWHERE and not set(table.ACTS) & EVERYWHERE
    assert known >= table.ORIGINALS and set(VALUES) == set(table.ACTS)
    for places in table.ACTS.values():
        assert set(places) <= set(SCRIPTS)


@pytest.mark.parametrize("place", SCRIPTS)
def test_a_flag_that_does_nothing_in_a_script_is_refused_or_told(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for flag, values in VALUES.items():
        if place in table.ACTS[flag]:
            continue
        given = [f"--{flag}", *[str(file) if value == "FILE" else value for value in values]]
        given += ["--is_train=False"] if place == table.CHECK and flag != "is_train" else []
        given += ["--runs", "em"] if place == table.GALLERY else []
        if flag in table.ORIGINALS:
            assert flag in parse_flags(given, script=SCRIPT_OF[place]).idle, flag
            continue
        with pytest.raises(SystemExit) as stop:
            parse_flags(given, script=SCRIPT_OF[place])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1, flag
        assert f"--{flag} acts in {table.SCRIPTS[table.ACTS[flag][0]]}" in error


def refused(
    script: ModuleType, given: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    """Status 2 and one line that says `message`."""
    with pytest.raises(SystemExit) as stop:
        script.main(given)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and message in error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--load_checkpoint", "em"], "--load_checkpoint needs --use_load_checkpoint=True"),
        (
            ["--load_checkpoint", "em", "--use_load_checkpoint=False"],
            "--load_checkpoint needs --use_load_checkpoint",
        ),
        (["--superclass_file", "FILE"], "--superclass_file acts in eval_pixel_perturb.py"),
        (["--superclass_file", "nowhere.json"], "nowhere.json: no such file"),
        (
            ["--image_list", "FILE"],
            "--image_list acts in main.py --is_train=False, eval_pixel_perturb.py",
        ),
        (["--image_list", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--pretrained_path", "nowhere.pth"], "nowhere.pth: no such file"),
        (["--pretrained_path", "FILE"], "--pretrained_path needs --pretrained=True"),
        (
            [
                "--pretrained_path",
                "FILE",
                "--pretrained",
                "--use_load_checkpoint",
                "--load_checkpoint",
                "em",
            ],
            "--pretrained_path contradicts --use_load_checkpoint=True",
        ),
        (["--iou_thresholds", "-5"], "percentages between 0 and 100, not -5"),
        (["--iou_thresholds", "50", "100"], "percentages between 0 and 100, not 100"),
        (["--iou_thresholds", "50", "50"], "--iou_thresholds 50 50: each value once"),
        (["--ema_decay", "0.9"], "--ema_decay acts with --em_teacher ema, not none"),
        (
            ["--prior_activation", "relu", "--attribution_method=CAM"],
            "acts with --attribution_method CALM-EM or",
        ),
        (
            ["--prior_gradient", "full", "--attribution_method=CAM"],
            "acts with --attribution_method CALM-EM or",
        ),
        (["--erase_k", "0.1"], "--erase_k acts in eval_pixel_perturb.py"),
        (["--lr", "inf"], "finite number"),
        (["--weight_decay", "nan"], "finite number"),
        (["--crop_size", "99999"], "at most 16384"),
        (["--seed", str(2**63)], "at most"),
    ],
)
def test_training_refuses(
    birds: Path,
    save_root: Path,
    tmp_path: Path,
    given: list[str],
    message: str,
    capsys: pytest.CaptureFixture,
) -> None:
    (tmp_path / "file").write_text("x")
    given = [str(tmp_path / "file") if word == "FILE" else word for word in given]
    there = [
        "--data_root",
        str(birds),
        "--save_root",
        str(save_root),
        "--output_dir",
        str(tmp_path / "r"),
    ]
    refused(training, [*TRAIN, *there, *given], message, capsys)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("script", "given", "message"),
    [
        (
            eval_pixel_perturb,
            ["--superclass_file", "FILE"],
            "acts with --score_map_process vanilla-superclass or",
        ),
        (
            eval_pixel_perturb,
            ["--ig_variant", "standard"],
            "acts with --score_map_process integrated_grad, not",
        ),
        (eval_pixel_perturb, ["--erase_k", "0.1", "0.1"], "--erase_k 0.1 0.1: each value once"),
        (eval_pixel_perturb, ["--erase_seed", "-1"], "must not be negative"),
        (eval_pixel_perturb, ["--save_maps"], "--save_maps acts in eval_wsol.py"),
        (
            eval_remove_classify,
            ["--max_pairs", "3"],
            "--max_pairs acts in eval_cue_location.py, gallery.py",
        ),
        (eval_cue_location, ["--erase_k", "0.1"], "--erase_k acts in eval_pixel_perturb.py"),
        (eval_cue_location, ["--resume"], "--resume acts in main.py"),
        (eval_wsol, ["--resume", "em"], "--resume acts in main.py"),
        (eval_wsol, ["--foreground", "box"], "--foreground acts in eval_cue_location.py"),
        (
            eval_wsol,
            ["--load_checkpoint", "em", "--use_load_checkpoint=False"],
            "contradicts --use_load_checkpoint",
        ),
        (
            eval_wsol,
            ["--dataset=OpenImages", "--multi_contour_eval"],
            "acts with --dataset_name CUB or ILSVRC, not",
        ),
        (explain, ["--auc_steps", "3"], "--auc_steps acts in eval_pixel_perturb.py"),
        (explain, ["--max_steps", "3"], "--max_steps acts in main.py"),
        (
            gallery,
            ["--runs", "em", "--superclass_file", "FILE"],
            "--superclass_file acts in eval_pixel_perturb.py",
        ),
        (
            gallery,
            ["--runs", "em", "--cue_protocol", "released"],
            "--cue_protocol acts in eval_cue_location.py",
        ),
        (training, ["--is_train=False", "--resume"], "--resume acts in main.py"),
        (training, ["--is_train=False", "--em_teacher", "none"], "--em_teacher acts in main.py"),
    ],
)
def test_evaluations_refuse(
    birds: Path,
    save_root: Path,
    tmp_path: Path,
    script: ModuleType,
    given: list[str],
    message: str,
    capsys: pytest.CaptureFixture,
) -> None:
    (tmp_path / "file").write_text("x")
    given = [str(tmp_path / "file") if word == "FILE" else word for word in given]
    refused(script, [*flags(birds, save_root), *given], message, capsys)


def test_two_sources_of_data_are_refused(
    birds: Path, save_root: Path, capsys: pytest.CaptureFixture
) -> None:
    for script in (training, eval_pixel_perturb, eval_wsol):
        refused(
            script,
            [*flags(birds, save_root), "--sample"],
            "--sample contradicts --data_root",
            capsys,
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--seed", "3"], "--seed is set by compare_methods.py; use --seeds"),
        (["--attribution_method", "CAM"], "use --methods"),
        (["--norm_type", "max"], "each method has its own"),
        (["--save_root", "x"], "use --output_dir"),
        (["--resume"], "each run is trained"),
    ],
)
def test_compare_methods_refuses_what_it_sets(
    given: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    refused(compare_methods, ["--sample", *given], message, capsys)


def test_what_the_original_takes_is_told(
    birds: Path, save_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = flags(
        birds,
        save_root,
        "--use_bn=True",
        "--large_feature_map=True",
        "--norm_type=clipping",
        "--lr",
        "3",
    )
    eval_pixel_perturb.main([*given, "--erase_k", "0.1", "--output_dir", str(tmp_path / "r")])
    line = next(
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("without an effect")
    )
    assert (
        "--norm_type acts in eval_cue_location.py, explain.py" in line
        and "--lr acts in main.py" in line
    )
    assert "--use_bn acts with --architecture vgg16 or inception_v3, not small" in line
    assert "--large_feature_map acts with" in line and "--crop_size" not in line

    there = ["--data_root", str(birds), "--output_dir", str(tmp_path / "t"), "--max_steps", "1"]
    training.main([*TRAIN, *there, "--norm_type=clipping"])
    out = capsys.readouterr().out
    assert (
        "without an effect here: --norm_type acts in" in out and out.count("without an effect") == 1
    )


# --- the flags of the evaluations act ---


def erased(folder: Path) -> object:
    measure = pickle.loads(next(folder.glob("measure_*.pickle")).read_bytes())
    rows = json.loads(next(folder.glob("measure_*.json")).read_text())
    summary = json.loads((folder / "summary.json").read_text())
    return measure["preds-topk"], measure["preds-random"], rows, summary["deletion_auc"]


def rows_of_pairs(folder: Path) -> object:
    return (folder / "cue_pairs.csv").read_text()


def boxes(folder: Path) -> object:
    maps = {path.name: np.load(path).tobytes() for path in folder.glob("scoremaps/*/*.npy")}
    return json.loads((folder / "wsol.json").read_text()), maps


NOISY = ["--score_map_process", "smooth_grad", "--smooth_grad_nr_iter", "2"]
PATH = ["--score_map_process", "integrated_grad", "--integrated_grad_nr_iter", "2"]
ERASE = ["--erase_k", "0.02", "0.1", "0.3"]


def evaluated(
    script: ModuleType, read: Callable[[Path], object], given: list[str], folder: Path
) -> object:
    """What a script writes."""
    AcceleratorState._reset_state(True)  # one precision a process
    try:
        script.main([*given, "--output_dir", str(folder)])
    finally:
        AcceleratorState._reset_state(True)
    return read(folder)


@pytest.fixture(scope="module")
def outcome_without(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """What a script writes where the flag isn't given; each is run once."""
    known: dict[tuple[str, ...], object] = {}

    def outcome(script: ModuleType, read: Callable[[Path], object], given: list[str]) -> object:
        key = (script.__name__, *given)
        if key not in known:
            known[key] = evaluated(script, read, given, tmp_path_factory.mktemp("without") / "r")
        return known[key]

    return outcome


@pytest.mark.parametrize(
    ("script", "read", "common", "flag"),
    [
        (eval_pixel_perturb, erased, [], ["--erase_k", "0.5"]),
        (eval_pixel_perturb, erased, ERASE, ["--erase_seed", "1"]),
        (eval_pixel_perturb, erased, ERASE, ["--erase_repeats", "2"]),
        (eval_pixel_perturb, erased, ERASE, ["--baseline", "blur"]),
        (eval_pixel_perturb, erased, ERASE, ["--auc_steps", "2"]),
        (eval_pixel_perturb, erased, ERASE, ["--score_map_process", "vanilla"]),
        (eval_pixel_perturb, erased, ERASE, ["--image_list", "LIST"]),
        (eval_pixel_perturb, erased, ERASE, ["--crop_size", "32"]),
        (eval_cue_location, rows_of_pairs, [], ["--norm_type", "clipping"]),
        (eval_cue_location, rows_of_pairs, [], ["--threshold_type", "log"]),
        (eval_cue_location, rows_of_pairs, [], ["--cam_curve_interval", "0.1"]),
        (eval_cue_location, rows_of_pairs, [], ["--foreground", "box"]),
        (eval_cue_location, rows_of_pairs, [], ["--cue_protocol", "released"]),
        (eval_cue_location, rows_of_pairs, [], ["--max_pairs", "1"]),
        (eval_cue_location, rows_of_pairs, [], ["--image_list", "LIST"]),
        (eval_cue_location, rows_of_pairs, [], ["--smoothing_ksize", "5"]),
        (eval_wsol, boxes, [], ["--cam_curve_interval", "0.3"]),
        (eval_wsol, boxes, [], ["--iou_thresholds", "20"]),
        (eval_wsol, boxes, [], ["--multi_contour_eval", "False"]),
        (eval_wsol, boxes, [], ["--save_maps"]),
        (eval_wsol, boxes, [], ["--image_list", "LIST"]),
        (eval_wsol, boxes, ["--save_maps"], ["--smoothing_ksize", "5"]),
        (eval_wsol, boxes, ["--save_maps"], ["--mixed_precision", "bf16"]),
        (eval_wsol, boxes, ["--save_maps", *NOISY], ["--smooth_grad_nr_iter", "3"]),
        (eval_wsol, boxes, ["--save_maps", *NOISY], ["--smooth_grad_sigma", "9"]),
        (eval_wsol, boxes, ["--save_maps", *NOISY], ["--seed", "5"]),
        (eval_wsol, boxes, ["--save_maps", *PATH], ["--integrated_grad_nr_iter", "3"]),
        (eval_wsol, boxes, ["--save_maps", *PATH], ["--ig_variant", "standard"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_each_flag_of_an_evaluation_acts(
    birds: Path,
    save_root: Path,
    tmp_path: Path,
    outcome_without: Callable,
    script: ModuleType,
    read: Callable[[Path], object],
    common: list[str],
    flag: list[str],
) -> None:
    ids = (birds / "metadata/CUB/test/image_ids.txt").read_text().splitlines()
    (tmp_path / "list").write_text("\n".join(ids[::2]))
    flag = [str(tmp_path / "list") if word == "LIST" else word for word in flag]
    given = ["--cpu", "--data_root", str(birds), "--save_root", str(save_root)]
    given += ["--experiment_name=em"]
    given += [] if "--score_map_process" in common else ["--score_map_process=jointll"]
    given += ["--norm_type=max"] if script is eval_cue_location else []
    given += ["--cam_curve_interval=0.02"] if script is eval_wsol else []
    without = outcome_without(script, read, [*given, *common])
    assert evaluated(script, read, [*given, *common, *flag], tmp_path / "with") != without


def commands_of_the_readme() -> list[list[str]]:
    """Every `python SCRIPT.py ...` line of calm/README.md, split into words.

    Those with a shell's variable or of own data are left out: tests/e2e runs them.
    """
    text = Path(training.__file__).with_name("README.md").read_text().replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        words = (
            shlex.split(line.strip().removesuffix("&"), comments=True)
            if line.strip().startswith("python ")
            and not re.search(r"\$|\bDIR/|\bRUN\b|--weights DATA/", line)
            else []
        )
        if len(words) > 1 and words[1].endswith(".py"):
            found.append(words[1:])
    return found


def test_the_readmes_commands_are_accepted() -> None:
    """Each script is content with the flags that it prints; idle ones are the original's."""
    seen = set()
    for script, *given in commands_of_the_readme():
        seen.add(script)
        name = script.removesuffix(".py")
        if name in table.PLACES:
            assert set(parse_flags(given, script=name).idle) <= table.ORIGINALS
        elif name == "compare_methods":
            comparison = parse_compare(given)
            for method in comparison.args.methods:
                of_run = [*comparison.passed_on, f"--attribution_method={method}"]
                settings = parse_flags(of_run, script="compare_methods")
                for script in ("main", "eval_remove_classify", "eval_cue_location", "eval_wsol"):
                    passed = as_arguments(settings, script)
                    assert not parse_flags(passed, script=script).idle
    wanted = {f"{name}.py" for name in table.PLACES if name != "eval_remove_classify"}
    assert seen >= {*wanted, "compare_methods.py"}
