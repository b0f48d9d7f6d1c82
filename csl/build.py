"""From settings to objects: the last place that sees the namespace of the flags."""

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from common.aliases import one_module
from common.cli import DomainError
from common.loading import EpochSampler
from common.meter import Meter
from common.run import Run
from common.stages import train_last
from common.sync_bn import synchronised
from csl import data, report
from csl.build_features import FeatureLoader, feature_loaders, freeze_backbone
from csl.build_loss import SelectiveLoss, keywords_of
from csl.build_optimizer import ModelEma, make_optimizer
from csl.data_classes import Columns, tell
from csl.data_locate import Found, locate_data
from csl.data_pixels import Pixels
from csl.data_prior import ComputePrior, match_prior, read_prior
from csl.evaluate_drops import DropStatistics
from csl.options import Settings
from csl.options_choices import NETWORKS, OF_DEFAULT_FILE, require_size
from csl.src.models.utils.checkpoint import (
    Checkpoint,
    columns_of,
    load_pretrained,
    load_weights,
    network_of,
    require_choice,
)
from csl.src.models.utils.checkpoint_input import pixels_for
from csl.src.models.utils.factory import backbone_of, build_network, input_of, published_body
from csl.src.models.utils.published import located

one_module(__name__, "csl.build")

LONG_RUN = 20_000  # steps from which on the average needs no warm-up


class ModelInfo:
    """What a file must say beside its weights so that its scores can be found again.

    Kept in every checkpoint.
    """

    def __init__(
        self,
        model_name: str,
        columns: Columns,
        pixels: Pixels,
        *,
        do_bottleneck_head: bool = False,
        keep_empty: bool = False,
        num_classes: int | None = None,
        split_seed: int | None = None,
    ) -> None:
        """`columns`: the classes of the outputs. `split_seed`: by which own data were shared out.

        DomainError where num_classes says otherwise.
        """
        count = len(columns.names)
        if num_classes not in (None, count):
            raise DomainError(f"--num_classes {num_classes}: the data have {count} classes")
        self.columns = columns
        self.pixels = pixels
        self.numbers = pixels.to_numbers()
        self.keep_empty = bool(keep_empty)
        self.of_own_data = {} if split_seed is None else {"split_seed": split_seed}
        self.network = {
            "model_name": model_name,
            "num_classes": count,
            "do_bottleneck_head": bool(do_bottleneck_head),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what decides a score besides the weights, as plain data.

        That is num_classes, idx_to_class, the network's name, its input and the like.
        """
        return {
            **self.network,
            "idx_to_class": dict(enumerate(self.columns.names)),
            "class_keys": self.columns.keys,
            "keep_empty": self.keep_empty,
            **self.of_own_data,
            **self.pixels.plain(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the checkpoint is of the same classes."""
        if list(state["idx_to_class"].values()) != self.columns.names:
            raise DomainError("the checkpoint is of other classes than the data")


class Parts(NamedTuple):
    """Everything that a run trains, measures or averages."""

    info: ModelInfo
    model: nn.Module
    optimizer: Adam
    scheduler: OneCycleLR
    ema: ModelEma
    criterion: SelectiveLoss
    prior: ComputePrior
    drops: DropStatistics
    loss: Meter


class Loaded(NamedTuple):
    """The data sets and their loaders; the sampler is that of the training loader."""

    train_set: data.DataSet
    val_set: data.DataSet
    train_loader: DataLoader | FeatureLoader
    val_loader: DataLoader | FeatureLoader
    sampler: EpochSampler


def loaders_of(args: Any, accelerator: Accelerator) -> tuple[Any, Any]:
    """The training and the test loader of a namespace, ours or the released code's.

    Batches are `common.loading.Batch`es whose data is (images (B,3,S,S) float32, targets (B,C)
    int8).
    """
    found = locate_data(
        args.data,
        is_given=True,
        dataset=getattr(args, "dataset", "auto"),
        debug_mode=getattr(args, "debug_mode", "auto"),
        metadata=getattr(args, "metadata", None),
        sample=getattr(args, "sample", False),
    )
    loaded = build_loaders(args, found, accelerator, as_numbers=True)
    return loaded.train_loader, loaded.val_loader


def build_loaders(
    args: Any, found: Found, accelerator: Accelerator, *, as_numbers: bool = False
) -> Loaded:
    """The data of the flags, pictures as uint8; `as_numbers`: as the network gets them, float32.

    The released code's namespace will do for `args`: ours beside it have their defaults.
    """
    pixels = build_pixels(args)
    skip_corrupt = getattr(args, "skip_corrupt", False)
    seed = getattr(args, "seed", 0) or 0
    train, val = data.open_splits(
        found,
        pixels,
        augment=getattr(args, "augment", "paper"),
        to_tensor=pixels.tensor if as_numbers else pixels.whole,
        keep_empty=getattr(args, "keep_empty", False),
        class_list=getattr(args, "class_list", None),
        seed=seed,
        skip_corrupt=skip_corrupt,
    )
    for split, of_split in (("train", train), ("val", val)):
        data.require_images(
            of_split,
            split,
            found,
            accelerator,
            skip_missing=getattr(args, "skip_missing", False),
            skip_corrupt=skip_corrupt,
        )
    if accelerator.is_main_process:
        data.describe_splits(train, val, found, pixels)

    data.make_partial(
        train,
        scheme=getattr(args, "simulate_partial_type", None),
        param=getattr(args, "simulate_partial_param", 1000.0),
        file=getattr(args, "partial_labels", None),
        seed=seed,
        verbose=accelerator.is_main_process,
    )
    loading: dict[str, Any] = {"workers": args.workers, "skip_corrupt": skip_corrupt}
    parts = getattr(args, "grad_accum", 1)  # of a step
    rows = args.batch_size * parts
    train_loader, sampler = data.training_loader(
        train, found, accelerator, batch_size=rows, seed=seed, parts=parts, **loading
    )
    val_loader = data.scoring_loader(val, accelerator, batch_size=args.batch_size, **loading)
    return Loaded(train, val, train_loader, val_loader, sampler)


def build_feature_loaders(args: Any, loaded: Loaded, parts: Parts, run: Run) -> Loaded:
    """The same batches in the same order, with the features of a frozen backbone as images."""
    train_loader, val_loader = feature_loaders(
        parts.model,
        parts.info.pixels,
        ((loaded.train_set, loaded.train_loader), (loaded.val_set, loaded.val_loader)),
        workers=args.workers,
        skip_corrupt=args.skip_corrupt,
        poll=run.poll,
    )
    return loaded._replace(train_loader=train_loader, val_loader=val_loader)


def build_pixels(args: Any) -> Pixels:
    """How the pictures of the flags become the input of their network."""
    name = getattr(args, "model_name", None)
    own = input_of(name, args.image_size)
    return Pixels(
        args.image_size, getattr(args, "interpolation", own.interpolation), own.statistics
    )


def build(
    settings: Settings,
    run: Run,
    train_set: data.DataSet,
    steps: int,
    prior_path: str | None,
) -> Parts:
    """Network, optimiser, loss and averages.

    Args:
        steps: of an epoch.
        prior_path: the csv of the prior, of the user or of phase 1; None for none.
    """
    args = settings.args
    device = run.accelerator.device
    names = list(train_set.classes.values())
    info = ModelInfo(
        args.model_name,
        train_set.columns,
        build_pixels(args),
        do_bottleneck_head=args.do_bottleneck_head,
        keep_empty=args.keep_empty,
        num_classes=args.num_classes,
        split_seed=args.seed if settings.found.own is not None else None,
    )
    info.numbers.to(device)
    model = build_started(args, len(names), settings.given)
    choose_trained(model, args)
    if args.sync_bn:
        synchronised(model, run.accelerator)
    model = model.to(device).to(memory_format=torch.channels_last)

    optimizer, scheduler = make_optimizer(model, args.lr, args.weight_decay, args.epochs, steps)
    is_short = args.epochs * steps < LONG_RUN
    warmup = args.ema_warmup == "on" or (args.ema_warmup == "auto" and is_short)

    criterion = build_loss(args, names, prior_path).to(device)
    report.describe_prior(run, criterion, names)
    return Parts(
        info=info,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        ema=ModelEma(model, args.ema_decay, warmup=warmup),
        criterion=criterion,
        prior=ComputePrior(train_set.classes, run.folder, run.accelerator),
        drops=DropStatistics(
            criterion.prior_classes,
            criterion.prior_threshold,
            train_set.complete,
            run.accelerator,
        ),
        loss=Meter(run.accelerator),
    )


def build_started(args: argparse.Namespace, classes: int, given: frozenset[str]) -> nn.Module:
    """The network of the flags with the weights that training starts from."""
    is_own = args.model_name in NETWORKS
    model = build_network(
        args.model_name,
        classes,
        bottleneck=args.do_bottleneck_head,
        image_size=args.image_size,
        pretrained=args.pretrained and not is_own,
    )
    if args.pretrained:
        if is_own:
            load_weights(model, published_body(args.model_name), load_head=False)
        print(f"pretrained {args.model_name}: published weights", flush=True)
    elif args.weights is not None:
        load_pretrained(model, str(args.weights), is_given=True)
    elif "model_path" in given and args.model_path:
        load_pretrained(model, str(located(args.model_path)), is_given=True)
    else:
        is_of_the_file = not is_own or args.model_name == OF_DEFAULT_FILE
        load_pretrained(model, args.model_path if is_of_the_file else None, is_given=False)
    return model


def choose_trained(model: nn.Module, args: argparse.Namespace) -> None:
    """Of --frozen_features the head, of --train_stages the last stages too; else all of it."""
    if args.frozen_features:
        freeze_backbone(model)
    elif args.train_stages is not None:
        backbone, _ = backbone_of(model)
        train_last(getattr(backbone, "body", backbone), args.train_stages, args.model_name)


def build_loss(args: argparse.Namespace, names: list[str], prior_path: str | None) -> SelectiveLoss:
    """The loss of the flags, with the prior of a file, matched by the names of the classes."""
    keywords = keywords_of(args)
    if prior_path:
        prior = match_prior(read_prior(prior_path), names, prior_path)
        keywords["prior"] = prior
        if args.prior_quantile is not None:
            keywords["prior_threshold"] = prior.quantile(args.prior_quantile).item()
    return SelectiveLoss(**keywords)


def build_scored(
    args: argparse.Namespace, given: frozenset[str], size_flag: str
) -> tuple[nn.Module, Checkpoint, Pixels]:
    """The network of --model_path, what its file says, and its input.

    Image size, interpolation, normalisation and head are the file's unless their flag was given.

    Args:
        size_flag: the flag of the image size: image_size of validate.py, input_size of infer.py.
    """
    args.model_path = str(located(args.model_path, is_given="model_path" in given))
    size = getattr(args, size_flag) if size_flag in given else None
    model, found = network_of(
        args.model_path, args.model_name, averaged=args.which == "ema", image_size=size
    )
    require_choice(found, args.model_path, args.which, is_given="which" in given)
    pixels = pixels_for(
        found,
        size=getattr(args, size_flag),
        interpolation=args.interpolation,
        is_size_given=size_flag in given,
        is_interpolation_given="interpolation" in given,
    )
    require_size(found.architecture or "", pixels.size, f"--{size_flag}")
    return model, found, pixels


def build_test_set(settings: Settings, checkpoint: Checkpoint, pixels: Pixels) -> data.DataSet:
    """The test images; their classes are matched with the network's by name.

    Where no name is common, or the file has none, they are matched by position, and a line says so.
    DomainError where the numbers of classes disagree.
    """
    args = settings.args
    found = settings.found
    choice: dict[str, Any] = {"keep_empty": args.keep_empty, "class_list": args.class_list}
    if found.own is not None:
        seed = args.seed if "seed" in settings.given else checkpoint.recorded.get("split_seed")
        choice = {"seed": seed or 0, "skip_corrupt": args.skip_corrupt}
    columns = columns_of(checkpoint, args.model_path)
    test = data.open_dataset(found, "val", pixels, **choice)
    own = test.columns
    if columns is None:
        tell(f"{args.model_path}: has no names of classes; matched with {own.source} by position")
    elif columns.names != own.names:
        if columns.shares_with(own):
            test = data.open_dataset(found, "val", pixels, columns=columns, **choice)
        elif len(columns.names) == len(own.names):
            told = f"no class of it has a name of {args.model_path}; matched by position"
            tell(f"{own.source}: {told}")

    counts = {
        str(args.model_path): checkpoint.num_classes,
        str(found.files.val): len(test.classes),
    }
    if "num_classes" in settings.given:
        counts["--num_classes"] = args.num_classes
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of {source}" for source, count in counts.items())
        raise DomainError(f"the numbers of classes disagree: {told}")
    return test
