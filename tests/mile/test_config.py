"""class config: what its attributes mean, and what parse_config makes of them."""

import pytest

from mile.config import config, parse_config, setting
from mile.options_table import PRESETS, SETTINGS


def test_the_delivered_class_and_the_table_are_the_same():
    own = {name: value for name, value in vars(config).items() if not name.startswith("__")}
    assert own == {name: entry.default for name, entry in SETTINGS.items()}


def test_delivered_values_are_those_of_the_readme():
    conf = parse_config([])
    expected = dict(
        model="resnet18",
        schema="MILe",
        dataset="imagenet",
        data_path="../data/train/",
        val_path="../data/val",
        real_path="../data/real.json",
        mnist_path="../data/",
        lr=0.1,
        batch_size=16,
        num_workers=4,
        epoch_num=100,
        k_t=8000,
        k_s=2000,
        device="cuda",
        rho=0.25,
        checkpoint_path="./checkpoint",
        max_checkpoint_num=2,
        seed=0,
    )
    assert {name: getattr(conf, name) for name in expected} == expected


@pytest.mark.parametrize("protocol", ["authors", "unofficial"])
def test_protocols_fill_what_is_none_and_explicit_settings_win(protocol, monkeypatch):
    conf = parse_config(["--protocol", protocol, "--lr", "0.2"])
    assert {name: getattr(conf, name) for name in PRESETS} == {
        n: v[protocol] for n, v in PRESETS.items()
    }
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


def test_help_shows_edited_defaults_and_argv_is_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(config, "k_t", 123)
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    assert "(default 123;" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr("sys.argv", ["MILe.py", "--k_s", "7"])
    assert parse_config().k_s == 7


def test_bad_attributes_end_in_one_line_too(monkeypatch, capsys):
    monkeypatch.setattr(config, "batch_size", "many")
    with pytest.raises(SystemExit):
        parse_config([])
    monkeypatch.setattr(config, "batch_size", 16.0)
    with pytest.raises(SystemExit) as stop:
        parse_config([])
    assert stop.value.code == 2 and "batch_size 16.0: expected int" in capsys.readouterr().err


def test_home_is_spelled_out_in_flags_and_attributes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(config, "checkpoint_path", "~/weights")
    conf = parse_config(["--data_path", "~/train"])
    assert conf.checkpoint_path == str(tmp_path / "weights") and conf.data_path == str(
        tmp_path / "train"
    )
