"""Small pieces of HTML: escaped text, Markdown cells, tables that sort, badges, embedded files."""

import base64
import csv
import html
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sidebyside.records import Row
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
_PROVENANCE = OURS[OURS.index("n") + 1 :]  # the columns that tell where a number comes from
_CODE = ("command", "commit", "data_sha", "run")  # those set in type of one width


def text(value: object) -> str:
    """Escaped for element content and attribute values; controls and halves of pairs become `?`."""
    return html.escape(printable(str(value)), quote=True)


def each(tag: str, values: Iterable[object]) -> list[str]:
    """Every value, escaped, in an element of its own."""
    return [f"<{tag}>{text(value)}</{tag}>" for value in values]


def fold(summary: str, content: str) -> str:
    """HTML that folds out below a summary."""
    return f"<details><summary>{summary}</summary>{content}</details>"


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
    return "".join(map(_inline, parts))


def _inline(part: str) -> str:
    if part.startswith("`") and len(part) > 1:
        return f"<code>{text(part[1:-1])}</code>"
    out = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text(part))
    return re.sub(r"\[([^\]]+)\]\((https?://[^)\s]+)\)", r'<a href="\2">\1</a>', out)


def fitted(row: Sequence[str], width: int) -> list[str]:
    """The row, with empty cells up to `width`, or cut there."""
    filled = [*row, *[""] * width]
    return filled[:width]


def badge(verdict: str, note: str = "") -> str:
    """The verdict as a sign and words, so that it does not live by colour alone."""
    kind, sign = BADGES[verdict]
    words = f"{text(verdict)}{text(note)}"
    return f'<span class="badge {kind}"><span aria-hidden="true">{sign}</span> {words}</span>'


class Cell(str):
    """HTML of a table cell, with the value that it is sorted by."""

    sort: str

    def __new__(cls, content: str, sort: object = "") -> "Cell":
        """`content` is HTML already."""
        cell = super().__new__(cls, content)
        if sort is None:
            sort = ""
        cell.sort = str(sort)
        return cell


def table(
    name: str, caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = ""
) -> str:
    """A table whose columns sort; cells are HTML. On a narrow screen every row becomes a card."""
    head = ""
    for label in header:
        head += f'<th scope="col"><button type="button">{text(label)}</button></th>'

    lines = []
    for row in rows:
        cells = ""
        for label, cell in zip(header, row, strict=True):
            cells += _cell(label, cell)
        lines.append(f"<tr>{cells}</tr>")
    body = "\n".join(lines)
    return (
        f'<table id="{name}" class="sortable {kind}"><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    )


def _cell(label: str, cell: str) -> str:
    attributes = f'data-label="{text(label)}"'
    if isinstance(cell, Cell):
        attributes += f' data-sort="{text(cell.sort)}"'
    if not cell:
        attributes += ' class="empty"'
    return f"<td {attributes}><div>{cell}</div></td>"


def _told_of(row: Row) -> list[tuple[str, str]]:
    """Where a row's number comes from: the columns that are filled, and their cells."""
    return [(name, row.cells[name]) for name in _PROVENANCE if row.cells.get(name)]


def provenance_line(row: Row) -> str:
    """Command, commit, data and the rest on one line, for a title."""
    return "; ".join(map(" ".join, _told_of(row)))


def provenance(row: Row) -> str:
    """The same as a fold-out list, since a phone has no hover."""
    body = ""
    for name, value in _told_of(row):
        content = text(value)
        if name in _CODE:
            content = f"<code>{content}</code>"
        body += f"<dt>{text(name.replace('_', ' '))}</dt><dd>{content}</dd>"

    if row.by_seed:
        values = [f"{seed}: {value:.6g}" for seed, value in row.by_seed.items()]
        body += f"<dt>values by seed</dt><dd>{text(', '.join(values))}</dd>"
    if not body:
        return ""
    return fold("provenance", f"<dl>{body}</dl>")


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
    link = f"data:text/csv;charset=utf-8;base64,{data}"
    return f'<a class="download" download="{name}" href="{link}">{name}</a>'
