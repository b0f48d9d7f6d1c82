"""The rows of the paper's tables as settings, and the settings of a run on the offline sample."""

from common.aliases import one_module
from csl.src.helper_functions.coco_simulation import scheme_of

one_module(__name__, "csl.src.recipes")

_SELECTIVE = {"partial_loss_mode": "selective", "likelihood_topk": 5, "prior_threshold": 0.5}
# The rows of the paper's tables as settings of the same loss (README, results).
RECIPES = {
    "ignore_ce": {
        "partial_loss_mode": "ignore",
        "gamma_pos": 0.0,
        "gamma_neg": 0.0,
        "gamma_unann": 0.0,
    },
    "negative_ce": {
        "partial_loss_mode": "negative",
        "gamma_pos": 0.0,
        "gamma_neg": 0.0,
        "gamma_unann": 0.0,
    },
    "negative_asl": {
        "partial_loss_mode": "negative",
        "gamma_pos": 1.0,
        "gamma_neg": 4.0,
        "gamma_unann": 4.0,
    },
    "csl_fpc": _SELECTIVE | {"gamma_pos": 0.0, "gamma_neg": 3.0, "gamma_unann": 4.0},
    "csl_rps": _SELECTIVE | {"gamma_pos": 0.0, "gamma_neg": 1.0, "gamma_unann": 4.0},
}
# A run of about half a minute on one core, of the first twenty COCO classes: K = 1 stands for the
# paper's 5 of 80.
SAMPLE_DEFAULTS = {
    "model_name": "tresnet_tiny",
    "image_size": 64,
    "epochs": 12,
    "batch_size": 32,
    "lr": 6e-3,
    "workers": 0,
    "likelihood_topk": 1,
    "augment": "shift",
    "model_path": None,
}


def default_param(scheme: str, is_sample: bool) -> float:
    """The parameter of the paper's tables, and the sample's of fpc."""
    if scheme_of(scheme) == "rps":
        return 0.5
    return 60.0 if is_sample else 1000.0
