"""Memory of the largest data: four sizes, before and after; most measured small and extrapolated.

    python benchmarks/memory.py              # about five minutes
    python benchmarks/memory.py --only coco

"Before" is what the code did until its arrays were made once: it is spelled out here. Each figure
is the rise of a process's peak, in bytes of the input, times the full size.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from common.peak import peak_memory
{prepare}
first = peak_memory()
began = time.perf_counter()
{code}
print(json.dumps([peak_memory() - first, time.perf_counter() - began]))
"""

SCORES = """
import torch
from torch import nn
from accelerate import Accelerator
from csl.evaluate import predict_rows
N, C, B = 16384, 3000, 256
class Loader:
    batch_sampler = [[(0, i) for i in range(s, s + B)] for s in range(0, N, B)]
    def __iter__(self):
        for keys in self.batch_sampler:
            yield torch.zeros(B, 1), torch.zeros(B, C, dtype=torch.int8)
models = [nn.Linear(1, C), nn.Linear(1, C)]
accelerator = Accelerator(cpu=True)
"""
SCORES_BEFORE = """
with torch.inference_mode():
    parts = [[], []]
    for images, _ in Loader():
        for model, of_model in zip(models, parts):
            of_model.append(model(images).float().sigmoid())
    whole = [torch.cat(part) for part in parts]
    order = torch.arange(N).argsort()
    whole = [torch.cat([values])[order] for values in whole]
"""
SCORES_AFTER = """
found = predict_rows(models, Loader(), accelerator, numbers=nn.Identity(), half={half})
"""

FOLDERS = """
from csl.data_listing import FolderListing, places_of_names
from csl.data_openimages import LONG_FOLDERS
root = Path({folder!r})
names = [f"train/{{k:016x}}.jpg" for k in range(100_000)]
if not root.exists():
    (root / "train").mkdir(parents=True)
    for name in names:
        (root / name).touch()
    time.sleep(2.5)
"""
FOLDERS_BEFORE = """
listing = FolderListing()
folders = [next((n for n, f in enumerate(LONG_FOLDERS) if root / f / name in listing), 0)
           for name in names]
paths = [root / LONG_FOLDERS[n] / name for n, name in zip(folders, names)]
listing = FolderListing()
there = [path in listing for path in paths]
"""
FOLDERS_AFTER = "places_of_names(root, names, LONG_FOLDERS)"

COCO = """
import os, random
from common.own_coco import read_coco
from common.text import read_json
from csl.data_coco import CocoDetection
path = Path({folder!r}) / "instances.json"
if not path.exists():
    draw = random.Random(0)
    images = [{{"id": n, "file_name": f"{{n:012d}}.jpg", "height": 480, "width": 640, "license": 3,
        "coco_url": f"http://images.cocodataset.org/train2017/{{n:012d}}.jpg",
        "flickr_url": "x" * 58, "date_captured": "2013-11-14 17:02:52"}} for n in range(8000)]
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        file.write('{{"images": ' + json.dumps(images) + ', "annotations": [')
        for n in range(58_000):
            outline = [round(draw.uniform(0, 640), 2) for _ in range(46)]
            file.write(("," if n else "") + json.dumps({{"id": n, "image_id": n % 8000, "area": 1.5,
                "category_id": 1 + n % 80, "iscrowd": 0, "bbox": [1.25, 2.5, 300.75, 200.0],
                "segmentation": [outline]}}))
        names = [{{"id": 1 + n, "name": f"name {{n}}"}} for n in range(80)]
        file.write('], "categories": ' + json.dumps(names) + "}}")
    (path.parent / f"{{0:012d}}.jpg").touch()
    os.utime(path, (1e9, 1e9))
"""

SETS = """
import numpy as np, torch
from types import SimpleNamespace
from accelerate import Accelerator
from cavl import data_sets, method
from cavl.build_candidates import _drawn_in_blocks
from cavl.data_labels import LabelState
K = 1000
generator = np.random.default_rng(0)
args = SimpleNamespace(partial_type="uss", q=0.1)
"""
SETS_BEFORE = """
labels = np.arange(40_000) % K
sets = method.draw_uniform_sets(labels, K, generator).to(torch.uint8)
state = LabelState(method.CAVL(), sets, Accelerator(cpu=True)).state_dict()
"""
SETS_AFTER = """
labels = np.arange(1_281_167) % K  # the full size: it fits
sets = _drawn_in_blocks(args, labels, K, generator)
state = LabelState(method.CAVL(), sets, Accelerator(cpu=True)).state_dict()
"""


def measured(prepare: str, code: str, folder: Path) -> tuple[float, float]:
    """Bytes by which the peak rises, and seconds, in a process of its own."""
    program = PROGRAM.format(root=str(ROOT), prepare=prepare, code=code)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "WSL_SAMPLE_DIR": str(folder / "cache")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rise, seconds = json.loads(done.stdout.splitlines()[-1])
    return rise, seconds


def rows(folder: Path) -> dict[str, tuple[str, list[tuple[str, str]], list[float], str]]:
    """Name -> what is prepared, (label, code) of each way, their factors to full size, the size."""
    here = {"folder": str(folder / "data")}
    coco_before = "content = read_json(path, dict)"
    return {
        "scores": (
            SCORES,
            [
                ("before", SCORES_BEFORE),
                ("float32", SCORES_AFTER.format(half=False)),
                ("float16", SCORES_AFTER.format(half=True)),
            ],
            3 * [125_436 * 9605 / (16384 * 3000)],
            "125k x 9,605, two models",
        ),
        "folders": (
            FOLDERS.format(**here),
            [
                ("before", FOLDERS_BEFORE),
                ("first start", FOLDERS_AFTER),
                ("later start", FOLDERS_AFTER),
            ],
            3 * [90],
            "9 M pictures",
        ),
        "coco": (
            COCO.format(folder=str(folder)),
            [
                ("before", coco_before),
                ("csl, read", "CocoDetection(path.parent, path)"),
                ("csl, from the cache", "CocoDetection(path.parent, path)"),
                ("own data, read", "read_coco(path)"),
                ("own data, from the cache", "read_coco(path)"),
            ],
            5 * [118_287 / 8000],
            "118k pictures",
        ),
        "sets": (
            SETS,
            [("before", SETS_BEFORE), ("bits", SETS_AFTER)],
            [1_281_167 / 40_000, 1],
            "1.28 M x 1,000",
        ),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="scores, folders, coco or sets")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for what, (prepare, ways, factors, size) in rows(Path(name)).items():
            if args.only not in what:
                continue
            if what in ("folders", "coco"):
                measured(prepare, "pass", Path(name))  # makes the files
            base = None
            for (label, code), factor in zip(ways, factors, strict=True):
                rise, seconds = measured(prepare, code, Path(name))
                base = base or rise * factor
                print(
                    f"{what:8} {label:25} {rise / 1e6:8.1f} MB {seconds:7.2f} s   at {size}:"
                    f" {rise * factor / 1e9:6.2f} GB {seconds * factor:7.0f} s"
                    f"   ratio {rise * factor / base:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s")
