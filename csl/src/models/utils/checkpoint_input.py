"""What a weights file says about the input of its network."""

from common.aliases import one_module
from csl.data_pixels import Pixels, statistics_of
from csl.src.models.utils.checkpoint import Checkpoint
from csl.src.models.utils.factory import input_statistics

one_module(__name__, "csl.src.models.utils.checkpoint_input")


def pixels_for(
    found: Checkpoint,
    *,
    size: int,
    interpolation: str,
    is_size_given: bool,
    is_interpolation_given: bool,
) -> Pixels:
    """How pictures become the input of a network: as it was trained, unless a flag was given.

    The normalisation is the file's, else that of the network's own configuration. A file that names
    its network and no normalisation is of an earlier version of train.py, which had none.

    Args:
        size, interpolation: the flags' values, which serve where the user gave them, and where the
            file does not say.
    """
    recorded = found.recorded
    if not is_size_given:
        size = recorded.get("image_size") or size
    if not is_interpolation_given:
        interpolation = recorded.get("interpolation") or interpolation
    if "mean" in recorded:
        statistics = statistics_of(recorded["mean"], recorded.get("std"), "the checkpoint")
    elif "model_name" in recorded:
        statistics = None
    else:
        statistics = input_statistics(found.architecture)
    return Pixels(size, interpolation, statistics)


def describe_network(found: Checkpoint, pixels: Pixels) -> str:
    """One line: network, head, classes, and how pictures become its input."""
    size = found.recorded.get("image_size")
    network = f"{found.architecture}, {found.head} head, {found.num_classes} classes"
    told = f"{network}; input: {pixels}"
    if size not in (None, pixels.size):
        told += f" (trained at {size})"
    return told
