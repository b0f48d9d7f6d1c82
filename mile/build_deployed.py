"""A run's network for use elsewhere: explain.py, `python -m common.export`."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import checkpoint
from common.aliases import one_module
from common.backbones_names import TIMM
from common.cli import UserError
from common.deployed import Deployed, Preparation, settings_of_run
from mile.build import image_size_of
from mile.data_images import IMAGENET, Statistics, short_side
from mile.learning import under
from mile.models import CLASSES, build_model
from mile.models_backbones import (
    Backbone,
    has_maps,
    logits_and_maps,
    names_head,
    source_of,
    whole_network,
)
from mile.options_table import SETTINGS
from mile.report_weights import read

one_module(__name__, "mile.build_deployed")


class _Settings:
    """The settings of a run as attributes."""

    def __init__(self, settings: dict[str, Any]) -> None:
        for name, entry in SETTINGS.items():
            setattr(self, name, entry.default)
        vars(self).update(settings)


def deployed(run: Path) -> Deployed:
    """The last student of a run directory, on the CPU, in evaluation mode."""
    return networks_of(run)[0]


def networks_of(run: Path) -> tuple[Deployed, nn.Module | None]:
    """The last student, and the teacher that labelled for it, where the checkpoint has one."""
    file = run / "checkpoints" / "last.pt"
    settings = settings_of_run(run)
    if not file.is_file():
        raise UserError(f"{run}: no checkpoints/last.pt; train first, or wait for its first save")
    saved = checkpoint.load(file)
    said = read(file)
    if said.classes is None or not isinstance(saved.get("state"), dict):
        raise UserError(f"{file}: a checkpoint without a learner and classes, not one of MILe.py")
    args: Any = _Settings(settings)
    size = image_size_of(args)
    statistics = Statistics(**_tuples(said.input)) if said.input is not None else IMAGENET

    learner = saved["state"]["learner"]
    student = _network(args.model, under("student.", learner), len(said.classes), size, file)
    teacher = None
    for name in ("frozen.", "teacher."):
        weights = under(name, learner)
        if weights:
            teacher = _network(args.model, weights, len(said.classes), size, file)
            break

    timm_name = _name_in_timm(args.model, student)
    found = Deployed(
        paper="mile",
        architecture=args.model,
        network=student,
        classes=tuple(said.classes),
        preparation=_preparation(args, size, statistics),
        answer="softmax" if args.schema == "softmax" else "sigmoid",
        settings=settings,
        maps=(lambda images: logits_and_maps(student, images)[1]) if has_maps(student) else None,
        timm_name=timm_name,
        timm_state=student.state_dict() if timm_name is not None else None,
    )
    return found, teacher


def _tuples(said: Any) -> dict[str, Any]:
    return {
        "mean": tuple(said["mean"]),
        "std": tuple(said["std"]),
        "interpolation": said["interpolation"],
    }


def _network(name: str, state: Any, num_classes: int, size: int, file: Path) -> nn.Module:
    model = build_model(name, num_classes, "default", image_size=size)
    if isinstance(model, Backbone) and not names_head(state, model.head_name):
        model = whole_network(name, num_classes, size)
    checkpoint.load_into(model, state, file)
    return model.eval()


def _preparation(args: Any, size: int, statistics: Statistics) -> Preparation:
    """What the run's evaluation does with a picture; grids of digits are resized whole."""
    is_grid = args.dataset == "mnist"
    short = short_side(args.protocol, args.model)
    return Preparation(
        size=(size, size),
        mean=statistics.mean,
        std=statistics.std,
        resize="squash" if is_grid else "shortest",
        resize_to=None if is_grid else round(size * short / 224),
        interpolation=statistics.interpolation,
    )


def _name_in_timm(name: str, model: nn.Module) -> str | None:
    """What timm calls the same network, classifier included; None where it has none.

    Also None at another size than its own, where it is made for one: timm would not know that.
    """
    if name in CLASSES or not isinstance(model, Backbone) or not model.features.head_fits:
        return None
    source, rest = source_of(name)
    features = model.features
    is_at_home = features.image_size in (None, features.native_size)
    if source != TIMM or ":" in rest or not is_at_home:
        return None
    return rest.split(".")[0]  # without the tag of its weights


def prepared(image: Any, preparation: Preparation) -> tuple[Any, torch.Tensor]:
    """The part of a picture that the network sees, and that as its input (1,3,S,S)."""
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional as F

    mode = v2.InterpolationMode(preparation.interpolation)
    picture = image.convert("RGB")
    if preparation.resize == "squash":
        picture = F.resize(picture, list(preparation.size), mode, antialias=True)
    else:
        assert preparation.resize_to is not None
        picture = F.resize(picture, [preparation.resize_to], mode, antialias=True)
        picture = F.center_crop(picture, list(preparation.size))
    pixels = F.to_dtype(F.pil_to_tensor(picture), torch.float32, scale=True)
    return picture, F.normalize(pixels, preparation.mean, preparation.std)[None]
