"""Flags: released names and defaults, sample defaults, bounds; networks, checkpoints and their
errors.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import checkpoint
from common.cli import UserError
from oass import build_pretrained, method
from oass import train_classification_with_puzzle_cMax_ema as cmax
from oass import train_classification_with_puzzle_cTopk_ema as ctopk
from oass import train_classification_with_puzzle_cTopk_w_ema as ctopk_w
from oass import train_classification_with_puzzle_max as puzzle_max
from oass.build import build_optimizer, build_student
from oass.core.networks import Classifier, load_classifier
from oass.core.options import build_parser
from oass.options import parse, sample_defaults
from oass.options_check import RELEASED as SWITCHES
from oass.options_check import differences, terms_of
from oass.options_flags import RE_LOSSES
from oass.tools.ai.optim_utils import update_ema_variables
from tests.heavy import HEAVY

ROOT = Path(__file__).parents[2]
RELEASED = {
    **{"seed": 0, "num_workers": 4, "data_dir": "../VOCtrainval_11-May-2012/"},
    **{"architecture": "resnet50", "batch_size": 32, "max_epoch": 15, "warmup_epoch": 0},
    **{"lr": 0.1, "wd": 1e-4, "nesterov": True, "image_size": 512},
    **{"min_image_size": 320, "max_image_size": 640, "print_ratio": 0.1, "tag": ""},
    **{"augment": "", "num_pieces": 4, "h_co": 250, "w_co": 250},
    **{"loss_option": "cl_pcl_re", "level": "feature", "re_loss": "L1_Loss"},
    **{"re_loss_option": "masking", "alpha_re": 1.0, "alpha_schedule_re": 0.5, "alpha_p": 1.0},
}


@pytest.mark.parametrize("strategy", ["max", "cMax", "cTopk", "cTopk-w"])
def test_released_flags_and_defaults(strategy):
    args = vars(build_parser(strategy).parse_args([]))
    for name, value in RELEASED.items():
        assert args[name] == value, name
    assert ("alpha_ema" in args) == (strategy != "max")
    assert (
        build_parser(strategy).parse_args(["--data_dir"]).data_dir == RELEASED["data_dir"]
    )  # an unset $your_dir


ANSWERED = [
    ("train_classification_with_puzzle_max", ["--help"], 0),
    ("train_classification_with_puzzle_cTopk_w_ema", ["--alpha_rr", "3"], 2),
    ("train_classification_with_puzzle_cMax_ema", ["--data_dir", "/no/such/folder"], 2),
    ("ablation", ["--strategies", "cmax"], 2),
    ("inference_classification", ["--checkpoint", "x", "--data_dir", "/no/such/folder"], 2),
    ("explain", ["--image", "my.jpg", "--checkpoint", "x", "--classes", "puppy"], 2),
    ("prepare_voc", ["--data_dir", "/no/such/folder"], 2),
]


@pytest.mark.parametrize(("script", "argv", "status"), ANSWERED)
def test_help_and_mistakes_are_answered_before_torch_is_imported(script, argv, status):
    code = f"""
import runpy, sys
sys.argv = ["{script}.py", *{argv!r}]
try:
    runpy.run_module("oass.{script}", run_name="__main__")
except SystemExit as stop:
    assert stop.code == {status}, stop.code
assert not [name for name in {HEAVY!r} if name in sys.modules]
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (done.stderr.count("\n") == 1) == (status == 2)


def test_the_choices_are_those_of_the_method():
    assert tuple(RE_LOSSES) == tuple(method.RE_LOSSES)


def test_scripts_differ_by_a_strategy_and_export_the_average():
    assert [s.STRATEGY for s in (puzzle_max, cmax, ctopk, ctopk_w)] == [
        "max",
        "cMax",
        "cTopk",
        "cTopk-w",
    ]
    assert all(s.update_ema_variables is update_ema_variables for s in (cmax, ctopk, ctopk_w))


BAD = [
    ("--image_size 100", "multiple of 32"),
    ("--image_size 32", "from 64 on"),
    ("--min_image_size 90 --max_image_size 80", "above --max_image_size"),
    ("--architecture tim/resnet50", "no source of networks is called 'tim'"),
    ("--architecture resnet18 --weights nowhere.pth", "no such file; imagenet, none"),
    ("--pretrained --weights none", "give one of them"),
    ("--num_pieces 9", "in 4"),
    ("--loss_option cl_foo", "none of cl, pcl, re, conf"),
    ("--re_loss L3", "choose from L1_Loss, L2_Loss"),
    ("--level pixel", "feature, cam"),
    ("--re_loss_option mask", "none, masking, selection"),
    ("--wd 0", "Nesterov needs momentum: --sgd_momentum 0.9"),
    ("--augment colorjitter_mixup", "'mixup'.*colorjitter, randaugment"),
    ("--loss_option pcl", "cMax.*gradient"),
    ("--loss_option pcl_conf", "cMax.*gradient"),
    ("--weights sample", "offline sample"),
    ("--wd 1.5", "--wd 1.5: is SGD's momentum too.*--sgd_momentum"),
    ("--tag ../other", "--tag: the name '../other' may lead out"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bounds(flags, message, devkit):
    with pytest.raises(UserError, match=message):
        parse("cMax", ["--data_dir", str(devkit), *flags.split()])


@pytest.mark.parametrize(
    ("strategy", "flags", "message"),
    [
        ("gap", "--p_loss full", "L_cl"),
        ("gap", "--p_loss student", "no tiles"),
        ("none", "--p_loss student", "no tiles"),
        ("none", "--loss_option re", "none.*gradient"),
        ("gap", "--loss_option pcl", "gap.*gradient"),
    ],
)
def test_losses_that_a_strategy_does_not_have_are_refused(strategy, flags, message, devkit):
    with pytest.raises(UserError, match=message):
        parse(strategy, ["--data_dir", str(devkit), *flags.split()])


# strategy, --p_loss, --loss_option: terms there are, those with a gradient, those over pairs
TERMS = [
    ("cMax", "teacher", "cl_pcl_re", "cl pcl re", "cl re", "pcl re conf"),
    ("cMax", "student", "pcl_conf", "pcl conf", "pcl conf", "pcl re conf"),
    ("cMax", "full", "cl_pcl_re_conf", "cl pcl re conf", "cl pcl re", "re conf"),
    ("cMax", "full", "cl_pcl", "cl pcl", "cl pcl", "re conf"),
    ("max", "teacher", "cl_pcl_re_conf", "cl pcl re conf", "cl pcl re conf", "pcl re conf"),
    ("uniform", "full", "cl_pcl_re", "cl pcl re", "cl pcl re", "re conf"),
    ("none", "teacher", "cl_pcl_re_conf", "cl", "cl", ""),
    ("none", "full", "cl_pcl_re_conf", "cl pcl", "cl pcl", ""),
    ("gap", "teacher", "cl_pcl_re_conf", "cl", "cl", ""),
]


@pytest.mark.parametrize(
    ("strategy", "p_loss", "option", "present", "trained", "over_pairs"), TERMS
)
def test_the_terms_of_a_loss(strategy, p_loss, option, present, trained, over_pairs):
    terms = terms_of(strategy, p_loss, option)
    assert terms == tuple(frozenset(names.split()) for names in (present, trained, over_pairs))
    assert terms.needs_tiles == (strategy not in ("gap", "none") and option != "cl_pcl")


@pytest.mark.parametrize(
    ("strategy", "flags", "message"),
    [
        ("max", "--alpha_ema 0.9", "no EMA teacher"),
        ("max", "--nesterov perhaps", "true or false"),
        ("cMax", "--num_workers -1", "negative"),
        ("cMax", "--teacher_bn train", "invalid choice"),
        ("cMax", "--no_such_flag", "unrecognized"),
        ("cMax", "--alpha_ema 1", "must be below 1, not 1.0"),
        ("cMax", "--clip_grad 0", "must be above 0, not 0.0"),
        ("cMax", "--clip_grad inf", "must be a finite number"),
        ("cMax", "--sgd_momentum 1", "must be below 1"),
        ("cMax", "--sgd_momentum nan", "must be a finite number"),
        ("cMax", "--lr 0", "must be above 0"),
        ("cMax", "--lr inf", "must be a finite number"),
        ("cMax", "--wd -1", "must not be negative"),
        ("cMax", "--wd nan", "must be a finite number"),
        ("cMax", "--print_ratio 0", "must be above 0"),
        ("cMax", "--print_ratio 1.5", "must be at most 1"),
        ("cMax", "--alpha_re -1", "must not be negative"),
        ("cMax", "--alpha_re inf", "must be a finite number"),
        ("cMax", "--alpha_schedule_re nan", "must be a finite number"),
        ("cMax", "--alpha_p nan", "must be a finite number"),
        ("cMax", "--warmup_epoch -1", "must not be negative"),
        ("cMax", "--pictures -1", "must not be negative"),
        ("cMax", "--min_image_size 0", "must be at least 1"),
        ("cMax", "--max_image_size 99999", "must be at most 16384"),
        ("cMax", "--image_size 1000000", "must be at most 16384"),
        ("cMax", "--topk 1000000", "must be at most 1000"),
        ("cMax", "--min_distance 1000000", "must be at most 16384"),
    ],
)
def test_argparse_errors_are_one_line(strategy, flags, message, devkit, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(strategy, ["--data_dir", str(devkit), *flags.split()])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


def test_real_runs_have_the_released_defaults_and_released_sets_all(devkit, capsys):
    args = parse("cMax", ["--data_dir", str(devkit), "--h_co", "3"]).args
    assert args.image_size == 512 and args.weights == "imagenet" and args.keypoint_rule == "paper"
    assert "unused" in capsys.readouterr().out
    args = parse("cMax", ["--data_dir", str(devkit), "--released"]).args
    assert {name: getattr(args, name) for name in SWITCHES} == SWITCHES
    assert differences(args) == []
    args = parse("cMax", ["--data_dir", str(devkit), "--released", "--p_loss", "full"]).args
    assert args.keypoint_rule == "released" and args.p_loss == "full"  # what was given wins
    assert differences(args) == ["--p_loss full"]


def test_sample_defaults_lose_against_flags(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "SAMPLE.json").write_text("{}")
    args = parse("max", ["--data_dir", str(tmp_path), "--alpha_re", "2"]).args
    assert (args.architecture, args.image_size, args.weights) == ("resnet_tiny", 64, "sample")
    assert (
        args.alpha_re == 2
        and args.alpha_schedule_re == sample_defaults("max", None)["alpha_schedule_re"]
    )
    strong = sample_defaults("cTopk-w", None)  # a steep ramp throws the network (README, results)
    assert (strong["alpha_re"], strong["alpha_schedule_re"], strong["alpha_p"]) == (1.0, 0.5, 0.5)
    args = parse("max", ["--data_dir", str(tmp_path), "--architecture", "resnet50"]).args
    assert (args.architecture, args.max_epoch, args.weights, args.train_domain) == (
        "resnet50",
        1,
        "none",
        "train",
    )


def test_optimizer_groups_and_momentum(devkit):
    settings = parse(
        "cMax", f"--data_dir {devkit} --architecture resnet_tiny --weights none --wd 1e-3".split()
    )
    model = build_student(settings)
    groups = build_optimizer(settings, model, 10).param_groups
    assert [g["lr"] for g in groups] == pytest.approx([0.1, 0.2, 1.0, 2.0])
    assert [g["weight_decay"] for g in groups] == [1e-3, 0, 1e-3, 0] and groups[0][
        "momentum"
    ] == 1e-3
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(
        p.numel() for p in model.parameters()
    )


@pytest.mark.parametrize("name", ["resnet18", "resnest50", "timm:resnet10t", "timm:convnext_atto"])
def test_further_backbones(name):
    model = Classifier(name, 7, pretrained=False).eval()
    with torch.no_grad():
        logits, features = model(torch.randn(1, 3, 64, 64), with_cam=True)
    assert logits.shape == (1, 7) and features.shape == (1, 7, 4, 4)


def test_unknown_backbones_and_weights_that_cannot_be_had(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no such network"):
        Classifier("timm:resnet10x", pretrained=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    told = r"resnet18-\w+.pth are not in .*checkpoints.*WSL_OFFLINE is set.*--weights none"
    with pytest.raises(UserError, match=told):
        Classifier("resnet18")


@pytest.mark.slow
def test_checkpoints_of_every_kind_load(tmp_path, capsys):
    source = Classifier("resnet18", 20, pretrained=False)
    whole = source.state_dict()
    plain = {k: v for k, v in whole.items() if k.startswith(("model.", "classifier."))}
    kinds = {
        "official": whole,
        "prefixed": {f"module.{k}": v for k, v in whole.items()},
        "no_aliases": {
            k: v for k, v in whole.items() if not k.startswith(("stage1.", "stage2.", "stage5."))
        },
        "puzzlecam": plain,
        "run": {"state": {"model": whole}},
    }
    for name, state in kinds.items():
        checkpoint.save(tmp_path / f"{name}.pth", state)
        model = Classifier("resnet18", 20, pretrained=tmp_path / f"{name}.pth")
        assert torch.equal(model.model.conv1.weight, source.model.conv1.weight), name
        assert torch.equal(model.stage5[0][1].conv2.weight, source.model.layer4[1].conv2.weight), (
            name
        )
        assert torch.equal(model.BN[3].running_mean, source.BN[3].running_mean)
    assert "no instance head" in capsys.readouterr().out
    with pytest.raises(
        UserError,
        match=r"of another shape|missing.*looks like --architecture resnet18 with 20 classes",
    ):
        load_classifier(Classifier("resnet34", 20, pretrained=False), tmp_path / "official.pth")
    with pytest.raises(
        UserError, match=r"looks like --architecture resnet18 with 20 classes, this is resnet18, 3"
    ):
        load_classifier(Classifier("resnet18", 3, pretrained=False), tmp_path / "official.pth")
    checkpoint.save(tmp_path / "other.pth", {"step": 3})
    with pytest.raises(UserError, match="no classifier's state dict"):
        load_classifier(source, tmp_path / "other.pth")


def test_a_backbone_alone_loads_from_imagenet_files_and_from_runs(devkit, tmp_path, capsys):
    source = Classifier("resnet18", 20, pretrained=False)
    own = {
        k: v for k, v in source.model.state_dict().items() if not k.endswith("num_batches_tracked")
    }
    checkpoint.save(
        tmp_path / "imagenet.pth",
        {**own, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)},
    )
    checkpoint.save(tmp_path / "run.pt", {"state": {"model": source.state_dict()}})
    for weights in (
        f"{tmp_path}/imagenet.pth",
        f"backbone:{tmp_path}/imagenet.pth",
        f"backbone:{tmp_path}/run.pt",
    ):
        settings = parse(
            "cMax", f"--data_dir {devkit} --architecture resnet18 --weights {weights}".split()
        )
        model = build_student(settings)
        assert torch.equal(model.model.layer4[1].conv2.weight, source.model.layer4[1].conv2.weight)
        assert not torch.equal(model.classifier.weight, source.classifier.weight)
    assert capsys.readouterr().out.count("stays as initialised") == 1
    settings.args.weights = f"backbone:{tmp_path}/none.pt"
    with pytest.raises(UserError, match="none.pt"):
        build_student(settings)


def test_the_samples_pretraining_is_cached_and_moves_no_generator(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build_pretrained, "STEPS", 3)
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "SAMPLE.json").write_text("{}")
    before = torch.get_rng_state()
    models = [Classifier("resnet_tiny", pretrained=False) for _ in range(2)]
    torch.set_rng_state(before)
    for model in models:
        build_pretrained.load_pretrained(model, tmp_path / "VOCdevkit")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(models[0].model.conv1.weight, models[1].model.conv1.weight)
    assert capsys.readouterr().out.count("pretrained in") == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_runs_fresh_head_is_not_the_one_of_the_pretraining(seed, tmp_path, monkeypatch):
    """Else the maps of that seed point at the objects before the first step."""
    heads = []
    monkeypatch.setattr(build_pretrained, "STEPS", 0)
    monkeypatch.setattr(
        build_pretrained,
        "Classifier",
        lambda *a, **k: heads.append(Classifier(*a, **k)) or heads[-1],
    )
    monkeypatch.setattr(build_pretrained.torch.optim.lr_scheduler, "OneCycleLR", lambda *a: None)
    monkeypatch.setattr(build_pretrained.torch, "stack", lambda _: torch.zeros(1))
    build_pretrained.pretrain("resnet_tiny", tmp_path / "w.pt")
    torch.manual_seed(seed)
    assert not torch.equal(
        heads[0].classifier.weight, Classifier("resnet_tiny", pretrained=False).classifier.weight
    )
