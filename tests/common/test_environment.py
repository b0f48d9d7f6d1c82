"""environment.yml and pyproject.toml name the same packages with the same bounds."""

import re
from pathlib import Path

import yaml

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
USER_NAMED = {"torch", "torchvision", "numpy", "opencv-python", "pandas", "tensorboardX", "matplotlib", "scipy"}


def split(requirement: str) -> tuple[str, str]:
    """Name and bounds, without spaces."""
    name, bounds = re.fullmatch(r"([A-Za-z0-9_.-]+)(.*)", requirement.replace(" ", "")).groups()
    return name, bounds


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def conda() -> list:
    return yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def test_names_and_bounds_are_equal():
    wanted = dict(map(split, [*project()["dependencies"], *project()["optional-dependencies"]["dev"]]))
    packages = dict(map(split, (line for line in conda() if isinstance(line, str))))
    given = {PIP_NAME.get(name, name): bounds for name, bounds in packages.items() if name not in ("python", "pip")}
    assert given == wanted
    assert packages["python"] == project()["requires-python"].replace(" ", "")


def test_every_package_has_a_lower_bound_and_no_pin():
    for requirement in project()["dependencies"]:
        name, bounds = split(requirement)
        assert bounds.startswith(">=") and "==" not in bounds, name


def test_the_packages_that_the_user_named_are_there():
    assert {split(line)[0] for line in project()["dependencies"]} >= USER_NAMED


def test_the_last_pip_line_installs_the_repository_editable():
    pip = next(line["pip"] for line in conda() if isinstance(line, dict))
    assert pip[-1].endswith("-e .")
