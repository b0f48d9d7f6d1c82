"""What the original exports and users import: where it has it, with its arguments."""

import argparse

import numpy as np
import pytest
import torch
from torch import nn

from oass.core.abc_modules import ABC_Model
from oass.data_voc import META
from oass.tools.ai.augment_utils import RandomCrop, Top_Left_Crop
from oass.tools.ai.demo_utils import decode_from_colormap, denormalize
from oass.tools.ai.log_utils import Average_Meter, log_print
from oass.tools.dataset.voc_utils import get_color_map_dic
from oass.tools.general.io_utils import str2bool
from oass.tools.general.time_utils import Timer, get_today
from oass.tools.general.txt_utils import add_txt, read_txt, write_txt


def test_abc_model_is_a_mix_in():
    class Net(nn.Module, ABC_Model):
        def __init__(self):
            super().__init__()
            self.model = nn.Conv2d(3, 4, 1)
            self.classifier = nn.Conv2d(4, 2, 1, bias=False)
            self.initialize([self.classifier])

    net = Net()
    assert list(map(len, net.get_parameter_groups(print_fn=None))) == [1, 1, 1, 0]
    maps = torch.randn(2, 4, 3, 3)
    assert torch.allclose(net.global_average_pooling_2d(maps), maps.mean((2, 3)))
    assert net.global_average_pooling_2d(maps, keepdims=True).shape == (2, 4, 1, 1)


def test_average_meter_of_keys():
    meter = Average_Meter(["loss", "class_loss"])
    meter.add({"loss": 1.0, "class_loss": 3})
    meter.add({"loss": 2.0, "class_loss": 5})
    assert meter.get() == [1.5, 4.0] and meter.get(["loss"]) == 1.5
    assert meter.get(clear=True) == [1.5, 4.0] and all(map(np.isnan, meter.get()))


def test_text_files_and_lines(tmp_path, capsys):
    path = tmp_path / "log.txt"
    write_txt(path, ["a", "b"])
    add_txt(path, "c")
    log_print("d", path)
    assert read_txt(path) == ["a", "b", "c", "d"] and capsys.readouterr().out == "d\n"


def test_timer_and_words():
    timer = Timer()
    assert 0 <= timer.tok() < 5 and isinstance(timer.tok(ms=True, clear=True), int)
    timer.tik()
    assert get_today().count("h") == 1
    assert str2bool("Yes") and not str2bool("f")
    with pytest.raises(argparse.ArgumentTypeError):
        str2bool("maybe")


def test_crops_of_other_channels():
    grey = np.ones((5, 7, 1), np.float32)
    assert RandomCrop(8, channels=1)(grey).shape == (8, 8, 1)
    found = Top_Left_Crop(6, channels=1)(grey)
    assert found.shape == (6, 6, 1) and found.sum() == 30 and found[:5, :6].all()
    with pytest.raises(ValueError, match="expected 3 channels"):
        RandomCrop(8)(grey)


def test_colours_and_pixels():
    colours, palette, names = get_color_map_dic()
    assert names[0] == "background" and len(names) == 21 and palette.shape == (256, 3)
    for name, colour in META["color_dict"].items():
        assert colours[name].tolist() == colour
    mask = np.array([[0, 15], [255, 1]])
    image = decode_from_colormap(mask, palette)
    assert image[0, 1].tolist() == colours["person"].tolist() and image[1, 0].tolist() == [255] * 3
    assert mask[1, 0] == 255

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = ((pixels / 255 - mean) / std).astype(np.float32)
    assert np.array_equal(denormalize(normalised.transpose(2, 0, 1), mean, std), pixels)
    floats = denormalize(normalised, mean, std, dtype=np.float32, tp=False)
    assert np.allclose(floats, pixels / 255, atol=1e-6)
