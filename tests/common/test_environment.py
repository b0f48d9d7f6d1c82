"""environment.yml and pyproject.toml name the same packages; a test that hangs is ended."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import pytest_collection_modifyitems

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PIP_NAME = {  # of conda-forge's packages that have another name
    "pytorch": "torch",
    "opencv": "opencv-python",
    "py-opencv": "opencv-python",
    "matplotlib-base": "matplotlib",
    "tensorboardx": "tensorboardX",
}
IMPORT_NAME = {  # where it differs from pip's name
    "opencv-python": "cv2",
    "scikit-learn": "sklearn",
    "pytest-cov": "pytest_cov",
    "myst-nb": "myst_nb",
}
COMES_WITH = {  # imported here, and a requirement of a package that is named
    "PIL": "torchvision",
    "docutils": "sphinx",
    "filelock": "torch",
    "huggingface_hub": "timm",
    "markupsafe": "jinja2",
    "nbformat": "nbclient",
    "packaging": "accelerate",
    "psutil": "accelerate",
    "safetensors": "timm",
    "yaml": "accelerate",
}
WRITTEN_BY_TESTS = {"nets", "paper"}  # modules that a test makes in its own folder
USER_NAMED = {
    "torch",
    "torchvision",
    "numpy",
    "opencv-python",
    "pandas",
    "tensorboardX",
    "matplotlib",
    "scipy",
}


def split(requirement: str) -> tuple[str, str]:
    """Name and bounds, without spaces."""
    name, bounds = re.fullmatch(r"([A-Za-z0-9_.-]+)(.*)", requirement.replace(" ", "")).groups()
    return name, bounds


def project() -> dict:
    """Without what only the oldest Python needs: conda takes a newer one."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found["dependencies"] = [line for line in found["dependencies"] if ";" not in line]
    return found


def conda() -> list:
    return yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def test_names_and_bounds_are_equal():
    wanted = dict(
        map(split, [*project()["dependencies"], *project()["optional-dependencies"]["dev"]])
    )
    packages = dict(map(split, (line for line in conda() if isinstance(line, str))))
    given = {
        PIP_NAME.get(name, name): bounds
        for name, bounds in packages.items()
        if name not in ("python", "pip")
    }
    assert given == wanted
    assert packages["python"] == project()["requires-python"].replace(" ", "")


def test_every_package_has_a_lower_bound_and_no_pin():
    for requirement in project()["dependencies"]:
        name, bounds = split(requirement)
        assert bounds.startswith(">=") and "==" not in bounds, name


def test_the_packages_that_the_user_named_are_there():
    assert {split(line)[0] for line in project()["dependencies"]} >= USER_NAMED


def imported(path: Path) -> set[str]:
    """The first name of every absolute import in a file, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


def own_names() -> set[str]:
    """Folders and modules of this repository, whatever folder a script is run in."""
    files = subprocess.check_output(["git", "ls-files", "*.py"], cwd=ROOT, text=True).split()
    names = set()
    for line in files:
        names.update(Path(line).with_suffix("").parts)
    return names


@pytest.mark.slow
def test_every_package_that_is_imported_is_installed_by_name():
    """An import that only this machine can answer fails in a user's fresh installation."""
    extras = project()["optional-dependencies"]
    lines = [*project()["dependencies"], *extras["dev"], *extras["export"]]
    named = [split(line)[0] for line in lines]
    known = {IMPORT_NAME.get(name, name) for name in named}
    known |= {name for name, parent in COMES_WITH.items() if parent in known}
    known |= sys.stdlib_module_names | own_names() | WRITTEN_BY_TESTS | {"tomllib", "tomli"}
    files = subprocess.check_output(["git", "ls-files", "*.py"], cwd=ROOT, text=True).split()
    missing = {line: imported(ROOT / line) - known for line in files}
    assert not {line: names for line, names in missing.items() if names}


def test_constraints_hold_a_version_of_every_package_within_its_bounds():
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    exact = dict(line.split("==") for line in lines if not line.startswith("#"))
    needed = {line.name: line.specifier for line in map(Requirement, project()["dependencies"])}
    assert list(exact) == list(needed)
    for name, version in exact.items():
        assert version in needed[name], name


def test_the_last_pip_line_installs_the_repository_editable():
    pip = next(line["pip"] for line in conda() if isinstance(line, dict))
    assert pip[-1].endswith("-e .")


# --- a test that hangs ---


def settings_of_pytest() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]


def test_a_test_has_five_minutes(request):
    found = settings_of_pytest()
    assert (found["timeout"], found["timeout_method"]) == (300, "thread")
    assert request.config.getini("timeout") == "300"
    assert request.node.get_closest_marker("timeout") is None


def slow_test_of(request: pytest.FixtureRequest) -> pytest.Function:
    return pytest.Function.from_parent(request.node.parent, name="slow_one", callobj=lambda: None)


def test_a_slow_test_has_half_an_hour_unless_it_says_otherwise(request):
    slow, own = slow_test_of(request), slow_test_of(request)
    for item in (slow, own):
        item.add_marker(pytest.mark.slow)
    own.add_marker(pytest.mark.timeout(7))
    pytest_collection_modifyitems([slow, own])
    assert [item.get_closest_marker("timeout").args for item in (slow, own)] == [(1800,), (7,)]


HANGS = """
import signal, time

def test_that_hangs():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nor does a SIGTERM end it
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
"""


def test_a_test_that_hangs_is_named_and_ended(tmp_path):
    (tmp_path / "test_it.py").write_text(HANGS)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 1\ntimeout_method = thread\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "Timeout" in done.stdout + done.stderr and "test_that_hangs" in done.stdout + done.stderr
