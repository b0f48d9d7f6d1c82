"""The commands that a paper's README and its results print."""

import csv
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]


def commands_of(paper: str, script: str) -> list[list[str]]:
    """The arguments of every `python SCRIPT ...`, each once; a backslash continues a line."""
    folder = ROOT / paper
    texts = [(folder / "README.md").read_text()]
    with (folder / "results" / "ours.csv").open(newline="") as file:
        texts += [row["command"] for row in csv.DictReader(file)]

    found = {}
    for text in texts:
        joined = re.sub(r"\\\n\s*", " ", text)
        for match in re.finditer(rf"{re.escape(script)}( [^\n`]*)?(?=\n|`|$)", joined):
            arguments = (match[1] or "").split(" #")[0].replace("...", "")
            if "$" not in arguments:
                found[arguments.strip()] = shlex.split(arguments)
    return list(found.values())
