"""`python main.py` on unreadable images, dead attention, a loss that is not finite, bad files."""

import json
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from calm import build, eval_pixel_perturb, network
from calm.build_checkpoint import read_checkpoint
from calm.data import read_superclass
from calm.data_metadata import build_cub_metadata
from calm.options import Settings
from common.cli import UserError, run_main
from tests.calm.training_runs import prepared, state, train


def test_dead_attention_warns_once_a_run(
    birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_model = build.build_model

    def dead(settings: Settings, classes: int, checkpoint: Path | None = None):
        model = build_model(settings, classes, checkpoint)
        model.attention[0].weight.data.zero_()
        model.attention[0].bias.data.fill_(-1)
        return model

    monkeypatch.setattr(build, "build_model", dead)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(birds, tmp_path / "r", "--prior_activation", "relu")
    told = [str(w.message) for w in caught if "attention" in str(w.message)]
    assert (
        len(told) == 1 and "the attention of 30 of 30 images" in told[0]
    )  # val, after the first epoch
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        eval_pixel_perturb.main(
            [
                "--cpu",
                "--data_root",
                str(birds),
                "--output_dir",
                str(tmp_path / "r"),
                "--attribution_method=CALM_EM",
                "--score_map_process=jointll",
                "--erase_k",
                "0.1",
                "--crop_size",
                "64",
                "--batch_size",
                "5",
            ]
        )
    told = [str(w.message) for w in caught if "attention" in str(w.message)]
    assert len(told) == 1 and "the attention of 18 of 18 images" in told[0]


def test_a_loss_that_is_not_finite_ends_with_status_1(birds: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: train(birds, tmp_path / "r", "--lr", "1e30"))
    error = capsys.readouterr().err
    assert stop.value.code == 1 and "samples" in error and "last good checkpoint" in error
    assert (
        ".jpg: loss nan, attention sums to" in error or ".jpg: loss inf, attention sums to" in error
    )


def test_corrupt_and_missing_images(birds: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(birds, tmp_path / "birds")
    prepared(["--data_root", str(tmp_path / "birds")])  # the lists name them while they are whole
    images = tmp_path / "birds/CUB_200_2011/images"
    cut, gone = (next(images.glob(f"{c}.*/*_0002_*.jpg")) for c in ("001", "002"))
    content = cut.read_bytes()
    cut.write_bytes(content[:300])
    with pytest.raises(
        UserError, match=f"{cut.name}: unreadable image.*1 of 18 images of the train list"
    ):
        train(tmp_path / "birds", tmp_path / "r")
    cut.write_bytes(content)
    gone.unlink()
    with pytest.raises(
        UserError, match=f"the train list: 1 of 18 listed images are not there.*{gone.name}"
    ):
        train(tmp_path / "birds", tmp_path / "g")
    for path in (cut, gone):
        path.write_bytes(content[:300])
    summary = train(tmp_path / "birds", tmp_path / "s", "--skip_corrupt")
    assert state(tmp_path / "s")["progress"]["skipped"] == summary["skipped"] == 4
    assert "epoch 2: 2 unreadable training images skipped" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "s/metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines if line["split"] == "train"] == [2, 2]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_list_is_refused_at_the_start(birds: Path, tmp_path: Path, split: str) -> None:
    build_cub_metadata(birds / "CUB_200_2011", tmp_path / "lists")
    (tmp_path / "lists" / split / "image_ids.txt").write_text("\n")
    (tmp_path / "lists" / "source.json").unlink()
    with pytest.raises(UserError, match=f"lists/{split}: the {split} list is empty"):
        train(birds, tmp_path / "r", "--metadata_root", str(tmp_path / "lists"))
    assert not (tmp_path / "r").exists()
    if split == "test":
        with pytest.raises(UserError, match="lists/test: the test list is empty"):
            train(
                birds,
                tmp_path / "r",
                "--metadata_root",
                str(tmp_path / "lists"),
                "--is_train=False",
                "--load_checkpoint",
                str(stored(tmp_path)),
            )


def stored(folder: Path) -> Path:
    """A checkpoint of the sample's network, untrained."""
    model = network.small(num_classes=6, attribution_method="CALM-EM")
    torch.save(
        {"architecture": "small", "state_dict": model.state_dict()}, folder / "small.pth.tar"
    )
    return folder / "small.pth.tar"


def test_nothing_to_train_on_is_an_error(birds: Path, tmp_path: Path) -> None:
    """Every training image is in the val list too, and so held out of training."""
    build_cub_metadata(birds / "CUB_200_2011", tmp_path / "lists")
    for name in ("image_ids", "class_labels"):
        shutil.copy(tmp_path / f"lists/train/{name}.txt", tmp_path / f"lists/val/{name}.txt")
    (tmp_path / "lists" / "source.json").unlink()
    with pytest.raises(UserError, match="lists/train: all training images are in the val list too"):
        train(birds, tmp_path / "r", "--metadata_root", str(tmp_path / "lists"))
    assert not (tmp_path / "r").exists()


def test_class_count_and_superclass_file(birds: Path, tmp_path: Path) -> None:
    settings, data = prepared(["--data_root", str(birds)])
    assert build.count_classes(settings, data) == 6
    path = tmp_path / "groups.json"
    path.write_text(json.dumps({str(c): [c] for c in range(6)}))
    assert read_superclass(path, 6) == {c: [c] for c in range(6)}
    for groups, message in (
        ({"9": [1]}, ":2: label 9 is unknown"),
        ({"0": [0], "3": []}, ":5: label 3 has an empty list"),
        ({"0": [0]}, "label 1 has no group"),
        ({"0": "12"}, ":2: label 0 has no list of labels, but '12'"),
        ({"0": [1.5]}, ":2: label 0 has an unknown label 1.5"),
        ({"0": [True]}, "unknown label True"),
        ({"0": [6]}, "unknown label 6"),
    ):
        path.write_text(json.dumps(groups, indent=1))
        with pytest.raises(UserError, match=message):
            read_superclass(path, 6)
    for text, message in (
        ("[1]", "expected an object, found a list"),
        ("{", "line 1, column 2: not json"),
        ('{"0": [0], "0": [1]}', "the key '0' stands twice"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_superclass(path, 6)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path, birds: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "made").touch, ())

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="never executed"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "made").exists()
