"""Rows of the campaign, measured once more with a fresh seed."""

import pytest

from common.cli import UserError
from scripts import repeat
from sidebyside.results import SEEDS, write
from tests.compare.test_campaign import arguments, data, root  # noqa: F401

SCRIPT = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
for name in ("cavl", "uniform"):
    run = folder / f"{name}-seed300"
    run.mkdir(parents=True, exist_ok=True)
    config = {
        "settings": {"seed": 300},
        "launches": [{"command": "python main.py", "time": "2030-01-02T00:00:00"}],
        "commit": "0123456",
        "packages": {"torch": "2.11"},
        "hardware": {"device": "cpu", "processes": 1, "threads": 1},
    }
    (run / "config.json").write_text(json.dumps(config))
    value = pathlib.Path("value").read_text()
    (run / "summary.json").write_text(json.dumps({"accuracy": float(value), "wall_seconds": 1.0}))
"""


@pytest.fixture
def entered(root, monkeypatch):  # noqa: F811
    """The repository with its rows: cavl 70, 71, 72 and uniform 60, 60, 60 %."""
    monkeypatch.setattr(repeat, "ROOT", root)
    (root / "cavl" / "main.py").write_text(SCRIPT)
    path = root / "cavl" / "results" / "campaign.toml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "more-SEED" not in line))
    fields = {
        "dataset": "MNIST",
        "setting": "USS, heads",
        "metric": "test accuracy %",
        "protocol": "last epoch",
    }
    rows = []
    for method, values in {"cavl": (70, 71, 72), "uniform": (60, 60, 60)}.items():
        for seed, value in zip((100, 101, 102), values, strict=True):
            rows.append({"method": method, **fields, "seed": seed, "value": value})
    write(root / "cavl" / "results" / "seeds.csv", rows, SEEDS)
    return root


def argv_of(root, data, tmp_path, *more):  # noqa: F811
    return arguments(root, data, tmp_path, "--rows", "1", *more)


@pytest.mark.parametrize(("value", "said", "status"), [(0.74, "inside", 0), (0.9, "OUTSIDE", 1)])
def test_a_fresh_seed_lies_in_the_interval_or_not(
    entered,
    data,  # noqa: F811
    tmp_path,
    capsys,
    value,
    said,
    status,
):
    # t of two degrees of freedom is 4.303, s is 1: 71 +- 4.303 sqrt(4/3)
    (entered / "cavl" / "value").write_text(str(value))
    assert repeat.main(argv_of(entered, data, tmp_path)) == status
    out = capsys.readouterr().out
    assert "cavl/small: cavl, test accuracy %: 66.03 to 75.97 from 3 seeds" in out
    assert out.rstrip().endswith(said)
    log = (tmp_path / "out" / "cavl" / "small.log").read_text()
    assert "--seeds 300 " in log and "100" not in log.split("--output_dir")[0]


def test_rows_that_are_constant_or_not_entered_are_not_drawn(entered):
    (experiment,) = repeat.load_campaign(entered, "cavl")
    assert [row.method for row in repeat.entered_rows(experiment, entered)] == ["cavl"]
    (entered / "cavl" / "results" / "seeds.csv").unlink()
    assert repeat.entered_rows(experiment, entered) == []


def test_the_lot_is_the_seed_of_the_draw(entered, data, tmp_path, capsys):  # noqa: F811
    experiment = repeat.load_campaign(entered, "cavl")[0]
    rows = []
    for number in range(8):
        named = repeat.replace(experiment, name=f"e{number}")
        rows += repeat.entered_rows(experiment, entered)
        rows[-1] = repeat.replace(rows[-1], experiment=named)
    draws = {tuple(row.experiment.name for row in repeat.drawn(rows, 3, lot)) for lot in range(9)}
    assert len(draws) > 1
    assert all(len(set(draw)) == 3 for draw in draws)
    assert repeat.drawn(rows, 3, 4) == repeat.drawn(list(reversed(rows)), 3, 4)


def test_what_cannot_be_drawn_or_is_not_fresh_is_refused(entered, data, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match="--rows 3: rows of 1 experiments"):
        repeat.main(arguments(entered, data, tmp_path, "--dry_run"))
    with pytest.raises(UserError, match="--seed 101: cavl/small has used it"):
        repeat.main(argv_of(entered, data, tmp_path, "--seed", "101"))
    (entered / "cavl" / "main.py").write_text("raise SystemExit('error: no')")
    with pytest.raises(UserError, match="its command failed"):
        repeat.main(argv_of(entered, data, tmp_path))
