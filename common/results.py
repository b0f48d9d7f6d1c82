"""results/ours.csv from run directories, and the README tables from the CSVs.

    python -m common.results add csl --method CSL --dataset COCO --setting "FPC 1000" --metric mAP \\
        --key mAP_model --protocol "last epoch" --scale 100 --data DIR RUN [RUN ...]
    python -m common.results tables          # rewrite the tables between the READMEs' markers
"""

import argparse
import csv
import hashlib
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.cli import OneLineParser, UserError, run_main

ROOT = Path(__file__).resolve().parent.parent
PAPERS = ("cavl", "oass", "calm", "csl", "mile")
OURS = (
    "method,dataset,setting,metric,protocol,mean,std,n,seeds,command,commit,data_sha,device,torch,minutes,date,run"
).split(",")
PAPER = "method,dataset,setting,metric,protocol,value,std,n,table,note".split(",")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a results file; UserError where its columns are not exactly those of DESIGN.md."""
    with Path(path).open(newline="") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or ()) != list(columns):
            raise UserError(f"{path}: columns {reader.fieldnames}, expected {','.join(columns)}")
        return list(reader)


def write(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str] = OURS) -> None:
    """Write a results file; a row with the same first five columns as a later one is replaced by it."""
    from common.checkpoint import atomic_write  # here, so that readers of the CSVs need not import torch

    unique = {tuple(str(row[c]) for c in columns[:5]): row for row in rows}
    lines = [",".join(columns)]
    for row in unique.values():
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
    folders: Sequence[Path], *, key: str, scale: float = 1.0, data: Path | None = None, **fields: str
) -> dict[str, Any]:
    """One row of ours.csv: mean and sample std (ddof 1) of summary.json's `key` over run directories.

    `fields`: method, dataset, setting, metric, protocol, and `command` where one command made several runs.
    """
    values, seeds, seconds = [], [], 0.0
    for folder in folders:
        summary, config = _json(folder, "summary.json"), _json(folder, "config.json")
        if summary.get(key) is None:
            raise UserError(f"{folder}/summary.json: has no {key}; it has {', '.join(summary)}")
        values.append(float(summary[key]) * scale)
        seconds += float(summary["wall_seconds"])
        seeds.append(config["settings"].get("seed") or 0)
    hardware = config["hardware"]
    return {
        "mean": f"{statistics.fmean(values):.4f}",
        "std": f"{statistics.stdev(values):.4f}" if len(values) > 1 else "",
        "n": len(values),
        "seeds": " ".join(str(s) for s in sorted(set(seeds))),
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


def _json(folder: Path, name: str) -> dict:
    try:
        return json.loads((Path(folder) / name).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{folder}: no readable {name}; is it a finished run?") from error


def table(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table of ours.csv: mean and spread, n, the command that measured it (each shown once)."""
    if not rows:
        return "Nothing is measured yet."
    lines = ["| data set | setting | method | metric | protocol | mean ± std | n |", "| --- " * 7 + "|"]
    for row in rows:
        value = row["mean"] + (f" ± {row['std']}" if row["std"] else "") if row["mean"] else "not run"
        cells = (row["dataset"], row["setting"], row["method"], row["metric"], row["protocol"], value, row["n"])
        lines.append("| " + " | ".join(cells) + " |")
    commands = dict.fromkeys(row["command"] for row in rows if row["command"])
    return "\n".join([*lines, "", "Measured by:", "", "```", *commands, "```"])


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
    parser = OneLineParser(prog="python -m common.results", description=__doc__.split("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True, parser_class=OneLineParser)
    actions.add_parser("tables", help="rewrite the READMEs' tables")
    add = actions.add_parser("add", help="add or replace a row of ours.csv")
    add.add_argument("paper", choices=PAPERS)
    for name in (*OURS[:5], "key"):
        add.add_argument(f"--{name}", required=True)
    add.add_argument("--command", default=argparse.SUPPRESS, help="where one command made several runs")
    add.add_argument("--scale", type=float, default=1.0, help="100 for percent")
    add.add_argument("--data", type=Path, default=None, help="data set, for its checksum")
    add.add_argument("runs", nargs="+", type=Path)
    args = vars(parser.parse_args(argv))
    if args.pop("action") == "add":
        path = ROOT / args.pop("paper") / "results" / "ours.csv"
        rows = read(path, OURS) if path.is_file() else []
        write(path, [*rows, row_from_runs(args.pop("runs"), **args)])
        print(f"{path}: {len(rows)} rows before")
    for readme in update_readmes(ROOT):
        print(f"{readme}: table rewritten")


if __name__ == "__main__":
    run_main(main)
