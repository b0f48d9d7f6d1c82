"""Rows of a csv or a json: named cells, and where each row stands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError
from common.text import csv_rows, is_kind, kind_name, read_json, require_file

DELIMITERS = (",", ";", "\t")


class Record(NamedTuple):
    """A row: where it stands, and what it holds by column. Of a csv all are texts."""

    where: str
    cells: Mapping[str, Any]


def read_records(path: Path) -> tuple[list[str], list[Record]]:
    """Column names in lower case and rows of a csv. UserError names the line of a ragged row.

    The delimiter is the one that the header holds most of: a comma, a semicolon or a tab.
    """
    with require_file(path).open("rb") as file:
        first = file.readline(1 << 20)
    delimiter = max(DELIMITERS, key=lambda mark: first.count(mark.encode()))
    rows = csv_rows(path, delimiter)
    header = next(rows, None)
    if header is None:
        raise UserError(f"{path}: is empty; write a header and a row for each picture")

    columns = [cell.strip().lower() for cell in header[1]]
    for name in columns:
        if name and columns.count(name) > 1:
            raise UserError(f"{path}: line {header[0]}: the column {name!r} stands there twice")
    records = []
    for number, cells in rows:
        where = f"{path}: line {number}"
        if len(cells) != len(columns):
            found = f"{len(cells)} cells, the header has {len(columns)}"
            hint = "a name that holds the delimiter needs quotes"
            raise UserError(f"{where}: {found}; {hint}")
        values = [cell.strip() for cell in cells]
        records.append(Record(where, dict(zip(columns, values, strict=True))))
    return columns, records


def read_json_records(path: Path) -> tuple[list[str], list[Record]]:
    """Names and rows of a json: a list of objects, or an object of picture names and labels."""
    content = read_json(path, (list, dict))
    records = []
    if isinstance(content, dict):
        for name, value in content.items():
            key = "labels" if isinstance(value, list) else "label"
            records.append(Record(f"{path}: {name!r}", {"path": name, key: value}))
    else:
        for number, item in enumerate(content, 1):
            where = f"{path}: entry {number}"
            if not isinstance(item, dict):
                found = kind_name(type(item))
                raise UserError(f"{where}: expected an object with path and label, found {found}")
            cells = {str(key).strip().lower(): value for key, value in item.items()}
            records.append(Record(where, cells))

    columns: dict[str, None] = {}
    for record in records:
        columns.update(dict.fromkeys(record.cells))
    return list(columns), records


def single(record: Record, column: str) -> str:
    """The text of a cell, "" where it is empty, null or absent; a whole number as its digits."""
    value = record.cells.get(column)
    if value is None:
        return ""
    if not is_kind(value, (str, int)):
        found = kind_name(type(value))
        raise UserError(f"{record.where}: {column} is {found}; expected a text")
    return str(value).strip()


def several(record: Record, column: str, *, nested: bool = False) -> list[Any] | None:
    """The texts of a cell with `;` between them, or of a json's list; empty ones are left out.

    None where a json has null or nothing there. `nested`: the items of a list as they are.
    """
    value = record.cells.get(column)
    if value is None:
        return None
    if not isinstance(value, list):
        parts = [part.strip() for part in single(record, column).split(";")]
        return [part for part in parts if part]
    if nested:
        return value
    texts = [single(Record(record.where, {column: item}), column) for item in value]
    return [text for text in texts if text]
