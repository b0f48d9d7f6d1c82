"""What the user set: `parse(argv)` gives the settings of a script and where its data set lies.

Nothing here is slow to import: `--help`, a mistyped flag and a missing data set are answered at
once.
"""

import argparse
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from calm.options_data import OWN, settle_own_data, with_data_of_run, with_sample_as_root
from calm.options_flags import ROOT, build_parser
from calm.options_names import GRADIENT_PROCESSES, IN_FOLDER, NOT_FROZEN
from calm.options_own import own_flags
from calm.options_sample import sample_defaults
from calm.options_table import (
    BOXES,
    CHECK,
    CUES,
    ORIGINALS,
    PLACES,
    TRAINING,
    without_effect,
)
from common.aliases import one_module
from common.cli import parse_given, settle
from common.locate import Location, locate
from common.own import recognise

one_module(__name__, "calm.options")

CUB_FOLDERS = ("CUB", "CUB_200_2011", "")
HOW_TO_GET = {
    "CUB": "expected <data_root>/CUB_200_2011 with images/, images.txt, ... "
    "(Caltech-UCSD Birds-200-2011)",
    "ILSVRC": "expected <data_root>/ILSVRC with train/<wnid>/ and val/ "
    "(image-net.org, account needed)",
    "OpenImages": "expected <data_root>/OpenImages with train/, val/, test/ "
    "(OpenImages30k of clovaai/wsolevaluation)",
}


@dataclass(frozen=True)
class Settings:
    """The settings of a script.

    Args:
        args: every flag's value.
        given: the names of those that the user set.
        typed: their values as they were typed.
        idle: given flags without an effect in this script: {flag: where it has one}.
        location: where the data set lies; None where nobody has looked.
    """

    args: argparse.Namespace
    given: frozenset[str] = frozenset()
    typed: Mapping[str, Any] = field(default_factory=dict)
    idle: Mapping[str, str] = field(default_factory=dict)
    location: Location | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Settings":
        """Return the settings of a namespace of `config.get_configs`.

        What is not the default counts as given.
        """
        defaults, _ = parse_given(build_parser(), [])
        values = {name: getattr(args, name) for name in defaults}
        usual = vars(_settled(defaults, {}))
        given = {name: value for name, value in values.items() if value != usual[name]}
        return cls(argparse.Namespace(**values), frozenset(given), given)

    @property
    def log_folder(self) -> Path:
        """The run directory: --output_dir, else SAVE_ROOT/EXPERIMENT_NAME."""
        return Path(self.args.output_dir or self._named_folder)

    @property
    def experiment(self) -> Path:
        """Return the folder of the training run that an evaluation is of.

        It is --output_dir where that is one, else SAVE_ROOT/EXPERIMENT_NAME.
        """
        named = self.args.output_dir
        if named and holds_checkpoint(named):
            return Path(named)
        return self._named_folder

    @property
    def _named_folder(self) -> Path:
        return Path(self.args.save_root) / self.args.experiment_name

    @property
    def is_named(self) -> bool:
        """Whether the user named the run directory."""
        return self.args.output_dir is not None or "experiment_name" in self.given

    @property
    def data_path(self) -> Path:
        """Where the data set lies."""
        assert self.location is not None, "nobody has looked for the data"
        return self.location.path

    @property
    def is_sample(self) -> bool:
        """Whether the data set is the offline sample."""
        return self.location is not None and self.location.is_sample

    def with_unset(self, values: Mapping[str, Any]) -> "Settings":
        """The same with other values, of flags that the user did not set."""
        args = copy.copy(self.args)
        for name, value in values.items():
            if name not in self.given:
                setattr(args, name, value)
        return replace(self, args=args)

    def located(self) -> "Settings":
        """The same with the data set found; UserError says where it was looked for."""
        if self.location is not None:
            return self
        if self.args.dataset_name == OWN:
            return replace(self, location=Location(recognise(self.args.data).path, False))
        return replace(self, location=find_data(self.args, self.given))


def parse(argv: Sequence[str] | None = None, *, script: str = "main") -> Settings:
    """The settings of a script, with the data set found; a sample's defaults apply where it is one.

    explain.py looks for data only where it is given no image, and takes no sample's defaults.

    Raises:
        SystemExit: status 2 and one line on stderr for flags that are wrong, contradict each other,
            or are ours and do nothing in this script; 0 after --help.
        UserError: no data set.
    """
    settings = parse_flags(argv, script=script, may_contradict=True)
    if script == "explain" and settings.args.image is not None:
        return _checked(settings, script)

    if _place_of(settings.args, script) not in (None, TRAINING):
        args = with_data_of_run(settings.args, settings.given, settings.experiment)
        settings = replace(settings, args=args)
    settings = settings.located()
    if settings.is_sample and script != "explain":
        is_small = "architecture" not in settings.given or settings.args.architecture == "small"
        defaults, given = _parsed(argv, script)
        args = _settled(defaults, given, sample_defaults(is_small))
        settings = replace(settings, args=args)
    return _checked(settings, script)


def parse_flags(
    argv: Sequence[str] | None = None, *, script: str = "main", may_contradict: bool = False
) -> Settings:
    """The same from the flags alone: looks for no data.

    may_contradict: leave the look at settings that do not go together to the caller.
    """
    defaults, given = _parsed(argv, script)
    args = _settled(defaults, given)
    settings = Settings(args, frozenset(given), dict(given))
    if args.sample and "data_root" in given:
        problem = f"--sample contradicts --data_root {args.data_root}; give one of them"
        _parser_of(script).error(problem)

    place = _place_of(args, script)
    if place is not None:
        for flag, reason in without_effect(args, given, place).items():
            if flag not in ORIGINALS:
                _parser_of(script).error(f"--{flag} {reason}")
    return settings if may_contradict else _checked(settings, script)


def _parsed(argv: Sequence[str] | None, script: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Defaults, and what the user set."""
    defaults, given = parse_given(_parser_of(script), argv)
    return defaults, with_sample_as_root(given)


def _parser_of(script: str) -> argparse.ArgumentParser:
    return build_parser(f"{script}.py", own_flags(script), script=script)


def _place_of(args: argparse.Namespace, script: str) -> str | None:
    """Where flags act; None for a script that passes them on."""
    place = PLACES.get(script)
    if place == TRAINING and not args.is_train:
        return CHECK
    return place


def _settled(
    defaults: Mapping[str, Any], given: Mapping[str, Any], *layers: Mapping[str, Any]
) -> argparse.Namespace:
    """Return defaults, layers and what the user set as one namespace.

    It has the values that follow from others too.
    """
    args = settle(defaults, given, *layers)
    args.experiment_name = args.experiment_name.rstrip("/")
    args.overwrite = args.overwrite or args.override_cache
    settle_own_data(args)
    if not holds_lists(Path(args.metadata_root)):
        args.metadata_root = str(Path(args.metadata_root) / args.dataset_name)
    args.mask_root = str(Path(args.mask_root) / "OpenImages")
    if args.score_map_process in GRADIENT_PROCESSES:
        args.score_map_method = "backprop"
    if args.frozen_features:  # whole pictures, which are read once
        args.cache_images = args.cache_images and "cache_images" in given
        if "resize_size" not in given:
            args.resize_size = args.crop_size
    return args


def _checked(settings: Settings, script: str) -> Settings:
    """Return the settings with the flags that have no effect named.

    Exit status 2 where settings do not go together.
    """
    place = _place_of(settings.args, script)
    for problem in _contradictions(settings, place):
        _parser_of(script).error(problem)
    if place is None:
        return settings
    return replace(settings, idle=without_effect(settings.args, settings.given, place))


def _contradictions(settings: Settings, place: str | None) -> Iterator[str]:
    """What is wrong with settings that do not go together."""
    args = settings.args
    process = args.score_map_process
    if args.score_map_method == "backprop" and process not in GRADIENT_PROCESSES:
        known = ", ".join(GRADIENT_PROCESSES)
        yield f"--score_map_method backprop: {process} is no gradient; {known} are"
    if "superclass" in process and args.superclass_file is None:
        yield f"--score_map_process {process} needs --superclass_file"
    if place in (None, TRAINING) and args.resize_size < args.crop_size:
        yield f"--resize_size {args.resize_size} is below --crop_size {args.crop_size}"
    if args.em_teacher == "ema" and args.attribution_method != "CALM-EM":
        yield "--em_teacher ema needs --attribution_method CALM-EM"
    for flag in ("erase_k", "iou_thresholds"):
        values = getattr(args, flag)
        if len(set(values)) < len(values):
            yield f"--{flag} {' '.join(map(str, values))}: each value once"
    if args.frozen_features:
        yield from _contradictions_of_frozen_features(settings, place)
    yield from _contradictions_of_weights(settings, place)


def _contradictions_of_frozen_features(settings: Settings, place: str | None) -> Iterator[str]:
    """The same of --frozen_features: what needs pictures, or a body that is trained."""
    args = settings.args
    if place in (None, TRAINING):
        for flag in ("resize_size", "cache_images"):
            if flag in settings.given:
                yield f"--{flag} contradicts --frozen_features: it takes whole pictures, read once"
        if args.architecture in NOT_FROZEN:
            problem = "has layers of its own that must be trained"
            yield f"--frozen_features: {args.architecture} {problem}; take another --architecture"
    if place in (CUES, BOXES) and args.score_map_process in GRADIENT_PROCESSES:
        yield f"--frozen_features: {args.score_map_process} needs the pictures"


def _contradictions_of_weights(settings: Settings, place: str | None) -> Iterator[str]:
    """The same of the flags that say where the weights come from."""
    args = settings.args
    if args.load_checkpoint is not None and not args.use_load_checkpoint:
        if place == TRAINING:
            yield (
                "--load_checkpoint needs --use_load_checkpoint=True in training "
                "(--is_train=False evaluates it)"
            )
        if "use_load_checkpoint" in settings.given:
            yield "--load_checkpoint contradicts --use_load_checkpoint=False"

    if place == TRAINING and args.weights is not None:
        if args.use_load_checkpoint:
            yield "--weights contradicts --use_load_checkpoint=True: it loads the weights"
        if "pretrained_path" in settings.given or settings.typed.get("pretrained"):
            other = "pretrained_path" if "pretrained_path" in settings.given else "pretrained"
            yield f"--weights contradicts --{other}; give one of them"
    if place == TRAINING and "pretrained_path" in settings.given:
        if args.use_load_checkpoint:
            yield (
                "--pretrained_path contradicts --use_load_checkpoint=True: "
                "the weights come from the checkpoint"
            )
        if not args.pretrained:
            yield (
                "--pretrained_path needs --pretrained=True "
                "(a sample run is not pretrained unless told to be)"
            )


def as_arguments(settings: Settings, script: str) -> list[str]:
    """The given flags that act in another script, as arguments of its command line."""
    place = _place_of(settings.args, script)
    known = build_parser()._option_string_actions
    idle = without_effect(settings.args, settings.given, place or "")
    arguments = []
    for flag in sorted(set(settings.typed) - set(idle)):
        if f"--{flag}" not in known:  # of the first script alone
            continue
        value = settings.typed[flag]
        if known[f"--{flag}"].nargs == 0:
            arguments.append(f"--{flag}")
        elif isinstance(value, list):
            arguments += [f"--{flag}", *map(str, value)]
        else:
            arguments.append(f"--{flag}={value}")
    return arguments


# ---- where things lie ----------------------------------------------------------------


def find_data(args: argparse.Namespace, given: frozenset[str]) -> Location:
    """Where the data set is; UserError says where it was looked for."""
    return locate(
        args.dataset_name,
        given=args.data_root if "data_root" in given else None,
        default=ROOT,
        holds=partial(holds_data, args.dataset_name),
        how_to_get=f"{HOW_TO_GET[args.dataset_name]}; lists: prepare_metadata.py",
        sample="CUB" if args.dataset_name == "CUB" else None,
        want_sample=args.sample,
        flag="--data_root",
    )


def holds_data(dataset_name: str, path: Path) -> bool:
    """Whether a folder has the data set, in it or as it."""
    if dataset_name == "CUB":
        return (cub_root(path) / "images.txt").is_file()
    inside = "val" if dataset_name == "ILSVRC" else "test"
    return any((path / part / inside).is_dir() for part in ("", dataset_name))


def cub_root(data_root: str | Path) -> Path:
    """The CUB folder in or at `data_root`; data_root/CUB where there is none."""
    root = Path(data_root)
    for name in CUB_FOLDERS:
        if (root / name / "images.txt").is_file():
            return root / name
    return root / "CUB"


def holds_lists(folder: Path) -> bool:
    """Whether a folder holds the metadata lists of a data set."""
    return all((folder / split / "image_ids.txt").is_file() for split in ("train", "test"))


def holds_checkpoint(folder: str | Path) -> bool:
    """Whether a folder is that of a training run."""
    return any((Path(folder) / name).is_file() for name in IN_FOLDER)
