"""Training runs the equations of method.py, or the form in fast.py that is equal to one by test."""

import inspect
import sys

import pytest
import torch

from mile import evaluate_counts, fast, method
from tests.mile.helpers import run, run_folders, write_folders

EQUATIONS = [
    name for name in method.__all__ if name not in ("PROTOCOLS", "SCHEMAS", "STUDENT_INITS")
]
# What is equal to two equations at once, by test.
TOGETHER = {"prediction_set": evaluate_counts.count_overlaps}
RESULTS = ("Overlap", "RealScores", "Phases")  # named results: no code of their own but `total`


def code_of(function):
    return inspect.unwrap(function).__code__


def codes_of(name):
    """The code objects any of which is the equation: of a class its methods."""
    found = [getattr(module, name) for module in (method, fast) if hasattr(module, name)]
    codes = {code_of(TOGETHER[name])} if name in TOGETHER else set()
    for thing in found:
        members = vars(thing).values() if inspect.isclass(thing) else [thing]
        codes |= {code_of(member) for member in members if inspect.isfunction(member)}
    return codes


@pytest.fixture
def called():
    """The code objects that Python entered since the test began."""
    seen = set()
    sys.setprofile(lambda frame, event, _: seen.add(frame.f_code) if event == "call" else None)
    yield seen
    sys.setprofile(None)


@pytest.mark.usefixtures("no_figures")
def test_each_equation_is_run_by_training_and_its_evaluation(tmp_path, called):
    run(tmp_path / "a", "--export_labels", total_steps=5)
    run(tmp_path / "b", schema="softmax", total_steps=1)
    root = write_folders(tmp_path / "set", ["cat", "dog"], train=6)
    run_folders(root, tmp_path / "c", rho_cover=0.9)
    sys.setprofile(None)
    for name in EQUATIONS:
        assert name in RESULTS or codes_of(name) & called, name


def test_named_results_are_what_the_equations_return():
    sets = torch.tensor([[True, False]])
    overlap = method.overlap_of(sets, sets, torch.tensor([0]))
    scores = method.real_scores(overlap, torch.tensor([True]))
    plan = method.Plan("MILe", 2, 1, 0, generations=1, total_steps=0, pass_steps=1)
    assert type(overlap) is method.Overlap
    assert type(scores) is method.RealScores
    assert type(plan.phases(0)) is method.Phases
    assert scores.real_f1.tolist() == [1]


def test_method_has_no_other_public_function():
    own = {
        name
        for name, thing in vars(method).items()
        if not name.startswith("_")
        and getattr(thing, "__module__", "")
        in (
            "mile.method",
            "mile.method_scores",
        )
    }
    assert own == set(EQUATIONS)


def test_the_settings_and_the_method_name_the_same_choices():
    from mile.options_table import SETTINGS

    assert SETTINGS["schema"].allowed.choices == method.SCHEMAS
    assert SETTINGS["protocol"].allowed.choices == method.PROTOCOLS
    assert SETTINGS["student_init"].allowed.choices == method.STUDENT_INITS
