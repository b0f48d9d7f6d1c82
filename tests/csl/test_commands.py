"""The flags, the printed commands without data, and a user's mistakes: one line, status 2."""

import json
import shlex

import pytest
import torch

from common import samples
from common.cli import UserError, run_main
from csl import infer, train, validate
from csl.options import parse
from csl.options_choices import RECIPES
from tests.csl.tiny import NAMES, arguments, write_coco

# The released commands, without --data, --model-path and --prior_path.
COMMANDS = (
    "--partial_loss_mode=selective",
    "--gamma_pos=0 --gamma_neg=1 --gamma_unann=4 --simulate_partial_type=rps"
    " --simulate_partial_param=0.5 --partial_loss_mode=selective --likelihood_topk=5"
    " --prior_threshold=0.5",
    "--gamma_pos=0 --gamma_neg=3 --gamma_unann=4 --simulate_partial_type=fpc"
    " --simulate_partial_param=1000 --partial_loss_mode=selective --likelihood_topk=5"
    " --prior_threshold=0.5",
)
RELEASED = {
    "lr": 2e-4,
    "epochs": 30,
    "stop_epoch": None,
    "weight_decay": 1e-4,
    "model_name": "tresnet_m",
    "workers": 8,
    "image_size": 448,
    "batch_size": 64,
    "print_freq": 64,
    "simulate_partial_type": None,
    "simulate_partial_param": 1000,
    "partial_loss_mode": "negative",
    "clip": 0,
    "gamma_pos": 0,
    "gamma_neg": 1,
    "gamma_unann": 2,
    "alpha_pos": 1,
    "alpha_neg": 1,
    "alpha_unann": 1,
    "likelihood_topk": 5,
    "prior_path": None,
    "prior_threshold": 0.05,
    "ema_decay": 0.9997,
    "debug_mode": "auto",
    "model_path": "./tresnet_m.pth",
    "seed": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture(scope="module")
def coco_sample(tmp_path_factory):
    """The COCO_2014 sample, drawn once for this file."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSL_SAMPLE_DIR", str(cache))
        samples.ensure("COCO_2014")
        yield cache


@pytest.fixture
def empty_folder(tmp_path, monkeypatch, coco_sample):
    monkeypatch.delenv("WSL_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_parser_shows_the_released_defaults():
    args = vars(train.parser.parse_args([]))
    assert {k: args[k] for k in RELEASED} == RELEASED
    assert (args["data"], args["metadata"], args["path_dest"]) == (
        "./data",
        "./data/COCO_2014",
        "./outputs",
    )
    v = vars(validate.parser.parse_args([]))
    assert (v["model_name"], v["num_classes"], v["image_size"], v["thre"]) == (
        "tresnet_l",
        80,
        448,
        0.8,
    )
    assert (v["model_path"], v["batch_size"], v["workers"]) == ("./TRresNet_L_448_86.6.pth", 32, 8)
    assert (v["data"], v["positional_data"]) == ("./data", None)
    i = vars(infer.parser.parse_args([]))
    assert i["class_description_path"] == "./data/oidv6-class-descriptions.csv"
    assert str(i["output_dir"]) == "outputs/infer"
    assert (i["model_name"], i["input_size"], i["th"], i["top_k"]) == ("tresnet_m", 224, 0.97, 30)


def test_hyphens_and_underscores():
    dashed = train.parser.parse_args(
        "--model-name=tresnet_l --gamma-pos 1 --image-size=8 -b 3 -j 1".split()
    )
    assert (dashed.model_name, dashed.gamma_pos, dashed.image_size) == ("tresnet_l", 1, 8)
    assert (dashed.batch_size, dashed.workers) == (3, 1)
    assert train.parser.parse_args(["--model_path=a-b/--c"]).model_path == "a-b/--c"


@pytest.mark.parametrize("command", COMMANDS)
def test_printed_commands_without_data_run_on_the_sample(command, empty_folder, capsys):
    train.main([*shlex.split(command), "--max_steps", "2", "--cpu"])
    told = capsys.readouterr().out
    assert (
        told.startswith("COCO 2014 is not in data:")
        and "this run uses the offline sample" in told.split("\n")[0]
    )
    assert "results: outputs/COCO_2014_tresnet_tiny_selective" in told
    config = json.loads(
        (empty_folder / "outputs/COCO_2014_tresnet_tiny_selective/config.json").read_text()
    )
    settings = config["settings"]
    assert (settings["image_size"], settings["epochs"], settings["model_path"]) == (64, 12, None)
    if "likelihood_topk" in command:  # given flags win over the sample's
        assert settings["likelihood_topk"] == 5 and settings["gamma_unann"] == 4
    else:
        assert (settings["likelihood_topk"], settings["simulate_partial_type"]) == (1, "fpc")
        assert settings["simulate_partial_param"] == 60


def test_recipes_are_the_rows_of_the_table(data, tmp_path):
    for name, recipe in RECIPES.items():
        args = parse(arguments(data, tmp_path, "--recipe", name)).args
        wanted = {
            k: v for k, v in recipe.items() if k != "likelihood_topk"
        }  # the flags give that one
        assert {k: getattr(args, k) for k in wanted} == wanted
    args = parse(arguments(data, tmp_path, "--recipe", "csl_fpc", "--gamma_neg", "2")).args
    assert (args.gamma_neg, args.gamma_unann, args.partial_loss_mode) == (2, 4, "selective")


TRAIN_MISTAKES = {
    "no layout": ("--data {empty}", "COCO 2014 is not in --data "),
    "no such folder": ("--data {empty}/nowhere", "does not exist"),
    "class count": ("--num_classes 80", "the data have 5 classes"),
    "rps wants a share": (
        "--simulate_partial_type rps --simulate_partial_param 1000",
        "rps wants the share",
    ),
    "fpc wants a count": (
        "--simulate_partial_type fpc --simulate_partial_param 0.5",
        "fpc wants the labels kept",
    ),
    "fpc of nan": (
        "--simulate_partial_type fpc --simulate_partial_param nan",
        "fpc wants the labels kept",
    ),
    "fpc of inf": (
        "--simulate_partial_type fpc --simulate_partial_param inf",
        "fpc wants the labels kept",
    ),
    "image size": ("--image_size 30", "such as 28 or 32"),
    "small image": ("--image_size 12", "from 20 on, such as 20 or 24"),
    "weights that are a folder": ("--model_path .", "no such file"),
    "weights that are the root": ("--model_path /", "no such file"),
    "given weights are missing": ("--model_path {empty}/w", ".safetensors"),
    "unknown model": ("--model_name resnet50", "tresnet_l_v2"),
    "binary prior": (
        "--prior_path {data}/train2014/COCO_train2014_000000000002.png",
        "save it as UTF-8",
    ),
    "prior is missing": ("--prior_path {empty}/p.csv", "--estimate_prior"),
    "two priors": ("--prior_path x.csv --estimate_prior 2", "leave --prior_path out"),
    "two schemes": ("--partial_labels x.npz", "replaces the simulation"),
    "row of no table": ("--compare csl,best", "choose from"),
    "negative gamma": ("--gamma_neg -1", "must not be negative"),
    "stable and clip": ("--stable_loss --clip 0.05", "not together"),
}


@pytest.mark.parametrize("case", TRAIN_MISTAKES, ids=[c.replace(" ", "-") for c in TRAIN_MISTAKES])
def test_mistakes_end_in_one_line(case, data, tmp_path, capsys):
    flags, expected = TRAIN_MISTAKES[case]
    (tmp_path / "empty").mkdir()
    given = arguments(
        data, tmp_path / "run", *flags.format(empty=tmp_path / "empty", data=data).split()
    )
    with pytest.raises(SystemExit) as stopped:
        run_main(lambda: train.main(given))
    assert stopped.value.code == 2
    told = capsys.readouterr().err.strip().split("\n")[-1]
    assert told.startswith(("error: ", "train.py: error: ")) and expected in told


def test_unknown_flags_end_in_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--no_such_flag"])
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_missing_and_corrupt_images(tmp_path, capsys):
    data = write_coco(tmp_path / "data")
    files = sorted((data / "train2014").iterdir())
    files[3].unlink()
    with pytest.raises(UserError, match=f"1 of 44 images .* the first: .*{files[3].name}"):
        train.main(arguments(data, tmp_path / "a"))
    files[4].write_bytes(b"not an image")
    flags = arguments(data, tmp_path / "b", "--skip_missing", "--epochs", "1")
    with pytest.raises(
        UserError, match=rf"{files[4].name}.*instances_train2014.json.*--skip_corrupt"
    ):
        train.main(flags)
    train.main([*flags, "--skip_corrupt", "--overwrite"])
    progress = torch.load(tmp_path / "b" / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert progress["skipped"] == 1 and "1 images of" in capsys.readouterr().err


def test_warnings_of_labels_that_make_a_mode_useless(data, tmp_path, capsys):
    flags = [f for f in arguments(data, tmp_path / "a", "--max_steps", "1")]
    at = flags.index("--simulate_partial_type")
    train.main([*flags[:at], *flags[at + 4 :], "--partial_loss_mode", "selective"])
    assert "all labels are annotated" in capsys.readouterr().err
    train.main(
        [
            *flags[:at],
            *flags[at + 4 :],
            "--output_dir",
            str(tmp_path / "b"),
            "--partial_loss_mode",
            "ignore",
        ]
        + ["--simulate_partial_type", "fpc", "--simulate_partial_param", "1000"]
    )
    assert "drops only 0.00 %" in capsys.readouterr().err


def test_partial_labels_of_one_run_serve_another(data, tmp_path):
    train.main(arguments(data, tmp_path / "a", "--max_steps", "1"))
    flags = arguments(
        data,
        tmp_path / "b",
        "--max_steps",
        "1",
        "--partial_labels",
        str(tmp_path / "a/partial_labels.npz"),
    )
    at = flags.index("--simulate_partial_type")
    train.main([*flags[:at], *flags[at + 4 :]])
    a, b = (
        json.loads((tmp_path / name / "summary.json").read_text())["partial_labels_sha256"]
        for name in "ab"
    )
    assert a == b and len(a) == 64


def test_infer_on_a_folder(data, tmp_path, capsys):
    train.main(arguments(data, tmp_path / "run", "--epochs", "1"))
    weights = str(tmp_path / "run" / "checkpoints" / "best_ema.pth")
    common = [
        "--model_path",
        weights,
        "--input_size",
        "32",
        "--dataset_type",
        "MS-COCO",
        "--cpu",
        "--th",
        "0.01",
    ]
    out, table = str(tmp_path / "out"), tmp_path / "t.json"
    pictures = str(data / "val2014" / "*0[1-3].png")
    ways = ["--output_dir", out, "--json", str(table), "--top_k", "3"]
    records = infer.infer(infer.parse([*common, "--pic_path", pictures, *ways]))
    assert len(records) == 3 and records == json.loads(table.read_text())
    for record in records:
        assert len(record["classes"]) == 3 and set(record["classes"]) <= set(NAMES)
        assert record["scores"] == sorted(record["scores"], reverse=True)
    assert len(list((tmp_path / "out" / "figures").glob("*.png"))) == 3
    told = capsys.readouterr().out
    assert (
        "is a tresnet_tiny, not a tresnet_m" in told and "COCO_val2014_000000000001.png: " in told
    )
    again = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert again["images_per_second"] > 0
    with pytest.raises(UserError, match="no picture there"):
        infer.main([*common, "--pic_path", str(tmp_path / "none.jpg")])
    with pytest.raises(UserError, match="model zoos"):
        infer.main(["--model_path", str(tmp_path / "none.pth")])


def test_thresholds_of_infer():
    def threshold(*flags):
        args = infer.parse_args(infer.parser, flags)  # the released call
        return args.th, args.do_bottleneck_head

    assert threshold() == (0.97, True)
    assert threshold("--th", "None") == (0.995, True)
    assert threshold("--th=None", "--dataset_type", "MS-COCO") == (0.7, False)
    assert threshold("--th", "0.5") == (0.5, True)
    with pytest.raises(SystemExit):
        threshold("--th", "high")


def test_infer_names_its_folder_only_where_it_was_given(tmp_path):
    assert infer.parse([]).args.output_dir is None
    assert infer.parse(["--output_dir", str(tmp_path)]).args.output_dir == tmp_path


@pytest.mark.parametrize("flags", [["--data", "./data"], ["./data"]])
def test_a_data_path_that_is_given_and_holds_nothing(flags, empty_folder):
    """Given is given, be it the default; the message fits two lines."""
    with pytest.raises(UserError, match=r"data does not exist \(LVIS\)") as stopped:
        validate.parse([*flags, "--dataset", "lvis"])
    assert len(f"error: {stopped.value}") <= 240
    with pytest.raises(UserError, match=r"data does not exist \(COCO 2014\).*--sample") as stopped:
        parse(["--data", "./data"])
    assert len(f"error: {stopped.value}") <= 240


def test_threshold_zero_and_no_weights_are_said(data, tmp_path, capsys):
    (tmp_path / "p.csv").write_text(
        "Classes,avg_pred\n" + "".join(f"{name},0.9\n" for name in NAMES)
    )
    prior = [
        "--partial_loss_mode",
        "selective",
        "--prior_path",
        str(tmp_path / "p.csv"),
        "--max_steps",
        "1",
    ]
    train.main(arguments(data, tmp_path / "a", *prior, "--prior_threshold", "0"))
    told = capsys.readouterr().err
    assert (
        "warning: --prior_threshold 0: the prior is not used" in told
        and "random initialisation" in told
    )
    train.main(arguments(data, tmp_path / "b", *prior))
    assert (
        f"5 of 5 classes are dropped where un-annotated: {', '.join(NAMES)}\n"
        in capsys.readouterr().out
    )
