"""What the templates are filled with: the environment, Markdown cells, embedded files.

All HTML stands in sidebyside/templates; whatever is put in there is escaped.
"""

import base64
import csv
import functools
import html
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sidebyside.records import Row
from sidebyside.results import OURS
from sidebyside.verdict import (
    CONFOUNDED,
    CONTRADICTED,
    MIXED,
    NO_DIFFERENCE,
    NOT_ENOUGH,
    NOT_RUN,
    REPRODUCED,
    UNDECIDED,
    VERDICTS,
)
from sidebyside.wording import printable, show, signed

HERE = Path(__file__).parent
BADGES = {  # kind (a class of page.css) and sign
    REPRODUCED: ("yes", "✓"),
    CONTRADICTED: ("no", "✗"),
    NO_DIFFERENCE: ("partly", "="),
    MIXED: ("partly", "◐"),
    UNDECIDED: ("open", "?"),
    CONFOUNDED: ("open", "⚠"),
    NOT_ENOUGH: ("open", "…"),
    NOT_RUN: ("open", "–"),
}
_PROVENANCE = OURS[OURS.index("n") + 1 :]  # the columns that tell where a number comes from
_CODE = ("command", "commit", "data_sha", "run", "method_sha")  # set in type of one width
_ALWAYS = ("data_sha",)  # said to be missing where it is
UNRECORDED = "not recorded when it was measured"


def text(value: object) -> Markup:
    """Escaped for element content and attribute values; controls and halves of pairs become `?`.

    Markup stays as it is.
    """
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(printable(str(value)), quote=True))


@functools.cache
def environment() -> Environment:
    """The templates, with what they may call; each is compiled once."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        finalize=text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["zip"] = zip
    made.globals.update(
        badges=BADGES,
        verdicts=VERDICTS,
        provenance=provenance,
        provenance_line=provenance_line,
        picture=picture,
        not_run=NOT_RUN,
    )
    made.filters.update(show=show, signed=signed, markdown=markdown, slug=slug)
    return made


def slug(value: str) -> str:
    """A value usable as an id."""
    return re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-") or "unnamed"


def unique(names: Iterable[str]) -> list[str]:
    """The names, each once: a second `x` becomes `x-2`.

    >>> unique(["a", "a-2", "a"])
    ['a', 'a-2', 'a-3']
    """
    taken: dict[str, None] = {}
    for name in names:
        free = next(other for other in _numbered(name) if other not in taken)
        taken[free] = None
    return list(taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in itertools.count(2):
        yield f"{name}-{number}"


def markdown(cell: str) -> Markup:
    """A Markdown cell: code, bold and web links; everything else escaped."""
    parts = re.split(r"(`[^`]+`)", cell)
    return Markup("").join(map(_inline, parts))


def _inline(part: str) -> Markup:
    if part.startswith("`") and len(part) > 1:
        return Markup("<code>{}</code>").format(text(part[1:-1]))
    escaped = str(text(part))
    out = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escaped)
    link = r'<a href="\2">\1</a>'
    return Markup(re.sub(r"\[([^\]]+)\]\((https?://[^)\s]+)\)", link, out))


def fitted(row: Sequence[str], width: int) -> list[str]:
    """The row, with empty cells up to `width`, or cut there."""
    filled = [*row, *[""] * width]
    return filled[:width]


def provenance(row: Row) -> list[tuple[str, str, bool]]:
    """Where a row's number comes from: name, value, and whether it is set in type of one width."""
    told = []
    for name in _PROVENANCE:
        value = row.cells.get(name, "")
        if not value and name in _ALWAYS:
            value = UNRECORDED
        if value:
            told.append((name.replace("_", " "), value, name in _CODE))
    by_seed = UNRECORDED
    if row.by_seed:
        values = [f"{seed}: {value:.6g}" for seed, value in row.by_seed.items()]
        by_seed = ", ".join(values)
    told.append(("values by seed", by_seed, False))
    return told


def provenance_line(row: Row) -> str:
    """Command, commit, data and the rest on one line, for a title."""
    filled = [(name, row.cells[name]) for name in _PROVENANCE if row.cells.get(name)]
    return "; ".join(map(" ".join, filled))


def picture(path: Path) -> str:
    """The address of a PNG inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"data:image/png;base64,{data}"


def csv_address(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The address of a CSV inside the page; the file is the address."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    data = base64.b64encode(buffer.getvalue().encode()).decode()
    return f"data:text/csv;charset=utf-8;base64,{data}"
