"""Small pieces of HTML: escaped text, Markdown cells, tables that sort, badges, provenance, embedded files."""

import base64
import csv
import html
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sidebyside.records import KEY, Row
from sidebyside.results import OURS
from sidebyside.verdict import NOT_ENOUGH, NOT_REPRODUCED, NOT_RUN, PARTLY, REPRODUCED
from sidebyside.wording import printable

BADGES = {
    REPRODUCED: ("yes", "✓"),
    PARTLY: ("partly", "◐"),
    NOT_REPRODUCED: ("no", "✗"),
    NOT_ENOUGH: ("open", "…"),
    NOT_RUN: ("open", "–"),
}
_PROVENANCE = [c for c in OURS if c not in (*KEY, "mean", "std", "n")]


def text(value: object) -> str:
    """Escaped for element content and attribute values; what no page may hold (controls, halves of pairs) as `?`."""
    return html.escape(printable(str(value)), quote=True)


def slug(value: str) -> str:
    """A value usable as an id."""
    return re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-") or "unnamed"


def unique_ids(content: str) -> str:
    """HTML in which each id stands once: a second `x` becomes `x-2`."""
    taken: set[str] = set()

    def numbered(match: re.Match[str]) -> str:
        name = match.group(1)
        free = next(n for n in _numbered_names(name) if n not in taken)
        taken.add(free)
        return f' id="{free}"'

    return re.sub(r' id="([^"]*)"', numbered, content)


def _numbered_names(name: str) -> Iterator[str]:
    yield name
    for number in itertools.count(2):
        yield f"{name}-{number}"


def markdown(cell: str) -> str:
    """A Markdown cell: code, bold and web links; everything else escaped."""
    parts = re.split(r"(`[^`]+`)", cell)
    return "".join(
        f"<code>{text(p[1:-1])}</code>" if p[:1] == "`" and len(p) > 1 else _inline(p)
        for p in parts
    )


def _inline(part: str) -> str:
    out = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text(part))
    return re.sub(r"\[([^\]]+)\]\((https?://[^)\s]+)\)", r'<a href="\2">\1</a>', out)


def badge(verdict: str, note: str = "") -> str:
    """The verdict as a sign and words, so that it does not live by colour alone."""
    kind, sign = BADGES[verdict]
    return f'<span class="badge {kind}"><span aria-hidden="true">{sign}</span> {text(verdict)}{text(note)}</span>'


class Cell(str):
    """HTML of a table cell, with the value that it is sorted by."""

    sort: str

    def __new__(cls, content: str, sort: object = "") -> "Cell":
        """`content` is HTML already."""
        cell = super().__new__(cls, content)
        cell.sort = "" if sort is None else str(sort)
        return cell


def table(
    name: str, caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = ""
) -> str:
    """A table whose columns sort; cells are HTML. On a narrow screen every row becomes a card."""
    head = "".join(f'<th scope="col"><button type="button">{text(h)}</button></th>' for h in header)
    body = []
    for row in rows:
        cells = []
        for label, cell in zip(header, row, strict=True):
            sort = f' data-sort="{text(cell.sort)}"' if isinstance(cell, Cell) else ""
            empty = "" if cell else ' class="empty"'
            cells.append(f'<td data-label="{text(label)}"{sort}{empty}><div>{cell}</div></td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table id="{name}" class="sortable {kind}"><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(body)}\n</tbody></table>"
    )


def provenance_line(row: Row) -> str:
    """Command, commit, data and the rest on one line, for a title."""
    return "; ".join(f"{name} {row.cells[name]}" for name in _PROVENANCE if row.cells.get(name))


def provenance(row: Row) -> str:
    """The same as a fold-out list, since a phone has no hover."""
    items = [
        (name.replace("_", " "), row.cells[name]) for name in _PROVENANCE if row.cells.get(name)
    ]
    if row.by_seed:
        items.append(("values by seed", ", ".join(f"{s}: {v:.6g}" for s, v in row.by_seed.items())))
    if not items:
        return ""
    body = "".join(f"<dt>{text(name)}</dt><dd>{_value(name, value)}</dd>" for name, value in items)
    return f"<details><summary>provenance</summary><dl>{body}</dl></details>"


def _value(name: str, value: str) -> str:
    return (
        f"<code>{text(value)}</code>"
        if name in ("command", "commit", "data sha", "run")
        else text(value)
    )


def picture(path: Path, alt: str) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{text(alt)}" src="data:image/png;base64,{data}">'


def download(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A link that saves a CSV; the file is the link."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    data = base64.b64encode(buffer.getvalue().encode()).decode()
    return f'<a class="download" download="{name}" href="data:text/csv;charset=utf-8;base64,{data}">{name}</a>'
