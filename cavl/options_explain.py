"""The flags of explain.py. Light: without torch."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.aliases import one_module
from common.cli import OneLineParser, UserError, folder_path
from common.text import expanded, require_file

one_module(__name__, "cavl.options_explain")

PATTERN = "*?["  # marks of a pattern of file names


def parse_explain(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags: run, image, candidates, out, npz; UserError where a path cannot be.

    `out` is a PNG for one picture file, and a folder for several, a folder or a pattern.
    """
    what = "Why this label: class activation maps of your own pictures under a trained network."
    parser = OneLineParser(prog="explain.py", description=what)
    listed = "classes, by name or number (default: five likeliest)"
    pictures = "picture files, folders and patterns such as 'pics/*.jpg'"
    figure = (
        "the figure, a PNG (default: RUN/figures/explain.png); of several a folder (RUN/explain)"
    )
    parser.add_argument("--run", type=folder_path, required=True, help="run directory of main.py")
    parser.add_argument("--image", nargs="+", required=True, metavar="PICTURE", help=pictures)
    parser.add_argument("--candidates", nargs="+", default=None, metavar="CLASS", help=listed)
    parser.add_argument("--out", type=Path, default=None, help=figure)
    parser.add_argument("--npz", action="store_true", help="also the maps as they are, NAME.npz")
    parser.add_argument("--skip_corrupt", action="store_true", help="leave out what is no picture")
    args = parser.parse_args(argv)

    args.is_single = is_single(args.image)
    if args.is_single:
        image = expanded(args.image[0])
        require_file(image)
        args.out = expanded(args.out or args.run / "figures" / "explain.png")
        _require_writable(args.out, image)
    else:
        args.out = expanded(args.out or args.run / "explain")
        if args.out.exists() and not args.out.is_dir():
            raise UserError(f"--out {args.out}: is no folder; of several pictures name a folder")
    return args


def is_single(given: Sequence[str]) -> bool:
    """Whether one file is meant: not a folder or a pattern."""
    path = expanded(given[0])
    is_pattern = not path.exists() and any(mark in path.name for mark in PATTERN)
    is_folder = path.is_dir() and given[0] not in ("", ".")
    return len(given) == 1 and not is_folder and not is_pattern


def _require_writable(out: Path, image: Path) -> None:
    """UserError where the figure cannot be the file `out`."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the figure is a PNG; give a name that ends in .png")
    if out.exists() and not out.is_file():
        raise UserError(f"--out {out}: is no file; name one")
    if out.exists() and out.samefile(image):
        raise UserError(f"--out {out}: is the picture itself; give another name")
