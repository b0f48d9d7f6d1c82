"""results/*.csv from run directories, and the README tables from the CSVs.

    python -m sidebyside.results add csl --method CSL --dataset COCO --setting "FPC 1000" \\
        --metric mAP --key mAP_model --protocol "last epoch" --scale 100 \\
        --curve test/mAP_model --data DIR RUN [RUN ...]
    python -m sidebyside.results tables          # rewrite the tables between the READMEs' markers

`add` writes ours.csv (a row: mean and spread), seeds.csv (the same number of each seed, so that
methods are compared seed by seed) and, with --curve, curves.csv (a line of metrics.jsonl over the
epochs).
"""

import common.interrupt  # noqa: F401

import argparse
import itertools
import operator
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli import OneLineParser, UserError, run_main
from common.text import decimal, read_csv, read_text, write_csv
from sidebyside import testsets
from sidebyside.measured import curve_of_runs, row_from_runs, values_by_seed
from sidebyside.metrics import Point
from sidebyside.runs import ROOT, read_run
from sidebyside.wording import markdown_line, mean_and_spread

PAPERS = ("cavl", "oass", "calm", "csl", "mile")
OURS = (
    "method,dataset,setting,metric,protocol,mean,std,n,"
    "seeds,command,commit,data_sha,device,torch,minutes,date,run,method_sha,superseded_by"
).split(",")
PAPER = "method,dataset,setting,metric,protocol,value,std,n,table,note".split(",")
SEEDS = [*OURS[:5], "seed", "value"]
CURVES = "method,dataset,setting,curve,epoch,mean,std,n".split(",")
_SAMPLE_WORD = re.compile(r"\bsamples?\b", re.I)
_SAMPLE_FLAG = re.compile(r"(^|\s)--?sample(\s|$)")
BEGIN = "<!-- results:begin -->"
END = "<!-- results:end -->"


def read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a results file; UserError, with path and line, where its columns are others."""
    return [cells for _, cells in read_numbered(path, columns)]


def read_numbered(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a results file, each with the number of the line on which it begins."""
    table = read_csv(path)
    header: list[str] = []
    if table:
        _, header = table[0]
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
    """What is wrong with a header, in a few words."""
    if not header:
        return "no columns"
    missing = [column for column in columns if column not in header]
    unknown = [column for column in header if column not in columns]
    if missing:
        return f"columns {', '.join(missing)} are missing"
    if unknown:
        return f"columns {', '.join(unknown)} are not known"
    return "columns in another order, or one twice"


def write(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str] = OURS) -> None:
    """Write a results file."""
    table = [list(columns)]
    for row in rows:
        table.append([_cell(row.get(column)) for column in columns])
    write_csv(Path(path), table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return str(value)


def add(
    folder: Path,
    runs: Sequence[Path],
    *,
    key: str,
    curve: str = "",
    scale: float | None = None,
    superseded_by: str = "",
    **fields: Any,
) -> None:
    """Add what `runs` measured to the results files in `folder` (PAPER/results).

    A row of its key with the same number is replaced. One with another number stays, marked with
    `superseded_by`; UserError where that is not given. `scale`: 100 turns fractions into percent;
    None is 1, where the values can be of the unit that the metric names.
    """
    factor = 1.0 if scale is None else scale
    values = values_by_seed(runs, key, factor)
    measured = list(itertools.chain.from_iterable(values.values()))
    check_unit(fields["metric"], measured, is_sure=scale is not None)

    paper = folder.parent
    row = row_from_runs(runs, values, paper=paper.name, root=paper.parent, **fields)
    check_sample(row, runs)
    _supersede(folder / "ours.csv", row, superseded_by)
    drawn = []
    if curve:
        drawn = _curve_rows(row, curve, curve_of_runs(runs, curve))

    _replace(folder / "ours.csv", [row], OURS, OURS[:5])
    _replace(folder / "seeds.csv", _seed_rows(row, values), SEEDS, OURS[:5])
    if drawn:
        _replace(folder / "curves.csv", drawn, CURVES, CURVES[:4])


def _supersede(path: Path, row: Mapping[str, Any], by: str) -> None:
    """Mark the row of the same key as superseded where its number is another."""
    if not path.is_file():
        return
    rows = read(path, OURS)
    for old in rows:
        is_same_key = all(old[column] == str(row[column]) for column in OURS[:5])
        is_same_number = all(old[column] == str(row[column]) for column in ("mean", "std", "n"))
        if not is_same_key or old["superseded_by"] or is_same_number:
            continue
        if not by:
            told = f"{path}: holds {old['mean']} (n {old['n']}) for this row already"
            raise UserError(
                f"{told}; --superseded_by TEXT keeps it, and says why it no longer counts"
            )
        old["superseded_by"] = by
        write(path, rows, OURS)


def _seed_rows(
    row: Mapping[str, Any], values: Mapping[int, Sequence[float]]
) -> list[dict[str, Any]]:
    """The rows of seeds.csv: of each seed the value, or the mean over its folds."""
    key = {column: row[column] for column in OURS[:5]}
    rows = []
    for seed, own in values.items():
        rows.append({**key, "seed": seed, "value": f"{statistics.fmean(own):.8g}"})
    return rows


def _curve_rows(
    row: Mapping[str, Any], curve: str, points: Sequence[Point]
) -> list[dict[str, Any]]:
    """The rows of curves.csv, one for each epoch."""
    key = {column: row[column] for column in CURVES[:3]}
    rows = []
    for point in points:
        rows.append(
            {
                **key,
                "curve": curve,
                "epoch": point.epoch,
                "mean": f"{point.mean:.6g}",
                "std": f"{point.std:.4g}",
                "n": point.runs,
            }
        )
    return rows


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
    """Whether a row of ours.csv was measured on an offline sample: its task or command says so."""
    named = f"{cells['dataset']} {cells['setting']} {cells['protocol']}"
    return bool(_SAMPLE_WORD.search(named) or _SAMPLE_FLAG.search(str(cells["command"])))


def check_unit(metric: str, values: Sequence[float], *, is_sure: bool) -> None:
    """UserError where percent are too large, or (unless `is_sure`) look like fractions."""
    if not metric.endswith(" %"):
        return
    if max(values) > 100:
        raise UserError(
            f"--metric {metric!r}: {max(values):.6g} is more than all; is --scale right?"
        )
    if not is_sure and max(values) <= 1:
        raise UserError(
            f"--metric {metric!r}: the values lie within 0 and 1;"
            " --scale 100 for fractions, --scale 1 for percent"
        )


def _replace(
    path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str], same: Sequence[str]
) -> None:
    """Write `rows` into a results file in the place of those that they agree with in `same`."""
    key_of = operator.itemgetter(*same)
    new = {tuple(map(str, key_of(row))) for row in rows}
    old = []
    if path.is_file():
        old = read(path, columns)

    before: list[dict[str, str]] = []
    after: list[dict[str, str]] = []
    kept = before
    for row in old:
        is_replaced = key_of(row) in new and not row.get("superseded_by")
        if is_replaced:
            kept = after
        else:
            kept.append(row)
    write(path, [*before, *rows, *after], columns)


def table(rows: Sequence[dict[str, str]]) -> str:
    """ours.csv in Markdown: a table for each data set and setting, then the commands, each once.

    Superseded rows are left out. A line a method, a column a metric; where several protocols meet,
    a line a metric and protocol, a column a method.
    """
    rows = [row for row in rows if not row.get("superseded_by")]
    if not rows:
        return "Nothing is measured yet."
    groups: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row["dataset"], row["setting"]].append(row)
    commands = filter(None, _distinct(rows, "command"))
    parts = "\n\n".join(map(_group, groups.values()))
    return "\n".join([parts, "", "Measured by:", "", "```", *commands, "```"])


def _group(rows: Sequence[dict[str, str]]) -> str:
    """The table of one data set and setting, under its title."""
    protocols = _distinct(rows, "protocol")
    counts = {row["n"] for row in rows if row["mean"]}

    told: list[str] = []
    if len(protocols) == 1:
        told += protocols
    if len(counts) == 1:
        told += [f"n = {n}" for n in counts]

    named = ", ".join(filter(None, (rows[0]["dataset"], rows[0]["setting"])))
    title = f"**{named}**"
    if told:
        title += f" ({'; '.join(told)})"

    head, *lines = _grid(rows, is_one_protocol=len(protocols) == 1, with_n=len(counts) > 1)
    under = ["---"] * len(head)
    return "\n".join([title, "", *map(markdown_line, (head, under, *lines))])


def _grid(
    rows: Sequence[dict[str, str]], *, is_one_protocol: bool, with_n: bool
) -> list[list[str]]:
    """The header and the lines of a table, as cells."""
    methods = _distinct(rows, "method")
    by_column: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in rows:
        told = _measured(row, with_n=with_n)
        by_column[row["metric"], row["protocol"]][row["method"]] = told

    lines = [["metric", "protocol", *methods]]
    for (metric, protocol), cells in by_column.items():
        lines.append([metric, protocol, *(cells.get(method, "") for method in methods)])
    if not is_one_protocol:
        return lines

    metrics, _, *others = map(list, zip(*lines, strict=True))  # a line a method
    metrics[0] = "method"
    return [metrics, *others]


def _distinct(rows: Sequence[dict[str, str]], column: str) -> list[str]:
    """The different cells of a column, in their order."""
    return list(dict.fromkeys(row[column] for row in rows))


def _measured(row: dict[str, str], *, with_n: bool) -> str:
    if not row["mean"]:
        return "not run"
    told = mean_and_spread(row["mean"], row["std"])
    if with_n:
        told += f" (n {row['n']})"
    return told


def with_table(readme: str, rows: Sequence[dict[str, str]]) -> str:
    """The README's text with the table between its markers made anew; UserError without markers."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise UserError(f"a README needs {BEGIN} and {END} once each")
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def update_readmes(root: Path = ROOT) -> list[Path]:
    """Rewrite the table of every paper that has results; returns the READMEs that changed."""
    from common.checkpoint import atomic_write

    changed = []
    for paper in PAPERS:
        readme = root / paper / "README.md"
        ours = root / paper / "results" / "ours.csv"
        if not (readme.is_file() and ours.is_file()):
            continue
        old = read_text(readme)
        new = with_table(old, read(ours, OURS))
        if new != old:
            atomic_write(readme, new.encode())
            changed.append(readme)
    return changed


def add_test_variance(
    folder: Path, better: Path, worse: Path, *, against: str, **key: str
) -> dict[str, Any]:
    """Write the row of test_variance.csv of two methods from the values of every picture."""
    one = testsets.read_values(better)
    other = testsets.read_values(worse)
    variance = testsets.variance_of_difference(one, other)
    row = {
        **key,
        "against": against,
        "variance": f"{variance:.6g}",
        "images": one.shape[1],
        "draws": testsets.DRAWS,
    }
    _replace(folder / testsets.FILE, [row], testsets.COLUMNS, testsets.COLUMNS[:6])
    return row


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
    new.add_argument(
        "--superseded_by",
        default="",
        metavar="TEXT",
        help="what a row of the same key is replaced by: it stays, and counts no longer",
    )
    new.add_argument("--data", type=Path, default=None, help="data set, for its checksum")
    new.add_argument("runs", nargs="+", type=Path)
    spread = actions.add_parser(
        "test_variance", help="how far a difference moves with the test set"
    )
    spread.add_argument("paper", choices=PAPERS)
    for name in (*OURS[:5], "against"):
        spread.add_argument(f"--{name}", required=True)
    for name in ("better", "worse"):
        spread.add_argument(name, type=Path, help="a .npy file of values (seeds, pictures)")
    args = vars(parser.parse_args(argv))
    action = args.pop("action")
    if action == "test_variance":
        folder = ROOT / args.pop("paper") / "results"
        row = add_test_variance(folder, **args)
        print(f"{folder / testsets.FILE}: variance {row['variance']} over {row['images']} pictures")
        return
    if action == "add":
        folder = ROOT / args.pop("paper") / "results"
        add(folder, args.pop("runs"), **args)
        print(f"{folder / 'ours.csv'}: {len(read(folder / 'ours.csv', OURS))} rows")
    for readme in update_readmes(ROOT):
        print(f"{readme}: table rewritten")


if __name__ == "__main__":
    run_main(main)
