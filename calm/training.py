"""What main.py builds and measures: network, optimiser groups, teacher, classification scores."""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from calm.config import Configs
from calm.data_loaders import configure_metadata, get_image_ids
from calm.flags import DATASETS
from calm.network import ARCHITECTURES
from calm.network.head import AttributionNet
from calm.network.util import (
    BESIDE_STATE_DICT,
    MissingCheckpoint,
    find_checkpoint,
    load_checkpoint,
    read_checkpoint,
)
from calm.rows import read_lines
from calm.util import string_contains_any
from common.aliases import one_module
from common.cli import UserError
from common.run import Run, start_run
from common.text import numbered_lines, once, read_json

one_module(__name__, "calm.training")

NUM_CLASSES = dict(zip(DATASETS, (200, 1000, 100), strict=True))
PLACEHOLDER = "checkpoint_name"  # of the original README's commands
# substrings of the parameters that learn at lr (the others at lr x ratio), and those added with another checkpoint
LOW_RATE = {
    "resnet": (("conv1", "layer1", "layer2", "layer3"), ("bn1", "layer4")),
    "vgg": (("features.",), ("conv6", "bn6")),
    "inception": (("Mixed", "Conv2d_1", "Conv2d_2", "Conv2d_3", "Conv2d_4"), ()),
    "small": (("features.",), ()),
}
HEADS = ("conv_last", "attention")


def count_classes(args: argparse.Namespace, args_win: bool = True) -> int:
    """--num_classes (unless `args_win` is False), else the lines of classes.txt, else the official number."""
    if args.num_classes and args_win:
        return args.num_classes
    listing = Path(args.data_paths.train).parent / "classes.txt"
    if args.dataset_name == "CUB" and listing.is_file():
        return len(numbered_lines(listing))
    return NUM_CLASSES[args.dataset_name]


def checkpoint_file(args: argparse.Namespace, fallback: Path | None = None) -> Path:
    """The file of --load_checkpoint; without that flag, and for the README's placeholder, of the run in `fallback`.

    MissingCheckpoint lists what was tried, UserError where there is neither flag nor fallback.
    """
    roots = [Path(args.save_root)]
    if args.load_checkpoint is None:
        if fallback is None:
            raise UserError("--use_load_checkpoint needs --load_checkpoint FILE or FOLDER")
        return find_checkpoint(fallback)
    try:
        return find_checkpoint(args.load_checkpoint, roots)
    except MissingCheckpoint as missing:
        if Path(args.load_checkpoint).name != PLACEHOLDER or fallback is None:
            raise
        try:
            file = find_checkpoint(fallback)
        except MissingCheckpoint:
            raise MissingCheckpoint(
                f"{missing}; nor does the experiment {fallback} hold one"
            ) from None
        print(
            f"{args.load_checkpoint} is the README's placeholder and not there: using {fallback}",
            flush=True,
        )
        return file


def start_training(args: Configs, accelerator: Accelerator) -> Run:
    """The run directory of a training: the one that the flags name, else a free one."""
    return start_run(
        args, args.log_folder, accelerator, named=args.log_folder if args.is_named else ""
    )


def start_evaluation(args: Configs, name: str, accelerator: Accelerator) -> Run:
    """The run directory of an evaluation: NAME in the experiment's folder; --output_dir where that is no experiment."""
    is_experiment = args.output_dir is None or args.experiment == Path(args.output_dir)
    return start_run(
        args, args.experiment / name, accelerator, named="" if is_experiment else args.output_dir
    )


def settings_of_checkpoint(file: Path) -> dict[str, object]:
    """What a checkpoint says of its training: the network's flags and the data set of ours, the classes of any."""
    state, settings = read_checkpoint(file)
    known = {name: settings[name] for name in BESIDE_STATE_DICT if settings.get(name) is not None}
    return (
        {**known, "num_classes": len(state["conv_last.bias"])}
        if "conv_last.bias" in state
        else known
    )


def take_from_checkpoint(args: Configs, file: Path, same_data: bool = True) -> None:
    """Set what makes a number comparable as the checkpoint has it, unless its flag was given.

    Network, method, head, number of classes and size of the input. With `same_data` UserError where the network
    was trained on another data set than the one that is evaluated without being asked for by name. With
    --is_different_checkpoint the flags describe the network.
    """
    args._trained = own = settings_of_checkpoint(file)
    if args.is_different_checkpoint:
        return
    trained_on = own.pop("dataset_name", args.dataset_name)
    if same_data and trained_on != args.dataset_name and "dataset_name" not in args._given:
        raise UserError(
            f"{file}: was trained on {trained_on}; evaluate it with --dataset={trained_on}"
        )
    for name, value in own.items():
        if name not in args._given:
            setattr(args, name, value)


def check_class_count(args: Configs, file: Path) -> None:
    """UserError where the data set has another number of classes than the checkpoint, and none was asked for."""
    if args.is_different_checkpoint or "num_classes" in args._given or args.num_classes is None:
        return
    found = count_classes(args, args_win=False)
    if found != args.num_classes:
        raise UserError(
            f"{file}: has {args.num_classes} classes, {args.dataset_name} in {args.official_root} {found}; name the "
            f"data that it was trained for with --data_root, or --num_classes {args.num_classes} for lists of a subset"
        )


def comparable(args: Configs) -> str:
    """One line on what a number depends on besides the images, and where it differs from the training's.

    Call it after `take_from_checkpoint` and `build_model`.
    """
    head = "" if args.attribution_method == "CAM" else f", {args.prior_activation} prior"
    text = (
        f"evaluated as {args.attribution_method} on {args.architecture}{head}, {count_classes(args)} classes, "
        f"{args.crop_size} x {args.crop_size} pixels, bilinear, ImageNet's mean and deviation"
    )
    trained = args._trained
    names = (
        "architecture",
        "attribution_method",
        "large_feature_map",
        "use_bn",
        "prior_activation",
        "crop_size",
    )
    other = [
        f"{name} {getattr(args, name)} (trained: {trained[name]})"
        for name in names
        if name in trained and trained[name] != getattr(args, name)
    ]
    return f"{text}; not as it was trained: {', '.join(other)}" if other else text


def told_of_idle_flags(args: Configs) -> str:
    """A line that names the given flags without an effect in this script; empty where all have one."""
    if not args._idle:
        return ""
    return "without an effect here: " + "; ".join(
        f"--{flag} {reason}" for flag, reason in args._idle.items()
    )


def listed_test_ids(args: Configs) -> list[str] | None:
    """The ids of --image_list; None without that flag. UserError for one that is no test image, or comes twice."""
    if args.image_list is None:
        return None
    lines = numbered_lines(args.image_list)
    wanted = [line for _, line in lines]
    once(wanted, str(args.image_list), lines=[number for number, _ in lines])
    known = set(get_image_ids(configure_metadata(args._metadata / "test")))
    strange = [image_id for image_id in wanted if image_id not in known]
    if strange or not wanted:
        raise UserError(
            f"{args.image_list}: {strange[0] if strange else 'an empty list'} is not in the test split"
        )
    return wanted


def build_model(args: argparse.Namespace, checkpoint: Path | None = None) -> AttributionNet:
    """The network of the flags, with the weights of `checkpoint` or of ImageNet.

    Without --prior_activation the attention is the checkpoint's; else ReLU, or softplus in a sample run.
    """
    if checkpoint is not None and args.prior_activation is None:
        args.prior_activation = read_checkpoint(checkpoint)[1].get("prior_activation", "relu")
    if args.prior_activation is None:
        args.prior_activation = "softplus" if getattr(args, "_is_sample", False) else "relu"
    pretrained = args.pretrained and checkpoint is None
    if args.architecture == "small" and pretrained:
        raise UserError("small has no ImageNet weights; add --pretrained=False")
    model = ARCHITECTURES[args.architecture](
        pretrained=pretrained,
        pretrained_path=args.pretrained_path,
        num_classes=count_classes(args),
        large_feature_map=args.large_feature_map,
        use_bn=args.use_bn,
        attribution_method=args.attribution_method,
        prior_activation=args.prior_activation,
        prior_gradient=args.prior_gradient,
    )
    if checkpoint is not None:
        load_checkpoint(model, checkpoint, args.is_different_checkpoint)
    return model


def low_rate_names(args: argparse.Namespace, names: Iterable[str]) -> set[str]:
    """The parameters that learn at lr: by the released substrings, or everything but the heads (clean)."""
    names = list(names)
    if args.param_groups == "clean":
        return {n for n in names if not n.startswith(HEADS)}
    low, more = next(v for family, v in LOW_RATE.items() if args.architecture.startswith(family))
    return {
        n
        for n in names
        if string_contains_any(n, (*low, *(more if args.is_different_checkpoint else ())))
    }


def build_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.SGD:
    """SGD with Nesterov momentum; group 0 at lr, group 1 at lr x lr_classifier_ratio."""
    low = low_rate_names(args, [n for n, _ in model.named_parameters()])
    groups = [
        {"params": [p for n, p in model.named_parameters() if n in low], "lr": args.lr},
        {
            "params": [p for n, p in model.named_parameters() if n not in low],
            "lr": args.lr * args.lr_classifier_ratio,
        },
    ]
    return torch.optim.SGD(
        groups, momentum=args.momentum, weight_decay=args.weight_decay, nesterov=args.momentum > 0
    )


def build_teacher(args: argparse.Namespace, model: nn.Module) -> AveragedModel | None:
    """The moving average whose posterior is the E-step with --em_teacher ema."""
    if args.em_teacher == "none":
        return None
    average = get_ema_multi_avg_fn(args.ema_decay)
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True).eval().requires_grad_(False)


def read_superclass(args: argparse.Namespace) -> dict[int, list[int]] | None:
    """--superclass_file: {label: labels}; UserError names line and label of a list that is empty or unfit."""
    if args.superclass_file is None:
        return None
    path, known = Path(args.superclass_file), range(count_classes(args))
    groups = read_json(path, dict)
    lines = read_lines(path)
    for label, members in groups.items():
        line = next((n for n, text in enumerate(lines, 1) if f'"{label}"' in text), 1)
        problem = _problem_of(label, members, known)
        if problem:
            raise UserError(
                f"{path}:{line}: label {label} {problem}; labels are 0..{len(known) - 1}"
            )
    missing = [c for c in known if str(c) not in groups]
    if missing:
        raise UserError(f"{path}: label {missing[0]} has no group ({len(missing)} are missing)")
    return {int(label): members for label, members in groups.items()}


def _problem_of(label: str, members: object, known: range) -> str:
    """What is wrong with an entry of --superclass_file; empty where nothing is."""
    if label not in map(str, known):
        return "is unknown"
    if not isinstance(members, list) or not members:
        return "has an empty list" if members == [] else f"has no list of labels, but {members!r}"
    unknown = [c for c in members if type(c) is not int or c not in known]
    return f"has an unknown label {unknown[0]!r}" if unknown else ""


def to_device(
    images: torch.Tensor, labels: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """images (B,3,H,W), channels last, which convolutions are faster on, and labels (B,) on the device."""
    images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
    return images, labels.to(device, non_blocking=True)


def describe_batch(
    image_ids: Sequence[str], out: Mapping[str, torch.Tensor], shown: int = 4
) -> str:
    """Images with the largest or undefined losses: their loss and the sum of their attention."""
    loss = out["loss"].detach().float()
    worst = torch.where(loss.isfinite(), loss, torch.inf).argsort(descending=True)[:shown].tolist()
    total = {
        k: f", attention sums to {out['attention'][k].item():.4g}" if "attention" in out else ""
        for k in worst
    }
    return "; ".join(f"{image_ids[k]}: loss {loss[k].item():.4g}{total[k]}" for k in worst)


@torch.no_grad()
def classify(
    model: AttributionNet, batches: Iterable, device: torch.device, autocast: Any
) -> Iterator[tuple]:
    """Per batch: index (B,), log p of the label, whether it is the argmax of p(y|x), largest p, entropy of g = p(z|x),
    whether the attention is zero everywhere. The logarithm comes from the logits: p itself underflows."""
    for batch in batches:
        images, labels, _ = batch.data
        images, labels = to_device(images, labels, device)
        with autocast():
            f, f_former, attention = model.encode(images)
        out = model.process.input_for_loss(f, f_former, attention)
        probs = out["probs"]
        log_p = out["logits"].log_softmax(1).gather(1, labels[:, None])[:, 0]
        g = model.process._latent_prior(f_former, attention=attention).flatten(1)
        entropy = -(g * (g + 1e-12).log()).sum(1)
        yield (
            batch.index,
            log_p,
            probs.argmax(1) == labels,
            probs.amax(1),
            entropy,
            attention.amax((1, 2, 3)) <= 0,
        )


def calibration_error(confidence: torch.Tensor, correct: torch.Tensor, bins: int = 15) -> float:
    """Expected calibration error in percent over equal bins of the largest probability (n,)."""
    place = (confidence * bins).long().clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(
        0, place, confidence.double() - correct.double()
    )
    return float(100 * gap.abs().sum() / max(1, len(confidence)))
