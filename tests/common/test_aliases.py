"""A module under a short name is the package's own module, and a class of it one class."""

import sys

import pytest

from common.aliases import one_module

BODY = """
from common.aliases import one_module

one_module(__name__, "{full}")

STATE = []


class Thing:
    pass
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `paper` with a module, and a package whose function hides its module."""
    folder = tmp_path / "paper"
    (folder / "nets").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "settings.py").write_text(BODY.format(full="paper.settings"))
    (folder / "nets" / "deep.py").write_text(
        BODY.format(full="paper.nets.deep") + "\n\ndef deep():\n    pass\n"
    )
    imports = "from paper.nets.deep import deep\n"
    (folder / "nets" / "__init__.py").write_text(imports + BODY.format(full="paper.nets"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in list(sys.modules):
        if name.split(".")[0] in ("paper", "settings", "nets"):
            del sys.modules[name]


@pytest.mark.parametrize("order", [("settings", "paper.settings"), ("paper.settings", "settings")])
def test_one_object_whichever_name_comes_first(package, order):
    first, second = (__import__(name, fromlist=["Thing"]) for name in order)
    assert first is second
    assert isinstance(first.Thing(), second.Thing)
    assert first.__name__ == "paper.settings"


def test_a_function_that_hides_a_module_stays(package):
    from nets.deep import Thing
    from paper import nets

    assert callable(nets.deep)
    assert Thing is sys.modules["paper.nets.deep"].Thing


@pytest.mark.parametrize("name", ["__main__", "__mp_main__", "common.aliases"])
def test_scripts_and_full_names_are_left_alone(name):
    before = sys.modules.get(name)
    one_module(name, "common.aliases")
    assert sys.modules.get(name) is before
