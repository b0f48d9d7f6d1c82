"""compare_methods.py: the runs it makes are those of the scripts one by one; it goes on where it
was stopped.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest

from calm import compare_methods, sample_check
from common.cli import UserError
from tests.calm.conftest import TRAIN

SMALL = [flag for flag in TRAIN if not flag.startswith("--attribution")]


@pytest.mark.slow
def test_it_equals_the_scripts_and_goes_on(
    birds: Path, save_root: Path, tmp_path: Path, capsys
) -> None:
    given = [
        *SMALL,
        "--data_root",
        str(birds),
        "--output_dir",
        str(tmp_path / "c"),
        "--methods",
        "CAM,CALM_EM",
        "--cam_curve_interval",
        "0.05",
        "--auc_steps",
        "2",
        "--erase_k",
        "0.1",
        "0.3",
    ]
    compare_methods.main([*given, "--seeds", "0"])
    rows = list(csv.DictReader((tmp_path / "c/results.csv").open()))
    assert [(r["method"], r["seed"]) for r in rows] == [("CAM", "0"), ("CALM-EM", "0")]
    alone = json.loads((save_root / "em/summary.json").read_text())["test_accuracy"]
    assert float(rows[1]["accuracy"]) == pytest.approx(alone)
    assert [name for name in rows[0] if name.startswith("R_")] == ["R_0.1", "R_0.3"]
    prior = json.loads((tmp_path / "c/CALM-EM-0/wsol_prior/summary.json").read_text())
    assert (
        float(rows[1]["MaxBoxAccV2_prior"]) == prior["MaxBoxAccV2"]
        and rows[0]["MaxBoxAccV2_prior"] == ""
    )
    cue = json.loads((tmp_path / "c/CALM-EM-0/cue/summary.json").read_text())
    assert float(rows[1]["mPxAP"]) == cue["mPxAP"]["per_pair/kept"]["mean"]

    trained = (tmp_path / "c/CAM-0/checkpoints/last.pt").stat().st_mtime_ns
    (tmp_path / "c/CAM-0/erase/summary.json").unlink()
    compare_methods.main([*given, "--seeds", "0,1"])
    again = list(csv.DictReader((tmp_path / "c/results.csv").open()))
    assert len(again) == 4 and again[:1] == rows[:1]
    assert (tmp_path / "c/CAM-0/checkpoints/last.pt").stat().st_mtime_ns == trained
    assert "±" in capsys.readouterr().out


def test_sample_check(birds: Path, save_root: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(save_root / "em", tmp_path / "CALM-EM-0")
    (tmp_path / "birds0").symlink_to(birds)
    sample_check.main(["--compared", str(tmp_path)])
    out = capsys.readouterr().out
    assert "CALM-EM: 18 images" in out or "CALM-EM: 17 images" in out  # a bird may be unmarked
    assert "% of the disc erased" in out and "CAM: " not in out
    with pytest.raises(UserError, match="--fresh"):
        sample_check.main(["--compared", str(tmp_path / "none")])


def test_bad_lists() -> None:
    with pytest.raises(UserError, match="CAM, CALM-EM"):
        compare_methods.main(["--methods", "CAM,LIME"])
    with pytest.raises(SystemExit, match="2"):
        compare_methods.main(["--seeds", "0,x"])
    with pytest.raises(UserError, match="--sample"):
        compare_methods.main(["--fresh"])
