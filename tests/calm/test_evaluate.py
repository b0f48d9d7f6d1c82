"""Each number of the README, from the files to the figure, against a plain loop that follows
its definition.

The parts have recorded numbers (test_golden_*); here is what the scripts make of them. Nothing
below calls the functions that it checks: the network is evaluated from the entries of the
checkpoint, an image at a time.
"""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from calm import eval_cue_location, eval_pixel_perturb, eval_wsol, network
from calm import main as training
from calm.evaluate_erasing import random_ranking
from calm.util_cub_trait import CUBTrait
from tests.calm.conftest import flags

SIDE, GRID, WSOL = 64, 16, 224
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
GROUPS = {"0": [0, 3], "1": [1], "2": [2, 0, 4], "3": [3, 5], "4": [4, 1], "5": [5, 2]}


class Plain:
    """A trained network of the sample, its test images, and the probabilities of the model by their
    formulas.
    """

    def __init__(self, birds: Path, checkpoint: Path) -> None:
        saved = torch.load(checkpoint, weights_only=True)
        state = saved["state"]["model"]
        self.features = network.small(num_classes=6).eval().features
        self.features.load_state_dict(
            {k[9:]: v for k, v in state.items() if k.startswith("features.")}
        )
        self.weight, self.bias = (
            state["conv_last.weight"][:, :, 0, 0].numpy(),
            state["conv_last.bias"].numpy(),
        )
        self.attention = (
            state["attention.0.weight"][0, :, 0, 0].numpy(),
            state["attention.0.bias"].numpy(),
        )

        self.root = birds / "CUB_200_2011"
        test = birds / "metadata" / "CUB" / "test"
        self.ids = (test / "image_ids.txt").read_text().splitlines()
        lines = (test / "class_labels.txt").read_text().splitlines()
        self.labels = {line.rsplit(",", 1)[0]: int(line.rsplit(",", 1)[1]) for line in lines}
        self.lists = test

    def pixels(self, image_id: str) -> np.ndarray:
        """(3,64,64): resized without keeping the aspect, scaled to [0,1], normalised by ImageNet's
        mean colour.
        """
        with Image.open(self.root / "images" / image_id) as image:
            small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        scaled = (np.asarray(small, np.float32) / 255 - MEAN) / STD
        return scaled.transpose(2, 0, 1).astype(np.float32)

    def grids(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores f (6,16,16), softmax over the classes s (6,16,16), and p(z|x) g (16,16)."""
        with torch.no_grad():
            deep = self.features(torch.from_numpy(pixels)[None])[0].numpy()
        f = np.einsum("dhw,cd->chw", deep, self.weight) + self.bias[:, None, None]
        exponent = np.exp(f - f.max(0))
        weight, bias = self.attention
        a = np.logaddexp(0, np.einsum("dhw,d->hw", deep, weight) + bias)
        return f, exponent / exponent.sum(0), a / a.sum()

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """p(y|x) (6,) = sum over z of s g."""
        _, s, g = self.grids(pixels)
        return (s * g).sum((1, 2))

    def joint(self, pixels: np.ndarray) -> np.ndarray:
        """p(y,z|x) (6,16,16)."""
        _, s, g = self.grids(pixels)
        return s * g

    def map_of(self, pixels: np.ndarray, label: int, process: str) -> np.ndarray:
        """(16,16): the joint of the label, or the sum over its group, or the sum of min-max scaled
        scores.
        """
        members = GROUPS[str(label)]
        if process == "jointll":
            return self.joint(pixels)[label]
        if process == "jointll-superclass":
            return self.joint(pixels)[members].sum(0)
        if process == "jointll-superclass-mean":
            return self.joint(pixels)[members].mean(0)
        assert process == "vanilla-superclass"
        scores = self.grids(pixels)[0][members]
        shifted = scores - scores.min((1, 2), keepdims=True)
        return (shifted / shifted.max((1, 2), keepdims=True)).sum(0)


@pytest.fixture(scope="module")
def plain(birds: Path, save_root: Path) -> Plain:
    return Plain(birds, save_root / "em" / "checkpoints" / "last.pt")


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def average_precision(true: np.ndarray, false: np.ndarray) -> float:
    """100 sum_i precision_i (recall_i - recall_{i-1}) from the highest bin on, without the first
    point.
    """
    tp, fp = np.cumsum(true[::-1]).astype(float), np.cumsum(false[::-1]).astype(float)
    area = 0.0
    for i in range(1, len(tp)):
        if tp[i] + fp[i] > 0:
            area += tp[i] / (tp[i] + fp[i]) * (tp[i] - tp[i - 1]) / tp[-1]
    return 100 * area


# --- accuracy, and the entropy of p(z|x) ---


def test_accuracy_likelihood_and_entropy(
    birds: Path, save_root: Path, tmp_path: Path, plain: Plain
) -> None:
    given = flags(birds, save_root, "--is_train=False", "--output_dir", str(tmp_path / "r"))
    training.main(given)
    found = summary(tmp_path / "r")

    correct, likelihood, entropy = [], [], []
    for image_id in plain.ids:
        pixels, label = plain.pixels(image_id), plain.labels[image_id]
        p = plain.probabilities(pixels)
        g = plain.grids(pixels)[2]
        correct.append(p.argmax() == label)
        likelihood.append(-np.log(p[label].astype(np.float64)))
        entropy.append(-(g * np.log(g + 1e-12)).sum())
    assert found["test_accuracy"] == pytest.approx(100 * np.mean(correct), abs=1e-9)
    assert found["test_nll"] == pytest.approx(np.mean(likelihood), rel=1e-4)
    assert found["test_prior_entropy"] == pytest.approx(np.mean(entropy), rel=1e-4)


# --- remove and classify ---


def erased_correct(
    plain: Plain, pixels: np.ndarray, label: int, order: np.ndarray, k: float
) -> bool:
    """Is the label the argmax after the first int(k H W) pixels of `order` have become 0?"""
    flat = pixels.reshape(3, -1).copy()
    flat[:, order[: int(k * SIDE * SIDE)]] = 0
    return bool(plain.probabilities(flat.reshape(3, SIDE, SIDE)).argmax() == label)


@pytest.mark.parametrize(
    "process", ["jointll", "jointll-superclass", "jointll-superclass-mean", "vanilla-superclass"]
)
def test_remove_and_classify(
    birds: Path, save_root: Path, tmp_path: Path, plain: Plain, process: str
) -> None:
    (tmp_path / "groups.json").write_text(json.dumps(GROUPS))
    given = flags(
        birds, save_root, f"--score_map_process={process}", "--erase_k", "0.02", "0.3", "0.9"
    )
    given += ["--superclass_file", str(tmp_path / "groups.json")] if "superclass" in process else []
    eval_pixel_perturb.main([*given, "--output_dir", str(tmp_path / "r")])
    measure = pickle.loads((tmp_path / "r" / f"measure_{process}_EM.pickle").read_bytes())
    found = summary(tmp_path / "r")

    for k in (0.02, 0.3, 0.9):
        top, drawn, before = [], [], []
        for number, image_id in enumerate(plain.ids):
            pixels, label = plain.pixels(image_id), plain.labels[image_id]
            score_map = plain.map_of(pixels, label, process).astype(np.float32)
            big = cv2.resize(score_map, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
            order = np.argsort(-big.reshape(-1), kind="stable")
            at_random = random_ranking(torch.tensor([number]), SIDE * SIDE, seed=0)[0].numpy()
            before.append(bool(plain.probabilities(pixels).argmax() == label))
            top.append(erased_correct(plain, pixels, label, order, k))
            drawn.append(erased_correct(plain, pixels, label, at_random, k))
        assert measure["preds"] == before
        assert found["accuracy"] == pytest.approx(100 * np.mean(before))
        assert measure["preds-topk"][k] == top and measure["preds-random"][k] == drawn
        expected = sum(top) / sum(drawn) if sum(drawn) else None
        assert found[f"R_{k:g}"] == (expected if expected is None else pytest.approx(expected))


# --- localisation ---


def boxes_of(
    score_map: np.ndarray, threshold: float, every_contour: bool
) -> list[tuple[int, int, int, int]]:
    """Boxes around what lies above the threshold: of all contours (V2), or of the one of largest
    area (V1).
    """
    quantised = (score_map * 255).astype(np.uint8)
    binary = (quantised > int(threshold * quantised.max())).astype(np.uint8)
    contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return [(0, 0, 0, 0)]
    if not every_contour:
        contours = [max(contours, key=cv2.contourArea)]
    found = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        found.append((x, y, min(x + w, WSOL - 1), min(y + h, WSOL - 1)))
    return found


def overlap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """IoU of boxes whose both ends lie inside."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(0, width) * max(0, height)
    sizes = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return common / (sum(sizes) - common)


def localisation_map(score_map: np.ndarray) -> np.ndarray:
    """(224,224) float64 in [0,1]: bicubic, then minus the minimum, over the new maximum."""
    big = cv2.resize(
        score_map.astype(np.float32), (WSOL, WSOL), interpolation=cv2.INTER_CUBIC
    ).astype(np.float64)
    big = big - big.min()
    return big / big.max()


@pytest.mark.parametrize("every_contour", [True, False])
def test_boxes(
    birds: Path, save_root: Path, tmp_path: Path, plain: Plain, every_contour: bool
) -> None:
    given = flags(birds, save_root, "--score_map_process=jointll", "--cam_curve_interval", "0.05")
    eval_wsol.main(
        [*given, f"--multi_contour_eval={every_contour}", "--output_dir", str(tmp_path / "r")]
    )
    found = summary(tmp_path / "r")

    sizes = dict(
        line.split(",", 1) for line in (plain.lists / "image_sizes.txt").read_text().splitlines()
    )
    places = dict(
        line.split(",", 1) for line in (plain.lists / "localization.txt").read_text().splitlines()
    )
    thresholds = np.arange(0, 1, 0.05)
    best = np.zeros((len(plain.ids), len(thresholds)))
    correct = np.zeros(len(plain.ids), bool)
    for row, image_id in enumerate(plain.ids):
        width, height = map(int, sizes[image_id].split(","))
        x0, y0, x1, y1 = map(int, places[image_id].split(","))
        truth = (
            int(x0 * WSOL / width),
            int(y0 * WSOL / height),
            int(x1 * WSOL / width),
            int(y1 * WSOL / height),
        )
        pixels, label = plain.pixels(image_id), plain.labels[image_id]
        correct[row] = plain.probabilities(pixels).argmax() == label
        score_map = localisation_map(plain.map_of(pixels, label, "jointll"))
        for column, threshold in enumerate(thresholds):
            best[row, column] = max(
                overlap(box, truth) for box in boxes_of(score_map, threshold, every_contour)
            )

    name = "MaxBoxAccV2" if every_contour else "MaxBoxAcc"
    known, both = [], []
    for iou in (30, 50, 70):
        reached = best >= iou / 100
        known.append(100 * reached.mean(0).max())
        both.append(100 * (reached & correct[:, None]).mean(0).max())
        assert found[f"{name}/{iou}"] == pytest.approx(known[-1])
        assert found[f"top1/{iou}"] == pytest.approx(both[-1])
    assert found[name] == pytest.approx(np.mean(known)) and found["top1"] == pytest.approx(
        np.mean(both)
    )
    assert found["accuracy"] == pytest.approx(100 * correct.mean())


def even_histogram(score_map: np.ndarray, pixels: np.ndarray, step: float) -> np.ndarray:
    """Counts of the map's values at `pixels` over 0, step, 2 step, ..., 1, 2, 3."""
    return np.histogram(score_map[pixels], bins=[*np.arange(0, 1, step), 1, 2, 3])[0]


def test_pixel_precision_against_cubs_segmentations(
    birds: Path, save_root: Path, tmp_path: Path, plain: Plain
) -> None:
    given = flags(birds, save_root, "--score_map_process=jointll", "--cam_curve_interval", "0.01")
    eval_wsol.main([*given, "--output_dir", str(tmp_path / "r")])

    true, false = 0, 0
    for image_id in plain.ids:
        score_map = localisation_map(
            plain.map_of(plain.pixels(image_id), plain.labels[image_id], "jointll")
        )
        with Image.open((plain.root / "segmentations" / image_id).with_suffix(".png")) as image:
            soft = np.asarray(image.convert("L"))
        mask = cv2.resize(soft, (WSOL, WSOL), interpolation=cv2.INTER_NEAREST) > 0
        true = true + even_histogram(score_map, mask, 0.01)
        false = false + even_histogram(score_map, ~mask, 0.01)
    assert summary(tmp_path / "r")["PxAP"] == pytest.approx(
        average_precision(true, false), rel=1e-3
    )


def draw_openimages(root: Path) -> None:
    """Two classes of three test images with one or two masks, some with a region to ignore."""
    rng = np.random.default_rng(5)
    for split in ("train", "val", "test"):
        for code in ("m_01", "m_02"):
            folder = root / split / code
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(rng.integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(
                    folder / f"{number}.jpg"
                )
                if split != "test":
                    continue
                for name in ("m01_a", "m01_b")[: 1 + number % 2]:
                    mask = np.zeros((50, 70), np.uint8)
                    y, x = rng.integers(0, 30), rng.integers(0, 40)
                    mask[y : y + 20, x : x + 25] = 255
                    Image.fromarray(mask).save(folder / f"{number}_{name}.png")
                if number != 1:
                    ignored = (rng.random((50, 70)) > 0.8).astype(np.uint8) * 255
                    Image.fromarray(ignored).save(folder / f"{number}_ignore.png")


def test_pixel_precision_on_openimages(tmp_path: Path) -> None:
    root = tmp_path / "d" / "OpenImages"
    draw_openimages(root)
    torch.manual_seed(0)
    net = network.small(num_classes=2, attribution_method="CAM").eval()
    saved = {"architecture": "small", "attribution_method": "CAM", "state_dict": net.state_dict()}
    torch.save(saved, tmp_path / "cam.pth.tar")
    eval_wsol.main(
        [
            "--cpu",
            "--workers",
            "0",
            "--dataset=OpenImages",
            "--data_root",
            str(tmp_path / "d"),
            "--metadata_root",
            str(tmp_path / "lists"),
            "--load_checkpoint",
            str(tmp_path / "cam.pth.tar"),
            "--architecture=small",
            "--num_classes=2",
            "--crop_size=64",
            "--cam_curve_interval=0.01",
            "--output_dir",
            str(tmp_path / "r"),
        ]
    )

    true, false = 0, 0
    for label, code in enumerate(("m_01", "m_02")):
        for image_path in sorted((root / "test" / code).glob("?.jpg")):
            with Image.open(image_path) as image:
                small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            pixels = (
                ((np.asarray(small, np.float32) / 255 - MEAN) / STD)
                .transpose(2, 0, 1)
                .astype(np.float32)
            )
            with torch.no_grad():
                score_map = net.conv_last(net.features(torch.from_numpy(pixels)[None]))[
                    0, label
                ].numpy()
            score_map = localisation_map(score_map)

            union = np.zeros((WSOL, WSOL), bool)
            for path in image_path.parent.glob(f"{image_path.stem}_m01_*.png"):
                union |= (
                    cv2.resize(
                        cv2.imread(str(path), 0), (WSOL, WSOL), interpolation=cv2.INTER_NEAREST
                    )
                    > 0
                )
            counted = np.ones((WSOL, WSOL), bool)
            ignored = image_path.with_name(f"{image_path.stem}_ignore.png")
            if ignored.is_file():
                region = cv2.resize(
                    cv2.imread(str(ignored), 0), (WSOL, WSOL), interpolation=cv2.INTER_NEAREST
                )
                counted = (region == 0) | union
            true = true + even_histogram(score_map, union & counted, 0.01)
            false = false + even_histogram(score_map, ~union & counted, 0.01)
    assert summary(tmp_path / "r")["PxAP"] == pytest.approx(
        average_precision(true, false), rel=1e-3
    )


# --- cue localisation ---


def thresholds_of(kind: str, step: float) -> np.ndarray:
    """even: 0, step, ...; log: 10^-t for t from 7 (1 - step) down to 0."""
    if kind == "even":
        return np.arange(0, 1, step)
    return 10.0 ** -np.arange(0, 7, 7 * step)[::-1]


def normalised(score: np.ndarray, kind: str) -> np.ndarray:
    """The score in [0,1]: clipped, or minus its minimum over the new maximum."""
    if kind == "minmax":
        score = score - score.min()
        score = score / score.max()
    return np.clip(score, 0, 1).astype(np.float64)


@pytest.mark.parametrize(("norm", "kind"), [("clipping", "log"), ("minmax", "even")])
def test_cue_localisation(
    birds: Path, save_root: Path, tmp_path: Path, plain: Plain, norm: str, kind: str
) -> None:
    given = flags(
        birds,
        save_root,
        "--score_map_process=jointll",
        f"--norm_type={norm}",
        f"--threshold_type={kind}",
    )
    eval_cue_location.main(
        [*given, "--cam_curve_interval", "0.01", "--output_dir", str(tmp_path / "r")]
    )
    found = summary(tmp_path / "r")

    trait = CUBTrait(plain.root)
    joints = {image_id: plain.joint(plain.pixels(image_id)) for image_id in plain.ids}
    edges = [*thresholds_of(kind, 0.01), 1.0, 2.0, 3.0]
    edges_kept = edges if edges[0] == 0 else [0.0, *edges]
    whole = np.zeros((2, len(edges) - 1))
    means: dict[str, dict[int, list[float]]] = {}
    undefined = dict.fromkeys(("per_pair/dropped", "per_pair/kept", "released/dropped"), 0)
    for parts in (1, 2, 3):
        for first, second in trait.diff2class_pair_dict.get(parts, []):
            counts, kept = np.zeros((2, len(edges) - 1)), np.zeros((2, len(edges_kept) - 1))
            peaks = []
            for image_id in plain.ids:
                if plain.labels[image_id] + 1 not in (first, second):
                    continue
                mask = trait.get_pseudo_segment_mask(image_id, (first, second), SIDE)
                if mask is None:
                    continue
                signed = (joints[image_id][first - 1] - joints[image_id][second - 1]).astype(
                    np.float32
                )
                score = np.abs(cv2.resize(signed, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR))
                y, x = np.unravel_index(score.argmax(), score.shape)
                points = trait.cue_points(image_id, (first, second), SIDE)
                peaks.append(min(np.hypot(px - x, py - y) for px, py in points))
                values = normalised(score, norm)
                for side, inside in enumerate((mask == 1, mask == 0)):
                    counts[side] += np.histogram(values[inside], edges)[0]
                    kept[side] += np.histogram(values[inside], edges_kept)[0]
            if not peaks:
                continue
            whole += counts
            scores = {"per_pair/dropped": counts, "per_pair/kept": kept, "released/dropped": whole}
            for name, (true, false) in scores.items():
                if (
                    not true.sum()
                ):  # every foreground value lies below the first threshold: undefined, left out
                    undefined[name] += 1
                    continue
                means.setdefault(name, {}).setdefault(parts, []).append(
                    average_precision(true, false)
                )
            means.setdefault("peak_distance", {}).setdefault(parts, []).append(np.mean(peaks))

    assert {name: found["undefined_pairs"][name] for name in undefined} == undefined
    for name, by_parts in means.items():
        everything = sum(by_parts.values(), [])
        for parts, values in by_parts.items():
            assert found[f"{name}/{parts}"] == pytest.approx(np.mean(values), rel=2e-3)
        assert found[f"{name}/mean"] == pytest.approx(np.mean(everything), rel=2e-3)


# --- deletion and insertion ---


def test_deletion_and_insertion(birds: Path, save_root: Path, tmp_path: Path, plain: Plain) -> None:
    """Area by trapezoids under p(label) while the first pixels become 0, or appear on the blurred
    image.
    """
    given = flags(
        birds, save_root, "--score_map_process=jointll", "--erase_k", "0.1", "--auc_steps", "7"
    )
    eval_pixel_perturb.main([*given, "--output_dir", str(tmp_path / "r")])
    found = summary(tmp_path / "r")

    taps = np.exp(-((np.arange(31) - 15) ** 2) / (2 * 15.0**2))
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    areas: dict[str, list[float]] = {"deletion_auc": [], "insertion_auc": []}
    for image_id in plain.ids:
        pixels, label = plain.pixels(image_id), plain.labels[image_id]
        big = cv2.resize(
            plain.joint(pixels)[label].astype(np.float32),
            (SIDE, SIDE),
            interpolation=cv2.INTER_LINEAR,
        )
        order = np.argsort(-big.reshape(-1), kind="stable")
        blurred = [
            cv2.filter2D(channel, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
            for channel in pixels
        ]
        curves: dict[str, list[float]] = {name: [] for name in areas}
        for step in range(8):
            first = order[: step * SIDE * SIDE // 7]
            deleted = pixels.reshape(3, -1).copy()
            deleted[:, first] = 0
            inserted = np.stack(blurred).reshape(3, -1)
            inserted[:, first] = pixels.reshape(3, -1)[:, first]
            for name, image in (("deletion_auc", deleted), ("insertion_auc", inserted)):
                curves[name].append(plain.probabilities(image.reshape(3, SIDE, SIDE))[label])
        for name, curve in curves.items():
            areas[name].append((sum(curve) - (curve[0] + curve[-1]) / 2) / 7)
    for name, values in areas.items():
        assert found[name] == pytest.approx(np.mean(values), rel=1e-3, abs=1e-6)
