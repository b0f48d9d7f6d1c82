"""A run directory of train.py as a network for other programs, see `common.deployed`."""

from functools import partial
from pathlib import Path

from common import checkpoint
from common.aliases import one_module
from common.deployed import Deployed, Preparation
from common.errors import UserError
from csl.src.models.tresnet.fold import fold
from csl.src.models.utils.checkpoint import names_of, network_of
from csl.src.models.utils.checkpoint_input import pixels_for
from csl.src.models.utils.factory import activation_maps

one_module(__name__, "csl.build_deployed")


def deployed(run: Path) -> Deployed:
    """The averaged model at its best epoch, with every norm of a TResNet folded in.

    That of the last epoch, where the run kept --only_last. UserError where the run has not ended
    an epoch yet.
    """
    model, found = network_of(_weights_of(run), "tresnet_m", is_told=False)
    pixels = pixels_for(
        found, size=448, interpolation="bilinear", is_size_given=False, is_interpolation_given=False
    )
    mean, std = pixels.statistics or ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    network = fold(model)
    return Deployed(
        paper="csl",
        architecture=str(found.architecture),
        network=network,
        classes=tuple(names_of(found)),
        preparation=Preparation(
            size=(pixels.size, pixels.size),
            mean=tuple(mean),
            std=tuple(std),
            interpolation=pixels.interpolation,
        ),
        answer="sigmoid",
        settings={"image_size": pixels.size},
        maps=partial(activation_maps, network),
    )


def _weights_of(run: Path) -> Path:
    """checkpoints/best_ema.pth, or last.pt of a run that keeps no other."""
    best = run / "checkpoints" / "best_ema.pth"
    if best.is_file():
        return best
    last = best.with_name("last.pt")
    if last.is_file():
        saved = checkpoint.load(last)
        if saved["settings"].get("only_last") and saved["progress"]["epoch"]:
            return last
    raise UserError(f"{best}: no such file; the run has not ended an epoch yet")
