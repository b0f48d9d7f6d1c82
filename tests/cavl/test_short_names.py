"""Inside cavl/, `utils.utils_algo`, `cifar_models` and the rest are the modules of the package, not
second copies.
"""

from pathlib import Path

import pytest

import cavl
from tests.short_names import program_for, run_inside

FOLDER = Path(cavl.__file__).parent
# `cifar_models.resnet` and `.densenet` come last: as attributes these are the package's functions.
MODULES = ["utils", "cifar_models"]
MODULES += [
    path.stem
    for path in sorted(FOLDER.glob("*.py"))
    if path.stem not in ("__init__", "method")  # method imports torch and NumPy alone
]
MODULES += [
    f"utils.{path.stem}"
    for path in sorted((FOLDER / "utils").glob("*.py"))
    if path.stem != "__init__"
]
MODULES += [
    f"cifar_models.{path.stem}"
    for path in sorted((FOLDER / "cifar_models").glob("*.py"))
    if path.stem != "__init__"
]


@pytest.mark.slow
@pytest.mark.parametrize("short_first", [True, False])
def test_every_module_is_one_object_under_both_names(short_first):
    run_inside("cavl", program_for(MODULES, "cavl", short_first=short_first))


@pytest.mark.parametrize("before", ["", "import cavl.utils.utils_data, cavl.cifar_models"])
def test_a_class_is_one_class_under_both_names(before):
    run_inside(
        "cavl",
        f"""
        {before}
        from utils.utils_data import initial_confidence
        from utils.utils_algo import confidence_update
        from cifar_models import convnet, densenet, resnet
        from cifar_models.resnet import ResNet
        import cavl.cifar_models, cavl.utils.utils_algo, cavl.utils.utils_data
        import torch

        try:
            cavl.utils.utils_data.initial_confidence(torch.zeros(1, 2))
        except ValueError:
            pass
        assert confidence_update is cavl.utils.utils_algo.confidence_update
        assert initial_confidence is cavl.utils.utils_data.initial_confidence
        assert cavl.cifar_models.resnet is resnet and isinstance(resnet(8), ResNet)
        assert isinstance(cavl.cifar_models.convnet.Cnn(), convnet.Cnn)
        assert isinstance(cavl.cifar_models.densenet(), type(densenet()))
        """,
    )
