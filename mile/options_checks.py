"""Flags that do not go with the data set, the schemas or each other."""

import argparse
import textwrap
from collections.abc import Callable

from common.aliases import one_module
from common.errors import UserError
from common.locate import LINE

one_module(__name__, "mile.options_checks")

# The settings that act in the imitation phase alone.
MILE_SETTINGS: tuple[str, ...] = ("k_t", "k_s", "warmup", "rho_start", "rho_cover")
MILE_SETTINGS += ("threshold_on", "student_init", "keep_ground_truth")


def require_one_source(args: argparse.Namespace, flags: frozenset[str]) -> None:
    """UserError where a path is given beside --sample, which would win without a word."""
    for name in ("mnist_path", "data_path", "val_path"):
        if args.sample and name in flags:
            raise UserError(f"--sample and --{name} {getattr(args, name)}: give one of the two")


def require_acting_settings(
    args: argparse.Namespace,
    given: frozenset[str],
    flags: frozenset[str],
    say: Callable[[str], None],
) -> None:
    """A flag that could do nothing in this run is an error.

    An attribute, which serves other runs, is named.

    k_t, k_s and epoch_num count as attributes: commands that run several schemas share them, and
    total_steps says of itself that it takes the place of epoch_num.
    """
    idle = {}
    for name, why in _idle_settings(args, given).items():
        if name in given:
            idle[name] = why
    binding = flags - {"k_t", "k_s", "epoch_num"}
    refused = [name for name in idle if name in binding]
    if refused:
        raise UserError(f"--{refused[0]} {idle[refused[0]]}")
    if idle:
        say(textwrap.fill(f"set, but without effect here: {', '.join(idle)}", LINE))


def _idle_settings(args: argparse.Namespace, given: frozenset[str]) -> dict[str, str]:
    """The settings that do nothing with this data set and these schemas, and why."""
    schemas = args.compare or [args.schema]
    is_mnist = args.dataset == "mnist"
    has_label_file = args.dataset in ("imagenet", "folder")
    draws_subset = args.train_frac < 1 and not args.subset_file
    has_steps = "total_steps" in given and args.total_steps > 0

    of_mnist = ("mnist_path", "mnist_size", "mnist_redraw", "mnist_grids", "mnist_test_grids")
    not_mnist = f"is for mnist, not {args.dataset}"
    grids = "is for image folders; --mnist_grids N sets the number of MNIST's training grids"
    not_mile = f"is for schema MILe, not {', '.join(schemas)}"
    not_step = f"is for --lr_schedule step, not {args.lr_schedule}"
    not_real = f"is for imagenet and folder, not {args.dataset}"
    groups: list[tuple[tuple[str, ...], bool, str]] = [
        (of_mnist, not is_mnist, not_mnist),
        (("data_path", "val_path"), is_mnist, "is for image folders; mnist has --mnist_path"),
        (("augment", "image_size"), is_mnist, "is for image folders; mnist has --mnist_size"),
        (("train_frac", "subset_file", "reweight"), is_mnist, grids),
        (("train_sets",), is_mnist, "is for image folders; mnist has the digits themselves"),
        (("train_sets",), schemas == ["softmax"], "is for sigmoid outputs, not softmax"),
        (
            ("train_sets", "frozen_features"),
            args.eval_only,
            "is for training, --eval_only trains nothing",
        ),
        (("subset_seed",), not draws_subset, "is for --train_frac below 1"),
        (("real_path",), not has_label_file, not_real),
        (MILE_SETTINGS, "MILe" not in schemas, not_mile),
        (("reduction", "bias_init"), schemas == ["softmax"], "is for sigmoid outputs, not softmax"),
        (("epoch_num",), has_steps, "is another length than --total_steps"),
        (("lr_milestones",), args.lr_schedule != "step", not_step),
    ]
    idle: dict[str, str] = {}
    for names, is_idle, why in groups:
        if is_idle:
            idle.update(dict.fromkeys(names, why))
    return idle
