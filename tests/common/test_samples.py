"""The offline samples: official layouts, fixed bytes, whole or not there at all."""

import fcntl
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat
from scipy.sparse import csc_matrix
from torchvision.datasets import MNIST

from common import samples
from common.cli import UserError
from common.samples import canvas


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every sample of this file, drawn once: drawn / NAME."""
    root = tmp_path_factory.mktemp("samples")
    for name in ("MNIST", "MNIST_clean", "CIFAR10", "PLL"):
        samples.draw(name, root / name)
    return root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> str:
    """A sample whose drawing fails half way."""
    monkeypatch.setitem(
        samples.REGISTRY, "BROKEN", samples.Sample(__name__, "draw_broken", 1, "fails")
    )
    return "BROKEN"


def draw_broken(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    (folder / "half").write_text("written")
    raise RuntimeError("half way")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "common.samples", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


# --- layouts ---


@pytest.mark.parametrize("name", ["MNIST", "MNIST_clean"])
def test_mnist_is_read_by_torchvision(drawn: Path, name: str) -> None:
    train, test = MNIST(drawn / name, train=True), MNIST(drawn / name, train=False)
    assert train.data.shape == (1300, 28, 28) and test.data.shape == (497, 28, 28)
    assert set(train.targets.tolist()) == set(test.targets.tolist()) == set(range(10))


def test_only_cavls_mnist_is_noisy(drawn: Path) -> None:
    noisy, clean = (MNIST(drawn / name).data.numpy() for name in ("MNIST", "MNIST_clean"))
    border = np.concatenate([noisy[:, :2].ravel(), noisy[:, -2:].ravel()]) / 255
    # the border holds nothing but max(noise, 0), whose mean is 0.3 / sqrt(2 pi)
    assert border.mean() == pytest.approx(0.3 / np.sqrt(2 * np.pi), abs=0.003)
    assert (clean[:, :, 0] == 0).mean() > 0.9


@pytest.mark.parametrize(("encoding", "key"), [("latin1", str), ("bytes", str.encode)])
def test_cifar_batches_read_like_the_official_ones(drawn: Path, encoding: str, key: type) -> None:
    root = drawn / "CIFAR10" / "cifar-10-batches-py"

    def read(name: str) -> dict:
        return pickle.loads((root / name).read_bytes(), encoding=encoding)

    for name, count in [(f"data_batch_{i}", 400) for i in range(1, 6)] + [("test_batch", 500)]:
        batch = read(name)
        assert list(batch) == [key("batch_label"), key("labels"), key("data"), key("filenames")]
        assert batch[key("data")].shape == (count, 3072) and batch[key("data")].dtype == np.uint8
        assert np.bincount(batch[key("labels")]).tolist() == [count // 10] * 10
    assert read("batches.meta")[key("label_names")][9] == key("truck")


def test_pll_has_the_layout_of_lost(drawn: Path) -> None:
    contents = loadmat(drawn / "PLL" / "lost.mat", spmatrix=True)
    data, candidates, target = (contents[key] for key in ("data", "partial_target", "target"))
    assert data.shape == (600, 64) and data.dtype == np.float64
    assert (data.std(axis=0) == 0).sum() == 1
    for matrix in (candidates, target):
        assert (
            isinstance(matrix, csc_matrix)
            and matrix.shape == (11, 600)
            and matrix.dtype == np.float64
        )
    candidates, target = candidates.toarray(), target.toarray()
    assert (target.sum(axis=0) == 1).all() and (candidates >= target).all()
    assert (target.sum(axis=1) == 0).sum() == 1 and (candidates.sum(axis=1) > 0).all()
    assert 2.1 < candidates.sum(axis=0).mean() < 2.3 and candidates.sum(axis=0).max() == 3


# --- drawing: deterministic, whole or not at all ---


@pytest.mark.parametrize("name", ["MNIST", "MNIST_clean", "CIFAR10", "PLL"])
def test_two_draws_are_byte_identical(drawn: Path, tmp_path: Path, name: str) -> None:
    assert files_of(samples.draw(name, tmp_path)) == files_of(drawn / name)


def test_marker(drawn: Path) -> None:
    marker = json.loads((drawn / "CIFAR10" / "SAMPLE.json").read_text())
    assert list(marker) == ["name", "version", "seed", "description", "counts"]
    assert marker["name"] == "CIFAR10" and marker["counts"] == {
        "train": 2000,
        "test": 500,
        "classes": 10,
    }


def test_is_sample(drawn: Path, tmp_path: Path) -> None:
    assert samples.is_sample(drawn / "MNIST")
    assert samples.is_sample(drawn / "MNIST" / "MNIST" / "raw")
    assert samples.is_sample(drawn / "PLL" / "lost.mat")
    assert not samples.is_sample(drawn) and not samples.is_sample(tmp_path / "missing")


def test_draw_refuses_a_folder_in_use(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        samples.draw("PLL", tmp_path)
    with pytest.raises(UserError, match="not empty"):
        samples.draw("PLL", drawn / "MNIST")
    with pytest.raises(UserError, match="is a file"):
        samples.draw("PLL", tmp_path / "mine.txt")
    assert files_of(tmp_path) == {"mine.txt": b"precious"}


def test_draw_restores_its_own_sample(tmp_path: Path) -> None:
    samples.draw("PLL", tmp_path)
    whole = files_of(tmp_path)
    (tmp_path / "lost.mat").write_bytes(b"damaged")
    assert files_of(samples.draw("PLL", tmp_path)) == whole


def test_another_seed_draws_other_pictures(drawn: Path, tmp_path: Path) -> None:
    other = samples.draw("PLL", tmp_path / "other", seed=10)
    assert (
        files_of(samples.draw("PLL", other, seed=10))["lost.mat"]
        != files_of(drawn / "PLL")["lost.mat"]
    )
    assert json.loads((other / "SAMPLE.json").read_text())["seed"] == 10
    with pytest.raises(UserError, match="seed 0"):
        samples.draw("PLL", other)


def test_ensure_draws_once(cache: Path, capsys: pytest.CaptureFixture) -> None:
    folder = samples.ensure("PLL")
    assert folder == cache / "PLL-v1" and samples.is_sample(folder)
    assert capsys.readouterr().out.count("\n") == 1
    assert samples.ensure("PLL") == folder
    assert capsys.readouterr().out == ""


def test_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WSL_SAMPLE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert samples.ensure("PLL").parent == tmp_path / "weak-supervision-samples"


def test_a_draw_that_fails_leaves_nothing(cache: Path, tmp_path: Path, broken: str) -> None:
    with pytest.raises(RuntimeError):
        samples.ensure(broken)
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    with pytest.raises(RuntimeError):
        samples.draw(broken, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_what_a_killed_draw_left_is_replaced(cache: Path) -> None:
    leftover = cache / ".PLL-v1.part"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("written")
    assert sorted(files_of(samples.ensure("PLL"))) == ["SAMPLE.json", "lost.mat"]
    assert not leftover.exists()


def test_leftovers_of_other_samples_go_unless_one_is_being_drawn(
    cache: Path,
) -> None:
    for name in (".PLL-v0.part", ".MNIST-v1.part", ".CUB-v9.part"):
        (cache / name).mkdir(parents=True)
    with (cache / ".CUB-v9.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        samples.ensure("PLL")
        assert [path.name for path in cache.glob(".*.part")] == [".CUB-v9.part"]
    samples.ensure("MNIST_clean")
    assert list(cache.glob(".*.part")) == []


def test_a_draw_that_was_killed_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile, copied = samples.shutil.copyfile, []

    def killed(source: Path, target: Path) -> None:
        copied.append(target)
        if len(copied) == 2:
            raise KeyboardInterrupt
        copyfile(source, target)

    monkeypatch.setattr(samples.shutil, "copyfile", killed)
    with pytest.raises(KeyboardInterrupt):
        samples.draw("PLL", tmp_path)
    monkeypatch.undo()
    assert not samples.is_sample(tmp_path)
    with pytest.raises(UserError, match="not empty"):
        samples.draw("PLL", tmp_path, seed=1)
    assert sorted(files_of(samples.draw("PLL", tmp_path))) == ["SAMPLE.json", "lost.mat"]


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "[" * 100_000, "\xff"])
def test_a_damaged_marker_is_no_marker(tmp_path: Path, content: str) -> None:
    (tmp_path / "SAMPLE.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="not empty"):
        samples.draw("PLL", tmp_path)


def test_places_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert not samples.is_sample(tmp_path / "circle")
    with pytest.raises(UserError, match="~nosuchuser/x does not exist: there is no home"):
        samples.draw("PLL", "~nosuchuser/x")
    monkeypatch.setenv("WSL_SAMPLE_DIR", "~nosuchuser/x")
    with pytest.raises(UserError, match="there is no home ~nosuchuser"):
        samples.ensure("PLL")


def test_ensure_removes_nothing_of_the_users(cache: Path) -> None:
    (cache / "PLL-v1").mkdir(parents=True)
    (cache / "PLL-v1" / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        samples.ensure("PLL")
    assert files_of(cache / "PLL-v1") == {"mine.txt": b"precious"}


def test_two_processes_at_once_draw_one_sample(cache: Path) -> None:
    script = "from common.samples import ensure; ensure('MNIST_clean')"
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(output.count(b"\n") for output in outputs) == 1
    assert len(MNIST(cache / "MNIST_clean-v1")) == 1300


def test_unwritable_cache_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="WSL_SAMPLE_DIR"):
        samples.ensure("PLL")


# --- the command ---


def test_command(tmp_path: Path) -> None:
    listing = command()
    assert (
        listing.returncode == 0
        and [line.split()[0] for line in listing.stdout.splitlines()] == samples.names()
    )
    unknown = command("MNSIT", str(tmp_path))
    assert (
        unknown.returncode == 2
        and unknown.stderr.count("\n") == 1
        and "MNIST_clean" in unknown.stderr
    )
    assert command("PLL").returncode == 2
    negative = command("PLL", str(tmp_path / "pll"), "--seed", "-1")
    assert negative.returncode == 2 and "Traceback" not in negative.stderr
    assert command("PLL", str(tmp_path / "pll")).returncode == 0
    assert samples.is_sample(tmp_path / "pll")


# --- the canvas ---


def test_train_and_val_share_no_digit() -> None:
    train, val = canvas.split_indices("train"), canvas.split_indices("val")
    assert len(train) == 1300 and len(val) == 497
    assert sorted([*train, *val]) == list(range(1797))


def test_class_glyphs() -> None:
    for class_id in range(60):
        glyphs = [
            canvas.class_glyph(class_id, np.random.default_rng(3), "val", size=20) for _ in range(2)
        ]
        assert (
            np.array_equal(*glyphs)
            and glyphs[0].shape == (20, 20)
            and glyphs[0].dtype == np.float32
        )
        assert 0 <= glyphs[0].min() and glyphs[0].max() <= 1
    with pytest.raises(ValueError, match="class 60"):
        canvas.class_glyph(60, np.random.default_rng(3), "val")


def test_colours() -> None:
    assert canvas.hsv(0, 1, 1).tolist() == [1, 0, 0]
    assert canvas.hsv(1 / 3, 1, 0.5) == pytest.approx([0, 0.5, 0])
    assert canvas.hsv(0.6, 0, 0.25).tolist() == [0.25] * 3
    assert len({tuple(canvas.class_colour(c)) for c in range(60)}) == 60


@pytest.mark.parametrize("background", canvas.BACKGROUNDS)
@pytest.mark.parametrize(("x", "y"), [(10, 5), (-7, -9), (45, 30), (0, 0)])
def test_boxes_are_tight(background: str, x: int, y: int) -> None:
    rng = np.random.default_rng(1)
    scene = canvas.Canvas((44, 60), rng, background=background)
    before = scene.picture()
    (x0, y0, x1, y1), mask = scene.paste(canvas.class_glyph(8, rng, "train"), x, y, 1.1, (1, 1, 0))
    assert mask.shape == (44, 60) and mask.dtype == bool
    assert mask[y0:y1, x0:x1].sum() == mask.sum()
    edges = (mask[y0, x0:x1], mask[y1 - 1, x0:x1], mask[y0:y1, x0], mask[y0:y1, x1 - 1])
    assert all(edge.any() for edge in edges)
    after = scene.picture()
    assert after.shape == (44, 60, 3) and after.dtype == np.uint8
    assert (after != before).any(axis=2)[mask].mean() > 0.9


def test_paste_outside_is_an_error() -> None:
    rng = np.random.default_rng(1)
    scene = canvas.Canvas(32, rng)
    for x, y in [(32, 0), (0, 40), (-24, 0), (0, -30)]:
        with pytest.raises(ValueError, match="visible"):
            scene.paste(canvas.class_glyph(1, rng, "train"), x, y)
