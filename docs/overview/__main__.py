"""The README's picture: what each of the five methods does, shown on photographs.

    python -m docs.overview --out overview.png

A network that was trained on ImageNet looks at the four photographs in `photos`; every map and
number is what the methods' own functions return (`rows.py`). Half a minute on one core, no data
set; the network's weights (19 MB) come from the hub, or with --weights from a file.
"""

import common.interrupt  # noqa: F401

from pathlib import Path

from common.cli import OneLineParser, UserError, run_main


def parser() -> OneLineParser:
    """The command line."""
    build = OneLineParser(prog="python -m docs.overview", description=__doc__.split("\n")[0])
    build.add_argument("--out", type=Path, required=True, help="the picture, a PNG")
    build.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="ImageNet's weights of EfficientNet-Lite0; without it they come from the hub",
    )
    return build


def main(argv: list[str] | None = None) -> None:
    """Let the methods look, draw what they say."""
    args = parser().parse_args(argv)
    if args.out.suffix.lower() != ".png":
        raise UserError(f"--out {args.out}: the picture is a PNG; name it so")
    if not args.out.absolute().parent.is_dir():
        raise UserError(f"--out {args.out}: no such folder")
    if args.weights is not None and not args.weights.exists():
        raise UserError(f"--weights {args.weights}: no such file")

    from docs.overview import drawing
    from docs.overview import rows as said

    network = said.trained_network(args.weights)
    rows = [
        drawing.candidates_row(said.candidates(network)),
        drawing.puzzle_row(said.puzzle(network)),
        drawing.explanation_row(said.explained(network)),
        drawing.annotations_row(said.partially_annotated(network)),
        drawing.sets_row([said.label_set(network, *given) for given in said.GIVEN.items()]),
    ]
    foot = (
        "Drawn by the methods' own functions from the maps and logits z of an EfficientNet-Lite0 "
        "trained on ImageNet; p = sigmoid(z \N{MINUS SIGN} ln 1000).",
        f"Only CALM has a head trained for this picture, on {said.CROPS} random crops of each of "
        "the four photographs. Errors are shown as they come.",
    )
    drawing.draw(rows, foot, args.out)
    print(f"picture: {args.out}")


if __name__ == "__main__":
    run_main(main)
