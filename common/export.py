"""A trained network for others: `python -m common.export RUN --to FORMAT`.

RUN is a run directory of any of the five training scripts. What is written lies in RUN/export, or
where --out says: the network, and beside it a json file that says what it wants and answers (size
and normalisation of its input, class names). The written file is read back, run, and compared.
"""

import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

import argparse
import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli import OneLineParser, UserError, run_main
from common.files import atomic_save, atomic_write

AGREEMENT = 1e-4  # largest difference of probabilities between the network and what was written
NAMES = {
    "onnx": "model.onnx",
    "safetensors": "model.safetensors",
    "torch_export": "model.pt2",
    "hub": "hub",
}


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = OneLineParser(
        prog="python -m common.export", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--to", choices=tuple(NAMES), required=True, help="what is written")
    parser.add_argument(
        "--out", type=Path, default=None, metavar="DIR", help="the folder (default: RUN/export)"
    )
    return parser


def write_onnx(found: Any, path: Path) -> None:
    """An ONNX model with a free batch size: input `pictures`, output `answer`."""
    import torch

    _require("onnx", "onnxscript")
    batch = torch.export.Dim("batch", min=1)
    with _quietly():
        program = torch.onnx.export(
            found.network,
            (found.example(2),),
            dynamo=True,
            input_names=["pictures"],
            output_names=["answer"],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    assert program is not None
    atomic_save(path, lambda temporary: program.save(str(temporary), external_data=False))


def run_onnx(path: Path, inputs: Any) -> Any:
    """The answer of an ONNX model, or None where onnxruntime is not installed."""
    import torch

    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"pictures": inputs.numpy()})
    return torch.from_numpy(answer)


def write_torch_export(found: Any, path: Path) -> None:
    """A program of torch.export with a free batch size."""
    import torch

    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        found.network, (found.example(2),), dynamic_shapes=({0: batch},), strict=False
    )
    # torch.export.save looks at the suffix
    atomic_save(path, lambda temporary: _save_program(program, temporary))


def _save_program(program: Any, path: Path) -> None:
    import torch

    with path.open("wb") as file:
        torch.export.save(program, file)


def run_torch_export(path: Path, inputs: Any) -> Any:
    """The answer of an exported program."""
    import torch

    with path.open("rb") as file:
        program = torch.export.load(file)
    return program.module()(inputs)


def write_safetensors(found: Any, path: Path) -> None:
    """The weights by name, without code."""
    _save_weights(found.network.state_dict(), path)


def _save_weights(state: Mapping[str, Any], path: Path) -> None:
    from safetensors.torch import save

    # Weights that are shared stand once for each of their names.
    data = save({name: value.detach().clone().contiguous() for name, value in state.items()})
    atomic_write(path, data)


def run_safetensors(path: Path, inputs: Any, found: Any) -> Any:
    """The answer of a copy of the network with the weights of the file."""
    import copy

    from safetensors.torch import load_file

    network = copy.deepcopy(found.network)
    for tensor in network.state_dict().values():
        tensor.zero_()
    network.load_state_dict(load_file(str(path)))
    return network(inputs)


def write_hub(found: Any, folder: Path, run: Path) -> None:
    """A folder as model hubs have them: weights, config.json, labels.txt, a model card.

    Where timm builds the same network, `timm.create_model("local-dir:FOLDER")` opens it. Weights of
    every other network go back into `deployed(RUN).network`.
    """
    from common.deployed import as_json

    folder.mkdir(parents=True, exist_ok=True)
    state = found.network.state_dict() if found.timm_state is None else found.timm_state
    _save_weights(state, folder / "model.safetensors")
    atomic_write(folder / "config.json", as_json(hub_config(found)))
    labels = "".join(f"{name}\n" for name in found.classes)
    atomic_write(folder / "labels.txt", labels.encode())
    atomic_write(folder / "README.md", model_card(found, run).encode())


def hub_config(found: Any) -> dict[str, Any]:
    """config.json: timm's fields where timm builds the network, and our description beside them."""
    config = found.description()
    if found.timm_name is None:
        return config
    given = found.preparation
    return {
        "architecture": found.timm_name,
        "num_classes": len(found.classes),
        "pretrained_cfg": {
            "input_size": [given.channels, *given.size],
            "mean": list(given.mean),
            "std": list(given.std),
            "interpolation": given.interpolation,
            "crop_pct": given.size[0] / (given.resize_to or given.size[0]),
            "crop_mode": "squash" if given.resize == "squash" else "center",
            "label_names": list(found.classes),
            "num_classes": len(found.classes),
        },
        "weak_supervision": config,
    }


def model_card(found: Any, run: Path) -> str:
    """README.md of a hub folder: what it is, what it takes and answers, how it was trained."""
    from common.deployed import in_words, settings_of_run
    from common.text import read_json

    given = found.preparation
    opens = 'timm.create_model("local-dir:THIS_FOLDER", pretrained=True)'
    if found.timm_name is None:
        opens = "safetensors.torch.load_file, into the network of the run's settings"
    lines = [
        "---",
        "tags: [image-classification, weak-supervision]",
        "---",
        f"# {found.architecture}, trained with {found.paper}",
        "",
        f"- Classes: {len(found.classes)} ({in_words(found.classes)}), in labels.txt in order.",
        f"- Input: {given.channels} x {given.size[0]} x {given.size[1]}, scaled to 0..1, "
        f"mean {list(given.mean)}, deviation {list(given.std)}, {given.interpolation}.",
        f"- Answer: {found.answer} over the classes.",
        f"- Opened by: `{opens}`.",
        "",
        "## Measured at the end of its training",
        "",
    ]
    summary = run / "summary.json"
    measured = read_json(summary, dict) if summary.is_file() else {}
    for name, value in measured.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            lines.append(f"- {name}: {value:g}")
    lines += ["", "## Settings", ""]
    for name, value in settings_of_run(run).items():
        if value is not None:
            lines.append(f"- {name}: {value}")
    return "".join(f"{line}\n" for line in lines)


def run_hub(folder: Path, inputs: Any, found: Any) -> Any:
    """The answer of the network that the folder's weights give."""
    if found.timm_name is None:
        return run_safetensors(folder / "model.safetensors", inputs, found)
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(inputs)


def export(found: Any, run: Path, to: str, folder: Path) -> tuple[Path, float | None]:
    """Write a network, read it back and run it.

    Returns the path, and the largest difference of probabilities on two random inputs: None where
    nothing is installed that could run the file. UserError where it is above `AGREEMENT`.
    """
    import torch

    from common.deployed import ANSWERS, as_json

    path = folder / NAMES[to]
    writers: dict[str, Callable[[], object]] = {
        "onnx": lambda: write_onnx(found, path),
        "torch_export": lambda: write_torch_export(found, path),
        "safetensors": lambda: write_safetensors(found, path),
        "hub": lambda: write_hub(found, path, run),
    }
    runners: dict[str, Callable[[Any], Any]] = {
        "onnx": lambda inputs: run_onnx(path, inputs),
        "torch_export": lambda inputs: run_torch_export(path, inputs),
        "safetensors": lambda inputs: run_safetensors(path, inputs, found),
        "hub": lambda inputs: run_hub(path, inputs, found),
    }
    writers[to]()
    atomic_write(folder / "model.json", as_json(found.description()))

    inputs = found.example(3)
    with torch.inference_mode():
        answer = runners[to](inputs)
    if answer is None:
        return path, None
    probabilities = ANSWERS[found.answer](answer.float())
    difference = float((probabilities - found.probabilities(inputs)).abs().max())
    if not difference <= AGREEMENT:
        raise UserError(
            f"{path}: answers differ by {difference:.2g} from the network's; not usable"
        )
    return path, difference


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed: pip install -e '.[export]'")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter's notes on its own progress, kept away from the user's terminal."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the run, write the file, say how far both agree."""
    args = build_parser().parse_args(argv)
    from common.deployed import deployed, in_words

    found = deployed(args.run)
    folder = args.out or args.run / "export"
    path, difference = export(found, args.run, args.to, folder)
    size = found.preparation.size
    print(
        f"{path}: {found.architecture} of {found.paper}, {size[0]} x {size[1]} px, "
        f"{len(found.classes)} classes ({in_words(found.classes)})"
    )
    if difference is None:
        print("not run: pip install onnxruntime to compare it with the network")
    else:
        print(f"read back and run: its probabilities agree with the network's to {difference:.1g}")


if __name__ == "__main__":
    run_main(main)
