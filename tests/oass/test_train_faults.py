"""What is found before the first step, what --skip_corrupt leaves out, and what an interrupted
evaluation costs.
"""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import UserError
from common.images import CorruptImage
from oass import build_pretrained, explain, inference_classification, train
from oass import train_classification_with_puzzle_cMax_ema as cmax
from oass.core.backbones import build_backbone
from oass.core.datasets import VOC_Dataset_For_Classification, VOC_Dataset_For_Testing_CAM
from oass.data import read_split
from oass.data_voc import META, read_mask
from oass.figures import save_png
from oass.options_check import terms_of
from oass.train_step import count_together, weight_by_images
from tests.equality import same
from tests.launch import TORCHRUN
from tests.oass.conftest import SMALL

ROOT = Path(__file__).parents[2]
VAL_IMAGE = 2  # position in the list


@pytest.fixture
def kit(devkit, tmp_path):
    """A copy of the devkit to damage."""
    folder = tmp_path / "VOC2012"
    shutil.copytree(devkit / "VOCdevkit" / "VOC2012", folder)
    return folder


def flags_of(small, kit, output, *more):
    """The flags of a small run, of this devkit and with this run directory."""
    given = list(small)
    given[given.index("--data_dir") + 1] = str(kit)
    return [*given, "--output_dir", str(output), *more]


def ids_of(kit, name="val"):
    found = list(VOC_Dataset_For_Classification(kit, name).split.ids)
    read_split.cache_clear()  # the devkit is to be damaged
    return found


def cut(path):
    """Cut a file short, as an interrupted copy leaves it."""
    path.write_bytes(path.read_bytes()[:200])


def spoil(path):
    """A picture whose beginning and end look right and that cannot be decoded."""
    with Image.open(path) as image:
        width, height = image.size
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)).save(
        path, "PNG"
    )
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- what is found at the start ---


@pytest.mark.parametrize("split", ["train_aug", "val"])
def test_an_unreadable_picture_is_found_before_the_first_step(split, small, kit, tmp_path):
    name = ids_of(kit, split)[VAL_IMAGE]
    cut(kit / "JPEGImages" / f"{name}.jpg")
    with pytest.raises(CorruptImage, match=f"{name}.jpg: unreadable.*of {split}; .*--skip_corrupt"):
        cmax.main(flags_of(small, kit, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["folder", "pipe"])
@pytest.mark.parametrize(("part", "suffix"), [("JPEGImages", ".jpg"), ("Annotations", ".xml")])
def test_what_is_no_file_is_refused_at_the_start(part, suffix, kind, small, kit, tmp_path):
    name = ids_of(kit)[VAL_IMAGE]
    path = kit / part / f"{name}{suffix}"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(UserError, match=f"{name}{suffix}: is a {kind}"):
        cmax.main(flags_of(small, kit, tmp_path / "run"))


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd"])
def test_an_id_does_not_lead_out_of_its_folder(name, small, kit, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text(f"{ids_of(kit)[0]}\n{name}\n")
    for flag in ("--train_domain", "--val_domain"):
        with pytest.raises(UserError, match=f"own.txt: line 2: the name '{name}' may lead out"):
            cmax.main(flags_of(small, kit, tmp_path / "run", flag, str(own)))


def test_annotations_count_where_the_first_image_has_none(kit):
    (kit / "Annotations" / f"{ids_of(kit)[0]}.xml").unlink()
    with pytest.raises(UserError, match="1 files of its 10 images are missing"):
        VOC_Dataset_For_Classification(kit, "val", labels="if present")


# --- masks ---


def test_a_mask_in_vocs_colours_is_that_of_its_ids(kit):
    path = kit / "SegmentationClass" / f"{ids_of(kit)[VAL_IMAGE]}.png"
    ids = read_mask(path)
    assert ids.dtype == np.int64 and ids.max() > 0
    colours = np.zeros((*ids.shape, 3), np.uint8)
    for name, colour in META["color_dict"].items():
        number = META["class_dic"][name] + 1 if name in META["class_dic"] else 0
        colours[ids == number] = colour
    Image.fromarray(colours).save(path)
    assert (read_mask(path) == ids).all()


def damage_mask(path, kind):
    with Image.open(path) as image:
        ids = np.asarray(image)
    if kind == "cut":
        cut(path)
    elif kind == "value":
        Image.fromarray(np.full_like(ids, 128)).save(path)
    elif kind == "size":
        Image.fromarray(ids[:-1]).save(path)
    elif kind == "colour":
        Image.new("RGB", ids.shape[::-1], (1, 2, 3)).save(path)
    else:
        path.unlink()
        path.mkdir()


MASKS = {
    "cut": "unreadable mask",
    "value": "the mask holds 128 at row 0, column 0; expected 0 to 20, or 255",
    "size": "the mask is .*, its picture",
    "colour": r"the colour \(1, 2, 3\) .* is no class",
    "folder": "is a folder",
}


@pytest.fixture(scope="session")
def trained(devkit, tmp_path_factory):
    """A run of one step."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    cmax.main(f"{SMALL} --data_dir {devkit} --max_steps 1 --output_dir {folder}".split())
    return folder


def infer(trained, kit, output, *more):
    flags = f"--checkpoint {trained} --data_dir {kit} --cpu --num_workers 0 --output_dir {output}"
    inference_classification.main([*flags.split(), *more])
    return summary_of(output)


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_that_cannot_be_compared_is_named_before_scoring(kind, trained, kit, tmp_path):
    name = ids_of(kit)[VAL_IMAGE]
    damage_mask(kit / "SegmentationClass" / f"{name}.png", kind)
    with pytest.raises(UserError, match=f"{name}.png: {MASKS[kind]}"):
        infer(trained, kit, tmp_path / "out", "--cam_iou")
    assert not (tmp_path / "out").exists()


# --- what --skip_corrupt leaves out ---


@pytest.mark.parametrize("damage", [cut, spoil])
def test_unreadable_evaluation_images_are_left_out_and_counted(
    damage, small, kit, tmp_path, capsys
):
    """The numbers are those of a list without them, and say so."""
    ids = ids_of(kit)
    name = ids.pop(VAL_IMAGE)
    damage(kit / "JPEGImages" / f"{name}.jpg")
    own = tmp_path / "val.txt"
    own.write_text("\n".join(ids))
    once = ("--max_epoch", "1", "--pictures", "1", "--eval_ema")
    cmax.main(flags_of(small, kit, tmp_path / "short", *once, "--val_domain", str(own)))
    assert (
        "eval_skipped"
        not in capsys.readouterr().out + (tmp_path / "short/summary.json").read_text()
    )

    cmax.main(flags_of(small, kit, tmp_path / "run", *once, "--skip_corrupt"))
    told = capsys.readouterr().out
    assert (
        f"val: 1 of 10 images cannot be read and are left out: {kit}/JPEGImages/{name}.jpg" in told
    )
    assert told.count("eval_skipped 1") == 2  # the line of the epoch, and the last one
    found, want = (lines_of(tmp_path / run) for run in ("run", "short"))
    assert all(
        line.pop("eval_skipped") == 1 for line in found if line["split"].startswith("Evaluation")
    )
    assert found == want
    assert summary_of(tmp_path / "run")["eval_skipped"] == 1


@pytest.mark.parametrize("damage", [cut, spoil])
def test_inference_leaves_unreadable_images_out_everywhere(damage, trained, kit, tmp_path, capsys):
    ids = ids_of(kit)
    name = ids.pop(VAL_IMAGE)
    damage(kit / "JPEGImages" / f"{name}.jpg")
    own = tmp_path / "val.txt"
    own.write_text("\n".join(ids))
    everything = ("--cam_iou", "--neighbours", "--server_files", "--export_instances")
    if damage is cut:
        with pytest.raises(CorruptImage, match=f"{name}.jpg: unreadable"):
            infer(trained, kit, tmp_path / "refused")
    want = infer(
        trained, kit, tmp_path / "short", *everything, str(tmp_path / "a.npz"), "--domain", str(own)
    )
    capsys.readouterr()
    found = infer(
        trained, kit, tmp_path / "out", *everything, str(tmp_path / "b.npz"), "--skip_corrupt"
    )
    assert "eval_skipped 1" in capsys.readouterr().out and found.pop("eval_skipped") == 1
    differing = ("domain", "wall_seconds", "images_per_second")
    assert all(found[key] == want[key] for key in want if key not in differing)
    one, two = ((tmp_path / run / "predictions.csv").read_text() for run in ("out", "short"))
    assert one == two and name not in one
    with np.load(tmp_path / "b.npz") as arrays:
        assert arrays["ids"].tolist() == ids and len(arrays["instances"]) == len(ids)


def test_a_split_without_a_readable_image_is_refused(small, kit, tmp_path):
    for name in ids_of(kit):
        cut(kit / "JPEGImages" / f"{name}.jpg")
    with pytest.raises(UserError, match="val.txt: none of its 10 images can be read"):
        cmax.main(flags_of(small, kit, tmp_path / "run", "--skip_corrupt"))


def test_a_folder_for_the_instances_is_refused_by_the_parser(trained, kit, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        infer(trained, kit, tmp_path / "out", "--export_instances", str(tmp_path))
    error = capsys.readouterr().err
    assert (
        stop.value.code == 2 and "expected the name of a file" in error and error.count("\n") == 1
    )


def test_a_figure_that_cannot_be_written_is_no_silence(tmp_path):
    (tmp_path / "figure.png").mkdir()
    with pytest.raises(UserError, match="figure.png: cannot be written"):
        save_png(tmp_path / "figure.png", np.zeros((2, 2, 3), np.uint8))


# --- several processes ---


class Both:
    """An accelerator that sees two processes: this one and another with `images` read and `skipped`
    not.
    """

    num_processes = 2
    device = torch.device("cpu")

    def __init__(self, images, skipped):
        self.other = torch.tensor([[images, skipped]])

    def gather(self, counts):
        return torch.cat([counts, self.other])


def test_all_processes_decide_by_the_same_counts():
    batch = SimpleNamespace(index=torch.arange(4), skipped=0)
    assert count_together(batch, True, Both(0, 4)) == (4, 4, 0)
    assert count_together(batch, True, Both(3, 1)) == (7, 1, 3)
    assert count_together(batch, False, Both(0, 4)) == (8, 0, 4)  # nobody is asked


def test_uneven_batches_weigh_by_their_images():
    """The mean over two processes of the weighted losses is the loss of all images."""
    each = torch.rand(7)
    total = 0
    for part in (each[:4], each[4:]):
        losses = {
            "class_loss": part.mean(),
            "p_class_loss": part.mean(),
            "re_loss": torch.tensor(1.0),
        }
        weight_by_images(losses, terms_of("cMax", "full", "cl_pcl_re"), len(part) * 2 / 7)
        assert losses["re_loss"] == 1  # over pairs
        assert losses["class_loss"] == losses["p_class_loss"]
        total += losses["class_loss"] / 2
    assert total == pytest.approx(each.mean().item())


@pytest.mark.slow
@pytest.mark.parametrize("batch", [8, 2])
def test_two_processes_go_on_where_one_reads_nothing(batch, small, kit, tmp_path):
    """Batches of 4 and 3 images equal one of 7; one image for each process, and one unreadable:
    both skip the step.
    """
    cut(kit / "JPEGImages" / f"{ids_of(kit, 'train_aug')[VAL_IMAGE]}.jpg")
    more = (
        "--skip_corrupt",
        "--sync_bn",
        "--max_epoch",
        "1",
        "--print_ratio",
        "0.4",
        "--batch_size",
        str(batch),
    )
    script = ROOT / "oass" / "train_classification_with_puzzle_cMax_ema.py"
    done = subprocess.run(
        [*TORCHRUN, str(script), *flags_of(small, kit, tmp_path / "two", *more)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert summary_of(tmp_path / "two")["skipped"] == (1 if batch == 8 else 2)
    if batch == 2:
        return
    cmax.main(flags_of(small, kit, tmp_path / "one", *more))
    for one, two in zip(*(lines_of(tmp_path / run) for run in ("one", "two")), strict=True):
        for key in ("loss", "class_loss", "re_loss", "map"):
            if key in one:
                assert two[key] == pytest.approx(one[key], rel=5e-3), key


# --- interrupted evaluations ---


def assert_same_run(one, two):
    assert lines_of(one) == lines_of(two)
    states = [
        torch.load(run / "checkpoints/last.pt", weights_only=True)["state"] for run in (one, two)
    ]
    assert same(*states)


def at_evaluation(monkeypatch, number, act):
    """Call `act` when the evaluation of that number (from 1) begins; counts the steps, too."""
    real = train.evaluate
    seen = []

    def evaluate(run, *rest, **options):
        seen.append(run.progress.step)
        if len(seen) == number:
            act()
        return real(run, *rest, **options)

    monkeypatch.setattr(train, "evaluate", evaluate)
    return seen


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_failed_evaluation_repeats_no_step(number, small, kit, tmp_path, monkeypatch):
    cmax.main(flags_of(small, kit, tmp_path / "whole", "--print_ratio", "0.34"))
    path = kit / "JPEGImages" / f"{ids_of(kit)[VAL_IMAGE]}.jpg"
    whole = path.read_bytes()
    flags = flags_of(small, kit, tmp_path / "parts", "--print_ratio", "0.34")
    with monkeypatch.context() as patch:
        at_evaluation(patch, number, lambda: cut(path))
        with pytest.raises(CorruptImage, match=path.name):
            cmax.main(flags)
    saved = torch.load(tmp_path / "parts/checkpoints/last.pt", weights_only=True)["progress"]
    assert (saved["step"], saved["batch"], saved["epoch"]) == (3 * number, 3, number - 1)

    path.write_bytes(whole)
    steps = []
    real = train.move_teacher
    monkeypatch.setattr(train, "move_teacher", lambda *a: (steps.append(a[-1]), real(*a)))
    cmax.main([*flags, "--resume"])
    assert steps == list(range(3 * number, 6))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(("received", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_an_evaluation_costs_no_step(
    received, status, small, kit, tmp_path, monkeypatch, capsys
):
    cmax.main(flags_of(small, kit, tmp_path / "whole"))
    flags = flags_of(small, kit, tmp_path / "parts")
    with monkeypatch.context() as patch:
        at_evaluation(patch, 2, lambda: os.kill(os.getpid(), received))
        with pytest.raises(SystemExit) as stop:
            cmax.main(flags)
    assert stop.value.code == status and "go on with --resume" in capsys.readouterr().out
    assert len(lines_of(tmp_path / "parts")) < len(lines_of(tmp_path / "whole"))
    cmax.main([*flags, "--resume"])
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("flags", ["", "--cam_iou", "--neighbours"])
def test_a_signal_ends_an_inference(flags, trained, kit, tmp_path, monkeypatch):
    loops = {"": "score_split", "--cam_iou": "mask_iou", "--neighbours": "collect_instances"}
    real = getattr(inference_classification, loops[flags])

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(inference_classification, loops[flags], interrupted)
    with pytest.raises(SystemExit) as stop:
        infer(trained, kit, tmp_path / "out", *flags.split())
    assert stop.value.code == 130 and not (tmp_path / "out/summary.json").exists()


def test_a_signal_does_not_wait_for_the_pretraining(tmp_path):
    calls = []

    def poll():
        calls.append(1)
        if len(calls) == 3:
            raise SystemExit(130)

    with pytest.raises(SystemExit):
        build_pretrained.pretrain("resnet_tiny", tmp_path / "w.pt", poll)
    assert len(calls) == 3 and not (tmp_path / "w.pt").exists()


def test_the_scripts_poll_in_the_pretraining(tmp_path, small, devkit, monkeypatch):
    asked = []
    monkeypatch.setattr(
        train,
        "build_networks",
        lambda settings, accelerator, poll, classes: asked.append(poll) or 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        cmax.main([*small, "--output_dir", str(tmp_path / "run")])
    assert asked[0].__name__ == "poll"


# --- good input of every kind ---


def every_picture(folder):
    """Pictures of odd shapes and modes, by name."""
    random = np.random.default_rng(0)
    whole = Image.fromarray(random.integers(0, 255, (40, 60, 3), np.uint8))
    deep = Image.fromarray((np.arange(2400).reshape(40, 60) % 4096).astype(np.uint16))
    clear = whole.convert("P")
    clear.info["transparency"] = 0
    pictures = {
        "wide": Image.new("RGB", (9000, 2), (9, 99, 200)),
        "tall": Image.new("RGB", (1, 5000), (200, 99, 9)),
        "grey": whole.convert("L"),
        "cmyk": whole.convert("CMYK"),
        "deep": deep,
        "clear": clear,
    }
    folder.mkdir()
    for name, picture in pictures.items():
        picture.save(folder / name, "TIFF" if name == "cmyk" else "PNG")
    return folder


@pytest.mark.slow
def test_pictures_of_every_kind_are_trained_on_scored_and_explained(small, trained, kit, tmp_path):
    odd = every_picture(tmp_path / "odd")
    for split in ("train_aug", "val"):
        for path, name in zip(sorted(odd.iterdir()), ids_of(kit, split)[3:], strict=False):
            shutil.copy(path, kit / "JPEGImages" / f"{name}.jpg")
            (kit / "SegmentationClass" / f"{name}.png").unlink(missing_ok=True)
    cmax.main(flags_of(small, kit, tmp_path / "run", "--max_epoch", "1", "--pictures", "9"))
    assert 0 <= summary_of(tmp_path / "run")["map"] <= 100
    found = infer(
        trained, kit, tmp_path / "out", "--cam_iou", "--neighbours", "--flip", "--scales", "0.5,1"
    )
    assert 0 <= found["cam_miou"] <= 100
    argv = f"--checkpoint {trained} --cpu --output_dir {tmp_path / 'explained'} --image".split()
    explain.main([*argv, *map(str, sorted(odd.iterdir()))])
    assert (tmp_path / "explained/figures/explain.png").is_file()


@pytest.mark.parametrize("kind", ["cut", "empty", "folder", "fifo"])
def test_a_picture_of_ones_own_that_is_none_ends_in_a_line(kind, trained, tmp_path):
    path = tmp_path / "my.jpg"
    Image.new("RGB", (90, 60)).save(path)
    if kind == "cut":
        cut(path)
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(UserError, match=f"^(--image )?{path}: "):
        explain.main(
            f"--image {path} --checkpoint {trained} --cpu --output_dir {tmp_path / 'out'}".split()
        )


# --- networks and checkpoints ---


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("torchvision/vit_b_16", 96, "no tiles of 48x48 px .*takes 96x96 px"),
        ("vit_small_patch14_dinov2", 96, "takes multiples of 14 px, not 96x96"),
        ("resnet51", 64, "no such network; did you mean .*resnet50"),
    ],
)
def test_networks_that_do_not_take_the_size_or_its_tiles_are_refused(name, size, message):
    with pytest.raises(UserError, match=f"^--architecture {name}.*{message}") as caught:
        build_backbone(name, pretrained=False, image_size=size)
    assert "\n" not in str(caught.value)


VALUES = [
    ("settings", "image_size", "x", "image_size is 'x'"),
    ("settings", "image_size", True, "image_size is True"),
    ("settings", "architecture", 50, "architecture is 50"),
    ("settings", "strategy", "best", "strategy is 'best'"),
    ("settings", "topk", -1, "topk is -1"),
    ("settings", "val_domain", ["val"], "val_domain is"),
    ("settings", None, ["a"], r"settings is \['a'\]"),
    ("progress", None, 3, "progress is 3"),
    ("state", None, "weights", "a str under the name 'state'"),
]


@pytest.mark.parametrize(("part", "name", "value", "message"), VALUES)
def test_values_in_a_checkpoint_are_checked(part, name, value, message, trained, kit, tmp_path):
    saved = torch.load(trained / "checkpoints/last.pt", weights_only=True)
    if name is None:
        saved[part] = value
    else:
        saved[part][name] = value
    torch.save(saved, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=f"odd.pt: .*{message}"):
        infer(tmp_path / "odd.pt", kit, tmp_path / "out")


def test_a_file_without_a_classifier_says_what_it_holds(kit, tmp_path):
    for content, told in (([1], "a list"), ({"epoch": 3}, "a int under the name 'epoch'")):
        torch.save(content, tmp_path / "odd.pt")
        with pytest.raises(
            UserError, match=f"odd.pt: holds no classifier's state dict, but {told}"
        ):
            infer(tmp_path / "odd.pt", kit, tmp_path / "out")


def test_masks_of_left_out_images_leave_with_them(kit):
    data = VOC_Dataset_For_Testing_CAM(kit, "val")
    before = data.mask(VAL_IMAGE + 1)
    data.leave_out([data.split.ids[VAL_IMAGE]])
    assert data.skipped == 1 and len(data) == 9 and (data.mask(VAL_IMAGE) == before).all()
    assert (
        len(VOC_Dataset_For_Testing_CAM(kit, "val")) == 10
    )  # readers of a list share it, and one leaves it whole
