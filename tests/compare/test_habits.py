"""The workflows, hooks and templates: they parse, and name what is there."""

import re
from pathlib import Path

import pytest
import yaml

from sidebyside.results import PAPERS, ROOT
from tests.e2e import printed

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def content(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict]:
    """The steps of every job of a workflow."""
    found = []
    for job in content(path)["jobs"].values():
        found += job["steps"]
    return found


def commands(path: Path) -> list[str]:
    return [step["run"] for step in steps(path) if "run" in step]


def named(path: Path, job: str) -> str:
    """All commands of one job, as one text."""
    own = content(path)["jobs"][job]["steps"]
    return "\n".join(step.get("run", "") for step in own)


def workflow(name: str) -> Path:
    return ROOT / ".github" / "workflows" / f"{name}.yml"


workflows = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def test_there_are_workflows_for_lint_tests_docs_and_every_week():
    names = {path.stem for path in WORKFLOWS}
    assert names == {"docs", "lint", "platforms", "tests", "weekly"}


@workflows
def test_a_workflow_has_jobs_with_steps_and_a_limit_of_time(path):
    whole = content(path)
    triggers = whole[True]  # YAML 1.1 reads the key `on` as true
    assert triggers and whole["permissions"] == {"contents": "read"}
    for job in whole["jobs"].values():
        assert job["steps"] and job["timeout-minutes"] <= 360


@workflows
def test_the_targets_of_make_are_there(path):
    for command in commands(path):
        if command.startswith("make "):
            assert set(command.split()[1:]) <= set(printed.TARGETS), command


@workflows
def test_actions_are_github_s_own_with_a_version(path):
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", action), action


@workflows
def test_no_path_of_a_machine_and_no_host_but_pytorch_s(path):
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://([^/\s]+)", text)) <= {"download.pytorch.org"}
    assert not re.search(r"/(home|root|work|tmp)/", text)


def test_the_oldest_python_is_that_of_the_project():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    jobs = content(workflow("tests"))["jobs"]
    first, newest = jobs["tests"]["strategy"]["matrix"]["python-version"]
    assert first == oldest
    assert tuple(map(int, newest.split("."))) > tuple(map(int, oldest.split(".")))
    lowest = [step["with"] for step in jobs["lower-bounds"]["steps"] if "with" in step]
    assert lowest == [{"python-version": oldest}]


def test_the_lower_bounds_tested_are_those_of_the_project():
    """The resolver takes the lowest version that pyproject.toml allows; each has one bound."""
    told = named(workflow("tests"), "lower-bounds")
    assert '--resolution lowest-direct -e ".[dev]"' in told
    assert "==" not in told and "pytest" in told
    bound = re.compile(r"[A-Za-z0-9_.-]+>=\d+(\.\d+)*(; python_version < '3\.11')?")
    for requirement in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        assert bound.fullmatch(requirement), requirement


def test_every_week_the_newest_packages_run_all_tests():
    assert content(workflow("weekly"))[True]["schedule"]
    job = content(workflow("weekly"))["jobs"]["newest"]
    assert job["env"]["PIP_UPGRADE_STRATEGY"] == "eager"
    told = named(workflow("weekly"), "newest")
    for target in ("lint", "test", "test-slow", "test-browser"):
        assert f"make {target}" in told.splitlines()


def test_the_wheel_is_built_installed_and_every_package_imported():
    told = named(workflow("tests"), "wheel")
    assert "pip wheel" in told and "pip install dist/*.whl" in told
    (packages,) = re.findall(r"import ([\w, ]+)", told)
    assert set(packages.split(", ")) == {*PAPERS, "common", "sidebyside"}


def test_the_hooks_are_ruff_its_formatter_and_mypy():
    (repository,) = content(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff", "ruff-format", "mypy"]
    tools = {re.split(r"[>=<]", dev)[0] for dev in PROJECT["optional-dependencies"]["dev"]}
    for hook in repository["hooks"]:
        assert hook["entry"].split()[0] in tools and hook["language"] == "system"


def test_a_bug_report_asks_for_the_command_and_the_config():
    form = content(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")
    required = {field["id"] for field in form["body"] if "validations" in field}
    assert {"command", "config"} <= required


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_a_name_a_description_and_labelled_fields(path):
    form = content(path)
    assert form["name"] and form["description"]
    for field in form["body"]:
        assert field["attributes"]["label"] and field["id"]


def test_the_changelog_has_its_sections():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\]", text, re.M)
    assert versions[0] == "Unreleased" and versions[1] == PROJECT["version"]
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= kinds


def test_what_contributing_names_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert target in printed.TARGETS
    for name in re.findall(r"`((?:sidebyside|common|tests/golden)/[\w./]+)`", text):
        place = re.sub("PAPER|NAME", "cavl", name)
        assert (ROOT / place).exists(), name
