"""Side by side: what five papers report and what we measured, as terminal tables and a HTML page.

python compare.py                                  # from */results/*.csv; writes compare.html
python compare.py cavl/save/mnist_mlp_compare      # also draws these runs
python compare.py --readme docs/claims.md          # also rewrites the table between its markers
"""

import common.interrupt  # noqa: F401

import contextlib
import sys
from pathlib import Path

from common.cli import OneLineParser, UserError, run_main
from common.text import read_text
from sidebyside import documents, page, records, runs, terminal
from sidebyside.claims import Judgement, judge_all
from sidebyside.results import PAPERS, ROOT
from sidebyside.wording import printable


def build_parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog="compare.py", description=__doc__.split("\n")[0])
    parser.add_argument(
        "runs", nargs="*", type=Path, help="run directories, or folders that hold some"
    )
    parser.add_argument(
        "--paper", choices=PAPERS, action="append", help="only this one (may be given again)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "compare.html", help="the page")
    parser.add_argument(
        "--readme", type=Path, default=None, help="a file to rewrite the claims table in"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Read, judge, print, write."""
    args = build_parser().parse_args(argv)
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 gets ? for ±
    if not args.root.is_dir():
        raise UserError(f"--root {args.root}: no such directory")

    if args.readme is not None and args.paper:
        raise UserError("--readme wants the claims of all papers; leave --paper out")

    papers = records.load(args.root, list(dict.fromkeys(args.paper or PAPERS)))
    given = found(args.runs)
    judgements = judge_all(papers)

    for paper in papers:
        print(f"{terminal.paper_table(paper)}\n")
    if given:
        print(f"{terminal.runs_table(given)}\n")
    print(terminal.claims_table(judgements))

    write(args.out, page.build(papers, judgements, given))
    print(f"page: {args.out}")
    if args.readme is not None:
        update_readme(args.readme, judgements, args.root)


def found(folders: list[Path]) -> list[runs.RunFolder]:
    """The runs to show; a line on stderr for each that cannot be, or not whole.

    UserError where none is left.
    """
    own, faults = runs.find(folders)
    if folders and not own and len(faults) == 1:
        raise UserError(faults[0])
    for fault in faults:
        print(f"warning: {printable(' '.join(fault.split()))}", file=sys.stderr)
    if folders and not own:
        raise UserError("nothing of what was named can be shown")
    return own


def update_readme(path: Path, judgements: list[Judgement], root: Path) -> None:
    """Rewrite the tables of claims of a document; it appears whole or stays as it was."""
    from common.checkpoint import atomic_write  # here, so that the page needs no torch

    top = ""
    if path.resolve().parent == root.resolve() / "docs":
        top = "../"
    try:
        text = documents.with_tables(read_text(path), judgements, top)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    atomic_write(path, text.encode())
    print(f"claims table: {path}")


def write(path: Path, text: str) -> None:
    """Write a text file; a folder that is not there is an error."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


if __name__ == "__main__":
    run_main(main)
