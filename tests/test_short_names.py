"""Inside a paper's folder the original's short module names are the package's own modules."""

from pathlib import Path

import pytest

from tests.short_names import modules_of, program_for, run_inside

ROOT = Path(__file__).parents[1]

# `resnet` and `densenet` are functions of the package cifar_models too, which its modules of these
# names must not take the place of: they are imported last.
LAST = {"cavl": ("cifar_models.densenet", "cifar_models.resnet")}

# The names that a user of the original imports, each with a program that finds one class.
PROGRAMS = {
    "calm": (
        "calm.config, calm.network.universal",
        """
        from config import mch
        from network.universal import UniversalProcess
        import calm.config, calm.network.universal
        assert mch is calm.config.mch
        assert UniversalProcess is calm.network.universal.UniversalProcess
        """,
    ),
    "cavl": (
        "cavl.utils.utils_data, cavl.cifar_models",
        """
        from utils.utils_data import initial_confidence
        from utils.utils_algo import confidence_update
        from cifar_models import convnet, densenet, resnet
        from cifar_models.resnet import ResNet
        import cavl.cifar_models, cavl.utils.utils_algo, cavl.utils.utils_data
        assert confidence_update is cavl.utils.utils_algo.confidence_update
        assert initial_confidence is cavl.utils.utils_data.initial_confidence
        assert cavl.cifar_models.resnet is resnet and isinstance(resnet(8), ResNet)
        assert isinstance(cavl.cifar_models.convnet.Cnn(), convnet.Cnn)
        assert isinstance(cavl.cifar_models.densenet(), type(densenet()))
        """,
    ),
    "csl": (
        "csl.src.loss_functions.partial_asymmetric_loss",
        """
        from src.loss_functions.partial_asymmetric_loss import PartialSelectiveLoss, ComputePrior
        import csl.src.loss_functions.partial_asymmetric_loss as ours
        assert PartialSelectiveLoss is ours.PartialSelectiveLoss
        assert ComputePrior is ours.ComputePrior
        """,
    ),
    "mile": (
        "mile.utils",
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
    ),
    "oass": (
        "oass.core.networks",
        """
        from core.networks import Classifier
        from tools.ai.torch_utils import make_cam
        import oass.core.networks, oass.tools.ai.torch_utils
        assert Classifier is oass.core.networks.Classifier
        assert make_cam is oass.tools.ai.torch_utils.make_cam
        """,
    ),
}

MILE_EDITS_A_SETTING = """
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
@pytest.mark.parametrize("paper", PROGRAMS)
def test_every_module_is_one_object_under_both_names(paper, short_first):
    modules = modules_of(ROOT / paper, last=LAST.get(paper, ()))
    run_inside(paper, program_for(modules, paper, short_first=short_first))


@pytest.mark.slow
@pytest.mark.parametrize("full_name_first", [False, True])
@pytest.mark.parametrize("paper", PROGRAMS)
def test_a_class_is_one_class_under_both_names(paper, full_name_first):
    full_names, program = PROGRAMS[paper]
    before = f"import {full_names}" if full_name_first else ""
    run_inside(paper, f"{before}\n{program}")


@pytest.mark.slow
@pytest.mark.parametrize("full_name_first", [False, True])
def test_an_edited_setting_of_mile_is_what_eval_uses(full_name_first):
    before = "import mile.utils" if full_name_first else ""
    run_inside("mile", f"{before}\n{MILE_EDITS_A_SETTING}")
