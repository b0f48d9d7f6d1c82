"""The site leaves nothing out: every public function, formula, script and section has its place."""

import importlib
import re
import subprocess

import pytest

from docs._ext.mathml import to_mathml
from docs._ext.places import DOCS, PAPERS, ROOT
from docs._ext.source import read_code

papers = pytest.mark.parametrize("paper", PAPERS)


def formulas_of(paper: str) -> dict[str, str]:
    """What stands on a paper's page: MODULE:NAME -> LaTeX, which may be empty."""
    text = (DOCS / f"methods/{paper}.md").read_text(encoding="utf-8")
    found = re.findall(r"^```\{formula\} (\S+)\n(.*?)^```$", text, re.M | re.S)
    assert len(found) == len(dict(found)), "a name stands there twice"
    return dict(found)


@papers
def test_every_name_that_the_method_offers_is_on_its_page(paper):
    offered = set(importlib.import_module(f"{paper}.method").__all__)
    shown = {name.partition(":")[2].partition(".")[0] for name in formulas_of(paper)}
    assert offered - shown == set()


@papers
def test_where_a_docstring_has_a_formula_the_page_has_it(paper):
    """A formula in a docstring is an indented line with a sign of equality or an arrow."""
    missing = []
    for name, latex in formulas_of(paper).items():
        module, _, piece = name.partition(":")
        details = read_code(ROOT / f"{module.replace('.', '/')}.py", piece).details
        before_arguments = details.partition("Args:")[0]
        if re.search(r"^ {4,}.*(?:=|<-)", before_arguments, re.M) and not latex.strip():
            missing.append(name)
    assert missing == []


@papers
def test_every_formula_can_be_drawn(paper):
    for latex in formulas_of(paper).values():
        for formula in latex.split("\n\n"):
            if formula.strip():
                to_mathml(formula.strip(), "block")


@papers
def test_every_script_has_its_flags_on_the_page(paper):
    files = subprocess.check_output(["git", "ls-files", f"{paper}/*.py"], cwd=ROOT, text=True)
    scripts = set()
    for file in files.splitlines():
        text = (ROOT / file).read_text(encoding="utf-8")
        is_entry = "common.interrupt" in text or f'Script("{file[len(paper) + 1 : -3]}"' in text
        if is_entry and file.count("/") == 1:
            scripts.add(file)
    page = (DOCS / f"commands/{paper}.md").read_text(encoding="utf-8")
    assert scripts and scripts == set(re.findall(r"^```\{flags\} (\S+)$", page, re.M))


def test_every_section_of_contributing_is_on_a_page():
    sections = re.findall(r"^## (.+)$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M)
    pages = [(DOCS / name).read_text("utf-8") for name in ("contributing.md", "extend.md")]
    shown = re.findall(r"^```\{part\} CONTRIBUTING.md\n(.+)$", "\n".join(pages), re.M)
    assert sorted(shown) == sorted(sections)


def test_every_notebook_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for path in (DOCS / "examples").glob("*.ipynb"):
        assert f"examples/{path.stem}\n" in index
