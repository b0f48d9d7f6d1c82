"""One reader for every list, csv, json and xml of the five papers, and checks of what they hold.

A file that cannot be read ends in a UserError: one line with path, line number and what to do.
"""

import csv
import io
import json
import math
import os
import re
import stat
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from xml.parsers import expat

from common.errors import UserError
from common.files import atomic_write

MARK = b"\xef\xbb\xbf"  # the byte-order mark of UTF-8, which Windows editors write
OTHER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
BLOCK = 1 << 20

KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


# --- files ---


def expanded(path: str | Path) -> Path:
    """The path with ~ and ~NAME spelled out; UserError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = Path(path).parts[0]
        raise UserError(f"{path} does not exist: there is no home {user}") from error


def require_file(path: str | Path, what: str = "file") -> Path:
    """The path of an ordinary file; UserError if it is missing, a folder, a pipe or a device.

    Nothing is opened: opening a pipe waits until somebody writes into it.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: no such {what}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # a NUL or a lone surrogate in the name
        raise UserError(f"{str(path)!a}: no file can have this name") from error

    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a folder, expected a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is a pipe or a device, expected an ordinary file")
    return path


def read_bytes(path: str | Path) -> bytes:
    """The content of an ordinary file; UserError where it is none or cannot be read."""
    path = require_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_text(path: str | Path) -> str:
    r"""The text of a UTF-8 file, with or without byte-order mark; its lines end in "\n".

    UserError names the line of what is not UTF-8, of a NUL, of a byte-order mark inside the text.
    """
    text = _decoded(read_bytes(path), Path(path), 1)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def numbered_lines(path: str | Path) -> list[tuple[int, str]]:
    """The lines that are not blank, stripped of white space, each with its number from 1."""
    lines = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        stripped = line.strip()
        if stripped:
            lines.append((number, stripped))
    return lines


def _decoded(data: bytes, path: Path, first_line: int) -> str:
    """UTF-8 without its byte-order mark; `first_line` is the number of the first line of `data`."""
    if first_line == 1:
        data = data.removeprefix(MARK)
        encoding = OTHER_MARKS.get(data[:2])
        if encoding:
            raise UserError(f"{path}: line 1: {encoding}, not UTF-8; save the file as UTF-8")

    place = data.find(b"\0")
    if place >= 0:
        line = first_line + _line_ends(data[:place])
        raise UserError(f"{path}: line {line}: a NUL, so this is no text file; save it as UTF-8")

    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + _line_ends(data[: error.start])
        byte = f"0x{data[error.start]:02x}"
        reason = f"not UTF-8 (byte {byte}); save the file as UTF-8"
        raise UserError(f"{path}: line {line}: {reason}") from error

    if "\ufeff" in text:
        marked = re.search("(?:^|[\r\n])\ufeff", text)
        if marked:
            line = first_line + _line_ends(text[: marked.end() - 1].encode())
            raise UserError(f"{path}: line {line}: a byte-order mark inside the text; remove it")
    return text


def _line_ends(data: bytes) -> int:
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


# --- csv ---


def csv_rows(path: str | Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv file, one after the other, each with the number of its first line.

    Rows without any text are left out, and so are spaces before a cell. Cells in quotes may hold
    spaces, the delimiter, quotes ("") and line ends, which stay as they are. UserError names the
    line of what is not csv. The file is read a megabyte at a time.
    """
    path = require_file(path)
    try:
        with path.open("rb") as file:
            lines = chain.from_iterable(_line_blocks(file, path))
            # Without skipinitialspace `a, "b, c"` would be three cells.
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
            yield from _numbered_rows(reader, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_csv(path: str | Path, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """All rows of a csv file at once: [(line number, cells), ...]; see `csv_rows`."""
    return list(csv_rows(path, delimiter))


def write_csv(path: str | Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows, whatever text they hold; `read_csv` gives them back. The file appears whole."""
    lines = [",".join(map(_quoted, row)) + "\n" for row in rows]
    try:
        data = "".join(lines).encode("utf-8")
    except UnicodeEncodeError as error:  # half of a pair of surrogates, which json can hold
        shown = ascii(error.object[error.start])
        raise UserError(f"{path}: cannot be written, {shown} is no character") from error
    atomic_write(Path(path), data)


def _quoted(value: object) -> str:
    # Python's own writer leaves a lone CR without quotes, and no reader takes it that way.
    cell = "" if value is None else str(value)
    if not re.search('[,"\r\n\ufeff]|^ ', cell):
        return cell
    doubled = cell.replace('"', '""')
    return f'"{doubled}"'


def _numbered_rows(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    begins = 1
    try:
        for row in reader:
            if "".join(row).strip():
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}: line {begins}: not a row of csv ({error})") from error


def _line_blocks(file: BinaryIO, path: Path) -> Iterator[Iterable[str]]:
    """The lines of a file, in blocks of about a megabyte, with their line ends."""
    line = 1
    while block := file.read(BLOCK):
        block += file.readline()
        text = _decoded(block, path, line)
        line += _line_ends(block)
        yield io.StringIO(text, newline="")


# --- json ---


def read_json(path: str | Path, kind: type | tuple[type, ...] | None = None) -> Any:
    """What a json file holds; `kind` (dict, list, ...) is what it must hold.

    UserError names line and column of what is not json, nesting too deep to be read, a key that
    stands twice in an object (one of its values would be lost), and another kind than expected.
    """
    text = read_text(path)
    try:
        content = json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path}: {where}: not json ({error.msg})") from error
    except RecursionError as error:
        raise UserError(f"{path}: not readable json (nested too deep)") from error
    except ValueError as error:  # a key twice; a number of more than 4300 digits
        reason = str(error).split(";")[0]
        raise UserError(f"{path}: not readable json ({reason})") from error

    if kind is not None and not is_kind(content, kind):
        raise UserError(f"{path}: expected {kind_name(kind)}, found {kind_name(type(content))}")
    return content


def is_kind(value: object, kind: type | tuple[type, ...]) -> bool:
    """isinstance, except that true and false are no numbers."""
    if isinstance(value, bool):
        return bool in _kinds(kind)
    return isinstance(value, kind)


def kind_name(kind: type | tuple[type, ...]) -> str:
    """A kind of json value in words: "an object", "a list or null"."""
    words = dict.fromkeys(KINDS.get(one, one.__name__) for one in _kinds(kind))
    return " or ".join(words)


def _kinds(kind: type | tuple[type, ...]) -> tuple[type, ...]:
    return kind if isinstance(kind, tuple) else (kind,)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of json; ValueError names a key that stands twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key {twice[:60]!r} stands twice in one object")
    return content


# --- xml ---


def read_xml(path: str | Path) -> ElementTree.Element:
    """The root element of an xml file; names come without their name space.

    The encoding is the declared one. UserError names line and column of what is not xml, an unknown
    encoding, and entities of the file's own: a few can stand for gigabytes, and data needs none.
    """
    data = read_bytes(path)
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartElementHandler = lambda tag, values: builder.start(_local(tag), values)
    parser.EndElementHandler = lambda tag: builder.end(_local(tag))
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse_entity
    parser.SkippedEntityHandler = _refuse_entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        where = f"line {error.lineno}, column {error.offset + 1}"
        raise UserError(f"{path}: {where}: not xml ({reason})") from error
    except (LookupError, ValueError) as error:  # an encoding that Python or expat does not know
        raise UserError(f"{path}: line 1: not readable xml ({error}); save it as UTF-8") from error
    except _Entity as error:
        where = f"line {parser.CurrentLineNumber}"
        raise UserError(f"{path}: {where}: an entity of its own ({error}); write it out") from error
    return builder.close()


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


class _Entity(Exception):
    """An entity beside the five that xml has."""


def _refuse_entity(name: str, *_: object) -> NoReturn:
    raise _Entity(name)


# --- what files hold ---


def decimal(text: object, where: str) -> float:
    """A finite number, of text or of json; UserError names `where`.

    >>> decimal("1.2e+01", "boxes.csv: line 3")
    12.0
    """
    number = _number(text)
    if number is None or not math.isfinite(number):
        raise UserError(f"{where}: expected a finite number, found {_shown(text)}")
    return float(number)


def whole(text: object, where: str, *, rounded: bool = False) -> int:
    """A whole number: 12, "12", "12.0", "1.2e+01". UserError names `where`.

    "12.5" is an error; with `rounded` it is the nearest whole number, halves to the even one.
    """
    number = _number(text)
    if number is not None and math.isfinite(number):
        nearest = round(number)
        if rounded or number == nearest:
            return nearest
    expected = "a finite number" if rounded else "a whole number"
    raise UserError(f"{where}: expected {expected}, found {_shown(text)}")


def _number(value: object) -> float | int | None:
    """The number, whole ones exactly; None for what is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str) or "_" in value:  # Python would take 1_000
        return None
    for convert in (int, float):
        try:
            return convert(value)
        except ValueError:
            continue
    return None


def inside(root: str | Path, name: object, where: str) -> Path:
    """`root / name`, for a name that stands in data and must not lead out of the folder.

    UserError names `where` for an absolute name, one with `..` or an empty part, and for no name.
    """
    if isinstance(name, Path):
        name = str(name)
    if not isinstance(name, str):
        raise UserError(f"{where}: expected the name of a file, found {_shown(name)}")

    parts = name.replace(os.sep, "/").split("/")
    is_absolute = name.startswith("/") or bool(Path(name).drive)
    if is_absolute or ".." in parts or "" in parts or set(parts) == {"."}:
        raise UserError(f"{where}: the name {_shown(name)} may lead out of its folder; refused")
    if not _can_be_a_name(name):
        raise UserError(f"{where}: no file can have the name {_shown(name)}")
    return Path(root) / name


def _can_be_a_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half of a pair of surrogates, which json can hold
        return False
    return "\0" not in name


def once(ids: Iterable[Hashable], where: str, *, lines: Sequence[int] | None = None) -> None:
    """UserError for an id that comes twice; it names the first such id and where it stands.

    `lines` are the line numbers of the ids; without them ids are counted from 1: "entries 3 and 7".
    """
    first: dict[Hashable, int] = {}
    for position, name in enumerate(ids):
        before = first.setdefault(name, position)
        if before != position:
            places = f"entries {before + 1} and {position + 1}"
            if lines is not None:
                places = f"lines {lines[before]} and {lines[position]}"
            raise UserError(f"{where}: {_shown(name)} stands there twice ({places}); expected once")


def _shown(value: object) -> str:
    """A value as a message shows it: in quotes, shortened, json kinds in words."""
    if value is None or isinstance(value, dict | list | bool):
        return kind_name(type(value))
    text = repr(value)
    if isinstance(value, str) and not value.isprintable():
        text = ascii(value)
    if len(text) > 60:
        text = f"{text[:56]}...{text[-1]}"
    return text
