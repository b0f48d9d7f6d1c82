"""Where things lie: files of the repository, and the pages of the site that show them."""

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAPERS = ("cavl", "oass", "calm", "csl", "mile")

# File of the repository -> page of the site that shows it.
PAGES = {
    "README.md": "index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "THIRD_PARTY.md": "third_party",
    **{f"{paper}/README.md": f"papers/{paper}" for paper in PAPERS},
    **{f"{paper}/method.py": f"methods/{paper}" for paper in PAPERS},
}

_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")


def relink(text: str, file: str, page: str) -> str:
    """Markdown of a file of the repository, with links that hold where `page` shows it.

    A link to a file that has a page goes to the page; to another file, to that file. Addresses on
    the net and anchors stay.

    >>> relink("[all](docs/claims.md)", "README.md", "index")
    '[all](claims.md)'

    Args:
        text: Markdown.
        file: where the text stands, from the root.
        page: where it is shown, from docs/ and without ending.
    """
    home = Path(file).parent

    def moved(match: re.Match[str]) -> str:
        target, hash_mark, anchor = match[1].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[1]
        path = Path(os.path.normpath(home / target)).as_posix()
        place = DOCS / f"{PAGES[path]}.md" if path in PAGES else ROOT / path
        relative = os.path.relpath(place, (DOCS / page).parent)
        return f"{Path(relative).as_posix()}{hash_mark}{anchor}"

    return _LINK.sub(moved, text)
