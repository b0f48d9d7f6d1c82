"""The README's picture: strips cut from figures, each under its sentence."""

import numpy as np
import pytest
from PIL import Image

from common.cli import UserError
from sidebyside import overview


@pytest.fixture
def figure(tmp_path):
    pixels = np.full((300, 400, 3), 255, np.uint8)
    pixels[20:100, 30:350], pixels[200:280, 10:390] = (200, 0, 0), (0, 0, 200)
    Image.fromarray(pixels).save(tmp_path / "figure.png")
    return tmp_path / "figure.png"


def test_a_strip_is_the_rows_asked_for_without_white_margins(figure):
    name, pixels = overview.strip(f"calm={figure}@0:150")
    assert name == "calm" and pixels.shape == (80, 320, 3) and (pixels == (200, 0, 0)).all()
    assert overview.strip(f"calm={figure}")[1].shape == (260, 380, 3)


def test_large_strips_are_made_smaller_and_small_ones_stay(figure):
    assert overview.fitted(np.zeros((90, 500, 3), np.uint8)).shape == (90, 500, 3)
    height, width, _ = overview.fitted(np.zeros((400, 4000, 3), np.uint8)).shape
    assert width == overview.WIDTH and height == 100


def test_the_picture_holds_all_strips(figure, tmp_path):
    out = tmp_path / "overview.png"
    overview.main(["--out", str(out), f"cavl={figure}", f"mile={figure}@0:150"])
    colours = {tuple(c) for c in np.asarray(Image.open(out).convert("RGB")).reshape(-1, 3)[::7]}
    assert {(200, 0, 0), (0, 0, 200)} <= colours


@pytest.mark.parametrize("argument", ["cavl", "nobody=x.png", "cavl=none.png", "cavl={}@400:500"])
def test_mistakes_are_one_line(figure, argument):
    with pytest.raises(UserError, match="give PAPER=FILE|no such (image|file)|no such rows"):
        overview.strip(argument.format(figure))


@pytest.mark.parametrize(
    "out, message", [("x.jpg", "the picture is a PNG"), ("no/such/x.png", "no such folder")]
)
def test_a_place_that_cannot_be_is_one_line(figure, tmp_path, out, message):
    with pytest.raises(UserError, match=message):
        overview.main(["--out", str(tmp_path / out), f"cavl={figure}"])
