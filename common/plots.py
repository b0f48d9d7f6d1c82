"""Pictures in rows and learning curves as PNG files; matplotlib is imported where it draws.

Figures are made without pyplot, which looks for windows and keeps a list of all that are open.
"""

from pathlib import Path
from typing import Any

import numpy as np

INCH_PER_LINE = 0.125  # of a title's 7 points
GAP = 0.06  # inches around titles and pictures


def save_grid(
    path: Path,
    rows: list[list[np.ndarray]],
    titles: list[list[str]],
    *,
    cell: float = 1.6,
    suptitle: str = "",
) -> None:
    """Draw rows of pictures with a title each (shorter rows end early) into a PNG.

    All lie on one pair of axes, in inches: a pair for each picture takes five times as long.

    Args:
        rows: pictures (H,W), (H,W,3) or (H,W,4), uint8; each keeps its shape within its cell.
        titles: of one or more lines.
        cell: inches from a picture to the next.
        suptitle: a line above all of them.
    """
    width = cell * max(len(row) for row in rows)
    side = cell - 2 * GAP
    tops = []  # of the pictures of a row
    below = 2 * GAP + 0.2 if suptitle else 0.0
    for pictures, names in zip(rows, titles, strict=True):
        lines = max((name.count("\n") + 1 for name in names), default=0)
        tops.append(below + 2 * GAP + INCH_PER_LINE * lines)
        below = tops[-1] + max(_size(picture, side)[1] for picture in pictures) + GAP

    figure = new_figure(width, below)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    for pictures, names, top in zip(rows, titles, tops, strict=True):
        for column, (picture, name) in enumerate(zip(pictures, names, strict=False)):
            middle = cell * (column + 0.5)
            across, down = _size(picture, side)
            place = (middle - across / 2, middle + across / 2, top + down, top)
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=place, aspect="auto")
            axis.text(middle, top - GAP, name, ha="center", va="bottom", fontsize=7)
    axis.text(width / 2, 2 * GAP, suptitle, ha="center", va="top", fontsize=9)
    axis.set(xlim=(0, width), ylim=(below, 0))  # imshow sets its own
    save_figure(figure, path, is_tight=True)


def _size(picture: np.ndarray, side: float) -> tuple[float, float]:
    """Width and height of a picture that fills a square of this side in one direction."""
    height, width = picture.shape[:2]
    return side * width / max(height, width), side * height / max(height, width)


FEW = 30  # points of a curve that are marked; one alone would not be seen as a line


def save_curves(
    path: Path,
    curves: dict[str, list[float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    spread: dict[str, list[float]] | None = None,
) -> None:
    """Draw named curves over 1, 2, ... into a PNG; `spread` (same names, lengths) as bands."""
    figure = new_figure(7, 4)
    axis = figure.add_subplot()
    for name, values in curves.items():
        x = range(1, len(values) + 1)
        axis.plot(x, values, label=name, marker="o" if len(values) <= FEW else None, markersize=3)
        if spread:
            middle = np.asarray(values)
            width = np.asarray(spread[name])
            axis.fill_between(x, middle - width, middle + width, alpha=0.2)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))  # beside the lines
    save_figure(figure, path)


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def save_figure(figure: Any, path: Path, *, is_tight: bool = False) -> None:
    """Write a PNG, the same bytes each time; margins are fitted where they aren't yet."""
    if not is_tight:
        figure.tight_layout()
    fast = {"compress_level": 1}
    metadata = {"Software": None}  # no version: the bytes stay
    figure.savefig(path, dpi=100, metadata=metadata, pil_kwargs=fast)
