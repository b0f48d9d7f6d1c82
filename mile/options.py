"""The flags, and what the user set: the class's attributes, the flags, a weight file, the sample.

Nothing here imports torch, so that --help, a mistyped flag and a missing path are answered at once.
"""

import argparse
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.aliases import one_module
from common.backbones_names import require_spelling
from common.cli import (
    OneLineParser,
    UserError,
    add_jobs_flag,
    add_shared_flags,
    add_training_flags,
    parse_given,
    readable_file,
    seed_list,
    settle,
)
from common.cli_help import shown
from common.locate import LINE
from common.own import add_own_flags, recognise, require_own_flags
from common.own_places import Kind
from mile.config import config
from mile.data_location import Located, locate_data, sample_settings
from mile.options_checks import require_acting_settings, require_one_source
from mile.options_frozen import against_frozen_features, switch_chance_off
from mile.options_table import (
    GROUPS,
    OWN_MODELS,
    PATHS,
    PRESETS,
    SAMPLE_DEFAULTS,
    SETTINGS,
    SHOWN,
    problem_of,
)

one_module(__name__, "mile.options")


@dataclass(frozen=True)
class Trained:
    """What the weight file of an evaluation says of itself."""

    settings: Mapping[str, Any]  # those of options_table.COMPARABLE that it names
    classes: list[str] | None = None
    input: Mapping[str, Any] | None = None  # mean, std, interpolation of the pictures


@dataclass(frozen=True)
class Settings:
    """What a run was asked for, and what parsing found."""

    args: argparse.Namespace  # every setting and flag
    given: frozenset[
        str
    ]  # those that the user set: flags, and attributes that differ from the delivered
    data: Located
    trained: Trained


@dataclass(frozen=True)
class Choices:
    """What the user set, before data are looked for."""

    defaults: Mapping[str, Any]  # of every flag
    values: Mapping[str, Any]  # what was set
    flags: frozenset[str]  # the names of those that were set by a flag

    @property
    def given(self) -> frozenset[str]:
        """The names of all that was set."""
        return frozenset(self.values)

    def settle(self, *layers: Mapping[str, Any]) -> argparse.Namespace:
        """The settings: defaults, the layers, a later one over an earlier, then what the user set.

        What is None takes the protocol's value, and eval_rho that of rho; with frozen features
        pictures are not changed by chance.
        """
        args = settle(self.defaults, self.values, *layers)
        switch_chance_off(args)
        for name, preset in PRESETS.items():
            if getattr(args, name) is None:
                setattr(args, name, preset[args.protocol])
        if args.eval_rho is None:
            args.eval_rho = args.rho
        return args


def build_parser(defaults: Any = None) -> argparse.ArgumentParser:
    """Every setting as a flag; its default an attribute of `defaults`, else the delivered one."""
    parser = OneLineParser(prog="MILe.py", description="MILe: multi-label iterated learning.")
    for title, entries in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, entry in entries.items():
            kind: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
            text = entry.meaning
            if entry.kind is not bool:
                kind = {"type": entry.kind, "choices": entry.allowed.choices}
                if entry.kind is not int and entry.allowed.bounds and not entry.allowed.choices:
                    text = f"{entry.meaning}; {entry.allowed.bounds.partition(' (')[0]}"
            text = _with_presets(name, text)
            default = getattr(defaults, name, entry.default)
            group.add_argument(f"--{name}", default=default, help=text, **kind)
    _add_own_flags(parser)
    _add_run_flags(parser)
    add_training_flags(add_shared_flags(parser))
    parser.tell_sample(**SAMPLE_DEFAULTS)
    return parser


def _with_presets(name: str, text: str) -> str:
    """The text with the values of both protocols in the place of its (A / B)."""
    if name not in PRESETS:
        return text
    values = {protocol: shown(value) for protocol, value in PRESETS[name].items()}
    plain = re.sub(r" \([^()]* / [^()]*\)", "", text)
    return f"{plain} (default {values['authors']}; unofficial: {values['unofficial']})"


def _add_own_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("your own data")
    add_own_flags(group)
    group.add_argument(
        "--train_sets",
        type=readable_file,
        default=None,
        metavar="FILE",
        help="label sets that are taught in place of the labels: a json or csv by image names",
    )


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("more than one run, or less")
    group.add_argument(
        "--compare",
        default=None,
        metavar="A,B",
        help="run these schemas with equal steps, one table",
    )
    group.add_argument(
        "--seeds",
        type=seed_list,
        default=None,
        metavar="0,1,2",
        help="run these seeds (with --compare: of each)",
    )
    add_jobs_flag(group)
    group.add_argument(
        "--eval_only",
        action="store_true",
        help="only evaluate --pretrained, with the settings that its file says",
    )
    group.add_argument(
        "--export_labels",
        action="store_true",
        help="at the end write the training set's label sets",
    )
    group.add_argument(
        "--strict", action="store_true", help="MILe: collapsed pseudo labels are an error"
    )
    group.add_argument(
        "--last_only",
        action="store_true",
        default=None,
        help="keep checkpoints/last.pt alone, no other weights",
    )
    group.add_argument(
        "--frozen_features",
        action="store_true",
        default=None,
        help="train the classifier alone, on features computed once, without crop and flip",
    )


def parse(argv: Sequence[str] | None = None, say: Callable[[str], None] = print) -> Settings:
    """The settings of a run, and where its data lie; `say` is told what was chosen for the user.

    argv is None: the command line. A bad value ends the program with one line and status 2.
    UserError where a given path does not hold the data set, and for a setting that could not act.
    """
    choices = choose(config, argv)
    own = _own_data(choices)
    choices = _with_own_data(choices, own)
    trained = trained_with(choices.settle())
    args = choices.settle(trained.settings)
    if "model" in choices.given:
        require_fitting_model(args)
    require_one_source(args, choices.flags)
    _require_place_of_own_data(args, choices.given)
    data = _located(args, choices.given, own)

    if data.is_sample and args.dataset in SAMPLE_DEFAULTS:
        layer = _sample_layer(args.dataset, choices.given)
        args = choices.settle(layer, trained.settings)
        taken = layer.keys() - choices.given - trained.settings.keys()
        values = [f"{name} {layer[name]}" for name in SHOWN if name in taken]
        if values:
            shown = ", ".join(values)
            say(textwrap.fill(f"the sample's own settings, where none are set: {shown}", LINE))
    require_fitting_model(args)
    require_spelling(args.model, OWN_MODELS)
    require_acting_settings(args, choices.given, choices.flags, say)
    return Settings(args, choices.given, data, trained)


def _own_data(choices: Choices) -> Kind | None:
    """What --data names; UserError where it does not exist, or another flag names other data."""
    given = {name: choices.values[name] for name in choices.flags}
    rivals = {name: f"--{name}" for name in ("data_path", "val_path", "mnist_path", "sample")}
    require_own_flags(given, rivals)
    place = given.get("data")
    if place is None:
        return None
    kind = recognise(place)
    wanted = given.get("dataset")
    if wanted not in (None, "folder", sample_settings(kind).get("dataset")):
        raise UserError(f"--data {place} and --dataset {wanted} name different data; give one")
    return kind


def _with_own_data(choices: Choices, own: Kind | None) -> Choices:
    """The choices with the settings that --data stands for: those of a sample, else `folder`."""
    if own is None:
        return choices
    stands_for = sample_settings(own) or {"dataset": "folder"}
    return replace(choices, values={**choices.values, **stands_for})


def _require_place_of_own_data(args: argparse.Namespace, given: frozenset[str]) -> None:
    """UserError where --eval_only has weights of own data and nothing says where such data lie."""
    is_named = not given.isdisjoint({"dataset", "data", "data_path"})
    if not args.eval_only or args.dataset != "folder" or is_named:
        return
    if not Path(args.data_path).exists():
        raise UserError(
            f"{args.pretrained} was trained on own data; --data PLACE says what to evaluate on"
        )


def _located(args: argparse.Namespace, given: frozenset[str], own: Kind | None) -> Located:
    if own is not None and not sample_settings(own):
        real = Path(args.real_path) if "real_path" in given else None
        return Located(bool(own.sample), own=own.path, real=real)
    return locate_data(
        args.dataset,
        data_path=args.data_path,
        val_path=args.val_path,
        real_path=args.real_path,
        mnist_path=args.mnist_path,
        given=given,
        want_sample=args.sample,
    )


def choose(source: Any, argv: Sequence[str] | None) -> Choices:
    """What the user set.

    Attributes of `source` that differ from those delivered, then the flags; checked.

    A flag wins over an attribute.
    """
    parser = build_parser(source)
    defaults, flags = parse_given(parser, argv)
    edited = {}
    for name, entry in SETTINGS.items():
        if defaults[name] != entry.default:
            edited[name] = defaults[name]
    if "epoch_num" in flags:  # the flag has the last word about the length too
        edited.pop("total_steps", None)
        defaults["total_steps"] = 0
    values = edited | flags

    for name in SETTINGS:
        value = values.get(name, defaults[name])
        problem = problem_of(name, value)
        if problem:
            parser.error(f"{name} {value!r}: {problem}")
    for name in PATHS:
        if name not in values:
            continue
        values[name] = _expanded(name, values[name], name in flags, parser.error)
    if values.get("compare") is not None:
        values["compare"] = _schemas(parser, values["compare"])

    choices = Choices(defaults, values, frozenset(flags))
    for problem in contradictions(choices):
        parser.error(problem)
    return choices


def _expanded(name: str, value: Any, is_flag: bool, fail: Callable[[str], None]) -> Any:
    """A path with ~ spelled out.

    `fail` is told where it is the wrong kind, or a file is not there.
    """
    text = str(value)
    is_word = name == "pretrained" and text == "imagenet"
    is_default = text == SETTINGS[name].default and not is_flag
    if is_word or is_default:
        return value
    try:
        return str(PATHS[name](text))
    except argparse.ArgumentTypeError as error:
        fail(f"{name}: {error}")
        return value


def _schemas(parser: argparse.ArgumentParser, text: str) -> list[str]:
    """The schemas of --compare."""
    schemas = text.split(",")
    allowed = SETTINGS["schema"].allowed
    unknown = [schema for schema in schemas if not allowed.holds(schema)]
    if unknown:
        parser.error(f"--compare {unknown[0]!r}: {allowed.bounds}")
    if len(set(schemas)) < len(schemas):
        parser.error(f"--compare {text}: each schema once")
    return schemas


def contradictions(choices: Choices) -> list[str]:
    """Settings that exclude each other, a message each.

    Of a flag and an attribute the flag has the last word.
    """
    flags = choices.flags
    given = choices.given
    args = choices.settle()
    lengths = {"epoch_num", "total_steps"}
    has_two_lengths = args.total_steps > 0 and lengths <= given and lengths.isdisjoint(flags)
    wants_device = "device" in flags and args.device != "cpu"

    one = "give one of the two"
    found = [
        (
            {"rho_cover", "rho_start"} <= given,
            "--rho_cover and --rho_start: rho is chosen from the data or annealed, give one",
        ),
        ({"compare", "schema"} <= flags, f"--schema: --compare names the schemas, {one}"),
        ({"seeds", "seed"} <= flags, f"--seed: --seeds names the seeds, {one}"),
        (
            "jobs" in flags and {"compare", "seeds"}.isdisjoint(flags),
            "--jobs: only with --compare or --seeds",
        ),
        (
            args.jobs > 1 and wants_device,
            "--jobs and --device: the runs take the GPUs in turn; choose by CUDA_VISIBLE_DEVICES",
        ),
        (has_two_lengths, "epoch_num and total_steps are both set: two lengths, set one"),
        (wants_device and args.cpu, f"--device {args.device} and --cpu: {one}"),
        (
            args.eval_only and not args.pretrained,
            "--eval_only: give the weights, --pretrained FILE or imagenet",
        ),
        *against_frozen_features(args, given),
    ]
    return [message for holds, message in found if holds]


def trained_with(args: argparse.Namespace) -> Trained:
    """What the weight file of --eval_only says of itself; reading it takes torch."""
    if not args.eval_only or args.pretrained == "imagenet":
        return Trained({})
    from mile.report_weights import read

    return read(args.pretrained)


def _sample_layer(dataset: str, given: frozenset[str]) -> dict[str, Any]:
    """The sample's own values; its fixed number of steps only where the user set no epochs."""
    layer = dict(SAMPLE_DEFAULTS[dataset])
    if "epoch_num" in given:
        del layer["total_steps"]
    return layer


def require_fitting_model(args: argparse.Namespace) -> None:
    """UserError where the model has another number of classes than the data set."""
    if args.dataset == "mnist" and args.model in ("resnet18", "resnet50", "small"):
        raise UserError(
            f"--dataset mnist has 10 classes, --model {args.model} 1000: use resnet18-10"
            " (or small-10)"
        )
    if args.dataset != "mnist" and args.model.endswith("-10"):
        whole = args.model.removesuffix("-10")
        raise UserError(
            f"--model {args.model} has 10 classes for mnist: use {whole} with {args.dataset}"
        )
