"""Side by side: what the five papers report and what we measured, as terminal tables and one HTML page.

python compare.py                                  # from */results/*.csv; writes compare.html
python compare.py cavl/save/mnist_mlp_compare      # also draws these runs
python compare.py --readme README.md               # also rewrites the claims table between its markers
"""

import common.interrupt  # noqa: F401

from pathlib import Path

from common.cli import OneLineParser, UserError, run_main
from sidebyside import page, records, runs, terminal
from sidebyside.claims import judge_all
from sidebyside.register import CLAIMS
from sidebyside.results import PAPERS, ROOT


def build_parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog="compare.py", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, help="run directories, or folders that hold some")
    parser.add_argument("--paper", choices=PAPERS, action="append", help="only this one (may be given again)")
    parser.add_argument("--out", type=Path, default=ROOT / "compare.html", help="the page")
    parser.add_argument("--readme", type=Path, default=None, help="a file to rewrite the claims table in")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Read, judge, print, write."""
    args = build_parser().parse_args(argv)
    if not args.root.is_dir():
        raise UserError(f"--root {args.root}: no such directory")

    papers = records.load(args.root, args.paper or PAPERS)
    given = runs.find(args.runs)
    judgements = judge_all(papers, CLAIMS)

    for paper in papers:
        print(f"{terminal.paper_table(paper)}\n")
    if given:
        print(f"{terminal.runs_table(given)}\n")
    print(terminal.claims_table(judgements))

    write(args.out, page.build(papers, judgements, given))
    print(f"page: {args.out}")
    if args.readme is not None:
        update_readme(args.readme, judgements)


def update_readme(path: Path, judgements: list) -> None:
    """Rewrite the claims table of a README."""
    try:
        text = terminal.with_claims(path.read_text(encoding="utf-8"), judgements)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    write(path, text)
    print(f"claims table: {path}")


def write(path: Path, text: str) -> None:
    """Write a text file; a folder that is not there is an error."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


if __name__ == "__main__":
    run_main(main)
