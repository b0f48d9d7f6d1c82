"""The attribution gallery: one figure per class pair, comparing trained models and gradient baselines.

    python gallery.py --runs save/cub_CAM save/cub_CALM_EM --dataset=CUB [--max_pairs 1] [--experiment_name=gallery]

Rows are test images; columns: the image, |map(i) - map(j)| of every run (CAM: vanilla, min-max; CALM: joint,
divided by its maximum), of gradient baselines on the first run, and the true parts.
"""

import common.interrupt  # noqa: F401

import copy
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from calm.config import Configs, cub_root, located, with_data
from calm.cue_localiser import NUM_DIFF_LIST, CueLocaliser, class_number, map_difference
from calm.cue_pictures import to_picture
from calm.data_loaders import ImageLabelDataset, make_transforms
from calm.eval_cue_location import make_trait
from calm.flags import GALLERY
from calm.network.util import find_checkpoint
from calm.pixel_pr import UnfitDataset
from calm.score_map_method import GRADIENT_SETTINGS
from calm.score_mapper import ScoreMapper
from calm.training import (
    build_model,
    count_classes,
    listed_test_ids,
    settings_of_checkpoint,
    start_evaluation,
    told_of_idle_flags,
)
from common.aliases import one_module
from common.cam import normalize_maps, overlay
from common.cli import OneLineParser, UserError, positive_int, run_main
from common.plots import save_grid
from common.rundir import make_accelerator, seed_everything

one_module(__name__, "calm.gallery")

GRADIENTS = ("input_grad", "integrated_grad", "smooth_grad", "var_grad")


def mappers(args: Configs, runs: list[Path], accelerator: Accelerator) -> dict[str, ScoreMapper]:
    """Column title -> maps: the own map of each run, then the gradient baselines of the first.

    Each network is as its checkpoint says. The input's size is theirs too, unless --crop_size is given; UserError
    where the runs do not agree on it, or have another number of classes than --num_classes.
    """
    files = [find_checkpoint(folder, [Path(args.save_root)]) for folder in runs]
    settings = [settings_of_checkpoint(file) for file in files]
    _agree_on_size(args, runs, settings)

    numbers = {name: getattr(args, name) for name in GRADIENT_SETTINGS}
    found, gradients = {}, {}
    for folder, file, trained in zip(runs, files, settings, strict=True):
        own = copy.copy(args)
        for name, value in trained.items():
            if name not in ("crop_size", "dataset_name"):
                setattr(own, name, value)
        wanted = args.num_classes or count_classes(args)
        if own.num_classes != wanted:
            raise UserError(
                f"{file}: has {own.num_classes} classes, expected {wanted} (--num_classes, --data_root)"
            )

        model = build_model(own, file).to(accelerator.device).eval().requires_grad_(False)
        process = "vanilla" if own.attribution_method == "CAM" else "jointll"
        title = f"{own.attribution_method} ({process})"
        if title in found:
            title = f"{title}, {Path(folder).name}"
        if title in found:
            raise UserError(f"--runs {folder} stands there twice")
        found[title] = ScoreMapper(model, process, autocast=accelerator.autocast)
        if not gradients:
            for name in GRADIENTS:
                gradients[name] = ScoreMapper(
                    model, name, "backprop", settings=numbers, autocast=accelerator.autocast
                )
    return {**found, **gradients}


def _agree_on_size(args: Configs, runs: list[Path], settings: list[dict[str, object]]) -> None:
    """Set crop_size as the runs have it, unless it was given."""
    if "crop_size" in args._given:
        return
    sizes = {
        str(run): own["crop_size"]
        for run, own in zip(runs, settings, strict=True)
        if "crop_size" in own
    }
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{run} {size}" for run, size in sizes.items())
        raise UserError(
            f"the runs were trained with inputs of different sizes ({told}); choose one with --crop_size"
        )
    if sizes:
        args.crop_size = next(iter(sizes.values()))


def test_images(args: Configs) -> ImageLabelDataset:
    """The test images, or those of --image_list, at the size of the input."""
    transform = make_transforms(args.resize_size, args.crop_size)["test"]
    data = ImageLabelDataset(
        args.data_paths.test, args._metadata / "test", transform, image_ids=listed_test_ids(args)
    )
    data.leave_out(data.check(args.skip_corrupt))
    return data


def draw(
    args: Configs,
    cues: CueLocaliser,
    columns: dict[str, ScoreMapper],
    number: int,
    path: Path,
    images: int,
) -> None:
    """One class pair: the first `images` test images of each class with a visible differing part."""
    pair, rows, titles = cues.pairs[number], [], []
    data = test_images(args)
    for c in pair:
        mine = [
            i
            for i, name in enumerate(data.image_ids)
            if class_number(name, data.image_labels[name]) == c
        ]
        masks = {
            i: cues.trait.get_pseudo_segment_mask(data.image_ids[i], pair, args.crop_size)
            for i in mine
        }
        for index in [i for i in mine if masks[i] is not None and masks[i].any()][:images]:
            device = next(next(iter(columns.values())).model.parameters()).device
            image = data[index][0].to(device)
            picture, row = to_picture(image), []
            for mapper in columns.values():
                maps = mapper.of_classes(
                    image[None], [0, 0], [cues.label_of[k] for k in pair]
                ).double()
                difference = map_difference(maps[:1], maps[1:], image.shape[-2:])
                kind = "minmax" if mapper.process == "vanilla" else "max"
                row.append(overlay(picture, normalize_maps(difference, kind)[0].cpu().numpy()))
            rows.append([picture, *row, overlay(picture, masks[index].astype(np.float32))])
            titles.append([f"class {c}", *columns, "true parts"])
    if rows:
        save_grid(
            path,
            rows,
            titles,
            suptitle=f"classes {pair[0]} and {pair[1]}: {cues.parts_of[number]} differing part(s)",
        )


def own_flags() -> OneLineParser:
    """The flags that only this script has."""
    own = OneLineParser(description=__doc__.split("\n")[0], add_help=False)
    own.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of training runs")
    own.add_argument("--images", type=positive_int, default=2, help="rows for each class")
    return own


def main(argv: list[str] | None = None) -> None:
    """Load the runs, draw the pairs."""
    args = with_data(located(argv, "gallery.py", own_flags(), GALLERY))
    if args.dataset_name != "CUB":
        raise UnfitDataset(f"the gallery needs CUB's parts; {args.dataset_name} has none")
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    trait, foreground = make_trait(cub_root(args._data), args.foreground, args.attribute_rule)
    columns = mappers(args, args.runs, accelerator)
    data = test_images(args)
    trait.check_segmentations(data.image_ids)
    label_of = {class_number(i, data.image_labels[i]): data.image_labels[i] for i in data.image_ids}
    first = next(iter(columns.values()))
    cues = CueLocaliser(trait, first, label_of, [0.0], "minmax", args.max_pairs or 1)
    if not cues.pairs:
        raise UserError(
            f"no pair of the {len(label_of)} test classes differs in {NUM_DIFF_LIST} parts"
        )
    run = start_evaluation(args, "gallery", accelerator)
    run.print(
        f"{args.crop_size} x {args.crop_size} pixels, bilinear, ImageNet's mean and deviation"
    )
    if args._idle:
        run.print(told_of_idle_flags(args))
    for number, pair in enumerate(cues.pairs):
        path = run.figure(f"parts{cues.parts_of[number]}_{pair[0]:03d}_{pair[1]:03d}")
        draw(args, cues, columns, number, path, args.images)
        run.print(path)
    run.log("gallery", pairs=len(cues.pairs))
    run.finish(pairs=[list(p) for p in cues.pairs], foreground=foreground, columns=list(columns))


if __name__ == "__main__":
    run_main(main)
