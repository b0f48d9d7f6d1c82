"""The commands of the originals' READMEs, word for word, in a copy of what is committed.

No data set is there: a training command runs on the offline sample to its end; one that needs what
only the user has ends in one line.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sidebyside.results import ROOT

pytestmark = pytest.mark.slow

CALM = (
    "--experiment_name=experiment_name/ --architecture=resnet50 --attribution_method=CALM_EM "
    "--dataset=CUB --use_bn=True --large_feature_map=True"
)
CALM_MAPS = (
    "--use_load_checkpoint=True --score_map_process=jointll --norm_type=clipping --load_checkpoint="
)
OASS_SCRIPT = "python3 train_classification_with_puzzle_cTopk_w_ema.py"
OASS = "--architecture resnet50 --alpha_schedule_re 0.05 --alpha_re 3.00 --alpha_p 0.5"
CSL_RPS = (
    "--gamma_pos=0 --gamma_neg=1 --gamma_unann=4 --simulate_partial_type=rps "
    "--simulate_partial_param=0.5"
)
CSL_FPC = (
    "--gamma_pos=0 --gamma_neg=3 --gamma_unann=4 --simulate_partial_type=fpc "
    "--simulate_partial_param=1000"
)
CSL = "--partial_loss_mode=selective --likelihood_topk=5 --prior_threshold=0.5"
CSL_FILES = (
    "--model-path=models/pretrain/mtresnet_21k --prior_path=./outputs/priors/prior_fpc_1000.csv"
)
INFER = (
    "python infer.py --dataset_type=OpenImages --model_name=tresnet_m "
    "--model_path=./models_local/mtresnet_opim_86.72.pth "
    "--pic_path=./pics/10162266293_c7634cbda9_o.jpg --input_size=224"
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A copy of the tracked files, as a fresh clone has them."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def shell(clone, tmp_path_factory):
    """Run a command line in a paper's folder of the copy, with this `python` and no data."""
    environment = {k: v for k, v in os.environ.items() if k != "WSL_DATA_DIR"}
    environment["PYTHONPATH"] = str(clone)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["your_dir"] = str(tmp_path_factory.mktemp("devkit"))

    def run(paper: str, line: str, status: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=clone / paper,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert done.returncode == status, done.stdout[-2000:] + done.stderr[-2000:]
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return run


def results(clone: Path, paper: str, output: str) -> dict:
    """summary.json of the run whose directory the last line names."""
    line = next(line for line in reversed(output.splitlines()) if line.startswith("results: "))
    return json.loads((clone / paper / line.removeprefix("results: ") / "summary.json").read_text())


@pytest.mark.parametrize(
    "paper, line, says",
    [
        (
            "csl",
            f"python train.py --data=/datasets/COCO/COCO_2014 {CSL_RPS} {CSL} {CSL_FILES}",
            "COCO_2014",
        ),
        (
            "csl",
            f"python train.py --data=/mnt/datasets/COCO/COCO_2014 {CSL_FPC} {CSL} {CSL_FILES}",
            "COCO_2014",
        ),
        ("csl", INFER, "mtresnet_opim_86.72.pth"),
        (
            "calm",
            f"python eval_pixel_perturb.py {CALM} {CALM_MAPS}checkpoint_name/",
            "checkpoint_name",
        ),
    ],
)
def test_what_only_the_user_has_is_asked_for_in_one_line(
    shell, paper, line, says
):  # before a run leaves one
    told = shell(paper, line, status=2).stderr.strip().splitlines()
    assert len(told) == 1 and says in told[0]


@pytest.mark.parametrize(
    "paper, line",
    [
        ("cavl", "python main.py"),
        ("csl", "python train.py --partial_loss_mode=selective"),
        ("csl", f"python train.py {CSL_RPS} {CSL}"),
        ("csl", f"python train.py {CSL_FPC} {CSL}"),
        ("mile", "python MILe.py"),
        ("oass", f"python3 train_classification_with_puzzle_max.py {OASS} --tag ResNet50_Max"),
        (
            "oass",
            f"python3 train_classification_with_puzzle_cMax_ema.py {OASS} --tag ResNet50_cMax",
        ),
        (
            "oass",
            f"python3 train_classification_with_puzzle_cTopk_ema.py {OASS} --tag ResNet50_cTopk",
        ),
        (
            "oass",
            f"{OASS_SCRIPT} {OASS} --tag ResNet50_cTopk_w",
        ),
    ],
)
def test_a_training_command_runs_on_the_sample_and_says_so(clone, shell, paper, line):
    done = shell(paper, line)
    assert "offline sample" in "\n".join(done.stdout.splitlines()[:5])
    assert results(clone, paper, done.stdout)["wall_seconds"] > 0


def test_a_devkit_that_is_given_is_taken(clone, shell):
    shell("oass", 'python -m common.samples VOC2012 "$your_dir"')
    line = f"{OASS_SCRIPT} {OASS} --tag ResNet50_devkit --data_dir $your_dir"
    assert results(clone, "oass", shell("oass", line).stdout)["wall_seconds"] > 0


def test_calm_trains_and_both_evaluations_run_side_by_side(clone, shell):
    assert (
        results(clone, "calm", shell("calm", f"python main.py {CALM}").stdout)["wall_seconds"] > 0
    )
    erase, cues = (
        f"python eval_{name}.py {CALM} {CALM_MAPS}save/experiment_name/"
        for name in ("pixel_perturb", "cue_location")
    )
    first = f"{erase} > erase.txt & first=$!"
    second = f"{cues} --threshold_type=log > cues.txt & wait $first && wait $!"
    shell("calm", f"{first}; {second}")
    for name in ("erase.txt", "cues.txt"):
        assert results(clone, "calm", (clone / "calm" / name).read_text())["wall_seconds"] > 0


def test_inference_runs_on_the_sample(shell):
    shell("csl", "python infer.py --sample")
