"""What the five methods say of four photographs: the numbers behind the README's picture.

A network that was trained on ImageNet (EfficientNet-Lite0) looks at each photograph; what is shown
is what the methods' own functions make of its logits z and class maps. Its softmax knows one label
an image, so that likelihoods of several are p = sigmoid(z - ln C): a sigmoid that begins at 1 / (C
+ 1), as MILe's does. CALM alone has a head to train, which takes seconds (`explained`).

Shapes: K classes, h w map, S the side of a picture in pixels; pictures (S,S,3) uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from calm.library import CALM
from calm.method import counterfactual
from cavl.method import class_activation_map, class_activation_value, select_by_cav
from common.backbones import CamClassifier, cam_classifier, load_weights
from common.data import read_image
from csl.method import label_weights, partial_asymmetric_loss, probabilities
from mile.method import prior_bias, pseudo_labels
from oass.method import (
    L1_Loss,
    detect_keypoints,
    make_cam,
    merge_at_keypoints,
    reconstruction_loss,
    scaled_distances,
    tile_at_keypoints,
    tile_class_maps,
    topk_peaks,
    upsample_cams,
)

PHOTOS = Path(__file__).parent / "photos"
NAMES = ("chelsea", "coffee", "astronaut", "rocket")
NETWORK = "tf_efficientnet_lite0"
SIDE = 224  # of what the network was trained with
LARGE = 448  # where places count: 14 x 14 of them

CANDIDATES = ("tabby", "lynx", "bath towel", "espresso", "space shuttle")
OBJECT = "crash helmet"
ANNOTATED = {"espresso": 1, "tabby": 0, "missile": 0}
LEFT_OUT = 5
GIVEN = {"chelsea": "tabby", "coffee": "espresso", "rocket": "missile"}
RHO = 0.25
CROPS = 32  # of each photograph, for CALM's head
STEPS = 200


class Network(NamedTuple):
    """A classifier and the names of its K classes."""

    classifier: CamClassifier
    names: Sequence[str]

    def prepared(self, pictures: np.ndarray) -> Tensor:
        """Pictures (n,S,S,3) uint8 as the network takes them: (n,3,S,S)."""
        features = self.classifier.features
        mean = torch.tensor(features.mean).view(3, 1, 1)
        std = torch.tensor(features.std).view(3, 1, 1)
        return (torch.tensor(pictures).permute(0, 3, 1, 2) / 255 - mean) / std

    def logits(self, picture: np.ndarray) -> Tensor:
        """z of one picture: (1,K)."""
        return self.classifier(self.prepared(picture[None]))

    def numbers(self, names: Sequence[str]) -> list[int]:
        """The classes of these names."""
        return [self.names.index(name) for name in names]


def trained_network(weights: Path | None) -> Network:
    """The network with ImageNet's weights: of a file, or of the hub; UserError without them."""
    from timm.data import ImageNetInfo

    told = ImageNetInfo()
    names = [told.index_to_description(number).split(",")[0] for number in range(1000)]
    classifier = cam_classifier(NETWORK, len(names), pretrained=weights is None)
    if weights is not None:
        load_weights(classifier, weights, strict_head=True)
    return Network(classifier.eval(), names)


def photograph(
    name: str, side: int = SIDE, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """A shipped photograph as (side,side,3) uint8: its middle square, or `box` of it (x0 y0 x1 y1).

    A box of another shape gives a picture of that shape, `side` wide.
    """
    image = read_image(PHOTOS / f"{name}.jpg")
    if box is None:
        short = min(image.size)
        left = (image.width - short) // 2
        top = (image.height - short) // 2
        box = (left, top, left + short, top + short)
    height = round(side * (box[3] - box[1]) / (box[2] - box[0]))
    return np.asarray(image.resize((side, height), Image.Resampling.BICUBIC, box=box))


# ---- CAVL ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidates:
    """A picture's candidate labels, their maps (k,h,w) and values (k,); `picked` one of them."""

    picture: np.ndarray
    names: Sequence[str]
    maps: Tensor
    values: Tensor
    picked: int


@torch.no_grad()
def candidates(network: Network, names: Sequence[str] = CANDIDATES) -> Candidates:
    """The class activation value of each candidate label of the cat's photograph."""
    picture = photograph("chelsea")
    classifier = network.classifier
    features = classifier.features(network.prepared(picture[None]))
    logits = classifier.head(classifier.features.pool(features))

    classes = network.numbers(names)
    given = torch.zeros_like(logits)
    given[0, classes] = 1
    picked = select_by_cav(logits, given)
    maps = class_activation_map(features, classifier.head.weight[classes])
    values = class_activation_value(logits)[0, classes]
    return Candidates(picture, names, maps[0], values, classes.index(int(picked)))


# ---- OASS ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Puzzle:
    """A picture cut at an object. Maps are (1,G,G), in [0,1]; points [y, x] in pixels.

    weights: of the peaks in their centre, which is the cut.
    tiles (4,S/2,S/2,3) uint8, as in the picture from left to right and down; difference: between
    the map of the whole and that of the tiles, whose mean is `loss`.
    """

    picture: np.ndarray
    name: str
    cam: Tensor
    peaks: list[list[int]]
    weights: list[float]
    cut: list[int]
    tiles: np.ndarray
    merged: Tensor
    difference: Tensor
    loss: float


class _OneClass(NamedTuple):
    """A network that has the map of one class only."""

    classifier: CamClassifier
    number: int

    def class_maps(self, images: Tensor) -> Tensor:
        return self.classifier.maps(images)[:, self.number][:, None]


@torch.no_grad()
def puzzle(network: Network, name: str = OBJECT) -> Puzzle:
    """The astronaut's photograph, cut at the object of a class as in training (cTopk-w)."""
    picture = photograph("astronaut", LARGE)
    own = _OneClass(network.classifier, network.names.index(name))
    images = network.prepared(picture[None])
    whole = own.class_maps(images)
    cam = make_cam(whole)

    present = torch.ones(1, 1)
    points = detect_keypoints(cam, present, "cTopk-w", LARGE)
    distance, _ = scaled_distances(LARGE)
    peaks, values, count = topk_peaks(upsample_cams(cam[:, 0], LARGE), 5, distance)

    tiles = tile_at_keypoints(images, points.image_index, points.keypoints)
    maps = tile_class_maps(own, tiles)
    merged = merge_at_keypoints(maps, points.keypoints, LARGE, whole.shape[-1])
    glued = make_cam(merged)
    pixels = torch.tensor(picture).permute(2, 0, 1)[None]
    shown = tile_at_keypoints(pixels, points.image_index, points.keypoints)[0]
    return Puzzle(
        picture=picture,
        name=name,
        cam=cam[0],
        peaks=peaks[0, : int(count)].tolist(),
        weights=values[0, : int(count)].tolist(),
        cut=points.keypoints[0].tolist(),
        tiles=shown.permute(0, 2, 3, 1).numpy(),
        merged=glued[0],
        difference=L1_Loss(cam, glued)[0],
        loss=reconstruction_loss(cam, glued, present).item(),
    )


# ---- CALM ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explanation:
    """A picture of two photographs; p(y|x) (4,), p(y,z|x) (4,h,w), and `why` (h,w): the first
    class's map less the second's."""

    picture: np.ndarray
    names: Sequence[str]
    probabilities: Tensor
    maps: Tensor
    why: Tensor


def explained(network: Network, crops: int = CROPS, steps: int = STEPS) -> Explanation:
    """A CALM-EM head on the frozen network's map, which learns to tell the photographs apart.

    It is trained on `crops` random crops of each, and then shown two photographs in one picture.
    """
    # The map of a picture, where a network would stand: the network stays as it is.
    model = CALM(
        nn.Identity(),
        len(NAMES),
        "EM",
        channels=network.classifier.features.channels,
        prior_activation="softplus",
        prior_gradient="full",
        class_names=NAMES,
    )
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (model.conv_last.weight, model.attention.weight):
            weight.copy_(0.01 * torch.randn(weight.shape, generator=generator))
        maps = []
        for name in NAMES:
            taken = np.stack([_random_crop(name, rng) for _ in range(crops)])
            maps += [network.classifier.features(network.prepared(few)) for few in _eights(taken)]
    features = torch.cat(maps)
    labels = torch.arange(len(NAMES)).repeat_interleave(crops)

    optimizer = torch.optim.Adam(model.parameters(), lr=0.003, weight_decay=1e-3)
    for _ in range(steps):
        loss = model.loss(features, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    middle = (0, 37, 448, 261)
    picture = np.concatenate([photograph(name, LARGE, middle) for name in NAMES[:2]])
    with torch.no_grad():
        found = model.explain(network.classifier.features(network.prepared(picture[None])))
    joint = found.maps[0]
    why = counterfactual(joint[0], joint[1])
    return Explanation(picture, NAMES, found.probabilities[0], joint, why)


def _random_crop(name: str, rng: np.random.Generator) -> np.ndarray:
    """A square of a photograph, from half its shorter side on; mirrored every other time."""
    width, height = read_image(PHOTOS / f"{name}.jpg").size
    side = rng.uniform(0.5, 1) * min(width, height)
    left = rng.uniform(0, width - side)
    top = rng.uniform(0, height - side)
    crop = photograph(name, SIDE, (left, top, left + side, top + side))
    return crop[:, ::-1].copy() if rng.random() < 0.5 else crop


def _eights(pictures: np.ndarray) -> list[np.ndarray]:
    return [pictures[start : start + 8] for start in range(0, len(pictures), 8)]


# ---- CSL and MILe --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """Labels of a picture, each with its p; the lists hold (name, p), p falling.

    csl: `given` are the annotated ones with +1 or 0 each, `found` those left out of the loss, and
    `rest` the first of the others, which count as negatives. losses: by mode.
    mile: `given` is the one label, `found` are the teacher's others above rho, `rest` the others.
    """

    picture: np.ndarray
    given: dict[str, tuple[int, float]]
    found: list[tuple[str, float]]
    rest: list[tuple[str, float]]
    losses: dict[str, float]


@torch.no_grad()
def partially_annotated(network: Network, annotated: dict[str, int] | None = None) -> Labels:
    """The coffee's photograph with few annotated labels, under the selective loss."""
    annotated = ANNOTATED if annotated is None else annotated
    picture = photograph("coffee")
    logits = _shifted(network.logits(picture))
    p, q = probabilities(logits)
    targets = torch.full_like(logits, -1)
    targets[0, network.numbers(list(annotated))] = torch.tensor(list(annotated.values())).float()

    losses = {}
    for mode in ("negative", "selective"):
        weights = label_weights(mode, targets, q, topk=LEFT_OUT)
        losses[mode] = partial_asymmetric_loss(logits, targets, weights).item()
    is_left_out = weights[0] == 0
    is_negative = (targets[0] == -1) & ~is_left_out
    given = {
        name: (annotated[name], p[0, number].item())
        for name, number in zip(annotated, network.numbers(list(annotated)), strict=True)
    }
    found = _falling(network.names, p[0], is_left_out)
    return Labels(picture, given, found, _falling(network.names, p[0], is_negative), losses)


@torch.no_grad()
def label_set(network: Network, photo: str, label: str, rho: float = RHO) -> Labels:
    """The set that a teacher teaches of a photograph with one given label."""
    picture = photograph(photo)
    logits = _shifted(network.logits(picture))
    p, _ = probabilities(logits)
    number = network.names.index(label)
    taught = pseudo_labels(logits, rho, label=torch.tensor([number]))[0] == 1
    others = torch.arange(len(network.names)) != number
    return Labels(
        picture,
        {label: (1, p[0, number].item())},
        _falling(network.names, p[0], taught & others),
        _falling(network.names, p[0], ~taught),
        {},
    )


def _shifted(logits: Tensor) -> Tensor:
    """z - ln C: of a network that has seen nothing, sigmoid is 1 / (C + 1)."""
    return logits + prior_bias(logits.shape[1])


def _falling(names: Sequence[str], p: Tensor, chosen: Tensor) -> list[tuple[str, float]]:
    """Name and p of the chosen classes, the likeliest first."""
    order = p.masked_fill(~chosen, -1).argsort(descending=True, stable=True)
    return [(names[number], p[number].item()) for number in order[: int(chosen.sum())].tolist()]
