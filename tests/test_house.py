"""The same rooms in all five papers, and what a room may hold and import."""

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.heavy import HEAVY

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ("cavl", "oass", "calm", "csl", "mile")
ROOMS = ("method", "options", "data", "build", "evaluate", "report", "figures", "compare")

FILE_LINES = 450
METHOD_LINES = 500
FUNCTION_LINES = 80
# Folders of networks, whose constructors follow the originals' line by line.
NETWORKS = {"network", "models", "cifar_models"}

# Names under which scripts hand around what the command line set.
NAMESPACES = {"args", "conf", "child", "settings", "own", "parsed"}

papers = pytest.mark.parametrize("paper", PAPERS)


def modules_of(paper: str) -> list[Path]:
    """The Python files of a paper that are under version control or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", f"{paper}/*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.splitlines()]
    return sorted(path for path in paths if path.is_file())


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    """The full names of the modules that a file imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def told(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line} {what}"


@papers
@pytest.mark.parametrize("room", ROOMS)
def test_the_room_is_there(paper, room):
    assert (ROOT / paper / f"{room}.py").is_file()


@papers
def test_the_method_needs_torch_and_numpy_only(paper):
    """So do its siblings (`method_scores.py`), which it may import."""
    allowed = {"torch", "numpy", *sys.stdlib_module_names}
    room = [ROOT / paper / "method.py", *(ROOT / paper).glob("method_*.py")]
    found = []
    for path in room:
        for name in imported(parsed(path)):
            is_sibling = name.startswith(f"{paper}.method_")
            if name.partition(".")[0] not in allowed and not is_sibling:
                found.append(told(path, 1, name))
    assert found == []


ALONE = """
import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ImportError(f"{name} is not there")

papers = json.loads(sys.argv[1])
sys.meta_path.insert(0, Refuse())
for paper in papers:
    refused = {"common", *papers} - {paper}
    sys.path.insert(0, str(Path(paper).absolute()))
    import method
    Path(paper, "offered").write_text(str(len(method.__all__)))
    del sys.path[0]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("method", paper)]:
        del sys.modules[name]
"""


def test_the_method_works_where_it_is_copied_to(tmp_path):
    """Alone in a folder with its siblings, in a process where nothing else of ours is found."""
    for paper in PAPERS:
        package = tmp_path / paper / paper
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        for source in (ROOT / paper).glob("method*.py"):
            shutil.copy(source, package)
        shutil.copy(ROOT / paper / "method.py", tmp_path / paper / "method.py")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps(PAPERS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    for paper in PAPERS:
        assert int((tmp_path / paper / "offered").read_text()) > 0


@papers
def test_the_method_says_what_it_offers(paper):
    """Every name in `__all__` is there, and every equation stands in this room."""
    method = importlib.import_module(f"{paper}.method")
    offered = method.__all__
    assert offered and len(set(offered)) == len(offered)
    for name in offered:
        value = getattr(method, name)
        if callable(value):
            assert value.__module__.startswith(f"{paper}.method"), name


@papers
def test_parsing_imports_nothing_heavy(paper):
    program = f"import sys, {paper}.options; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert sorted(set(HEAVY) & set(done.stdout.split())) == []


@papers
def test_what_is_parsed_has_no_private_attributes(paper):
    """What parsing finds besides the flags is a field of Settings, not `args._something`."""
    found = []
    for path in modules_of(paper):
        for node in ast.walk(parsed(path)):
            is_private = (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in NAMESPACES
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
                and node.attr not in ("_replace", "_asdict", "_fields")  # of named tuples
            )
            if is_private:
                found.append(told(path, node.lineno, ast.unparse(node)))
    assert found == []


@papers
def test_no_file_is_too_long(paper):
    found = []
    for path in modules_of(paper):
        count = len(path.read_text(encoding="utf-8").splitlines())
        limit = METHOD_LINES if path.name == "method.py" else FILE_LINES
        if count > limit:
            found.append(told(path, count, "lines"))
    assert found == []


@papers
def test_no_function_is_too_long(paper):
    found = []
    for path in modules_of(paper):
        if NETWORKS & set(path.relative_to(ROOT).parts):
            continue
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            count = node.end_lineno - node.lineno + 1
            if count > FUNCTION_LINES:
                found.append(told(path, node.lineno, f"{node.name} ({count} lines)"))
    assert found == []


@papers
def test_no_paper_imports_another(paper):
    others = set(PAPERS) - {paper}
    found = []
    for path in modules_of(paper):
        for name in imported(parsed(path)):
            if name.partition(".")[0] in others:
                found.append(told(path, 1, name))
    assert found == []


def test_common_and_sidebyside_import_no_paper():
    found = []
    for path in [*modules_of("common"), *modules_of("sidebyside")]:
        for name in imported(parsed(path)):
            if name.partition(".")[0] in PAPERS:
                found.append(told(path, 1, name))
    assert found == []
