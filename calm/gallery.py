"""The attribution gallery: one figure per class pair, comparing trained models and gradient baselines.

    python gallery.py --runs save/cub_CAM save/cub_CALM_EM --dataset=CUB [--max_pairs 1] [--experiment_name=gallery]

Rows are test images; columns: the image, |map(i) - map(j)| of every run (CAM: vanilla, min-max; CALM: joint,
divided by its maximum), of gradient baselines on the first run, and the true parts.
"""

import common.interrupt  # noqa: F401

import copy
from pathlib import Path

import numpy as np
import torch

from calm.config import Configs, configure, cub_root
from calm.cue_localiser import NUM_DIFF_LIST, CueLocaliser, class_number
from calm.cue_pictures import to_picture
from calm.data_loaders import ImageLabelDataset, make_transforms
from calm.eval_cue_location import make_trait
from calm.network.util import find_checkpoint
from calm.pixel_pr import UnfitDataset
from calm.score_map_method import GRADIENT_SETTINGS
from calm.score_mapper import ScoreMapper
from calm.training import build_model, settings_of_checkpoint, start_evaluation
from common.cam import normalize_maps, overlay, save_grid
from common.cli import OneLineParser, UserError, positive_int, run_main
from common.rundir import make_accelerator, seed_everything

GRADIENTS = ("input_grad", "integrated_grad", "smooth_grad", "var_grad")


def mappers(args: Configs, runs: list[Path], device: torch.device) -> dict[str, ScoreMapper]:
    """Column title -> maps: the own map of each run, then the gradient baselines of the first."""
    found, numbers = {}, {name: getattr(args, name) for name in GRADIENT_SETTINGS}
    for n, folder in enumerate(runs):
        file = find_checkpoint(folder, [Path(args.save_root)])
        own = copy.copy(args)
        for name, value in settings_of_checkpoint(file).items():
            setattr(own, name, value)
        model = build_model(own, file).to(device).eval().requires_grad_(False)
        process = "vanilla" if own.attribution_method == "CAM" else "jointll"
        found[f"{own.attribution_method} ({process})"] = ScoreMapper(model, process)
        if n == 0:
            gradients = {name: ScoreMapper(model, name, "backprop", settings=numbers) for name in GRADIENTS}
    return {**found, **gradients}


def draw(
    args: Configs, cues: CueLocaliser, columns: dict[str, ScoreMapper], number: int, path: Path, images: int
) -> None:
    """One class pair: the first `images` test images of each class with a visible differing part."""
    pair, rows, titles = cues.pairs[number], [], []
    transform = make_transforms(args.resize_size, args.crop_size)["test"]
    data = ImageLabelDataset(args.data_paths.test, args._metadata / "test", transform)
    for c in pair:
        mine = [i for i, name in enumerate(data.image_ids) if class_number(name, data.image_labels[name]) == c]
        masks = {i: cues.trait.get_pseudo_segment_mask(data.image_ids[i], pair, args.crop_size) for i in mine}
        for index in [i for i in mine if masks[i] is not None and masks[i].any()][:images]:
            device = next(next(iter(columns.values())).model.parameters()).device
            image = data[index][0].to(device)
            picture, row = to_picture(image), []
            for mapper in columns.values():
                a, b = mapper.of_classes(image[None], [0, 0], [cues.label_of[k] for k in pair]).double()
                kind = "minmax" if mapper.process == "vanilla" else "max"
                row.append(overlay(picture, normalize_maps((a - b).abs()[None], kind)[0].cpu().numpy()))
            rows.append([picture, *row, overlay(picture, masks[index].astype(np.float32))])
            titles.append([f"class {c}", *columns, "true parts"])
    if rows:
        save_grid(
            path, rows, titles, suptitle=f"classes {pair[0]} and {pair[1]}: {cues.parts_of[number]} differing part(s)"
        )


def main(argv: list[str] | None = None) -> None:
    """Load the runs, draw the pairs."""
    own = OneLineParser(description=__doc__.split("\n")[0], add_help=False)
    own.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of training runs")
    own.add_argument("--images", type=positive_int, default=2, help="rows for each class")
    args = configure(argv, "gallery.py", own)
    if args.dataset_name != "CUB":
        raise UnfitDataset(f"the gallery needs CUB's parts; {args.dataset_name} has none")
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    trait, foreground = make_trait(cub_root(args._data), args.foreground, args.attribute_rule)
    columns = mappers(args, args.runs, accelerator.device)
    data = ImageLabelDataset(args.data_paths.test, args._metadata / "test", None)
    label_of = {class_number(i, data.image_labels[i]): data.image_labels[i] for i in data.image_ids}
    first = next(iter(columns.values()))
    cues = CueLocaliser(trait, first, label_of, [0.0], "minmax", args.max_pairs or 1)
    if not cues.pairs:
        raise UserError(f"no pair of the {len(label_of)} test classes differs in {NUM_DIFF_LIST} parts")
    run = start_evaluation(args, "gallery", accelerator)
    for number, pair in enumerate(cues.pairs):
        path = run.figure(f"parts{cues.parts_of[number]}_{pair[0]:03d}_{pair[1]:03d}")
        draw(args, cues, columns, number, path, args.images)
        run.print(path)
    run.log("gallery", pairs=len(cues.pairs))
    run.finish(pairs=[list(p) for p in cues.pairs], foreground=foreground, columns=list(columns))


if __name__ == "__main__":
    run_main(main)
