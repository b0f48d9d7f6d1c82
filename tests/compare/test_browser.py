"""The page in a real browser: Chromium, headless, from a file.

    make test-browser          # needs `chromium` (Debian: apt-get install chromium)

The page looks at itself when its address ends in #selfcheck, and clicks a header when it ends in
#sort=TABLE:COLUMN.
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import compare
from tests.compare.conftest import make_repository, run_folder

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not BROWSER and "REQUIRE_BROWSER" not in os.environ, reason="no Chromium on this machine"
    ),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    for seed in range(2):
        run_folder(root / "save", "cavl", seed, [0.5, 0.8, 0.9 + seed / 100])
    compare.main(
        ["--root", str(make_repository(root)), "--out", str(root / "page.html"), str(root / "save")]
    )
    return root / "page.html"


def dump(page: Path, fragment: str, *flags: str) -> tuple[str, str]:
    """The document after its scripts ran, and what the browser logged."""
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
    ]
    command += [
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={page.parent / 'profile'}",
        "--virtual-time-budget=5000",
    ]
    done = subprocess.run(
        [*command, *flags, "--dump-dom", f"{page.as_uri()}#{fragment}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def console(log: str) -> list[str]:
    """The lines that the page, or a refused request, left on the console."""
    return [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("size", ["1280,900", "500,900"])
def test_no_error_no_request_pictures_load_links_resolve(page, size):
    document, log = dump(page, "selfcheck", f"--window-size={size}")
    assert console(log) == []
    report = json.loads(
        html.unescape(re.search(r'id="selfcheck"[^>]*>([^<]+)<', document).group(1))
    )
    assert report["errors"] == report["broken"] == report["dangling"] == report["requests"] == []
    assert report["pictures"] == 2 and report["links"] > 10
    assert (
        report["width"] == int(size.split(",")[0]) and report["overflow"] <= 0
    )  # nothing runs off a phone's edge


def cells(document: str, table: str, column: int) -> list[str]:
    """The column of a table's body, as text, in the order it stands in."""
    body = document[document.index(f'id="{table}"') :].split("<tbody>")[1].split("</tbody>")[0]
    rows = [
        re.findall(r"<td.*?</td>", row, re.S) for row in re.findall(r"<tr>.*?</tr>", body, re.S)
    ]
    return [re.sub(r"<[^>]+>", "", row[column]).strip() for row in rows]


def test_a_click_on_a_header_sorts_and_a_second_one_turns_round(page):
    plain, _ = dump(page, "")
    once, log = dump(page, "sort=cavl-numbers:6")
    twice, _ = dump(page, "sort=cavl-numbers:6:twice")
    numbers = [cells(document, "cavl-numbers", 6) for document in (plain, once, twice)]
    assert [[n.split(" ±")[0] for n in column] for column in numbers] == [
        ["97.00", "93.00", "97.50"],
        ["93.00", "97.00", "97.50"],
        ["97.50", "97.00", "93.00"],
    ]
    assert 'aria-sort="ascending"' not in plain and 'aria-sort="ascending"' in once
    assert 'aria-sort="descending"' in twice and console(log) == []


def test_the_console_is_really_read(page, tmp_path):
    """A page with an error and a forbidden request fails the checks above."""
    broken = tmp_path / "broken.html"
    extra = '<img alt="x" src="https://example.org/x.png"><script>nothing()</script><main>'
    broken.write_text(page.read_text().replace("<main>", extra))
    document, log = dump(broken, "selfcheck")
    assert any("nothing is not defined" in line for line in console(log))
    assert any("Content Security Policy" in line for line in console(log))
    report = json.loads(
        html.unescape(re.search(r'id="selfcheck"[^>]*>([^<]+)<', document).group(1))
    )
    assert report["broken"] == ["x"]
