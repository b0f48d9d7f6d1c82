"""What is measured: classification here, maps in the siblings evaluate_*.py."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from calm.data import ReadableBatches, data_of, normalizer
from calm.evaluate_boxes import BoxEvaluator, compute_bboxes_from_scoremaps  # noqa: F401
from calm.evaluate_cue import CueLocaliser, map_difference  # noqa: F401
from calm.evaluate_erasing import classify_erased, erase_and_classify  # noqa: F401
from calm.evaluate_maps import ScoreMapper
from calm.evaluate_masks import MaskEvaluator  # noqa: F401
from calm.evaluate_pixels import PixelPR, UnfitDataset  # noqa: F401
from calm.method import latent_prior
from calm.network.head import AttributionNet
from calm.network.universal import DeadAttention
from common.aliases import one_module
from common.loading import gather_in_order
from common.run import Run

one_module(__name__, "calm.evaluate")

Autocast = Callable[[], AbstractContextManager]


class Classified(NamedTuple):
    """A batch of B images: what `classification_scores` needs of each.

    place (B,) in the data set; log_p (B,) of the label; correct (B,), whether the label is the
    argmax of p(y|x); top (B,), the largest p(y|x); entropy (B,) of p(z|x) in nats; dead (B,),
    whether the attention is zero everywhere.
    """

    place: torch.Tensor
    log_p: torch.Tensor
    correct: torch.Tensor
    top: torch.Tensor
    entropy: torch.Tensor
    dead: torch.Tensor


def to_device(
    images: torch.Tensor, labels: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (B,3,H,W) and labels (B,) on the device.

    The images are channels last, which convolutions are faster on. Bytes are normalised there.
    """
    images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
    return normalizer(device)(images), labels.to(device, non_blocking=True)


@torch.no_grad()
def classify(
    model: AttributionNet, batches: Iterable, device: torch.device, autocast: Autocast
) -> Iterator[Classified]:
    """What a network says of each batch. log p comes from the logits: p itself underflows."""
    for batch in batches:
        images, labels, _ = batch.data
        images, labels = to_device(images, labels, device)
        with autocast():
            f, f_former, attention = model.encode(images)
        out = model.process.input_for_loss(f, f_former, attention)
        log_p = out["logits"].log_softmax(1).gather(1, labels[:, None])[:, 0]
        g = latent_prior(attention).flatten(1)
        yield Classified(
            batch.index,
            log_p,
            out["probs"].argmax(1) == labels,
            out["probs"].amax(1),
            -(g * (g + 1e-12).log()).sum(1),
            attention.amax((1, 2, 3)) <= 0,
        )


def classification_scores(
    parts: Sequence[Classified], accelerator: Accelerator
) -> tuple[dict[str, float], int, int]:
    """Return the measures of classification over the batches of all processes.

    They are accuracy, calibration_error, dead_share (percent), nll and prior_entropy. Also how many
    images have a dead attention, and how many there are.
    """
    whole = map(torch.cat, zip(*parts, strict=True))
    rows = Classified(*gather_in_order(*whole, accelerator=accelerator))
    scores = {
        "accuracy": 100 * rows.correct.double().mean().item(),
        "nll": -rows.log_p.double().mean().item(),
        "calibration_error": calibration_error(rows.top, rows.correct),
        "prior_entropy": rows.entropy.double().mean().item(),
        "dead_share": 100 * rows.dead.double().mean().item(),
    }
    return scores, int(rows.dead.sum()), len(rows.dead)


def calibration_error(confidence: torch.Tensor, correct: torch.Tensor, bins: int = 15) -> float:
    """Expected calibration error in percent over equal bins of the largest probability (n,)."""
    place = (confidence * bins).long().clamp(0, bins - 1)
    difference = confidence.double() - correct.double()
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, difference)
    return float(100 * gap.abs().sum() / max(1, len(confidence)))


@dataclass
class Tester:
    """An evaluation of one network on the test images, in a run directory of its own.

    eval_skipped: how many images could not be read, so far. mask_root: where OpenImages' masks lie.
    """

    run: Run
    accelerator: Accelerator
    model: AttributionNet
    mapper: ScoreMapper
    loader: DataLoader
    skip_corrupt: bool = False
    mask_root: str = ""

    def __post_init__(self) -> None:
        self.device = self.accelerator.device
        self.data = data_of(self.loader)
        self.eval_skipped = self.data.unreadable
        self.method = self.model.process.attribution_method
        self.process = self.mapper.process

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, Sequence[str], torch.Tensor]]:
        """Yield the batches of this process's share.

        A batch is images (B,3,H,W) channels last, labels (B,), ids and index (B,). Signals are
        polled. Warns at the end of dead attention, as far as `mapper` saw the images.
        """
        dead: DeadAttention = self.mapper.dead
        dead.count = 0
        readable = ReadableBatches(self.loader)
        for batch in self.run.bar(readable, "test", len(self.loader)):
            images, labels, ids = batch.data
            images, labels = to_device(images, labels, self.device)
            yield images, labels, ids, batch.index
            self.run.progress.images += len(images)
            if self.run.world == 1:
                self.run.poll()

        self.eval_skipped = readable.total(self.accelerator)
        count = torch.as_tensor(dead.count, device=self.device)
        if self.run.world > 1:
            count = self.accelerator.reduce(count, "sum")
        if self.run.is_main:
            dead.warn(int(count), len(self.data))

    def finish(self, **summary: Any) -> None:
        """Say which images are missing in the numbers above, and write summary.json."""
        if self.eval_skipped:
            told = f"{self.eval_skipped} unreadable images are left out of these numbers"
            self.run.print(f"eval_skipped {self.eval_skipped}: {told}")
        if self.skip_corrupt:
            summary["eval_skipped"] = self.eval_skipped
        self.run.finish(**summary)
