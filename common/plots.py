"""Pictures in rows and learning curves as PNG files; matplotlib is imported where it draws."""

from pathlib import Path
from typing import Any

import numpy as np


def save_grid(
    path: Path,
    rows: list[list[np.ndarray]],
    titles: list[list[str]],
    *,
    cell: float = 1.6,
    suptitle: str = "",
) -> None:
    """Draw rows of pictures with a title each (shorter rows end early) into a PNG."""
    plt = _pyplot()
    columns = max(len(row) for row in rows)
    size = (cell * columns, cell * 1.3 * len(rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for line, pictures, names in zip(axes, rows, titles, strict=True):
        for axis, picture, name in zip(line, pictures, names, strict=False):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.set_title(name, fontsize=7)
    figure.suptitle(suptitle, fontsize=9)
    _save(figure, path)


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
    figure, axis = _pyplot().subplots(figsize=(7, 4))
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
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})  # no version: the bytes stay
    _pyplot().close(figure)
