"""The words that flags take, and the settings that they stand for.

They name schemes, modes, networks and recipes.
"""

import math

from common.aliases import one_module
from common.backbones_names import require_spelling
from common.cli import DomainError
from common.errors import UserError

one_module(__name__, "csl.options_choices")

# Those of csl.method, which needs torch.
MODES = ("none", "negative", "ignore", "ignore_normalize_classes", "selective")
SCOPES = ("batch", "sample")


def mode_of(mode: str | None) -> str:
    """The name of a mode of the loss, "None" and None as "none"; DomainError for an unknown one."""
    name = "none" if mode in (None, "None") else mode
    if name not in MODES:
        raise DomainError(f"partial_loss_mode {name!r}: choose from {', '.join(MODES)}")
    return str(name)


INTERPOLATIONS = ("bilinear", "bicubic")

# --- how partial annotation is simulated ---

SCHEMES = {
    "fpc": "fpc",
    "fix_per_class": "fpc",
    "rps": "rps",
    "random_per_sample": "rps",
    "single_positive": "single_positive",
}


def scheme_of(name: str) -> str:
    """fpc, rps or single_positive, from either of its names."""
    if name not in SCHEMES:
        raise DomainError(f"--simulate_partial_type {name!r}: choose from {', '.join(SCHEMES)}")
    return SCHEMES[name]


def check_param(scheme: str, param: float) -> None:
    """DomainError where the parameter belongs to the other scheme."""
    flag = f"--simulate_partial_param {param:g}"
    if scheme == "rps" and not 0 <= param <= 1:
        raise DomainError(f"{flag}: rps wants the share of dropped labels, in 0..1 (fpc a count)")
    if scheme == "fpc" and not 1 <= param < math.inf:
        told = "fpc wants the labels kept per class, at least 1 (rps a share)"
        raise DomainError(f"{flag}: {told}")


def default_param(scheme: str, is_sample: bool) -> float:
    """The parameter of the paper's tables, and the sample's of fpc."""
    if scheme_of(scheme) == "rps":
        return 0.5
    return 60.0 if is_sample else 1000.0


# --- networks ---

NETWORKS = ("tresnet_m", "tresnet_l", "tresnet_xl", "tresnet_l_v2", "tresnet_tiny")
OF_DEFAULT_FILE = "tresnet_m"  # whose pretrained weights the default of --model_path names
ALIASES = {"tresnet_v2_l": "tresnet_l_v2"}
SMALLEST = 20  # pixels a side: a quarter of them, halved three times, needs a border to reflect


def canonical_name(name: str) -> str:
    """A TResNet's name in lower case, aliases resolved; any other name as it is.

    Those are timm's or torchvision's. DomainError where no network can be called so.
    """
    lower = ALIASES.get(name.lower(), name.lower())
    if lower in NETWORKS:
        return lower
    try:
        return require_spelling(name)
    except UserError as error:
        raise DomainError(str(error)) from error


def require_size(model_name: str, size: int, flag: str) -> None:
    """DomainError where TResNet cannot take pictures of this size."""
    if model_name not in NETWORKS or (size % 4 == 0 and size >= SMALLEST):
        return
    low = max(size // 4 * 4, SMALLEST)
    wanted = f"TResNet needs multiples of 4 from {SMALLEST} on"
    raise DomainError(f"{flag} {size}: {wanted}, such as {low} or {low + 4}")


# --- recipes ---

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
# Of complete labels all modes are one.
SAMPLE_SIMULATION = {"simulate_partial_type": "fpc", "simulate_partial_param": 60.0}
