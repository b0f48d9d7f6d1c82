"""What several test files of mile use: a run of seconds, and comparing two runs exactly."""

import json
from pathlib import Path

import torch
from PIL import Image

from mile import MILe as entry
from mile.config import config
from mile.method import Plan
from mile.options import parse
from tests.equality import same

# A run of a few seconds on the digits' sample: 2 generations of (1 +) 3 interactive and 2 imitation
# steps.
TINY = {
    **{
        "dataset": "mnist",
        "mnist_grids": 90,
        "mnist_test_grids": 40,
        "batch_size": 16,
        "mnist_size": 28,
    },
    **{"k_t": 3, "k_s": 2, "warmup": 1, "total_steps": 11},
}


def conf_of(**settings):
    """A config class with other settings, as a user edits it."""
    return type("conf", (config,), {"device": "cpu", "num_workers": 0, **settings})


def folder_conf(root, *more):
    """The Settings of a run on the folders train/ and val/ of `root`."""
    paths = ["--data_path", str(root / "train"), "--val_path", str(root / "val")]
    shape = ["--image_size", "32", "--batch_size", "4", "--num_workers", "0"]
    return parse([*paths, *shape, *more])


def plan_of(**settings):
    """method.Plan; what is not named is as config.py delivers it, with passes of 50 steps."""
    delivered = {"schema": "MILe", "k_t": 8000, "k_s": 2000, "warmup": 0}
    delivered |= {"generations": 100, "total_steps": 0, "pass_steps": 50}
    return Plan(**{**delivered, **settings})


def flags(**settings):
    """Settings as flags; True as a switch."""
    return [
        part
        for k, v in settings.items()
        for part in ([f"--{k}"] if v is True else [f"--{k}", str(v)])
    ]


def tiny(settings: dict) -> dict:
    """Those of TINY that `settings` do not name and that act beside them.

    Others would be refused.
    """
    of_grids = ("mnist_grids", "mnist_test_grids", "mnist_size")
    is_grids = settings.get("dataset", "mnist") == "mnist"
    imitates = settings.get("schema", "MILe") == "MILe"
    idle = {*(() if is_grids else of_grids), *(() if imitates else ("k_t", "k_s", "warmup"))}
    return {
        name: value for name, value in TINY.items() if name not in idle and name not in settings
    }


def run(folder: Path, *more: str, **settings) -> dict:
    """Run MILe.py on the sample in process; the summary."""
    own = [
        "--sample",
        "--cpu",
        "--output_dir",
        str(folder),
        "--checkpoint_path",
        str(folder.parent / "weights"),
    ]
    entry.main([*own, *flags(**tiny(settings), **settings), *more])
    return json.loads((folder / "summary.json").read_text())


def write_folders(root: Path, classes: list[str], train: int = 4, val: int = 2) -> Path:
    """Class folders of black pictures, train/CLASS/CLASS_t0.png and val/CLASS/CLASS_v0.png.

    Returns the root.
    """
    for part, count in (("train", train), ("val", val)):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8)).save(root / part / name / f"{name}_{part[0]}{i}.png")
    return root


def run_folders(root: Path, folder: Path, *more: str, **settings) -> dict:
    """Two steps of MILe.py on the class folders of `root`; the summary."""
    own = {
        "dataset": "folder",
        "data_path": root / "train",
        "val_path": root / "val",
        "num_workers": 0,
    }
    own |= {
        "model": "small",
        "image_size": 8,
        "batch_size": 4,
        "k_t": 1,
        "k_s": 1,
        "total_steps": 2,
    }
    places = {"output_dir": folder, "checkpoint_path": folder.parent / "weights"}
    entry.main(["--cpu", *flags(**own | places | settings), *more])
    return json.loads((folder / "summary.json").read_text())


def state(folder: Path) -> dict:
    """The last checkpoint, without the seconds it took."""
    saved = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    saved["progress"].pop("seconds")
    return saved


def assert_same_run(one: Path, other: Path) -> None:
    """metrics.jsonl and output.txt byte for byte, every tensor of last.pt, the summary."""
    for name in ("metrics.jsonl", "output.txt"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    a, b = state(one), state(other)
    assert a.keys() == b.keys()
    for key in a.keys() - {"settings"}:
        assert same(a[key], b[key]), key
    timing = ("wall_seconds", "images_per_second")
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    assert [{k: v for k, v in s.items() if k not in timing} for s in summaries][0] == {
        k: v for k, v in summaries[1].items() if k not in timing
    }


def lines_of(folder: Path, split: str) -> list[dict]:
    """The lines of one split of metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]
