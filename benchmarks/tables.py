"""The READMEs' speed tables, written from benchmarks/results/HARDWARE.csv.

    make bench                                      # measures, and keeps the rows (--write)
    python benchmarks/tables.py                     # puts them between the marks of each README

A README holds the lines `<!-- speed: NAME.csv -->` and `<!-- /speed -->`; what stands between them
is this table, and nothing else.
"""

import argparse
import re
from pathlib import Path

from ratios import PART, RESULTS, STEP, read_results

ROOT = Path(__file__).parents[1]
PAPERS = ("cavl", "oass", "calm", "csl", "mile")
BLOCK = re.compile(r"<!-- speed: (?P<file>\S+) -->\n(?P<table>.*?)<!-- /speed -->", re.DOTALL)


def setting_of(row: dict[str, str]) -> str:
    """What differs from the default setting, in words: "bf16, compiled"; else nothing."""
    words = []
    if row["mixed_precision"] != "no":
        words.append(row["mixed_precision"])
    if row["compile"] == "1":
        words.append("compiled")
    if row["fast"] == "1":
        words.append("--fast")
    return ", ".join(words)


def number(text: str) -> str:
    """A measured number for reading: no exponent, thousands set apart.

    >>> number("3.067e+04"), number("1.829")
    ('30,670', '1.829')
    """
    value = float(text)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return text


def table(rows: list[dict[str, str]], paper: str) -> str:
    """The Markdown of a paper's rows: first the parts, then the steps."""
    lines = []
    mine = [row for row in rows if row["paper"] == paper]
    parts = [row for row in mine if row["kind"] == PART]
    steps = [row for row in mine if row["kind"] == STEP]
    if parts:
        lines += ["| part | plain ms | ours ms | times faster | wanted |", "|---|--:|--:|--:|--:|"]
    for row in parts:
        times = (number(row["baseline_ms"]), number(row["ours_ms"]), number(row["ratio"]))
        cells = (row["name"], *times, row["wanted"])
        lines.append(f"| {' | '.join(cells)} |")
    if parts and steps:
        lines.append("")
    if steps:
        lines.append("| whole step | bare ms | ours ms | ours / bare | wanted | pictures/s |")
        lines.append("|---|--:|--:|--:|--:|--:|")
    for row in steps:
        setting = setting_of(row)
        name = f"{row['name']} ({setting})" if setting else row["name"]
        cells = (
            name,
            number(row["baseline_ms"]),
            number(row["ours_ms"]),
            row["ratio"],
            row["wanted"],
            number(row["images_per_second"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "".join(f"{line}\n" for line in lines)


def with_table(text: str, paper: str) -> str:
    """A README's text with the tables that its marks name."""

    def filled(found: re.Match) -> str:
        rows = read_results(RESULTS / found["file"])
        return f"<!-- speed: {found['file']} -->\n{table(rows, paper)}<!-- /speed -->"

    return BLOCK.sub(filled, text)


def main() -> None:
    """Write the tables of all five READMEs."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for paper in PAPERS:
        file = ROOT / paper / "README.md"
        text = file.read_text(encoding="utf-8")
        file.write_text(with_table(text, paper), encoding="utf-8")


if __name__ == "__main__":
    main()
