"""Inside mile/, `config`, `utils` and every other module are the modules of the package, not second copies."""

from pathlib import Path

import pytest

import mile
from tests.short_names import program_for, run_inside

MODULES = sorted(
    path.stem for path in Path(mile.__file__).parent.glob("*.py") if path.stem != "__init__"
)

EDIT = """
    import torch
    from config import config
    import utils

    class Logits(torch.nn.Module):
        def forward(self, x):
            return x

    logits = torch.tensor([[2.0, 0.0, -2.0]])
    loader = [(logits, torch.tensor([0]), [[0, 1]])]
    config.device = "cpu"
    assert utils.eval(Logits(), loader).label_coverage == 2  # sigmoid(0) = 0.5 is above rho 0.25
    config.rho = 0.6
    assert utils.eval(Logits(), loader).label_coverage == 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("short_first", [True, False])
def test_every_module_is_one_object_under_both_names(short_first):
    run_inside("mile", program_for(MODULES, "mile", short_first=short_first))


@pytest.mark.parametrize("before", ["", "import mile.utils"])
def test_an_edited_setting_is_what_eval_uses(before):
    run_inside("mile", f"    {before}\n{EDIT}")


def test_a_class_is_one_class_under_both_names():
    run_inside(
        "mile",
        """
        from learning import IteratedLearning
        from models import SmallNet, build_model
        from dataset import MultilabelMNIST
        import mile.config, mile.dataset, mile.learning, mile.models
        from config import config, parse_config

        assert isinstance(mile.models.build_model("small-10"), SmallNet)
        assert isinstance(build_model("small-10"), mile.models.SmallNet)
        assert IteratedLearning is mile.learning.IteratedLearning
        assert MultilabelMNIST is mile.dataset.MultilabelMNIST
        config.k_t = 7
        assert mile.config.parse_config([]).k_t == parse_config([]).k_t == 7
        """,
    )
