"""Numbers and names for reading: rounded, but never to something else."""

import doctest
import math

import pytest

from sidebyside import curves, wording


def test_the_examples_of_the_docstrings():
    for module in (wording, curves):
        assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    "value, told",
    [
        (0, "0"),
        (-0.0, "0"),
        (1e-5, "1e-05"),
        (-0.00042, "-0.00042"),
        (0.0009999, "0.001"),
        (0.5, "0.5"),
        (99.994, "99.99"),
        (100.0, "100"),
        (1200, "1200"),
        (123456.789, "123456.79"),
        (3.2e12, "3.2e+12"),
        (math.nan, "not finite"),
        (math.inf, "not finite"),
    ],
)
def test_a_number_that_is_not_zero_never_reads_as_zero(value, told):
    assert wording.show(value) == told
    if told not in ("0", "not finite"):
        assert float(told) == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize(
    "value, told",
    [(0.54, "+0.54"), (-82.6, "-82.6"), (0.0, "0"), (1e-6, "+1e-06"), (1250.0, "+1250")],
)
def test_differences_have_a_sign(value, told):
    assert wording.signed(value) == told


@pytest.mark.parametrize(
    "mean, std, told",
    [
        (96.8777, 0.0156, "96.88 ± 0.02"),
        (75.1875, 0.0033, "75.1875 ± 0.0033"),
        (28.9, 0.0, "28.90 ± 0.00"),
        (0.9, 0.1, "0.9000 ± 0.1000"),
        (0.9, 0.00001, "0.900000 ± 0.000010"),
        (50.0, 1e-12, "50.00000000 ± 1e-12"),
        (0.00002, None, "0.000020"),
        (0, 0.5, "0.0000 ± 0.5000"),
        (-0.0, None, "0.0000"),
        ("12.3456", "", "12.35"),
        ("0.1234", None, "0.1234"),
        (-3.2, 0.4, "-3.20 ± 0.40"),
    ],
)
def test_a_spread_that_is_not_zero_never_reads_as_zero(mean, std, told):
    assert wording.mean_and_spread(mean, std) == told


@pytest.mark.parametrize("number", [85.3253149, 0.00005, 3.1e-9, 1234.5, 0.0, -0.004, 0.0099999])
def test_what_a_results_file_holds_is_close_to_what_was_measured(number):
    assert float(wording.exact(number)) == pytest.approx(
        number, rel=1e-4, abs=5e-5 if abs(number) >= 0.01 else 0
    )


@pytest.mark.parametrize(
    "text, told",
    [
        ("plain ± ünïcode", "plain ± ünïcode"),
        ("a\x1b[2Jb", "a?[2Jb"),
        ("a\0b", "a?b"),
        ("byte \udcff", "byte ?"),
        ("right\u202eleft", "right?left"),
        ("no\u00a0break\tand\nlines", "no\u00a0break\tand\nlines"),
    ],
)
def test_what_a_terminal_must_not_get_is_a_question_mark(text, told):
    assert wording.printable(text) == told
