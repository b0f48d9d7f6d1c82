"""Code is drawn from files by name, without importing them."""

from pathlib import Path

import pytest

from docs._ext.source import read_code

TEXT = '''\
"""A module."""

CASES = {
    "a": 1,
}


@decorated
def area(side: float) -> float:
    """The area of a square,
    in square metres.

        A = a^2

    Args:
        side: a.
    """
    # The power is exact.
    return side**2


class Square:
    """A square."""

    side: float = 1.0

    def area(self) -> float:
        """As above."""
        return area(self.side)
'''


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "squares.py"
    path.write_text(TEXT)
    return path


def test_a_function_comes_without_its_docstring(file):
    found = read_code(file, "area")
    assert found.text.splitlines() == [
        "@decorated",
        "def area(side: float) -> float:",
        "    # The power is exact.",
        "    return side**2",
    ]
    assert (found.first, found.last) == (8, 19)


def test_the_first_paragraph_is_the_summary(file):
    found = read_code(file, "area")
    assert found.summary == "The area of a square, in square metres."
    assert found.details.startswith("    A = a^2\n")
    assert found.details.endswith("side: a.")


def test_a_method_is_not_indented(file):
    found = read_code(file, "Square.area")
    assert found.text == "def area(self) -> float:\n    return area(self.side)"


def test_a_constant_has_no_summary(file):
    found = read_code(file, "CASES")
    assert found.text == 'CASES = {\n    "a": 1,\n}'
    assert found.summary == found.details == ""


@pytest.mark.parametrize("name", ["volume", "Square.volume", "area.side"])
def test_a_name_that_is_not_there_is_told(file, name):
    with pytest.raises(LookupError, match=name):
        read_code(file, name)
