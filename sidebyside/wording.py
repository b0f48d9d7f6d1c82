"""Numbers and names for reading: few digits, but never so few that one looks like zero."""

import math
import unicodedata
from collections.abc import Iterable

_MOST = 8  # decimals


def printable(text: str) -> str:
    r"""The text with `?` for what no terminal or page can show: controls, bytes not of UTF-8.

    >>> printable("run-\x1b[31m1")
    'run-?[31m1'
    """
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    is_space = character in "\t\n" or unicodedata.category(character) == "Zs"
    if is_space or character.isprintable():
        return character
    return "?"


def markdown_line(cells: Iterable[str]) -> str:
    """A line of a Markdown table; a bar or a line end in a cell would end the cell.

    >>> markdown_line(["a|b", "two\\nlines"])
    '| a\\\\|b | two lines |'
    """
    plain = [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(plain)} |"


def _digits(size: float) -> int:
    """How many decimals a number of this size is shown with: two, below one four."""
    if size < 1:
        return 4
    return 2


def show(value: float) -> str:
    """A number for reading: two decimals, below one four, no trailing zeros.

    Where it is tiny it has two significant digits.

    >>> [show(v) for v in (97.0, 97.123, 0.84206, 0.00042, 1.5e-7)]
    ['97', '97.12', '0.8421', '0.00042', '1.5e-07']
    """
    size = abs(value)
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if size < 0.001:
        return f"{value:.2g}"
    if size >= 1e9:
        return f"{value:.4g}"
    return f"{value:.{_digits(size)}f}".rstrip("0").rstrip(".")


def signed(value: float) -> str:
    """A difference: `show` with its sign, also before a positive one.

    >>> signed(0.54), signed(-0.54), signed(0)
    ('+0.54', '-0.54', '0')
    """
    if value > 0:
        return f"+{show(value)}"
    return show(value)


def mean_and_spread(mean: str | float, std: str | float | None = None) -> str:
    """`mean ± std`: two decimals, below one four, more where the smaller would show as zero.

    >>> mean_and_spread(96.8777, 0.0156), mean_and_spread("75.1875", "0.0033")
    ('96.88 ± 0.02', '75.1875 ± 0.0033')
    >>> mean_and_spread(0.5, "")
    '0.5000'
    """
    numbers = [float(mean)]
    if std not in ("", None):
        numbers.append(float(std))

    digits = _digits(abs(numbers[0]))
    while digits < _MOST and any(_looks_zero(number, digits) for number in numbers):
        digits += 2
    return " ± ".join(_fixed(number, digits) for number in numbers)


def _looks_zero(number: float, digits: int) -> bool:
    return number != 0 and float(f"{number:.{digits}f}") == 0


def _fixed(number: float, digits: int) -> str:
    if _looks_zero(number, digits):
        return f"{number:.1g}"
    text = f"{number:.{digits}f}"
    if float(text) == 0:
        return text.removeprefix("-")
    return text


def exact(number: float) -> str:
    """A measured number for a results file: four decimals, and at least five significant digits.

    >>> exact(85.32531), exact(0.0000312345)
    ('85.3253', '0.000031235')
    """
    if number == 0 or not math.isfinite(number) or abs(number) >= 0.01:
        return f"{number:.4f}"
    needed = 4 - math.floor(math.log10(abs(number)))
    return f"{number:.{max(4, needed)}f}"
