"""Reading tests/golden/calm, its hashed weights and images, its stand-in model."""

import json
import zlib
from math import prod, sqrt
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

GOLDEN = Path(__file__).parents[1] / "golden" / "calm"


def load(name: str, folder: str = "calm") -> dict[str, np.ndarray]:
    """All arrays of tests/golden/FOLDER/NAME.npz."""
    with np.load(GOLDEN.with_name(folder) / f"{name}.npz", allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def text(value: np.ndarray) -> str:
    """A 0-d string array's text."""
    return str(value)


def from_json(value: np.ndarray) -> object:
    """A 0-d string array's JSON."""
    return json.loads(str(value))


def close(ours: object, theirs: np.ndarray, rtol: float) -> None:
    """Assert equality up to `rtol` of the reference's largest magnitude."""
    ours = ours.detach().cpu().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    assert ours.shape == theirs.shape, f"{ours.shape} instead of {theirs.shape}"
    scale = max(float(np.abs(theirs).max()), 1e-30)
    assert float(np.abs(ours - theirs).max()) <= rtol * scale


def write_cub(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The CUB folder of cub_a.npz, written to `folder`, and the arrays of that file."""
    arrays = load("cub_a")
    for key in arrays:
        if key.startswith("file/"):
            (folder / key[5:]).parent.mkdir(parents=True, exist_ok=True)
            (folder / key[5:]).write_text(text(arrays[key]))

    for n, (file, size) in enumerate(
        zip(arrays["image_files"], arrays["image_sizes"], strict=True)
    ):
        image = folder / "images" / str(file)
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", tuple(size.tolist()), (90, 120, 40)).save(image)

        mask = (folder / "segmentations" / str(file)).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(arrays[f"seg/{n}"]).save(mask)
    return folder, arrays


def hashed(size: int, key: str) -> np.ndarray:
    """The README's h(n, key): (size,) float64 in [0, 1)."""
    mask = np.uint64(0xFFFFFFFF)
    x = (
        np.arange(1, size + 1, dtype=np.uint64) * np.uint64(2654435761)
        + np.uint64(zlib.crc32(key.encode()))
    ) & mask
    for shift, factor in ((16, 2246822519), (13, 3266489917)):
        x ^= x >> np.uint64(shift)
        x = (x * np.uint64(factor)) & mask
    x ^= x >> np.uint64(16)
    return x / 2.0**32


def fill(model: nn.Module, gain: float) -> None:
    """Fill a model with the README's deterministic weights."""
    state = {}
    for key, value in model.state_dict().items():
        u = hashed(value.numel(), key).reshape(value.shape)
        if key.endswith("num_batches_tracked"):
            entry = np.zeros(value.shape)
        elif key.endswith("running_var") or (value.ndim < 2 and key.endswith(".weight")):
            entry = 0.75 + 0.5 * u
        elif value.ndim >= 2:
            entry = 2 * (u - 0.5) * sqrt(3 / prod(value.shape[1:])) * gain
        else:
            entry = 0.2 * (u - 0.5)
        state[key] = torch.from_numpy(np.asarray(entry)).to(value.dtype)
    model.load_state_dict(state)


def image(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The README's image batch (B,3,H,W) float32."""
    _, _, height, width = shape
    i, j = np.arange(height)[:, None], np.arange(width)[None]
    wave = 1.5 * np.sin(6 * j / width + seed) * np.cos(5 * i / height - seed)
    return torch.from_numpy(wave + hashed(prod(shape), f"image{seed}").reshape(shape) - 0.5).float()


class StandIn(nn.Module):
    """conv3x3, tanh, conv1x1; logits are the spatial mean."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        for name in ("w1", "b1", "w2", "b2"):
            self.register_buffer(name, torch.from_numpy(arrays[name]))
        self.calls = 0

    def forward(
        self,
        x: torch.Tensor,
        labels: object = None,
        superclass: object = None,
        return_cam: object = False,
    ):
        self.calls += 1
        f = F.conv2d(torch.tanh(F.conv2d(x, self.w1, self.b1, padding=1)), self.w2, self.b2)
        if return_cam:
            return f[torch.arange(len(f)), labels]
        logits = f.mean((2, 3))
        return {"logits": logits, "probs": logits.softmax(1), "features": logits.log_softmax(1)}
