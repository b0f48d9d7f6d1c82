"""A small repository with made-up results: two papers are there, three are not."""

import json
import struct
import zlib
from pathlib import Path

import pytest

from sidebyside.results import CURVES, OURS, PAPER, SEEDS, write


def pytest_configure(config: pytest.Config) -> None:
    """The marker of tests/compare/test_browser.py."""
    config.addinivalue_line("markers", "browser: needs Chromium; `make test-browser` runs these")


README = """# {title}

Reproduces [the paper](https://example.org/{name}).

![selected maps](results/figures/maps.png)

## Deviations

| detail | paper | released code | ours | switch |
| --- | --- | --- | --- | --- |
| mask | excluded | `CAV` times **Y** <b> | excluded | `-mask product\\|candidates` |
| warm-up | epoch 1 | same | same | `-warmup N` |

## Citation
| not | this |
| --- | --- |
| x | y |
"""


def ours_row(
    method: str, mean: object, std: object = "", n: object = 3, **cells: object
) -> dict[str, object]:
    """A row of ours.csv; MNIST, USS, test accuracy by default."""
    base = dict.fromkeys(OURS, "")
    base.update(
        dataset="MNIST",
        setting="USS",
        metric="test accuracy %",
        protocol="last-10 mean",
        seeds="0 1 2",
    )
    base.update(
        command="python main.py -seeds 0,1,2",
        commit="abc1234",
        device="x86_64 1x1 threads",
        torch="2.13.0",
    )
    return {**base, "method": method, "mean": mean, "std": std, "n": n, **cells}


def paper_row(method: str, value: object, **cells: object) -> dict[str, object]:
    """A row of paper.csv for the same task."""
    base = dict.fromkeys(PAPER, "")
    base.update(
        dataset="MNIST",
        setting="USS",
        metric="test accuracy %",
        protocol="last-10 mean",
        table="table 1",
    )
    return {**base, "method": method, "value": value, **cells}


def png(path: Path, width: int = 60, height: int = 40) -> None:
    """A small PNG without any package: a gradient."""
    rows = b"".join(
        b"\0" + bytes((x * 4, y * 6, 120)[k] for x in range(width) for k in range(3))
        for y in range(height)
    )
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def run_folder(
    root: Path, method: str, seed: int, values: list[float], fold: int | None = None
) -> Path:
    """A finished cavl run: test accuracy by epoch, the last one in summary.json."""
    folder = root / (f"{method}-seed{seed}" + ("" if fold is None else f"-fold{fold}"))
    folder.mkdir(parents=True)
    settings = {
        "method": method,
        "seed": seed,
        "fold": fold,
        "ds": "mnist",
        "partial_type": "uss",
        "sample": False,
    }
    config = {
        "settings": settings,
        "launches": [{"command": f"main.py -method {method} --seed {seed}"}],
        "commit": "abc",
    }
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {"step": e, "epoch": e, "split": "test", "accuracy": v} for e, v in enumerate(values, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {
        "disambiguation": 0.5,
        "accuracy": values[-1],
        "wall_seconds": 60.0,
        "offline_sample": False,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


CLAIMS = {
    "cavl": """
[[claim]]
name = "better than averaging"
statement = "Selecting beats averaging."
source = "abstract"
registered = 2030-01-01
better = { method = "cavl" }
worse = { method = "uniform" }
endpoint = { metric = "test accuracy %" }
margins = [{ dataset = ".*", delta = 1.0 }]
seeds = 3
command = "python main.py -compare cavl,uniform"
""",
    "csl": """
[[claim]]
name = "best with few labels"
statement = "Selective training beats ignoring."
registered = 2030-01-01
better = { method = "CSL" }
worse = { method = "ignore.*" }
where = { setting = "FPC.*" }
endpoint = { metric = "mAP.*", protocol = "last epoch" }
margins = [{ dataset = ".*", delta = 1.0 }]
seeds = 3
command = "python train.py --compare all"

[[claim]]
name = "Open Images"
statement = "The same on Open Images."
registered = 2030-01-01
better = { method = "CSL" }
worse = { method = "ignore.*" }
where = { dataset = "Open Images" }
endpoint = { metric = "mAP.*" }
margins = [{ dataset = ".*", delta = 1.0 }]
seeds = 3
command = "python train.py --data DATA/OpenImages"
""",
}


def make_repository(root: Path) -> Path:
    """cavl with a decided claim, an open one and sample rows; csl with paper's numbers and ours."""
    for name, title in (("cavl", "CAVL: partial labels"), ("csl", "CSL: partial annotations")):
        png(root / name / "results" / "figures" / "maps.png")
        (root / name / "README.md").write_text(README.format(title=title, name=name))
    runs = "cavl-seed0 cavl-seed1 cavl-seed2"
    cavl = [
        ours_row(
            "cavl", "97.0000", "1.0000", run=runs, data_sha="d1", date="2030-01-01", minutes="3.0"
        ),
        ours_row("uniform", "93.0000", "1.0000", run=runs.replace("cavl", "uniform")),
        ours_row("rc", "97.5000", "1.0000"),
        ours_row(
            "cavl",
            "84.2000",
            "0.5000",
            dataset="MNIST (offline sample)",
            command="python main.py --sample",
        ),
        ours_row(
            "uniform",
            "61.3000",
            "0.5000",
            dataset="MNIST (offline sample)",
            command="python main.py --sample",
        ),
    ]
    write(root / "cavl" / "results" / "ours.csv", cavl)
    write(
        root / "cavl" / "results" / "paper.csv",
        [paper_row("cavl", "", note="could not be read")],
        PAPER,
    )
    task = {c: ours_row("cavl", "")[c] for c in SEEDS[1:5]}
    by_seed = {"cavl": (96.0, 97.0, 98.0), "uniform": (92.0, 93.0, 94.0)}
    seeds = [
        {**task, "method": m, "seed": s, "value": v}
        for m, own in by_seed.items()
        for s, v in enumerate(own)
    ]
    write(root / "cavl" / "results" / "seeds.csv", seeds, SEEDS)
    points = {"cavl": (50.0, 97.0), "uniform": (40.0, 93.0)}
    drawn = {"dataset": "MNIST", "setting": "USS", "curve": "test/accuracy", "std": 1.0, "n": 3}
    curves = [
        {**drawn, "method": m, "epoch": e, "mean": v}
        for m, own in points.items()
        for e, v in enumerate(own, 1)
    ]
    write(root / "cavl" / "results" / "curves.csv", curves, CURVES)
    coco = dict(dataset="COCO", setting="FPC 1000", metric="mAP %", protocol="last epoch")
    csl = [ours_row("CSL", "82.9000", "0.3000", **coco)]
    csl.append(ours_row("Ignore, CE", "76.0000", "", 1, seeds="0", **coco))
    write(root / "csl" / "results" / "ours.csv", csl)
    published = [paper_row("CSL", 83.44, **coco), paper_row("Ignore, CE", 76.46, **coco)]
    published.append(paper_row("CSL", 83.44, **{**coco, "protocol": "best epoch"}))
    write(root / "csl" / "results" / "paper.csv", published, PAPER)
    for name, text in CLAIMS.items():
        (root / name / "results" / "claims.toml").write_text(text)
    return root


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The made-up repository."""
    return make_repository(tmp_path / "repository")


@pytest.fixture
def run_folders(tmp_path: Path) -> Path:
    """Three seeds of two methods; their last accuracies are the repository's two first rows."""
    root = tmp_path / "save"
    for seed, (cavl, uniform) in enumerate([(0.96, 0.92), (0.97, 0.93), (0.98, 0.94)]):
        run_folder(root, "cavl", seed, [0.5, 0.8, 0.9, cavl])
        run_folder(root, "uniform", seed, [0.4, 0.7, 0.8, uniform])
    return root
