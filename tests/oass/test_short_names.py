"""Inside oass/, the originals' short module names are the modules of the package, not second copies of them."""

from pathlib import Path

import pytest

import oass
from tests.short_names import modules_of, program_for, run_inside

FOLDER = Path(oass.__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("short_first", [True, False])
def test_every_module_is_one_object_under_both_names(short_first):
    run_inside("oass", program_for(modules_of(FOLDER), "oass", short_first=short_first))


@pytest.mark.parametrize("before", ["", "import oass.core.networks"])
def test_a_class_is_one_class_under_both_names(before):
    run_inside(
        "oass",
        f"""
        {before}
        from core.networks import Classifier
        from tools.ai.torch_utils import make_cam
        import oass.core.networks, oass.tools.ai.torch_utils
        assert Classifier is oass.core.networks.Classifier
        assert make_cam is oass.tools.ai.torch_utils.make_cam
        """,
    )
