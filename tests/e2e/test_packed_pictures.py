"""Three training steps on pictures in shards are those on pictures in files, in all five papers."""

import subprocess
import sys

import pytest
import torch

from common import samples
from common.shards_pack import main as pack
from tests.e2e.cluster import ROOT
from tests.equality import same

STEPS = "3"
# The script and its flags, the table of own data that it trains on, and what of the saved state
# is compared.
PAPERS = {
    "cavl": ("main.py -depth 8 -mo resnet -bs 8 -augment", "candidates.csv", ("model",)),
    "oass": (
        "train_classification_with_puzzle_cTopk_w_ema.py --architecture resnet_tiny --weights none"
        " --image_size 64 --min_image_size 64 --max_image_size 96 --batch_size 8 --num_workers 0",
        "multi.csv",
        ("model", "teacher"),
    ),
    "calm": (
        "main.py --attribution_method=CALM_EM --architecture=small --pretrained=False"
        " --crop_size=64 --resize_size=68 --batch_size=8 --workers=0",
        "complete.csv",
        ("model",),
    ),
    "csl": (
        "train.py --partial_loss_mode selective --model_name tresnet_tiny --image_size 64"
        " --batch_size 8 --likelihood_topk 1 --augment shift --workers 0",
        "partial.csv",
        ("model", "ema"),
    ),
    "mile": (
        "MILe.py --model small --image_size 32 --batch_size 8 --num_workers 0 --lr 0.03",
        "complete.csv",
        ("learner",),
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Own data with the pictures as files, and with the pictures in shards."""
    place = tmp_path_factory.mktemp("own")
    plain = samples.draw("own", place / "plain")
    pack(["pack", str(plain), str(place / "packed")])
    assert not list((place / "packed").rglob("*.png"))
    return plain, place / "packed"


def trained(paper, data, run):
    """The networks after three steps."""
    words, table, parts = PAPERS[paper]
    own = ["--data", str(data / table), "--max_steps", STEPS, "--output_dir", str(run), "--cpu"]
    command = [sys.executable, *words.split(), *own]
    done = subprocess.run(
        command, cwd=ROOT / paper, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["state"]
    return {part: state[part] for part in parts}


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_training_on_shards_is_training_on_files(paper, folders, tmp_path):
    plain, packed = folders
    of_files = trained(paper, plain, tmp_path / "files")
    of_shards = trained(paper, packed, tmp_path / "shards")
    assert same(of_files, of_shards)
