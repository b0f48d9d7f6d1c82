"""Bad input of `python main.py` ends in one line and status 2, and loses nothing."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch

from cavl import main as entry
from cavl.data import load_dataset
from cavl.options import parse
from common import samples
from common.cli import UserError, run_main
from tests.cavl.runs import SAMPLE, run, state


def test_partial_file_is_used_and_its_faults_are_named(tmp_path, capsys):
    sets = np.eye(10, dtype=np.uint8)[np.random.default_rng(0).integers(0, 10, 1300)]
    np.save(tmp_path / "one.npy", sets)
    run(tmp_path / "r", "-partial_file", str(tmp_path / "one.npy"), "-ep", "1")
    out = capsys.readouterr().out
    wrong = np.flatnonzero(pd.read_csv(tmp_path / "r/selected.csv")["true_label"] != sets.argmax(1))
    assert "every set holds one label" in out
    rows = f"{len(wrong)} rows (noisy partial labels), the first are {wrong[:5].tolist()}"
    assert f"not a candidate in {rows}" in out
    assert np.array_equal(np.load(tmp_path / "r/candidates.npy"), sets)
    faults = {
        "shape": sets[:5],
        "values": sets * 2,
        "empty": np.where(np.arange(1300)[:, None] == 7, 0, sets),
    }
    for name, matrix in faults.items():
        np.savez(tmp_path / f"{name}.npz", matrix)
        message = {
            "shape": r"\(5, 10\)",
            "values": "not 0 or 1",
            "empty": r"empty.npz: 1 samples .*\[7\]",
        }[name]
        with pytest.raises(UserError, match=message):
            run(tmp_path / name, "-partial_file", str(tmp_path / f"{name}.npz"), "-ep", "1")
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04" + b"x" * 100)
    (tmp_path / "junk.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr" + b"(" * 111)
    (tmp_path / "nothing.npy").write_bytes(b"")
    np.save(tmp_path / "pickled.npy", np.array([[1, "x"]], object))
    np.savez(tmp_path / "pickled.npz", np.array([[1, "x"]], object))
    faults = {name: "cannot be read" for name in ("junk.npz", "junk.npy", "nothing.npy")}
    faults |= {
        name: r"cannot be read .*\(it holds pickled objects\)"
        for name in ("pickled.npy", "pickled.npz")
    }
    np.savez(tmp_path / "two.npz", a=sets, b=sets)
    faults["two.npz"] = "expected a single array, it holds 2: a, b"
    np.savez(tmp_path / "none.npz")
    faults["none.npz"] = "expected a single array, it holds 0: none"
    np.save(tmp_path / "words.npy", sets.astype(str))
    np.save(tmp_path / "fields.npy", np.zeros((1300, 10), [("a", "u1")]))
    np.save(tmp_path / "complex.npy", sets.astype(complex))
    faults |= {
        name: "an array of .*, expected numbers"
        for name in ("words.npy", "fields.npy", "complex.npy")
    }
    np.save(tmp_path / "nan.npy", np.where(sets == 1, np.nan, 0))
    faults["nan.npy"] = "1300 values not 0 or 1"
    for name, message in faults.items():
        with pytest.raises(UserError, match=f"{name}: {message}"):
            run(tmp_path / "x", "-partial_file", str(tmp_path / name), "-ep", "1")
    assert not (tmp_path / "x").exists()  # before a folder is touched


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-ds", "svhn"], "invalid choice: 'svhn'"),
        (["-mo", "vit"], "vit: timm and torchvision have no such network"),
        (["-op", "lion"], "invalid choice: 'lion'"),
        (["-mo", "lenet", "-ds", "cifar10"], "-mo lenet takes 1x28x28"),
        (["-mo", "resnet", "-ds", "lost", "-fold", "0"], "use linear or mlp"),
        (["-select", "cam"], "convnet, resnet, densenet"),
        (["-cam_vis", "3"], "convnet, resnet, densenet"),
        (["-q", "1"], "-q: must be below 1, not 1.0"),
        (["-rate", "0"], "above 0"),
        (["-folds", "5000", "-ds", "lost"], "more than"),
        (["-fold", "10", "-folds", "10", "-ds", "lost"], "0 to 9"),
        (["-ep", "0"], "at least 1"),
        (["-warmup", "60"], "less than"),
        (["-lr", "0"], "above 0"),
        (["-wd", "-1"], "negative"),
        (["-gpu", "0,1"], "accelerate launch"),
        (["-bs", "0"], "at least 1"),
        (["-partial_type", "file"], "-partial_file"),
        (
            ["-ds", "lost", "-fold", "0", "-partial_file", __file__],
            "lost comes with its own candidate sets",
        ),
        (["-mo", "resnet", "-select", "cam", "-temperature", "1"], "softens the CAV"),
        (["-mo", "resnet", "-select", "cam", "-cav_forward", "before"], "a forward of their own"),
        (["-selection_curve", "-5"], "negative"),
        (["-seed", "-1"], "negative"),
        (["-seeds", "0,-1"], "integers from 0 on"),
        (["-warmup", "x"], "at least 0 or 'auto', not 'x'"),
        (["-seeds", "a"], "integers"),
        (["-compare", "cavl,magic"], "unknown method"),
        (
            ["-ds", "msrcv2"],
            "no offline sample, these have one: mnist, kmnist, fashion, cifar10, lost",
        ),
        (["-compare", "cavl,rc,cavl"], "cavl stands there twice"),
        (["-seeds", "0,1,0"], "each seed once"),
        (["--released", "-partial_type", "fps"], "--released: means"),
        (["--released", "-mask", "candidates"], "--released: means"),
        (["--released", "-cav_forward", "before"], "--released: means"),
        (["-ca", "01", "-partial_file", __file__], "one of the two"),
        (["-ca", "01", "-partial_type", "fps"], "-ca is for -partial_type case, not fps"),
        (
            ["-partial_file", __file__, "-partial_type", "fps"],
            "-partial_file is for -partial_type file, not fps",
        ),
        (["-rate", "0.1"], "-rate is for -partial_type instance, not uss"),
        (["-ds", "lost", "-partial_type", "fps"], "lost comes with its own candidate sets"),
        (["-ds", "lost", "-ca", "01"], "lost comes with its own candidate sets"),
        (["-ds", "lost", "-augment"], "lost holds features"),
        (["-fold", "3"], "mnist has a test part of its own"),
        (["-compare", "cavl,rc", "-cav_forward", "before"], "that is -method proden"),
        (["-mo", "convnet", "-bs", "3"], "the last batch of 1300 images leaves a single one"),
        (["-nonsense"], "unrecognized"),
        (["-q", "0.3"], "-q is for -partial_type fps, not uss"),
        (["-q", "0.3", "-ca", "01"], "-q is for -partial_type fps, not case"),
        (["-oracle", __file__], "-oracle is for -partial_type instance, not uss"),
        (["-partial_type", "instance", "-oracle", "no.pt"], "-oracle: no.pt: no such file"),
        (["-partial_file", "no.npy"], "-partial_file: no.npy: no such file"),
        (["-partial_file", "~nobody_here/x.npy"], "there is no user"),
        (["-partial_file", "/dev/null"], "/dev/null: a device, expected a file"),
        (["-oracle", "/"], "/: a folder, expected a file"),
        (["--data_dir=~nobody_here/x"], "--sample and --data_dir"),
        (["-bs", "1" + "0" * 30], "-bs: must be at most 1000000000"),
        (["-ep", "1" + "0" * 400], "-ep: must be at most 1000000000"),
        (["-mo", "resnet", "-cam_vis", "201"], "-cam_vis: must be at most 200"),
        (["-gpu", "\N{SUPERSCRIPT TWO}"], "one index"),
        (["-folds", "5"], "-folds 5: mnist has a test part of its own"),
        (
            ["-standardize", "all"],
            "-standardize is for the features of .mat sets; mnist holds images",
        ),
        (["-depth", "20"], "-depth is for -mo resnet, not mlp"),
        (["-mo", "convnet", "-depth", "20"], "-depth is for -mo resnet, not convnet"),
        (["-method", "rc", "-cav", "softmax"], "-cav: with -method rc -select cav no CAV is taken"),
        (
            ["-mo", "resnet", "-select", "cam", "-cav", "softmax"],
            "-cav: with -method cavl -select cam no CAV is taken",
        ),
        (
            ["-method", "rc", "-mask", "product"],
            "-mask: with -method rc -select cav no CAV is masked",
        ),
        (
            ["-mo", "resnet", "-select", "cam", "-mask", "product"],
            "-mask: with -method cavl -select cam",
        ),
        (
            ["-method", "uniform", "-smoothing", "0.1"],
            "-smoothing is for -method cavl, not uniform",
        ),
        (["-method", "rc", "-temperature", "1"], "-temperature is for -method cavl, not rc"),
        (
            ["-method", "rc", "-mo", "resnet", "-select", "cam"],
            "-select is for -method cavl, not rc",
        ),
        (["-compare", "rc,cc", "-warmup", "5"], "-warmup is for -method cavl, not rc, cc"),
        (["-method", "rc", "--released"], "-released is for -method cavl, not rc"),
        (
            ["-method", "proden", "-cav_forward", "after"],
            "-cav_forward is for -method cavl, rc and lws, not proden",
        ),
        (
            ["-method", "cc", "-cav_forward", "before"],
            "-cav_forward is for -method cavl, rc and lws, not cc",
        ),
        (["-method", "rc", "-cav_forward", "before"], "that is -method proden"),
        (["-lw_weight", "1"], "-lw_weight is for -method lws, not cavl"),
        (["-lw_weight0", "1"], "-lw_weight0 is for -method lws, not cavl"),
        (["-compare", "cavl,rc", "-method", "rc"], "-method: -compare names the methods"),
        (["-seeds", "0,1", "-seed", "0"], "-seed: -seeds names the seeds"),
        (["-gpu", "0"], "-gpu: -cpu stays off the GPU"),
        (
            ["-mo", "resnet", "-mask", "product", "-temperature", "1"],
            "soft selection needs -mask candidates",
        ),
        (["-temperature", "1", "-mask", "product"], "soft selection needs -mask candidates"),
        (["--data_dir", "data"], "--sample and --data_dir data: give one of the two"),
        (
            ["--released", "-ca", "01"],
            "--released: means -partial_type uss, which -ca and -partial_file are not",
        ),
        (["-lr", "nan"], "-lr: must be a finite number, not nan"),
        (["-wd", "inf"], "-wd: must be a finite number, not inf"),
        (["-lw_weight", "-1", "-method", "lws"], "-lw_weight: must not be negative"),
        (["-temperature", "0"], "-temperature: must be above 0, not 0.0"),
        (["-smoothing", "1"], "-smoothing: must be below 1, not 1.0"),
        (["-resident_gb", "-1"], "-resident_gb: must not be negative"),
        (["-seed", str(2**63)], "must be at most"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: entry.main([*SAMPLE, "--output_dir", str(tmp_path / "r"), *flags]))
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1


def test_given_data_dir_without_data_and_damaged_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.MNIST", None)
    with pytest.raises(UserError, match="--sample"):
        entry.main(
            ["-ds", "lost", "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "r")]
        )
    scipy.io.savemat(tmp_path / "lost.mat", {"data": np.zeros((3, 2))})
    with pytest.raises((UserError, ValueError), match="partial_target"):
        entry.main(
            ["-ds", "lost", "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "r")]
        )
    folder = samples.draw("MNIST", tmp_path / "data")
    images = next(folder.rglob("train-images-idx3-ubyte"))
    images.write_bytes(images.read_bytes()[:1000])
    with pytest.raises(UserError, match="train-images-idx3-ubyte: 1000 bytes"):
        entry.main(["--data_dir", str(folder), "--output_dir", str(tmp_path / "r")])


def test_cifar_pickles_are_read_without_executing_code(tmp_path):
    folder = samples.draw("CIFAR10", tmp_path / "data")

    class Malice:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "owned",))

    (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(UserError, match="data_batch_1"):
        entry.main(
            ["-ds", "cifar10", "--data_dir", str(folder), "--output_dir", str(tmp_path / "r")]
        )
    assert not (tmp_path / "owned").exists()


def test_plcifar_reads_union_and_longest(tmp_path):
    folder = samples.draw("CIFAR10", tmp_path / "data")
    answers = {i: [[0, 1], [1, 2, 3]] for i in range(2000)}
    (folder / "plcifar10").mkdir()
    (folder / "plcifar10" / "plcifar10.pkl").write_bytes(pickle.dumps(answers))
    for name, expected in (("aggregate", [0, 1, 2, 3]), ("vaguest", [1, 2, 3])):
        flags = [
            "-ds",
            f"plcifar10_{name}",
            "-mo",
            "mlp",
            "-ep",
            "1",
            "--max_steps",
            "1",
            "--data_dir",
            str(folder),
        ]
        entry.main([*flags, "--output_dir", str(tmp_path / name)])
        assert np.flatnonzero(np.load(tmp_path / name / "candidates.npy")[0]).tolist() == expected


def test_a_path_to_a_sample_makes_a_sample_run(tmp_path, capsys):
    folder = samples.draw("MNIST", tmp_path / "data" / "mnist")
    assert parse(["--data_dir", str(folder)]).args.ep == 60
    assert parse(["--data_dir", str(folder / "MNIST" / "raw")]).args.ep == 60
    settings = parse(["--data_dir", str(tmp_path / "data")])
    assert settings.args.ep == 60 and load_dataset("mnist", settings.location).is_sample
    assert capsys.readouterr().out == f"{folder / 'MNIST' / 'raw'} is an offline sample\n"


def test_resume_refuses_other_candidate_sets_and_keeps_the_runs_own(tmp_path):
    run(tmp_path / "r", "-ep", "2", "--max_steps", "5")
    before = (tmp_path / "r/candidates.npy").read_bytes()
    with pytest.raises(UserError, match="seed 0 then, 1 now"):
        run(tmp_path / "r", "-ep", "2", "-seed", "1", "--resume")
    assert (tmp_path / "r/candidates.npy").read_bytes() == before
    saved = state(tmp_path / "r")
    saved["state"]["labels"]["candidates"][0] = 1
    torch.save(saved, tmp_path / "r/checkpoints/last.pt")
    with pytest.raises(UserError, match="candidate sets differ"):
        run(tmp_path / "r", "-ep", "2", "--resume")


def test_loss_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, capsys):
    run(tmp_path / "r", "-ep", "1")
    before = (tmp_path / "r/checkpoints/last.pt").read_bytes()
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: run(tmp_path / "nan", "-ep", "2", "-lr", "1e38"))
    err = capsys.readouterr().err
    assert stop.value.code == 1 and "step" in err and "samples" in err and err.count("\n") == 1
    assert (tmp_path / "r/checkpoints/last.pt").read_bytes() == before
