"""Numbers and names for reading: few digits, but never so few that a number that is not zero looks like zero."""

import math
import unicodedata

_MOST = 8  # decimals


def printable(text: str) -> str:
    r"""The text with `?` in the place of what a terminal or a page cannot show: controls, bytes that are no UTF-8.

    >>> printable("run-\x1b[31m1")
    'run-?[31m1'
    """
    return "".join(c if _is_shown(c) else "?" for c in text)


def _is_shown(character: str) -> bool:
    is_space = character in "\t\n" or unicodedata.category(character) == "Zs"
    return is_space or character.isprintable()


def show(value: float) -> str:
    """A number for reading: two decimals, four below one, no trailing zeros; two significant digits where it is tiny.

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
    digits = 4 if size < 1 else 2
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def signed(value: float) -> str:
    """A difference: `show` with its sign, also before a positive one.

    >>> signed(0.54), signed(-0.54), signed(0)
    ('+0.54', '-0.54', '0')
    """
    return f"+{show(value)}" if value > 0 else show(value)


def mean_and_spread(mean: str | float, std: str | float | None = None) -> str:
    """`mean ± std` as a reader wants it: two decimals, below one four, more where the smaller would show as zero.

    >>> mean_and_spread(96.8777, 0.0156), mean_and_spread("75.1875", "0.0033"), mean_and_spread(0.5, "")
    ('96.88 ± 0.02', '75.1875 ± 0.0033', '0.5000')
    """
    numbers = [float(number) for number in (mean, std) if number not in ("", None)]
    digits = 4 if abs(numbers[0]) < 1 else 2
    while digits < _MOST and any(_looks_zero(number, digits) for number in numbers):
        digits += 2
    return " ± ".join(_fixed(number, digits) for number in numbers)


def _looks_zero(number: float, digits: int) -> bool:
    return number != 0 and float(f"{number:.{digits}f}") == 0


def _fixed(number: float, digits: int) -> str:
    if _looks_zero(number, digits):
        return f"{number:.1g}"
    text = f"{number:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def exact(number: float) -> str:
    """A measured number for a results file: four decimals, and at least five significant digits.

    >>> exact(85.32531), exact(0.0000312345)
    ('85.3253', '0.000031235')
    """
    if number == 0 or not math.isfinite(number):
        return f"{number:.4f}"
    needed = 4 - math.floor(math.log10(abs(number)))
    return f"{number:.{max(4, needed) if abs(number) < 0.01 else 4}f}"
