"""Training runs each equation of csl/method.py: nothing in it is there for readers alone."""

import ast
import inspect
import sys

import pytest

import csl.method
from csl import fast, train
from tests.csl.tiny import arguments, write_coco

EQUATIONS = csl.method.__all__
# The function whose faster form training calls: equal by tests/csl/test_fast.py.
TWINS = {"partial_asymmetric_loss": fast.selective_loss}
RUNS = (
    ("--partial_loss_mode", "selective", "--estimate_prior", "1", "--prior_threshold", "0.1")
    + ("--likelihood_scope", "sample"),
    ("--partial_loss_mode", "ignore_normalize_classes", "--simulate_partial_type", "fpc")
    + ("--simulate_partial_param", "5"),
    ("--partial_loss_mode", "negative", "--simulate_partial_type", "single_positive"),
)


def flags_of(data, folder, more):
    """The flags of a small run; the third scheme has no parameter."""
    flags = [*arguments(data, folder), "--epochs", "1", *more]
    if "single_positive" in more:
        place = flags.index("--simulate_partial_param")
        del flags[place : place + 2]
    return flags


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    """The code objects that three small runs pass."""
    root = tmp_path_factory.mktemp("runs")
    data = write_coco(root / "data")
    seen = set()

    def note(frame, event, _):
        if event == "call":
            seen.add(frame.f_code)

    for number, more in enumerate(RUNS):
        sys.setprofile(note)
        try:
            train.main(flags_of(data, root / str(number), more))
        finally:
            sys.setprofile(None)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", EQUATIONS)
def test_training_runs_the_equation(name, called):
    equation = TWINS.get(name, getattr(csl.method, name))
    assert inspect.unwrap(equation).__code__ in called


def test_the_equations_are_the_public_functions():
    tree = ast.parse(inspect.getsource(csl.method))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    helpers = {name for name in functions if name.startswith("_")} | set(csl.method.HELPERS)
    assert functions - helpers == set(EQUATIONS)


def test_the_method_needs_torch_and_numpy_alone():
    tree = ast.parse(inspect.getsource(csl.method))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module.split(".")[0])
    assert modules - set(sys.stdlib_module_names) == {"numpy", "torch"}
