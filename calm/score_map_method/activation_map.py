"""Maps that are read off the network: CAM, prior, posterior, joint."""

import torch
from torch import nn

from calm.method import Superclass
from calm.options_names import PROCESSES
from common.aliases import one_module

one_module(__name__, "calm.score_map_method.activation_map")


def activation_map(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    score_map_process: str,
    superclass: Superclass | None = None,
    **_: object,
) -> torch.Tensor:
    """Return the map (B,h,w) of `targets` (B,) on images (B,3,H,W).

    ValueError before any forward on a bad process.
    """
    if score_map_process not in PROCESSES:
        known = ", ".join(PROCESSES)
        raise ValueError(
            f"Invalid score_map_process argument: {score_map_process}; choose from {known}"
        )
    if superclass is None and "superclass" in score_map_process:
        raise ValueError(
            f"{score_map_process} needs the label groups; name them with --superclass_file"
        )
    with torch.no_grad():
        return model(images, targets, superclass, return_cam=score_map_process)
