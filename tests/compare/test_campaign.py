"""Registered experiments: what is read, what runs, what goes on, and which rows come out."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import UserError
from scripts import campaign
from sidebyside.campaign import FILE, load_campaign
from sidebyside.register import load_claims
from sidebyside.results import OURS, PAPERS, ROOT, read
from tests.compare.conftest import CLAIMS
from tests.compare.test_results import run_folder

EXPERIMENT = """
[[experiment]]
name = "small"
registered = 2030-01-02
claims = ["better than averaging"]
seeds = [100, 101, 102]
commands = [
    "python main.py --data DATA/set --seeds SEEDS --output_dir OUT --resume",
    "python main.py --data=DATA/set -seed SEED --output_dir OUT/more-SEED --resume",
]
minutes = 3
content = "set"
dataset = "MNIST"
setting = "USS, heads"

[[experiment.row]]
methods = { cavl = "cavl-seed*", uniform = "uniform-seed*" }
metric = "test accuracy %"
protocol = "last epoch"
key = "accuracy"
scale = 100
command = 1
"""
SCRIPT = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
print("called with", sys.argv[1:], flush=True)
mark = folder.parent / f"{folder.name}-second-call"
if "FAIL" in sys.argv[0] or (pathlib.Path.cwd() / "fail").exists():
    sys.exit("error: it fails")
folder.mkdir(parents=True, exist_ok=True)
"""


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one registered experiment and a script that only leaves a folder."""
    root = tmp_path / "clone"
    results = root / "cavl" / "results"
    results.mkdir(parents=True)
    (root / "cavl" / "main.py").write_text(SCRIPT)
    (results / "claims.toml").write_text(CLAIMS["cavl"])
    (results / FILE).write_text(EXPERIMENT)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "set").mkdir(parents=True)
    (tmp_path / "data" / "set" / "labels.txt").write_text("0 1 2")
    return tmp_path / "data"


def arguments(root: Path, data: Path, tmp_path: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--out", str(tmp_path / "out"), "--root", str(root), *more]


def test_commands_have_their_seeds_and_places(root):
    (found,) = load_campaign(root, "cavl")
    lines = [shlex.join(words) for words in found.lines("/runs/small", "/data")]
    assert lines == [
        "python main.py --data /data/set --seeds 100,101,102 --output_dir /runs/small --resume",
        *(
            f"python main.py --data=/data/set -seed {seed}"
            f" --output_dir /runs/small/more-{seed} --resume"
            for seed in (100, 101, 102)
        ),
    ]
    more = "python main.py --data=DATA/set -seed SEED --output_dir OUT/more-SEED --resume"
    assert found.told([1]) == more
    assert found.told([0, 1]).endswith(f" --resume && {more}")


def test_what_has_run_is_not_run_again(root, data, tmp_path, capsys):
    argv = arguments(root, data, tmp_path)
    assert campaign.main([*argv, "--dry_run"]) == 0
    assert "3.0 min  cavl/small  3 seeds  [4 of 4 commands left]" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()

    (root / "cavl" / "fail").write_text("")
    assert campaign.main(argv) == 1
    assert "failed (1): cavl/small" in capsys.readouterr().out
    (root / "cavl" / "fail").unlink()
    assert campaign.main(argv) == 0
    log = (tmp_path / "out" / "cavl" / "small.log").read_text()
    assert log.count("called with") == 1 + 4

    assert campaign.main(argv) == 0
    assert (tmp_path / "out" / "cavl" / "small.log").read_text() == log
    assert "[finished]" in capsys.readouterr().out


def test_a_clone_with_changes_is_refused(root, data, tmp_path):
    (root / "cavl" / "main.py").write_text("")
    with pytest.raises(UserError, match=r"uncommitted changes \(M cavl/main\.py\)"):
        campaign.main(arguments(root, data, tmp_path))
    with pytest.raises(UserError, match="not a clone"):
        campaign.require_clean(tmp_path)


def test_an_unknown_name_is_refused(root, data, tmp_path):
    with pytest.raises(UserError, match="--only large: no such experiment; there are small"):
        campaign.main(arguments(root, data, tmp_path, "--only", "large"))
    with pytest.raises(UserError, match="no such directory"):
        campaign.main(arguments(root, data / "nowhere", tmp_path))


def test_rows_come_from_the_runs(root, data, tmp_path, monkeypatch, capsys):
    argv = arguments(root, data, tmp_path)
    campaign.main(argv)
    folder = tmp_path / "out" / "cavl" / "small"
    for seed, value in ((100, 0.90), (101, 0.91), (102, 0.92)):
        run_folder(folder, f"cavl-seed{seed}", seed, value)
        run_folder(folder, f"uniform-seed{seed}", seed, value - 0.02)
    monkeypatch.setattr(campaign, "ROOT", root)
    monkeypatch.setattr(campaign.results, "update_readmes", lambda root: [])
    assert campaign.main([*argv, "--rows"]) == 0
    assert "2 rows entered" in capsys.readouterr().out
    rows = read(root / "cavl" / "results" / "ours.csv", OURS)
    assert [(row["method"], row["mean"], row["seeds"]) for row in rows] == [
        ("cavl", "91.0000", "100 101 102"),
        ("uniform", "89.0000", "100 101 102"),
    ]
    assert rows[0]["setting"] == "USS, heads"
    assert rows[0]["command"].startswith("python main.py --data DATA/set --seeds 100,101,102")
    assert len(rows[0]["data_sha"]) == 12


def test_rows_of_unfinished_experiments_wait(root, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(campaign, "ROOT", root)
    monkeypatch.setattr(campaign.results, "update_readmes", lambda root: [])
    campaign.main(arguments(root, data, tmp_path, "--rows"))
    assert "0 rows entered" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('name = "small"', 'name = "a b"', "name: expected letters"),
        ("registered = 2030-01-02", 'registered = "soon"', "registered must be a date"),
        ('"better than averaging"', '"nothing"', "'nothing' is no registered claim of cavl"),
        ("seeds = [100, 101, 102]", "seeds = [100, 100]", "each once"),
        ("python main.py --data DATA", "sh main.py --data DATA", "begins with python"),
        ("minutes = 3", "", "has no minutes"),
        ("minutes = 3", "minutes = 3\nhours = 2", "hours: no such field"),
        ("command = 1", "command = 3", "command 3: there are 2"),
        ("command = 1", "command = [1, 3]", "command 3: there are 2"),
        ("command = 1", "", "command: say which of the 2 made the runs"),
        ("scale = 100", 'colour = "red"', "row 1: colour: no such field"),
        ("[[experiment]]", "title = 1\n[[experiment]]", r"expected \[\[experiment\]\]"),
    ],
)
def test_what_is_wrong_is_named(root, old, new, told):
    path = root / "cavl" / "results" / FILE
    path.write_text(EXPERIMENT.replace(old, new, 1))
    with pytest.raises(UserError, match=told):
        load_campaign(root, "cavl")


def test_a_name_counts_once(root):
    path = root / "cavl" / "results" / FILE
    path.write_text(EXPERIMENT + EXPERIMENT)
    with pytest.raises(UserError, match="two experiments are named 'small'"):
        load_campaign(root, "cavl")


@pytest.mark.parametrize("paper", PAPERS)
def test_the_registered_experiments_can_be_read(paper):
    """Every claim that they name is registered no later than they, and their seeds are enough."""
    claims = {claim.name: claim for claim in load_claims(ROOT, paper)}
    for experiment in load_campaign(ROOT, paper):
        for name in experiment.claims:
            registered = claims[name].registered
            assert registered is not None
            assert registered <= experiment.registered
            assert len(experiment.seeds) >= 2


def test_the_program_starts_by_its_name():
    command = [sys.executable, "scripts/campaign.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--dry_run" in done.stdout
