"""Weight files, and what an evaluation takes from them."""

import numpy as np
import pytest
import torch

from common.cli import UserError
from mile.build import describe_evaluation
from mile.config import config
from mile.models import build_model
from mile.options import parse
from mile.report_weights import ClassNames, read, require_same_classes, save_weights, writable
from mile.utils import save_model

MNIST = ["--dataset", "mnist"]


def weights_of(path, **settings):
    """A weight file of a run with these settings."""

    chosen = {"dataset": "mnist", "model": "small-10", "mnist_size": 28, **settings}
    conf = type("conf", (config,), {"checkpoint_path": str(path), **chosen})
    return save_model(build_model("small-10"), "MILe_0.pth", conf)


def evaluated(*flags):
    """What parsing makes of an evaluation."""
    return parse(["--eval_only", *flags], lambda line: None)


def test_an_evaluation_takes_settings_from_weights_and_flags_win(tmp_path):
    path = weights_of(
        tmp_path,
        schema="sigmoid",
        protocol="unofficial",
        eval_rho=0.4,
        rho=0.3,
        mnist_test_grids=50,
    )
    settings = evaluated("--pretrained", str(path), "--sample")
    conf = settings.args
    expected = {
        "dataset": "mnist",
        "model": "small-10",
        "schema": "sigmoid",
        "protocol": "unofficial",
        "mnist_size": 28,
    }
    expected |= {"rho": 0.3, "eval_rho": 0.4, "mnist_test_grids": 50, "threshold_on": "logit"}
    assert {name: getattr(conf, name) for name in expected} == expected
    told = describe_evaluation(settings, 10)
    assert told == (
        "evaluating small-10 on mnist, 10 classes, 28x28 px, ImageNet's mean and deviation; "
        "schema sigmoid, protocol unofficial, threshold 0.4 (as the weights say)"
    )

    settings = evaluated(
        "--pretrained", str(path), "--sample", "--mnist_size", "56", "--eval_rho", "0.1"
    )
    conf = settings.args
    assert (conf.mnist_size, conf.eval_rho, conf.schema) == (56, 0.1, "sigmoid")
    assert describe_evaluation(settings, 10).endswith(
        "(as the weights say, but mnist_size, eval_rho as given)"
    )


def test_bare_weights_are_evaluated_with_the_settings_at_hand(tmp_path):
    torch.save(dict(torch.load(weights_of(tmp_path), weights_only=True)), tmp_path / "bare.pth")
    settings = evaluated("--pretrained", str(tmp_path / "bare.pth"), "--sample", *MNIST)
    conf = settings.args
    assert (conf.schema, conf.mnist_size) == ("MILe", 30)
    assert describe_evaluation(settings, 10).endswith(
        "(not in the weights, so as set or by default)"
    )


def test_a_setting_in_the_weights_that_none_can_have_is_named(tmp_path):
    path = weights_of(tmp_path)
    state = torch.load(path, weights_only=True)
    state.settings["rho"] = 25
    torch.save(state, path)
    with pytest.raises(UserError, match="MILe_0.pth: says rho 25: between 0 and 1"):
        evaluated("--pretrained", str(path), "--sample")


def test_weights_of_other_classes_are_refused(tmp_path):
    says = {"dataset": "mnist", "model": "small-10", "classes": ["cat", "dog"]}
    path = save_weights(build_model("small-10"), "MILe_0.pth", folder=tmp_path, keep=1, says=says)
    classes = evaluated("--pretrained", str(path), "--sample").trained.classes
    require_same_classes(classes, ["cat", "dog"], "w.pth")
    require_same_classes(None, ["cat", "dog"], "w.pth")
    for names, message in (
        (["dog", "cat"], "class 0 is 'dog' here, 'cat' in the weights"),
        (["cat", "dog", "hen"], "3 classes here, 2 in the weights"),
    ):
        with pytest.raises(UserError, match=message):
            require_same_classes(classes, names, "w.pth")
        with pytest.raises(ValueError, match=message):
            ClassNames(names).load_state_dict({"names": ["cat", "dog"]})


def test_numpy_numbers_in_a_weight_file_are_numbers(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(
        {"settings": {"rho": np.float64(0.4), "image_size": np.int64(32)}, "state": {}}, path
    )
    settings = read(path).settings
    assert (
        settings["rho"] == 0.4
        and settings["image_size"] == 32
        and type(settings["image_size"]) is int
    )


@pytest.mark.parametrize("classes", ["cat", [1, 2], [["cat"]]])
def test_classes_in_a_weight_file_are_names(tmp_path, classes):
    path = tmp_path / "w.pth"
    torch.save({"settings": {"classes": classes}, "state": {}}, path)
    with pytest.raises(UserError, match="w.pth: says classes .*expected a list of names"):
        read(path)


def test_an_unwritable_checkpoint_path_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="checkpoint_path .*cannot be written"):
        writable(tmp_path / "file" / "below")
