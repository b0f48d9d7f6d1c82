"""Pages made of what stands elsewhere in the repository, put in before a page is parsed.

    ```{part} CONTRIBUTING.md
    How to add a paper
    ```

stands for that section of the file, with its heading; without a line inside, for the whole file.
Links are those of the site.
"""

import re

from sphinx.application import Sphinx

from docs._ext.places import DOCS, ROOT, relink

_PART = re.compile(r"^```\{part\} (\S+)\n(.*?)^```$", re.M | re.S)


def section(text: str, heading: str) -> str:
    """The section of a Markdown text with a heading, up to the next one of its level or above.

    LookupError where there is none. Lines in fenced blocks are no headings.
    """
    kept: list[str] = []
    level = 0
    is_code = False
    for line in text.splitlines():
        if line.startswith("```"):
            is_code = not is_code
        found = re.match(r"(#+) (.+)", line)
        if found and not is_code:
            if level and len(found[1]) <= level:
                break
            if found[2].strip() == heading:
                level = len(found[1])
        if level:
            kept.append(line)
    if not level:
        raise LookupError(f"no section {heading!r}")
    return "\n".join(kept).rstrip() + "\n"


def filled(text: str, page: str) -> tuple[str, list[str]]:
    """A page's text with its parts put in, and the files that they come from."""
    files: list[str] = []

    def part(match: re.Match[str]) -> str:
        file = match[1]
        files.append(file)
        found = (ROOT / file).read_text(encoding="utf-8")
        heading = match[2].strip()
        if heading:
            try:
                found = section(found, heading)
            except LookupError as error:
                raise LookupError(f"{file}, named in docs/{page}.md: {error}") from error
        return relink(found, file, page)

    return _PART.sub(part, text), files


def read_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Sphinx's event source-read: put in the parts, and mend the page's own links."""
    if not (DOCS / f"{page}.md").is_file():
        return
    source[0] = relink(source[0], f"docs/{page}.md", page)
    source[0], files = filled(source[0], page)
    for file in files:
        app.env.note_dependency(str(ROOT / file))


def setup(app: Sphinx) -> dict[str, bool]:
    """Listen to Sphinx."""
    app.connect("source-read", read_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
