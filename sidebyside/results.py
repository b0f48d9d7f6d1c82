"""results/*.csv from run directories, and the README tables from the CSVs.

    python -m sidebyside.results add csl --method CSL --dataset COCO --setting "FPC 1000" --metric mAP \\
        --key mAP_model --protocol "last epoch" --scale 100 --curve test/mAP_model --data DIR RUN [RUN ...]
    python -m sidebyside.results tables          # rewrite the tables between the READMEs' markers

`add` writes ours.csv (a row: mean and spread), seeds.csv (the same number of each seed, so that methods are compared
seed by seed) and, with --curve, curves.csv (a line of metrics.jsonl over the epochs).
"""

import common.interrupt  # noqa: F401

import argparse
import csv
import hashlib
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli import OneLineParser, UserError, run_main

ROOT = Path(__file__).resolve().parent.parent
PAPERS = ("cavl", "oass", "calm", "csl", "mile")
OURS = (
    "method,dataset,setting,metric,protocol,mean,std,n,seeds,command,commit,data_sha,device,torch,minutes,date,run"
).split(",")
PAPER = "method,dataset,setting,metric,protocol,value,std,n,table,note".split(",")
SEEDS = [*OURS[:5], "seed", "value"]
CURVES = "method,dataset,setting,curve,epoch,mean,std,n".split(",")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a results file; UserError where its columns are not exactly those of DESIGN.md."""
    with Path(path).open(newline="") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or ()) != list(columns):
            raise UserError(f"{path}: columns {reader.fieldnames}, expected {','.join(columns)}")
        return list(reader)


def write(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str] = OURS) -> None:
    """Write a results file."""
    from common.checkpoint import atomic_write  # here, so that readers of the CSVs need not import torch

    lines = [",".join(columns)]
    for row in rows:
        cells = ["" if row.get(c) is None else str(row.get(c, "")) for c in columns]
        lines.append(",".join(f'"{c.replace(chr(34), chr(34) * 2)}"' if set(c) & set(',"\n') else c for c in cells))
    atomic_write(Path(path), ("\n".join(lines) + "\n").encode())


def data_sha(folder: Path) -> str:
    """The first 12 hex digits of a SHA-256 over the names and contents of a file, or of all files of a folder."""
    folder, digest = Path(folder), hashlib.sha256()
    for path in [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder.parent if folder.is_file() else folder).as_posix().encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def row_from_runs(
    folders: Sequence[Path], values: Mapping[int, Sequence[float]], *, data: Path | None = None, **fields: str
) -> dict[str, Any]:
    """One row of ours.csv: mean and sample std (ddof 1) of the `values_by_seed` of run directories.

    `fields`: method, dataset, setting, metric, protocol, and `command` where one command made several runs.
    """
    config = _json(folders[-1], "config.json")
    seconds = sum(float(_json(folder, "summary.json")["wall_seconds"]) for folder in folders)
    runs = [value for own in values.values() for value in own]
    hardware = config["hardware"]
    return {
        "mean": f"{statistics.fmean(runs):.4f}",
        "std": f"{statistics.stdev(runs):.4f}" if len(runs) > 1 else "",
        "n": len(runs),
        "seeds": " ".join(map(str, values)),
        "command": config["launches"][0]["command"],
        "commit": config["commit"],
        "data_sha": data_sha(data) if data else "",
        "device": f"{hardware['device']} {hardware['processes']}x{hardware['threads']} threads",
        "torch": config["packages"]["torch"],
        "minutes": f"{seconds / 60:.1f}",
        "date": config["launches"][-1]["time"][:10],
        "run": " ".join(dict.fromkeys(Path(f).name for f in folders)),
        **fields,
    }


def values_by_seed(folders: Sequence[Path], key: str, scale: float = 1.0) -> dict[int, list[float]]:
    """summary.json's `key` of run directories, times `scale`: seed -> values (several where a seed has folds)."""
    values: dict[int, list[float]] = defaultdict(list)
    for folder in folders:
        summary = _json(folder, "summary.json")
        if summary.get(key) is None:
            raise UserError(f"{folder}/summary.json: has no {key}; it has {', '.join(summary)}")
        seed = _json(folder, "config.json")["settings"].get("seed") or 0
        values[int(seed)].append(float(summary[key]) * scale)
    return dict(sorted(values.items()))


def mean_curve(runs: Sequence[Sequence[dict]], split: str, metric: str) -> list[tuple[int, float, float, int]]:
    """Epoch, mean, sample deviation (0 for one run) and n over the metrics lines of several runs.

    Of several lines of an epoch the last counts (a resumed run); epochs that fewer runs have than others are left out.
    """
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for lines in runs:
        known = [l for l in lines if l.get("split") == split and is_number(l.get(metric))]
        for epoch, value in {l["epoch"]: float(l[metric]) for l in known}.items():
            by_epoch[epoch].append(value)
    most = max(map(len, by_epoch.values()), default=0)
    whole = {e: v for e, v in sorted(by_epoch.items()) if len(v) == most}
    return [(e, statistics.fmean(v), statistics.stdev(v) if most > 1 else 0.0, most) for e, v in whole.items()]


def is_number(value: object) -> bool:
    """Whether a metric is a finite number (a flag is none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def curve_of_runs(folders: Sequence[Path], curve: str) -> list[tuple[int, float, float, int]]:
    """`mean_curve` of SPLIT/METRIC over run directories; UserError where they do not all have it."""
    split, _, metric = curve.partition("/")
    try:
        runs = [[json.loads(line) for line in (Path(f) / "metrics.jsonl").read_text().splitlines()] for f in folders]
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"--curve {curve}: no readable metrics.jsonl ({error})") from error
    points = mean_curve(runs, split, metric)
    if not points or points[0][-1] < len(folders):
        raise UserError(f"--curve {curve}: no epoch at which all {len(folders)} runs have it")
    return points


def add(folder: Path, runs: Sequence[Path], *, key: str, curve: str = "", scale: float = 1.0, **fields: Any) -> None:
    """Add what `runs` measured to the results files in `folder`; rows of the same first columns are replaced."""
    values = values_by_seed(runs, key, scale)
    row = row_from_runs(runs, values, **fields)
    same = {c: row[c] for c in OURS[:5]}
    seeds = [{**same, "seed": seed, "value": f"{statistics.fmean(own):.6g}"} for seed, own in values.items()]
    _replace(folder / "ours.csv", [row], OURS, OURS[:5])
    _replace(folder / "seeds.csv", seeds, SEEDS, OURS[:5])
    if curve:
        cells = {c: row[c] for c in CURVES[:3]} | {"curve": curve}
        drawn = [
            {**cells, "epoch": e, "mean": f"{mean:.6g}", "std": f"{std:.4g}", "n": n}
            for e, mean, std, n in curve_of_runs(runs, curve)
        ]
        _replace(folder / "curves.csv", drawn, CURVES, CURVES[:4])


def _replace(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str], same: Sequence[str]) -> None:
    """Write `rows` into a results file in the place of those that agree with them in the columns `same`."""
    new = {tuple(str(row[c]) for c in same) for row in rows}
    old = read(path, columns) if path.is_file() else []
    kept = [row for row in old if tuple(row[c] for c in same) not in new]
    first = next((k for k, row in enumerate(old) if tuple(row[c] for c in same) in new), len(kept))
    write(path, [*kept[:first], *rows, *kept[first:]], columns)


def _json(folder: Path, name: str) -> dict:
    try:
        return json.loads((Path(folder) / name).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{folder}: no readable {name}; is it a finished run?") from error


def mean_and_spread(mean: str | float, std: str | float | None) -> str:
    """`mean ± std` as a reader wants it: two decimals, below one four."""
    digits = 4 if abs(float(mean)) < 1 else 2
    return " ± ".join(f"{float(number):.{digits}f}" for number in (mean, std) if number not in ("", None))


def table(rows: Sequence[dict[str, str]]) -> str:
    """ours.csv in Markdown: a table for each data set and setting, then the commands that measured them, each once.

    A line a method, a column a metric; where several protocols meet, a line a metric and protocol, a column a method.
    """
    if not rows:
        return "Nothing is measured yet."
    groups: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row["dataset"], row["setting"]].append(row)
    commands = dict.fromkeys(row["command"] for row in rows if row["command"])
    parts = [_group(*key, group) for key, group in groups.items()]
    return "\n".join(["\n\n".join(parts), "", "Measured by:", "", "```", *commands, "```"])


def _group(dataset: str, setting: str, rows: Sequence[dict[str, str]]) -> str:
    methods, protocols = (list(dict.fromkeys(row[c] for row in rows)) for c in ("method", "protocol"))
    columns = list(dict.fromkeys((row["metric"], row["protocol"]) for row in rows))
    counts = {row["n"] for row in rows if row["mean"]}
    cells = {(r["method"], r["metric"], r["protocol"]): _measured(r, with_n=len(counts) > 1) for r in rows}
    if len(protocols) == 1:
        head = ["method", *(metric for metric, _ in columns)]
        lines = [[m, *(cells.get((m, *column), "") for column in columns)] for m in methods]
    else:
        head = ["metric", "protocol", *methods]
        lines = [[*column, *(cells.get((m, *column), "") for m in methods)] for column in columns]
    told = "; ".join([*protocols[: len(protocols) == 1], *(f"n = {n}" for n in counts if len(counts) == 1)])
    title = f"**{', '.join(filter(None, (dataset, setting)))}**" + (f" ({told})" if told else "")
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])])


def _measured(row: dict[str, str], *, with_n: bool) -> str:
    if not row["mean"]:
        return "not run"
    return mean_and_spread(row["mean"], row["std"]) + (f" (n {row['n']})" if with_n else "")


def with_table(readme: str, rows: Sequence[dict[str, str]]) -> str:
    """The README's text with the table between its markers made anew; UserError without markers."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise UserError(f"a README needs {BEGIN} and {END} once each")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}"


def update_readmes(root: Path = ROOT) -> list[Path]:
    """Rewrite the table of every paper that has results; returns the READMEs that changed."""
    from common.checkpoint import atomic_write

    changed = []
    for paper in PAPERS:
        readme, ours = root / paper / "README.md", root / paper / "results" / "ours.csv"
        if readme.is_file() and ours.is_file():
            old = readme.read_text()
            new = with_table(old, read(ours, OURS))
            if new != old:
                atomic_write(readme, new.encode())
                changed.append(readme)
    return changed


def main(argv: list[str] | None = None) -> None:
    """Add a row from finished runs, or rewrite the tables."""
    parser = OneLineParser(prog="python -m sidebyside.results", description=__doc__.split("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True, parser_class=OneLineParser)
    actions.add_parser("tables", help="rewrite the READMEs' tables")
    new = actions.add_parser("add", help="add or replace a row of ours.csv")
    new.add_argument("paper", choices=PAPERS)
    for name in (*OURS[:5], "key"):
        new.add_argument(f"--{name}", required=True)
    new.add_argument("--command", default=argparse.SUPPRESS, help="where one command made several runs")
    new.add_argument("--scale", type=float, default=1.0, help="100 for percent")
    new.add_argument("--curve", default="", metavar="SPLIT/METRIC", help="of metrics.jsonl, for the learning curves")
    new.add_argument("--data", type=Path, default=None, help="data set, for its checksum")
    new.add_argument("runs", nargs="+", type=Path)
    args = vars(parser.parse_args(argv))
    if args.pop("action") == "add":
        folder = ROOT / args.pop("paper") / "results"
        add(folder, args.pop("runs"), **args)
        print(f"{folder / 'ours.csv'}: {len(read(folder / 'ours.csv', OURS))} rows")
    for readme in update_readmes(ROOT):
        print(f"{readme}: table rewritten")


if __name__ == "__main__":
    run_main(main)
