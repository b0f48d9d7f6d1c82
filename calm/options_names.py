"""The names that flags choose from, without the code behind them: nothing here is slow to import.

Tests hold each list equal to what the networks, the maps and the metrics offer.
"""

from common.aliases import one_module

one_module(__name__, "calm.options_names")

DATASETS = ("CUB", "ILSVRC", "OpenImages")
ARCHITECTURES = ("vgg16", "resnet50", "inception_v3", "resnet18", "small")
ACTIVATIONS = ("relu", "softplus")
METHODS = ("CAM", "CALM-EM", "CALM-ML")

# Score maps that are read off the network, and those from gradients of the label's logit.
PROCESSES = (
    *("vanilla", "vanilla-saliency", "vanilla-superclass", "saliency"),
    *("gtcond", "gtcond-superclass", "gtcond-superclass-mean"),
    *("jointll", "jointll-superclass", "jointll-superclass-mean"),
)
GRADIENT_PROCESSES = (
    *("input_grad", "integrated_grad", "smooth_grad", "smooth_grad_square", "var_grad"),
    *("grad_cam", "captum_smoothgrad", "captum_vargrad", "occlusion"),  # not in the original
)
GRADIENT_SETTINGS = (  # the flags that gradient maps take
    *("smooth_grad_nr_iter", "smooth_grad_sigma"),
    *("integrated_grad_nr_iter", "ig_variant"),
)

NORM_TYPES = ("max", "minmax", "clipping")
THRESHOLD_TYPES = ("even", "log")
BASELINES = ("zero", "mean", "noise", "blur")  # what erased pixels become
LOGGER_TYPES = ("PythonLogger", "tensorboard")

# Of these networks layers behind ImageNet's start from random weights, and have to be trained.
NOT_FROZEN = ("vgg16", "inception_v3")

# What a checkpoint says of its network besides the weights, so that numbers can be compared.
MODEL_SETTINGS = (
    *("architecture", "attribution_method", "large_feature_map", "use_bn"),
    *("prior_activation", "prior_gradient", "crop_size", "resize_size"),
)
BESIDE_STATE_DICT = (
    *MODEL_SETTINGS,
    *("dataset_name", "data_seed", "class_names", "network_input"),
)

# Where the checkpoint of a run's folder lies: ours, a bare one, the original's.
IN_FOLDER = ("checkpoints/last.pt", "last.pt", "last_checkpoint.pth.tar")


def canonical_method(name: str) -> str:
    """CAM, CALM-EM or CALM-ML, from a spelling with - or _; ValueError lists the choices."""
    method = name.replace("_", "-")
    if method not in METHODS:
        raise ValueError(f"attribution_method {name!r}: choose from {', '.join(METHODS)}")
    return method
