"""Training runs each equation of oass/method.py, and method.py needs torch alone."""

import ast
import inspect
import sys
from pathlib import Path

import pytest

from oass import fast, method
from oass.options import parse
from oass.train import train

# The equations, by name; where training runs the equal, faster form, the module of that.
EQUATIONS = {name: method for name in method.__all__}
EQUATIONS["tile_class_maps"] = fast
RUNS = {
    "max": "--re_loss L2_Loss",
    "cTopk": "--keypoint_rule released",
    "cTopk-w": "--level cam --p_loss student",
    "none": "",
}


def code_of(module, name):
    return inspect.unwrap(getattr(module, name)).__code__


@pytest.fixture(scope="module")
def called(devkit, tmp_path_factory):
    """The names of EQUATIONS that a step of each of RUNS calls."""
    folder = tmp_path_factory.mktemp("house")
    flags = f"--data_dir {devkit} --cpu --architecture resnet_tiny --weights none --image_size 64"
    flags += " --min_image_size 48 --max_image_size 80 --batch_size 4 --num_workers 0"
    flags += " --pictures 0 --max_steps 1"
    wanted = {code_of(module, name): name for name, module in EQUATIONS.items()}
    seen = {}

    def look(frame, event, _):
        if event == "call" and frame.f_code in wanted:
            seen.setdefault(strategy, set()).add(wanted[frame.f_code])

    for strategy, own in RUNS.items():
        argv = [*flags.split(), *own.split(), "--output_dir", str(folder / strategy)]
        settings = parse(strategy, argv)
        sys.setprofile(look)
        try:
            train(settings)
        finally:
            sys.setprofile(None)
    return seen


@pytest.mark.parametrize("name", EQUATIONS)
def test_training_runs_each_equation(name, called):
    assert any(name in names for names in called.values())


def test_what_a_strategy_runs(called):
    assert "L2_Loss" in called["max"] and "update_ema_variables" not in called["max"]
    assert "topk_peaks" in called["cTopk-w"] and "update_ema_variables" in called["cTopk-w"]
    assert "csi_logits" in called["none"] and "merge_at_keypoints" not in called["none"]


def test_the_method_holds_no_function_for_users_only():
    tree = ast.parse(Path(method.__file__).read_text())
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    public = {name for name in functions if not name.startswith("_")}
    assert public == set(method.__all__) == set(EQUATIONS)


@pytest.mark.parametrize(("module", "allowed"), [(method, ()), (fast, ("oass.method",))])
def test_the_method_imports_torch_and_the_standard_library(module, allowed):
    tree = ast.parse(Path(module.__file__).read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(node.module)
    others = {
        name for name in found if name.split(".")[0] not in ("torch", *sys.stdlib_module_names)
    }
    assert others == set(allowed)
