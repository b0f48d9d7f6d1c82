"""Pictures as bytes become the numbers that torchvision's transforms make, to the last bit."""

import pytest
import torch
from torchvision.transforms import v2

from common.normalize import Normalize

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 3, 9, 7), generator=generator, dtype=torch.uint8)


@pytest.fixture
def by_torchvision(pictures):
    look = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    return torch.stack([look(picture) for picture in pictures])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_numbers_are_those_of_torchvision(pictures, by_torchvision, memory_format):
    given = pictures.contiguous(memory_format=memory_format)
    numbers = Normalize(MEAN, STD)(given)
    assert torch.equal(numbers, by_torchvision)
    assert numbers.is_contiguous(memory_format=memory_format)


def test_the_pictures_stay_as_they_were(pictures):
    before = pictures.clone()
    Normalize(MEAN, STD)(pictures)
    assert torch.equal(pictures, before)


def test_numbers_pass_through(by_torchvision):
    assert Normalize(MEAN, STD)(by_torchvision) is by_torchvision


def test_no_checkpoint_holds_the_constants():
    assert Normalize(MEAN, STD).state_dict() == {}
