"""What the repository knows of every paper: its results/*.csv, pictures and deviations."""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.cli import UserError
from common.text import decimal, read_text, whole
from sidebyside import testsets
from sidebyside.metrics import Curve, Point, curve_of
from sidebyside.register import Claim, load_claims
from sidebyside.results import CURVES, OURS, PAPER, PAPERS, SEEDS, is_sample_row, read_numbered
from sidebyside.verdict import Sample
from sidebyside.wording import mean_and_spread
from sidebyside.wording import show as show

KEY = OURS[:5]


@dataclass(frozen=True)
class Row:
    """A row of ours.csv or paper.csv; `value` is None where it is not known or was not run."""

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
        return self.pick(KEY)

    def pick(self, columns: Iterable[str]) -> tuple[str, ...]:
        """The cells of these columns."""
        return tuple(self.cells[column] for column in columns)

    def listed(self, *columns: str) -> str:
        """The cells of these columns that are not empty, with commas between them."""
        return ", ".join(filter(None, self.pick(columns)))

    @property
    def superseded_by(self) -> str:
        """What replaced the row, in words; "" where it holds."""
        return self.cells.get("superseded_by", "")

    @property
    def known_value(self) -> float:
        """The value of a row that has one."""
        assert self.value is not None
        return self.value

    @property
    def side(self) -> Sample:
        """The row as one side of a comparison; `value` must be known."""
        seeds = len(set(self.cells.get("seeds", "").split())) or None
        return Sample(self.known_value, self.std, self.n, self.by_seed, seeds)

    def number(self) -> str:
        """`mean ± std`, rounded; the paper's numbers as the paper prints them."""
        if self.value is None:
            return "n/a"
        if "value" in self.cells:
            printed = map(str.strip, self.pick(("value", "std")))
            return " ± ".join(filter(None, printed))
        return mean_and_spread(self.value, self.std)


@dataclass
class Paper:
    """One subproject: its rows, curves, pictures and deviations table, and what is not there.

    `curves`: by (data set, setting, what is drawn). `pictures`: path and caption.
    """

    name: str
    title: str = ""
    link: str = ""
    ours: list[Row] = field(default_factory=list)
    published: list[Row] = field(default_factory=list)
    curves: dict[tuple[str, str, str], list[Curve]] = field(default_factory=dict)
    pictures: list[tuple[Path, str]] = field(default_factory=list)
    deviations: list[list[str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    test_variances: dict[testsets.Key, float] = field(default_factory=dict)

    def test_variance(self, one: Row, other: Row) -> float | None:
        """The variance of the difference of two rows over test sets; None where not known."""
        found = self.test_variances.get((*one.key, other.cells["method"]))
        if found is None:
            found = self.test_variances.get((*other.key, one.cells["method"]))
        return found

    @property
    def real(self) -> list[Row]:
        """Rows of ours.csv on real data that hold."""
        return [row for row in self.ours if not row.is_sample and not row.superseded_by]

    @property
    def samples(self) -> list[Row]:
        """Rows of ours.csv on the offline sample; never beside a paper's number."""
        return [row for row in self.ours if row.is_sample and not row.superseded_by]

    @property
    def superseded(self) -> list[Row]:
        """Rows of ours.csv that a later measurement replaced; shown, and counted nowhere."""
        return [row for row in self.ours if row.superseded_by]


def load(root: Path, papers: Sequence[str] = PAPERS) -> list[Paper]:
    """Everything under root/PAPER; folders and files that are absent are named in `missing`."""
    return [_load_paper(root, name) for name in papers]


def _load_paper(root: Path, name: str) -> Paper:
    folder = root / name
    paper = Paper(name)
    if not folder.is_dir():
        paper.missing.append(f"{name}/")
        return paper

    results = folder / "results"
    paper.ours = _rows_or_missing(paper, results / "ours.csv", OURS)
    paper.published = _rows_or_missing(paper, results / "paper.csv", PAPER)
    paper.ours = _with_seeds(paper.ours, results / "seeds.csv")
    paper.curves = load_curves(results / "curves.csv")
    paper.claims = load_claims(root, name)
    variances = results / testsets.FILE
    listed = _numbered_if_there(variances, testsets.COLUMNS)
    paper.test_variances = testsets.known_variances(listed, variances)

    readme = folder / "README.md"
    text = ""
    if readme.exists():
        text = read_text(readme)
    if not text:
        paper.missing.append(f"{name}/README.md")
    paper.title, paper.link = _title_and_link(text)
    paper.deviations = deviations(text)
    if text and not paper.deviations:
        paper.missing.append(f"a deviations table in {name}/README.md")

    _load_pictures(paper, results / "figures", text)
    return paper


def _rows_or_missing(paper: Paper, path: Path, columns: Sequence[str]) -> list[Row]:
    if path.exists():
        return load_rows(path, paper.name, columns)
    paper.missing.append(f"{paper.name}/results/{path.name}")
    return []


def _load_pictures(paper: Paper, folder: Path, readme: str) -> None:
    """The PNGs of a folder, with the captions that the README gives them."""
    captions: dict[str, str] = {}
    for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", readme):
        captions[Path(target).name] = alt

    for picture in sorted(folder.glob("[!.]*.png")):
        if _is_png(picture):
            caption = captions.get(picture.name) or picture.stem.replace("_", " ")
            paper.pictures.append((picture, caption))
        else:
            paper.missing.append(f"a readable picture {paper.name}/results/figures/{picture.name}")


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
    """The rows of one results file; UserError naming file, line and cell of what is wrong in it."""
    parse = _ours if columns is OURS else _published
    rows = []
    lines: dict[tuple[str, ...], int] = {}
    for number, cells in read_numbered(path, columns):
        where = f"{path}: line {number}"
        row = parse(cells, paper, where)
        rows.append(row)
        if row.superseded_by:
            continue
        if row.key in lines:
            raise UserError(
                f"{where}: a second row for {', '.join(row.key)}"
                f" (the first: line {lines[row.key]});"
                " the first five columns must differ"
            )
        lines[row.key] = number
    return rows


def _published(cells: dict[str, str], paper: str, where: str) -> Row:
    """A row of paper.csv; n is what the paper counts there, if it tells."""
    value = _number(cells["value"], f"{where}: value")
    std = _spread(cells["std"], value, f"{where}: std")
    n = _count(cells["n"], f"{where}: n")
    return Row(paper, cells, value, std, n or 0, is_sample=False)


def _ours(cells: dict[str, str], paper: str, where: str) -> Row:
    """A row of ours.csv. A mean is over n runs: one without deviation, or seeds, each as often."""
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
    if not text.strip():
        return None
    return decimal(text, where)


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

    UserError where the two files do not tell the same: a verdict would rest on numbers that no
    table shows.
    """
    known: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    lines: dict[tuple[str, ...], int] = {}
    for number, cells in _numbered_if_there(path, SEEDS):
        where = f"{path}: line {number}"
        key = tuple(cells[c] for c in KEY)
        seed = whole(cells["seed"], f"{where}: seed")
        if seed in known[key]:
            raise UserError(f"{where}: a second value of seed {seed} for {', '.join(key)}")
        known[key][seed] = decimal(cells["value"], f"{where}: value")
        lines.setdefault(key, number)

    current = {row.key for row in rows if not row.superseded_by}
    for row in rows:
        is_current = not row.superseded_by or row.key not in current
        if is_current and row.key in known:
            _check_seeds(row, known[row.key], f"{path}: line {lines[row.key]}")
    for row in rows:
        lines.pop(row.key, None)
    if lines:
        first = min(lines.values())
        raise UserError(f"{path}: line {first}: ours.csv has no row with these first five columns")
    with_values = []
    for row in rows:
        is_current = not row.superseded_by or row.key not in current
        values = known.get(row.key) if is_current else None
        with_values.append(replace(row, by_seed=values))
    return with_values


def _numbered_if_there(path: Path, columns: Sequence[str]) -> Sequence[tuple[int, dict[str, str]]]:
    if not path.exists():
        return ()
    return read_numbered(path, columns)


def _check_seeds(row: Row, values: dict[int, float], where: str) -> None:
    named = ", ".join(row.key)
    told = set(map(int, row.cells["seeds"].split()))
    if told and told != set(values):
        raise UserError(
            f"{where}: seeds {_listed(values)} for {named}, but ours.csv has {_listed(told)}"
        )
    mean = statistics.fmean(values.values())
    if row.value is None or not math.isclose(mean, row.value, rel_tol=1e-4, abs_tol=1e-4):
        raise UserError(
            f"{where}: the mean over the seeds is {mean:.6g} for {named},"
            f" but ours.csv has {row.cells['mean']}"
        )


def _listed(seeds: Iterable[int]) -> str:
    return " ".join(map(str, sorted(seeds)))


def load_curves(path: Path) -> dict[tuple[str, str, str], list[Curve]]:
    """The curves of curves.csv, one for each method, by (data set, setting, SPLIT/METRIC)."""
    points: dict[tuple[str, str, str, str], list[Point]] = defaultdict(list)
    for number, cells in _numbered_if_there(path, CURVES):
        where = f"{path}: line {number}"
        key = (cells["dataset"], cells["setting"], cells["curve"], cells["method"])
        epoch = decimal(cells["epoch"], f"{where}: epoch")
        mean = decimal(cells["mean"], f"{where}: mean")
        std = _spread(cells["std"], mean, f"{where}: std") or 0.0
        n = whole(cells["n"], f"{where}: n")
        if any(point.epoch == epoch for point in points[key]):
            raise UserError(
                f"{where}: a second point at epoch {cells['epoch']} for {', '.join(key)}"
            )
        points[key].append(Point(epoch, mean, std, n))

    charts: dict[tuple[str, str, str], list[Curve]] = defaultdict(list)
    for (dataset, setting, curve, method), own in points.items():
        charts[dataset, setting, curve].append(curve_of(method, sorted(own)))
    return charts


def _title_and_link(readme: str) -> tuple[str, str]:
    title = re.search(r"^# (.+)$", readme, re.M)
    link = re.search(r"\((https?://[^)\s]+)\)", readme)
    return _group(title), _group(link)


def _group(match: re.Match[str] | None) -> str:
    """The first group of a match without the space around it; "" where nothing matched."""
    if match is None:
        return ""
    return match.group(1).strip()


def deviations(readme: str) -> list[list[str]]:
    """The table under the README's heading on deviations; [] where there is none.

    Its header and its rows, as Markdown cells.
    """
    heading = r"^#+ [^\n]*deviation[^\n]*\n(.*?)(?=^#+ |\Z)"
    section = re.search(heading, readme, re.M | re.S | re.I)
    table: list[list[str]] = []
    for line in _group(section).splitlines():
        if line.lstrip().startswith("|"):
            inner = re.sub(r"(?<!\\)\|$", "", line.strip().removeprefix("|"))
            cells = re.split(r"(?<!\\)\|", inner)
            table.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif table:
            break

    if len(table) <= 2:
        return []
    header, _, *rows = table
    return [header, *rows]
