"""results/*.csv from run directories, and the README tables from the CSVs.

    python -m sidebyside.results add csl --method CSL --dataset COCO --setting "FPC 1000" --metric mAP \\
        --key mAP_model --protocol "last epoch" --scale 100 --curve test/mAP_model --data DIR RUN [RUN ...]
    python -m sidebyside.results tables          # rewrite the tables between the READMEs' markers

`add` writes ours.csv (a row: mean and spread), seeds.csv (the same number of each seed, so that methods are compared
seed by seed) and, with --curve, curves.csv (a line of metrics.jsonl over the epochs).
"""

import common.interrupt  # noqa: F401

import argparse
import hashlib
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli import FREE_SETTINGS, OneLineParser, UserError, run_main
from common.text import decimal, read_csv, read_json, read_text, whole, write_csv
from sidebyside.metrics import mean_curve, metric_lines
from sidebyside.runs import ROOT, read_run
from sidebyside.wording import exact, mean_and_spread

PAPERS = ("cavl", "oass", "calm", "csl", "mile")
OURS = (
    "method,dataset,setting,metric,protocol,mean,std,n,seeds,command,commit,data_sha,device,torch,minutes,date,run"
).split(",")
PAPER = "method,dataset,setting,metric,protocol,value,std,n,table,note".split(",")
SEEDS = [*OURS[:5], "seed", "value"]
CURVES = "method,dataset,setting,curve,epoch,mean,std,n".split(",")
_SAMPLE_WORD = re.compile(r"\bsamples?\b", re.I)
_SAMPLE_FLAG = re.compile(r"(^|\s)--?sample(\s|$)")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a results file; UserError, with path and line, where it is none with exactly these columns."""
    return [cells for _, cells in read_numbered(path, columns)]


def read_numbered(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a results file, each with the number of the line on which it begins."""
    table = read_csv(path)
    header = table[0][1] if table else []
    if header != list(columns):
        raise UserError(
            f"{path}: line 1: {_other_columns(header, columns)}; expected {','.join(columns)}"
        )

    rows = []
    for number, cells in table[1:]:
        if len(cells) != len(columns):
            raise UserError(
                f"{path}: line {number}: has {len(cells)} cells, expected {len(columns)}"
            )
        rows.append((number, dict(zip(columns, cells, strict=True))))
    return rows


def _other_columns(header: Sequence[str], columns: Sequence[str]) -> str:
    missing = [c for c in columns if c not in header]
    unknown = [c for c in header if c not in columns]
    if missing and header:
        return f"columns {', '.join(missing)} are missing"
    if unknown:
        return f"columns {', '.join(unknown)} are not known"
    return "columns in another order, or one twice" if header else "no columns"


def write(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str] = OURS) -> None:
    """Write a results file."""
    cells = [["" if row.get(c) is None else str(row.get(c)) for c in columns] for row in rows]
    write_csv(Path(path), [list(columns), *cells])


def data_sha(folder: Path) -> str:
    """The first 12 hex digits of a SHA-256 over the names and contents of a file, or of all files of a folder."""
    folder, digest = Path(folder), hashlib.sha256()
    for path in (
        [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    ):
        digest.update(
            path.relative_to(folder.parent if folder.is_file() else folder).as_posix().encode()
            + b"\0"
        )
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def row_from_runs(
    folders: Sequence[Path],
    values: Mapping[int, Sequence[float]],
    *,
    data: Path | None = None,
    **fields: str,
) -> dict[str, Any]:
    """One row of ours.csv: mean and sample std (ddof 1) of the `values_by_seed` of run directories.

    `fields`: method, dataset, setting, metric, protocol, and `command` where one command made several runs. What
    differs between the runs (commit, torch, device) is told of all of them.
    """
    configs = [_config(folder) for folder in folders]
    seconds = sum(_seconds(folder) for folder in folders)
    runs = [value for own in values.values() for value in own]
    return {
        "mean": exact(statistics.fmean(runs)),
        "std": exact(statistics.stdev(runs)) if len(runs) > 1 else "",
        "n": len(runs),
        "seeds": " ".join(map(str, values)),
        "command": configs[-1]["launches"][0]["command"],
        "commit": _each(config["commit"] for config in configs),
        "data_sha": data_sha(data) if data else "",
        "device": _each(_device(config) for config in configs),
        "torch": _each(config["packages"]["torch"] for config in configs),
        "minutes": f"{seconds / 60:.1f}",
        "date": max(config["launches"][-1]["time"][:10] for config in configs),
        "run": _each(Path(f).name for f in folders),
        **fields,
    }


def _each(values: Iterable[Any]) -> str:
    """The different ones, in the order in which they come."""
    return " ".join(dict.fromkeys(str(value) for value in values if value))


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
    """summary.json's `key` of run directories, times `scale`: seed -> values (several where a seed has folds).

    UserError where they are not one experiment: a run twice, a seed twice (but for its folds), other settings.
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
    return whole(0 if seed is None else seed, f"{folder}/config.json: seed")


def check_one_experiment(folders: Sequence[Path]) -> None:
    """UserError where the mean over these runs would be one over different things, or over one thing twice."""
    settings = {folder: _config(folder)["settings"] for folder in folders}
    places: dict[Path, Path] = {}
    seen: dict[tuple, Path] = {}
    folds: dict[int, int] = defaultdict(int)
    for folder in folders:
        place = Path(folder).resolve()
        if place in places:
            raise UserError(f"{folder}: this run is given twice")
        places[place] = folder
        same = (_seed(folder), settings[folder].get("fold"))
        if same in seen:
            raise UserError(
                f"{folder}: seed {same[0]} is that of {seen[same]} too; a mean counts each seed once"
            )
        seen[same] = folder
        folds[same[0]] += 1

    if len(set(folds.values())) > 1:
        told = ", ".join(f"{count} of seed {seed}" for seed, count in sorted(folds.items()))
        raise UserError(f"not every seed has all its folds: {told}")
    first, *others = folders
    for other in others:
        for name in sorted({*settings[first], *settings[other]} - _OWN):
            one, two = settings[first].get(name), settings[other].get(name)
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
    """Whether a setting is a path: runs on data drawn for their seed, or of a checkpoint each, differ in these."""
    return isinstance(value, str) and ("/" in value or value.endswith((".pt", ".pth")))


def curve_of_runs(folders: Sequence[Path], curve: str) -> list[tuple[float, float, float, int]]:
    """`mean_curve` of SPLIT/METRIC over run directories; UserError where they do not all have it."""
    split, _, metric = curve.partition("/")
    runs = []
    for folder in folders:
        path = Path(folder) / "metrics.jsonl"
        lines, faults = metric_lines(path)
        if faults:
            raise UserError(f"--curve {curve}: {path}: {faults[0]}")
        runs.append(lines)
    points = mean_curve(runs, split, metric)
    if not points or points[0][-1] < len(folders):
        raise UserError(f"--curve {curve}: no epoch at which all {len(folders)} runs have it")
    return points


def add(
    folder: Path,
    runs: Sequence[Path],
    *,
    key: str,
    curve: str = "",
    scale: float | None = None,
    **fields: Any,
) -> None:
    """Add what `runs` measured to the results files in `folder`; rows of the same first columns are replaced.

    `scale`: 100 turns fractions into percent; None is 1, where the values can be of the unit that the metric names.
    """
    values = values_by_seed(runs, key, 1.0 if scale is None else scale)
    check_unit(
        fields["metric"], [v for own in values.values() for v in own], is_sure=scale is not None
    )
    row = row_from_runs(runs, values, **fields)
    check_sample(row, runs)
    same = {c: row[c] for c in OURS[:5]}
    seeds = [
        {**same, "seed": seed, "value": f"{statistics.fmean(own):.8g}"}
        for seed, own in values.items()
    ]
    drawn = []
    for epoch, mean, std, n in curve_of_runs(runs, curve) if curve else ():
        cells = {c: row[c] for c in CURVES[:3]} | {"curve": curve, "epoch": epoch, "n": n}
        drawn.append({**cells, "mean": f"{mean:.6g}", "std": f"{std:.4g}"})

    _replace(folder / "ours.csv", [row], OURS, OURS[:5])
    _replace(folder / "seeds.csv", seeds, SEEDS, OURS[:5])
    if drawn:
        _replace(folder / "curves.csv", drawn, CURVES, CURVES[:4])


def check_sample(row: Mapping[str, Any], runs: Sequence[Path]) -> None:
    """UserError where runs on the offline sample would become a row of real data."""
    if is_sample_row(row):
        return
    on_sample = [folder for folder in runs if read_run(Path(folder)).is_sample]
    if on_sample:
        raise UserError(
            f"{on_sample[0]}: a run on the offline sample; say `sample` in --dataset or --protocol"
        )


def is_sample_row(cells: Mapping[str, Any]) -> bool:
    """Whether a row of ours.csv was measured on an offline sample: its task says so, or its command."""
    named = " ".join(str(cells[c]) for c in ("dataset", "setting", "protocol"))
    return bool(_SAMPLE_WORD.search(named) or _SAMPLE_FLAG.search(str(cells["command"])))


def check_unit(metric: str, values: Sequence[float], *, is_sure: bool) -> None:
    """UserError where values of a metric in percent cannot be percent, or (unless `is_sure`) look like fractions."""
    if not metric.endswith(" %"):
        return
    if max(values) > 100:
        raise UserError(
            f"--metric {metric!r}: {max(values):.6g} is more than all; is --scale right?"
        )
    if not is_sure and max(values) <= 1:
        raise UserError(
            f"--metric {metric!r}: the values lie within 0 and 1; --scale 100 for fractions, --scale 1 for percent"
        )


def _replace(
    path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str], same: Sequence[str]
) -> None:
    """Write `rows` into a results file in the place of those that agree with them in the columns `same`."""
    new = {tuple(str(row[c]) for c in same) for row in rows}
    old = read(path, columns) if path.is_file() else []
    kept = [row for row in old if tuple(row[c] for c in same) not in new]
    first = next((k for k, row in enumerate(old) if tuple(row[c] for c in same) in new), len(kept))
    write(path, [*kept[:first], *rows, *kept[first:]], columns)


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
    methods, protocols = (
        list(dict.fromkeys(row[c] for row in rows)) for c in ("method", "protocol")
    )
    columns = list(dict.fromkeys((row["metric"], row["protocol"]) for row in rows))
    counts = {row["n"] for row in rows if row["mean"]}
    cells = {
        (r["method"], r["metric"], r["protocol"]): _measured(r, with_n=len(counts) > 1)
        for r in rows
    }
    if len(protocols) == 1:
        head = ["method", *(metric for metric, _ in columns)]
        lines = [[m, *(cells.get((m, *column), "") for column in columns)] for m in methods]
    else:
        head = ["metric", "protocol", *methods]
        lines = [[*column, *(cells.get((m, *column), "") for m in methods)] for column in columns]
    told = "; ".join(
        [*protocols[: len(protocols) == 1], *(f"n = {n}" for n in counts if len(counts) == 1)]
    )
    title = f"**{', '.join(filter(None, (dataset, setting)))}**" + (f" ({told})" if told else "")
    return "\n".join([title, "", *(_line(cells) for cells in [head, ["---"] * len(head), *lines])])


def _line(cells: Sequence[str]) -> str:
    """A line of a Markdown table; a bar or a line end in a cell would end the cell."""
    plain = [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(plain)} |"


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
            old = read_text(readme)
            new = with_table(old, read(ours, OURS))
            if new != old:
                atomic_write(readme, new.encode())
                changed.append(readme)
    return changed


def scale_factor(text: str) -> float:
    """argparse type of --scale: a finite number other than 0."""
    try:
        factor = decimal(text, "--scale")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if factor == 0:
        raise argparse.ArgumentTypeError("0 would make every value 0")
    return factor


def main(argv: list[str] | None = None) -> None:
    """Add a row from finished runs, or rewrite the tables."""
    parser = OneLineParser(prog="python -m sidebyside.results", description=__doc__.split("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True, parser_class=OneLineParser)
    actions.add_parser("tables", help="rewrite the READMEs' tables")
    new = actions.add_parser("add", help="add or replace a row of ours.csv")
    new.add_argument("paper", choices=PAPERS)
    for name in (*OURS[:5], "key"):
        new.add_argument(f"--{name}", required=True)
    new.add_argument(
        "--command", default=argparse.SUPPRESS, help="where one command made several runs"
    )
    new.add_argument(
        "--scale", type=scale_factor, default=None, help="100 turns fractions into percent"
    )
    new.add_argument(
        "--curve",
        default="",
        metavar="SPLIT/METRIC",
        help="of metrics.jsonl, for the learning curves",
    )
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
