"""The data of a run: a set of -ds, or a user's own, in the scale of the network that takes them."""

import argparse
import os
from dataclasses import replace

import torch

from cavl.build_named import picture_input
from cavl.data import PartialData, load_dataset
from cavl.data_own import OwnPlace, PictureInput, load_own
from cavl.data_pictures import ResizedPictures
from cavl.options import Settings
from cavl.options_datasets import OWN_DATA
from cavl.options_rules import MODELS, OWN_SETS
from common.aliases import one_module
from common.cli import UserError

one_module(__name__, "cavl.build_data")


def load_data(settings: Settings, seed: int) -> PartialData:
    """Read the data whole; UserError where they cannot be trained or tested on.

    seed: draws the val part of own data that have none.
    """
    args = settings.args
    if args.ds in OWN_DATA:
        return _own(settings, seed)
    data = load_dataset(args.ds, settings.location)
    has_images = len(data.train_x.shape) == 4
    if args.mo not in MODELS and has_images:
        data = _in_scale_of(args.mo, data, args.size or data.train_x.shape[-1])
    return data if args.size is None else _resized(data, args.size)


def _resized(data: PartialData, size: int) -> PartialData:
    """Images of another size, which they get when they are read."""
    assert isinstance(data.train_x, torch.Tensor) and isinstance(data.test_x, torch.Tensor)
    how = data.interpolation or "bilinear"
    train, test = (
        ResizedPictures(pixels, size, interpolation=how) for pixels in (data.train_x, data.test_x)
    )
    return replace(data, train_x=train, test_x=test)


def _in_scale_of(mo: str, data: PartialData, size: int) -> PartialData:
    """Images normalised as the network's configuration says; grey ones by its colours' mean."""
    takes = picture_input(mo, size, is_own=False)
    mean = takes.mean
    std = takes.std
    if data.train_x.shape[1] == 1:
        mean = (sum(mean) / len(mean),)
        std = (sum(std) / len(std),)
    return replace(data, mean=mean, std=std, interpolation=takes.interpolation)


def _own(settings: Settings, seed: int) -> PartialData:
    args = settings.args
    picture = None
    if args.ds == "pictures":
        picture = picture_input(args.mo, args.size, is_own=args.mo in MODELS)
    data = load_own(
        OwnPlace(args.data, args.images, args.classes, args.skip_corrupt),
        seed,
        picture=picture,
        standardize=args.standardize,
        limit_gb=args.resident_gb,
        is_sample=settings.location.is_sample,
    )
    if os.environ.get("RANK", "0") == "0":
        for line in (*data.lines, *_picture_lines(args, picture)):
            print(line, flush=True)
    if data.own_sets is not None:
        _require_no_law(args, settings.given)
        args.partial_type = OWN_SETS
    return data


def _picture_lines(args: argparse.Namespace, picture: PictureInput | None) -> list[str]:
    if picture is None:
        return []
    size = f"{picture.size}x{picture.size}"
    return [f"pictures are squashed to {size} ({picture.interpolation}) for -mo {args.mo}"]


def _require_no_law(args: argparse.Namespace, given: frozenset[str]) -> None:
    """UserError for a flag that draws sets, where the data hold them."""
    for flag in ("partial_type", "ca", "partial_file", "q", "rate", "oracle"):
        if flag in given:
            problem = f"-{flag} draws candidate sets, and --data {args.data} holds them"
            raise UserError(f"{problem}; leave it out, or the candidates")
