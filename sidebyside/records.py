"""What the repository knows of every paper, as plain records: its results/*.csv, pictures and deviations."""

import csv
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.cli import UserError
from sidebyside.results import CURVES, OURS, PAPER, PAPERS, SEEDS, mean_and_spread, read
from sidebyside.verdict import Sample

KEY = OURS[:5]
_SAMPLE_WORD, _SAMPLE_FLAG = re.compile(r"\bsamples?\b", re.I), re.compile(r"(^|\s)--?sample(\s|$)")


@dataclass(frozen=True)
class Row:
    """A row of ours.csv or paper.csv. `value` is None where the number is not known or was not run."""

    paper: str
    cells: dict[str, str]
    value: float | None
    std: float | None
    n: int
    is_sample: bool
    by_seed: dict[int, float] | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The first five columns: only rows that agree in all of them stand beside each other."""
        return tuple(self.cells[c] for c in KEY)

    @property
    def side(self) -> Sample:
        """The row as one side of a comparison; `value` must be known."""
        seeds = len(set(self.cells.get("seeds", "").split())) or None
        return Sample(self.value, self.std, self.n, self.by_seed, seeds)

    def number(self) -> str:
        """`mean ± std`, rounded; the paper's numbers as the paper prints them."""
        if self.value is None:
            return "n/a"
        if "value" in self.cells:
            return " ± ".join(filter(None, (self.cells["value"], self.cells["std"])))
        return mean_and_spread(self.value, self.std)


@dataclass(frozen=True)
class Curve:
    """Mean and sample standard deviation over runs, epoch by epoch."""

    label: str
    epochs: list[float]
    mean: list[float]
    std: list[float]
    runs: int


@dataclass
class Paper:
    """One subproject: its rows, curves by (data set, setting, what is drawn), pictures (path, caption), deviations
    table, and what is not there."""

    name: str
    title: str = ""
    link: str = ""
    ours: list[Row] = field(default_factory=list)
    published: list[Row] = field(default_factory=list)
    curves: dict[tuple[str, str, str], list[Curve]] = field(default_factory=dict)
    pictures: list[tuple[Path, str]] = field(default_factory=list)
    deviations: list[list[str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def real(self) -> list[Row]:
        """Rows of ours.csv on real data."""
        return [r for r in self.ours if not r.is_sample]

    @property
    def samples(self) -> list[Row]:
        """Rows of ours.csv on the offline sample; never beside a paper's number."""
        return [r for r in self.ours if r.is_sample]


def show(value: float) -> str:
    """A number for reading: two decimals, four below one, no trailing zeros."""
    digits = 4 if abs(value) < 1 else 2
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def load(root: Path, papers: Sequence[str] = PAPERS) -> list[Paper]:
    """Everything under root/PAPER; folders and files that are absent are named in `missing`."""
    return [_load_paper(root, name) for name in papers]


def _load_paper(root: Path, name: str) -> Paper:
    folder, paper = root / name, Paper(name)
    if not folder.is_dir():
        paper.missing.append(f"{name}/")
        return paper
    for target, file, columns in ((paper.ours, "ours.csv", OURS), (paper.published, "paper.csv", PAPER)):
        path = folder / "results" / file
        if path.is_file():
            target.extend(load_rows(path, name, columns))
        else:
            paper.missing.append(f"{name}/results/{file}")
    paper.ours = _with_seeds(paper.ours, folder / "results" / "seeds.csv")
    paper.curves = load_curves(folder / "results" / "curves.csv")
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if not text:
        paper.missing.append(f"{name}/README.md")
    paper.title, paper.link = _title_and_link(text)
    paper.deviations = deviations(text)
    if text and not paper.deviations:
        paper.missing.append(f"a deviations table in {name}/README.md")
    captions = {Path(target).name: alt for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", text)}
    for picture in sorted((folder / "results" / "figures").glob("*.png")):
        paper.pictures.append((picture, captions.get(picture.name) or picture.stem.replace("_", " ")))
    return paper


def load_rows(path: Path, paper: str, columns: Sequence[str]) -> list[Row]:
    """The rows of one results file; UserError naming file, line and cell where it is not as it should be."""
    try:
        raw = read(path, columns)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from error
    rows, seen = [], set()
    for number, cells in enumerate(raw, 2):
        where = f"{path}, row {number}"
        if None in cells or None in cells.values():
            raise UserError(f"{where}: has another number of cells than its header")
        is_ours = columns is OURS
        row = Row(
            paper,
            cells,
            _number(cells["mean" if is_ours else "value"], f"{where}: {'mean' if is_ours else 'value'}"),
            _number(cells["std"], f"{where}: std", least=0),
            int(_number(cells["n"], f"{where}: n", least=0) or 0),
            is_ours and _is_sample(cells),
        )
        if row.key in seen:
            raise UserError(f"{where}: a second row for {', '.join(row.key)}; the first five columns must differ")
        seen.add(row.key)
        rows.append(row)
    return rows


def _number(text: str, where: str, least: float = -math.inf) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < least:
        raise UserError(f"{where} is {text!r}, which is not a number that can stand there")
    return value


def _is_sample(cells: dict[str, str]) -> bool:
    named = " ".join(cells[c] for c in ("dataset", "setting", "protocol"))
    return bool(_SAMPLE_WORD.search(named) or _SAMPLE_FLAG.search(cells["command"]))


def _with_seeds(rows: Sequence[Row], path: Path) -> list[Row]:
    """The rows, with the value of each seed where seeds.csv holds it."""
    known: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    for number, cells in enumerate(read(path, SEEDS) if path.is_file() else (), 2):
        value = _number(cells["value"], f"{path}, row {number}: value")
        known[tuple(cells[c] for c in KEY)][int(cells["seed"])] = value
    return [replace(row, by_seed=known.get(row.key)) for row in rows]


def load_curves(path: Path) -> dict[tuple[str, str, str], list[Curve]]:
    """The curves of curves.csv, one for each method, by (data set, setting, SPLIT/METRIC)."""
    points: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for cells in read(path, CURVES) if path.is_file() else ():
        points[tuple(cells[c] for c in ("dataset", "setting", "curve", "method"))].append(cells)
    charts: dict[tuple[str, str, str], list[Curve]] = defaultdict(list)
    for (*chart, method), own in points.items():
        epochs, mean, std = ([float(p[c]) for p in own] for c in ("epoch", "mean", "std"))
        charts[tuple(chart)].append(Curve(method, epochs, mean, std, int(own[0]["n"])))
    return charts


def _title_and_link(readme: str) -> tuple[str, str]:
    title = re.search(r"^# (.+)$", readme, re.M)
    link = re.search(r"\((https?://[^)\s]+)\)", readme)
    return title.group(1).strip() if title else "", link.group(1) if link else ""


def deviations(readme: str) -> list[list[str]]:
    """The table under the README's heading on deviations: header and rows, Markdown cells; [] where there is none."""
    section = re.search(r"^#+ [^\n]*deviation[^\n]*\n(.*?)(?=^#+ |\Z)", readme, re.M | re.S | re.I)
    table: list[list[str]] = []
    for line in section.group(1).splitlines() if section else ():
        if line.lstrip().startswith("|"):
            inner = re.sub(r"(?<!\\)\|$", "", line.strip().removeprefix("|"))
            cells = re.split(r"(?<!\\)\|", inner)
            table.append([c.strip().replace("\\|", "|") for c in cells])
        elif table:
            break
    return [table[0], *table[2:]] if len(table) > 2 else []
