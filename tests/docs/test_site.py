"""The site as it is built: no warning, nothing from the net, no dead link, MathML for formulas."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from docs._ext.places import DOCS, PAPERS, ROOT
from tests.docs.test_pages import formulas_of

pytestmark = pytest.mark.slow

LOADED = {  # element -> attribute whose address a browser fetches
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "link": "href",
}


class Page(HTMLParser):
    """What a page loads, where it links to, and the places in it that a link can name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.places.add(values["id"])
        if tag in LOADED and LOADED[tag] in values:
            self.loaded.append(values[LOADED[tag]])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it."""
    out = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run([*command, str(DOCS), str(out)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return out


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_no_page_loads_anything_from_the_net(pages):
    found = []
    for page in pages.values():
        found += [address for address in page.loaded if re.match(r"(?:https?:)?//", address)]
    assert found == []


def test_no_style_or_script_loads_anything_from_the_net(site):
    found = []
    for path in [*site.rglob("*.css"), *site.rglob("*.js")]:
        text = path.read_text(encoding="utf-8")
        found += re.findall(r"@import[^;]*//[^;]*|url\(\s*['\"]?(?:https?:)?//[^)]*", text)
        found += re.findall(r"(?:fetch|importScripts|import)\(\s*['\"](?:https?:)?//[^)]*", text)
    assert found == []


def test_every_link_within_the_site_has_its_target(pages):
    dead = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            address, _, place = link.partition("#")
            if re.match(r"[a-z]+:", address):
                continue
            target = path
            if address:
                target = (path.parent / unquote(address.partition("?")[0])).resolve()
            if not target.is_file():
                dead.append(f"{path.name}: {link}")
            elif place and target in pages and unquote(place) not in pages[target].places:
                dead.append(f"{path.name}: {link}")
    assert dead == []


@pytest.mark.parametrize("paper", PAPERS)
def test_each_formula_is_mathml_beside_its_code(paper, site):
    text = (site / f"methods/{paper}.html").read_text(encoding="utf-8")
    formulas = formulas_of(paper)
    count = 0
    for latex in formulas.values():
        count += len([formula for formula in latex.split("\n\n") if formula.strip()])
    boxes = re.split(r'<div class="formula ', text)[1:]
    assert len(boxes) == len(formulas)
    assert sum(box.count('display="block"') for box in boxes) == count
    for box in boxes:
        assert 'class="formula-said ' in box and 'class="formula-code ' in box


def test_the_pages_name_no_place_of_this_machine(pages):
    for page in pages.values():
        assert str(ROOT) not in page.text, page.path.name
