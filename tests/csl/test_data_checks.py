"""What is wrong with the input is found before the first step.

What cannot be read is left out by name and counted.
"""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from common import processes
from common.cli import UserError, run_main
from common.images import CorruptImage, read_image
from csl import compare, data_checks, infer, train, validate
from csl.build import loaders_of
from csl.data_checks import FolderListing
from csl.data_coco import CocoDetection
from csl.data_openimages_csv import read_openimages_csv
from csl.data_partial import load_partial_labels
from csl.evaluate import predict_rows, score_both
from csl.evaluate_metrics import mAP
from csl.src.models import create_model
from csl.src.models.utils.checkpoint import network_of
from tests.csl.test_data import settings
from tests.csl.test_train import SELECTIVE, assert_same_run
from tests.csl.tiny import NAMES, arguments, write_coco


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture
def data(good, tmp_path):
    return shutil.copytree(good, tmp_path / "data")


@pytest.fixture(scope="module")
def weights(good, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.main(arguments(good, folder, "--epochs", "1"))
    return folder / "checkpoints" / "best_ema.pth"


def picture(data, split, number):
    return data / f"{split}2014" / f"COCO_{split}2014_{number:012d}.png"


def cut(path, keep=0.6):
    """A copy that was interrupted."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    return whole


def damaged_inside(path):
    """Looks right at both ends."""
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle - 200 : middle + 200] = bytes(400)
    path.write_bytes(whole)


def lines_of(run, split):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


# ---- before the first step ----------------------------------------------------------------------


DAMAGE = {
    "cut short": cut,
    "empty": lambda path: path.write_bytes(b""),
    "no picture": lambda path: path.write_bytes(b"<html>"),
    "only the signature": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", DAMAGE, ids=[kind.replace(" ", "-") for kind in DAMAGE])
def test_an_unreadable_picture_is_found_before_the_first_step(kind, split, data, tmp_path, capsys):
    path = picture(data, split, 5)
    DAMAGE[kind](path)
    count = {"train": 44, "val": 13}[split]
    listed = rf"1 of {count} images of {split} \(instances_{split}2014.json\)"
    wanted = rf"{path.name}: unreadable image .*, {listed}"
    with pytest.raises(CorruptImage, match=f"{wanted}; .*--skip_corrupt"):
        train.main(arguments(data, tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def folder(path):
    path.unlink()
    path.mkdir()


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere.png")


OTHERS = {
    "missing": (
        lambda path: path.unlink(),
        "1 of 13 images of .* are not there, the first: .*; .*--skip_missing",
    ),
    "a link that leads nowhere": (dangling, "1 of 13 images of .* are not there"),
    "a pipe": (fifo, "is a pipe or a device"),
    "a folder": (folder, "is a folder"),
}


@pytest.mark.parametrize("skip", [(), ("--skip_corrupt",)], ids=["", "skip"])
@pytest.mark.parametrize("kind", OTHERS, ids=[kind.replace(" ", "-") for kind in OTHERS])
def test_what_is_no_file_is_an_error_with_skip_corrupt_too(kind, skip, data, tmp_path):
    change, wanted = OTHERS[kind]
    change(picture(data, "val", 5))
    with pytest.raises(UserError, match=wanted):
        train.main(arguments(data, tmp_path / "run", *skip))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_skip_missing_leaves_out_links_that_lead_nowhere(data, tmp_path, capsys):
    dangling(picture(data, "val", 5))
    picture(data, "train", 6).unlink()
    train.main(arguments(data, tmp_path / "run", "--skip_missing", "--max_steps", "1"))
    told = capsys.readouterr()
    assert "train: 43 of 45 images" in told.out and "val: 12 of 13 images" in told.out
    assert told.err.count("are missing and left out") == 2


@pytest.mark.parametrize("skip", [False, True])
def test_a_set_without_a_readable_picture(skip, data, tmp_path):
    for path in (data / "val2014").iterdir():
        cut(path)
    wanted = "none of the 13 images can be read" if skip else "13 of 13 images of val"
    with pytest.raises(UserError, match=wanted):
        train.main(arguments(data, tmp_path / "run", *(["--skip_corrupt"] if skip else [])))


def test_a_set_beyond_the_limit_is_looked_up_by_name_only(data, monkeypatch, capsys):
    """Nine million headers are not read at every start.

    That files are there is seen all the same.
    """
    monkeypatch.setattr(data_checks, "LARGE", 20)
    cut(picture(data, "train", 5))
    loaders_of(settings(data), Accelerator(cpu=True))
    assert (
        "train (instances_train2014.json): 44 images are there; so many are not"
        in capsys.readouterr().err
    )
    picture(data, "train", 6).unlink()
    with pytest.raises(UserError, match="1 of 44 images"):
        loaders_of(settings(data), Accelerator(cpu=True))


def test_the_other_processes_get_the_answer_of_the_main_one():
    """Only the main process looks; its error is the error of all."""
    sent = []

    class Main:
        num_processes = 2
        is_main_process = True

    def broadcast(values):
        sent.append(list(values))

    def refuse():
        raise UserError("no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "broadcast_object_list", broadcast)
        assert processes.of_main_process(lambda: 5, Main) == 5
        with pytest.raises(UserError, match="no"):
            processes.of_main_process(refuse, Main)
    assert sent[0] == [5] and isinstance(sent[1][0], UserError)

    class Other:
        num_processes = 2
        is_main_process = False

    def receive(values):
        values[0] = sent[1][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "broadcast_object_list", receive)
        with pytest.raises(UserError, match="no"):
            processes.of_main_process(lambda: pytest.fail("it looked"), Other)


def test_folders_are_listed_once_and_links_followed(tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").symlink_to("nowhere")
    listing = FolderListing()
    assert [tmp_path / name in listing for name in "abcd"] == [True, True, False, False]
    assert tmp_path / "none" / "a" not in listing


def test_a_prior_of_a_later_row_is_looked_at_before_the_first_step(data, tmp_path):
    """The rows without a prior come first: they may take days."""
    path = tmp_path / "prior.csv"
    flags = arguments(
        data,
        tmp_path / "c",
        "--epochs",
        "1",
        "--compare",
        "negative_ce,csl",
        "--prior_path",
        str(path),
    )
    with pytest.raises(UserError, match="prior.csv: no such file"):
        train.main(flags)
    path.write_text("Classes,avg_pred\nperson,0.5\n")
    with pytest.raises(UserError, match="holds no prior of 4 of the 5 classes"):
        train.main(flags)
    assert not list((tmp_path / "c").rglob("*.pt"))


def test_a_home_of_nobody_makes_no_folder(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--path_dest ~nouser/x does not exist"):
        train.main(["--data", str(good), "--path_dest=~nouser/x"])
    assert not list(tmp_path.iterdir())


# ---- left out and counted -----------------------------------------------------------------------


def test_skip_corrupt_scores_the_other_test_images_and_says_so(data, tmp_path, capsys):
    """As if the unreadable ones were not on the list."""
    cut(picture(data, "val", 5))
    cut(picture(data, "val", 9))
    flags = ("--epochs", "1", "--skip_corrupt")
    train.main(arguments(data, tmp_path / "run", *flags))
    told = capsys.readouterr()
    assert (
        "val (instances_val2014.json): 2 of 13 images cannot be read and are left out: " in told.err
    )
    assert picture(data, "val", 5).name in told.err and "val: 11 of 13 images" in told.out
    assert "(eval_skipped 2)  " in next(
        line for line in told.out.splitlines() if line.startswith("epoch 1/1")
    )
    assert summary_of(tmp_path / "run")["eval_skipped"] == 2
    assert "eval_skipped_final" not in summary_of(tmp_path / "run")
    assert lines_of(tmp_path / "run", "test")[0]["eval_skipped"] == 2

    content = json.loads((data / "annotations" / "instances_val2014.json").read_text())
    for key, name in (("images", "id"), ("annotations", "image_id")):
        content[key] = [entry for entry in content[key] if entry[name] not in (5, 9)]
    (data / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    train.main(arguments(data, tmp_path / "short", *flags))
    told = capsys.readouterr().out
    assert "eval_skipped" not in told and summary_of(tmp_path / "short")["eval_skipped"] == 0
    first, second = (lines_of(tmp_path / name, "test")[0] for name in ("run", "short"))
    assert first == second | {"eval_skipped": 2}
    classes = [(tmp_path / name / "per_class.csv").read_text() for name in ("run", "short")]
    assert classes[0] == classes[1]


def test_damage_inside_a_file_is_left_out_and_counted_too(data, tmp_path, capsys):
    path = picture(data, "val", 5)
    damaged_inside(path)
    with pytest.raises(CorruptImage):
        read_image(path)
    train.main(arguments(data, tmp_path / "run", "--epochs", "1", "--skip_corrupt"))
    assert summary_of(tmp_path / "run")["eval_skipped"] == 1
    assert "(eval_skipped 1)" in capsys.readouterr().out
    with pytest.raises(
        CorruptImage, match=f"{path.name}.*it is image 5 of .*instances_val2014.json"
    ):
        train.main(arguments(data, tmp_path / "without", "--epochs", "1"))


def test_rows_stay_with_their_samples_where_one_is_skipped(data):
    """Scores, targets, the complete labels beside them and the index are of the same images."""
    damaged_inside(picture(data, "val", 5))
    args = settings(data)
    args.skip_corrupt = True
    accelerator = Accelerator(cpu=True)
    _, loader = loaders_of(args, accelerator)
    val = loader.dataset.dataset
    val.complete = val.targets_all.matrix.copy()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5))
    scored = predict_rows([model], loader, accelerator)
    wanted = [row for row, image in enumerate(val.ids) if image != 5]
    assert scored.index.tolist() == wanted and (scored.targets == val.complete[wanted]).all()
    metrics, again = score_both(model, model, loader, accelerator)
    assert metrics["eval_skipped"] == 1
    assert metrics["mAP_complete_ema"] == pytest.approx(mAP(val.complete[wanted], again.scores[1]))


def test_batches_of_which_nothing_can_be_read(data):
    for number in (1, 2, 3, 4):
        damaged_inside(picture(data, "val", number))
    args = settings(data, skip_corrupt=True)
    accelerator = Accelerator(cpu=True)
    _, loader = loaders_of(args, accelerator)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5))
    assert len(predict_rows([model], loader, accelerator).index) == 9
    for number in range(5, 14):
        damaged_inside(picture(data, "val", number))
    _, loader = loaders_of(args, accelerator)
    with pytest.raises(UserError, match="no test image can be read"):
        predict_rows([model], loader, accelerator)


def test_training_images_that_cannot_be_read_stay_on_the_list(data, tmp_path, capsys):
    """A step has the same images after they are mended."""
    cut(picture(data, "train", 5))
    flags = arguments(data, tmp_path / "run", "--epochs", "1", "--skip_corrupt")
    train.main(flags)
    assert (
        "train (instances_train2014.json): 1 of 44 images cannot be read" in capsys.readouterr().err
    )
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert (saved["skipped"], saved["images"]) == (1, 44)
    assert summary_of(tmp_path / "run")["eval_skipped"] == 0


def test_validate_leaves_out_and_counts(weights, data, tmp_path, capsys):
    def validated(name, *flags):
        given = [
            "--data",
            str(data),
            "--model_path",
            str(weights),
            "--output_dir",
            str(tmp_path / name),
        ]
        args = validate.parse([*given, "--workers", "0", "--cpu", *flags])
        return validate.validate(args)

    whole = cut(picture(data, "val", 5))
    with pytest.raises(CorruptImage, match=r"1 of 13 images of val .*--skip_corrupt"):
        validated("a")
    assert not (tmp_path / "a").exists()
    capsys.readouterr()
    summary = validated("b", "--skip_corrupt")
    assert (summary["eval_skipped"], summary["images"]) == (1, 12)
    assert "\n(eval_skipped 1)  mAP: " in capsys.readouterr().out
    picture(data, "val", 5).write_bytes(whole)
    summary = validated("c", "--skip_corrupt")
    assert (summary["eval_skipped"], summary["images"]) == (0, 13)
    assert "eval_skipped" not in capsys.readouterr().out


def test_compare_shows_what_its_rows_are_measured_without(data, tmp_path, capsys):
    cut(picture(data, "val", 5))
    flags = arguments(
        data, tmp_path / "c", "--epochs", "1", "--skip_corrupt", "--compare", "negative_ce"
    )
    train.main(flags)
    table = capsys.readouterr().out
    assert "count  eval_skipped  model_mean\n" in table


# ---- nothing is done twice ----------------------------------------------------------------------


def test_a_test_image_that_breaks_during_the_run_costs_no_step(data, good, tmp_path, monkeypatch):
    """Mended, --resume repeats no step and ends with the numbers of an uninterrupted run."""
    train.main(arguments(good, tmp_path / "whole", *SELECTIVE))
    path = picture(data, "val", 5)
    flags = arguments(data, tmp_path / "run", *SELECTIVE)
    score = train.score_both
    calls = []

    def breaking(*args):
        calls.append(1)
        if len(calls) == 2:
            damaged_inside(path)
            args[
                2
            ].dataset.dataset.read.kept = (
                None  # pictures of small sets are kept after their first reading
            )
        return score(*args)

    monkeypatch.setattr(train, "score_both", breaking)
    with pytest.raises(CorruptImage, match=path.name):
        train.main(flags)
    monkeypatch.undo()
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert (saved["epoch"], saved["batch"], saved["step"]) == (1, 6, 12)

    shutil.copy(picture(good, "val", 5), path)
    steps = []
    monkeypatch.setattr(train.Run, "step", lambda *args: steps.append(args))
    train.main([*flags, "--resume"])
    assert not steps
    whole = summary_of(tmp_path / "whole")
    for name in ("mAP_ema_final", "mAP_model_final", "dropped_share", "eval_skipped"):
        assert summary_of(tmp_path / "run")[name] == whole[name]
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_report_that_fails_is_written_by_the_resumed_run(good, tmp_path, monkeypatch):
    train.main(arguments(good, tmp_path / "whole", "--epochs", "1"))
    flags = arguments(good, tmp_path / "run", "--epochs", "1")

    def fail(*args):
        raise CorruptImage("gone")

    monkeypatch.setattr(train.report, "draw_examples", fail)
    with pytest.raises(CorruptImage, match="gone"):
        train.main(flags)
    monkeypatch.undo()
    train.main([*flags, "--resume"])
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    for name in ("per_class.csv", "figures/examples.png"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_signals_while_the_prior_is_estimated(number, status, good, tmp_path, monkeypatch):
    """In phase 1, in its evaluation: saved, and --resume of the whole run goes on there."""
    flags = arguments(good, tmp_path / "run", *SELECTIVE, "--estimate_prior", "1", "--epochs", "1")
    score = train.score_both

    def interrupted(*args):
        os.kill(os.getpid(), number)
        return score(*args)

    monkeypatch.setattr(train, "score_both", interrupted)
    with pytest.raises(SystemExit) as stopped:
        train.main(flags)
    assert stopped.value.code == status
    monkeypatch.undo()
    saved = torch.load(tmp_path / "run" / "phase1" / "checkpoints" / "last.pt", weights_only=True)[
        "progress"
    ]
    assert (saved["epoch"], saved["batch"], saved["step"]) == (0, 6, 6)
    train.main([*flags, "--resume"])
    assert (
        summary_of(tmp_path / "run" / "phase1")["epochs"]
        == summary_of(tmp_path / "run")["epochs"]
        == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_within_a_comparison(number, status, good, tmp_path, monkeypatch):
    rows = ("--compare", "negative_ce,csl", "--schemes", "rps")
    train.main(arguments(good, tmp_path / "whole", "--epochs", "1", *rows))
    flags = arguments(good, tmp_path / "c", "--epochs", "1", *rows)
    score = train.score_both
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return score(*args)

    monkeypatch.setattr(train, "score_both", interrupted)
    with pytest.raises(SystemExit) as stopped:
        train.main(flags)
    assert stopped.value.code == status
    monkeypatch.undo()
    train.main([*flags, "--resume"])
    for row in ("rps-negative_ce-seed0", "rps-csl-seed0"):
        assert_same_run(tmp_path / "whole" / row, tmp_path / "c" / row)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_while_a_checkpoint_is_scored(number, status, weights, good, tmp_path, monkeypatch):
    given = [
        "--data",
        str(good),
        "--model_path",
        str(weights),
        "--output_dir",
        str(tmp_path / "v"),
        "--workers",
        "0",
    ]
    predict = validate.predict_rows

    def interrupted(*args, **options):
        os.kill(os.getpid(), number)
        return predict(*args, **options)

    monkeypatch.setattr(validate, "predict_rows", interrupted)
    with pytest.raises(SystemExit) as stopped:
        validate.main([*given, "--cpu"])
    assert stopped.value.code == status and not (tmp_path / "v" / "summary.json").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_while_the_data_are_read(number, status, good, tmp_path, monkeypatch):
    """Before the first step: nothing to be saved, and no need to wait for a step."""
    read = train.build_loaders

    def interrupted(*args):
        os.kill(os.getpid(), number)
        return read(*args)

    monkeypatch.setattr(train, "build_loaders", interrupted)
    monkeypatch.setattr(train, "build", lambda *args: pytest.fail("it went on"))
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments(good, tmp_path / "run"))
    assert stopped.value.code == status


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"epochs": "2"}', '{"other": 2}', "\0", '{"epochs": true}']
)
def test_a_damaged_summary_of_phase_1_is_not_a_finished_one(content, tmp_path):
    (tmp_path / "summary.json").write_text(content)
    assert not compare._is_done(tmp_path / "summary.json", 1)
    (tmp_path / "summary.json").write_text('{"epochs": 2}')
    assert compare._is_done(tmp_path / "summary.json", 2) and not compare._is_done(
        tmp_path / "summary.json", 3
    )


# ---- pictures -----------------------------------------------------------------------------------


def odd_pictures(folder):
    """Pictures of odd shapes and kinds, all of them readable."""
    rng = np.random.default_rng(1)
    rgb = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    transparent = rgb.convert("P")
    transparent.info["transparency"] = 0
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {
        "wide.png": rgb.resize((9000, 2)),
        "high.png": rgb.resize((1, 5000)),
        "dot.png": rgb.resize((1, 1)),
        "grey.JPG": rgb.convert("L"),
        "cmyk.jpeg": rgb.convert("CMYK"),
        "sixteen.png": Image.fromarray(rng.integers(0, 65535, (30, 40)).astype(np.uint16)),
        "palette.png": transparent,
        "alpha.png": rgb.convert("RGBA"),
        "moving.gif": rgb.convert("P"),
        "bits.bmp": rgb.convert("1"),
    }
    for name, image in made.items():
        image.save(folder / name)
    rgb.save(folder / "phone.jpg", exif=turned)
    return [*made, "phone.jpg"]


@pytest.mark.slow
def test_odd_pictures_through_training_evaluation_and_inference(data, weights, tmp_path, capsys):
    for split in ("train", "val"):
        names = odd_pictures(data / f"{split}2014")
        path = data / "annotations" / f"instances_{split}2014.json"
        content = json.loads(path.read_text())
        for image, name in zip(content["images"][1:], names, strict=False):
            image["file_name"] = name
        path.write_text(json.dumps(content))
    train.main(arguments(data, tmp_path / "run", "--epochs", "1"))
    assert 0 < summary_of(tmp_path / "run")["mAP_model_final"] <= 100
    given = [
        "--data",
        str(data),
        "--model_path",
        str(weights),
        "--output_dir",
        str(tmp_path / "v"),
        "--cpu",
    ]
    assert validate.validate(validate.parse([*given, "--workers", "0"]))["images"] == 13

    own = tmp_path / "own"
    own.mkdir()
    names = odd_pictures(own)
    (own / "notes.txt").write_text("no picture")
    (own / ".hidden.png").write_bytes(b"")
    flags = ["--model_path", str(weights), "--dataset_type", "MS-COCO", "--cpu", "--th", "0"]
    infer.main([*flags, "--pic_path", str(own), "--output_dir", str(tmp_path / "i")])
    records = json.loads((tmp_path / "i" / "predictions.json").read_text())
    assert sorted(record["picture"] for record in records) == sorted(
        str(own / name) for name in names
    )
    assert all(
        len(record["classes"]) == 5 and np.isfinite(record["scores"]).all() for record in records
    )
    assert len(list((tmp_path / "i" / "figures").iterdir())) == len(names)


@pytest.mark.slow
def test_own_pictures_that_cannot_be_read(weights, good, tmp_path, capsys):
    own = tmp_path / "own"
    shutil.copytree(good / "val2014", own)
    files = sorted(own.iterdir())
    cut(files[3])
    damaged_inside(files[5])
    flags = [
        "--model_path",
        str(weights),
        "--dataset_type",
        "MS-COCO",
        "--cpu",
        "-b",
        "1",
        "--pic_path",
        str(own),
    ]
    with pytest.raises(
        CorruptImage, match=rf"{files[3].name}.*1 of 13 images of --pic_path.*--skip_corrupt"
    ):
        infer.main([*flags, "--output_dir", str(tmp_path / "a")])
    assert not (tmp_path / "a").exists()
    infer.main([*flags, "--skip_corrupt", "--output_dir", str(tmp_path / "b")])
    told = capsys.readouterr()
    assert files[3].name in told.err and files[5].name in told.err
    assert "11 pictures; 2 could not be read and are left out" in told.out
    summary = summary_of(tmp_path / "b")
    assert (summary["pictures"], summary["skipped"]) == (11, 2)
    assert len(json.loads((tmp_path / "b" / "predictions.json").read_text())) == 11


def test_names_of_files_that_no_terminal_can_show_and_long_ones(weights, good, tmp_path, capsys):
    own = tmp_path / "own"
    own.mkdir()
    source = picture(good, "val", 1)
    for name in (b"odd\xff.png", b"x" * 250 + b".png", "\u00e9".encode() * 120 + b".png"):
        shutil.copy(source, os.fsencode(own) + b"/" + name)
    flags = [
        "--model_path",
        str(weights),
        "--dataset_type",
        "MS-COCO",
        "--cpu",
        "--pic_path",
        str(own),
        str(own),
    ]
    infer.main([*flags, "--output_dir", str(tmp_path / "i")])
    assert len(json.loads((tmp_path / "i" / "predictions.json").read_text())) == 3
    assert len(list((tmp_path / "i" / "figures").iterdir())) == 3
    assert "odd\\udcff.png" in capsys.readouterr().out


# ---- lists and files of weights -----------------------------------------------------------------


@pytest.mark.parametrize("name", [None, {"a": 1}, "", "  ", "\ud800", True])
def test_names_of_categories_that_are_none(name, data):
    path = data / "annotations" / "instances_val2014.json"
    content = json.loads(path.read_text())
    content["categories"][1]["name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"instances_val2014.json: categories, entry 2: "):
        CocoDetection(data / "val2014", path)


@pytest.mark.parametrize(
    "name", ["../train2014/x.png", "/etc/passwd", "a//b.png", "", 5, None, "a\0b"]
)
def test_file_names_that_lead_out_are_refused_before_the_first_step(name, data, tmp_path):
    path = data / "annotations" / "instances_val2014.json"
    content = json.loads(path.read_text())
    content["images"][2]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"instances_val2014.json: image 3: "):
        train.main(arguments(data, tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def weights_file(tmp_path, state=None, **entries):
    model = create_model(type("Settings", (), {"model_name": "tresnet_tiny", "num_classes": 5}))
    own = model.state_dict()
    own.update(state or {})
    content = {"model": own, "num_classes": 5, "idx_to_class": dict(enumerate(NAMES)), **entries}
    torch.save(content, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.parametrize(
    ("state", "entries", "match"),
    [
        ({"head.fc.weight": torch.tensor(3.0)}, {}, "a head of shape"),
        ({"head.fc.weight": torch.zeros(5, 512).to_sparse()}, {}, "head.fc.weight is sparse"),
        (
            {"head.fc.weight": torch.zeros(5, 512, dtype=torch.int64)},
            {},
            "holds int64, expected floating-point",
        ),
        ({"head.fc.weight": torch.zeros(5, 512, dtype=torch.complex64)}, {}, "holds complex64"),
        ({"head.fc.bias": torch.full((5,), torch.nan)}, {}, "head.fc.bias is not finite"),
        ({}, {"model_name": 5}, "model_name 5 is no text"),
        ({}, {"model_name": ["tresnet_m"]}, "is no text"),
        ({}, {"idx_to_class": {float("nan"): "x"}}, "no names by index"),
    ],
)
def test_values_of_weights_files_are_checked(state, entries, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        network_of(weights_file(tmp_path, state, **entries), "tresnet_tiny")


def test_numpy_numbers_beside_the_weights_and_half_precision(tmp_path):
    state = {"head.fc.bias": torch.zeros(5, dtype=torch.float16)}
    path = weights_file(tmp_path, state, num_classes=np.int64(5), mAP=np.float64(86.5))
    assert network_of(path, "tresnet_tiny")[1].num_classes == 5


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b"", "the file is empty"),
        (b"x" * 100, "damaged or cut short"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_a_refused_file_holds(suffix, content, match, tmp_path):
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=match):
        network_of(tmp_path / f"w{suffix}", "tresnet_m")


@pytest.mark.parametrize("kind", ["U1", "complex64", "M8[s]", [("a", "i4")]])
def test_partial_labels_that_are_no_numbers(kind, tmp_path):
    path = tmp_path / "l.npz"
    np.savez(
        path, ids=np.array(["1"]), targets=np.zeros((1, 2), kind), classes=np.array(["a", "b"])
    )
    data = type(
        "Data", (), {"targets_all": {"1": np.zeros(2, np.int8)}, "classes": {0: "a", 1: "b"}}
    )
    with pytest.raises(
        ValueError, match=r"l.npz: targets hold .*, expected the numbers 1, 0 and -1"
    ):
        load_partial_labels(path, data)


def test_a_name_with_half_a_pair_of_surrogates_stays_as_it_stands(tmp_path):
    """It could be printed nowhere, and written into no file, which a run would meet at its end."""
    (tmp_path / "data.csv").write_text("a.jpg,\"['\\ud800', '\\u00e9']\",[],train\n")
    assert read_openimages_csv(tmp_path / "data.csv", cache=False).classes == ["\\ud800", "\u00e9"]


def test_a_cache_that_is_damaged_or_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    path = tmp_path / "data.csv"
    path.write_text("a.jpg,\"['x']\",\"['y']\",train\n")
    assert read_openimages_csv(path).classes == ["x", "y"]
    cache = next(tmp_path.glob(".data.csv.*.npz"))
    whole = bytearray(cache.read_bytes())
    for place in range(30, len(whole), 7):
        cache.write_bytes(bytes([*whole[:place], whole[place] ^ 255, *whole[place + 1 :]]))
        assert read_openimages_csv(path).classes == ["x", "y"]
        with pytest.raises(ValueError, match="not a file of partial labels"):
            load_partial_labels(cache, None)
    cache.unlink()

    def refuse(*args):
        raise UserError("no space left")

    monkeypatch.setattr("common.checkpoint.atomic_save", refuse)
    assert read_openimages_csv(path).classes == ["x", "y"]


# ---- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("--partial_loss_mode=selective --max_steps 1 --cpu", None),
        ("--data {empty}", "COCO 2014 is not in --data {empty}; unpack train2014.zip"),
        ("--data {empty} --dataset lvis", "LVIS is not in --data {empty}; put lvis_v1"),
        (
            "--data {empty}/x --dataset openimages",
            "--data {empty}/x does not exist (Open Images); put data.csv",
        ),
        ("--dataset lvis", "LVIS is not in data; put lvis_v1"),
        (
            "--metadata {empty}",
            "--metadata {empty}: train.json and val.json of COCO's form not there",
        ),
        ("--data=~nouser/x", "--data ~nouser/x does not exist: there is no home ~nouser"),
        (
            "--sample --dataset lvis",
            "LVIS has no offline sample, these have one: --dataset coco, --dataset openimages",
        ),
    ],
)
def test_missing_data_are_told_in_two_lines(flags, wanted, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WSL_DATA_DIR", raising=False)
    empty = tmp_path / "e"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setattr(train, "train", lambda *args: None)
    with pytest.raises(SystemExit) as stopped:
        run_main(lambda: train.main(flags.format(empty=empty).split()))
    told = capsys.readouterr()
    if wanted is None:
        assert stopped.value.code == 0
        lines = told.out.splitlines()
        assert lines[0].startswith(
            "COCO 2014 is not in data: put it there, or give its folder with --data; this run "
        )
        assert len(lines[0]) <= 120
        return
    assert stopped.value.code == 2
    line = told.err.splitlines()[-1]
    assert wanted.format(empty=empty) in line
    assert len(line.replace(str(empty), "/data")) <= 240
