"""`--frozen_features`: the backbone is frozen, its features take the place of the pictures."""

from torch.utils.data import DataLoader

from common.aliases import one_module
from common.cli import UserError
from common.run import Run
from oass.core.networks import Classifier
from oass.data import VOC_Dataset_For_Classification
from oass.data_frozen import EvaluatedRows, TrainingRows, compute, rows_loader
from oass.options import Settings
from oass.options_flags import WITHOUT_TILES

one_module(__name__, "oass.build_frozen")


def build_frozen(
    settings: Settings,
    run: Run,
    student: Classifier,
    train_data: VOC_Dataset_For_Classification,
    val_data: VOC_Dataset_For_Classification,
) -> DataLoader:
    """Freeze the student's backbone, compute what it makes of both sets; the training loader.

    `val_data.computed` is what an evaluation walks from then on.
    """
    args = settings.args
    accelerator = run.accelerator
    world = accelerator.num_processes
    rows = args.batch_size * args.grad_accum
    if rows > len(train_data):
        n = len(train_data)
        raise UserError(f"--batch_size: {rows} a step, only {n} training images can be read")
    student.freeze_backbone()
    side = args.image_size
    how = {"device": accelerator.device, "workers": args.num_workers, "poll": run.poll}

    tiles = None
    maps = compute(student, train_data, side, **how)
    if args.strategy not in WITHOUT_TILES:
        tiles = compute(student, train_data, side, **how, as_tiles=True)
    shown = compute(student, val_data, side, **how)
    val_data.computed = EvaluatedRows(shown, val_data.split.labels, side)
    return rows_loader(
        TrainingRows(maps, tiles, train_data.split.labels),
        rows // world,
        seed=args.seed,
        rank=accelerator.process_index,
        world=world,
        parts=args.grad_accum,
    )
