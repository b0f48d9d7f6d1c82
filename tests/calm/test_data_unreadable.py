"""What is wrong with a data set comes up before the first step; what an evaluation stops at costs
none.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calm import eval_cue_location, eval_wsol, explain, main, training
from calm.data_lists import get_image_ids
from calm.evaluation import load_mask_image
from common.cli import UserError
from tests.calm.conftest import JOINT, flags
from tests.calm.training_runs import prepared, state, train

STEPS = 4  # two epochs of 18 images, 16 a step


@pytest.fixture
def own_birds(birds: Path, tmp_path: Path) -> Path:
    """A copy of the birds that a test may damage, with its metadata."""
    root = tmp_path / "birds"
    shutil.copytree(birds, root)
    prepared(["--data_root", str(root)])
    return root


def listed(root: Path, split: str) -> list[Path]:
    _, data = prepared(["--data_root", str(root)])
    names = get_image_ids({"image_ids": str(data.metadata / split / "image_ids.txt")})
    return [root / "CUB_200_2011/images" / name for name in names]


def cut(path: Path) -> bytes:
    """Truncate a file, as a broken download is; returns what it held."""
    content = path.read_bytes()
    path.write_bytes(content[:300])
    return content


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_unreadable_image_is_named_before_the_first_step(
    own_birds: Path, tmp_path: Path, split: str
) -> None:
    damaged = listed(own_birds, split)[1]
    cut(damaged)
    with pytest.raises(
        UserError, match=f"{damaged.name}: unreadable image.* 1 of .*the {split} list"
    ):
        train(own_birds, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_missing_image_is_an_error_also_with_skip_corrupt(
    own_birds: Path, tmp_path: Path
) -> None:
    gone = listed(own_birds, "test")[0]
    gone.unlink()
    with pytest.raises(
        UserError, match=f"the test list: 1 of .* listed images are not there.*{gone.name}"
    ):
        train(own_birds, tmp_path / "r", "--skip_corrupt")
    assert not (tmp_path / "r").exists()


def test_unreadable_test_images_are_left_out_and_counted(
    own_birds: Path, tmp_path: Path, capsys
) -> None:
    damaged = listed(own_birds, "test")[:2]
    for path in damaged:
        cut(path)
    summary = train(own_birds, tmp_path / "r", "--skip_corrupt")
    out = capsys.readouterr().out
    assert summary["eval_skipped"] == 2
    assert "eval_skipped 2" in out and damaged[0].name in out

    whole = listed(own_birds, "test")[2:]
    correct = round(summary["test_accuracy"] / 100 * len(whole), 6)
    assert correct == round(correct)  # a share of the images that were read


def test_damage_in_the_middle_of_a_test_image_is_counted_too(
    own_birds: Path, tmp_path: Path
) -> None:
    """A look at the ends of the file does not see it; the decoder does."""
    damaged = listed(own_birds, "test")[3]
    ends_well = Image.new("RGB", (40, 40)).tobytes()
    damaged.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header(40, 40))
        + png_chunk(b"IDAT", ends_well)
        + png_chunk(b"IEND", b"")
    )
    summary = train(own_birds, tmp_path / "r", "--skip_corrupt")
    assert summary["eval_skipped"] == 1


def header(width: int, height: int) -> bytes:
    return width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])


def png_chunk(kind: bytes, content: bytes) -> bytes:
    import zlib

    check = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + check


def test_a_failed_evaluation_costs_no_step(own_birds: Path, tmp_path: Path, monkeypatch) -> None:
    whole = train(own_birds, tmp_path / "whole")

    real = training.classify

    def fails(*args: object) -> None:
        raise UserError("a network drive that is gone")

    monkeypatch.setattr(training, "classify", fails)
    with pytest.raises(UserError, match="gone"):
        train(own_birds, tmp_path / "r")
    assert state(tmp_path / "r")["progress"]["step"] == STEPS // 2

    monkeypatch.setattr(training, "classify", real)
    steps = []
    real_step = main.Trainer.train

    def counted(trainer: main.Trainer, split: str = "train") -> None:
        before = trainer.run.progress.step
        real_step(trainer, split)
        steps.append(trainer.run.progress.step - before)

    monkeypatch.setattr(main.Trainer, "train", counted)
    resumed = train(own_birds, tmp_path / "r", "--resume")
    assert steps == [0, STEPS // 2]

    timed = ("wall_seconds", "images_per_second")
    assert {k: v for k, v in resumed.items() if k not in timed} == {
        k: v for k, v in whole.items() if k not in timed
    }
    ours = state(tmp_path / "r")["state"]["model"]
    assert all(
        torch.equal(value, ours[name])
        for name, value in state(tmp_path / "whole")["state"]["model"].items()
    )


def test_a_segmentation_that_is_gone_is_told_before_the_maps(
    own_birds: Path, save_root: Path, tmp_path: Path, monkeypatch
) -> None:
    test = listed(own_birds, "test")[0]
    mask = (own_birds / "CUB_200_2011/segmentations" / test.parent.name / test.name).with_suffix(
        ".png"
    )
    mask.unlink()
    given = [*flags(own_birds, save_root, *JOINT), "--output_dir", str(tmp_path / "out")]

    def no_maps(*args: object) -> None:
        raise AssertionError("the maps come after the look at the masks")

    monkeypatch.setattr("calm.evaluate.Tester.batches", no_maps)
    with pytest.raises(UserError, match=f"{mask.name}.*1 of"):
        eval_cue_location.main(given)
    with pytest.raises(UserError, match=f"the masks: 1 of .*{mask.name}"):
        eval_wsol.main([*given[:-1], str(tmp_path / "wsol"), "--score_map_process=jointll"])


def test_an_image_without_a_box_is_told_before_the_maps(
    own_birds: Path, save_root: Path, tmp_path: Path, monkeypatch
) -> None:
    _, data = prepared(["--data_root", str(own_birds)])
    boxes = data.metadata / "test/localization.txt"
    lines = boxes.read_text().splitlines()
    boxes.write_text("\n".join(lines[1:]))
    monkeypatch.setattr("calm.evaluate.Tester.batches", lambda self: pytest.fail("too late"))
    with pytest.raises(UserError, match="no line of"):
        eval_wsol.main(
            [*flags(own_birds, save_root, *JOINT), "--output_dir", str(tmp_path / "out")]
        )


def test_evaluation_scripts_count_what_they_leave_out(
    own_birds: Path, save_root: Path, tmp_path: Path, capsys
) -> None:
    cut(listed(own_birds, "test")[0])
    given = [*flags(own_birds, save_root, *JOINT), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match="unreadable image"):
        eval_wsol.main(given)
    eval_wsol.main([*given, "--skip_corrupt", "--overwrite"])
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["eval_skipped"] == 1
    assert (
        "eval_skipped 1: 1 unreadable images are left out of these numbers"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "1", "I;16", "LA"])
def test_masks_of_any_mode_mean_the_same(tmp_path: Path, mode: str) -> None:
    values = np.zeros((8, 10), np.uint8)
    values[2:5, 3:7] = 128
    image = Image.fromarray(values)
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    elif mode == "P":
        image.putpalette([v for k in range(256) for v in (k, k, k)])
    elif mode != "L":
        image = image.point(lambda v: 255 if v else 0).convert(mode)
    image.save(tmp_path / "mask.png")
    assert (load_mask_image(tmp_path / "mask.png", (10, 8)) == (values > 0)).all()


def test_a_mask_that_is_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mask.png").mkdir()
    with pytest.raises(UserError, match=r"mask.png: is a folder.*masks lie in"):
        load_mask_image(tmp_path / "mask.png")


@pytest.mark.parametrize(("width", "height"), [(9000, 2), (1, 5000)])
def test_explain_reads_a_picture_of_any_shape(
    birds: Path, save_root: Path, tmp_path: Path, width: int, height: int
) -> None:
    Image.new("RGB", (width, height), (10, 200, 30)).save(tmp_path / "mine.png")
    given = [
        "--load_checkpoint",
        str(save_root / "em"),
        "--output_dir",
        str(tmp_path / "r"),
        "--cpu",
    ]
    explain.main(["--image", str(tmp_path / "mine.png"), *given])
    assert (tmp_path / "r/figures/explain.png").is_file()


def test_explain_shows_a_phone_picture_upright(
    birds: Path, save_root: Path, tmp_path: Path, monkeypatch
) -> None:
    seen = []
    monkeypatch.setattr(
        explain, "draw_explanation", lambda figure, image, *rest: seen.append(image.size)
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (40, 90)).save(tmp_path / "phone.jpg", exif=exif)
    given = [
        "--load_checkpoint",
        str(save_root / "em"),
        "--output_dir",
        str(tmp_path / "r"),
        "--cpu",
    ]
    explain.main(["--image", str(tmp_path / "phone.jpg"), *given])
    assert seen == [(90, 40)]
