"""What the user set wins over what; flags that could not act, and bad values, end in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mile
from common.cli import UserError
from mile.build import build_plan
from mile.config import config, parse_config
from mile.options import parse
from mile.options_table import SAMPLE_DEFAULTS, SETTINGS
from tests.heavy import HEAVY


def test_eval_rho_is_rho_where_it_is_not_given():
    assert parse_config(["--rho", "0.4"]).eval_rho == 0.4
    assert parse_config(["--rho", "0.4", "--eval_rho", "0.3"]).eval_rho == 0.3
    for flags, expected in (([], 0.1), (["--eval_rho", "0.3"], 0.3)):
        conf = located("--dataset", "mnist", *flags)
        assert (conf.rho, conf.eval_rho) == (0.1, expected)


def test_sample_defaults_yield_to_flags_and_to_edited_attributes(monkeypatch):
    monkeypatch.setattr(config, "lr", 0.5)
    conf = located("--dataset", "mnist", "--k_t", "7")
    assert (conf.lr, conf.k_t) == (0.5, 7)
    others = {n: v for n, v in SAMPLE_DEFAULTS["mnist"].items() if n not in ("lr", "k_t")}
    assert {name: getattr(conf, name) for name in others} == others
    given = located("--batch_size", "16")  # the delivered value, but given
    assert given.batch_size == 16 and given.model == "small"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rho", "25"], "rho 25.0: between 0 and 1 (0.25, not 25)"),
        (["--rho", "0"], "rho 0.0: between 0 and 1"),
        (["--k_t", "0"], "k_t 0: at least 1"),
        (["--k_s", "-1"], "k_s -1: at least 1"),
        (["--schema", "mile"], "--schema: invalid choice: 'mile'"),
        (["--batch_size", "0"], "batch_size 0: at least 1"),
        (["--device", "gpu"], "device 'gpu': cuda, cpu, cuda:N or mps"),
        (["--train_frac", "10"], "train_frac 10.0: above 0, at most 1"),
        (["--lr", "nan"], "lr nan: above 0"),
        (["--lr_milestones", "a"], "lr_milestones 'a': numbers above 0"),
        (["--mnist_size", "20"], "mnist_size 20: from 28 to 16384"),
        (["--lr_milestones", "3,inf"], "lr_milestones '3,inf': numbers above 0"),
        (["--compare", "softmax,x"], "--compare 'x'"),
        (["--compare", "MILe,softmax,MILe"], "--compare MILe,softmax,MILe: each schema once"),
        (["--seeds", "0,1,00"], "--seeds: each seed once, not '0,1,00'"),
        (["--seeds", "a"], "--seeds: integers"),
        (["--rho_cover", "0.9", "--rho_start", "0.5"], "--rho_cover and --rho_start: "),
        (["--eval_only"], "--eval_only: give the weights"),
        (["--unknown", "1"], "unrecognized arguments"),
    ],
)
def test_bad_values_end_in_one_line(capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        parse_config(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "mnist", "--model", "resnet18"], "use resnet18-10"),
        (["--dataset", "mnist", "--train_frac", "0.1"], "train_frac is for image folders"),
        (["--dataset", "imagenet", "--model", "resnet18-10"], "use resnet18 with imagenet"),
        (["--dataset", "folder"], "no offline sample, these have one: imagenet, mnist"),
        (["--dataset", "webvision"], "these have one: imagenet, mnist"),
    ],
)
def test_data_and_model_must_fit(flags, message):
    with pytest.raises(UserError, match=message):
        parse(["--sample", *flags])


def test_a_given_model_is_checked_before_data_are_looked_for(monkeypatch):
    monkeypatch.setattr("mile.data_location.locate", lambda *args, **more: pytest.fail("searched"))
    with pytest.raises(UserError, match="use resnet18-10"):
        parse(["--dataset", "mnist", "--model", "resnet18"])


def test_a_wrong_folder_is_named_and_no_sample_advised_in_vain(tmp_path):
    with pytest.raises(UserError, match="data_path .*nowhere does not exist") as error:
        parse(["--dataset", "folder", "--data_path", str(tmp_path / "nowhere")])
    assert "--sample" not in str(error.value)
    (tmp_path / "info").mkdir()
    flags = ["--dataset", "webvision", "--data_path", str(tmp_path)]
    parse(flags)
    with pytest.raises(UserError, match="val_path .*nowhere does not exist"):
        parse([*flags, "--val_path", str(tmp_path / "nowhere")])


def test_a_folder_set_takes_no_label_file_from_the_default_place(tmp_path, monkeypatch):
    for name in ("data", "mile", "set/train", "set/val"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "real.json").touch()
    monkeypatch.chdir(tmp_path / "mile")
    flags = ["--dataset", "folder", "--data_path", "../set/train", "--val_path", "../set/val"]

    def found(*more):
        return parse([*flags, *more]).data.real

    assert found() is None
    assert found("--real_path", "../data/real.json") == Path("../data/real.json")
    (tmp_path / "set" / "real.json").touch()
    assert found() == Path("../set/real.json")


def located(*flags):
    """The settings of a sample run."""
    return parse(["--sample", *flags], lambda line: None).args


@pytest.mark.parametrize("how", ["flag", "edit"])
@pytest.mark.parametrize(("schema", "steps"), [("MILe", 150 + 20 + 20), ("sigmoid", 23)])
def test_epochs_that_were_set_outrank_the_samples_fixed_number_of_steps(
    monkeypatch, how, schema, steps
):
    """One generation is 150 steps of warm-up and 20 + 20.

    One pass over the 1,500 images is 23 batches of 64.
    """
    if how == "edit":
        monkeypatch.setattr(config, "epoch_num", 1)
        conf = located("--schema", schema)
    else:
        conf = located("--schema", schema, "--epoch_num", "1")
    plan = build_plan(conf, pass_steps=1500 // conf.batch_size)
    assert (plan.epochs, plan.steps) == (1, steps)
    monkeypatch.undo()
    assert build_plan(located("--schema", schema), pass_steps=23).steps == 500


def test_epochs_given_at_their_delivered_value_are_given():
    conf = located("--epoch_num", "100")
    assert conf.total_steps == 0 and build_plan(conf, pass_steps=23).epochs == 100


def test_of_two_lengths_the_one_given_last_counts(monkeypatch, capsys):
    monkeypatch.setattr(config, "total_steps", 300)
    assert located("--epoch_num", "2").total_steps == 0
    assert located().total_steps == 300
    monkeypatch.setattr(config, "epoch_num", 7)
    assert located("--epoch_num", "2").total_steps == 0
    assert located("--total_steps", "9").total_steps == 9
    with pytest.raises(SystemExit):
        parse_config([])
    assert "epoch_num and total_steps are both set: two lengths, set one" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(SAMPLE_DEFAULTS["mnist"]))
def test_every_setting_of_the_sample_yields_to_a_delivered_value(name):
    if name in ("model", "lr_schedule"):
        value = {"model": "resnet18-10", "lr_schedule": "plateau"}[name]
        flags = [f"--{name}", value]
    elif name == "scale_lr":
        value = True
        flags = ["--scale_lr"]
    else:
        value = 84 if name == "mnist_size" else SETTINGS[name].default
        flags = [f"--{name}", str(value)]
    conf = located("--dataset", "mnist", *flags)
    assert getattr(conf, name) == value
    others = {key: default for key, default in SAMPLE_DEFAULTS["mnist"].items() if key != name}
    assert {key: getattr(conf, key) for key in others} == others


@pytest.mark.parametrize("model", ["resnet18-10", "small-10"])
def test_a_model_that_was_set_is_the_model_of_a_sample_run(monkeypatch, model):
    monkeypatch.setattr(config, "dataset", "mnist")
    monkeypatch.setattr(config, "model", model)
    assert located().model == model


def test_what_the_sample_sets_is_said():
    said = []
    parse(["--sample", "--dataset", "mnist", "--lr", "0.1"], said.append)
    assert len(said) == 1 and max(map(len, said[0].splitlines())) <= 120
    assert "model small-10, mnist_size 30, total_steps 600, batch_size 64, rho 0.1" in " ".join(
        said[0].split()
    )


def test_a_path_given_at_its_delivered_value_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags in (
        ["--mnist_path", "../data/", "--dataset", "mnist"],
        ["--data_path", "../data/train/"],
        ["--val_path", "../data/val"],
    ):
        with pytest.raises(UserError, match="does not exist|is not in"):
            parse(flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--compare", "MILe,sigmoid", "--schema", "MILe"],
            "--schema: --compare names the schemas",
        ),
        (["--seeds", "0,1", "--seed", "0"], "--seed: --seeds names the seeds"),
        (["--device", "cuda", "--cpu"], "--device cuda and --cpu: give one of the two"),
    ],
)
def test_flags_that_contradict_each_other_are_refused_by_the_parser(capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        parse_config(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


MNIST = ["--dataset", "mnist"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mnist_path", "data"], "--sample and --mnist_path data: give one"),
        (["--data_path", "data"], "--sample and --data_path data: give one"),
        (["--val_path", "data"], "--sample and --val_path data: give one"),
        (["--mnist_size", "30"], "--mnist_size is for mnist, not imagenet"),
        (["--mnist_grids", "9"], "--mnist_grids is for mnist, not imagenet"),
        (["--mnist_test_grids", "9"], "--mnist_test_grids is for mnist, not imagenet"),
        (["--no-mnist_redraw"], "--mnist_redraw is for mnist, not imagenet"),
        ([*MNIST, "--augment", "none"], "--augment is for image folders"),
        (
            [*MNIST, "--image_size", "32"],
            "--image_size is for image folders; mnist has --mnist_size",
        ),
        ([*MNIST, "--train_frac", "0.1"], "--train_frac is for image folders; --mnist_grids N"),
        ([*MNIST, "--subset_file", __file__], "--subset_file is for image folders"),
        ([*MNIST, "--reweight", "uniform"], "--reweight is for image folders"),
        ([*MNIST, "--real_path", __file__], "--real_path is for imagenet and folder, not mnist"),
        (["--subset_seed", "1"], "--subset_seed is for --train_frac below 1"),
        (
            ["--subset_seed", "1", "--train_frac", "0.5", "--subset_file", __file__],
            "--subset_seed is for",
        ),
        (["--schema", "sigmoid", "--warmup", "5"], "--warmup is for schema MILe, not sigmoid"),
        (
            ["--schema", "sigmoid", "--rho_start", "0.5"],
            "--rho_start is for schema MILe, not sigmoid",
        ),
        (
            ["--schema", "softmax", "--rho_cover", "0.5"],
            "--rho_cover is for schema MILe, not softmax",
        ),
        (["--schema", "sigmoid", "--threshold_on", "prob"], "--threshold_on is for schema MILe"),
        (["--schema", "sigmoid", "--student_init", "own"], "--student_init is for schema MILe"),
        (["--compare", "sigmoid,softmax", "--keep_ground_truth"], "not sigmoid, softmax"),
        (["--schema", "softmax", "--reduction", "sum"], "--reduction is for sigmoid outputs"),
        (["--schema", "softmax", "--bias_init", "prior"], "--bias_init is for sigmoid outputs"),
        (
            ["--lr_schedule", "cosine", "--lr_milestones", "3"],
            "--lr_milestones is for --lr_schedule step, not cosine",
        ),
    ],
)
def test_a_flag_that_could_do_nothing_is_refused(flags, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        located(*flags)


def test_flags_that_act_in_one_of_several_schemas_are_taken():
    conf = located(
        "--compare",
        "softmax,sigmoid,MILe",
        "--warmup",
        "5",
        "--reduction",
        "sum",
        "--bias_init",
        "prior",
    )
    assert conf.warmup == 5


def test_total_steps_take_the_place_of_epoch_num_which_is_said():
    said = []
    flags = ["--sample", "--dataset", "mnist", "--total_steps", "6", "--epoch_num", "2"]
    conf = parse(flags, said.append).args
    assert conf.total_steps == 6 and said[-1] == "set, but without effect here: epoch_num"


def test_an_attribute_without_effect_is_named_and_not_refused(monkeypatch):
    """config.py holds the settings of all data sets and schemas at once."""
    monkeypatch.setattr(config, "image_size", 32)
    monkeypatch.setattr(config, "warmup", 5)
    said = []
    parse(["--sample", *MNIST, "--schema", "sigmoid", "--k_t", "7"], said.append)
    assert said[-1] == "set, but without effect here: image_size, k_t, warmup"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data_path=~nouser/x"], "data_path: ~nouser/x: there is no user"),
        (["--val_path=~nouser/x"], "val_path: ~nouser/x: there is no user"),
        (["--mnist_path=~nouser/x"], "mnist_path: ~nouser/x: there is no user"),
        (["--checkpoint_path=~nouser/x"], "checkpoint_path: ~nouser/x: there is no user"),
        (["--data_path", __file__], "a file, expected a folder"),
        (["--real_path", "/nowhere.json"], "real_path: /nowhere.json: no such file"),
        (["--subset_file", "/"], "subset_file: /: a folder, expected a file"),
        (["--pretrained", "/nowhere.pth"], "pretrained: /nowhere.pth: no such file"),
        (["--pretrained", ""], "pretrained: the path is empty"),
        (["--lr", "inf"], "lr inf: above 0"),
        (["--lr", "nan"], "lr nan: above 0"),
        (["--rho_start", "nan"], "rho_start nan: between 0 and 1"),
        (["--train_frac", "inf"], "train_frac inf: above 0, at most 1"),
        (["--lr_milestones", "1,nan"], "numbers above 0"),
        (["--image_size", "16385"], "image_size 16385: from 8 to 16384"),
        (["--mnist_size", "16385"], "mnist_size 16385: from 28 to 16384"),
        (["--mnist_grids", "100000000"], "mnist_grids 100000000: from 0 to"),
        (["--subset_seed", str(2**32)], "subset_seed 4294967296: from 0 to 4294967295"),
        (["--epoch_num", "1000001"], "epoch_num 1000001: from 1 to 1000000"),
        (["--k_t", str(10**10)], "k_t 10000000000: at least 1, at most 1,000,000,000"),
    ],
)
def test_paths_and_absurd_values_end_in_one_line(capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        parse_config(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--dataset", "folder"],
        ["--dataset", "folder", "--data_path", "/nowhere"],
        ["--dataset", "folder", "--sample"],
        ["--dataset", "webvision"],
        ["--dataset", "webvision", "--data_path", "/"],
        ["--dataset", "mnist", "--mnist_path", "/nowhere"],
        ["--data_path", "/nowhere"],
        ["--val_path", "/"],
    ],
)
def test_what_is_missing_is_said_in_two_lines_at_most(tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WSL_DATA_DIR", raising=False)
    with pytest.raises(UserError) as error:
        parse(flags)
    message = str(error.value)
    assert len(f"error: {message}") <= 240 and "\n" not in message
    assert "--data_path" in message or "--mnist_path" in message or "--sample" in message


# ---- answered before torch is imported -----------------------------------------------------------

SCRIPT = Path(mile.__file__).parent / "MILe.py"
PROGRAM = """
import runpy, sys
sys.argv = ["MILe.py", *sys.argv[1:]]
try:
    runpy.run_path({script!r}, run_name="__main__")
finally:
    print("imported:", [name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--help"], 0, "--max_checkpoint_num"),
        (["--k_tt", "3"], 2, "unrecognized arguments: --k_tt 3"),
        (["--data_path", "/nowhere"], 2, "error: --data_path /nowhere does not exist"),
        (["--dataset", "mnist", "--mnist_path", "/nowhere"], 2, "/nowhere does not exist (MNIST)"),
        (["--sample", "--dataset", "folder"], 2, "--dataset folder has no offline sample"),
    ],
)
def test_help_and_mistakes_are_answered_without_heavy_imports(tmp_path, flags, status, said):
    program = PROGRAM.format(script=str(SCRIPT), heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", program, *flags],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "WSL_OFFLINE": "1"},
    )
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
    assert "imported: []" in done.stdout
