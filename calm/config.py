"""`get_configs(argv)`: the settings of a run; `configure(argv)`: the same, with the data set and its metadata found."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from calm import flags
from calm.data_loaders import SPLITS, Attributes, configure_metadata
from calm.flags import build_parser, str2bool, without_effect  # noqa: F401
from calm.network.util import holds_checkpoint
from calm.prepare_metadata import BUILDERS, second_val, source_of
from calm.score_map_method import GRADIENT_PROCESSES
from common.aliases import one_module
from common.cli import UserError, parse_given, settle
from common.data import Location, locate
from common.text import read_json

one_module(__name__, "calm.config")

mch = Attributes
CUB_FOLDERS = ("CUB", "CUB_200_2011", "")
HOW_TO_GET = {
    "CUB": "expected <data_root>/CUB_200_2011 with images/, images.txt, ... (Caltech-UCSD Birds-200-2011)",
    "ILSVRC": "expected <data_root>/ILSVRC with train/<wnid>/ and val/ (image-net.org, account needed)",
    "OpenImages": "expected <data_root>/OpenImages with train/, val/, test/ (OpenImages30k of clovaai/wsolevaluation)",
}


class Configs(argparse.Namespace):
    """The settings; what is derived from them is not one of them (a moved run directory is the same run).

    `_given`: the names that the user set, `_typed`: and their values; `_idle`: those without an effect in this
    script, and why.
    """

    _given: set[str] | frozenset[str] = frozenset()
    _typed: Mapping[str, Any] = {}
    _idle: Mapping[str, str] = {}

    @property
    def log_folder(self) -> Path:
        """The run directory: --output_dir, else SAVE_ROOT/EXPERIMENT_NAME."""
        return Path(self.output_dir or Path(self.save_root) / self.experiment_name)

    @property
    def experiment(self) -> Path:
        """The training run that an evaluation is of: --output_dir where that is one, else SAVE_ROOT/EXPERIMENT_NAME."""
        named = self.output_dir
        return (
            Path(named)
            if named and holds_checkpoint(named)
            else Path(self.save_root) / self.experiment_name
        )

    @property
    def is_named(self) -> bool:
        """Whether the user named the run directory."""
        return self.output_dir is not None or "experiment_name" in self._given

    @property
    def data_paths(self) -> Attributes:
        """The folders below which the ids of train, val and test lie."""
        paths = set_data_path(self.dataset_name, getattr(self, "_data", self.data_root))
        if second_val(self.dataset_name, self.official_root) is None:  # val is held out of train
            paths.val = paths.train
        return paths

    @property
    def official_root(self) -> Path:
        """The folder of the data set's official files."""
        train = Path(set_data_path(self.dataset_name, getattr(self, "_data", self.data_root)).train)
        return train.parent if self.dataset_name == "CUB" else train

    @property
    def reporter_root(self) -> Path:
        """Where Reporter writes."""
        return self.log_folder / "reports"


def cub_root(data_root: str | Path) -> Path:
    """The CUB folder in or at `data_root`; data_root/CUB where there is none."""
    root = Path(data_root)
    found = (root / name for name in CUB_FOLDERS if (root / name / "images.txt").is_file())
    return next(found, root / "CUB")


def set_data_path(dataset_name: str, data_root: str | Path) -> Attributes:
    """{train, val, test: folder below which the ids lie}; ValueError for an unknown data set."""
    root = Path(data_root)
    if dataset_name == "CUB":
        images = cub_root(root) / "images"
        second = second_val("CUB", cub_root(root)) or root / "CUBV2"
        return mch(train=str(images), val=str(second), test=str(images))
    if dataset_name == "ILSVRC":
        base = (
            root / "ILSVRC" if (root / "ILSVRC").is_dir() or not (root / "train").is_dir() else root
        )
        second = base if (base / "val2").is_dir() else base.parent / "ImageNetV2"
        return mch(train=str(base), val=str(second), test=str(base))
    if dataset_name == "OpenImages":
        base = (
            root / "OpenImages"
            if (root / "OpenImages").is_dir() or not (root / "train").is_dir()
            else root
        )
        return mch({split: str(base) for split in SPLITS})
    raise ValueError(f"dataset {dataset_name!r}: choose from {', '.join(flags.DATASETS)}")


def parse(
    argv: Sequence[str] | None = None,
    prog: str = "main.py",
    own: argparse.ArgumentParser | None = None,
    place: str | None = None,
) -> Configs:
    """Parse and check flags, those of the script's `own` parser too; touches nothing.

    place: one of flags.SCRIPTS. Flags that do nothing there are then an error, or, those of the original, kept in
    `_idle` to be told. `_given` holds the names of the flags that the user set.
    """
    args = _settled(parse_given(build_parser(prog, own), argv))
    _refuse_idle(args, prog, place)
    return _checked(args, prog, place)


def get_configs(argv: Sequence[str] | None = None, prog: str = "main.py") -> Configs:
    """Parse flags and make the log folder; needs no data, no checkpoint, no GPU."""
    args = parse(argv, prog)
    try:
        args.log_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{args.log_folder}: cannot be made ({error.strerror})") from error
    return args


def _settled(parsed: tuple[dict[str, Any], dict[str, Any]], *layers: Mapping[str, Any]) -> Configs:
    """Defaults, layers and what the user set as one namespace, with the values that follow from others."""
    defaults, given = parsed
    args = Configs(**vars(settle(defaults, given, *layers)))
    args._typed = dict(given)  # before anything is added to a path
    args._idle = {}
    args.experiment_name = args.experiment_name.rstrip("/")
    args.overwrite = args.overwrite or args.override_cache
    if not _is_complete(Path(args.metadata_root)):
        args.metadata_root = str(Path(args.metadata_root) / args.dataset_name)
    args.mask_root = str(Path(args.mask_root) / "OpenImages")
    if args.score_map_process in GRADIENT_PROCESSES:
        args.score_map_method = "backprop"
    return args


def _refuse_idle(args: Configs, prog: str, place: str | None) -> None:
    """Exit status 2 for a flag of ours that does nothing in this script, and for two sources of data."""
    parser = build_parser(prog)
    if args.sample and "data_root" in args._given:
        parser.error(f"--sample contradicts --data_root {args.data_root}; give one of them")
    if place is None:
        return
    for flag, reason in without_effect(args, _place_of(args, place)).items():
        if flag not in flags.ORIGINALS:
            parser.error(f"--{flag} {reason}")


def _checked(args: Configs, prog: str, place: str | None) -> Configs:
    """The same; exit status 2 where settings do not go together."""
    parser = build_parser(prog)
    for problem in _contradictions(args, _place_of(args, place)):
        parser.error(problem)
    if place is not None:
        args._idle = without_effect(args, _place_of(args, place))
    return args


def _place_of(args: Configs, place: str | None) -> str | None:
    return flags.CHECK if place == flags.TRAINING and not args.is_train else place


def _contradictions(args: Configs, place: str | None) -> Iterator[str]:
    """What is wrong with settings that do not go together."""
    given, process = args._given, args.score_map_process
    if args.score_map_method == "backprop" and process not in GRADIENT_PROCESSES:
        yield f"--score_map_method backprop: {process} is no gradient; {', '.join(GRADIENT_PROCESSES)} are"
    if "superclass" in process and args.superclass_file is None:
        yield f"--score_map_process {process} needs --superclass_file"
    if place in (None, flags.TRAINING) and args.resize_size < args.crop_size:
        yield f"--resize_size {args.resize_size} is below --crop_size {args.crop_size}"
    if args.em_teacher == "ema" and args.attribution_method != "CALM-EM":
        yield "--em_teacher ema needs --attribution_method CALM-EM"
    for flag in ("erase_k", "iou_thresholds"):
        values = getattr(args, flag)
        if len(set(values)) < len(values):
            yield f"--{flag} {' '.join(map(str, values))}: each value once"

    if args.load_checkpoint is not None and not args.use_load_checkpoint:
        if place == flags.TRAINING:
            yield "--load_checkpoint needs --use_load_checkpoint=True in training (--is_train=False evaluates it)"
        if "use_load_checkpoint" in given:
            yield "--load_checkpoint contradicts --use_load_checkpoint=False"
    if place == flags.TRAINING and "pretrained_path" in given:
        if args.use_load_checkpoint:
            yield "--pretrained_path contradicts --use_load_checkpoint=True: the weights come from the checkpoint"
        if not args.pretrained:
            yield "--pretrained_path needs --pretrained=True (a sample run is not pretrained unless told to be)"


def configure(
    argv: Sequence[str] | None = None,
    prog: str = "main.py",
    own: argparse.ArgumentParser | None = None,
) -> Configs:
    """Parse, find the data set (or the sample, whose defaults then apply), and find or build its metadata."""
    return with_data(located(argv, prog, own))


def located(
    argv: Sequence[str] | None = None,
    prog: str = "main.py",
    own: argparse.ArgumentParser | None = None,
    place: str | None = None,
) -> Configs:
    """The same before the metadata: what else is missing can be told first. `place` as in `parse`."""
    parsed = parse_given(build_parser(prog, own), argv)
    args = _settled(parsed)
    _refuse_idle(args, prog, place)
    location = find_data(args)
    if location.is_sample:
        args = _settled(parsed, flags.sample_defaults(args))
    return _placed(_checked(args, prog, place), location)


def with_data(args: Configs) -> Configs:
    """The same settings (of `get_configs` or `located`, perhaps) with the data set and its metadata found."""
    if not hasattr(args, "_data"):
        _placed(args, find_data(args))
    if not hasattr(args, "_metadata"):
        args._metadata = find_metadata(args)
        if args.dataset_name == "OpenImages" and "mask_root" not in args._given:
            args.mask_root = str(args.official_root)
    return args


def _placed(args: Configs, location: Location) -> Configs:
    args._data, args._is_sample = location.path, location.is_sample
    return args


def find_data(args: Configs) -> Location:
    """Where the data set is; UserError says where it was looked for."""
    holds = {
        "CUB": lambda path: (cub_root(path) / "images.txt").is_file(),
        "ILSVRC": lambda path: any((path / p / "val").is_dir() for p in ("", "ILSVRC")),
        "OpenImages": lambda path: any((path / p / "test").is_dir() for p in ("", "OpenImages")),
    }[args.dataset_name]
    return locate(
        args.dataset_name,
        given=args.data_root if "data_root" in args._given else None,
        default=flags.ROOT,
        holds=holds,
        how_to_get=f"{HOW_TO_GET[args.dataset_name]}; lists: prepare_metadata.py",
        sample="CUB" if args.dataset_name == "CUB" else None,
        want_sample=args.sample,
        flag="--data_root",
    )


def find_metadata(args: Configs) -> Path:
    """The metadata folder, built where it is missing or was built from other lists; of a sample, beside its files."""
    root = args.official_root
    folder = Path(args.metadata_root)
    if args._is_sample and "metadata_root" not in args._given:
        folder = args._data / "metadata" / args.dataset_name
    source = source_of(args.dataset_name, root)
    if _is_complete(folder) and not _is_of_others(folder, source):
        return folder
    for place in (folder, Path(args.save_root) / "metadata" / args.dataset_name):
        if _is_complete(place) and place != folder and not _is_of_others(place, source):
            return place
        try:
            place.mkdir(parents=True, exist_ok=True)
            counts = BUILDERS[args.dataset_name](root, place)
        except OSError:
            continue
        except UserError as error:
            if "cannot be written" not in str(error):
                raise
            continue
        told = ", ".join(f"{split} {count}" for split, count in counts.items())
        print(f"metadata built from {root} into {place}: {told}", file=sys.stderr, flush=True)
        return place
    raise UserError(
        f"metadata is missing in {folder} and cannot be built there; name another --metadata_root"
    )


def _is_complete(folder: Path) -> bool:
    return all(
        Path(configure_metadata(folder / split).image_ids).is_file() for split in ("train", "test")
    )


def _is_of_others(folder: Path, source: Mapping[str, str]) -> bool:
    """Whether we built this folder from other lists, or another val set (a folder of the user's never is)."""
    path = folder / "source.json"
    if not path.is_file():
        return False
    try:
        return read_json(path) != source
    except UserError:  # damaged: built anew
        return True
