"""OASS as one object for any training loop; with method.py and fast.py it needs torch alone.

    student = InstanceClassifier(backbone, channels=512, num_classes=3)
    loss = ObjectAwareLoss(student, strategy="cTopk-w", total_steps=1000)
    for images, labels in loader:
        value = loss(images, labels)            # L of method.py, a scalar
        optimizer.zero_grad(); value.backward(); optimizer.step()
        loss.update_teacher()
    probabilities = student(images, with_cam=True)[0].sigmoid()

Shapes: B images of S x S pixels, C classes, K channels, G x G cells of a map.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from oass import fast, method
from oass.method import TILES, Keypoints, make_cam

STRATEGIES = ("max", "cMax", "cTopk", "cTopk-w")
WITH_TEACHER = STRATEGIES[1:]
TILE_STATISTICS = ("group", "batch", "eval")


class InstanceClassifier(nn.Module):
    """Class maps F = W X on any backbone, and a logit per class from class-specific instances.

    Args:
        backbone: a module that makes images (B,3,S,S) a feature map X (B,K,G,G).
        channels: K; num_classes: C.
    """

    def __init__(self, backbone: nn.Module, channels: int, num_classes: int) -> None:
        for name, value in (("channels", channels), ("num_classes", num_classes)):
            _require(isinstance(value, int) and value > 0, f"{name} {value!r}: a number from 1 on")
        super().__init__()
        self.num_classes = num_classes
        self.model = backbone
        self.BN = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(num_classes))
        projections = [nn.Conv2d(channels, 1, 1, bias=False) for _ in range(num_classes)]
        self.stage6 = nn.ModuleList(projections)
        self.classifier = nn.Conv2d(channels, num_classes, 1, bias=False)
        nn.init.kaiming_normal_(self.classifier.weight)

    def feature_map(self, images: Tensor) -> Tensor:
        """X (B,K,G,G)."""
        return self.model(images)

    def class_maps(self, images: Tensor) -> Tensor:
        """F (B,C,G,G)."""
        return self.classifier(self.feature_map(images))

    def forward(self, images: Tensor, with_cam: bool = False) -> Any:
        """with_cam: logits (B,C) of the instances and F, float32; else logits of pooled maps."""
        X = self.feature_map(images)
        maps = self.classifier(X)
        if not with_cam:
            return maps.float().mean((2, 3))
        with torch.autocast(images.device.type, enabled=False):
            X = _at_least_float32(X)
            maps = _at_least_float32(maps)
            BN: Any = self.BN
            stage6: Any = self.stage6
            return method.csi_logits(X, make_cam(maps), BN, stage6, self.training), maps


class ObjectAwareLoss(nn.Module):
    """L = L_cl + alpha_p L_pcl + alpha_re(i) L_re of a batch, with the paper's settings.

    Args:
        student: an `InstanceClassifier`, a `Classifier` of core/networks, or what has their
            `forward(images, with_cam=True)`, `class_maps`, `feature_map`, `model`, `classifier`.
        teacher: sees the tiles; None: a copy of the student (`max`: the student itself). It is
            moved by `update_teacher`.
        strategy: where to cut: max, cMax, cTopk, cTopk-w, in any case of letters.
        alpha_p, alpha_re, alpha_schedule_re, alpha_ema: README, reproduce.
        total_steps: of the training, for the ramp of alpha_re; None: full weight at once.
        k, min_distance, radius, rule: of keypoints, `oass.method.detect_keypoints`.
        re_loss, option, level: of L_re, `oass.method.puzzle_losses`.
        tile_statistics: "group" (each image's four tiles), "batch" or "eval", of batch norms. With
            eval statistics or without batch norms torch.compile needs no graph break.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        strategy: str = "cTopk-w",
        *,
        alpha_p: float = 0.5,
        alpha_re: float = 3.0,
        alpha_schedule_re: float = 0.05,
        alpha_ema: float = 0.99,
        total_steps: int | None = None,
        k: int = 5,
        min_distance: int | None = None,
        radius: int | None = None,
        rule: str = "paper",
        re_loss: str = "L1_Loss",
        option: str = "masking",
        level: str = "feature",
        tile_statistics: str = "group",
    ) -> None:
        super().__init__()
        by_name = {name.lower(): name for name in STRATEGIES}
        _one_of("strategy", str(strategy).lower(), tuple(by_name))
        self.strategy = by_name[strategy.lower()]
        for name, value in (("alpha_p", alpha_p), ("alpha_re", alpha_re)):
            _require(math.isfinite(value) and value >= 0, f"{name} {value}: a number from 0 on")
        _require(0 <= alpha_ema < 1, f"alpha_ema {alpha_ema}: from 0 on, below 1")
        _require(alpha_schedule_re >= 0, f"alpha_schedule_re {alpha_schedule_re}: from 0 on")
        _require(total_steps is None or total_steps > 0, f"total_steps {total_steps}: above 0")
        _require(k > 0, f"k {k}: a number from 1 on")
        _one_of("rule", rule, ("paper", "released"))
        _one_of("re_loss", re_loss, tuple(method.RE_LOSSES))
        _one_of("option", option, ("none", "masking", "selection"))
        _one_of("level", level, ("feature", "cam"))
        _one_of("tile_statistics", tile_statistics, TILE_STATISTICS)
        _require(
            teacher is None or self.strategy != "max", "strategy max has no teacher; leave it out"
        )
        self.student = student
        if teacher is None and self.strategy in WITH_TEACHER:
            teacher = copy.deepcopy(student)
        if teacher is not None:
            teacher.requires_grad_(False)
        self.teacher = teacher
        self.alphas = (alpha_p, alpha_re, alpha_schedule_re, alpha_ema)
        self.total_steps = total_steps
        self.where: dict[str, Any] = {"k": k, "rule": rule}
        self.where |= {"min_distance": min_distance, "radius": radius}
        self.compared: dict[str, Any] = {"re_loss": re_loss, "option": option, "level": level}
        self.tile_statistics = tile_statistics
        self.step = 0
        self.parts: dict[str, Tensor] = {}
        self.keypoints: Keypoints | None = None

    def forward(
        self, images: Tensor, labels: Tensor, pairs: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The loss of images (B,3,S,S) and labels (B,C) of 0 and 1, a scalar; NaN for other labels.

        `parts` then has its three terms, detached, and `keypoints` where the images were cut.
        pairs: `oass.method.positive_pairs` of labels on the host, saves waiting for the device.
        """
        _check_shapes(images, labels)
        labels = labels.to(torch.promote_types(images.dtype, torch.float32))
        logits, features = self.student(images, with_cam=True)
        size = images.shape[-1]
        points = method.detect_keypoints(
            make_cam(features.detach()), labels, self.strategy, size, **self.where, pairs=pairs
        )
        tiles = method.tile_at_keypoints(images, points.image_index, points.keypoints)
        merged = method.merge_at_keypoints(
            self._tile_maps(tiles), points.keypoints, size, features.shape[-1]
        )
        p_class_loss, re_loss = method.puzzle_losses(
            features, merged, labels, points.image_index, points.class_index, **self.compared
        )
        losses = {"class_loss": method.class_loss(logits, labels).mean()}
        losses |= {"p_class_loss": p_class_loss, "re_loss": re_loss}
        if not torch.compiler.is_compiling():
            self.parts = {name: value.detach() for name, value in losses.items()}
            self.keypoints = points
        alpha_p, _, _, _ = self.alphas
        weights = {"class_loss": 1.0, "p_class_loss": alpha_p, "re_loss": self.re_weight}
        return method.total_loss(losses, weights)

    @property
    def re_weight(self) -> float:
        """alpha_re(i) at the present step."""
        _, alpha_re, schedule, _ = self.alphas
        if self.total_steps is None:
            return alpha_re
        return method.re_loss_weight(alpha_re, schedule, self.step, self.total_steps)

    @torch.no_grad()
    def update_teacher(self) -> None:
        """A step is done: the teacher follows the student, the ramp goes on."""
        if self.teacher is not None:
            method.update_ema_variables(self.student, self.teacher, self.alphas[3], self.step)
            if self.tile_statistics == "eval":
                for own, given in zip(self.teacher.buffers(), self.student.buffers(), strict=True):
                    own.copy_(given)
        self.step += 1

    def get_extra_state(self) -> dict[str, int]:
        """The step, in state_dict."""
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Put the step back."""
        self.step = int(state["step"])

    def _tile_maps(self, tiles: Tensor) -> Tensor:
        """The tiles' class maps (P,4,C,h,h), without a graph where a teacher makes them."""
        if self.teacher is None:
            return self._maps_of(self.student, tiles)
        with torch.no_grad():
            return self._maps_of(self.teacher, tiles)

    def _maps_of(self, network: Any, tiles: Tensor) -> Tensor:
        backbone: nn.Module = network.model
        has_norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules())
        uses_running = not has_norms or (self.tile_statistics == "eval" and not network.training)
        if uses_running and len(tiles):
            maps = _at_least_float32(network.class_maps(tiles.flatten(0, 1)))
            return maps.unflatten(0, (len(tiles), TILES))
        return fast.tile_class_maps(network, tiles, mode=self.tile_statistics)

    def train(self, mode: bool = True) -> "ObjectAwareLoss":
        """Training mode of the student; with eval statistics the teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None and self.tile_statistics == "eval":
            self.teacher.eval()
        return self


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_shapes(images: Tensor, labels: Tensor) -> None:
    square = images.dim() == 4 and images.shape[-1] == images.shape[-2]
    _require(square, f"images {tuple(images.shape)}: expected (B,3,S,S), square")
    fits = labels.dim() == 2 and len(labels) == len(images)
    _require(fits, f"labels {tuple(labels.shape)}: expected ({len(images)}, classes)")
    is_readable = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if is_readable and not torch._C._are_functorch_transforms_active():
        known = bool(((labels == 0) | (labels == 1)).all())
        _require(known, "labels: a value is neither 0 nor 1")


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{name} {value!r}: choose from {', '.join(choices)}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
