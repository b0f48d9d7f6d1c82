"""The official layouts packed by common.shards: readers give what they give of files."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import Dataset

from calm.data_cub_trait import has_segmentations
from calm.data_metadata import build_cub_metadata
from common import samples
from common.images import read_image
from common.loading import train_loader
from common.shards_pack import pack
from csl.data import open_splits
from csl.data_locate import locate_data
from csl.data_pixels import Pixels
from mile.data_folders import (
    LabelledImages,
    class_folders,
    list_images,
    list_validation,
    numbered,
)
from oass.data import VOC_Dataset_For_Testing_CAM


def both(name: str, tmp_path: Path) -> tuple[Path, Path]:
    """A sample as files, and packed: no picture is a file there."""
    plain = samples.ensure(name)
    out = tmp_path / "packed"
    pack(plain, out, shard_bytes=200_000)
    found = {path.suffix for path in out.rglob("*")}
    assert not found & {".jpg", ".png", ".JPEG"}
    return plain, out


def equal(one: object, other: object) -> bool:
    """Whether two items hold the same numbers."""
    if isinstance(one, tuple):
        return all(map(equal, one, other))
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_oass(tmp_path):
    plain, packed = both("VOC2012", tmp_path)
    datasets = [VOC_Dataset_For_Testing_CAM(root, "val") for root in (plain, packed)]
    assert len(datasets[0]) == len(datasets[1]) > 0
    for index in range(0, len(datasets[0]), 5):
        assert equal(*(data[index] for data in datasets))
    for data in datasets:
        data.check_masks()
        assert data.has_mask(0)


@pytest.mark.parametrize("name", ["COCO_2014", "OpenImages"])
def test_csl(name, tmp_path):
    plain, packed = both(name, tmp_path)
    pixels = Pixels(64, "bilinear", None)
    parts = []
    for root in (plain, packed):
        found = locate_data(root, is_given=True)
        parts.append(open_splits(found, pixels, augment="none"))
    for one, other in zip(*parts, strict=True):
        assert len(one) == len(other) > 0
        assert getattr(other, "is_there", np.ones(1, bool)).all()
        for index in range(0, len(one), 20):
            assert equal(one[index], other[index])


def test_mile(tmp_path):
    plain, packed = both("ImageNet", tmp_path)
    found = []
    for root in (plain, packed):
        index = numbered(class_folders(root / "train", "train"))
        train = list_images(root / "train", index)
        val = list_validation(root / "val", index)
        names = [(os.path.relpath(path, root), label) for path, label in train + val]
        data = LabelledImages(train + val, np.asarray)
        found.append((names, [data[row][0] for row in range(0, len(data), 10)]))
    assert found[0][0] == found[1][0]
    assert all(map(equal, found[0][1], found[1][1]))


def test_calm(tmp_path):
    plain, packed = both("CUB", tmp_path)
    written = []
    for place, root in (("a", plain), ("b", packed)):
        cub = next(root.rglob("images.txt")).parent
        build_cub_metadata(cub, tmp_path / place)
        files = sorted((tmp_path / place).rglob("*.txt"))
        written.append({path.relative_to(tmp_path / place): path.read_text() for path in files})
    assert written[0] == written[1] and written[0]
    cubs = [next(root.rglob("images.txt")).parent for root in (plain, packed)]
    assert has_segmentations(cubs[0]) == has_segmentations(cubs[1])


# ---- many small pictures -------------------------------------------------------------------------

COUNT = 20_000


class Pictures(Dataset):
    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> torch.Tensor:
        value = torch.from_numpy(np.array(read_image(self.root / self.names[index])))
        return torch.cat([value.flatten()[:3].long(), torch.tensor([open_files()])])


def open_files() -> int:
    """How many files this process holds open; 0 where the system does not say."""
    opened = Path("/proc/self/fd")
    return len(list(opened.iterdir())) if opened.exists() else 0


@pytest.mark.slow
def test_twenty_thousand_pictures(tmp_path):
    names = [f"{k % 100:02d}/{k:05d}.png" for k in range(COUNT)]
    for k, name in enumerate(names):
        path = tmp_path / "plain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (k % 251, k % 241, k % 239)).save(path)
    packed = tmp_path / "packed"
    assert pack(tmp_path / "plain", packed, shard_bytes=2_000_000) == COUNT

    data = Pictures(packed, names)
    loader = train_loader(data, 100, seed=1, accelerator=Accelerator(cpu=True), workers=2)
    loader.batch_sampler.set_epoch(0)
    of_files = train_loader(
        Pictures(tmp_path / "plain", names), 100, seed=1, accelerator=Accelerator(cpu=True)
    )
    of_files.batch_sampler.set_epoch(0)
    inherited = open_files()  # a forked worker begins with those of this process
    seen = 0
    for number, (batch, keys) in enumerate(zip(loader, of_files.batch_sampler, strict=True)):
        index = batch.index
        assert index.tolist() == [row for _, row in keys]
        wanted = torch.stack([index % 251, index % 241, index % 239], 1)
        assert torch.equal(batch.data[:, :3], wanted), number
        assert batch.data[:, 3].max() < inherited + 100  # open files of a worker
        seen += len(index)
    assert seen == COUNT
    for k in random.Random(0).sample(range(COUNT), 50):
        found = read_image(packed / names[k]).tobytes()
        assert found == read_image(tmp_path / "plain" / names[k]).tobytes()
