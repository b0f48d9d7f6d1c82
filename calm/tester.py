"""What every evaluation starts with: data, the checkpoint's network, the score maps, the run directory."""

from collections.abc import Iterator, Sequence

import torch

from calm.config import Configs, located, with_data
from calm.data_loaders import ReadableBatches, get_data_loader
from calm.flags import BOXES, CUES, ERASING
from calm.score_map_method import GRADIENT_SETTINGS
from calm.score_mapper import ScoreMapper
from calm.training import (
    NUM_CLASSES,
    build_model,
    check_class_count,
    checkpoint_file,
    comparable,
    count_classes,
    listed_test_ids,
    read_superclass,
    start_evaluation,
    take_from_checkpoint,
    to_device,
    told_of_idle_flags,
)
from common.aliases import one_module
from common.rundir import make_accelerator, seed_everything

one_module(__name__, "calm.tester")

PLACES = {
    "eval_pixel_perturb": ERASING,
    "eval_remove_classify": ERASING,
    "eval_cue_location": CUES,
    "eval_wsol": BOXES,
}


class Tester:
    """An evaluation in the experiment's folder <script>_<process>_<method>/, with a lock of its own."""

    _NUM_CLASSES_MAPPING = NUM_CLASSES

    def __init__(self, args: Configs, script: str) -> None:
        file = checkpoint_file(args, fallback=args.experiment)
        take_from_checkpoint(args, file)
        self.args = args = with_data(args)
        check_class_count(args, file)
        self.accelerator = make_accelerator(args)
        self.device = self.accelerator.device
        seed_everything(args.seed)
        self.superclass = read_superclass(args)
        model = build_model(args, file).to(self.device, memory_format=torch.channels_last)
        self.model = model.eval().requires_grad_(False)
        self.loader = get_data_loader(
            args.data_paths, args._metadata, args.batch_size, args.workers, args.resize_size, args.crop_size,
            accelerator=self.accelerator, num_classes=count_classes(args), splits=("test",),
            test_ids=listed_test_ids(args), skip_corrupt=args.skip_corrupt,
        )["test"]  # fmt: skip
        self.eval_skipped = self.loader.dataset.dataset.unreadable
        self.run = start_evaluation(args, f"{script}_{self.name}", self.accelerator)
        self.run.print(
            f"{script}: {file}, {args.score_map_process}, {len(self.loader.dataset)} test images"
        )
        self.run.print(comparable(args))
        if args._idle:
            self.run.print(told_of_idle_flags(args))
        settings = {name: getattr(args, name) for name in GRADIENT_SETTINGS}
        self.mapper = ScoreMapper(
            self.model,
            args.score_map_process,
            args.score_map_method,
            self.superclass,
            args.smoothing_ksize,
            settings,
            autocast=self.accelerator.autocast,
        )

    @property
    def name(self) -> str:
        """<process>_<method>"""
        return f"{self.args.score_map_process}_{self.args.attribution_method}"

    @property
    def suffix(self) -> str:
        """_EM or _ML, so that the two never write the same file."""
        return (
            ""
            if self.args.attribution_method == "CAM"
            else self.args.attribution_method[4:].replace("-", "_")
        )

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, Sequence[str], torch.Tensor]]:
        """images (B,3,H,W) channels last, labels (B,), ids, index (B,) of this process's share; polls signals.

        Warns at the end of dead attention, as far as `mapper` saw the images; `eval_skipped` is then how many
        images could not be read.
        """
        self.mapper.dead.count = 0
        readable = ReadableBatches(self.loader)
        for batch in self.run.bar(readable, "test", len(self.loader)):
            images, labels, ids = batch.data
            yield *to_device(images, labels, self.device), ids, batch.index
            self.run.progress.images += len(images)
            if self.run.world == 1:
                self.run.poll()
        self.eval_skipped = readable.total(self.accelerator)
        count = torch.as_tensor(self.mapper.dead.count, device=self.device)
        count = int(self.accelerator.reduce(count, "sum") if self.run.world > 1 else count)
        if self.run.is_main:
            self.mapper.dead.warn(count, len(self.loader.dataset))

    def finish(self, **summary: object) -> None:
        """Say which images are missing in the numbers above, and write summary.json."""
        if self.eval_skipped:
            told = f"{self.eval_skipped} unreadable images are left out of these numbers"
            self.run.print(f"eval_skipped {self.eval_skipped}: {told}")
        if self.args.skip_corrupt:
            summary["eval_skipped"] = self.eval_skipped
        self.run.finish(**summary)


def start(argv: Sequence[str] | None, script: str) -> Tester:
    """Parse the command line of an evaluation script and set everything up."""
    return Tester(located(argv, prog=f"{script}.py", place=PLACES[script]), script)
