"""The README's picture: what the five methods say of the shipped photographs, and its drawing."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cavl.method import class_activation_value
from common.backbones import CamClassifier, feature_network
from common.cli import UserError
from docs.overview import __main__ as overview
from docs.overview import drawing, rows
from sidebyside.results import ROOT

KNOWN = ("tabby", "lynx", "bath towel", "espresso", "space shuttle", "missile", "crash helmet")


@pytest.fixture(scope="module")
def network():
    """A random network of 40 classes that sees the mean colours of 32 x 32 pixels."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, 12, 1), nn.ReLU())
    features = feature_network("colours", own={"colours": lambda: body})
    classifier = CamClassifier(features, 40).eval()
    with torch.no_grad():
        classifier.head.weight.mul_(20)
    names = [*KNOWN, *(f"class {number}" for number in range(len(KNOWN), 40))]
    return rows.Network(classifier, names)


def test_the_photographs_are_small_and_named_with_author_and_terms():
    told = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    files = sorted(rows.PHOTOS.iterdir())
    assert {file.stem for file in files} == set(rows.NAMES)
    for file in files:
        row = re.search(rf"^\| `{file.name}` \|.*\| (.+?) \| (CC0|public domain) \|$", told, re.M)
        assert row is not None, file.name
        assert file.stat().st_size <= 60_000
        assert max(Image.open(file).size) <= 448


def test_cavl_picks_the_largest_value(network):
    said = rows.candidates(network)
    with torch.no_grad():
        values = class_activation_value(network.logits(said.picture))[0]
    of_candidates = values[network.numbers(said.names)]
    assert torch.allclose(said.values, of_candidates, atol=1e-5)
    assert said.picked == of_candidates.argmax()
    assert said.maps.shape == (5, 7, 7)


def test_oass_cuts_at_the_weighted_centre_of_the_peaks(network):
    said = rows.puzzle(network)
    centre = np.average(said.peaks, axis=0, weights=said.weights)
    inside = np.clip(np.floor(centre), 32, 448 - 32)
    assert said.cut == inside.tolist()
    assert said.tiles.shape == (4, 224, 224, 3)
    assert (said.tiles[0, 0, 0] == said.picture[0, 0]).all()
    assert said.difference.mean().item() == pytest.approx(said.loss, rel=1e-5)
    assert torch.allclose(said.difference, (said.cam - said.merged).abs())


def test_calms_maps_add_up_to_the_probabilities(network):
    said = rows.explained(network, crops=4, steps=5)
    assert torch.allclose(said.maps.sum((1, 2)), said.probabilities, atol=1e-6)
    assert said.probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(said.why, said.maps[0] - said.maps[1])
    again = rows.explained(network, crops=4, steps=5)
    assert torch.equal(again.maps, said.maps)


def test_calm_learns_to_tell_the_photographs_apart(network):
    cat, coffee, *others = rows.explained(network, crops=4, steps=100).probabilities
    assert cat + coffee > sum(others)


def test_csl_leaves_the_likeliest_labels_out(network):
    said = rows.partially_annotated(network)
    assert said.given.keys() == rows.ANNOTATED.keys()
    assert len(said.found) == rows.LEFT_OUT
    assert len(said.given) + len(said.found) + len(said.rest) == 40
    assert min(p for _, p in said.found) >= max(p for _, p in said.rest)
    assert said.losses["selective"] < said.losses["negative"]


def test_miles_set_holds_the_given_label_and_those_above_rho(network):
    said = rows.label_set(network, "coffee", "espresso", rho=0.1)
    assert list(said.given) == ["espresso"]
    assert said.found and all(p > 0.1 for _, p in said.found)
    assert all(p <= 0.1 for _, p in said.rest)
    assert 1 + len(said.found) + len(said.rest) == 40


@pytest.mark.slow
def test_the_command_draws_all_rows(network, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rows, "trained_network", lambda weights: network)
    monkeypatch.setattr(rows.explained, "__defaults__", (2, 2))
    out = tmp_path / "overview.png"
    overview.main(["--out", str(out)])
    assert capsys.readouterr().out == f"picture: {out}\n"
    assert_is_a_page(out)


def test_a_row_is_drawn_within_its_margins(network, tmp_path):
    said = rows.partially_annotated(network)
    out = tmp_path / "row.png"
    drawing.draw([drawing.annotations_row(said)], ("below",), out)
    assert_is_a_page(out)


def assert_is_a_page(file):
    """Nothing is drawn over the margins, and something within."""
    drawn = Image.open(file)
    assert drawn.width == drawing.WIDTH * drawing.SCALE
    pixels = np.asarray(drawn.convert("RGB"))
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()
    assert len(np.unique(pixels)) > 50


def test_the_picture_in_the_readme_is_light():
    file = ROOT / "docs" / "overview" / "overview.png"
    assert file.stat().st_size <= 500_000
    assert "](docs/overview/overview.png)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_heat_covers_the_top_and_leaves_the_rest(network):
    picture = np.full((64, 64, 3), 200, np.uint8)
    score_map = torch.zeros(2, 2)
    score_map[0, 0] = 1
    warm = drawing.heat(picture, score_map)
    assert (warm[-1, -1] == 200).all()
    assert warm[0, 0, 0] > warm[0, 0, 2] + 50
    split = drawing.signed(picture, torch.tensor([[1.0, -1.0]]))
    assert split[0, 0, 0] > split[0, 0, 2] and split[0, -1, 2] > split[0, -1, 0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out", "x.jpg"], "the picture is a PNG"),
        (["--out", "no/such/x.png"], "no such folder"),
        (["--out", "x.png", "--weights", "none.pth"], "none.pth: no such file"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as raised:
        overview.main(arguments)
    assert "\n" not in str(raised.value)


def test_a_wrong_place_ends_with_status_2(tmp_path):
    with pytest.raises(SystemExit) as raised:
        overview.run_main(lambda: overview.main(["--out", str(tmp_path / "x.jpg")]))
    assert raised.value.code == 2
