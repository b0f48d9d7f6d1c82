"""The offline sample's own pretraining, in place of ImageNet weights, which cannot be had offline.

From scratch small runs are a matter of luck: the same setting ends at 28 or at 84 mAP. So the
backbone first learns to name single glyphs of the training digits: seconds, once, kept beside the
sample.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from common.locks import locked
from common.samples import MARKER
from oass.core.networks import Classifier
from oass.data_transforms import Picture, normalise
from oass.tools.general.time_utils import Timer

one_module(__name__, "oass.build_pretrained")

VERSION = 2  # raised whenever the weights change: nobody keeps old ones
STEPS = 500
BATCH = 32
SIDE = 32
CLASSES = 20
# Fixed, and different from any run's seed, so that a run's new head is not correlated with these
# features.
SEED = 2205_07028


def pretrained_path(data_dir: Path, architecture: str) -> Path:
    """Where the weights lie: beside the sample's marker."""
    folder = next(p for p in (data_dir, *data_dir.parents) if (p / MARKER).is_file())
    return folder / f"pretrained-{architecture.replace(':', '_')}-v{VERSION}.pt"


def load_pretrained(
    model: Classifier, data_dir: Path, poll: Callable[[], None] = lambda: None
) -> None:
    """Put pretrained backbone weights into `model`; the first call, of any process, makes them.

    poll: called in every step, so that a signal (`Run.poll`) does not wait for the end.
    """
    path = pretrained_path(data_dir.resolve(), model.model_name)
    try:
        path.with_suffix(".lock").touch()
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot be written ({error.strerror}); --weights none, or copy it"
        ) from error
    with locked(path.with_suffix(".lock")):
        if not path.is_file():
            instead = "once, in place of ImageNet weights"
            print(f"pretraining {model.model_name} on single glyphs ({instead})", flush=True)
            timer = Timer()
            accuracy = pretrain(model.model_name, path, poll)
            print(
                f"pretrained in {timer.tok():.0f} s, training accuracy {accuracy:.2f}: {path}",
                flush=True,
            )
    checkpoint.load_into(model.model, checkpoint.load(path), path)


def pretrain(architecture: str, path: Path, poll: Callable[[], None] = lambda: None) -> float:
    """Train a GAP classifier on single glyphs, save its backbone; the last 100 steps' accuracy.

    The pictures and the start come from a fixed seed, whatever the run's; no global generator
    moves.
    """
    from common.samples.voc import glyph_picture  # with scikit-learn: a second and a half

    rng = np.random.default_rng(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = Classifier(architecture, CLASSES, pretrained=False)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, STEPS)
    hits = []
    for _ in range(STEPS):
        poll()
        labels = torch.from_numpy(rng.integers(0, CLASSES, BATCH))
        glyphs = np.stack([glyph_picture(label, rng, SIDE) for label in labels.tolist()])
        pictures = torch.from_numpy(glyphs).permute(0, 3, 1, 2)
        whole = torch.tensor([[0, 0, SIDE, SIDE]]).expand(BATCH, -1)
        logits = network(normalise(Picture(pictures, whole), torch.device("cpu")))
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        hits.append((logits.argmax(1) == labels).float().mean())
    checkpoint.save(path, network.model.state_dict())
    return float(torch.stack(hits[-100:]).mean())
