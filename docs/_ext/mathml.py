"""Formulas as MathML, made when the site is built: browsers draw it without any script.

The site's pages write LaTeX, in math roles and directives; this is Sphinx's renderer "mathml".
"""

from html import escape

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_logger = logging.getLogger(__name__)


def to_mathml(latex: str, display: str = "inline") -> str:
    r"""The `<math>` element of one formula; ValueError for what the converter does not know.

    The converter passes on an unknown command as a letter, and closes open braces by itself;
    neither is wanted.

    >>> to_mathml(r"\frac{1}{B}")[:6]
    '<math '

    Args:
        latex: without dollars.
        display: "inline", or "block" for a formula on a line of its own.
    """
    plain = latex.replace(r"\{", "").replace(r"\}", "")
    if plain.count("{") != plain.count("}"):
        raise ValueError(f"the braces of this formula do not match: {latex}")
    found = convert(latex, display=display)
    if "\\" in found or "<mi>&</mi>" in found:
        raise ValueError(f"latex2mathml does not know a command of this formula: {latex}")
    return found


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula of a line of text."""
    self.body.append(_converted(node, node.astext(), "inline"))
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write the formulas of a block, which blank lines separate, each on a line of its own."""
    self.body.append(self.starttag(node, "div", CLASS="math"))
    for latex in node.astext().split("\n\n"):
        self.body.append(_converted(node, latex, "block"))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def _converted(node: nodes.Element, latex: str, display: str) -> str:
    """The formula; LaTeX with a fault is a warning of the build, which `make docs` ends with."""
    try:
        return to_mathml(latex.strip(), display)
    except ValueError as error:
        _logger.warning(str(error), location=node)
        return escape(latex)


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the renderer to Sphinx."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
