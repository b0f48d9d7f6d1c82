r"""A directive that sets a formula beside the code that computes it.

    ```{formula} cavl.method:average_loss
    L = -\frac{1}{B} \sum_i ...
    ```

The body is LaTeX, blank lines between formulas; it may be empty. Code, summary and details come
from the file at build time.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from docs._ext.places import ROOT
from docs._ext.source import Code, read_code


class Formula(SphinxDirective):
    """`{formula} MODULE:NAME`, with LaTeX inside."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """A box: name, summary and formula on one side, the code on the other."""
        module, _, name = self.arguments[0].partition(":")
        file = f"{module.replace('.', '/')}.py"
        self.env.note_dependency(str(ROOT / file))
        try:
            code = read_code(ROOT / file, name)
        except (LookupError, OSError) as error:
            raise self.error(str(error)) from error

        said = nodes.container(classes=["formula-said"])
        said += _title(code)
        said += _sentence(code.summary)
        for latex in "\n".join(self.content).split("\n\n"):
            if latex.strip():
                said += self._math(latex)
        if code.details:
            said += _details(code)

        shown = nodes.container(classes=["formula-code"])
        place = f"{file}, lines {code.first} to {code.last}"
        shown += nodes.paragraph("", place, classes=["formula-place"])
        block = nodes.literal_block(code.text, code.text, language="python")
        self.set_source_info(block)
        shown += block

        box = nodes.container(classes=["formula"], ids=[name.replace("_", "-").replace(".", "-")])
        box += [said, shown]
        return [box]

    def _math(self, latex: str) -> nodes.math_block:
        block = nodes.math_block(latex, latex, nowrap=False, number=None, label=None)
        block["docname"] = self.env.docname
        self.set_source_info(block)
        return block


def _title(code: Code) -> nodes.paragraph:
    title = nodes.paragraph(classes=["formula-name"])
    title += nodes.literal(code.name, code.name)
    return title


def _sentence(text: str) -> nodes.paragraph:
    """The docstring's first paragraph, names in backticks as code."""
    paragraph = nodes.paragraph()
    for number, part in enumerate(text.split("`")):
        is_code = number % 2 == 1
        paragraph += nodes.literal(part, part) if is_code else nodes.Text(part)
    return paragraph


def _details(code: Code) -> list[nodes.Node]:
    """The rest of the docstring, as it is written, folded away."""
    return [
        nodes.raw("", "<details><summary>arguments and notes</summary>", format="html"),
        nodes.literal_block(code.details, code.details, language="text"),
        nodes.raw("", "</details>", format="html"),
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the directive to Sphinx."""
    app.add_directive("formula", Formula)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
