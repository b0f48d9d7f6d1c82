"""--data: own pictures in class folders, a csv, COCO or VOC; trained, resumed, evaluated."""

import json
from pathlib import Path

import pytest

from calm import eval_cue_location, eval_remove_classify, eval_wsol, main
from calm.build_checkpoint import read_checkpoint
from calm.data_own import ids_of, read_own_data, told_of_data
from calm.options import parse
from common.cli import UserError

TRAIN = [
    *("--cpu", "--architecture=small", "--pretrained=False", "--crop_size=64", "--resize_size=68"),
    *("--epochs=1", "--batch_size=8", "--workers=0", "--attribution_method=CALM_EM"),
    *("--prior_activation=softplus", "--prior_gradient=full"),
]


@pytest.fixture(scope="session")
def boxed(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the csv with boxes."""
    folder = tmp_path_factory.mktemp("boxed") / "run"
    main.main([*TRAIN, "--data", str(own / "complete.csv"), "--output_dir", str(folder)])
    return folder


def test_a_run_says_what_it_found_and_keeps_the_names(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "run"
    main.main([*TRAIN, "--data", str(own / "folders"), "--output_dir", str(folder)])
    said = capsys.readouterr().out
    for text in ("own data: class folders", "every class has 8 pictures", "estimate: 3 steps"):
        assert text in said
    for name in ("checkpoints/last.pt", "last_checkpoint.pth.tar"):
        _, settings = read_checkpoint(folder / name)
        assert settings["class_names"] == ["one", "three", "two"]
    assert settings["dataset_name"] == "own" and settings["data_seed"] == 0


def test_evaluations_know_the_data_from_the_run(boxed: Path) -> None:
    maps = ["--output_dir", str(boxed), "--score_map_process=jointll", "--cpu", "--workers=0"]
    eval_wsol.main([*maps, "--cam_curve_interval=0.1"])
    eval_remove_classify.main(maps)
    found = {}
    for summary in boxed.glob("eval_*/summary.json"):
        found |= json.loads(summary.read_text())
    assert 0 <= found["MaxBoxAccV2"] <= 100 and "R_0.1" in found
    with pytest.raises(UserError, match="needs CUB's parts"):
        eval_cue_location.main(maps)


def test_masks_of_coco_are_measured(own: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    main.main([*TRAIN, "--data", str(own / "coco.json"), "--output_dir", str(folder)])
    eval_wsol.main(["--output_dir", str(folder), "--cpu", "--workers=0", "--cam_curve_interval=.1"])
    (summary,) = folder.glob("eval_wsol*/summary.json")
    found = json.loads(summary.read_text())
    assert found["PxAP"] > 0 and "MaxBoxAccV2" in found


@pytest.mark.parametrize(
    ("name", "is_by_boxes"), [("complete.csv", False), ("coco.json", True), ("voc", True)]
)
def test_the_label_is_said_to_be_of_the_boxes_where_it_is(
    own: Path, name: str, is_by_boxes: bool
) -> None:
    args = parse([*TRAIN, "--data", str(own / name)]).args
    said = " ".join(told_of_data(read_own_data(args)))
    assert ("the class of which the boxes cover most" in said) == is_by_boxes


def test_a_moved_checkpoint_takes_data(own: Path, boxed: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.pt"
    alone.write_bytes((boxed / "checkpoints/last.pt").read_bytes())
    flags = ["--load_checkpoint", str(alone), "--cpu", "--workers=0", "--cam_curve_interval=0.1"]
    flags += ["--save_root", str(tmp_path)]
    eval_wsol.main([*flags, "--data", str(own / "complete.csv")])
    reordered = tmp_path / "classes.txt"
    reordered.write_text("two\none\nthree\n")
    given = ["--data", str(own / "complete.csv"), "--classes", str(reordered)]
    with pytest.raises(UserError, match="its class 0 is 'one'"):
        eval_wsol.main([*flags, *given])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "OWN/nowhere"], "does not exist"),
        (["--data", "OWN/folders", "--data_root", "elsewhere"], "name different data"),
        (["--data", "OWN/folders", "--dataset=CUB"], "name different data"),
        (["--data", "OWN/folders", "--num_classes=7"], "name different data"),
        (["--images", "OWN"], "belongs to --data"),
        (["--data", "OWN/multi.csv"], "needs exactly one"),
        (["--data", "OWN/features.csv"], "needs pictures"),
    ],
)
def test_a_mistake_is_one_line(own: Path, flags: list[str], message: str, tmp_path: Path) -> None:
    given = [flag.replace("OWN", str(own)) for flag in flags]
    with pytest.raises(UserError, match=message) as error:
        main.main([*TRAIN, *given, "--output_dir", str(tmp_path / "run")])
    assert "\n" not in str(error.value)


def test_resume_compares_the_data(own: Path, boxed: Path) -> None:
    other = ["--data", str(own / "folders"), "--output_dir", str(boxed), "--resume"]
    with pytest.raises(UserError, match="data"):
        main.main([*TRAIN, *other])


def test_the_drawn_birds_are_a_sample_run(birds: Path) -> None:
    settings = parse(["--data", str(birds)])
    assert settings.is_sample and settings.args.architecture == "small"
    assert settings.args.data is None and settings.args.dataset_name == "CUB"


def test_ids_stay_below_a_folder(own: Path, tmp_path: Path) -> None:
    listing = tmp_path / "absolute.csv"
    rows = ["path,label"]
    for folder in sorted((own / "folders/train").iterdir()):
        rows += [f"{file},{folder.name}" for file in sorted(folder.iterdir())]
    listing.write_text("\n".join(rows))
    data = read_own_data(parse([*TRAIN, "--data", str(listing)]).args)
    assert data.own is not None
    ids = ids_of(data.own.train)
    assert len(set(ids)) == len(ids) and not any(name.startswith("/") for name in ids)
