"""Inside csl/, the originals' short module names are the modules of the package, not second copies of them."""

from pathlib import Path

import pytest

import csl
from tests.short_names import modules_of, program_for, run_inside

FOLDER = Path(csl.__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("short_first", [True, False])
def test_every_module_is_one_object_under_both_names(short_first):
    run_inside("csl", program_for(modules_of(FOLDER), "csl", short_first=short_first))


@pytest.mark.parametrize("before", ["", "import csl.src.loss_functions.partial_asymmetric_loss"])
def test_a_class_is_one_class_under_both_names(before):
    run_inside(
        "csl",
        f"""
        {before}
        from src.loss_functions.partial_asymmetric_loss import PartialSelectiveLoss, ComputePrior
        import csl.src.loss_functions.partial_asymmetric_loss as ours
        assert PartialSelectiveLoss is ours.PartialSelectiveLoss and ComputePrior is ours.ComputePrior
        """,
    )
