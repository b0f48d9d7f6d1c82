"""Checkpoints: whole or not there, never executed, complete, and clear about what does not fit."""

import argparse
import errno
import os
import pickle
import random
import resource
import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common import checkpoint
from common.cli import UserError
from tests.equality import same


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(features=nn.Linear(4, 3), norm=nn.BatchNorm1d(3), head=nn.Linear(3, 2))
    )


# --- written whole ---


def test_a_write_that_dies_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "last.pt"
    checkpoint.save(path, {"step": 1})

    def dies(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        checkpoint.atomic_save(path, dies)
    assert checkpoint.load(path) == {"step": 1}
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    events = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append("folder" if _is_folder(fd) else "file"), sync(fd))
    )
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (events.append("rename"), replace(self, to))[1]
    )
    checkpoint.atomic_write(tmp_path / "a.json", b"{}")
    assert events == ["file", "rename", "folder"]


def _is_folder(fd: int) -> bool:
    return os.path.isdir(f"/proc/self/fd/{fd}")  # noqa: PTH112


def test_a_full_disk_is_a_users_error_and_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"x": torch.ones(3)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"last\.pt: cannot be written .*free space"):
            checkpoint.save(path, {"x": torch.ones(1_000_000)})
        with pytest.raises(UserError, match=r"config\.json: cannot be written"):
            checkpoint.atomic_write(tmp_path / "config.json", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(checkpoint.load(path)["x"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from common import checkpoint

# A forked child has no OpenMP team: its first parallel region would wait for ever.
torch.set_num_threads(1)
path, rng, seen = Path(sys.argv[1]), random.Random(0), []
checkpoint.save(path, {"number": -1, "x": torch.full((2_000_000,), -1)})
for kill in range(20):
    saved, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        number = checkpoint.load(path)["number"]
        while True:
            number += 1
            checkpoint.save(path, {"number": number, "x": torch.full((2_000_000,), number)})
            os.write(say, b".")
    started = time.monotonic()
    os.read(saved, 1)  # one save is through, however slow the disk: the kill falls into a later one
    time.sleep(rng.random() * (time.monotonic() - started))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(saved), os.close(say)
    state = checkpoint.load(path)
    assert (state["x"] == state["number"]).all(), kill
    seen.append(state["number"])
assert seen == sorted(set(seen)), seen  # every child went on from what the killed one left
print("whole", seen[-1])
"""


@pytest.mark.slow
def test_twenty_kills_while_saving_never_leave_a_broken_file(tmp_path):
    command = [sys.executable, "-c", KILLS, str(tmp_path / "last.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.startswith("whole"), done.stderr


def dead_process() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("process", "age", "name", "is_cleared"),
    [
        ("dead", 3600, "a.json", True),
        ("dead", 0, "a.json", False),  # perhaps another machine writes it just now
        ("own", 3600, "a.json", False),
        ("dead", 3600, "b.json", False),  # not the file that is written
        ("dead", 3600, "a.json.b", False),
    ],
)
def test_a_save_clears_what_a_killed_one_of_the_same_file_left(
    tmp_path, process, age, name, is_cleared
):
    number = dead_process() if process == "dead" else os.getppid()
    part = tmp_path / f".{name}.{number}.part"
    part.write_bytes(b"half")
    changed = part.stat().st_mtime - age
    os.utime(part, (changed, changed))
    checkpoint.atomic_write(tmp_path / "a.json", b"{}")
    assert part.exists() != is_cleared
    assert (tmp_path / "a.json").read_bytes() == b"{}"


def test_a_file_system_that_syncs_no_folders_will_do(tmp_path, monkeypatch):
    sync = os.fsync

    def no_folders(number: int) -> None:
        if _is_folder(number):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(number)

    monkeypatch.setattr(os, "fsync", no_folders)
    checkpoint.atomic_write(tmp_path / "a.json", b"{}")
    assert (tmp_path / "a.json").read_bytes() == b"{}"


# --- read safely ---


class Payload:
    """Runs code when unpickled in the ordinary way."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["torch zip", "torch legacy", "plain pickle"])
def test_a_malicious_checkpoint_executes_nothing(tmp_path, form):
    path, target = tmp_path / "evil.pt", tmp_path / "executed"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(Payload(target), protocol=2))
    else:
        torch.save(
            {"state": Payload(target)}, path, _use_new_zipfile_serialization=form == "torch zip"
        )
    with pytest.raises(
        UserError, match="evil.pt: not a checkpoint .*: it holds posix.mkdir; .*never executed"
    ):
        checkpoint.load(path)
    assert not target.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (Path("a"), "pathlib"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (np.array([None, 1], dtype=object), "numpy.dtypes.ObjectDType"),
        (os.mkdir, "posix.mkdir"),
    ],
)
def test_what_is_refused_is_named(tmp_path, content, name, zipped):
    path = tmp_path / "others.pt"
    torch.save({"w": torch.ones(1), "args": content}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=f"it holds {name}") as caught:
        checkpoint.load(path)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_says_what_it_holds_whatever_its_protocol(tmp_path, protocol):
    path = tmp_path / "others.pt"
    path.write_bytes(pickle.dumps({"model": Payload(tmp_path / "executed")}, protocol=protocol))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one line, and no warning beside it
        with pytest.raises(UserError, match="it holds posix.mkdir;"):
            checkpoint.load(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "an HTML page saved under this name"),
    ],
)
def test_a_download_that_went_wrong_says_what_it_is(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(
        UserError, match=f"a.pth: not a checkpoint of tensors and plain data: .*{message}"
    ):
        checkpoint.load(tmp_path / "a.pth")


@pytest.mark.parametrize("damage", ["text", "cut", "flipped"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_named(tmp_path, damage, zipped):
    path = tmp_path / "last.pt"
    torch.save({"x": torch.randn(1000)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(
        {"text": b"hello", "cut": data[: len(data) // 2], "flipped": b"X" + data[1:-40]}[damage]
    )
    with pytest.raises(
        UserError, match="last.pt: not a checkpoint .*: the file is damaged or cut short"
    ):
        checkpoint.load(path)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "last.pt", {"x": 1})

    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "last.pt"))

    monkeypatch.setattr(torch, "load", denied)
    with pytest.raises(PermissionError):
        checkpoint.load(tmp_path / "last.pt")


# --- NumPy beside the weights ---

NUMBERS = [
    *(
        np.float64(0.5),
        np.float32(0.5),
        np.float16(0.5),
        np.int64(-3),
        np.int32(3),
        np.uint8(3),
        np.bool_(True),
    ),
    *(np.complex64(1j), np.str_("text"), np.bytes_(b"bytes")),
    *(
        np.arange(6.0).reshape(2, 3),
        np.arange(3, dtype=np.int16),
        np.array([True, False]),
        np.array(["a", "bc"]),
    ),
    *(np.zeros((0, 3), dtype=np.uint8), np.asfortranarray(np.eye(3)), np.arange(3, dtype=">i4")),
]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "value", NUMBERS, ids=lambda value: f"{type(value).__name__}-{value.dtype}"
)
def test_numpy_numbers_and_arrays_beside_the_weights_load(tmp_path, value, zipped):
    state = {"model": {"w": torch.ones(2)}, "best": value, "history": [value, {"last": value}]}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = checkpoint.load(tmp_path / "a.pt")
    native = value.dtype.newbyteorder("=")  # as an ordinary unpickling gives it
    for one in (found["best"], found["history"][0], found["history"][1]["last"]):
        assert type(one) is type(value) and one.dtype == native
        np.testing.assert_array_equal(one, value)


def test_numpy_values_of_both_major_versions_load(tmp_path):
    """Pickles of NumPy 1 say numpy.core, those of NumPy 2 numpy._core."""
    state = {"best": np.float64(0.5), "counts": np.arange(3)}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    written = (tmp_path / "a.pt").read_bytes()
    for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
        (tmp_path / "b.pt").write_bytes(written.replace(old, new))
        found = checkpoint.load(tmp_path / "b.pt")
        assert found["best"] == 0.5 and found["counts"].tolist() == [0, 1, 2]


def test_loading_leaves_no_permission_behind(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"best": np.float64(1)})
    before = set(torch.serialization.get_safe_globals())
    checkpoint.load(tmp_path / "a.pt")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pt", weights_only=True)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "no.pt", tmp_path):
        with pytest.raises(UserError, match=f"{path.name}: no such checkpoint"):
            checkpoint.load(path)


def test_plain_data_comes_back_as_it_was(tmp_path):
    state = {
        "x": torch.arange(3),
        "n": 1,
        "f": 0.1,
        "t": "a",
        "l": [1, None, True],
        "d": {1: (2, 3)},
    }
    checkpoint.save(tmp_path / "a.pt", state)
    assert same(checkpoint.load(tmp_path / "a.pt"), state)


# --- fits, or says what does not ---


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_of_parallel_and_compiled_modules_do_not_matter(model, prefix):
    wanted = {
        key: torch.randn_like(v) if v.is_floating_point() else v + 5
        for key, v in model.state_dict().items()
    }
    checkpoint.load_into(model, {prefix + key: value for key, value in wanted.items()}, "x.pt")
    assert same(dict(model.state_dict()), wanted)


def test_plain_weights_load_into_a_wrapped_module(model):
    wrapped = nn.DataParallel(model)
    wanted = {key: torch.ones_like(value) for key, value in model.state_dict().items()}
    checkpoint.load_into(wrapped, wanted, "x.pt")
    assert same(dict(model.state_dict()), wanted)


class Compiled(nn.Module):
    """As torch.compile wraps a module; importing its compiler takes 20 s."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


def test_compiled_and_plain_modules_exchange_checkpoints(model):
    compiled = Compiled(model)
    assert checkpoint.unwrap(compiled) is model
    assert checkpoint.collect({"model": compiled})["model"].keys() == model.state_dict().keys()
    checkpoint.load_into(
        compiled, {key: torch.ones_like(v) for key, v in model.state_dict().items()}, "x.pt"
    )
    assert (model.head.weight == 1).all()


def test_an_averaged_model_survives_the_round_trip(tmp_path, model):
    def averaged() -> AveragedModel:
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    teacher, other = averaged(), averaged()
    for _ in range(3):
        model.head.weight.data += 1
        teacher.update_parameters(model)
    checkpoint.save(tmp_path / "a.pt", checkpoint.collect({"teacher": teacher}))
    checkpoint.restore({"teacher": other}, checkpoint.load(tmp_path / "a.pt"), "a.pt")
    assert same(dict(other.state_dict()), dict(teacher.state_dict())) and int(other.n_averaged) == 3


def test_a_damaged_last_checkpoint_names_the_best_one(tmp_path):
    checkpoint.save(tmp_path / "best.pt", {"a": 1})
    for name, way_out in (("last.pt", True), ("best.pt", False)):
        (tmp_path / name).write_bytes((tmp_path / "best.pt").read_bytes()[:100])
        with pytest.raises(UserError) as caught:
            checkpoint.load(tmp_path / name)
        assert (f"{tmp_path}/best.pt is beside it, name that one" in str(caught.value)) == way_out


def test_a_mismatch_names_the_first_keys_and_shapes(model):
    given = dict(model.state_dict())
    del given["features.bias"]
    given["head.weight"] = torch.zeros(5, 3)
    given |= {f"extra.{k}": torch.zeros(1) for k in range(4)}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        checkpoint.load_into(model, given, "official.pth")
    assert str(caught.value) == (
        "official.pth: does not fit Sequential; 1 missing: features.bias; "
        "4 unexpected: extra.0, extra.1, extra.2; "
        "1 of another shape: head.weight (5, 3) instead of (2, 3)"
    )
    assert same(dict(model.state_dict()), before)


def test_what_is_not_weights_is_named(model):
    with pytest.raises(UserError, match="x.pt: holds a list, expected weights by name"):
        checkpoint.load_into(model, [1, 2], "x.pt")
    with pytest.raises(UserError, match=r"1 of another shape: head.bias int instead of \(2,\)"):
        checkpoint.load_into(model, {**model.state_dict(), "head.bias": 3}, "x.pt")


def test_restore_names_absent_state_wrong_shapes_and_other_optimisers(model):
    one = torch.optim.SGD(model.parameters(), 0.1)
    other = torch.optim.SGD([model.head.weight], 0.1)
    with pytest.raises(UserError, match="x.pt: holds no state of teacher, labels"):
        checkpoint.restore({"teacher": model, "labels": torch.zeros(1)}, {}, "x.pt")
    with pytest.raises(UserError, match=r"x.pt: labels is \(4, 3\), expected \(5, 3\)"):
        checkpoint.restore({"labels": torch.zeros(5, 3)}, {"labels": torch.zeros(4, 3)}, "x.pt")
    with pytest.raises(UserError, match="x.pt: optimizer does not fit"):
        checkpoint.restore({"optimizer": other}, checkpoint.collect({"optimizer": one}), "x.pt")


def test_label_tensors_are_filled_in_place(tmp_path):
    labels = torch.rand(5, 3)
    checkpoint.save(tmp_path / "a.pt", checkpoint.collect({"labels": labels}))
    empty = torch.zeros(5, 3)
    view = empty[1:]
    checkpoint.restore({"labels": empty}, checkpoint.load(tmp_path / "a.pt"), "a.pt")
    assert torch.equal(empty, labels) and torch.equal(view, labels[1:])


# --- random states ---


def draws() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),  # noqa: NPY002
        np.random.randn(),  # noqa: NPY002
        torch.rand(()).item(),
    ]  # noqa: NPY002


def test_random_states_survive_a_safe_file(tmp_path):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)  # noqa: NPY002
    draws()  # leaves half a Gaussian pair waiting in Python's and NumPy's generators
    checkpoint.save(tmp_path / "a.pt", {"random": checkpoint.random_state()})
    wanted = [draws() for _ in range(3)]
    draws()
    checkpoint.set_random_state(checkpoint.load(tmp_path / "a.pt")["random"])
    assert [draws() for _ in range(3)] == wanted


def test_a_whole_training_state_loads_with_weights_only(tmp_path, model):
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    model(torch.randn(4, 4)).sum().backward()
    optimizer.step()
    scheduler.step()
    stateful = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    checkpoint.save(tmp_path / "a.pt", checkpoint.collect(stateful))
    assert same(checkpoint.load(tmp_path / "a.pt"), checkpoint.collect(stateful))
