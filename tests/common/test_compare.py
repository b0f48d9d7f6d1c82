"""A sweep: a row a finished run; one that --max_steps cuts is gone on with."""

import pandas as pd
import pytest

from common import checkpoint
from common.compare import PlannedRun, child_of, run_each
from tests.common.toy import STEPS, settings, train


def sweep(folder, **changed):
    args = settings(folder, seeds=[0, 1], **changed)

    def plan(parent):
        runs = []
        for seed in args.seeds:
            child = child_of(args, parent / f"seed{seed}", seed=seed, seeds=None)
            runs.append(PlannedRun(child.output_dir, {"seed": seed}, child))
        return runs

    def train_one(child):
        return {"steps": train(child).progress.step}

    parent, frame = run_each(args, folder, plan, train_one)
    if not parent.stopped:
        parent.finish()
    return frame


@pytest.mark.parametrize("steps", [1, STEPS - 1])
def test_a_cut_child_leaves_no_row_and_the_parent_unfinished(tmp_path, capsys, steps):
    assert len(sweep(tmp_path / "s", max_steps=steps)) == 0
    assert "0 of 2 done; go on with --resume" in capsys.readouterr().out
    assert not (tmp_path / "s/results.csv").exists() and not (tmp_path / "s/seed1").exists()
    assert not checkpoint.load(tmp_path / "s/checkpoints/last.pt")["progress"]["finished"]
    frame = sweep(tmp_path / "s", resume="")
    assert list(frame["steps"]) == [STEPS, STEPS] and list(
        pd.read_csv(tmp_path / "s/results.csv")["seed"]
    ) == [0, 1]
    assert checkpoint.load(tmp_path / "s/checkpoints/last.pt")["progress"]["finished"]


def test_a_limit_that_no_child_reaches_cuts_none(tmp_path):
    assert list(sweep(tmp_path / "s", max_steps=STEPS + 1)["steps"]) == [STEPS, STEPS]
