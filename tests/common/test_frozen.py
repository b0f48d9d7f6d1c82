"""Features computed once: equal to the network's, found again, and of nothing else."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.frozen import (
    View,
    computed,
    freeze,
    is_frozen,
    network_sha,
    sha_of_arrays,
    sha_of_files,
)


class Body(nn.Module):
    """Three layers with batch norm: (B,3,8,8) to (B,8,4,4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.norm(self.conv(images)).relu()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def body() -> Body:
    torch.manual_seed(0)
    return Body()


def view_of(body: nn.Module, images: torch.Tensor, **more: object) -> View:
    return View(network_sha(body), "8 px", sha_of_arrays(images.numpy()), **more)


def test_weights_and_statistics_stay_whatever_train_says(body):
    names = list(body.state_dict())
    freeze(body, 8)
    assert is_frozen(body)
    assert list(body.state_dict()) == names
    before = copy.deepcopy(body.state_dict())
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(128, 2)).train()
    assert not body.training
    loss = model(torch.randn(4, 3, 8, 8)).sum()
    loss.backward()
    assert all(parameter.grad is None for parameter in body.parameters())
    for name, value in body.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_map_passes_through(body):
    freeze(body, 8)
    images = torch.randn(4, 3, 8, 8)
    maps = body(images)
    assert body(maps) is maps
    again = copy.deepcopy(body)
    assert is_frozen(again)
    assert torch.equal(again(images), maps)


def test_freezing_twice_is_freezing_once(body):
    assert type(freeze(freeze(body, 8), 8)).__mro__.count(Body) == 1


def test_three_channels_cannot_be_told_from_a_picture(body):
    with pytest.raises(ValueError, match="channels 3"):
        freeze(body, 3)


def test_a_head_on_computed_features_trains_as_on_pictures(body, cache):
    images = torch.randn(40, 3, 8, 8)
    labels = torch.randint(0, 3, (40,))
    freeze(body, 8)
    maps = torch.from_numpy(np.array(computed(body, images, view_of(body, images), batch_size=7)))

    def trained(inputs: torch.Tensor) -> nn.Module:
        torch.manual_seed(1)
        model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).train()
        optimizer = torch.optim.SGD(model[3].parameters(), lr=0.5, momentum=0.9)
        for start in range(0, 40, 8):
            loss = nn.functional.cross_entropy(
                model(inputs[start : start + 8]), labels[start : start + 8]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model[3]

    of_pictures = trained(images)
    of_features = trained(maps)
    torch.testing.assert_close(of_features.weight, of_pictures.weight, rtol=1e-5, atol=1e-6)


def test_the_second_time_nothing_is_computed(body, cache):
    images = torch.randn(10, 3, 8, 8)
    freeze(body, 8)
    view = view_of(body, images)
    first = np.array(computed(body, images, view))
    calls = body.calls
    assert np.array_equal(computed(body, images, view), first)
    assert body.calls == calls
    assert [path.name for path in cache.glob("*.npy")] == [f"{view.key}.npy"]
    assert json.loads((cache / f"{view.key}.json").read_text())["rows"] == 10


def test_no_random_number_is_drawn(body, cache):
    images = torch.randn(10, 3, 8, 8)
    freeze(body, 8)
    before = torch.get_rng_state()
    computed(body, images, view_of(body, images))
    assert torch.equal(torch.get_rng_state(), before)


def test_averages_are_what_pooling_gives(body, cache):
    images = torch.randn(10, 3, 8, 8)
    freeze(body, 8)
    pooled = computed(body, images, view_of(body, images, pooled=True))
    assert pooled.shape == (10, 8, 1, 1)
    maps = body(images)
    np.testing.assert_allclose(pooled[:, :, 0, 0], maps.mean((2, 3)).numpy(), rtol=1e-5)


def test_every_part_of_a_view_counts(body):
    images = torch.randn(10, 3, 8, 8)
    view = view_of(body, images)
    other_images = images.clone()
    other_images[9, 2, 7, 7] += 1
    other_body = copy.deepcopy(body)
    with torch.no_grad():
        other_body.norm.running_mean[0] += 1
    keys = {
        view.key,
        view_of(body, images, pooled=True).key,
        view_of(body, other_images).key,
        view_of(other_body, images).key,
        View(view.network, "9 px", view.content).key,
    }
    assert len(keys) == 5
    freeze(body, 8)
    assert view_of(body, images).key == view.key


def test_files_count_by_content_and_order(tmp_path):
    one = tmp_path / "one.jpg"
    two = tmp_path / "two.jpg"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    sha = sha_of_files([one, two])
    assert sha != sha_of_files([two, one])
    moved = one.rename(tmp_path / "moved.jpg")
    assert sha == sha_of_files([moved, two])
    with pytest.raises(UserError, match=r"one\.jpg: cannot be read"):
        sha_of_files([one])


def test_a_trained_network_is_refused(body, cache):
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match="freeze it first"):
        computed(body, images, view_of(body, images))


def test_a_damaged_file_and_a_full_disk_end_in_one_line(body, cache, monkeypatch):
    images = torch.randn(2, 3, 8, 8)
    freeze(body, 8)
    view = view_of(body, images)
    computed(body, images, view)
    (cache / f"{view.key}.npy").write_bytes(b"half")
    with pytest.raises(UserError, match=r"delete it|cannot be kept"):
        computed(body, images, view)
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(cache / f"{view.key}.npy"))
    with pytest.raises(UserError, match="cannot be kept"):
        computed(body, images, view)


def test_a_computation_that_was_killed_starts_again(body, cache):
    images = torch.randn(10, 3, 8, 8)
    freeze(body, 8)
    view = view_of(body, images)
    cache.mkdir(parents=True)
    (cache / f".{view.key}.npy.part").write_bytes(b"half")
    assert computed(body, images, view).shape == (10, 8, 4, 4)
    assert not list(cache.glob(".*.part"))
