"""Every command of the README and of the results is taken: no flag in it is refused."""

from pathlib import Path

import pytest

from common.own_places import Kind
from mile import options
from mile.data_location import Located
from sidebyside.register import read_toml
from sidebyside.results import ROOT
from tests.readme_commands import commands_of

# What a user or an earlier run leaves is not there.
ABSENT = {"FILE", "RUN/checkpoints/last.pt"}
COMMANDS = [argv for argv in commands_of("mile", "MILe.py") if ABSENT.isdisjoint(argv)]
OWN = Kind("folders", Path("own"))
CAMPAIGN = read_toml(ROOT / "mile" / "results" / "campaign.toml")["experiment"]


@pytest.fixture
def places(tmp_path):
    """What DATA and OUT stand for, with the published weights that commands name."""
    weights = tmp_path / "weights" / "efficientnet-lite0-57934424.pth"
    weights.parent.mkdir()
    weights.touch()
    return {"DATA": str(tmp_path), "OUT": str(tmp_path / "out")}


def placed(text, places):
    for name, value in places.items():
        text = text.replace(name, value)
    return text


def test_there_are_commands():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_the_command_is_taken(monkeypatch, places, argv):
    def located(dataset, *, want_sample, **paths):
        return Located(want_sample)

    monkeypatch.setattr(options, "locate_data", located)
    monkeypatch.setattr(options, "recognise", lambda place: OWN)
    argv = [placed(word, places) for word in argv]
    expected = Located("--sample" in argv)
    if "--data" in argv:
        expected = Located(False, own=OWN.path)
    assert options.parse(argv, lambda line: None).data == expected


@pytest.mark.parametrize("experiment", CAMPAIGN, ids=lambda experiment: experiment["name"])
def test_the_command_of_an_experiment_is_taken(monkeypatch, places, experiment):
    monkeypatch.setattr(options, "locate_data", lambda *_, **paths: Located(False))
    monkeypatch.setattr(options, "recognise", lambda place: OWN)
    command = placed(experiment["commands"][-1], {"SEEDS": "100,101", **places})
    args = options.parse(command.split()[2:], lambda line: None).args
    assert args.compare == ["softmax", "sigmoid", "MILe"] and args.last_only
    assert args.rho == args.eval_rho == (0.1 if args.dataset == "mnist" else 0.25)
