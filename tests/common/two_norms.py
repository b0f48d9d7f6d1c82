"""What test_sync_bn.py starts twice: synchronised batch norms on this process's share of a batch.

python -m tests.common.two_norms RANK FOLDER
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed
from torch import nn

from common.sync_bn import synchronised

WORLD = 2


def make(case: str) -> nn.Module:
    """The norm, or small network, of a case, with other parameters and statistics than at first."""
    import timm
    from timm.layers import BatchNormAct2d

    torch.manual_seed(7)
    makers = {
        "plain": lambda: nn.BatchNorm2d(3),
        "far_from_zero": lambda: nn.BatchNorm2d(3),
        "double": lambda: nn.BatchNorm2d(3).double(),
        "cumulative": lambda: nn.BatchNorm2d(3, momentum=None),
        "no_statistics": lambda: nn.BatchNorm2d(3, track_running_stats=False),
        "not_affine": lambda: nn.BatchNorm2d(3, affine=False),
        "vectors": lambda: nn.BatchNorm1d(3),
        "sequences": lambda: nn.BatchNorm1d(3),
        "volumes": lambda: nn.BatchNorm3d(3),
        "with_activation": lambda: BatchNormAct2d(3, act_layer=nn.SiLU),
        "with_parameter": lambda: BatchNormAct2d(3, act_layer=nn.PReLU, inplace=False),
        "evaluation": lambda: nn.BatchNorm2d(3).eval(),
        "network": lambda: timm.create_model(
            "mobilenetv3_small_050", num_classes=4, drop_rate=0.0
        ).double(),
    }
    model = makers[case]()
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.dim() == 1):
            parameter.uniform_(0.5, 1.5)
    return model


CASES = (
    *(
        "plain",
        "far_from_zero",
        "double",
        "cumulative",
        "no_statistics",
        "not_affine",
        "vectors",
        "sequences",
    ),
    *("volumes", "with_activation", "with_parameter", "evaluation", "network"),
)
SHAPES = {"vectors": (3,), "sequences": (3, 5), "volumes": (3, 2, 3, 2), "network": (3, 32, 32)}
SHARES = {"even": (4, 4), "uneven": (6, 2), "empty": (8, 0)}


def batches(case: str) -> list[torch.Tensor]:
    """Two batches of eight, (8,C,...), of both processes together."""
    generator = torch.Generator().manual_seed(3)
    shape = (8, *SHAPES.get(case, (3, 4, 5)))
    found = [2 * torch.randn(shape, generator=generator) + 1 for _ in range(2)]
    if case == "far_from_zero":
        found = [x + 1000 for x in found]
    return [x.double() for x in found] if case in ("double", "network") else found


def walk(model: nn.Module, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Outputs and input gradients of two steps, the parameters' gradients, the buffers."""
    found = {}
    for number, x in enumerate(inputs):
        x = x.clone().requires_grad_()
        y = model(x)
        (y.sin() * y).sum().backward()
        found[f"output{number}"] = y.detach().clone()
        found[f"input_gradient{number}"] = x.grad
    found |= {f"gradient {name}": p.grad for name, p in model.named_parameters()}
    return {**found, **{f"buffer {name}": b.clone() for name, b in model.named_buffers()}}


def main(rank: int, folder: Path) -> None:
    """Every case and share on this process; what `walk` found goes to folder/RANK.pt."""
    torch.set_num_threads(1)
    store = (folder / "store").absolute().as_uri()
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    found = {}
    for case in CASES:
        for share, sizes in SHARES.items():
            if case == "network" and share == "empty":
                continue  # its convolutions need an image
            model = synchronised(make(case), SimpleNamespace(num_processes=WORLD))
            found[case, share] = walk(model, [x.split(sizes)[rank] for x in batches(case)])
    torch.save({"/".join(key): value for key, value in found.items()}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
