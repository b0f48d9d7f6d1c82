"""A run directory of train.py as a network for other programs, see `common.deployed`."""

from functools import partial
from pathlib import Path

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

    UserError where the run has not ended an epoch yet.
    """
    file = run / "checkpoints" / "best_ema.pth"
    if not file.is_file():
        raise UserError(f"{file}: no such file; the run has not ended an epoch yet")
    model, found = network_of(file, "tresnet_m", is_told=False)
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
