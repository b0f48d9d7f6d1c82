"""A run with --compile is a run as any other: resumed, explained, evaluated and exported."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common import compiling
from common.errors import UserError
from tests.csl.tiny import write_coco
from tests.test_training_flags import PAPERS, whole_network

# What else takes a run: module and flags, with RUN, PICTURE and DATA in them.
TOOLS = {
    "cavl": ["cavl.explain --run RUN --image PICTURE"],
    "csl": [
        "csl.validate --data DATA --model_path RUN/checkpoints/last.pt --workers 0 --cpu"
        " --output_dir RUN/scored",
        "csl.infer --model_path RUN/checkpoints/last.pt --pic_path PICTURE --cpu --th 0"
        " --output_dir RUN/named",
    ],
    "mile": [
        "mile.explain --run RUN --image PICTURE",
        "mile.MILe --sample --dataset mnist --cpu --eval_only --pretrained"
        " RUN/checkpoints/last.pt --output_dir RUN/scored",
    ],
}
BATCH = 8
MORE = {"cavl": ["-mo", "convnet"]}  # its MLP has no maps to explain with
STEPS = {"csl": 7}  # more than an epoch: what is exported is the best of one; else 2


def main_of(module: str, flags: list[str]) -> None:
    importlib.import_module(module).main(flags)


def names_in(value: Any) -> set[str]:
    """The names in nested dicts and lists."""
    if isinstance(value, (list, tuple)):
        return set().union(*map(names_in, value))
    if not isinstance(value, dict):
        return set()
    return set(map(str, value)).union(*map(names_in, value.values()))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trains a paper, compiled, up to so many steps; gives the run."""
    data = write_coco(tmp_path / "data")

    def run(paper: str, steps: int, *more: str) -> Path:
        torch._dynamo.reset()
        flags = [*whole_network(paper, data, BATCH), *MORE.get(paper, []), *more]
        place = tmp_path / "run"
        cut = ["--compile", "--max_steps", str(steps), "--output_dir", str(place)]
        main_of(PAPERS[paper].module, [*flags, *cut])
        return place

    return run


@pytest.mark.slow
@pytest.mark.parametrize("paper", ["cavl", "csl", "mile"])  # one, two and two trained networks
def test_what_takes_a_run_takes_a_compiled_one(paper, train, picture, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "BACKEND", "aot_eager")  # the real one takes half a minute
        train(paper, 1)
        run = train(paper, STEPS.get(paper, 2), "--resume")
    files = sorted((run / "checkpoints").iterdir())
    assert files
    for file in files:
        saved = torch.load(file, weights_only=True)
        assert not [name for name in names_in(saved) if "_orig_mod" in name]

    for command in TOOLS[paper]:
        for word, place in (("RUN", run), ("PICTURE", picture), ("DATA", tmp_path / "data")):
            command = command.replace(word, str(place))
        module, *flags = command.split()
        main_of(module, flags)
    main_of("common.export", [str(run), "--to", "safetensors", "--out", str(tmp_path / "out")])
    assert list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.slow
def test_the_compiler_itself_compiles_a_run(train):
    try:
        compiling.require_compiler("cpu")
    except UserError as missing:
        pytest.skip(str(missing))
    assert (train("cavl", 2) / "checkpoints" / "last.pt").is_file()
