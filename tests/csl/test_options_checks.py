"""Flags: given values win over samples and recipes, bounds, and what contradicts or has no
effect is refused."""

import argparse
import json
import shlex
import shutil

import pytest

from common.cli import UserError, run_main
from csl import infer, train, validate
from csl.compare import plan
from csl.options import parse
from csl.options_choices import RECIPES, SAMPLE_DEFAULTS
from csl.options_infer import SAMPLE_SETTINGS
from csl.src.models.utils import convert
from tests.csl.tiny import arguments, write_coco


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture(scope="module")
def sample(data, tmp_path_factory):
    """The same folder with the marker of an offline sample: its defaults apply."""
    folder = tmp_path_factory.mktemp("sample") / "data"
    shutil.copytree(data, folder)
    (folder / "SAMPLE.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def openimages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openimages")
    (folder / "data.csv").write_text("a.jpg,[x],[y],train\nb.jpg,[y],[x],val\n")
    return folder


@pytest.fixture(scope="module")
def weights(data, tmp_path_factory):
    """A network of one short epoch."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train.main(arguments(data, folder, "--epochs", "1"))
    return str(folder / "checkpoints" / "best_ema.pth")


def parsed(data, *flags):
    return parse(["--data", str(data), *flags]).args


# ---- what was given wins ------------------------------------------------------------------------

OTHER = {
    "model_name": "tresnet_m",
    "image_size": 48,
    "epochs": 3,
    "batch_size": 5,
    "lr": 1e-3,
    "workers": 1,
    "likelihood_topk": 2,
    "augment": "none",
    "model_path": "some.pth",
}


@pytest.mark.parametrize("name", SAMPLE_DEFAULTS)
def test_every_given_flag_wins_over_the_sample(name, sample):
    assert getattr(parsed(sample), name) == SAMPLE_DEFAULTS[name] != OTHER[name]
    flags = ["--data", str(sample), f"--{name}", str(OTHER[name])]
    settings = parse(flags)
    args = settings.args
    assert getattr(args, name) == OTHER[name] and settings.given == {"data", name}
    others = {other: getattr(args, other) for other in SAMPLE_DEFAULTS if other != name}
    assert others == {other: value for other, value in SAMPLE_DEFAULTS.items() if other != name}


@pytest.mark.parametrize(
    "name", ["model_name", "image_size", "epochs", "lr", "likelihood_topk", "augment"]
)
def test_a_given_flag_wins_where_it_equals_the_released_default(name, sample):
    released = train.parser.get_default(name)
    assert released != SAMPLE_DEFAULTS[name]
    assert getattr(parsed(sample, f"--{name}", str(released)), name) == released


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_given_flag_wins_over_the_recipe(recipe, data):
    assert {
        name: getattr(parsed(data, "--recipe", recipe), name) for name in RECIPES[recipe]
    } == RECIPES[recipe]
    for name, value in RECIPES[recipe].items():
        other = "negative" if name == "partial_loss_mode" and value != "negative" else "selective"
        if name != "partial_loss_mode":
            other = value / 2 + 0.25 if isinstance(value, float) else value + 1
        args = parsed(data, "--recipe", recipe, f"--{name}", str(other))
        kept = {key: getattr(args, key) for key in RECIPES[recipe] if key != name}
        assert getattr(args, name) == other
        assert kept == {key: wanted for key, wanted in RECIPES[recipe].items() if key != name}


def test_the_simulation_of_a_sample(sample):
    args = parsed(sample)
    assert (args.simulate_partial_type, args.simulate_partial_param) == ("fpc", 60)
    args = parsed(sample, "--simulate_partial_type", "rps")
    assert (args.simulate_partial_type, args.simulate_partial_param) == ("rps", 0.5)
    args = parsed(sample, "--simulate_partial_param", "7")
    assert (args.simulate_partial_type, args.simulate_partial_param) == ("fpc", 7)
    args = parsed(sample, "--partial_labels", "p.npz")
    assert args.simulate_partial_type is None


def test_given_flags_win_in_every_row_of_a_comparison(sample, tmp_path):
    flags = (
        "--compare",
        "all",
        "--schemes",
        "fpc,rps",
        "--likelihood_topk",
        "3",
        "--prior_threshold",
        "0.2",
    )

    def rows_of(*more):
        settings = parse(["--data", str(sample), *more])
        return [row.settings.args for row in plan(settings, tmp_path)]

    simulated = ("--simulate_partial_type", "fpc", "--simulate_partial_param", "9")
    rows = rows_of(*flags, *simulated)
    assert len(rows) == 8
    for row in rows:
        assert (row.likelihood_topk, row.prior_threshold, row.epochs) == (3, 0.2, 12)
        assert row.simulate_partial_param == (9 if row.simulate_partial_type == "fpc" else 0.5)
    for row in rows_of("--compare", "all", "--schemes", "fpc,rps"):
        assert row.simulate_partial_param == (60 if row.simulate_partial_type == "fpc" else 0.5)


def test_given_flags_win_in_validate_and_infer(sample):
    def of_validate(*flags):
        args = validate.parse(["--data", str(sample), *flags]).args
        return args.image_size, args.workers, args.model_name

    assert of_validate() == (64, 0, "tresnet_tiny")
    assert of_validate("--image_size", "448", "-j", "3", "--model_name", "tresnet_l") == (
        448,
        3,
        "tresnet_l",
    )

    def of_infer(*flags):
        args = infer.parse([*flags]).args
        return {name: getattr(args, name) for name in SAMPLE_SETTINGS}

    assert of_infer("--sample") == SAMPLE_SETTINGS
    given = {"model_name": "tresnet_m", "input_size": 96, "dataset_type": "OpenImages", "th": 0.97}
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    assert of_infer("--sample", *flags) == given
    released = {name: infer.parser.get_default(name) for name in SAMPLE_SETTINGS}
    assert of_infer() == released == of_infer("--sample", "--model_path", "w.pth")


def test_the_sample_of_infer_stands_in_for_what_was_not_given(data, weights, tmp_path, monkeypatch):
    """Pictures of the user's with the sample's network, and the sample's pictures with a network
    of the user's."""
    trained, pictures = [], [str(path) for path in sorted((data / "val2014").iterdir())[:2]]

    def train_sample_network(args, folder):
        trained.append((args.model_name, args.input_size))
        return weights

    monkeypatch.setattr(infer, "train_sample_network", train_sample_network)
    monkeypatch.setattr(infer, "sample_pictures", lambda: pictures[:1])
    flags = ["--sample", "--cpu", "--output_dir"]

    def names(*more):
        args = infer.parse([*flags, str(tmp_path / str(len(list(tmp_path.iterdir())))), *more])
        return [record["picture"] for record in infer.infer(args)]

    assert names() == pictures[:1] and trained == [("tresnet_tiny", 64)]
    assert names("--pic_path", *pictures) == pictures and len(trained) == 2
    assert names("--model_path", weights) == pictures[:1] and len(trained) == 2


# ---- bounds -------------------------------------------------------------------------------------

REAL = ("nan", "inf", "-inf", "1e999", "-1", "x", "")
COUNT = ("nan", "inf", "1.5", "-1", "x", "")
BOUNDS = {
    "lr": (*REAL, "0"),
    "weight_decay": REAL,
    "clip": (*REAL, "1"),
    "gamma_pos": REAL,
    "gamma_neg": REAL,
    "gamma_unann": REAL,
    "alpha_pos": REAL,
    "alpha_neg": REAL,
    "alpha_unann": REAL,
    "likelihood_topk": COUNT,
    "likelihood_share": (*REAL, "1.1"),
    "prior_threshold": (*REAL, "1.1"),
    "prior_quantile": (*REAL, "1.1"),
    "ema_decay": (*REAL, "1"),
    "image_size": (*COUNT, "0", "16385"),
    "epochs": (*COUNT, "0"),
    "stop_epoch": (*COUNT, "0"),
    "batch_size": (*COUNT, "0"),
    "workers": COUNT,
    "print_freq": (*COUNT, "0"),
    "num_classes": (*COUNT, "0"),
    "estimate_prior": (*COUNT, "0"),
    "seed": (*COUNT, str(2**63)),
    "max_steps": (*COUNT, "0"),
}
OF_VALIDATE = {
    "image_size": BOUNDS["image_size"],
    "thre": (*REAL, "1.1"),
    "batch_size": BOUNDS["batch_size"],
    "workers": COUNT,
    "num_classes": BOUNDS["num_classes"],
    "seed": BOUNDS["seed"],
}
OF_INFER = {
    "input_size": BOUNDS["image_size"],
    "th": (*REAL, "1.1", "none"),
    "top_k": (*COUNT, "0"),
    "batch_size": BOUNDS["batch_size"],
    "seed": BOUNDS["seed"],
}
PARSERS = {"train": (train.parser, BOUNDS), "validate": (validate.parser, OF_VALIDATE)}
PARSERS["infer"] = (infer.parser, OF_INFER)


@pytest.mark.parametrize(
    ("script", "flag"),
    [(script, flag) for script, (_, bounds) in PARSERS.items() for flag in bounds],
)
def test_values_outside_their_bounds(script, flag, capsys):
    parser, bounds = PARSERS[script]
    for value in bounds[flag]:
        with pytest.raises(SystemExit) as stopped:
            parser.parse_args([f"--{flag}={value}"])
        told = capsys.readouterr().err
        assert stopped.value.code == 2 and told.count("\n") == 1 and f"--{flag}" in told


def test_every_flag_that_takes_a_number_has_bounds():
    """A flag of a bare float would take NaN.

    --simulate_partial_param is checked with its scheme.
    """
    for script, (parser, bounds) in PARSERS.items():
        for action in parser._actions:
            assert action.type is not int, (script, action.dest)
            if action.type is float:
                assert action.dest == "simulate_partial_param"
            without_value = action.dest in ("help", argparse.SUPPRESS)  # --help, --version
            assert without_value or action.dest in parser.parse_args([])
        assert set(bounds) <= {action.dest for action in parser._actions}


# ---- contradictions -----------------------------------------------------------------------------

SELECTIVE = "--partial_loss_mode selective"
REFUSED = {
    "--metadata m --debug_mode on_farm": "--metadata: not with --debug_mode on_farm",
    "--metadata m --dataset openimages": "--metadata: not with --dataset openimages",
    "--metadata m --sample": "--metadata: not with --sample",
    "--metadata {data}": "train.json and val.json of COCO.s form not there",
    "--debug_mode on_farm --dataset lvis": "--debug_mode on_farm: not with --dataset lvis",
    "--debug_mode hyperml --dataset openimages": (
        "--debug_mode hyperml: not with --dataset openimages"
    ),
    "--class_list c.txt": "--class_list: only with Open Images",
    "--do_bottleneck_head --model_name timm/resnet18": (
        "--do_bottleneck_head: --model_name timm/resnet18 has no"
    ),
    "--path_dest x --output_dir y": "--path_dest: not together with --output_dir",
    "--stop_epoch 31": "--stop_epoch 31: beyond the 30 of --epochs",
    "--stable_loss --clip 0.1": "--stable_loss: not together with --clip",
    "--estimate_prior 2 --prior_path p.csv": "leave --prior_path out",
    "--prior_quantile 0.5": "of which prior",
    "--prior_quantile 0.5 --prior_path p.csv": "--prior_quantile: only the selective mode uses it",
    "--estimate_prior 2": (
        "--estimate_prior: only the selective mode uses it, this is --partial_loss_mode negative"
    ),
    "--recipe ignore_ce --estimate_prior 2": (
        "--estimate_prior: .* this is --partial_loss_mode ignore"
    ),
    "--likelihood_share 0.1": "--likelihood_share: only the selective mode uses it",
    "--likelihood_scope sample": "--likelihood_scope: only the selective mode uses it",
    "--simulate_partial_param 5": "--simulate_partial_param: of which simulation",
    "--simulate_partial_type single_positive --simulate_partial_param 5": (
        "single_positive has none"
    ),
    "--simulate_partial_type rps": "rps wants the share",
    "--partial_labels p.npz --simulate_partial_type fpc": (
        "--partial_labels replaces the simulation; .*partial_type"
    ),
    "--partial_labels p.npz --simulate_partial_param 5": "leave --simulate_partial_param out",
    "--partial_labels p.npz --compare all --schemes fpc": "leave --schemes out",
    "--schemes fpc": "--schemes: only with --compare",
    "--seeds 0,1": "--seeds: only with --compare",
    "--compare all --seed 1 --seeds 0,1": "--seed: not with --seeds",
    "--compare all --recipe csl_fpc": "--recipe: not with --compare",
    "--compare all --partial_loss_mode ignore": "--partial_loss_mode: not with --compare",
    "--compare all --gamma_neg 2": "--gamma_neg: not with --compare",
    "--compare all,best": "--compare best: choose from",
    "--compare all --schemes fpc --simulate_partial_type rps": (
        "--simulate_partial_type rps: not among --schemes fpc"
    ),
    "--compare all --schemes fpc,rps --simulate_partial_param 200": "rps wants the share",
    "--compare all --schemes fpc,rps --simulate_partial_param 0.5": "fpc wants the labels kept",
    "--compare all --simulate_partial_param 200": "--simulate_partial_param: of which simulation",
    "--compare negative_ce,ignore_ce --estimate_prior 2": "--estimate_prior: none of the rows",
    "--compare negative_asl --prior_path p.csv": "--prior_path: none of the rows",
    "--compare negative_asl --likelihood_share 0.1": "--likelihood_share: none of the rows",
    "--image_size 30": "--image_size 30: TResNet needs multiples of 4",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_contradictions_are_refused_before_anything_is_read(
    flags, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    given = flags.format(data=data).split()
    if "--sample" not in given and "--metadata" not in given[:1]:
        given += ["--data", str(data)]
    with pytest.raises(UserError, match=REFUSED[flags]):
        parse(given)
    with pytest.raises(SystemExit) as stopped:
        run_main(lambda: train.main(given))
    assert stopped.value.code == 2 and capsys.readouterr().err.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


ACCEPTED = (
    f"{SELECTIVE} --estimate_prior 2 --prior_quantile 0.9",
    f"{SELECTIVE} --likelihood_share 0.1 --likelihood_scope sample",
    "--recipe csl_rps --estimate_prior 2 --simulate_partial_type rps --simulate_partial_param 0.3",
    "--compare all --schemes fpc --simulate_partial_param 200 --seeds 0,1 --likelihood_topk 1",
    "--compare csl --simulate_partial_type rps --estimate_prior 2",
    "--compare all --schemes fpc,rps --simulate_partial_type rps --simulate_partial_param 0.4",
    "--partial_labels p.npz --compare all",
    "--stop_epoch 30",
    "--debug_mode on_farm --dataset coco",
    "--simulate_partial_type single_positive",
)


@pytest.mark.parametrize("flags", ACCEPTED)
def test_what_belongs_together_is_accepted(flags, data):
    parsed(data, *shlex.split(flags))


def test_flags_of_other_layouts(openimages):
    for flags in (
        "--simulate_partial_type fpc",
        "--compare csl --schemes fpc",
        "--partial_labels p.npz",
    ):
        with pytest.raises(ValueError, match="wants complete labels"):
            parsed(openimages, *flags.split())
    with pytest.raises(
        ValueError, match="--keep_empty: only of COCO's layout; .* every row of the csv is an image"
    ):
        parsed(openimages, "--keep_empty")
    with pytest.raises(ValueError, match="--keep_empty: only of COCO's layout"):
        validate.parse([str(openimages), "--leave_empty"])


def test_released_flags_without_effect_are_told(data, capsys):
    parsed(data, "--likelihood_topk", "3", "--prior_threshold", "0.5")
    told = capsys.readouterr().err
    assert "note: --likelihood_topk: no effect in --partial_loss_mode negative\n" in told
    assert "note: --prior_threshold: no effect" in told and told.count("\n") == 2
    parsed(data, "--partial_loss_mode", "ignore", "--gamma_unann", "3", "--gamma_neg", "2")
    assert (
        capsys.readouterr().err == "note: --gamma_unann: no effect in --partial_loss_mode ignore\n"
    )
    flags = "--likelihood_topk 2 --likelihood_share 0.1"
    flags += " --prior_path p --prior_quantile 0.5 --prior_threshold 0.1"
    parsed(data, *SELECTIVE.split(), *flags.split())
    told = capsys.readouterr().err
    assert "--likelihood_topk: --likelihood_share takes its place" in told
    assert "--prior_threshold: --prior_quantile takes its place" in told
    parsed(data, *SELECTIVE.split(), "--likelihood_topk", "2", "--prior_threshold", "0.5")
    assert capsys.readouterr().err == ""


def test_metadata_that_is_given_is_the_layout_that_is_read(data, tmp_path):
    """Beside the official COCO layout, which was taken before."""
    for split in ("train", "val"):
        shutil.copy(
            data / "annotations" / f"instances_{split}2014.json", tmp_path / f"{split}.json"
        )
    where = ["--data", str(data)]
    assert parse(where).found.layout == "coco"
    found = parse([*where, "--metadata", str(tmp_path)]).found
    assert found.layout == "hyperml" and found.files.val == tmp_path / "val.json"
    both = parse([*where, "--metadata", str(tmp_path), "--dataset", "coco"])
    assert both.found.layout == "hyperml"
    found = validate.parse([str(data), "--metadata", str(tmp_path)]).found
    assert found.files.val == tmp_path / "val.json"
    with pytest.raises(UserError, match="train.json and val.json of COCO.s form not there"):
        parsed(tmp_path, "--debug_mode", "hyperml", "--dataset", "coco", "--metadata", str(data))


IDLE = ("--resume", "--max_steps 1", "--checkpoint_every 1")


@pytest.mark.parametrize("flags", IDLE)
def test_flags_of_training_in_scripts_that_train_nothing(flags, data):
    match = f"{flags.split()[0]}: only of train.py"
    with pytest.raises(UserError, match=match):
        validate.parse(["--data", str(data), *flags.split()])
    with pytest.raises(UserError, match=match):
        infer.parse(flags.split())


def test_precision_of_scripts_that_score_in_float32(data):
    for script in (validate.parse, infer.parse):
        with pytest.raises(
            UserError, match="--mixed_precision bf16: scores are computed in float32"
        ):
            script(["--mixed_precision", "bf16"])
    infer.parse(["--mixed_precision", "no"])


def test_two_data_paths(data, tmp_path):
    with pytest.raises(UserError, match=r"DATA .*: not together with --data"):
        validate.parse([str(data), "--data", str(tmp_path)])
    assert validate.parse([str(data), "--data", str(data)]).args.data == str(data)


@pytest.mark.parametrize(
    "flag", ["--data", "--metadata", "--model_path", "--prior_path", "--partial_labels"]
)
def test_the_home_of_nobody(flag, data, tmp_path, capsys):
    flags = arguments(data, tmp_path / "run", f"{flag}=~nobody_of_this_name/x")
    if flag == "--partial_labels":
        at = flags.index("--simulate_partial_type")
        flags = [*flags[:at], *flags[at + 4 :]]
    with pytest.raises(SystemExit) as stopped:
        run_main(lambda: train.main(flags))
    told = capsys.readouterr().err.strip().split("\n")[-1]
    assert stopped.value.code == 2 and "~nobody_of_this_name/x" in told and "no " in told
    assert "error: " in told and flag in told


@pytest.mark.parametrize("script", ["validate", "infer"])
def test_the_home_of_nobody_elsewhere(script, data, capsys):
    nobody = "~nobody_of_this_name/x"
    flags = {
        "validate": (["--data", nobody], ["--data", str(data), "--model_path", nobody]),
        "infer": (
            ["--model_path", nobody],
            ["--pic_path", nobody, "--sample"],
            ["--class_description_path", nobody],
        ),
    }
    main = {"validate": validate.main, "infer": infer.main}[script]
    for given in flags[script]:
        with pytest.raises(SystemExit) as stopped:
            run_main(lambda given=given: main(given))
        told = capsys.readouterr().err
        assert stopped.value.code == 2 and nobody in told and "there is no home ~nobody" in told


def test_where_infer_writes_json(data, weights, tmp_path):
    (tmp_path / "file").write_text("")
    for path, match in (
        (tmp_path, "is a folder; name a file in it"),
        (tmp_path / "file" / "x", "cannot be written"),
    ):
        with pytest.raises(UserError, match=f"--json .*{match}"):
            infer.parse(["--json", str(path)])
    for path in (tmp_path / "new" / "deep" / "x.json", tmp_path / "file"):
        assert infer.parse(["--json", str(path)]).args.json == path
    picture = str(sorted((data / "val2014").iterdir())[0])
    table = tmp_path / "new" / "deep" / "x.json"
    flags = [
        "--model_path",
        weights,
        "--pic_path",
        picture,
        "--output_dir",
        str(tmp_path / "i"),
        "--cpu",
    ]
    infer.main([*flags, "--json", str(table)])
    assert [record["picture"] for record in json.loads(table.read_text())] == [picture]


def test_class_descriptions_that_were_given(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="--class_description_path .*none.csv: no such file"
    ):
        infer.parse(["--class_description_path", str(tmp_path / "none.csv")])


def test_pictures_in_a_folder_without_what_systems_leave(data, tmp_path):
    from common.pictures import find_pictures

    source = sorted((data / "val2014").iterdir())[0]
    for name in ("b.PNG", "a.jpg", "._a.jpg", ".hidden.png", "Thumbs.db", "note.txt"):
        shutil.copy(source, tmp_path / name)
    (tmp_path / "c.png").mkdir()
    for given in (tmp_path, tmp_path / "*.[jP]*"):
        found = find_pictures([given], "--pic_path")
        assert [path.name for path in found] == ["a.jpg", "b.PNG"]


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("w.pth o.onnx --to official", "--to official: o.onnx is ONNX"),
        ("w.pth o.pth --image_size 64", "--image_size 64: only of OUT.onnx"),
        ("w.pth . --to official", r"\.: is a folder"),
    ],
)
def test_flags_of_the_conversion(flags, match):
    with pytest.raises(UserError, match=match):
        convert.main(flags.split())
