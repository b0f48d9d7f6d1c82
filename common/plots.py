"""Pictures in rows and learning curves, drawn into PNG files. matplotlib is imported where it draws."""

from pathlib import Path

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
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = max(len(row) for row in rows)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(cell * columns, cell * 1.3 * len(rows)), squeeze=False
    )
    for r, line in enumerate(axes):
        for c, axis in enumerate(line):
            axis.axis("off")
            if c < len(rows[r]):
                axis.imshow(rows[r][c], cmap="gray", vmin=0, vmax=255)
                axis.set_title(titles[r][c], fontsize=7)
    figure.suptitle(suptitle, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def save_curves(
    path: Path,
    curves: dict[str, list[float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    spread: dict[str, list[float]] | None = None,
) -> None:
    """Draw named curves over 1, 2, ... into a PNG; `spread` (same names and lengths) as bands around them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4))
    for name, values in curves.items():
        x = range(1, len(values) + 1)
        axis.plot(x, values, label=name)
        if spread:
            low, high = (
                [v + sign * s for v, s in zip(values, spread[name], strict=True)]
                for sign in (-1, 1)
            )
            axis.fill_between(x, low, high, alpha=0.2)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
