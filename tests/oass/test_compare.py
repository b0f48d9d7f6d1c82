"""The table of many runs: which run gets which flags, what is refused, means over seeds, resume."""

import csv
import json
import os
import signal

import pytest

from common.cli import UserError
from oass import ablation, compare
from oass import train as training


@pytest.fixture
def seen(monkeypatch):
    """The settings of every run by strategy; none is trained."""
    found = {}

    def fake_train(settings):
        found[settings.args.strategy] = settings.args
        return {"map": 1.0, "best_map": 1.0, "pointing": 1.0, "dead_cam": 0.0}

    monkeypatch.setattr(compare, "train", fake_train)
    return found


REFUSED = [
    ("--seed 3", "--seed: every strategy runs with each of --seeds"),
    ("--resume somewhere", "--resume without a path"),
    ("--strategies none,none", "'none' stands there twice"),
    ("--strategies|none --seed 4", "--seed is for all runs alike"),
    ("--strategies|none --alpha_re 3", "--alpha_re: none cuts no tiles"),
    ("--strategies|cMax --radius 3", "--radius: only cTopk"),
    ("--strategies none,cmax", "'cmax' is none of"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED)
def test_an_ablation_refuses_what_it_would_ignore(flags, message, small, tmp_path, seen):
    words = flags.split("|") if "|" in flags else flags.split()
    with pytest.raises(UserError, match=message):
        ablation.main([*small, *words, "--output_dir", str(tmp_path / "a")])
    assert not seen


def test_shared_flags_go_where_they_act_and_are_named_where_not(small, tmp_path, seen, capsys):
    flags = "--alpha_re 3 --p_loss full --alpha_p 0.5 --eval_ema --alpha_ema 0.9"
    released = "--keypoint_rule released --radius 9"
    many = f"--strategies gap,none,uniform,max,cMax,cTopk --seeds 4 --output_dir {tmp_path}"
    ablation.main([*small, *f"{flags} {released} {many}".split()])

    assert [args.seed for args in seen.values()] == [4] * 6
    puzzles = {"uniform", "max", "cMax", "cTopk"}
    assert {name for name, args in seen.items() if args.alpha_re == 3} == puzzles
    assert {name for name, args in seen.items() if args.p_loss == "full"} == {"none", *puzzles}
    assert {name for name, args in seen.items() if args.eval_ema} == {"cMax", "cTopk"}
    assert {name for name, args in seen.items() if args.radius == 9} == {"cTopk"}
    out = capsys.readouterr().out
    for line in (
        "gap: --alpha_re has no effect here (gap cuts no tiles and has no L_re)",
        "gap: --p_loss has no effect here (gap has that term, B(GAP(F), y), as its L_cl)",
        "gap: --alpha_p has no effect here (gap has no L_pcl)",
        "max: --eval_ema has no effect here (max has no teacher)",
        "cMax: --radius has no effect here (only cTopk by --keypoint_rule released has a radius)",
    ):
        assert line in out, line


@pytest.mark.parametrize("flags", ["--alpha_ema 0.9 --eval_ema", "--alpha_ema=0.9"])
def test_a_teachers_flags_stay_away_from_strategies_without_one(flags, small, tmp_path, seen):
    many = f"--strategies none,max,cMax --seeds 0 --output_dir {tmp_path}"
    ablation.main([*small, *f"{flags} {many} --loss_option cl_pcl_re_conf".split()])
    assert set(seen) == {"none", "max", "cMax"} and seen["cMax"].alpha_ema == 0.9
    assert not seen["none"].eval_ema and seen["cMax"].eval_ema == ("--eval_ema" in flags)


def test_the_tables_means_and_deviations(small, tmp_path, monkeypatch, capsys):
    scores = {0: 30.0, 1: 50.0, 2: 40.0}

    def fake_train(settings):
        score = scores[settings.args.seed]
        return {"map": score, "best_map": score + 1, "pointing": score / 100, "dead_cam": None}

    monkeypatch.setattr(compare, "train", fake_train)
    many = f"--strategies none --seeds 0,1,2 --output_dir {tmp_path}"
    ablation.main([*small, *many.split()])
    row = next(csv.DictReader((tmp_path / "ablation.csv").open()))
    assert (row["map"], row["map_std"], row["best_map"]) == ("40.0", "10.0", "41.0")
    assert (row["pointing"], row["pointing_std"], row["dead_cam"]) == ("0.4", "0.1", "")
    assert row["each"] == "30.00 50.00 40.00"
    assert "40.0" in capsys.readouterr().out


def test_an_ablation_runs_strategies_and_seeds_and_resumes(small, tmp_path, capsys):
    names = "none,cMax --level cam"
    many = f"--seeds 0,1 --output_dir {tmp_path} --max_epoch 1"
    argv = [*small, "--strategies", names, *many.split()]
    ablation.main(argv)
    table = (tmp_path / "ablation.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["strategy", *names.split(",")]
    config = json.loads((tmp_path / "cMax_level_cam/seed_1/config.json").read_text())
    assert config["settings"]["level"] == "cam"
    ablation.main([*argv, "--resume"])
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match="cmax"):
        ablation.main([*argv, "--strategies", "cmax"])


@pytest.mark.slow
def test_an_ablation_goes_on_behind_a_signal(small, tmp_path, monkeypatch):
    argv = [*small, *"--strategies none,cMax --seeds 0 --max_epoch 1 --output_dir".split()]
    ablation.main([*argv, str(tmp_path / "whole")])
    real = training.evaluate

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", interrupted)
        with pytest.raises(SystemExit) as stop:
            ablation.main([*argv, str(tmp_path / "parts")])
    assert stop.value.code == 143 and not (tmp_path / "parts/cMax").exists()
    ablation.main([*argv, str(tmp_path / "parts"), "--resume"])
    tables = [(tmp_path / run / "ablation.csv").read_bytes() for run in ("whole", "parts")]
    assert tables[0] == tables[1] and tables[0].count(b"\n") == 3
