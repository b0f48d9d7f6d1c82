"""The offline samples: small data sets in the official layouts, of scikit-learn's digits.

    folder = ensure("MNIST")                 # drawn into the cache on first use
    draw("MNIST", Path("somewhere"))         # or into a folder of one's own
    is_sample(Path("data/mnist"))            # does this data path point at a sample?

A new sample is one line in `REGISTRY` and one file beside this one, with a function
`draw_x(folder: Path, rng: np.random.Generator) -> dict[str, int]` that writes the files into the
empty folder and returns the counts. Raise the version whenever a sample's pictures change: the
cache folder carries it, so nobody keeps old pictures.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.locks import locked
from common.text import expanded, read_json

MARKER = "SAMPLE.json"
BEGUN = ".SAMPLE.json.part"  # the marker of a folder that is being written
SEED = 0


class Sample(NamedTuple):
    """One line of the registry; the module is imported only when the sample is drawn.

    Another name of the marker file keeps the folder from passing for a sample: it is taken as real
    data.
    """

    module: str
    function: str
    version: int
    description: str
    marker: str = MARKER


REGISTRY = {
    "MNIST": Sample(".mnist", "draw_noisy", 1, "noisy digits in MNIST's idx files (cavl)"),
    "MNIST_clean": Sample(".mnist", "draw_clean", 1, "the same without noise (mile)"),
    "CIFAR10": Sample(
        ".cifar10", "draw_cifar10", 1, "coloured digits in CIFAR-10's batches (cavl)"
    ),
    "PLL": Sample(".pll", "draw_pll", 1, "partial labels in the layout of Lost: lost.mat (cavl)"),
    "VOC2012": Sample(
        ".voc", "draw_voc", 2, "scenes of digits in VOC 2012's devkit, with masks (oass)"
    ),
    "ImageNet": Sample(
        ".imagenet", "draw_imagenet", 1, "digit scenes, class folders, real.json (mile)"
    ),
    "COCO_2014": Sample(
        ".multilabel", "draw_coco", 1, "scenes of digits in COCO 2014's layout (csl)"
    ),
    "OpenImages": Sample(
        ".multilabel", "draw_openimages", 1, "data.csv, 60 classes, few labels (csl)"
    ),
    "CUB": Sample(".cub", "draw_cub", 2, "drawn birds with parts and attributes (calm)"),
    "own": Sample(
        ".own", "draw_own", 1, "thirty pictures in all layouts of --data (all five)", ".drawn.json"
    ),
}


def names() -> list[str]:
    """The samples there are."""
    return list(REGISTRY)


def draw(name: str, folder: str | Path, seed: int = SEED) -> Path:
    """Draw the sample `name` into `folder` and return it; another `seed` draws other pictures.

    The folder may be missing, empty, or hold this very sample, whole or as far as a killed process
    got (its files are drawn anew); else UserError.
    """
    sample = _look_up(name)
    folder = expanded(folder)
    wanted = (name, sample.version, seed)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the sample")
    is_ours = wanted in (_marker_of(folder / sample.marker), _marker_of(folder / BEGUN))
    if folder.is_dir() and any(folder.iterdir()) and not is_ours:
        shown = f"{name}, version {sample.version}, seed {seed}"
        raise UserError(f"{folder} is not empty and not this sample ({shown}); give another")

    with tempfile.TemporaryDirectory() as temporary, _writing(folder):
        whole = Path(temporary) / name
        _write(name, whole, seed)
        folder.mkdir(exist_ok=True)
        shutil.copyfile(whole / sample.marker, folder / BEGUN)
        # The marker last: a copy that is interrupted does not pass for a sample.
        for path in sorted(whole.rglob("*"), key=lambda path: path.name == sample.marker):
            target = folder / path.relative_to(whole)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                shutil.copyfile(path, target)
        (folder / BEGUN).unlink()
    return folder


def ensure(name: str) -> Path:
    """The folder of the cached sample `name`, drawn on first use (one line on stdout says so).

    The cache is `cache_root()`. Safe for several processes at once: one draws, the others wait.
    """
    sample = _look_up(name)
    folder = cache_root() / f"{name}-v{sample.version}"
    if (folder / sample.marker).is_file():
        return folder
    with _writing(folder), locked(folder.with_name(f".{folder.name}.lock")):
        if not (folder / sample.marker).is_file():
            print(f"Drawing the offline sample {name} (once) into {folder}", flush=True)
            _clear_parts(folder.parent)
            _draw_and_rename(name, folder)
    return folder


def root_of(path: Path) -> Path | None:
    """The sample's folder where `path` or one of its next three parents is one, else None.

    Layouts nest, as MNIST/raw.
    """
    path = Path(os.path.realpath(path))  # Path.resolve raises for links that lead in a circle
    folders = [path, *list(path.parents)[:3]]
    return next((folder for folder in folders if (folder / MARKER).is_file()), None)


def is_sample(path: Path) -> bool:
    """Whether a data path points at a sample."""
    return root_of(path) is not None


def _look_up(name: str) -> Sample:
    if name not in REGISTRY:
        raise UserError(f"there is no offline sample {name!r}; there are: {', '.join(REGISTRY)}")
    return REGISTRY[name]


def cache_root() -> Path:
    """The folder of what can be made again: the environment's WSL_SAMPLE_DIR, else in ~/.cache.

    In place of ~/.cache, where it is set: XDG_CACHE_HOME.
    """
    given = os.environ.get("WSL_SAMPLE_DIR")
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(given or Path(caches, "weak-supervision-samples"))


def _write(name: str, folder: Path, seed: int = SEED) -> None:
    """Draw into the new folder `folder`; the marker comes last."""
    folder.mkdir()
    import numpy as np  # only a folder that is drawn needs it

    sample = REGISTRY[name]
    module = import_module(sample.module, __name__)
    # The name takes part in the seed, so that no two samples share their noise.
    counts = getattr(module, sample.function)(folder, np.random.default_rng([seed, *name.encode()]))
    marker = {
        "name": name,
        "version": sample.version,
        "seed": seed,
        "description": sample.description,
        "counts": counts,
    }
    (folder / sample.marker).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def _draw_and_rename(name: str, folder: Path) -> None:
    part = folder.with_name(f".{folder.name}.part")
    # The caller holds the lock, so whatever lies here was left by a killed process.
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(name, part)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _marker_of(path: Path) -> tuple[str, int, int] | None:
    """Name, version and seed that a marker file tells; None where there is none."""
    try:
        marker = read_json(path, dict)
        return marker["name"], marker["version"], marker["seed"]
    except (UserError, KeyError):
        return None


def _clear_parts(root: Path) -> None:
    """Remove what killed processes left in the cache, of other samples and versions too."""
    for part in root.glob(".*.part"):
        with suppress(BlockingIOError), locked(part.with_suffix(".lock"), wait=False):
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make the folder above; turn what the file system refuses into one line."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or error
        advice = "give another folder; the environment variable WSL_SAMPLE_DIR moves the cache"
        raise UserError(f"{folder}: the sample cannot be written ({reason}); {advice}") from error
