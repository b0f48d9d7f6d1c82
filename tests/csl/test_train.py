"""train.py: a whole run, the exact resume, the two compare, rows side by side, and the printed
commands."""

import json
import os
import re
import shutil
import signal

import pytest
import torch
from torch import nn

from common.cli import NonFiniteError, UserError
from csl import compare, train, validate
from csl.src.helper_functions.helper_functions import ModelEma
from csl.src.models.utils.checkpoint import network_of
from tests.csl.tiny import NAMES, arguments, write_coco

SELECTIVE = ("--partial_loss_mode", "selective", "--prior_threshold", "0.5")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture(scope="module")
def prior_csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "prior.csv"
    rows = "".join(f"{name},{0.9 if k == 2 else 0.1}\n" for k, name in enumerate(reversed(NAMES)))
    path.write_text("Classes,avg_pred\n" + rows)  # not in the order of the data: names decide
    return path


@pytest.fixture(scope="module")
def whole(data, prior_csv, tmp_path_factory):
    """An uninterrupted run with everything that has state."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train.main(arguments(data, folder, *SELECTIVE, "--prior_path", str(prior_csv)))
    return folder


def tensors_of(path):
    found = {}

    def walk(value, name):
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{name}/{key}")
        elif isinstance(value, (list, tuple)):
            for k, item in enumerate(value):
                walk(item, f"{name}/{k}")

    walk(torch.load(path, weights_only=True)["state"], "")
    return found


def assert_same_run(a, b):
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    first, second = (tensors_of(folder / "checkpoints" / "last.pt") for folder in (a, b))
    assert first.keys() == second.keys() and len(first) > 300
    different = [key for key in first if not torch.equal(first[key], second[key])]
    assert not different
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (a, b)]
    for summary in summaries:
        del summary["wall_seconds"], summary["images_per_second"]
    assert summaries[0] == summaries[1]


def test_what_a_run_leaves(whole, data, tmp_path, capsys):
    for name in (
        "config.json",
        "summary.json",
        "per_class.csv",
        "partial_labels.npz",
        "train_avg_preds.csv",
    ):
        assert (whole / name).is_file()
    for name in ("curves", "class_frequency", "examples"):
        assert (whole / "figures" / f"{name}.png").stat().st_size > 1000
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["epochs"] == 2 and not summary["offline_sample"]
    assert 0 < summary["dropped_share"] <= 100 and 0 <= summary["drop_precision"] <= 100
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    ema = [line["mAP_ema"] for line in lines if line["split"] == "test"]
    model = [line["mAP_model"] for line in lines if line["split"] == "test"]
    assert summary["mAP_ema_final"] == ema[-1] and summary["mAP_model_best_on_test"] == max(model)
    assert summary["mAP_released_max"] == max(ema + model)
    rows = [row.split(",") for row in (whole / "per_class.csv").read_text().splitlines()]
    columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    assert columns["class"] == NAMES
    by_prior = [int(v) for v in columns["by_prior"]]  # only the class with the prior 0.9
    assert by_prior[2] == int(columns["unannotated"][2]) and sum(by_prior) == by_prior[2]


def test_published_form_and_validate(whole, data, tmp_path):
    """best_ema.pth is a file in the published form, and validate.py finds the score that the run
    logged."""
    content = torch.load(whole / "checkpoints" / "best_ema.pth", weights_only=True)
    assert content["num_classes"] == 5 and list(content["idx_to_class"].values()) == list(NAMES)
    model, found = network_of(whole / "checkpoints" / "best_ema.pth", "tresnet_m")
    assert found.architecture == "tresnet_tiny" and found.head == "plain" and model.num_classes == 5
    flags = [
        "--data",
        str(data),
        "--image_size",
        "32",
        "--workers",
        "0",
        "--cpu",
        "--batch_size",
        "5",
    ]
    path = ["--model_path", str(whole / "checkpoints" / "best_ema")]  # the suffix is found
    args = validate.parse([*flags, *path, "--output_dir", str(tmp_path / "v"), "--calibrate"])
    summary = validate.validate(args)
    assert summary["mAP"] == pytest.approx(content["mAP"], abs=1e-3)
    assert summary["images"] == 13 and summary["CF1_calibrated"] >= summary["CF1"] - 1e-9
    assert json.loads((tmp_path / "v" / "summary.json").read_text())["images_per_second"] > 0
    for which in ("model", "ema"):  # a run's own checkpoint holds both
        last = ["--model_path", str(whole / "checkpoints" / "last.pt"), "--which", which]
        args = validate.parse([*flags, *last, "--output_dir", str(tmp_path / which)])
        lines = (whole / "metrics.jsonl").read_text().splitlines()
        assert validate.validate(args)["mAP"] == pytest.approx(
            json.loads(lines[-1])[f"mAP_{which}"], abs=1e-3
        )


def test_numbers_of_classes_that_disagree(whole, data, tmp_path):
    flags = [
        "--data",
        str(data),
        "--cpu",
        "--model_path",
        str(whole / "checkpoints" / "best_ema.pth"),
    ]
    with pytest.raises(
        UserError, match=r"disagree: 5 of .*best_ema.pth, 5 of .*val2014.json, 7 of --num_classes"
    ):
        validate.validate(
            validate.parse([*flags, "--num_classes", "7", "--output_dir", str(tmp_path / "v")])
        )


def test_weights_of_another_network_than_the_named_one(whole, data, tmp_path):
    weights = str(whole / "checkpoints" / "best_ema.pth")
    flags = arguments(data, tmp_path / "run", "--model_name", "tresnet_m", "--model_path", weights)
    with pytest.raises(UserError, match="looks like tresnet_tiny: use --model-name tresnet_tiny"):
        train.main(flags)


@pytest.mark.parametrize("stop", [pytest.param(3, marks=pytest.mark.slow), 9])
def test_resume_after_max_steps_is_exact(whole, data, prior_csv, tmp_path, stop):
    flags = arguments(data, tmp_path / "run", *SELECTIVE, "--prior_path", str(prior_csv))
    train.main([*flags, "--max_steps", str(stop)])
    train.main([*flags, "--resume"])
    assert_same_run(whole, tmp_path / "run")


def test_resume_after_sigterm_in_the_evaluation_is_exact(
    whole, data, prior_csv, tmp_path, monkeypatch
):
    flags = arguments(data, tmp_path / "run", *SELECTIVE, "--prior_path", str(prior_csv))
    score_both, calls = train.score_both, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return score_both(*args)

    monkeypatch.setattr(train, "score_both", interrupted)
    with pytest.raises(SystemExit) as stopped:
        train.main(flags)
    assert stopped.value.code == 143
    monkeypatch.undo()
    train.main([*flags, "--resume"])
    assert_same_run(whole, tmp_path / "run")


def test_other_settings_are_refused(data, tmp_path):
    flags = arguments(data, tmp_path / "run")
    train.main([*flags, "--max_steps", "1"])
    with pytest.raises(UserError, match="gamma_unann"):
        train.main([*flags, "--resume", "--gamma_unann", "3"])


@pytest.mark.slow
def test_estimate_prior_is_both_phases_and_resumes_within_phase_1(data, tmp_path, capsys):
    flags = arguments(data, tmp_path / "a", *SELECTIVE, "--estimate_prior", "1", "--epochs", "1")
    train.main(flags)
    told = capsys.readouterr().out
    assert (
        "phase 1" in told and "top 10 by the estimated prior" in told and "rank correlation" in told
    )
    first = json.loads((tmp_path / "a" / "phase1" / "config.json").read_text())["settings"]
    assert (first["partial_loss_mode"], first["epochs"], first["gamma_unann"]) == ("ignore", 1, 0.0)
    again = [str(tmp_path / "b") if f == str(tmp_path / "a") else f for f in flags]
    train.main([*again, "--max_steps", "3"])
    assert not (tmp_path / "b" / "checkpoints").exists()
    train.main([*again, "--resume"])
    assert_same_run(tmp_path / "a", tmp_path / "b")
    written = (tmp_path / "a" / "phase1" / "train_avg_preds.csv").read_text()
    assert written == (tmp_path / "b" / "phase1" / "train_avg_preds.csv").read_text()


def test_a_loss_that_is_not_finite_names_its_parts(data, tmp_path):
    """An alpha with which the sum over N overflows: the message has the step, the samples and
    the sets."""
    folder, flags = (
        tmp_path / "bad",
        arguments(data, tmp_path / "bad", *SELECTIVE, "--alpha_neg", "3e38"),
    )
    with pytest.raises(
        NonFiniteError, match=r"step 1: the loss is inf \(samples .*its parts: P [\d.]+, N inf, U"
    ):
        train.main(flags)
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("mode", ["selective", "ignore"])
def test_a_last_batch_of_one_image_whose_last_map_is_1x1(data, tmp_path, mode):
    """44 images, batches of 43 and 1, a map of 1x1 after layer 4: batch norm has no variance to
    take."""
    flags = arguments(
        data, tmp_path / "run", "--partial_loss_mode", mode, "--epochs", "1", "--batch_size", "43"
    )
    train.main([*flags, "--image_size", "32"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["epochs"] == 1 and summary["mAP_model_final"] > 0
    images = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)[
        "progress"
    ]["images"]
    assert images == 44


def test_validate_multi_reads_plain_pairs(capsys):
    """As in the released code: any loader of (images, targets); the two models scored apart."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    nn.init.eye_(model[1].weight)
    ema = ModelEma(model)
    nn.init.constant_(ema.module[1].weight, 0)  # all scores equal: the later row ranks first
    pairs = [
        (
            torch.tensor([[[[3.0]], [[1.0]], [[0.0]]], [[[0.0]], [[2.0]], [[0.0]]]]),
            torch.tensor([[1, 0], [0, 1]]),
        )
    ]
    assert train.validate_multi(pairs * 2, model, ema) == pytest.approx(100)
    assert train.validate_multi(pairs * 2, ema.module, ModelEma(model)) == pytest.approx(100)
    assert train.validate_multi(pairs * 2, model, ema, best="ema") == pytest.approx(
        100 * (1 / 2 + 5 / 6) / 2
    )
    assert "mAP score regular 100.00, mAP score EMA" in capsys.readouterr().out


def test_prior_quantile_drops_the_most_frequent_classes(data, prior_csv, tmp_path, capsys):
    flags = arguments(
        data, tmp_path / "q", *SELECTIVE, "--prior_path", str(prior_csv), "--prior_quantile", "0.8"
    )
    train.main([*flags, "--max_steps", "1"])
    assert f"1 of 5 classes are dropped where un-annotated: {NAMES[2]}" in capsys.readouterr().out
    with pytest.raises(UserError, match="of which prior"):
        train.main(arguments(data, tmp_path / "n", *SELECTIVE, "--prior_quantile", "0.8"))


@pytest.mark.slow
def test_compare_trains_the_rows_side_by_side(data, tmp_path, capsys):
    flags = arguments(data, tmp_path / "c", "--epochs", "1", "--stop_epoch", "1")
    train.main([*flags, "--compare", "negative_ce,csl", "--schemes", "fpc,rps", "--seeds", "3"])
    rows = (tmp_path / "c" / "results.csv").read_text().splitlines()
    told = capsys.readouterr().out
    assert len(rows) == 5 and "fpc-csl-seed3" in told and "count  model_mean\n" in told
    settings = json.loads((tmp_path / "c" / "rps-csl-seed3" / "config.json").read_text())[
        "settings"
    ]
    assert (
        settings["partial_loss_mode"] == "selective"
        and settings["gamma_neg"] == 1.0
        and settings["seed"] == 3
    )
    baseline = json.loads((tmp_path / "c" / "rps-negative_ce-seed3" / "config.json").read_text())[
        "settings"
    ]
    assert baseline["partial_loss_mode"] == "negative" and baseline["gamma_unann"] == 0.0
    summary = json.loads((tmp_path / "c" / "summary.json").read_text())
    assert summary["images_per_second"] is None  # the runs below have theirs
    assert summary["runs"] == 4 and "fpc_csl_mean" in summary


def test_compare_shows_published_numbers_beside_coco(data, tmp_path, capsys, monkeypatch):
    """Five classes stand for COCO's eighty here.

    With any other number the column is not there (the test above).
    """
    assert compare.paper_numbers()["fpc", "csl"] == 83.44 and len(compare.paper_numbers()) == 8
    monkeypatch.setattr(compare, "COCO_CLASSES", 5)
    train.main(
        [*arguments(data, tmp_path / "d", "--epochs", "1"), "--compare", "csl", "--schemes", "rps"]
    )
    assert re.search(r"model_mean +paper\n +rps +csl .* 85\.21\n", capsys.readouterr().out)


@pytest.mark.slow
def test_same_seed_same_numbers_other_seed_others(data, tmp_path):
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        train.main(arguments(data, tmp_path / name, "--epochs", "1", "--seed", seed))
    a, b, c = (tensors_of(tmp_path / name / "checkpoints" / "last.pt") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_how_long_it_takes_is_told_but_on_the_sample(data, tmp_path, capsys):
    train.main(arguments(data, tmp_path / "a", "--epochs", "1"))
    assert "estimate: 6 steps" in capsys.readouterr().out
    shutil.copytree(data, tmp_path / "sample")
    (tmp_path / "sample" / "SAMPLE.json").write_text(
        json.dumps({"name": "COCO_2014", "version": 1})
    )
    train.main(arguments(tmp_path / "sample", tmp_path / "b", "--epochs", "1"))
    assert "estimate:" not in capsys.readouterr().out
