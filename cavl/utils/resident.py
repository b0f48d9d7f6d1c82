"""Images that stay on the device, the batches of an epoch, and evaluation over whole sets (spec h)."""

from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from cavl.utils.utils_algo import evaluating
from common.aliases import one_module
from common.loading import epoch_order, seed_of
from common.rundir import share_buffers

one_module(__name__, "cavl.utils.resident")

EVAL_BATCH = 4096


class Images:
    """All images (n,...) of a set on the device; `images[index]` are network inputs (B,...) float32.

    uint8 pixels become [0,1]; with mean and std they are normalised per channel. Sets above `limit_gb` stay on
    the host and only the batch travels. Augmentation (flip, 4-pixel crop) is drawn from (seed, epoch, sample).
    """

    def __init__(
        self,
        pixels: torch.Tensor,
        device: torch.device,
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        limit_gb: float = 8.0,
    ) -> None:
        self.device = device
        self.scale = None
        if mean is not None:
            self.scale = tuple(torch.tensor(v, device=device).view(-1, 1, 1) for v in (mean, std))
        as_float = pixels.numel() * 4 <= limit_gb * 1e9
        fits = pixels.numel() * pixels.element_size() <= limit_gb * 1e9
        pixels = pixels.to(device) if fits or device.type == "cpu" else pixels.pin_memory()
        self.pixels = self._to_float(pixels) if as_float else pixels
        self._draws: tuple[torch.Tensor, torch.Tensor] | None = None

    def _to_float(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.dtype == torch.uint8:
            pixels = pixels.float() / 255
        return (pixels - self.scale[0]) / self.scale[1] if self.scale else pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        rows = self.pixels[index.to(self.pixels.device)]
        if rows.dtype != torch.uint8:
            return rows
        return self._to_float(rows.to(self.device, non_blocking=True))

    def draw_augmentation(self, seed: int, epoch: int) -> None:
        """Draw this epoch's flips and shifts, one for every sample."""
        generator = torch.Generator().manual_seed(seed_of(seed, epoch, 1))
        flips = torch.rand(len(self), generator=generator) < 0.5
        shifts = torch.randint(0, 9, (len(self), 2), generator=generator)
        self._draws = flips.to(self.device), shifts.to(self.device)

    def augmented(self, index: torch.Tensor) -> torch.Tensor:
        """The images of `index` flipped and cropped (zero padding of 4, before normalisation black is not 0)."""
        x, (flips, shifts) = self[index], self._draws
        x = torch.where(flips[index].view(-1, 1, 1, 1), x.flip(-1), x)
        (b, _, h, w), padded = x.shape, F.pad(x, (4, 4, 4, 4))
        rows = shifts[index, 0].view(-1, 1) + torch.arange(h, device=x.device)
        columns = shifts[index, 1].view(-1, 1) + torch.arange(w, device=x.device)
        batch = torch.arange(b, device=x.device).view(-1, 1, 1)
        return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(
            0, 3, 1, 2
        )


def epoch_batches(
    n: int, batch_size: int, *, seed: int, epoch: int, start: int, accelerator: Accelerator
) -> Iterator[tuple[torch.Tensor, float, int]]:
    """This process's rows of each global batch: (index (b,), weight, rows of the global batch).

    The weight b * world / rows makes the mean over processes the mean over the global batch, also where the
    last batch is short. A process without a row takes the batch's first with weight 0.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    order = epoch_order(n, seed, epoch).to(accelerator.device)
    for rows in order.split(batch_size * world)[start:]:
        index = rows.tensor_split(world)[rank]
        if len(index) == 0:
            yield rows[:1], 0.0, len(rows)
        else:
            yield index, len(index) * world / len(rows), len(rows)


@torch.inference_mode()
def predict(model: nn.Module, images: Images) -> torch.Tensor:
    """Logits (n,K) float32 of all images, in eval mode; the former mode is restored."""
    with evaluating(model):
        index = torch.arange(len(images), device=images.device)
        return torch.cat([model(images[part]).float() for part in index.split(EVAL_BATCH)])


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: Images,
    statistics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    accelerator: Accelerator,
    after_batch: Callable[[], None] = lambda: None,
) -> list[float]:
    """Means over all images of `statistics(outputs (B,K), index (B,)) -> (B,S)`, each image counted once.

    Runs in eval mode, batches of thousands, shared among the processes; the former mode is restored.
    `after_batch()` is called behind each batch, and may leave by an exception.
    """
    mine = torch.arange(
        accelerator.process_index, len(images), accelerator.num_processes, device=accelerator.device
    )
    total = 0
    share_buffers(accelerator, model)
    with evaluating(model):
        for index in mine.split(EVAL_BATCH):
            with accelerator.autocast():
                outputs = model(images[index])
            total = total + statistics(outputs.float(), index).double().sum(0)
            after_batch()
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total, "sum")
    return (total / len(images)).tolist()
