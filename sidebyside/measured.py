"""What run directories measured, as one row of ours.csv; and whether they are one experiment."""

import hashlib
import itertools
import re
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli import FREE_SETTINGS, LATER_SETTINGS, UserError
from common.text import decimal, read_json, whole
from sidebyside.metrics import Point, mean_curve, metric_lines
from sidebyside.wording import exact


def data_sha(folder: Path) -> str:
    """12 hex digits of a SHA-256 over names and contents: of a file, or of a folder's files."""
    folder = Path(folder)
    root = folder
    paths = sorted(folder.rglob("*"))
    if folder.is_file():
        root = folder.parent
        paths = [folder]

    digest = hashlib.sha256()
    for path in filter(Path.is_file, paths):
        name = path.relative_to(root).as_posix()
        digest.update(name.encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


METHOD_FILES = re.compile(r"method\w*\.py|fast\.py|baselines/\w+\.py")


def method_sha(root: Path, paper: str, commits: Iterable[str]) -> str:
    """12 hex digits of a SHA-256 over the paper's method as it stood at the commits of its runs.

    That is over names and contents of PAPER/method*.py, fast.py and baselines/*.py, in order. ""
    where a commit is not known here, had changes that were not committed, or they differ.
    """
    found = {_method_sha_at(root, paper, commit) for commit in commits}
    return found.pop() if len(found) == 1 else ""


def _method_sha_at(root: Path, paper: str, commit: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{7,40}", commit):
        return ""
    listed = _git(root, "ls-tree", "-r", "--name-only", commit, "--", f"{paper}/")
    if listed is None:
        return ""
    digest = hashlib.sha256()
    for name in sorted(listed.decode().splitlines()):
        if METHOD_FILES.fullmatch(name.removeprefix(f"{paper}/")):
            content = _git(root, "show", f"{commit}:{name}") or b""
            digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()[:12]


def _git(root: Path, *arguments: str) -> bytes | None:
    """What git says in the repository; None where it cannot."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def row_from_runs(
    folders: Sequence[Path],
    values: Mapping[int, Sequence[float]],
    *,
    paper: str = "",
    root: Path = Path(),
    data: Path | None = None,
    **fields: str,
) -> dict[str, Any]:
    """One row of ours.csv: mean and sample std (ddof 1) of the `values_by_seed` of run directories.

    `fields`: method, dataset, setting, metric, protocol, and `command` where one command made
    several runs. What differs between the runs (commit, torch, device) is told of all of them.
    `paper`, `root`: whose method's hash, from the repository there.
    """
    configs = list(map(_config, folders))
    seconds = sum(map(_seconds, folders))
    runs = list(itertools.chain.from_iterable(values.values()))

    spread = ""
    if len(runs) > 1:
        spread = exact(statistics.stdev(runs))
    checksum = ""
    if data is not None:
        checksum = data_sha(data)
    return {
        "mean": exact(statistics.fmean(runs)),
        "std": spread,
        "n": len(runs),
        "seeds": " ".join(map(str, values)),
        "command": configs[-1]["launches"][0]["command"],
        "commit": _each(config["commit"] for config in configs),
        "data_sha": checksum,
        "device": _each(map(_device, configs)),
        "torch": _each(config["packages"]["torch"] for config in configs),
        "minutes": f"{seconds / 60:.1f}",
        "date": max(config["launches"][-1]["time"][:10] for config in configs),
        "run": _each(Path(folder).name for folder in folders),
        "method_sha": method_sha(root, paper, [str(config["commit"]) for config in configs]),
        "superseded_by": "",
        **fields,
    }


def _each(values: Iterable[Any]) -> str:
    """The different ones, in the order in which they come."""
    return " ".join(dict.fromkeys(map(str, filter(None, values))))


def _device(config: dict[str, Any]) -> str:
    hardware = config["hardware"]
    return f"{hardware['device']} {hardware['processes']}x{hardware['threads']} threads"


def _config(folder: Path) -> dict[str, Any]:
    """config.json of a run; UserError where something is missing that a row of ours.csv tells."""
    path = Path(folder) / "config.json"
    config = read_json(path, dict)
    try:
        config["settings"].get("seed")
        config["launches"][0]["command"] + config["launches"][-1]["time"]
        (config["commit"], config["packages"]["torch"], _device(config))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not as a run writes it ({type(error).__name__}: {error})"
        ) from error
    return config


def _summary(folder: Path) -> dict[str, Any]:
    path = Path(folder) / "summary.json"
    if not path.is_file():
        raise UserError(f"{folder}: no readable summary.json; is it a finished run?")
    return read_json(path, dict)


def _seconds(folder: Path) -> float:
    return decimal(_summary(folder).get("wall_seconds"), f"{folder}/summary.json: wall_seconds")


def values_by_seed(folders: Sequence[Path], key: str, scale: float = 1.0) -> dict[int, list[float]]:
    """summary.json's `key` of run directories, times `scale`: seed -> values, one for each fold.

    UserError where they are not one experiment: a run twice, a seed twice (but for its folds),
    other settings.
    """
    values: dict[int, list[float]] = defaultdict(list)
    check_one_experiment(folders)
    for folder in folders:
        summary = _summary(folder)
        if summary.get(key) is None:
            raise UserError(f"{folder}/summary.json: has no {key}; it has {', '.join(summary)}")
        value = decimal(summary[key], f"{folder}/summary.json: {key}")
        values[_seed(folder)].append(value * scale)
    return dict(sorted(values.items()))


def _seed(folder: Path) -> int:
    seed = _config(folder)["settings"].get("seed")
    if seed is None:
        return 0
    return whole(seed, f"{folder}/config.json: seed")


def check_one_experiment(folders: Sequence[Path]) -> None:
    """UserError where a mean over these runs would be over different things, or one twice."""
    _check_each_counts_once(folders)
    first, *others = folders
    for other in others:
        _check_same_settings(first, other)


def _check_each_counts_once(folders: Sequence[Path]) -> None:
    """UserError for a run or a seed that is there twice, or a seed with fewer folds than others."""
    places: set[Path] = set()
    seen: dict[tuple[int, object], Path] = {}
    folds: dict[int, int] = defaultdict(int)
    for folder in folders:
        place = Path(folder).resolve()
        if place in places:
            raise UserError(f"{folder}: this run is given twice")
        places.add(place)

        seed = _seed(folder)
        fold = _config(folder)["settings"].get("fold")
        if (seed, fold) in seen:
            raise UserError(
                f"{folder}: seed {seed} is that of {seen[seed, fold]} too;"
                " a mean counts each seed once"
            )
        seen[seed, fold] = folder
        folds[seed] += 1

    if len(set(folds.values())) > 1:
        told = ", ".join(f"{count} of seed {seed}" for seed, count in sorted(folds.items()))
        raise UserError(f"not every seed has all its folds: {told}")


def _check_same_settings(first: Path, other: Path) -> None:
    """UserError naming the first setting in which two runs are not of one experiment."""
    of_first = {**LATER_SETTINGS, **_config(first)["settings"]}
    of_other = {**LATER_SETTINGS, **_config(other)["settings"]}
    for name in sorted({*of_first, *of_other} - _OWN):
        one = of_first.get(name)
        two = of_other.get(name)
        if one != two and not (_is_place(one) and _is_place(two)):
            raise UserError(
                f"{first} and {other} are no seeds of one experiment: {name} is {one!r} and {two!r}"
            )


# What the runs of one experiment may differ in.
_OWN = FREE_SETTINGS | {
    "seed",
    "seeds",
    "fold",
    "compare",
    "tag",
    "experiment_name",
    "checkpoint_path",
}


def _is_place(value: object) -> bool:
    """Whether a setting is a path: runs with data or a checkpoint of their own differ in these."""
    return isinstance(value, str) and ("/" in value or value.endswith((".pt", ".pth")))


def curve_of_runs(folders: Sequence[Path], curve: str) -> list[Point]:
    """The points of SPLIT/METRIC over run directories; UserError where they do not all have it."""
    split, _, metric = curve.partition("/")
    runs = []
    for folder in folders:
        path = Path(folder) / "metrics.jsonl"
        lines, faults = metric_lines(path)
        if faults:
            raise UserError(f"--curve {curve}: {path}: {faults[0]}")
        runs.append(lines)
    points = mean_curve(runs, split, metric)
    if not points or points[0].runs < len(folders):
        raise UserError(f"--curve {curve}: no epoch at which all {len(folders)} runs have it")
    return points
