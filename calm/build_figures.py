"""What explain.py and gallery.py draw from: the networks of checkpoints, and their maps."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from calm.build import (
    build_mapper,
    build_model,
    checkpoint_file,
    count_classes,
    gradient_settings,
    superclass_of,
    with_checkpoint,
    with_data,
    with_prior_activation,
)
from calm.build_checkpoint import find_checkpoint, settings_of_checkpoint
from calm.data import DataSet, configure_metadata, get_image_ids
from calm.data_folders import official_classes
from calm.evaluate_maps import ScoreMapper
from calm.network.any import input_of
from calm.options import Settings
from calm.options_data import OWN
from common.aliases import one_module
from common.cli import UserError
from common.pictures import readable_pictures
from common.rundir import make_accelerator, seed_everything

one_module(__name__, "calm.build_figures")

# What explain.py shows: the map, and how it comes to [0,1].
SHOWN_OF_CAM = {"score_map_process": "vanilla", "norm_type": "minmax"}
SHOWN_OF_CALM = {"score_map_process": "jointll", "norm_type": "max"}


@dataclass
class Explanation:
    """What explain.py needs: a network's maps, and the images.

    `trained` and `classes` are as in `Parts`.
    """

    settings: Settings
    accelerator: Accelerator
    mapper: ScoreMapper
    images: list[Path]
    told: list[str]
    classes: int
    trained: dict[str, Any]


def build_explanation(settings: Settings) -> Explanation:
    """The network of the checkpoint, and the pictures of --image or the first test image.

    Without their flags the map and its normalisation are those of the method: CAM's activation,
    CALM's joint.
    """
    own_picture = settings.args.image is not None
    file = checkpoint_file(settings, settings.experiment)
    settings, trained = with_checkpoint(settings, file, same_data=not own_picture)
    is_cam = settings.args.attribution_method == "CAM"
    settings = settings.with_unset(SHOWN_OF_CAM if is_cam else SHOWN_OF_CALM)
    settings = with_prior_activation(settings, file)
    accelerator = make_accelerator(settings.args)
    seed_everything(settings.args.seed)

    args = settings.args
    images: list[Path] = []
    told: list[str] = []
    if own_picture:
        images, told = readable_pictures(args.image, "--image", skip_corrupt=args.skip_corrupt)
    classes = args.num_classes
    if classes is None:
        if args.dataset_name == OWN:
            raise UserError(f"{file}: does not say how many classes it has; give --num_classes")
        classes = official_classes(args.dataset_name, args.data_root)
    model = build_model(settings, classes, file)
    model = model.to(accelerator.device).eval().requires_grad_(False)
    superclass = superclass_of(args, classes)
    mapper = build_mapper(args, model, accelerator, superclass)
    settings = settings.with_unset({"network_input": input_of(model)})
    if not own_picture:
        _, data = with_data(settings)
        if data.own is not None:
            images = [data.own.val.paths[0]]
        else:
            ids = get_image_ids(configure_metadata(data.metadata / "test"))
            images = [Path(data.paths["test"]) / ids[0]]
    return Explanation(settings, accelerator, mapper, images, told, classes, trained)


def build_gallery(
    settings: Settings, data: DataSet, accelerator: Accelerator, gradients: Iterable[str]
) -> tuple[Settings, dict[str, ScoreMapper]]:
    """Column title -> maps: the own map of each of --runs, then the `gradients` of the first.

    Each network is as its checkpoint says. The input's size, in the settings that come back, is
    theirs too, unless --crop_size is given; UserError where the runs do not agree on it, or have
    another number of classes.
    """
    runs = settings.args.runs
    files = []
    trained = []
    for folder in runs:
        files.append(find_checkpoint(folder, [Path(settings.args.save_root)]))
        trained.append(settings_of_checkpoint(files[-1]))
    settings = settings.with_unset(_size_of_runs(settings, runs, trained))
    wanted = count_classes(settings, data)

    columns: dict[str, ScoreMapper] = {}
    of_first: dict[str, ScoreMapper] = {}
    for folder, file, of_run in zip(runs, files, trained, strict=True):
        own = {k: v for k, v in of_run.items() if k not in ("crop_size", "dataset_name")}
        of_network = with_prior_activation(
            replace(settings, given=frozenset()).with_unset(own), file
        )
        found = of_network.args.num_classes
        if found is not None and found != wanted:
            remedy = "(--num_classes, --data_root)"
            raise UserError(f"{file}: has {found} classes, expected {wanted} {remedy}")

        model = build_model(of_network, wanted, file)
        model = model.to(accelerator.device).eval().requires_grad_(False)
        method = of_network.args.attribution_method
        process = "vanilla" if method == "CAM" else "jointll"
        title = f"{method} ({process})"
        if title in columns:
            title = f"{title}, {Path(folder).name}"
        if title in columns:
            raise UserError(f"--runs {folder} stands there twice")
        columns[title] = ScoreMapper(model, process, autocast=accelerator.autocast)
        if not of_first:
            numbers = gradient_settings(settings.args)
            for name in gradients:
                of_first[name] = ScoreMapper(
                    model, name, "backprop", settings=numbers, autocast=accelerator.autocast
                )
    return settings, {**columns, **of_first}


def _size_of_runs(
    settings: Settings, runs: Iterable[Path], trained: Iterable[dict[str, Any]]
) -> dict[str, int]:
    """Return {crop_size: that of the runs}, empty where none says it.

    UserError where they differ and none is given.
    """
    sizes = {}
    for run, own in zip(runs, trained, strict=True):
        if "crop_size" in own:
            sizes[str(run)] = own["crop_size"]
    if len(set(sizes.values())) > 1 and "crop_size" not in settings.given:
        told = ", ".join(f"{run} {size}" for run, size in sizes.items())
        problem = f"the runs were trained with inputs of different sizes ({told})"
        raise UserError(f"{problem}; choose one with --crop_size")
    if not sizes:
        return {}
    return {"crop_size": next(iter(sizes.values()))}
