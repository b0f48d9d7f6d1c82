"""Flags, folders and data paths; the metadata that is built on first use; what parsing imports."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from calm import options_flags
from calm.config import get_configs, mch, set_data_path, str2bool
from calm.data_loaders import configure_metadata, get_image_ids
from calm.options import Settings, parse
from common.cli import UserError
from tests.calm.training_runs import prepared
from tests.heavy import HEAVY

SEED_FLAGS = (
    "--experiment_name=experiment_name/ --architecture=resnet50 --attribution_method=CALM_EM "
    "--dataset=CUB --use_bn=True --large_feature_map=True --use_load_checkpoint=True "
    "--load_checkpoint=checkpoint_name/ "
    "--score_map_process=jointll --norm_type=clipping --threshold_type=log"
).split()


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WSL_DATA_DIR", raising=False)


def test_the_originals_defaults() -> None:
    args = get_configs([])
    expected = {
        "seed": None,
        "experiment_name": "result",
        "save_root": "save",
        "override_cache": False,
        "workers": 4,
        "batch_size": 64,
        "epochs": 40,
        "load_checkpoint": None,
        "logger_type": "PythonLogger",
        "dataset_name": "CUB",
        "data_root": "dataset/",
        "metadata_root": "metadata/CUB",
        "mask_root": "dataset/OpenImages",
        "architecture": "resnet50",
        "attribution_method": "CAM",
        "cam_curve_interval": 0.001,
        "resize_size": 256,
        "crop_size": 224,
        "lr": 0.01,
        "lr_decay_frequency": 30,
        "lr_classifier_ratio": 10,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "iou_thresholds": [30, 50, 70],
        "smoothing_ksize": 1,
        "score_map_method": "activation_map",
        "score_map_process": "vanilla",
        "norm_type": "minmax",
        "threshold_type": "even",
        "smooth_grad_nr_iter": 50,
        "smooth_grad_sigma": 4.0,
        "integrated_grad_nr_iter": 50,
        "is_train": True,
        "pretrained": True,
        "use_bn": False,
        "large_feature_map": False,
    }
    assert {name: getattr(args, name) for name in expected} == expected
    assert (
        args.log_folder == Path("save/result")
        and args.log_folder.is_dir()
        and not Settings.of(args).is_named
    )


def test_the_seeds_commands_parse() -> None:
    args = get_configs(SEED_FLAGS)
    assert (
        args.attribution_method == "CALM-EM" and args.dataset_name == "CUB" and args.use_bn is True
    )
    assert args.log_folder == Path("save/experiment_name") and Settings.of(args).is_named
    assert get_configs(SEED_FLAGS).log_folder.is_dir()  # a second start is no error


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--use_bn"], "use_bn", True),
        (["--use_bn", "no"], "use_bn", False),
        (["--attribution_method", "CALM_ML"], "attribution_method", "CALM-ML"),
        (["--dataset", "ImageNet"], "dataset_name", "ILSVRC"),
        (["--override_cache=True"], "overwrite", True),
        (["--score_map_process", "smooth_grad"], "score_map_method", "backprop"),
        (["--output_dir", "here"], "log_folder", Path("here")),
    ],
)
def test_spellings(flags: list[str], name: str, value: object) -> None:
    assert getattr(get_configs(flags), name) == value


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--attribution_method", "CALM"], "CAM, CALM-EM, CALM-ML"),
        (["--dataset", "CIFAR"], "CUB, ILSVRC, OpenImages"),
        (["--logger_type", "Python"], "tensorboard"),
        (["--score_map_process", "mystery"], "jointll-superclass-mean"),
        (["--norm_type", "l2"], "clipping"),
        (["--cam_curve_interval", "0"], "between 0 and 1"),
        (["--cam_curve_interval", "1"], "between 0 and 1"),
        (["--erase_k", "1.5"], "0..1"),
        (["--smoothing_ksize", "4"], "odd"),
        (["--use_bn", "perhaps"], "neither"),
        (["--score_map_process", "jointll-superclass"], "--superclass_file"),
        (["--score_map_method", "backprop"], "no gradient"),
        (["--em_teacher", "ema"], "CALM-EM"),
        (["--crop_size", "300"], "--crop_size"),
        (["--load", "x"], "unrecognized"),
        (["--workers", "-1"], "must not be negative"),
        (["--weight_decay", "-1"], "must not be negative"),
        (["--lr", "nan"], "finite number"),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        get_configs(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and message in error


@pytest.mark.parametrize("text", ["yes", "TRUE", "t", "Y", "1"])
def test_str2bool(text: str) -> None:
    assert (
        str2bool(text) is True and str2bool({"yes": "no", "TRUE": "FALSE"}.get(text, "0")) is False
    )


def test_data_paths(tmp_path: Path) -> None:
    assert (
        set_data_path("CUB", "d").train == "d/CUB/images"
        and set_data_path("CUB", "d")["val"] == "d/CUBV2"
    )
    assert (
        set_data_path("ILSVRC", "d").val == "d/ImageNetV2"
        and set_data_path("ILSVRC", "d").test == "d/ILSVRC"
    )
    (tmp_path / "ILSVRC" / "val2").mkdir(parents=True)
    assert set_data_path("ILSVRC", tmp_path).val == str(tmp_path / "ILSVRC")
    assert set_data_path("OpenImages", "d").val == "d/OpenImages"
    with pytest.raises(ValueError, match="OpenImages"):
        set_data_path("VOC", "d")
    assert mch(a=1).a == mch(a=1)["a"] == 1
    with pytest.raises(AttributeError):
        _ = mch().missing


def test_sample_defaults_yield_to_given_flags(birds: Path) -> None:
    args = parse(["--data_root", str(birds)]).args
    assert (args.architecture, args.crop_size, args.pretrained, args.prior_gradient) == (
        "small",
        64,
        False,
        "full",
    )
    given = [
        "--attribution_method=CALM_EM",
        "--architecture=resnet50",
        "--epochs",
        "7",
        "--crop_size",
        "224",
    ]
    given += ["--resize_size", "256", "--prior_gradient", "detach"]
    args = parse(["--data_root", str(birds), *given]).args
    assert (args.architecture, args.epochs, args.crop_size, args.prior_gradient) == (
        "resnet50",
        7,
        224,
        "detach",
    )


def test_missing_data(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match="nowhere does not exist.*--sample"):
        parse(["--data_root", "nowhere"])
    with pytest.raises(UserError, match="ILSVRC.*no offline sample.*CUB"):
        parse(["--dataset", "ILSVRC"])


def test_metadata_is_built_once_and_again_for_another_data_set(birds: Path, tmp_path: Path) -> None:
    flags = ["--data_root", str(birds), "--metadata_root", str(tmp_path / "lists")]
    _, data = prepared(flags)
    folder = data.metadata
    assert folder == tmp_path / "lists" / "CUB"
    ids = get_image_ids(configure_metadata(folder / "test"))
    assert len(ids) == 18
    named = ["--data_root", str(birds), "--metadata_root", str(folder)]
    assert prepared(named)[1].metadata == folder
    source = folder / "source.json"
    source.write_text('{"built_from": "another folder"}')
    (folder / "test" / "image_ids.txt").write_text("strange.jpg")
    assert prepared(flags)[1].metadata == folder
    assert get_image_ids(configure_metadata(folder / "test")) == ids
    source.unlink()  # lists of the user's own are never replaced
    (folder / "test" / "image_ids.txt").write_text("strange.jpg")
    assert prepared(flags)[1].metadata == folder
    assert get_image_ids(configure_metadata(folder / "test")) == ["strange.jpg"]


def test_metadata_is_built_again_where_a_second_val_set_came_or_went(
    birds: Path, tmp_path: Path
) -> None:
    shutil.copytree(birds, tmp_path / "b")
    flags = ["--data_root", str(tmp_path / "b"), "--metadata_root", str(tmp_path / "lists")]

    def val_ids() -> list[str]:
        _, data = prepared(flags)
        ids = get_image_ids(configure_metadata(data.metadata / "val"))
        assert all((Path(data.paths["val"]) / i).is_file() for i in ids)
        return ids

    held = val_ids()
    second = tmp_path / "b/CUBV2/002.Bird"
    (second.parent / "003.Empty").mkdir(parents=True)
    assert val_ids() == held and len(held) == 30
    second.mkdir()
    Image.new("RGB", (9, 7)).save(second / "x.jpeg")
    assert val_ids() == ["002.Bird/x.jpeg"]
    shutil.rmtree(second)
    assert val_ids() == held


def test_masks_lie_where_the_images_do(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / "d/OpenImages" / split / "m_01").mkdir(parents=True)
        Image.new("RGB", (9, 7)).save(tmp_path / "d/OpenImages" / split / "m_01/a.jpg")
    given = ["--dataset=OpenImages", "--data_root", str(tmp_path / "d")]
    assert prepared(given)[0].args.mask_root == str(tmp_path / "d/OpenImages")
    assert prepared([*given, "--mask_root", "m"])[0].args.mask_root == "m/OpenImages"


def test_metadata_goes_to_the_save_folder_where_its_root_is_read_only(
    birds: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    _, data = prepared(
        ["--data_root", str(birds), "--metadata_root", str(tmp_path / "file"), "--save_root", "out"]
    )
    assert data.metadata == Path("out/metadata/CUB")


def test_importing_has_no_side_effects() -> None:
    assert options_flags.build_parser().parse_args([]).epochs == 40
    assert not Path("save").exists()


LOOK = """
import sys
from calm.options import parse
from calm.options_own import parse_compare
for given in (["--help"], ["--mistyped"], ["--data_root", "nowhere"]):
    try:
        parse(given)
    except (SystemExit, Exception) as error:
        print(type(error).__name__)
try:
    parse_compare(["--help"])
except SystemExit:
    pass
print(sorted(set(sys.modules) & set(sys.argv[1].split(","))))
"""


def test_help_and_mistakes_are_answered_before_the_slow_imports() -> None:
    command = [sys.executable, "-c", LOOK, ",".join((*HEAVY, "captum"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "[]"
    assert [line for line in done.stdout.split("\n") if line in ("SystemExit", "UserError")] == [
        "SystemExit",
        "SystemExit",
        "UserError",
    ]


def test_the_names_of_the_flags_are_those_of_the_code() -> None:
    from calm import network, options_names, report_logger, score_map_method
    from calm.network.head import ACTIVATIONS
    from common import cam

    assert options_names.ARCHITECTURES == tuple(network.ARCHITECTURES)
    assert options_names.ACTIVATIONS == tuple(ACTIVATIONS)
    assert options_names.GRADIENT_PROCESSES == tuple(score_map_method.GRADIENT_PROCESSES)
    assert options_names.NORM_TYPES == cam.NORM_TYPES
    for name in options_names.LOGGER_TYPES:
        assert report_logger.load_logger(name)
