"""The README's picture from what the methods said: a row a paper, six cells of one size.

Lengths are pixels at the width at which READMEs are read, WIDTH; the file is SCALE times as large.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from common.cam import resize_maps
from common.files import atomic_write
from docs.overview.rows import RHO, Candidates, Explanation, Labels, Puzzle

WIDTH = 900
SCALE = 4 / 3
MARGIN = 6
CELL = 138
GAP = 12
TITLE = 27  # above the cells
CAPTION = 34  # below them, two lines
SPACE = 15  # between rows
FOOT = 38

INK = "#1f2328"
SOFT = "#59636e"
GREEN = "#1a7f37"
ORANGE = "#d1641c"
GREY = "#a6adb5"
HEAT = "inferno"
MINUS = "\N{MINUS SIGN}"
GREEK_RHO = "\N{GREEK SMALL LETTER RHO}"


@dataclass(frozen=True)
class Bar:
    """A label with its number; length is its share of the column."""

    name: str
    number: str
    length: float
    colour: str
    is_bold: bool = False


@dataclass(frozen=True)
class Cell:
    """A picture or a list of bars, with two lines of text below it.

    rings and cross: [y, x] in pixels of the picture. sizes: of the rings, from 0 to 1. mark: a line
    through all bars, from 0 to 1.
    """

    lines: tuple[str, str] = ("", "")
    picture: np.ndarray | None = None
    bars: Sequence[Bar] = ()
    is_chosen: bool = False
    rings: Sequence[Sequence[int]] = ()
    sizes: Sequence[float] = ()
    cross: Sequence[int] = ()
    mark: float | None = None


@dataclass(frozen=True)
class Row:
    """A paper: what it does in a sentence, and its six cells."""

    paper: str
    sentence: str
    cells: Sequence[Cell] = field(default_factory=list)


# ---- what the rows show --------------------------------------------------------------------------


def candidates_row(said: Candidates) -> Row:
    """CAVL: the maps of all candidates on one scale, the picked one framed."""
    cells = [Cell(("five candidate labels,", "one of them is true"), said.picture)]
    for number, name in enumerate(said.names):
        is_picked = number == said.picked
        value = f"v = {said.values[number]:.1f}".replace("-", MINUS)
        told = f"{value}: picked" if is_picked else value
        heated = heat(said.picture, said.maps[number], said.maps.max().item())
        cells.append(Cell((name, told), heated, is_chosen=is_picked))
    sentence = (
        "of the candidate labels, the one with the largest class activation value v is learned"
    )
    return Row("CAVL", sentence, cells)


def puzzle_row(said: Puzzle) -> Row:
    """OASS: the map, its peaks and the cut, the tiles, their map, and what the loss compares."""
    cells = [
        Cell((f"the label: {said.name}", "(its place is unknown)"), said.picture),
        Cell(("the class's map", "of the whole picture"), heat(said.picture, said.cam[0])),
        Cell(
            ("the peaks of the map,", "their weighted centre"),
            said.picture,
            rings=said.peaks,
            sizes=said.weights,
            cross=said.cut,
        ),
        Cell(("cut there: four tiles,", "each seen by itself"), mosaic(said.tiles)),
        Cell(("the tiles' maps,", "glued together"), heat(said.picture, said.merged[0])),
        Cell(
            ("what is to vanish:", f"mean difference {said.loss:.3f}"),
            heat(said.picture, said.difference[0], 1.0),
        ),
    ]
    sentence = "cut at an object, the tiles of a picture are to have the map that the whole has"
    return Row("OASS", sentence, cells)


def explanation_row(said: Explanation) -> Row:
    """CALM: the joint probability of each class on one scale, and the difference of two."""
    words = {"chelsea": "cat", "coffee": "coffee", "astronaut": "astronaut", "rocket": "rocket"}
    cells = [Cell(("two photographs", "in one picture x"), said.picture)]
    top = said.maps.max().item()
    for number, name in enumerate(said.names):
        total = said.maps[number].sum().item()
        told = (f"p({words[name]}, place | x)", f"adds up to {total:.3f}")
        cells.append(Cell(told, heat(said.picture, said.maps[number], top)))
    first, second = (words[name] for name in said.names[:2])
    shown = signed(said.picture, said.why)
    cells.append(Cell((f"why {first} (red)", f"and why {second} (blue)"), shown))
    sentence = (
        "a class's map is a probability, of the class and a place: it adds up to p(class | x)"
    )
    return Row("CALM", sentence, cells)


def annotations_row(said: Labels) -> Row:
    """CSL: annotated labels, the ones left out of the loss, the first of those that stay."""
    annotated = []
    for name, (sign, p) in said.given.items():
        colour = GREEN if sign else GREY
        mark = "+" if sign else MINUS
        annotated.append(Bar(f"{mark} {name}", f"{p:.2f}", p, colour))
    left_out = [Bar(name, f"{p:.2f}", p, ORANGE) for name, p in said.found]
    negative = [Bar(name, f"{p:.2f}", p, GREY) for name, p in said.rest[:10]]
    largest = max(said.losses.values())
    words = {"negative": "all as negatives", "selective": "selective"}
    losses = [
        Bar(words[mode], f"{loss:.2f}", loss / largest, ORANGE if mode == "selective" else GREY)
        for mode, loss in said.losses.items()
    ]
    cells = [
        Cell(("three of 1000 labels", "are annotated"), said.picture),
        Cell(("annotated: there (+)", f"or not ({MINUS})"), bars=annotated),
        Cell(("not annotated, likely:", "left out of the loss"), bars=left_out),
        Cell(("not annotated, the rest:", "taken for negatives"), bars=negative[:5]),
        Cell((f"(and {len(said.rest) - 10} more)", ""), bars=negative[5:]),
        Cell(("the picture's loss", "with both treatments"), bars=losses),
    ]
    sentence = "labels that nobody annotated but that are likely there are left out of the loss"
    return Row("CSL", sentence, cells)


def sets_row(said: Sequence[Labels]) -> Row:
    """MILe: for each picture the given label and those that the teacher adds."""
    cells = []
    for of_picture in said:
        ((label, (_, own)),) = of_picture.given.items()
        bars = [Bar(label, f"{own:.2f}", own, GREEN, is_bold=True)]
        bars += [Bar(name, f"{p:.2f}", p, ORANGE) for name, p in of_picture.found[:4]]
        bars += [Bar(name, f"{p:.2f}", p, GREY) for name, p in of_picture.rest]
        count = len(of_picture.found)
        cells.append(Cell(("the one given label:", label), of_picture.picture))
        told = (f"with p > {GREEK_RHO} = {RHO}", f"the teacher adds {count}")
        cells.append(Cell(told, bars=bars[:5], mark=RHO))
    sentence = "one label is given, a teacher finds others, and a student learns the set"
    return Row("MILe", sentence, cells)


# ---- pictures ------------------------------------------------------------------------------------


def heat(picture: np.ndarray, score_map: Tensor, top: float | None = None) -> np.ndarray:
    """A picture, paled, under a map (h,w) that covers it where it is large; `top` is fully warm."""
    from matplotlib import colormaps

    top = score_map.max().item() if top is None else top
    share = _at_size(score_map.clamp_min(0) / max(top, 1e-12), picture).clip(0, 1)
    colour = colormaps[HEAT](0.25 + 0.7 * share)[..., :3] * 255
    alpha = np.clip(1.6 * share, 0, 0.72)[..., None]
    return (alpha * colour + (1 - alpha) * _paled(picture)).round().astype(np.uint8)


def signed(picture: np.ndarray, difference: Tensor) -> np.ndarray:
    """A picture under a signed map (h,w): red where it is positive, blue where negative."""
    share = _at_size(difference / max(difference.abs().max().item(), 1e-12), picture)
    colour = np.where(share[..., None] > 0, (214.0, 30.0, 30.0), (30.0, 80.0, 220.0))
    alpha = np.clip(1.4 * np.abs(share), 0, 0.75)[..., None]
    return (alpha * colour + (1 - alpha) * _paled(picture)).round().astype(np.uint8)


def mosaic(tiles: np.ndarray, gap: int = 14) -> np.ndarray:
    """Four tiles (4,s,s,3) with a white cross between them."""
    side = tiles.shape[1]
    whole = np.full((2 * side + gap, 2 * side + gap, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        y = number // 2 * (side + gap)
        x = number % 2 * (side + gap)
        whole[y : y + side, x : x + side] = tile
    return whole


def _paled(picture: np.ndarray) -> np.ndarray:
    """Grey and a little lighter, so that the colours of a map are the only ones."""
    grey = picture.mean(2, keepdims=True)
    return np.broadcast_to(0.85 * grey + 30, picture.shape)


def _at_size(score_map: Tensor, picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    return resize_maps(score_map[None, None], (height, width))[0, 0].numpy()


# ---- layout --------------------------------------------------------------------------------------


def draw(rows: Sequence[Row], foot: Sequence[str], out: Path) -> None:
    """Write the rows as one PNG of at most 256 colours, the lines of `foot` below them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    step = TITLE + CELL + CAPTION + SPACE
    height = 6 + step * len(rows) + FOOT
    dpi = 100 * SCALE
    figure = plt.figure(figsize=(WIDTH / 100, height / 100), dpi=dpi, facecolor="white")
    page = _Page(figure, height)
    for number, row in enumerate(rows):
        top = 6 + step * number
        if number:
            page.rule(top - SPACE / 2 + 2)
        bold = page.text(MARGIN, top + 18, row.paper, 14.5, weight="bold")
        page.text(bold + 8, top + 18, row.sentence, 13.5)
        for column, cell in enumerate(row.cells):
            page.cell(MARGIN + column * (CELL + GAP), top + TITLE, cell)
    for number, line in enumerate(foot):
        page.text(MARGIN, height - FOOT + 16 + 16 * number, line, 11.5, color=SOFT)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format="png")
    plt.close(figure)
    small = io.BytesIO()
    _few_colours(Image.open(drawn).convert("RGB")).save(small, format="PNG", optimize=True)
    atomic_write(out, small.getvalue())


def _few_colours(whole: Image.Image) -> Image.Image:
    """256 colours and their mixtures, a third of the bytes; white stays white."""
    some = whole.resize((whole.width // 3, whole.height // 3), Image.Resampling.NEAREST)
    chosen = some.quantize(256, kmeans=1)
    colours = np.array(chosen.getpalette()).reshape(-1, 3)
    colours[(colours >= 244).all(1)] = 255
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.flatten().tolist())
    return whole.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


class _Page:
    """A figure on which lengths are pixels from its upper left corner."""

    def __init__(self, figure: Any, height: float) -> None:
        self.figure = figure
        self.height = height

    def text(self, x: float, y: float, words: str, size: float, **style: Any) -> float:
        """Words on a base line; where they end."""
        style.setdefault("color", INK)
        text = self.figure.text(
            x / WIDTH,
            1 - y / self.height,
            words,
            fontsize=size * 72 / 100,
            family="DejaVu Sans",
            parse_math=False,
            **style,
        )
        box = text.get_window_extent(self.figure.canvas.get_renderer())
        return box.x1 / self.figure.dpi * 100

    def rule(self, y: float) -> None:
        """A thin line between two rows."""
        self.box(MARGIN, y, WIDTH - 2 * MARGIN, 0.8, "#d8dee4")

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A filled rectangle."""
        from matplotlib.patches import Rectangle

        corner = (x / WIDTH, 1 - (y + height) / self.height)
        shape = Rectangle(
            corner,
            width / WIDTH,
            height / self.height,
            transform=self.figure.transFigure,
            facecolor=colour,
            linewidth=0,
            zorder=-1,  # below the pictures
        )
        self.figure.add_artist(shape)

    def cell(self, x: float, y: float, cell: Cell) -> None:
        """A picture or bars, and the two lines below."""
        if cell.picture is not None:
            self._picture(x, y, cell)
        else:
            self._bars(x, y, cell)
        weight = "bold" if cell.is_chosen else "normal"
        colour = GREEN if cell.is_chosen else INK
        for number, line in enumerate(cell.lines):
            below = y + CELL + 14 + 14.5 * number
            self.text(x, below, line, 11.5, weight=weight, color=colour)

    def _picture(self, x: float, y: float, cell: Cell) -> None:
        assert cell.picture is not None
        side = round(CELL * SCALE)
        if cell.is_chosen:
            self.box(x - 3, y - 3, CELL + 6, CELL + 6, GREEN)
        shape = (x / WIDTH, 1 - (y + CELL) / self.height, CELL / WIDTH, CELL / self.height)
        axis = self.figure.add_axes(shape)
        small = Image.fromarray(cell.picture).resize((side, side), Image.Resampling.LANCZOS)
        axis.imshow(np.asarray(small), interpolation="nearest", aspect="auto")
        axis.axis("off")
        size = side / cell.picture.shape[0]
        for (ring_y, ring_x), share in zip(cell.rings, cell.sizes, strict=True):
            place = (ring_x * size, ring_y * size)
            axis.plot(*place, "o", ms=4 + 9 * share, mfc="none", mec="#ffe600", mew=1.8)
        if cell.cross:
            cut_y, cut_x = (value * size for value in cell.cross)
            axis.axhline(cut_y, color="#ff2828", lw=1.4)
            axis.axvline(cut_x, color="#ff2828", lw=1.4)

    def _bars(self, x: float, y: float, cell: Cell) -> None:
        for number, bar in enumerate(cell.bars):
            top = y + 28 * number
            weight = "bold" if bar.is_bold else "normal"
            self.text(x, top + 11, bar.name, 11.5, weight=weight)
            self.text(x + CELL, top + 11, bar.number, 11.5, ha="right", color=SOFT)
            self.box(x, top + 15, CELL, 7, "#eff2f5")
            self.box(x, top + 15, max(1.0, CELL * bar.length), 7, bar.colour)
            if cell.mark is not None:
                self.box(x + CELL * cell.mark - 0.7, top + 15, 1.4, 9, INK)
