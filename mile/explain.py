"""Which labels a trained network gives your pictures, and where it sees each of them.

    python explain.py --run RUN --image pics/

For each picture the label set, a class activation map of every label in it, and, where the run has
one, the same of the teacher that labelled for the student. Written are a picture and a json a file,
answers.json, a contact sheet, and with --npz the raw maps.
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from collections.abc import Mapping, Sequence
from functools import partial

from common.cli import parse_or_exit, run_main
from mile.options_explain import ExplainSettings, parse

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(parse)

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from common.aliases import one_module
from common.cam import normalize_maps, overlay
from common.deployed import Deployed, in_words
from common.pictures import Answers, figure_name, printable, read_pictures, readable_pictures
from common.plots import save_grid
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from mile.build_deployed import networks_of, prepared
from mile.method import prediction_set, probabilities
from mile.models_backbones import has_maps, logits_and_maps

one_module(__name__, "mile.explain")


class Said(NamedTuple):
    """What a network says of one picture."""

    p: torch.Tensor  # (C,) probabilities
    labels: list[int]  # its label set, the likeliest first
    maps: torch.Tensor | None  # (C,h,w), None where the network has none


@torch.inference_mode()
def said_of(
    network: torch.nn.Module, x: torch.Tensor, *, rho: float, schema: str, protocol: str
) -> Said:
    """The label set and the maps of a prepared picture x (1,3,S,S)."""
    maps = None
    if has_maps(network):
        logits, of_classes = logits_and_maps(network, x)
        maps = of_classes[0].float()
    else:
        logits = network(x)
    logits = logits.float()
    p = probabilities(logits, schema)[0]
    chosen = prediction_set(logits, rho, schema, protocol)[0]
    order = p.argsort(descending=True).tolist()
    return Said(p, [c for c in order if bool(chosen[c])], maps)


def explain(settings: ExplainSettings) -> list[dict[str, Any]]:
    """Label every picture, draw the maps of its labels; returns the records."""
    args = settings.args
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    pictures, told = readable_pictures(args.image, "--image", skip_corrupt=args.skip_corrupt)
    found, teacher = networks_of(args.run)
    rho = args.rho if args.rho is not None else found.settings["eval_rho"]
    networks: dict[str, torch.nn.Module] = {"student": found.network}
    if teacher is not None:
        networks["teacher"] = teacher
    for network in networks.values():
        network.to(accelerator.device)

    run = start_run(args, args.run / "explain", accelerator)
    for line in told:
        run.print(line)
    run.print(
        f"{args.run}: {found.architecture}, {found.preparation.size[0]} px,"
        f" {len(found.classes)} classes ({in_words(found.classes)}); labels above {rho:g}"
    )
    if not has_maps(found.network):
        run.print("its classifier is not linear after pooling: label sets without maps")

    answers = Answers(run.folder / "answers")
    for path in pictures:
        images, unreadable = read_pictures([path], skip_corrupt=args.skip_corrupt)
        for line in unreadable:
            run.print(line)
        if not images:
            continue
        seen, x = prepared(images[path], found.preparation)
        x = x.to(accelerator.device)
        ask = partial(
            said_of,
            x=x,
            rho=rho,
            schema=found.settings["schema"],
            protocol=found.settings["protocol"],
        )
        said = {name: ask(network) for name, network in networks.items()}
        record = record_of(said, found.classes, rho)
        run.print(printable(f"{path.name}: {_with_scores(said['student'], found.classes)}"))
        figure = run.figure(figure_name(len(answers.records), path))
        draw(figure, seen, said, found, args.most)
        answers.add(
            path,
            record,
            shown=seen,
            caption=[_with_scores(said["student"], found.classes)],
            arrays=_arrays(said) if args.npz else None,
        )
        run.progress.images += 1
        run.poll()
    answers.finish(run.figure("contact_sheet"))
    run.finish(pictures=len(answers.records), rho=rho)
    return answers.records


def record_of(said: Mapping[str, Said], classes: Sequence[str], rho: float) -> dict[str, Any]:
    """What is written of a picture: of student and teacher the label set and all scores."""
    record: dict[str, Any] = {"threshold": rho}
    for name, one in said.items():
        scores = [round(value, 6) for value in one.p.tolist()]
        record[name] = {
            "labels": [classes[c] for c in one.labels],
            "scores": dict(zip(classes, scores, strict=True)),
        }
    return record


def draw(
    path: Path, seen: Image.Image, said: Mapping[str, Said], found: Deployed, most: int
) -> None:
    """The picture and the maps of the label set, a row a network; without labels its top class."""
    image = np.asarray(seen)
    rows = []
    titles = []
    for name, one in said.items():
        row = [image]
        heads = [name if one.labels else f"{name}: no label"]
        shown = one.labels or [int(one.p.argmax())]
        for c in shown[:most]:
            if one.maps is None:
                continue
            row.append(overlay(image, normalize_maps(one.maps[c][None])[0].cpu().numpy()))
            heads.append(f"{found.classes[c]} {one.p[c]:.2f}")
        rows.append(row)
        titles.append(heads)
    save_grid(path, rows, titles, cell=2.2, suptitle=f"{found.architecture}, label set and maps")


def _with_scores(said: Said, classes: Sequence[str]) -> str:
    labels = [f"{classes[c]} {said.p[c]:.2f}" for c in said.labels]
    return ", ".join(labels) or "no label"


def _arrays(said: Mapping[str, Said]) -> dict[str, np.ndarray]:
    """The raw maps (C,h,w) and probabilities (C,) by network."""
    arrays = {}
    for name, one in said.items():
        arrays[f"{name}_probabilities"] = one.p.cpu().numpy()
        if one.maps is not None:
            arrays[f"{name}_maps"] = one.maps.cpu().numpy()
    return arrays


def main(argv: Sequence[str] | None = None, *, settings: ExplainSettings | None = None) -> None:
    """Settings, then the pictures."""
    explain(settings or parse(argv))


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
