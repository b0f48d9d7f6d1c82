"""Lists, csv, json and xml: what is read, and the one line about what is not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common import text
from common.cli import UserError
from common.text import (
    csv_rows,
    decimal,
    inside,
    numbered_lines,
    once,
    read_csv,
    read_json,
    read_text,
    read_xml,
    require_file,
    whole,
    write_csv,
)

READERS = [read_text, numbered_lines, read_csv, read_json, read_xml]


def refused(function, *arguments: object, **options: object) -> str:
    """The one line of the UserError."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def file(tmp_path: Path):
    """Write bytes into a file and return its path."""

    def write(content: bytes | str, name: str = "x.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


# --- text ---


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_marks_and_line_ends_of_every_editor_are_read(file, mark, end):
    path = file(mark + end.join(["größe".encode(), b"", b"  two words ", b"last"]))
    assert read_text(path) == "größe\n\n  two words \nlast"
    assert numbered_lines(path) == [(1, "größe"), (3, "two words"), (4, "last")]


def test_only_line_ends_end_a_line(file):
    path = file("a\u2028b\x0cc\x85d\ne")
    assert numbered_lines(path) == [(1, "a\u2028b\x0cc\x85d"), (2, "e")]
    assert numbered_lines(file("")) == []


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "eins\nzwei\nfünf".encode("latin-1"),
            "line 3: not UTF-8 (byte 0xfc); save the file as UTF-8",
        ),
        ("a\r\nb\r\nfünf".encode("latin-1"), "line 3: not UTF-8"),
        ("a\rfünf".encode("cp1252"), "line 2: not UTF-8"),
        ("a\nb".encode("utf-16"), "line 1: UTF-16, not UTF-8; save the file as UTF-8"),
        ("a\nb".encode("utf-16-be"), "line 1: a NUL"),
        (b"a\nb\0c", "line 2: a NUL, so this is no text file"),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", "line 2: a byte-order mark inside the text"),
        (b"\xef\xbb\xbf\xef\xbb\xbfa", "line 1: a byte-order mark inside the text"),
        (b"a\n\xf0\x9f", "line 2: not UTF-8"),
    ],
)
@pytest.mark.parametrize("read", [read_text, numbered_lines, read_csv, read_json])
def test_other_encodings_are_named_with_their_line(file, read, content, message):
    path = file(content)
    assert refused(read, path).startswith(f"{path}: {message}")


def test_a_mark_in_the_middle_of_a_line_is_text(file):
    assert read_text(file("a\ufeffb")) == "a\ufeffb"


@pytest.mark.parametrize("read", [*READERS, require_file])
def test_what_is_no_ordinary_file_is_refused_and_never_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    assert refused(read, tmp_path / "pipe").startswith(f"{tmp_path}/pipe: is a pipe or a device")
    assert "is a pipe or a device" in refused(read, "/dev/null")
    assert refused(read, tmp_path) == f"{tmp_path}: is a folder, expected a file"
    assert refused(read, tmp_path / "gone") == f"{tmp_path}/gone: no such file"
    (tmp_path / "plain").touch()
    assert "no such file" in refused(read, tmp_path / "plain" / "below")
    assert "no file can have this name" in refused(read, f"{tmp_path}/a\0b")
    assert "File name too long" in refused(read, tmp_path / ("x" * 300))


def test_a_file_without_permission_is_one_line(file, monkeypatch):
    path = file("a")

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", closed)
    monkeypatch.setattr(Path, "read_bytes", closed)
    for read in READERS:
        assert refused(read, path) == f"{path}: cannot be read (Permission denied)"


# --- csv ---


def test_rows_carry_the_number_of_their_first_line(file):
    path = file('\ufeffa,b\r\n\r\n"one, two","a ""b"""\r\n"line\nend",4\r\n , \r\n7,8')
    expected = [
        (1, ["a", "b"]),
        (3, ["one, two", 'a "b"']),
        (4, ["line\nend", "4"]),
        (7, ["7", "8"]),
    ]
    assert read_csv(path) == expected
    assert list(csv_rows(path)) == expected
    assert read_csv(file('a, "b, c",  d e ,"f"\n')) == [(1, ["a", "b, c", "d e ", "f"])]
    assert read_csv(file("a\tb,c\n"), delimiter="\t") == [(1, ["a", "b,c"])]
    assert read_csv(file("a,b\rc,d\r")) == [(1, ["a", "b"]), (2, ["c", "d"])]
    assert read_csv(file("")) == []


@pytest.mark.parametrize(
    "content, message",
    [
        ('a,b\n"c,d\ne,f\n', "line 2: not a row of csv"),
        ('a,b\nc,d\n"e"f,g\n', "line 3: not a row of csv"),
        ("a\n" + "x" * 200_000, "line 2: not a row of csv (field larger"),
    ],
)
def test_what_is_not_csv_is_named_with_its_line(file, content, message):
    path = file(content)
    assert refused(read_csv, path).startswith(f"{path}: {message}")


def test_a_large_file_is_read_in_blocks_with_the_same_numbers(file, monkeypatch):
    monkeypatch.setattr(text, "BLOCK", 7)
    rows = [[f"größe {k}", "a\nb", 'c"d', "e,f"] for k in range(50)]
    path = file("")
    write_csv(path, rows)
    assert read_csv(path) == [(1 + 2 * k, row) for k, row in enumerate(rows)]
    assert "line 3: not UTF-8" in refused(read_csv, file(b"aaaaaa\nbbbbbb\nccc\xff\nddd\n"))


def test_whatever_is_written_comes_back(file):
    names = [
        "plain",
        "a,b",
        'c"d',
        "e\nf",
        "g\rh",
        "i\r\nj",
        " k ",
        "",
        "'",
        '"',
        "größe",
        "\ufeffl",
    ]
    rows = [[name, "1"] for name in names]
    path = file("old")
    write_csv(path, rows)
    assert [row for _, row in read_csv(path)] == rows
    write_csv(path, [["a", 0.1], ["b", None]])
    assert read_csv(path) == [(1, ["a", "0.1"]), (2, ["b", ""])]
    assert "is no character" in refused(write_csv, path, [["\ud800"]])
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208 - nothing else was left there


# --- json ---


def test_json_is_read_with_a_mark_too(file):
    assert read_json(file('\ufeff{"a": [1, 2.5, null, true, "x"]}\r\n')) == {
        "a": [1, 2.5, None, True, "x"]
    }
    assert read_json(file("[]"), list) == []
    assert read_json(file("null"), (dict, type(None))) is None


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"a": 1,\n "b": }', "line 2, column 7: not json (Expecting value)"),
        ("", "line 1, column 1: not json"),
        ("{} {}", "line 1, column 4: not json (Extra data)"),
        ("[" * 100_000, "not readable json (nested too deep)"),
        ("[" * 100_000 + "]" * 100_000, "not readable json (nested too deep)"),
        (
            '{"a": 1, "b": {"c": 1, "d": 2, "c": 3}}',
            "not readable json (the key 'c' stands twice in one object)",
        ),
        ("[" + "1" * 5000 + "]", "not readable json (Exceeds the limit"),
    ],
)
def test_what_is_not_json_is_named_with_its_line(file, content, message):
    path = file(content)
    assert refused(read_json, path).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    "content, kind, message",
    [
        ("[1]", dict, "expected an object, found a list"),
        ("{}", list, "expected a list, found an object"),
        ("null", dict, "expected an object, found null"),
        ('"a"', (dict, list), "expected an object or a list, found a text"),
        ("true", int, "expected a number, found true or false"),
        ("3", str, "expected a text, found a number"),
    ],
)
def test_another_kind_at_the_top_is_named(file, content, kind, message):
    path = file(content)
    assert refused(read_json, path, kind) == f"{path}: {message}"


# --- xml ---


def test_xml_is_read_in_the_encoding_it_declares(file):
    body = '<annotation a="1"><name>größe</name><box>1<!-- x -->2</box></annotation>'
    for head, encoding in (
        ("", "utf-8"),
        ("", "utf-8-sig"),
        ('<?xml version="1.0" encoding="iso-8859-1"?>', "latin-1"),
        ('<?xml version="1.0" encoding="windows-1252"?>\r\n', "cp1252"),
        ('<?xml version="1.0" encoding="utf-16"?>', "utf-16"),
        ("<!DOCTYPE annotation>", "utf-8"),
    ):
        root = read_xml(file((head + body).encode(encoding)))
        assert root.tag == "annotation" and root.attrib == {"a": "1"}
        assert root.findtext("name") == "größe" and root.findtext("box") == "12"


def test_five_entities_of_xml_and_name_spaces_are_read(file):
    root = read_xml(file('<a xmlns="http://example.org/x"><b>&lt;&amp;&#65;</b></a>'))
    assert root.tag == "a" and root.findtext("b") == "<&A"


BOMB = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]>\n<a>&y;</a>'


@pytest.mark.parametrize(
    "content, message",
    [
        ("<a>\n<b></a>", "line 2, column 6: not xml (mismatched tag)"),
        ("", "line 1, column 1: not xml (no element found)"),
        ("<a>fünf</a>".encode("latin-1"), "line 1, column 5: not xml"),
        (
            '<?xml version="1.0" encoding="klingon"?><a/>',
            "line 1: not readable xml (unknown encoding: klingon)",
        ),
        ('<?xml version="1.0" encoding="utf-7"?><a/>', "line 1"),
        ('<?xml version="1.0" encoding="gb18030"?><a/>', "line 1: not readable xml"),
        (BOMB, "line 1: an entity of its own (x); write it out"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
            "line 1: an entity of its own (x)",
        ),
        ('<!DOCTYPE a SYSTEM "gone.dtd">\n<a>&x;</a>', "line 2: an entity of its own (x)"),
        ("<a>\n&x;</a>", "line 2, column 1: not xml (undefined entity)"),
        (b"<a>\0</a>", "line 1, column 4: not xml"),
    ],
)
def test_what_is_not_xml_is_named_with_its_line(file, content, message):
    path = file(content)
    assert refused(read_xml, path).startswith(f"{path}: {message}")


def test_deep_xml_is_read(file):
    root = read_xml(file("<a>" * 50_000 + "</a>" * 50_000))
    assert sum(1 for _ in root.iter()) == 50_000


# --- what files hold ---


@pytest.mark.parametrize(
    "value, number", [("12", 12), (" 1.2e+01 ", 12), ("-0.5", -0.5), (3, 3), (2.5, 2.5)]
)
def test_decimal_numbers(value, number):
    result = decimal(value, "here")
    assert result == number and type(result) is float


@pytest.mark.parametrize(
    "value", ["", "x", "nan", "inf", "-inf", "1e999", "1_0", "1,5", None, True, [], float("nan")]
)
@pytest.mark.parametrize("convert", [decimal, whole])
def test_what_is_no_finite_number_is_named(convert, value):
    assert refused(convert, value, "a.csv: line 3").startswith("a.csv: line 3: expected a ")


@pytest.mark.parametrize(
    "value, number", [("12", 12), ("12.0", 12), ("1.2e+01", 12), (12.0, 12), ("-3", -3), (7, 7)]
)
def test_whole_numbers(value, number):
    result = whole(value, "here")
    assert result == number and type(result) is int


def test_halves_are_no_whole_numbers_unless_they_may_be_rounded():
    assert refused(whole, "12.5", "box") == "box: expected a whole number, found '12.5'"
    assert whole("12.6", "box", rounded=True) == 13 and whole("-0.4", "box", rounded=True) == 0
    assert refused(whole, "x", "box", rounded=True) == "box: expected a finite number, found 'x'"
    assert whole("9007199254740993", "box") == 9007199254740993  # not by way of a float
    assert "expected" in refused(whole, "1" * 5000, "box")
    assert len(refused(whole, "x" * 5000, "box")) < 120


@pytest.mark.parametrize(
    "name", ["a.jpg", "train/a.jpg", "./a.jpg", "a/./b", "..a/b..", "a b", "größe", Path("x/y")]
)
def test_names_inside_a_folder(tmp_path, name):
    path = inside(tmp_path, name, "list")
    assert path == tmp_path / name and path.resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "..", "/etc/passwd", "", ".", "a//b", "a/", "//a", "./."]
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    assert refused(inside, tmp_path, name, "a.json: image 3").startswith(
        f"a.json: image 3: the name {name!r} may"
    )


@pytest.mark.parametrize("name", [None, 3, ["a"], {}, True, "a\0b", "\ud800"])
def test_what_is_no_name_is_refused(tmp_path, name):
    message = refused(inside, tmp_path, name, "a.json: image 3")
    assert message.startswith("a.json: image 3: ") and re.search(
        "expected the name of a file|no file can", message
    )
    message.encode()


def test_an_id_that_comes_twice_is_named_with_both_places():
    once([], "list")
    once(["a", "b", ("a", "b"), 1], "list")
    assert refused(once, ["a", "b", "a", "b"], "x.json: images") == (
        "x.json: images: 'a' stands there twice (entries 1 and 3); expected once"
    )
    assert "(lines 4 and 9)" in refused(once, iter(["a", "b", "b"]), "list", lines=[2, 4, 9])
    assert "7 stands there twice" in refused(once, [7, 7], "list")


def test_a_reader_of_text_waits_for_no_torch(file):
    path = file(json.dumps({"a": 1}))
    code = "import sys; from common import text; text.read_json(sys.argv[1])\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(path)], timeout=60).returncode == 0
