"""Pictures that are drawn: of the right kind, the same each time, and as they say."""

import numpy as np
from PIL import Image

from common.plots import save_curves, save_grid


def test_figures_are_png_and_the_same_each_time(tmp_path):
    rows = [[np.zeros((5, 5, 3), np.uint8), np.eye(5) * 255], [np.ones((5, 5, 3), np.uint8)]]
    for name in ("a", "b"):
        save_grid(tmp_path / f"grid-{name}.png", rows, [["one", "two"], ["three"]], suptitle="all")
        curves = {"train": [0.5, None, 0.7], "test": [0.4, 0.5, float("nan")]}
        save_curves(tmp_path / f"curves-{name}.png", curves, xlabel="epoch", ylabel="accuracy")
    for figure in ("grid", "curves"):
        one, two = tmp_path / f"{figure}-a.png", tmp_path / f"{figure}-b.png"
        assert one.read_bytes() == two.read_bytes()
        with Image.open(one) as image:
            assert image.format == "PNG" and min(image.size) > 50


def test_a_spread_draws_a_band_as_high_as_it_says(tmp_path):
    for name, half in (("none", None), ("narrow", 0.1), ("wide", 0.3)):
        spread = None if half is None else {"a": [half, half]}
        save_curves(
            tmp_path / f"{name}.png", {"a": [1.0, 1.0]}, xlabel="", ylabel="", spread=spread
        )
    tinted = {}
    for name in ("none", "narrow", "wide"):
        with Image.open(tmp_path / f"{name}.png") as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        tinted[name] = (
            pixels[..., 2] - pixels[..., 0] > 20
        ).sum()  # bluish: the curve and its band
    assert tinted["none"] < tinted["narrow"] and tinted["none"] < tinted["wide"]
