"""The wheel: it holds what is read at run time, and its commands run the scripts."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from common import console
from tests.common.test_environment import tomllib

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
READ_AT_RUN_TIME = (
    "oass/data/VOC_2012.json",
    "sidebyside/page.css",
    "sidebyside/page.js",
    "sidebyside/templates/page.html.j2",
    *(f"{paper}/results/paper.csv" for paper in ("cavl", "oass", "calm", "csl", "mile")),
    *(f"{paper}/results/claims.toml" for paper in ("cavl", "oass", "calm", "csl", "mile")),
)
TRAIN = {
    "cavl-main": [],
    "oass-ctopk-w": [],
    "calm-main": ["--attribution_method=CALM_EM"],
    "csl-train": ["--partial_loss_mode=selective"],
    "mile-train": ["--dataset", "mnist"],
}


def test_one_list_of_commands():
    scripts = PYPROJECT["project"]["scripts"]
    assert list(scripts) == list(console.COMMANDS)
    assert set(scripts.values()) == {"common.console:run"}


@pytest.mark.parametrize("module", console.COMMANDS.values())
def test_what_a_command_runs_is_a_program(module):
    spec = find_spec(module)
    assert spec is not None
    file = Path(spec.origin)
    if file.name == "__init__.py":
        file = file.with_name("__main__.py")
    names = {node.id for node in ast.walk(ast.parse(file.read_text())) if hasattr(node, "id")}
    assert "__name__" in names or file.stem == "__main__"


def test_another_name_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["somewhere/cavl-mian"])
    with pytest.raises(SystemExit) as caught:
        console.run()
    assert caught.value.code == 2
    assert "no command 'cavl-mian'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the files that git knows, built outside of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    names = subprocess.check_output(
        ["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=ROOT
    )
    for name in filter(None, names.decode().split("\0")):
        if not name.startswith(("tests/", "docs/", "benchmarks/")) and (ROOT / name).is_file():
            place = folder / "source" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *build, str(folder / "source")], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """The commands of a new environment that sees the present packages, and not the checkout."""
    folder = wheel.parent / "venv"
    venv.create(folder, with_pip=False)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    install = ["--python", str(python), "install", "--no-deps", "--no-index", "-q", str(wheel)]
    # A checkout on PYTHONPATH would count as installed already.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, env=env)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "present.pth").write_text("\n".join(sorted(places)) + "\n")
    return scripts


def run(installed: Path, folder: Path, *words: str) -> str:
    command = shutil.which(words[0], path=str(installed))
    assert command is not None, words[0]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [command, *words[1:]],
        cwd=folder,
        env={**env, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_what_is_read(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names.issuperset(READ_AT_RUN_TIME)
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]


@pytest.mark.slow
def test_the_packages_come_from_the_wheel(installed, tmp_path):
    code = "import cavl, common, oass; print(cavl.__file__, common.__file__, oass.__file__)"
    told = run(installed, tmp_path, "python", "-c", code)
    assert str(ROOT) not in told
    assert told.count("site-packages") == 3


@pytest.mark.slow
def test_every_command_imports_and_answers(installed, tmp_path):
    for command in console.COMMANDS:
        assert "usage:" in run(installed, tmp_path, command, "--help")


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAIN)
def test_each_sample_is_trained_from_an_empty_folder(installed, tmp_path, command):
    told = run(installed, tmp_path, command, *TRAIN[command], "--sample", "--max_steps", "2")
    assert "results: " in told
    assert len(list(tmp_path.rglob("summary.json"))) == 1
