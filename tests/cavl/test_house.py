"""method.py is what runs: every equation of the paper and of the baselines, in runs of main.py."""

import ast
import inspect
import sys
from pathlib import Path

import pytest

from cavl import baselines, build_candidates, method, options
from cavl.build import METHODS
from cavl.utils import utils_algo, utils_data, utils_loss
from tests.cavl.runs import run

EQUATIONS = [name for name in method.__all__ if inspect.isfunction(getattr(method, name))]
SHORT = ("-ep", "1", "--max_steps", "2")
MAPS = ("-mo", "resnet", "-depth", "8", "-bs", "16", "-partial_type", "fps", "-select", "cam")

# A run of main.py, and the equations that it is known to need.
RUNS = {
    "cavl": (
        SHORT,
        {
            "candidate_set_size_probabilities",
            "draw_uniform_sets",
            "average_loss",
            "class_activation_value",
            "select_by_cav",
            "argmax_within",
            "candidate_probabilities",
        },
    ),
    "soft": (
        (*SHORT, "-temperature", "0.5", "-smoothing", "0.1"),
        {"soft_confidence", "label_smoothing"},
    ),
    "cam": (
        (*SHORT, *MAPS),
        {"draw_flipped_sets", "class_activation_map", "activation_area", "select_by_cam"},
    ),
    "rc": ((*SHORT, "-method", "rc"), {"initial_confidence", "confidence_weighted_loss"}),
    "case": ((*SHORT, "-ca", "01"), {"class_dependent_flip_probability"}),
    "instance": (
        (*SHORT, "-partial_type", "instance"),
        {"instance_dependent_flip_probability"},
    ),
}


def called_in(act) -> set[str]:
    """The functions of method.py and baselines/ that run while `act()` does."""
    names = set()
    files = {method.__file__, *(str(path) for path in Path(baselines.__file__).parent.glob("*.py"))}

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename in files:
            names.add(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.parametrize("name", RUNS)
def test_training_runs_the_equations_of_the_method(tmp_path, monkeypatch, name):
    monkeypatch.setattr(build_candidates, "ORACLE_EPOCHS", 1)
    flags, expected = RUNS[name]
    called = called_in(lambda: run(tmp_path / "r", *flags))
    assert expected <= called


def test_no_equation_is_for_users_only():
    needed = set().union(*(expected for _, expected in RUNS.values()))
    assert needed == set(EQUATIONS)


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_training_runs_the_functions_of_a_baseline(tmp_path, name):
    called = called_in(lambda: run(tmp_path / "r", *SHORT, "-method", name))
    own = sys.modules[baselines.BASELINES[name].__module__]
    functions = {
        key
        for key, value in vars(own).items()
        if inspect.isfunction(value) and value.__module__ == own.__name__
    }
    assert functions | {"loss"} <= called


def test_the_released_names_are_the_functions_of_the_method():
    assert utils_algo.class_activation_value is method.class_activation_value
    assert utils_data.initial_confidence is method.initial_confidence
    assert utils_loss.average_loss is method.average_loss


def test_a_method_is_found_by_the_name_of_its_file():
    assert set(options.METHODS) == set(METHODS) == {"cavl", *baselines.BASELINES}


@pytest.mark.parametrize("module", [method, *(sys.modules[c.__module__] for c in METHODS.values())])
def test_method_and_baselines_import_torch_and_numpy_alone(module):
    roots = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import):
            roots |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(node.module)
    foreign = {name.split(".")[0] for name in roots} - {"torch", "numpy"} - sys.stdlib_module_names
    assert foreign <= {"cavl"}
    assert all(
        name.startswith(("cavl.method", "cavl.baselines")) for name in roots if "cavl" in name
    )
    assert module is not method or not foreign
