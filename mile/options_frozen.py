"""What `--frozen_features` stands for, and what it cannot be given with."""

import argparse
from collections.abc import Collection

from common.aliases import one_module

one_module(__name__, "mile.options_frozen")

# What would change pictures by chance, and its value where the user set none.
WITHOUT_CHANCE = {"augment": "none", "mnist_redraw": False}


def switch_chance_off(args: argparse.Namespace) -> None:
    """Give the settings that are not set the value that changes no picture."""
    if not args.frozen_features:
        return
    for name, off in WITHOUT_CHANCE.items():
        if getattr(args, name) is None:
            setattr(args, name, off)


def against_frozen_features(
    args: argparse.Namespace, given: Collection[str]
) -> list[tuple[bool, str]]:
    """Whether something excludes the flag, and in which words; nothing without the flag."""
    if not args.frozen_features:
        return []
    once = "--frozen_features sees each picture once, as the evaluation does; leave one away"
    weights = "give the start weights, --pretrained FILE or imagenet"
    return [
        ("augment" in given and args.augment == "standard", f"--augment standard: {once}"),
        ("mnist_redraw" in given and args.mnist_redraw, f"--mnist_redraw: {once}"),
        (not args.pretrained, f"--frozen_features: {weights}; those of chance say nothing"),
    ]
