"""What a run on the drawn birds has in the place of the paper's settings."""

from common.aliases import one_module

one_module(__name__, "calm.options_sample")


def sample_defaults(is_small: bool) -> dict[str, object]:
    """Return the size, epochs and network of a run on the drawn birds.

    It is trained from scratch, hence the prior's full gradient.

    is_small: whether the network is the sample's own; another one needs fewer epochs and a lower
        rate.
    """
    return {
        "architecture": "small",
        "pretrained": False,
        "prior_gradient": "full",
        "crop_size": 64,
        "resize_size": 68,
        "epochs": 12 if is_small else 2,
        "lr": 0.02 if is_small else 0.01,
        "lr_decay_frequency": 10,
        "lr_classifier_ratio": 1.0,
        "batch_size": 32,
        "cache_images": True,
        "workers": 0,
    }
