"""The commands that this repository prints: in READMEs and docs, docstrings, claims and results."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sidebyside.fullscale import load_planned
from sidebyside.records import load_rows
from sidebyside.register import load_claims
from sidebyside.results import OURS, PAPERS, ROOT

READMES = ["README.md", *(f"{paper}/README.md" for paper in PAPERS)]
# Their commands are looked at as those of the READMEs are, but not run.
PAGES = ["CONTRIBUTING.md", "docs/claims.md"]
FOLDERS = [*PAPERS, "common", "sidebyside", "scripts", "benchmarks"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z][\w-]*):", MAKEFILE, re.M)

# What starts a command; a script alone may stand for `python SCRIPT`.
_START = re.compile(
    r"(?:\S*/)?python3?\b|accelerate launch\b|torchrun\b|make\b|pip\b|conda\b|[\w./]+\.py\s+\S"
)
_LAUNCHERS = re.compile(r"^(\S*python3?|accelerate launch|torchrun)(?=\s)")
_STARTS = (
    r"python3? (?:-m )?[\w./]+"
    r"|accelerate launch [^\s`]+"
    r"|torchrun -[^\s`]+"
    rf"|make (?:{'|'.join(TARGETS)})(?![\w-])"
)
_MARKS = re.compile(rf"(?:^|(?<=[\s`(]))(?:{_STARTS})")
_FLAG = re.compile(r"(?:^|(?<=\s))--?[A-Za-z][\w-]*")


@dataclass(frozen=True)
class Command:
    """One command: where it stands (file, line), the folder it runs in, its text on one line."""

    source: str
    line: int
    folder: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.text}"

    @property
    def words(self) -> list[str]:
        """The words as a shell splits them, without comment, trailing `&` and optional brackets."""
        plain = re.sub(r"(?<= )\[(?=[-A-Z])|\](?= |$)", "", self.text)
        words = shlex.split(plain, comments=True)
        if words[-1:] == ["&"]:
            words.pop()
        return words

    @property
    def program(self) -> tuple[str, str]:
        """What runs: ("file", SCRIPT), ("module", NAME), ("make", TARGET), or ("", first word)."""
        words = self.words
        if words[0] == "make":
            return "make", words[1]
        if words[0] in ("pip", "conda"):
            return "", words[0]
        for number, word in enumerate(words):
            if word == "-m" and words[0].endswith(("python", "python3")):
                return "module", words[number + 1]
            if word.endswith(".py"):
                return "file", word
        return "", words[0]

    @property
    def arguments(self) -> list[str]:
        """What stands after the script or module."""
        words = self.words
        _, name = self.program
        return words[words.index(name) + 1 :]

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for many commands: `python X.py`, `add NAME ...`."""
        return not {"...", "X.py", "NAME"}.isdisjoint(self.words)

    @property
    def is_short(self) -> bool:
        """Whether it names a script and some flags only: `main.py --em_teacher=ema`."""
        return self.words[0].endswith(".py")

    @property
    def flags(self) -> set[str]:
        """Its flags, those inside of quotes too; a hyphen and an underscore are the same."""
        found: set[str] = set()
        for word in self.arguments:
            found.update(map(_underscored, _FLAG.findall(word)))
        return found


def told_flags(help_text: str) -> set[str]:
    """The flags that a script's --help tells."""
    return set(map(_underscored, re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", help_text)))


def _underscored(flag: str) -> str:
    name = flag.lstrip("-")
    return flag[: len(flag) - len(name)] + name.replace("-", "_")


# --- where commands stand ---


def of_readme(path: str, text: str | None = None) -> list[Command]:
    """The commands of a README, in their order.

    Continued lines are joined, and the variables of its code blocks put in.
    """
    if text is None:
        text = (ROOT / path).read_text(encoding="utf-8")
    home = Path(path).parent.as_posix()
    if home not in PAPERS:
        home = "."
    variables: dict[str, str] = {}
    found = []
    lines = text.splitlines()
    for line, code, is_block in _pieces(text):
        folder = home
        row = re.match(rf"\| ({'|'.join(PAPERS)}) \|", lines[line - 1])
        if row:  # of a table that names the folder first
            folder = row[1]

        parts: list[tuple[int, str]] = [(0, " ".join(code.split()))]
        if is_block:
            parts = list(_joined(code))
        for number, whole in parts:
            assigned = re.fullmatch(r"\s*([A-Z]+)=\"(.*)\"\s*", whole)
            if assigned:
                variables[assigned[1]] = _filled(assigned[2], variables)
                continue
            found += _commands(path, line + number, folder, _filled(whole.strip(), variables))
    return found


def of_docstrings() -> list[Command]:
    """The commands in the module docstrings: lines that begin with one."""
    paths: list[Path] = []
    for name in FOLDERS:
        paths += (ROOT / name).rglob("*.py")

    found = []
    for path in [*sorted(paths), ROOT / "compare.py"]:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        source = path.relative_to(ROOT).as_posix()
        folder = source.split("/")[0]
        if folder not in PAPERS:
            folder = "."
        for number, whole in _joined(text):
            if re.match(r"\s*(python3?|accelerate launch|torchrun) \S", whole):
                found += _commands(source, number + 1, folder, whole.strip())
    return found


def of_claims() -> list[Command]:
    """The commands that the claims name."""
    found = []
    for paper in PAPERS:
        for number, claim in enumerate(load_claims(ROOT, paper), 1):
            found += _commands(f"{paper}/results/claims.toml", number, paper, claim.command)
    return found


def of_full_scale() -> list[Command]:
    """The commands of the papers' own settings."""
    found = []
    for paper in PAPERS:
        for number, planned in enumerate(load_planned(ROOT, paper), 1):
            found += _commands(f"{paper}/results/full.toml", number, paper, planned.command)
    return found


def of_results(paper: str) -> list[Command]:
    """The commands of a paper's ours.csv, each once."""
    source = f"{paper}/results/ours.csv"
    rows = load_rows(ROOT / source, paper, OURS)
    found = []
    for number, text in enumerate(dict.fromkeys(row.cells["command"] for row in rows)):
        found += _commands(source, number, paper, text)
    return found


# --- Markdown ---


def marks(text: str) -> list[tuple[int, str]]:
    """Where a README names a program that is run, by words alone: (line, match).

    Each must be in a command found.
    """
    return [(text[: m.start()].count("\n") + 1, m.group()) for m in _MARKS.finditer(text)]


def scripts(text: str) -> set[str]:
    """The Python files that a README names in its code."""
    found: set[str] = set()
    for _, code, is_block in _pieces(text):
        if not is_block:
            found.update(re.findall(r"(?:^|(?<=[\s=(]))[\w./-]+\.py\b", code))
    return found


def _pieces(text: str) -> Iterator[tuple[int, str, bool]]:
    """The code of a Markdown text: (line, code, whether it is a block).

    Inline code may go over a line end.
    """
    prose: list[str] = []
    block: list[str] = []
    start = 0
    fence = ""
    prose_start = 1
    lines = [*text.splitlines(), ""]
    for number, line in enumerate(lines, 1):
        is_fence = re.match(r" {0,3}(```+|~~~+)", line)
        is_indented = (
            not fence
            and re.match(r"(    |\t)", line)
            and not (prose and prose[-1].strip() and not block)
        )
        if is_fence and (not fence or is_fence[1].startswith(fence)):
            if fence:
                yield start, "\n".join(block), True
                block = []
            fence = "" if fence else is_fence[1]
            start = number + 1
            continue
        if fence or is_indented:
            if not block:
                start = number
                yield from _inline("\n".join(prose), prose_start)
                prose = []
            block.append(line)
            continue
        if block:
            yield start, "\n".join(block), True
            block = []
        if not prose:
            prose_start = number
        prose.append(line)
    yield from _inline("\n".join(prose), prose_start)
    if block:
        yield start, "\n".join(block), True


def _inline(prose: str, first_line: int) -> Iterator[tuple[int, str, bool]]:
    for match in re.finditer(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", prose, re.S):
        code = match.group(2).replace("\\|", "|")
        if "\n\n" not in code:
            yield first_line + prose[: match.start()].count("\n"), code, False


def _joined(code: str) -> Iterator[tuple[int, str]]:
    """The lines of a block, those that end in a backslash with the ones after them."""
    whole = ""
    first = 0
    for number, line in enumerate(code.splitlines()):
        if whole:
            whole += f" {line.strip()}"
        else:
            first = number
            whole = line.strip()
        if whole.endswith("\\"):
            whole = whole[:-1].rstrip()
            continue
        yield first, whole
        whole = ""
    if whole:
        yield first, whole


def _filled(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$([A-Z]+)\b", lambda m: variables.get(m[1], m.group()), text)


def _commands(source: str, line: int, folder: str, text: str) -> Iterator[Command]:
    """The commands of one line, those after `&&` too; `cd FOLDER` tells where the next ones run."""
    for part in re.split(r"\s*&&\s*", text.removeprefix("$ ")):
        moved = re.fullmatch(r"cd (\w+)", part)
        if moved:
            folder = moved[1]
        elif _START.match(part):
            yield Command(source, line, folder, _LAUNCHERS.sub(lambda m: m[1], part))
