"""Pages show what stands elsewhere, with links that hold there."""

import pytest

from docs._ext.parts import filled, section
from docs._ext.places import PAGES, ROOT, relink

TEXT = """\
# Title

## One

first

```
## no heading
```

### One and a half

## Two

second
"""


def test_a_section_ends_at_the_next_of_its_level():
    assert section(TEXT, "One").startswith("## One\n")
    assert section(TEXT, "One").endswith("### One and a half\n")
    assert section(TEXT, "Two") == "## Two\n\nsecond\n"


def test_a_line_of_code_is_no_heading():
    with pytest.raises(LookupError):
        section(TEXT, "no heading")


@pytest.mark.parametrize(
    "link, file, page, expected",
    [
        ("cavl/README.md", "README.md", "index", "papers/cavl.md"),
        ("../cavl/README.md", "docs/claims.md", "claims", "papers/cavl.md"),
        ("method.py", "calm/README.md", "papers/calm", "../methods/calm.md"),
        ("../docs/examples/oass.ipynb", "oass/README.md", "papers/oass", "../examples/oass.ipynb"),
        ("results/a.png", "mile/README.md", "papers/mile", "../../mile/results/a.png"),
        ("../README.md#the-five", "csl/README.md", "papers/csl", "../index.md#the-five"),
        ("#data", "csl/README.md", "papers/csl", "#data"),
        ("https://arxiv.org/abs/2110.10955", "README.md", "index", None),
    ],
)
def test_a_link_goes_where_the_site_has_its_target(link, file, page, expected):
    assert relink(f"[it]({link})", file, page) == f"[it]({expected or link})"


def test_a_part_takes_the_place_of_its_block():
    text = "# Page\n\n```{part} CONTRIBUTING.md\nHow to add a paper\n```\n\nend\n"
    found, files = filled(text, "extend")
    assert files == ["CONTRIBUTING.md"]
    assert found.startswith("# Page\n\n## How to add a paper\n")
    assert found.endswith("\n\nend\n")
    assert "```{part}" not in found


def test_a_section_that_is_gone_is_told_with_both_files():
    text = "```{part} CONTRIBUTING.md\nHow to fly\n```\n"
    with pytest.raises(LookupError, match=r"CONTRIBUTING.md, named in docs/extend.md: .*fly"):
        filled(text, "extend")


def test_every_page_of_a_file_is_there():
    for file, page in PAGES.items():
        assert (ROOT / file).is_file()
        assert (ROOT / f"docs/{page}.md").is_file()
