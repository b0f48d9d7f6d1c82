"""Training the last stages only: which parts these are, and that the others stay."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from common.errors import UserError
from common.stages import stages_of, train_last


def made(name: str) -> nn.Module:
    """A network, without values where that is possible."""
    if name.startswith("torchvision/"):
        return torchvision.models.get_model(name.removeprefix("torchvision/"))
    with torch.device("meta"):
        return timm.create_model(name)


STAGES = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "torchvision/resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "tf_efficientnet_lite0": [f"blocks.{k}" for k in range(7)],
    "convnext_atto": [f"stages.{k}" for k in range(4)],
    "vit_tiny_patch16_224": [f"blocks.{k}" for k in range(12)],
    "swin_tiny_patch4_window7_224": [f"layers.{k}" for k in range(4)],
    "densenet121": [f"features.denseblock{k}" for k in range(1, 5)],
    "torchvision/regnet_y_400mf": [f"trunk_output.block{k}" for k in range(1, 5)],
    "tresnet_m": ["body.layer1", "body.layer2", "body.layer3", "body.layer4"],
}


@pytest.mark.parametrize("name", STAGES)
def test_the_stages_of_a_network(name):
    assert stages_of(made(name)) == STAGES[name]


def trained(body: nn.Module) -> set[str]:
    return {name for name, parameter in body.named_parameters() if parameter.requires_grad}


def test_the_last_two_stages_and_what_follows():
    body = made("tf_efficientnet_lite0")
    train_last(body, 2)
    first = {name.split(".")[0] for name in trained(body)}
    assert first == {"blocks", "conv_head", "bn2", "classifier"}
    assert {name.split(".")[1] for name in trained(body) if "blocks" in name} == {"5", "6"}


def test_an_embedding_of_places_stays():
    body = made("vit_tiny_patch16_224")
    train_last(body, 12)
    assert not {"pos_embed", "cls_token"} & trained(body)
    assert "blocks.0.norm1.weight" in trained(body)


class Body(nn.Module):
    """Two stages behind a stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = self.stage(3)
        self.stage1 = self.stage(4)
        self.stage2 = self.stage(4)

    def stage(self, inputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.stage2(self.stage1(self.stem(images)))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_weights_and_statistics_before_them_stay(count):
    torch.manual_seed(0)
    body = Body()
    names = list(body.state_dict())
    train_last(body, count)
    copied = copy.deepcopy(body)
    assert list(body.state_dict()) == names
    for network in (body, copied):
        before = copy.deepcopy(network.state_dict())
        network.train()
        head = nn.Linear(4, 1)
        chosen = [*head.parameters(), *(p for p in network.parameters() if p.requires_grad)]
        optimizer = torch.optim.SGD(chosen, lr=0.1)
        head(network(torch.randn(4, 3, 12, 12)).mean((2, 3))).sum().backward()
        optimizer.step()
        moved = {
            name.split(".")[0]
            for name, value in network.state_dict().items()
            if not torch.equal(value, before[name])
        }
        assert moved == {"stage1", "stage2"} - {f"stage{k}" for k in range(1, 3 - count)}


def test_too_many_and_none_at_all_are_one_line():
    with pytest.raises(UserError, match=r"resnet: has 4 stages \(layer1 to layer4\), not 5"):
        train_last(made("resnet18"), 5, "resnet")
    plain = nn.Sequential()
    plain.add_module("only", nn.Linear(2, 2))
    with pytest.raises(UserError, match="no stages are known"):
        train_last(plain, 1)
