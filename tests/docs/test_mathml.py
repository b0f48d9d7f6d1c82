"""Formulas become MathML at build time; a fault in one is told."""

from xml.etree import ElementTree

import pytest

from docs._ext.mathml import to_mathml

MATHML = "{http://www.w3.org/1998/Math/MathML}"


def test_a_formula_is_a_math_element():
    found = ElementTree.fromstring(to_mathml(r"-\frac{1}{B} \sum_i \log p_i", "block"))
    assert found.tag == f"{MATHML}math"
    assert found.get("display") == "block"
    assert found.find(f".//{MATHML}mfrac") is not None


@pytest.mark.parametrize("latex", [r"\nosuchcommand x", r"\begin{aligned} a &= b \end{aligned}"])
def test_what_the_converter_passes_on_unread_is_refused(latex):
    with pytest.raises(ValueError, match="does not know"):
        to_mathml(latex)


def test_an_open_brace_is_refused():
    with pytest.raises(ValueError, match="braces"):
        to_mathml(r"\sum_{i x_i")


def test_escaped_braces_are_no_braces():
    assert "<math" in to_mathml(r"\{ x")
