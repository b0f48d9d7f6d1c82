"""Nothing comes late.

What a run will read is looked at before its first step, evaluations cost no step.
"""

import io
import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from common.cli import UserError, run_main
from common.images import CorruptImage
from mile import MILe as entry
from mile import figures, report
from mile.build import open_source
from mile.dataset import eval_transform
from mile.evaluate import evaluate
from tests.mile.helpers import (
    assert_same_run,
    flags,
    folder_conf,
    lines_of,
    run_folders,
    state,
    write_folders,
)

pytestmark = pytest.mark.usefixtures("no_figures")
CLASSES = ["cat", "dog", "hen"]


@pytest.fixture
def root(tmp_path):
    """Three classes of pictures of noise: four for training and two for validation each."""
    rng = np.random.default_rng(0)
    root = write_folders(tmp_path / "set", CLASSES)
    for path in sorted(root.rglob("*.png")):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    return root


def cut(path):
    """Cut a picture short; returns the path."""
    path.write_bytes(path.read_bytes()[:60])
    return path


def spoil_the_middle(path):
    """Damage that begin and end of a file do not show."""
    content = bytearray(path.read_bytes())
    place = content.index(b"IDAT") + 8
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_unreadable_image_ends_the_run_before_its_first_step(root, tmp_path, part):
    path = cut(root / part / "dog" / f"dog_{part[0]}1.png")
    count = {"train": "1 of 12 images of train", "val": "1 of 6 images of val"}[part]
    with pytest.raises(
        CorruptImage, match=f"{path}: unreadable image .*{count}; replace, or --skip_corrupt"
    ):
        run_folders(root, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_damaged_evaluation_images_are_omitted_and_counted(root, tmp_path, capsys):
    whole = run_folders(root, tmp_path / "whole")
    out = capsys.readouterr().out
    assert whole["eval_skipped"] == 0
    assert "unreadable" not in out and "left out" not in out and "eval_skipped" not in out

    path = cut(root / "val" / "cat" / "cat_v1.png")
    summary = run_folders(root, tmp_path / "r", "--skip_corrupt")
    out = capsys.readouterr().out
    assert (summary["eval_skipped"], summary["images"], summary["skipped"]) == (1, 5, 0)
    assert f"val: 1 of 6 images cannot be read and are left out: {path}" in out
    assert (
        out.count("without 1 unreadable image") == 2
    )  # the generation's line and below the last lines
    assert "all of these are without 1 unreadable image of the 6" in out
    assert lines_of(tmp_path / "r", "test")[0]["eval_skipped"] == 1
    assert (tmp_path / "r" / "output.txt").read_text().endswith(" eval_skipped:1\n")


def test_the_others_keep_their_labels_and_sets(root, tmp_path):
    """The figures with skip_corrupt are those of a set without the file."""
    (root / "real.json").write_text(
        json.dumps({f"{name}_v{i}.png": [name, CLASSES[i]] for name in CLASSES for i in (0, 1)})
    )
    path = cut(root / "val" / "cat" / "cat_v0.png")
    skipping = run_folders(root, tmp_path / "a", "--skip_corrupt")
    path.unlink()
    without = run_folders(root, tmp_path / "b")
    assert skipping["eval_skipped"] == 1 and without["eval_skipped"] == 0
    for name in without.keys() - {"eval_skipped", "wall_seconds", "images_per_second"}:
        assert skipping[name] == without[name], name


def test_damage_in_the_middle_of_an_evaluation_image(root, tmp_path, capsys):
    path = spoil_the_middle(root / "val" / "cat" / "cat_v0.png")
    with pytest.raises(CorruptImage, match=str(path)):
        run_folders(root, tmp_path / "r")
    summary = run_folders(root, tmp_path / "s", "--skip_corrupt")
    assert (summary["eval_skipped"], summary["images"]) == (1, 5)
    out = capsys.readouterr().out
    assert (
        out.count(f"left out of the evaluation: {path}") == 1
        and "without 1 unreadable image" in out
    )
    path.unlink()
    without = run_folders(root, tmp_path / "t")
    assert summary["acc_final"] == without["acc_final"] and summary["mAP"] == without["mAP"]


def test_an_evaluation_of_nothing_is_one_line():
    """One of several processes may have no image of a small set; all of them together must."""
    network = torch.nn.Linear(1, 2)
    with pytest.raises(UserError, match="no image of an evaluation can be read"):
        evaluate(network, [], 2, Accelerator(cpu=True))


def test_figures_show_the_images_that_were_evaluated(root, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(report, "draw_label_sets", figures.draw_label_sets)
    monkeypatch.setattr(
        figures, "save_grid", lambda path, rows, titles, **more: shown.extend(sum(titles, []))
    )
    spoil_the_middle(root / "val" / "cat" / "cat_v0.png")
    run_folders(root, tmp_path / "r", "--skip_corrupt", total_steps=4)
    assert [title.split("\n")[0] for title in shown] == [
        "y cat",
        "y dog",
        "y dog",
        "y hen",
        "y hen",
    ]
    history = state(tmp_path / "r")["state"]["history"]
    assert history.shape == (2, 6, 3) and not history[:, 0].any() and history[:, 1:].all()


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_set_of_which_nothing_can_be_read_is_refused(root, tmp_path, part):
    for path in (root / part).rglob("*.png"):
        cut(path)
    with pytest.raises(UserError, match=f"{part}: none of the .* images can be read"):
        run_folders(root, tmp_path / "r", "--skip_corrupt")


def test_unreadable_training_images_are_not_among_exported_sets(root, tmp_path, capsys):
    path = cut(root / "train" / "dog" / "dog_t0.png")
    summary = run_folders(root, tmp_path / "r", "--skip_corrupt", "--export_labels", total_steps=6)
    assert (
        f"train: 1 of 12 images cannot be read and are left out: {path}" in capsys.readouterr().out
    )
    assert summary["skipped"] > 0 and summary["eval_skipped"] == 0
    table = json.loads((tmp_path / "r" / "label_sets.json").read_text())
    assert len(table) == 11 and "dog/dog_t0.png" not in table


def test_an_evaluation_alone_does_not_look_at_training_images(root, tmp_path):
    run_folders(root, tmp_path / "r")
    weights = tmp_path / "r" / "checkpoints" / "last.pt"
    cut(root / "train" / "dog" / "dog_t0.png")
    own = {
        "dataset": "folder",
        "data_path": root / "train",
        "val_path": root / "val",
        "num_workers": 0,
    }
    own |= {"batch_size": 4, "pretrained": weights, "checkpoint_path": tmp_path / "w"}
    entry.main(["--cpu", "--eval_only", *flags(**own, output_dir=tmp_path / "e")])
    with pytest.raises(CorruptImage, match="dog_t0.png"):
        entry.main(
            ["--cpu", "--eval_only", "--export_labels", *flags(**own, output_dir=tmp_path / "f")]
        )


def test_the_images_held_out_to_choose_rho_are_looked_at_too(root, tmp_path):
    source = open_source(
        folder_conf(root, "--dataset", "folder", "--rho_cover", "0.9"), Accelerator(cpu=True)
    )
    held = source._held_out.samples
    assert len(held) == 1
    cut(root / held[0][0])
    with pytest.raises(UserError, match="none of the images held out can be read"):
        open_source(
            folder_conf(root, "--dataset", "folder", "--rho_cover", "0.9", "--skip_corrupt"),
            Accelerator(cpu=True),
        )


def test_a_listed_image_that_is_not_there_is_always_an_error(imagenet, tmp_path):
    (tmp_path / "info").mkdir()
    names = [
        path.relative_to(tmp_path).as_posix()
        for path in sorted((imagenet / "train").rglob("*.JPEG"))
    ]
    for part, lines in (
        ("train_filelist_flickr", names),
        ("train_filelist_google", ["google/a.jpg"]),
        ("val_filelist", []),
    ):
        (tmp_path / "info" / f"{part}.txt").write_text("".join(f"{line} 1\n" for line in lines))
    (tmp_path / "val_images").symlink_to(imagenet / "val")
    val = next((imagenet / "val").rglob("*.JPEG")).relative_to(imagenet / "val")
    (tmp_path / "info" / "val_filelist.txt").write_text(f"{val} 1\n")
    conf = ["--dataset", "webvision", "--data_path", str(tmp_path)]
    with pytest.raises(
        UserError, match="train: 1 of 19 listed images are not there, the first is .*google/a.jpg"
    ):
        open_source(folder_conf(imagenet, *conf, "--skip_corrupt"), Accelerator(cpu=True))


def test_tables_of_several_runs_say_what_they_are_without(root, tmp_path):
    cut(root / "val" / "cat" / "cat_v0.png")
    run_folders(root, tmp_path / "c", "--skip_corrupt", seeds="0,1")
    assert (
        "measured without 1 unreadable image of the evaluation set"
        in (tmp_path / "c" / "table.txt").read_text()
    )
    assert pd.read_csv(tmp_path / "c" / "results.csv").eval_skipped.tolist() == [1, 1]


# ---- an evaluation that fails costs no step ------------------------------------------------------


@pytest.mark.parametrize(
    "when", ["in the first generation", "in the second generation", "rho_cover"]
)
def test_after_a_failed_evaluation_resume_repeats_no_step(root, tmp_path, monkeypatch, when):
    own = {"total_steps": 8, "k_t": 3, "k_s": 1}
    if when == "rho_cover":
        own["rho_cover"] = 0.9
    run_folders(root, tmp_path / "whole", **own)

    evaluated, steps = [], []
    original, one_step = entry.evaluate, entry.one_step

    def failing(*args):
        evaluated.append(1)
        if len(evaluated) == (2 if "second" in when else 1):
            raise CorruptImage("val/cat.png: unreadable image")
        return original(*args)

    def counted(*args):
        steps.append(1)
        return one_step(*args)

    monkeypatch.setattr(entry, "evaluate", failing)
    monkeypatch.setattr(entry, "one_step", counted)
    with pytest.raises(CorruptImage):
        run_folders(root, tmp_path / "r", **own)
    done = len(steps)
    assert state(tmp_path / "r")["progress"]["step"] == done > 0
    run_folders(root, tmp_path / "r", "--resume", **own)
    assert len(steps) == 8
    assert_same_run(tmp_path / "whole", tmp_path / "r")


def test_an_image_spoiled_during_the_run_is_mended_and_the_run_goes_on(
    root, tmp_path, monkeypatch, capsys
):
    """By the command line.

    Status 2 and one line, then the numbers of a run that was never stopped.
    """
    own = {"total_steps": 4, "k_t": 1, "k_s": 1}
    run_folders(root, tmp_path / "whole", **own)
    path = root / "val" / "cat" / "cat_v0.png"
    good, end = path.read_bytes(), entry.end_generation

    def spoil(*args):
        cut(path)
        return end(*args)

    monkeypatch.setattr(entry, "end_generation", spoil)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: run_folders(root, tmp_path / "r", **own))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and str(path) in error

    monkeypatch.setattr(entry, "end_generation", end)
    path.write_bytes(good)
    run_folders(root, tmp_path / "r", "--resume", **own)
    assert_same_run(tmp_path / "whole", tmp_path / "r")


# ---- signals where nothing is trained ------------------------------------------------------------


@pytest.mark.parametrize("received", ["SIGTERM", "SIGINT"])
def test_a_signal_while_rho_is_chosen_is_answered(root, tmp_path, monkeypatch, received):
    own = {"total_steps": 4, "k_t": 1, "k_s": 1, "rho_cover": 0.9}
    run_folders(root, tmp_path / "whole", **own)
    original, number = entry.evaluate, getattr(signal, received)

    def interrupted(*args):
        os.kill(os.getpid(), number)  # the first evaluation of a run is the one that chooses rho
        return original(*args)

    monkeypatch.setattr(entry, "evaluate", interrupted)
    with pytest.raises(SystemExit) as stop:
        run_folders(root, tmp_path / "r", **own)
    assert stop.value.code == 128 + number
    monkeypatch.setattr(entry, "evaluate", original)
    run_folders(root, tmp_path / "r", "--resume", **own)
    assert_same_run(tmp_path / "whole", tmp_path / "r")


def test_a_signal_while_label_sets_are_exported_is_answered(root, tmp_path, monkeypatch):
    original = report.evaluate

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(report, "evaluate", interrupted)
    with pytest.raises(SystemExit) as stop:
        run_folders(root, tmp_path / "r", "--export_labels")
    assert stop.value.code == 143
    monkeypatch.setattr(report, "evaluate", original)
    run_folders(root, tmp_path / "r", "--resume", "--export_labels")
    assert len(json.loads((tmp_path / "r" / "label_sets.json").read_text())) == 12


# ---- pictures of every kind ----------------------------------------------------------------------


def _bytes(image, kind="PNG", **more):
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


RGB = Image.new("RGB", (20, 20), (200, 10, 10))
PICTURES = {
    "wide.png": lambda: _bytes(Image.new("RGB", (9000, 2), (9, 99, 9))),
    "high.png": lambda: _bytes(Image.new("RGB", (1, 5000), (9, 99, 9))),
    "one.png": lambda: _bytes(Image.new("RGB", (1, 1))),
    "grey.jpg": lambda: _bytes(RGB.convert("L"), "JPEG"),
    "cmyk.jpeg": lambda: _bytes(RGB.convert("CMYK"), "JPEG"),
    "sixteen.png": lambda: _bytes(Image.fromarray(np.full((9, 9), 4000, np.uint16))),
    "palette.png": lambda: _bytes(RGB.convert("P"), transparency=0),
    "UPPER.JPG": lambda: _bytes(RGB, "JPEG"),
    "page.TIFF": lambda: _bytes(RGB, "TIFF"),
}


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_pictures_of_every_kind_are_trained_on_and_evaluated(root, tmp_path, augment):
    for part in ("train", "val"):
        for name, content in PICTURES.items():
            (root / part / "cat" / name).write_bytes(content())
    summary = run_folders(
        root, tmp_path / "r", image_size=16, augment=augment, total_steps=6, batch_size=10
    )
    assert summary["images"] == 6 + len(PICTURES) and summary["eval_skipped"] == 0


def test_narrow_pictures_are_cut_to_their_middle_first():
    """What the transform keeps is a square in the middle.

    It must not depend on how long a picture is.
    """
    look = eval_transform(type("conf", (), {"image_size": 224, "protocol": "authors"}))
    rng = np.random.default_rng(0)
    middle = rng.integers(0, 256, (2, 60, 3), dtype=np.uint8)
    ends = rng.integers(0, 256, (2, 4470, 3), dtype=np.uint8)
    long = Image.fromarray(np.concatenate([ends, middle, ends], axis=1))
    assert torch.equal(look(long), look(Image.fromarray(middle)))
    upright = look(long.transpose(Image.Transpose.TRANSPOSE)).transpose(1, 2)
    assert (upright.int() - look(long).int()).abs().max() <= 1  # of rounding
    seen = []
    original = Image.Image.resize
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Image.Image,
            "resize",
            lambda self, size, *a, **k: seen.append(size) or original(self, size, *a, **k),
        )
        look(Image.new("RGB", (1, 5000)))
    assert max(seen[0]) <= 40 * 256


@pytest.mark.parametrize("kind", ["empty", "fifo", "text"])
def test_what_is_no_picture_ends_in_one_line_before_the_first_step(root, tmp_path, capsys, kind):
    path = root / "val" / "cat" / "x.png"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(b"" if kind == "empty" else b"no picture")
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: run_folders(root, tmp_path / "r"))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and str(path) in error
    assert not (tmp_path / "r").exists()
