"""The README's picture: what each method does, a strip for each paper, cut from its own figures.

    python -m sidebyside.overview --out overview.png \\
        cavl=RUN/figures/cams.png@0:250 calm=RUN/figures/explain.png ...

FILE@TOP:BOTTOM takes these rows of pixels, FILE the whole figure. Give figures of the offline
samples: pictures of real data sets are not ours to pass on.
"""

import common.interrupt  # noqa: F401

import re
from pathlib import Path

import numpy as np
from PIL import Image

from common.cli import OneLineParser, UserError, run_main
from common.data import read_image
from sidebyside.results import PAPERS

TOLD = {
    "cavl": (
        "CAVL: of each picture's candidate labels (columns) the class activation value picks one "
        "(* is true)"
    ),
    "oass": (
        "OASS: a class's map, its peaks and their weighted centre, the four tiles of the cut, the "
        "tiles' map"
    ),
    "calm": (
        "CALM: the map of a class is p(class, position); the difference of two maps tells why this "
        "one"
    ),
    "csl": "CSL: trained with few annotated labels an image, it finds the others (* is there)",
    "mile": (
        "MILe: one label y was given for each picture; teacher and student find more of the true "
        "ones"
    ),
}
WIDTH = 1000  # of the largest strip, in pixels
HEIGHT = 180


def strip(argument: str) -> tuple[str, np.ndarray]:
    """PAPER=FILE[@TOP:BOTTOM] as the paper's name and its pixels (h, w, 3) uint8.

    UserError where it is no such thing.
    """
    match = re.fullmatch(rf"({'|'.join(PAPERS)})=(.+?)(?:@(\d+):(\d+))?", argument)
    if match is None:
        raise UserError(
            f"{argument}: give PAPER=FILE or PAPER=FILE@TOP:BOTTOM, PAPER one of "
            f"{', '.join(PAPERS)}"
        )
    name, file, top, bottom = match.groups()
    whole = np.asarray(read_image(file))
    pixels = whole
    if top:
        pixels = whole[int(top) : int(bottom)]
    if not pixels.size:
        raise UserError(f"{argument}: no such rows, the picture has {whole.shape[0]}")
    return name, trimmed(pixels)


def trimmed(pixels: np.ndarray, paper: int = 250) -> np.ndarray:
    """The picture without its white margins."""
    rows, columns, _ = np.nonzero(pixels < paper)
    if not len(rows):
        return pixels
    return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def fitted(pixels: np.ndarray) -> np.ndarray:
    """The strip made smaller, where it is larger than WIDTH x HEIGHT."""
    image = Image.fromarray(pixels)
    image.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    return np.asarray(image)


def draw(strips: list[tuple[str, np.ndarray]], out: Path) -> None:
    """One PNG: each strip under the sentence that says what it shows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    scaled = [(name, fitted(pixels)) for name, pixels in strips]
    heights = [pixels.shape[0] + 34 for _, pixels in scaled]
    size = (WIDTH / 100, sum(heights) / 100)
    figure, axes = plt.subplots(
        len(scaled), figsize=size, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, (name, pixels) in zip(axes[:, 0], scaled, strict=True):
        axis.imshow(pixels)
        axis.set_title(TOLD[name], fontsize=9, loc="left")
        axis.set_xlim(0, WIDTH)
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(out, dpi=100, metadata={"Software": None})
    plt.close(figure)
    Image.open(out).convert("RGB").quantize(256).save(out, optimize=True)  # a third of the bytes


def main(argv: list[str] | None = None) -> None:
    """Read the strips, draw them."""
    parser = OneLineParser(prog="python -m sidebyside.overview", description=__doc__.split("\n")[0])
    parser.add_argument(
        "strips", nargs="+", metavar="PAPER=FILE[@TOP:BOTTOM]", help="rows of pixels"
    )
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    args = parser.parse_args(argv)
    if args.out.suffix.lower() != ".png":
        raise UserError(f"--out {args.out}: the picture is a PNG; name it so")
    if not args.out.absolute().parent.is_dir():
        raise UserError(f"--out {args.out}: no such folder")
    draw([strip(argument) for argument in args.strips], args.out)
    print(f"picture: {args.out}")


if __name__ == "__main__":
    run_main(main)
