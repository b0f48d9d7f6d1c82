"""The page of this repository reads well: no raw markup, no `1 pairs`."""

import re

import pytest

import compare
from sidebyside.results import ROOT
from tests.compare.test_page import Reader

pytestmark = pytest.mark.slow
SINGULAR = r"\b1 (pairs|seeds|runs|rows|claims|images|pictures|methods|papers|epochs|maps)\b"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    """What a reader sees of the page, without scripts, styles and code."""
    place = tmp_path_factory.mktemp("page") / "page.html"
    compare.main(["--root", str(ROOT), "--out", str(place)])
    html = place.read_text(encoding="utf-8")
    shown = re.sub(r"<(script|style|code|pre)\b.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(" ".join(Reader(shown).words).split())


def test_no_backtick_is_left_of_markdown(words):
    assert "`" not in words
    assert len(words) > 10_000


def test_one_thing_has_no_plural(words):
    assert not re.search(SINGULAR, words)
