"""A model and a process as one callable: images and labels in, maps on the device out."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from calm.erasing import smoothing
from calm.network.head import AttributionNet
from calm.network.universal import DeadAttention, Superclass
from calm.score_map_method import GRADIENT_PROCESSES, gradients
from calm.util import get_score_map
from common.aliases import one_module

one_module(__name__, "calm.score_mapper")


@dataclass
class ScoreMapper:
    """Maps of `process` on `model`; `settings` are the numbers of the gradient processes.

    `dead` counts the images that came with zero attention (not those of `of_classes` with a gradient process);
    `autocast` is what the network runs under (--mixed_precision); heads and maps are float32 in any case.
    """

    model: AttributionNet
    process: str
    method: str = "activation_map"
    superclass: Superclass | None = None
    smoothing_ksize: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    dead: DeadAttention = field(default_factory=DeadAttention)
    autocast: Callable[[], AbstractContextManager] = nullcontext

    @property
    def is_gradient(self) -> bool:
        """Whether the maps live in input space and need a backward."""
        return self.process in GRADIENT_PROCESSES

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Maps (B,h,w), or (B,H,W) of a gradient process, of `labels` (B,)."""
        return self.with_probs(images, labels)[0]

    def with_probs(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The maps, and p(y|x) (B,C) from the same forward."""
        with torch.no_grad():
            f, f_former, attention = self._encode(images)
            probs = self.model.process.input_for_loss(f, f_former, attention)["probs"]
        if self.is_gradient:
            maps = self._gradient(images, labels)
        else:
            maps = self.model.process.get_cam(f, f_former, labels, self.superclass, self.process)
        return smoothing(maps, self.smoothing_ksize), probs

    def of_classes(
        self, images: torch.Tensor, rows: Sequence[int], classes: Sequence[int]
    ) -> torch.Tensor:
        """Maps (M,h,w) of M (image row, class) pairs from one forward over the images."""
        device = images.device
        rows, classes = torch.tensor(rows, device=device), torch.tensor(classes, device=device)
        if self.is_gradient:
            maps = self._gradient(images[rows], classes)
        else:
            with torch.no_grad():
                f, f_former, _ = self._encode(images)
                maps = self._select(f, f_former, rows, classes)
        return smoothing(maps, self.smoothing_ksize)

    def _encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with self.autocast():
            f, f_former, attention = self.model.encode(images)
        if not self.model.process.is_cam:
            self.dead.add(attention)
        return f, f_former, attention

    def _select(
        self, f: torch.Tensor, f_former: torch.Tensor, rows: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        process = self.model.process
        cams = process.class_maps(f, f_former, self.process)
        _, *suffix = self.process.split("-")
        if suffix == ["saliency"]:
            return process.cam_saliency(cams)[rows]
        if suffix:
            mean, minmax = suffix[-1] == "mean", self.process.startswith("vanilla")
            return process.add_subclass_maps(
                cams[rows], classes, self.superclass, mean=mean, minmax=minmax
            )
        return cams[rows, classes]

    def _gradient(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Gradient maps, so many rows at a time as fit a forward: cue localisation asks for many classes an image."""
        function = get_score_map(self.process, self.method)
        rows = max(1, gradients.PIXELS_PER_FORWARD // images[0, 0].numel())
        parts = zip(images.split(rows), labels.split(rows), strict=True)
        with self.autocast():
            return torch.cat(
                [function(model=self.model, images=i, targets=t, **self.settings) for i, t in parts]
            )
