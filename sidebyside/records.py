"""What the repository knows of every paper, as plain records: its results/*.csv, pictures and deviations."""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.cli import UserError
from common.text import decimal, read_text, whole
from sidebyside.results import CURVES, OURS, PAPER, PAPERS, SEEDS, is_sample_row, read_numbered
from sidebyside.verdict import Sample
from sidebyside.wording import mean_and_spread
from sidebyside.wording import show as show

KEY = OURS[:5]


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
            return " ± ".join(
                filter(None, (self.cells["value"].strip(), self.cells["std"].strip()))
            )
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


def load(root: Path, papers: Sequence[str] = PAPERS) -> list[Paper]:
    """Everything under root/PAPER; folders and files that are absent are named in `missing`."""
    return [_load_paper(root, name) for name in papers]


def _load_paper(root: Path, name: str) -> Paper:
    folder, paper = root / name, Paper(name)
    if not folder.is_dir():
        paper.missing.append(f"{name}/")
        return paper
    for target, file, columns in (
        (paper.ours, "ours.csv", OURS),
        (paper.published, "paper.csv", PAPER),
    ):
        path = folder / "results" / file
        if path.exists():
            target.extend(load_rows(path, name, columns))
        else:
            paper.missing.append(f"{name}/results/{file}")
    paper.ours = _with_seeds(paper.ours, folder / "results" / "seeds.csv")
    paper.curves = load_curves(folder / "results" / "curves.csv")
    readme = folder / "README.md"
    text = read_text(readme) if readme.exists() else ""
    if not text:
        paper.missing.append(f"{name}/README.md")
    paper.title, paper.link = _title_and_link(text)
    paper.deviations = deviations(text)
    if text and not paper.deviations:
        paper.missing.append(f"a deviations table in {name}/README.md")
    captions = {
        Path(target).name: alt for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", text)
    }
    for picture in sorted((folder / "results" / "figures").glob("[!.]*.png")):
        if _is_png(picture):
            paper.pictures.append(
                (picture, captions.get(picture.name) or picture.stem.replace("_", " "))
            )
        else:
            paper.missing.append(f"a readable picture {name}/results/figures/{picture.name}")
    return paper


def _is_png(path: Path) -> bool:
    """Whether it is a whole PNG: first and last bytes as the format has them."""
    if not path.is_file():
        return False
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return data.startswith(b"\x89PNG\r\n\x1a\n") and b"IEND" in data[-12:]


def load_rows(path: Path, paper: str, columns: Sequence[str]) -> list[Row]:
    """The rows of one results file; UserError naming file, line and cell where it is not as it should be."""
    rows = []
    lines: dict[tuple[str, ...], int] = {}
    for number, cells in read_numbered(path, columns):
        where = f"{path}: line {number}"
        row = _ours(cells, paper, where) if columns is OURS else _published(cells, paper, where)
        if row.key in lines:
            raise UserError(
                f"{where}: a second row for {', '.join(row.key)} (the first: line {lines[row.key]});"
                " the first five columns must differ"
            )
        lines[row.key] = number
        rows.append(row)
    return rows


def _published(cells: dict[str, str], paper: str, where: str) -> Row:
    """A row of paper.csv; n is what the paper counts there, if it tells."""
    value = _number(cells["value"], f"{where}: value")
    std = _spread(cells["std"], value, f"{where}: std")
    n = _count(cells["n"], f"{where}: n")
    return Row(paper, cells, value, std, n or 0, is_sample=False)


def _ours(cells: dict[str, str], paper: str, where: str) -> Row:
    """A row of ours.csv. A mean is over n runs: one without a deviation, or several seeds, each as often."""
    value = _number(cells["mean"], f"{where}: mean")
    std = _spread(cells["std"], value, f"{where}: std")
    n = _count(cells["n"], f"{where}: n") or 0
    _not_below_zero(cells["minutes"], f"{where}: minutes")
    seeds = [whole(seed, f"{where}: seeds") for seed in cells["seeds"].split()]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: seeds {cells['seeds']!r} name one seed twice")
    if value is not None and n == 0:
        raise UserError(f"{where}: a mean without n, the number of runs that it is of")
    if std is not None and n == 1:
        raise UserError(f"{where}: a standard deviation of one run; leave std empty")
    if value is not None and seeds and n % len(seeds):
        raise UserError(f"{where}: n is {n}, which is no multiple of its {len(seeds)} seeds")
    return Row(paper, cells, value, std, n, is_sample_row(cells))


def _number(text: str, where: str) -> float | None:
    return decimal(text, where) if text.strip() else None


def _not_below_zero(text: str, where: str) -> float | None:
    number = _number(text, where)
    if number is not None and number < 0:
        raise UserError(f"{where}: expected no number below zero, found {text!r}")
    return number


def _spread(text: str, value: float | None, where: str) -> float | None:
    std = _not_below_zero(text, where)
    if std is not None and value is None:
        raise UserError(f"{where}: a standard deviation without the number that it is of")
    return std


def _count(text: str, where: str) -> int | None:
    if not text.strip():
        return None
    count = whole(text, where)
    _not_below_zero(text, where)
    return count


def _with_seeds(rows: Sequence[Row], path: Path) -> list[Row]:
    """The rows, with the value of each seed where seeds.csv holds it.

    UserError where the two files do not tell the same: a verdict would rest on numbers that no table shows.
    """
    known: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    lines: dict[tuple[str, ...], int] = {}
    for number, cells in read_numbered(path, SEEDS) if path.exists() else ():
        where = f"{path}: line {number}"
        key = tuple(cells[c] for c in KEY)
        seed = whole(cells["seed"], f"{where}: seed")
        if seed in known[key]:
            raise UserError(f"{where}: a second value of seed {seed} for {', '.join(key)}")
        known[key][seed] = decimal(cells["value"], f"{where}: value")
        lines.setdefault(key, number)

    for row in rows:
        if row.key in known:
            _check_seeds(row, known[row.key], f"{path}: line {lines[row.key]}")
    strangers = sorted(lines[key] for key in set(known) - {row.key for row in rows})
    if strangers:
        raise UserError(
            f"{path}: line {strangers[0]}: ours.csv has no row with these first five columns"
        )
    return [replace(row, by_seed=known.get(row.key)) for row in rows]


def _check_seeds(row: Row, values: dict[int, float], where: str) -> None:
    named = ", ".join(row.key)
    told = {int(seed) for seed in row.cells["seeds"].split()}
    if told and told != set(values):
        raise UserError(
            f"{where}: seeds {_listed(values)} for {named}, but ours.csv has {_listed(told)}"
        )
    mean = statistics.fmean(values.values())
    if row.value is None or not math.isclose(mean, row.value, rel_tol=1e-4, abs_tol=1e-4):
        raise UserError(
            f"{where}: the mean over the seeds is {mean:.6g} for {named}, but ours.csv has {row.cells['mean']}"
        )


def _listed(seeds: Iterable[int]) -> str:
    return " ".join(map(str, sorted(seeds)))


def load_curves(path: Path) -> dict[tuple[str, str, str], list[Curve]]:
    """The curves of curves.csv, one for each method, by (data set, setting, SPLIT/METRIC), in order of epochs."""
    points: dict[tuple[str, ...], dict[float, tuple[float, float, int]]] = defaultdict(dict)
    for number, cells in read_numbered(path, CURVES) if path.exists() else ():
        where = f"{path}: line {number}"
        key = tuple(cells[c] for c in ("dataset", "setting", "curve", "method"))
        epoch = decimal(cells["epoch"], f"{where}: epoch")
        mean = decimal(cells["mean"], f"{where}: mean")
        std = _spread(cells["std"], mean, f"{where}: std") or 0.0
        n = whole(cells["n"], f"{where}: n")
        if epoch in points[key]:
            raise UserError(
                f"{where}: a second point at epoch {cells['epoch']} for {', '.join(key)}"
            )
        points[key][epoch] = (mean, std, n)

    charts: dict[tuple[str, str, str], list[Curve]] = defaultdict(list)
    for (*chart, method), own in points.items():
        epochs = sorted(own)
        mean, std, counts = (list(column) for column in zip(*(own[e] for e in epochs), strict=True))
        charts[tuple(chart)].append(Curve(method, epochs, mean, std, min(counts)))
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
