"""class config, its flags, the sample's defaults: what wins over what; bad values end in one line, status 2."""

from pathlib import Path

import pytest

from common.cli import UserError
from mile.config import config, parse_config, setting
from mile.locate import choose_device, locate_data
from mile.settings import PRESETS, SAMPLE_DEFAULTS, SETTINGS


def test_the_delivered_class_and_the_table_are_the_same():
    own = {name: value for name, value in vars(config).items() if not name.startswith("__")}
    assert own == {name: entry.default for name, entry in SETTINGS.items()}


def test_delivered_values_are_those_of_the_readme():
    conf = parse_config([])
    expected = dict(
        model="resnet18", schema="MILe", dataset="imagenet", data_path="../data/train/", val_path="../data/val",
        real_path="../data/real.json", mnist_path="../data/", lr=0.1, batch_size=16, num_workers=4, epoch_num=100,
        k_t=8000, k_s=2000, device="cuda", rho=0.25, checkpoint_path="./checkpoint", max_checkpoint_num=2, seed=0,
    )  # fmt: skip
    assert {name: getattr(conf, name) for name in expected} == expected


@pytest.mark.parametrize("protocol", ["authors", "unofficial"])
def test_protocols_fill_what_is_none_and_explicit_settings_win(protocol, monkeypatch):
    conf = parse_config(["--protocol", protocol, "--lr", "0.2"])
    assert {name: getattr(conf, name) for name in PRESETS} == {n: v[protocol] for n, v in PRESETS.items()}
    assert conf.lr == 0.2
    monkeypatch.setattr(config, "reduction", "mean")
    assert parse_config(["--protocol", protocol]).reduction == "mean"
    assert parse_config(["--protocol", protocol, "--reduction", "sum"]).reduction == "sum"
    assert parse_config(["--protocol", protocol, "--no-nesterov"]).nesterov is False


def test_the_class_is_edited_by_hand_and_not_changed_by_parsing(monkeypatch):
    monkeypatch.setattr(config, "rho", 0.4)
    assert parse_config([]).rho == 0.4 and parse_config(["--rho", "0.6"]).rho == 0.6
    assert config.rho == 0.4 and config.threshold_on is None
    assert setting(config, "eval_rho") == 0.4 and setting(config, "threshold_on") == "prob"


def test_eval_rho_is_rho_where_it_is_not_given():
    assert parse_config(["--rho", "0.4"]).eval_rho == 0.4
    assert parse_config(["--rho", "0.4", "--eval_rho", "0.3"]).eval_rho == 0.3
    for flags, expected in (([], 0.1), (["--eval_rho", "0.3"], 0.3)):
        conf = parse_config(["--sample", "--dataset", "mnist", *flags])
        locate_data(conf)
        assert (conf.rho, conf.eval_rho) == (0.1, expected)


def test_help_shows_defaults_as_edited_and_the_command_line_is_the_default_argv(monkeypatch, capsys):
    monkeypatch.setattr(config, "k_t", 123)
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    assert "default: 123" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr("sys.argv", ["MILe.py", "--k_s", "7"])
    assert parse_config().k_s == 7


def test_sample_defaults_yield_to_flags_and_to_edited_attributes(monkeypatch):
    monkeypatch.setattr(config, "lr", 0.5)
    conf = parse_config(["--sample", "--dataset", "mnist", "--k_t", "7"])
    locate_data(conf)
    assert (conf.lr, conf.k_t) == (0.5, 7)
    others = {n: v for n, v in SAMPLE_DEFAULTS["mnist"].items() if n not in ("lr", "k_t")}
    assert {name: getattr(conf, name) for name in others} == others
    given = parse_config(["--sample", "--batch_size", "16"])  # the delivered value, but given
    locate_data(given)
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
        (["--mnist_size", "20"], "mnist_size 20: at least 28"),
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


def test_bad_attributes_end_in_one_line_too(monkeypatch, capsys):
    monkeypatch.setattr(config, "batch_size", "many")
    with pytest.raises(SystemExit):
        parse_config([])
    monkeypatch.setattr(config, "batch_size", 16.0)
    with pytest.raises(SystemExit) as stop:
        parse_config([])
    assert stop.value.code == 2 and "batch_size 16.0: expected int" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "mnist", "--model", "resnet18"], "use resnet18-10"),
        (["--dataset", "mnist", "--train_frac", "0.1"], "train_frac is for image folders"),
        (["--dataset", "imagenet", "--model", "resnet18-10"], "use resnet18 with imagenet"),
        (["--dataset", "folder"], "no offline sample; imagenet and mnist"),
        (["--dataset", "webvision"], "imagenet and mnist have one"),
    ],
)
def test_data_and_model_must_fit(flags, message):
    with pytest.raises(UserError, match=message):
        locate_data(parse_config(["--sample", *flags]))


def test_a_given_model_is_checked_before_data_are_looked_for(monkeypatch):
    monkeypatch.setattr("mile.locate.locate", lambda *args, **more: pytest.fail("searched"))
    with pytest.raises(UserError, match="use resnet18-10"):
        locate_data(parse_config(["--dataset", "mnist", "--model", "resnet18"]))


def test_a_wrong_folder_is_named_and_no_sample_advised_where_there_is_none(tmp_path):
    with pytest.raises(UserError, match="data_path .*nowhere does not exist") as error:
        locate_data(parse_config(["--dataset", "folder", "--data_path", str(tmp_path / "nowhere")]))
    assert "--sample" not in str(error.value)
    (tmp_path / "info").mkdir()
    flags = ["--dataset", "webvision", "--data_path", str(tmp_path)]
    locate_data(parse_config(flags))
    with pytest.raises(UserError, match="val_path .*nowhere does not exist"):
        locate_data(parse_config([*flags, "--val_path", str(tmp_path / "nowhere")]))


def test_a_folder_set_takes_no_label_file_from_the_default_place(tmp_path, monkeypatch):
    for name in ("data", "mile", "set/train", "set/val"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "real.json").touch()
    monkeypatch.chdir(tmp_path / "mile")
    flags = ["--dataset", "folder", "--data_path", "../set/train", "--val_path", "../set/val"]

    def found(*more):
        conf = parse_config([*flags, *more])
        locate_data(conf)
        return conf._paths["real"]

    assert found() is None
    assert found("--real_path", "../data/real.json") == Path("../data/real.json")
    (tmp_path / "set" / "real.json").touch()
    assert found() == Path("../set/real.json")


def test_mps_without_mps_is_one_warning(monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    said, conf = [], parse_config(["--device", "mps"])
    choose_device(conf, said.append)
    assert conf.cpu and len(said) == 1 and "device mps" in said[0]


def test_cuda_without_a_gpu_is_one_warning(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said, conf = [], parse_config([])
    choose_device(conf, said.append)
    assert conf.cpu and len(said) == 1 and "no GPU" in said[0]
    said.clear()
    choose_device(parse_config(["--device", "cpu"]), said.append)
    assert not said
