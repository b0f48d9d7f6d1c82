"""Every flag of every script acts where its help says, or is refused with the flag that it
contradicts.
"""

import argparse
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from common.cli import UserError
from common.images import read_own_picture
from common.rundir import make_accelerator
from oass import ablation, build, explain, inference_classification, prepare_voc
from oass import train_classification_with_puzzle_cMax_ema as cmax
from oass.build_objective import PuzzleOptions, TilePass
from oass.build_trained import Trained
from oass.core.options import build_parser
from oass.data import Picture
from oass.figures import PuzzlePictures
from oass.options import parse
from oass.options_trained import build_explain_parser, build_inference_parser
from oass.train import train
from tests.oass.conftest import SMALL

# Of all scripts: tested with common (the run directory, resume, signals, devices), and by every
# test of a whole run.
SHARED = {
    *("seed", "output_dir", "resume", "sample", "max_steps", "checkpoint_every"),
    *("mixed_precision", "cpu", "overwrite", "skip_corrupt", "help"),
    *("grad_accum", "compile", "fast"),  # tests/test_training_flags.py
}


def read(folder, name="summary"):
    return json.loads((folder / f"{name}.json").read_text())


def lines_of(folder, split):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def digest(folder):
    """One number that changes with any weight of the last checkpoint."""
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["state"]["model"]
    return round(sum(float(v.double().abs().sum()) for v in state.values()), 7)


def flags_of(parser):
    return {action.dest for action in parser._actions} - {argparse.SUPPRESS}  # --version


OWN_DATA = {"data", "images", "classes", "pretrained"}  # in test_own.py, test_backbones.py


# --- training ---

# strategy, flags of both runs, flags of the second one: its weights differ
TRAINED_OTHERWISE = [
    ("cMax", "", "--seed 1"),
    ("cMax", "", "--batch_size 6"),
    ("cMax", "", "--max_epoch 3"),
    ("cMax", "", "--image_size 96"),
    ("cMax", "", "--min_image_size 79"),
    ("cMax", "", "--max_image_size 96"),
    ("cMax", "", "--train_domain val"),
    ("cMax", "", "--architecture resnet18"),
    ("cMax", "", "--architecture timm:resnet10t"),
    ("cTopk", "", "--topk 1"),
    ("cTopk", "", "--min_distance 9"),
    ("cTopk", "--keypoint_rule released", "--radius 3"),
    ("cTopk-w", "", "--keypoint_rule released"),
    ("max", "", "--tile_bn_stats"),
    ("max", "", "--teacher_bn eval"),
    ("max", "", "--alpha_p 0.1"),
    ("max", "", "--released"),
    ("uniform", "", "--tile_bn_stats"),
    ("cMax", "--p_loss student", "--p_target onehot"),
]
# The same, but only what is said, evaluated or written differs; see the tests below.
OTHERWISE = {
    *(
        "val_domain",
        "difficult",
        "drop_last_eval",
        "eval_ema",
        "pictures",
        "print_ratio",
        "tag",
        "num_workers",
        "last_only",
        "frozen_features",
    ),
    *("tile_chunk", "sync_bn", "weights", "data_dir", "num_pieces", "h_co", "w_co"),
}
IN_TEST_TRAINING = {  # EFFECTS of test_training.py
    *(
        "level",
        "re_loss",
        "re_loss_option",
        "teacher_bn",
        "p_loss",
        "p_target",
        "loss_option",
        "alpha_re",
    ),
    *(
        "alpha_schedule_re",
        "alpha_p",
        "alpha_ema",
        "sgd_momentum",
        "nesterov",
        "wd",
        "warmup_epoch",
        "augment",
        "lr",
    ),
    *("keypoint_rule", "clip_grad"),
}


def test_no_flag_of_training_is_forgotten():
    changed = {
        word.removeprefix("--")
        for *_, flags in TRAINED_OTHERWISE
        for word in flags.split()
        if word[:2] == "--"
    }
    elsewhere = OTHERWISE | IN_TEST_TRAINING | OWN_DATA
    assert flags_of(build_parser("cMax")) - SHARED == (changed - SHARED) | elsewhere


@pytest.fixture(scope="module")
def digests():
    return {}


@pytest.mark.parametrize(("strategy", "both", "flags"), TRAINED_OTHERWISE)
def test_a_flag_changes_the_training(strategy, both, flags, small, tmp_path, digests):
    common = [*small, "--alpha_schedule_re", "0", "--max_steps", "2", "--lr", "0.05", *both.split()]
    if (strategy, both) not in digests:
        argv = [*common, "--output_dir", str(tmp_path / "plain")]
        train(parse(strategy, argv))
        digests[strategy, both] = digest(tmp_path / "plain")
    argv = [*common, *flags.split(), "--output_dir", str(tmp_path / "changed")]
    train(parse(strategy, argv))
    assert digest(tmp_path / "changed") != digests[strategy, both]


REFUSED = [
    ("cMax", "--radius 9", "only cTopk by --keypoint_rule released"),
    ("cTopk", "--radius 9", "only cTopk by --keypoint_rule released"),
    ("cMax", "--tile_bn_stats", "the teacher sees the tiles"),
    ("max", "--tile_bn_stats --teacher_bn eval", "not with --teacher_bn eval"),
    ("max", "--loss_option cl --tile_bn_stats", "looks at no tiles"),
    ("cMax", "--loss_option cl --alpha_re 3", "--alpha_re: --loss_option cl has no re"),
    ("cMax", "--loss_option cl --level cam", "has no re"),
    ("cMax", "--loss_option cl_pcl --re_loss L2_Loss", "has no re"),
    ("cMax", "--loss_option cl_re --alpha_p 0.5", "--alpha_p: --loss_option cl_re has no pcl"),
    ("cMax", "--loss_option cl_re --p_loss full", "--p_loss: --loss_option cl_re has no pcl"),
    ("cMax", "--p_target onehot", "p_loss student"),
    ("cMax", "--p_loss full --p_target onehot", "p_loss student"),
    ("cMax", "--loss_option cl --pictures 0 --teacher_bn eval", "--pictures 0"),
    ("cMax", "--loss_option cl --pictures 0 --tile_chunk 2", "--pictures 0"),
    ("uniform", "--keypoint_rule released", "uniform cuts at the centre"),
    ("max", "--eval_ema", "max has no teacher"),
    ("none", "--alpha_re 3", "none cuts no tiles"),
    ("gap", "--p_loss full", "L_cl"),
]


@pytest.mark.parametrize(("strategy", "flags", "message"), REFUSED)
def test_a_flag_without_effect_is_refused_with_the_reason(strategy, flags, message, devkit):
    with pytest.raises(UserError, match=message):
        parse(strategy, ["--data_dir", str(devkit), *flags.split()])


@pytest.mark.parametrize("strategy", ["max", "cMax", "cTopk", "cTopk-w"])
def test_every_script_takes_the_readmes_flags_and_says_what_is_idle(
    strategy, small, tmp_path, capsys
):
    readme = "--alpha_schedule_re 0.05 --alpha_re 3.00 --alpha_p 0.5 --max_steps 1".split()
    train(parse(strategy, [*small, *readme, "--output_dir", str(tmp_path)]))
    said = "without a gradient, so --alpha_p has no effect" in capsys.readouterr().out
    assert said == (strategy != "max")


@pytest.mark.parametrize(
    ("strategy", "flags", "message"),
    [
        ("cMax", "--teacher_bn batch", "--teacher_bn batch with --sync_bn"),
        ("max", "--tile_bn_stats", "--tile_bn_stats with --sync_bn"),
        ("max", "--released", "--tile_bn_stats with --sync_bn"),
        ("cMax", "--released", None),
        ("max", "", None),
    ],
)
def test_what_contradicts_sync_bn_is_refused_for_several_processes_only(
    strategy, flags, message, devkit, monkeypatch
):
    processes = SimpleNamespace(num_processes=1)
    monkeypatch.setattr(build, "make_accelerator", lambda *a, **k: processes)
    settings = parse(strategy, ["--data_dir", str(devkit), "--sync_bn", *flags.split()])
    assert build.build_accelerator(settings) is processes
    processes.num_processes = 2
    if message is None:
        assert build.build_accelerator(settings) is processes
        return
    with pytest.raises(UserError, match=message):
        build.build_accelerator(settings)


@pytest.fixture
def go(small, tmp_path):
    """Run an epoch with flags into a folder; its evaluation."""

    def call(name, flags=""):
        cmax.main(
            [*small, "--max_epoch", "1", "--output_dir", str(tmp_path / name), *flags.split()]
        )
        return lines_of(tmp_path / name, "Evaluation")[-1]

    return call


@pytest.mark.slow
def test_flags_of_evaluation_act(go, tmp_path):
    plain = go("plain")
    for name, flags in {"whole": "--drop_last_eval", "train": "--val_domain train"}.items():
        changed = go(name, flags)
        assert (
            changed["map"] != plain["map"]
            and changed["eval class loss"] != plain["eval class loss"]
        ), name
    assert go("same", "--tile_chunk 2 --num_workers 1 --sync_bn")["map"] == pytest.approx(
        plain["map"]
    )
    assert digest(tmp_path / "same") == pytest.approx(digest(tmp_path / "plain"), rel=1e-5)


def test_flags_of_files_act(go, tmp_path, capsys):
    go("plain")
    go("all", "--eval_ema --pictures 1 --tag T --print_ratio 1")
    assert lines_of(tmp_path / "all", "Evaluation_ema") and not lines_of(
        tmp_path / "plain", "Evaluation_ema"
    )
    assert (
        read(tmp_path / "all")["map_ema"] == lines_of(tmp_path / "all", "Evaluation_ema")[-1]["map"]
    )
    assert "map of the teacher" in capsys.readouterr().out
    assert (tmp_path / "all/figures/puzzle_epoch_001.png").is_file()
    assert not (tmp_path / "plain/figures/puzzle_epoch_001.png").is_file()
    assert (tmp_path / "all/data/T.json").is_file()
    assert (
        len(lines_of(tmp_path / "all", "Train")) == 1 < len(lines_of(tmp_path / "plain", "Train"))
    )
    go("loaded", f"--weights {tmp_path}/all/checkpoints/last.pt")
    assert digest(tmp_path / "loaded") != digest(tmp_path / "plain")


def doubtful(devkit, tmp_path):
    """The devkit with every object of its first five validation images difficult."""
    kit = tmp_path / "VOC2012"
    kit.mkdir()
    for part in ("JPEGImages", "ImageSets", "SegmentationClass"):
        (kit / part).symlink_to(devkit / "VOCdevkit/VOC2012" / part)
    (kit / "Annotations").mkdir()
    for path in (devkit / "VOCdevkit/VOC2012/Annotations").iterdir():
        text = path.read_text()
        if path.stem.startswith("2009") and int(path.stem[-2:]) <= 5:
            text = text.replace("<difficult>0<", "<difficult>1<")
        (kit / "Annotations" / path.name).write_text(text)
    return kit


def test_difficult_acts_on_every_map(small, devkit, tmp_path):
    kit = doubtful(devkit, tmp_path)
    found = {}
    for choice in ("include", "ignore"):
        argv = [*small, "--data_dir", str(kit), "--max_epoch", "1", "--difficult", choice]
        cmax.main([*argv, "--output_dir", str(tmp_path / choice)])
        found[choice] = lines_of(tmp_path / choice, "Evaluation")[-1]
    for name in ("map", "map voc2010", "map ties", "ap"):
        assert found["include"][name] != found["ignore"][name], name
    for name in (
        "map without difficult",
        "eval class loss",
        "pointing",
    ):  # what its help does not name
        assert found["include"][name] == found["ignore"][name], name
    assert found["ignore"]["map"] == found["ignore"]["map without difficult"]


# --- inference ---


@pytest.fixture(scope="module")
def run(devkit, tmp_path_factory):
    """A finished run of six steps with a teacher of its own."""
    folder = tmp_path_factory.mktemp("flags") / "run"
    flags = f"{SMALL} --data_dir {devkit} --lr 0.02 --alpha_ema 0.9 --output_dir {folder}"
    cmax.main(flags.split())
    return folder


@pytest.fixture
def infer(run, devkit, tmp_path):
    def call(flags="", data=devkit, checkpoint=run):
        folder = tmp_path / f"inference{len(list(tmp_path.glob('inference*')))}"
        argv = f"--checkpoint {checkpoint} --data_dir {data} --output_dir {folder} {flags}"
        inference_classification.main(f"{argv} --cpu --num_workers 0".split())
        return folder

    return call


EVERYTHING = "--cam_iou --neighbours --export_instances"
CHANGES_EVERYTHING = (
    "--scales 0.5,1.0",
    "--flip",
    "--network teacher",
    "--mixed_precision bf16",
    "--image_size 96",
)
TESTED_BELOW = {
    *("checkpoint", "data_dir", "domain", "batch_size", "num_workers"),
    *("difficult", "drop_last_eval", "server_files"),
    *("neighbours", "export_instances", "cam_iou", "architecture"),
    *(OWN_DATA - {"pretrained"}),
}


def test_no_flag_of_inference_is_forgotten():
    changed = {flags.split()[0].removeprefix("--") for flags in CHANGES_EVERYTHING}
    assert flags_of(build_inference_parser()) - SHARED == (changed - SHARED) | TESTED_BELOW


def outputs(folder, instances):
    """Every number of the summary, the predictions and the instances."""
    summary = read(folder)
    with np.load(instances) as arrays:
        vectors = arrays["instances"].astype(np.float32)
    found = {name: summary[name] for name in ("map", "eval_class_loss", "pointing", "cam_miou")}
    found["predictions"] = (folder / "predictions.csv").read_text()
    return {**found, "instances": vectors}


@pytest.fixture
def any_precision():
    """accelerate keeps the precision of its first use in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("flags", CHANGES_EVERYTHING)
def test_what_changes_the_network_or_the_picture_changes_every_output(
    flags, infer, tmp_path, any_precision
):
    """None acts on the mAP and not on the maps, their peaks, their masks, the instances."""
    plain = outputs(infer(f"{EVERYTHING} {tmp_path}/a.npz"), tmp_path / "a.npz")
    AcceleratorState._reset_state(reset_partial_state=True)
    changed = outputs(infer(f"{EVERYTHING} {tmp_path}/b.npz {flags}"), tmp_path / "b.npz")
    for name in ("eval_class_loss", "cam_miou", "predictions"):
        assert plain[name] != changed[name], name
    assert not np.array_equal(plain["instances"], changed["instances"])


@pytest.mark.parametrize(
    "flags", ["--batch_size 3", "--num_workers 1", "--scales 1", "--scales 1.0,1.0"]
)
def test_what_is_only_a_way_changes_no_output(flags, infer, tmp_path):
    plain = outputs(infer(f"{EVERYTHING} {tmp_path}/a.npz"), tmp_path / "a.npz")
    same = outputs(infer(f"{EVERYTHING} {tmp_path}/b.npz {flags}"), tmp_path / "b.npz")
    np.testing.assert_allclose(plain.pop("instances"), same.pop("instances"), atol=1e-5)
    predictions = [
        np.array(
            [
                [float(v) for v in row.split(",")[1:]]
                for row in found.pop("predictions").splitlines()[1:]
            ]
        )
        for found in (plain, same)
    ]
    np.testing.assert_allclose(*predictions, atol=2e-6)
    assert plain == pytest.approx(same, rel=1e-4)


def test_difficult_and_whole_batches_of_an_evaluation(infer, devkit, tmp_path):
    kit = doubtful(devkit, tmp_path)
    plain, ignoring = (read(infer(flags, kit)) for flags in ("", "--difficult ignore"))
    assert plain["map"] != ignoring["map"] == ignoring["map_without_difficult"]
    whole = read(infer("--drop_last_eval --batch_size 4", kit))
    assert plain["images"] == 10 and whole["images"] == 8 and whole["map"] != plain["map"]


REFUSED_INFERENCE = [
    ("--domain test --cam_iou", "--cam_iou: test has no annotations"),
    ("--domain test --neighbours", "--neighbours: test has no annotations"),
    ("--image_size 100", "--image_size 100: a multiple of 32"),
    ("--max_steps 3", "--max_steps: this script does not train"),
    ("--checkpoint_every 3", "--checkpoint_every: this script does not train"),
    ("--resume", "--resume: this script does not train"),
    ("--architecture resnet18", "looks like"),
    ("--domain nothing", "there is no list 'nothing'"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED_INFERENCE)
def test_what_an_evaluation_cannot_do_is_refused_before_it_writes(flags, message, infer, tmp_path):
    with pytest.raises(UserError, match=message):
        infer(flags)
    assert not list(tmp_path.glob("inference*"))


def test_masks_are_asked_for_before_the_work(infer, devkit, tmp_path):
    kit = tmp_path / "VOC2012"
    kit.mkdir()
    for part in ("JPEGImages", "ImageSets", "Annotations"):
        (kit / part).symlink_to(devkit / "VOCdevkit/VOC2012" / part)
    with pytest.raises(UserError, match="--cam_iou: .*SegmentationClass has no mask of val"):
        infer("--cam_iou", kit)
    (kit / "SegmentationClass").mkdir()
    source = next((devkit / "VOCdevkit/VOC2012/SegmentationClass").glob("2009_000002.png"))
    (kit / "SegmentationClass" / source.name).write_bytes(source.read_bytes())
    assert read(infer("--cam_iou", kit))["cam_images"] == 1


def test_data_dir_counts_as_given_also_where_it_equals_the_default(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default = "../VOCtrainval_11-May-2012/"
    commands = {
        "training": lambda argv: parse("cMax", argv),
        "inference": lambda argv: inference_classification.main(
            ["--checkpoint", str(run), "--cpu", *argv]
        ),
        "lists": prepare_voc.main,
        "ablation": lambda argv: ablation.main(
            [*argv, "--strategies", "none", "--output_dir", str(tmp_path / "a")]
        ),
    }
    for name, call in commands.items():
        for argv in (["--data_dir", default], [f"--data_dir={default}"]):
            with pytest.raises(UserError, match="VOCtrainval_11-May-2012/? does not exist"):
                call(argv)
            assert not (tmp_path / "a").exists(), name


def test_a_data_dir_without_a_value_is_as_if_not_given(monkeypatch, tmp_path):
    from oass import options_own

    asked = []
    monkeypatch.setattr(
        options_own, "locate_voc", lambda given, sample: asked.append(given) or 1 / 0
    )
    for argv in (["--data_dir"], ["--data_dir", "--cpu"], [], ["--data_dir", "x"]):
        with pytest.raises(ZeroDivisionError):
            parse("cMax", argv)
    assert asked == [None, None, None, "x"]


# --- explain ---


def test_no_flag_of_explain_is_forgotten():
    tested = {
        "image",
        "npz",
        "before",
        "classes",
        "strategy",
        "checkpoint",
        "architecture",
        "image_size",
    }
    assert flags_of(build_explain_parser()) - SHARED == tested


@pytest.mark.slow
def test_flags_of_explain_act_or_are_refused(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, side in (("a", (90, 150)), ("b", (60, 60))):
        Image.fromarray(rng.integers(0, 255, (*side, 3), np.uint8)).save(tmp_path / f"{name}.png")

    def draw(name, flags="", pictures=("a",)):
        files = [str(tmp_path / f"{picture}.png") for picture in pictures]
        argv = [
            "--image",
            *files,
            "--checkpoint",
            str(run),
            "--cpu",
            "--output_dir",
            str(tmp_path / name),
        ]
        explain.main([*argv, *flags.split()])
        return cv2.imread(str(tmp_path / name / "figures/explain.png"))

    some = "--classes aeroplane bird boat cat"
    plain = draw("plain", some)
    for name, flags in {
        "strategy": "--strategy cTopk",
        "size": "--image_size 96",
        "before": f"--before {run}",
    }.items():
        changed = draw(name, f"{some} {flags}")
        assert changed.shape != plain.shape or (changed != plain).any(), name
    assert draw("classes", "--classes bird").shape[0] < plain.shape[0]
    both = draw("both", some, ("a", "b"))
    assert np.array_equal(
        both[: len(plain)], plain
    )  # an image's row does not depend on its neighbours
    out = capsys.readouterr().out
    described = "cMax, resnet_tiny, instance head, 20 classes, 64 px, pixels normalised by"
    assert f"{described} 0.485 0.456 0.406" in out
    assert "other than in training: --image_size 96 (trained with 64)" in out
    for flags, message in {
        "--sample": "--sample: the pictures are those of --image",
        "--max_steps 2": "--max_steps: this script does not train",
        "--image_size 65": "a multiple of 32",
        "--architecture resnet18": "looks like",
        "--classes puppy": "choose from aeroplane",
    }.items():
        with pytest.raises(UserError, match=message):
            draw("refused", flags)
    assert not (tmp_path / "refused").exists()


def test_the_pictures_tiles_follow_teacher_bn_and_no_neighbour(run, devkit, tmp_path):
    """Also where the tiles of a batch share their statistics."""
    accelerator = make_accelerator(SimpleNamespace(cpu=True, mixed_precision=None))
    model = Trained(run).network()
    for name, side in (("a", 64), ("b", 64)):
        pixels = np.random.default_rng(len(name) + ord(name)).integers(
            0, 255, (side, side, 3), np.uint8
        )
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    labels = torch.zeros(2, 20)
    labels[:, 3] = 1
    figures = {}
    for mode in ("group", "batch", "eval"):
        pictures = PuzzlePictures(PuzzleOptions("cMax"), TilePass(mode), 64, 2, accelerator)
        for name, count in (("one", 1), ("two", 2)):
            shown = []
            for path in (tmp_path / "a.png", tmp_path / "b.png")[:count]:
                shown.append(explain.shown_whole(read_own_picture(path), 64, model.interpolation))
            picture = Picture(*map(torch.cat, zip(*shown, strict=True)))
            pictures.draw(tmp_path / f"{name}.png", model, model, picture, labels[:count])
            figures[mode, name] = cv2.imread(str(tmp_path / f"{name}.png"))
        assert np.array_equal(
            figures[mode, "one"], figures[mode, "two"][: len(figures[mode, "one"])]
        )
    assert (figures["group", "one"] != figures["eval", "one"]).any()
