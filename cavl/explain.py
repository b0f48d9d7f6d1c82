"""Why this label: class activation maps of your own pictures under a trained network.

    # a run whose network has maps: any but linear, mlp and lenet
    python main.py -ds cifar10 -mo resnet
    # the five likeliest classes, then two candidates of your own; all pictures of a folder
    python explain.py --run save/cifar10_resnet_cavl --image cat.png
    python explain.py --run save/cifar10_resnet_cavl --image cat.png --candidates 3 5
    python explain.py --run save/cifar10_resnet_cavl --image pics

Of one picture it writes RUN/figures/explain.png and explain.json beside it, and prints which
candidate the class activation value picks. Of several it writes into RUN/explain a figure and a
json for each, answers.json, and sheet.png with all of them.
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from cavl.options_explain import parse_explain
from common.cli import UserError, parse_or_exit, run_main

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    arguments = parse_or_exit(parse_explain)

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cavl.build_saved import SavedRun, load_run
from cavl.data_input import InputFormat
from cavl.data_pictures import resized
from cavl.data_resident import Images
from cavl.figures import CandidateMaps, save_rows
from cavl.method import select_by_cam, select_by_cav
from common.aliases import one_module
from common.files import atomic_save, atomic_write
from common.images import CorruptImage, read_own_picture
from common.own_names import close_to
from common.pictures import Answers, figure_name, printable, readable_pictures

one_module(__name__, "cavl.explain")

LIKELIEST = 5  # classes, where no candidates are listed


def main(argv: Sequence[str] | None = None, *, arguments: argparse.Namespace | None = None) -> None:
    """Load the run's network, read the pictures, draw, print the choices."""
    args = arguments or parse_explain(argv)
    saved = load_run(args.run)
    listed = numbers_of(args.candidates or [], saved)
    if args.is_single:
        print(saved)
        explain_one(Path(args.image[0]).expanduser(), saved, listed, args.out, npz=args.npz)
        return
    pictures, told = readable_pictures(args.image, "--image", skip_corrupt=args.skip_corrupt)
    print(saved)
    for line in told:
        print(line)
    skip = args.skip_corrupt
    explain_all(pictures, saved, listed, args.out, npz=args.npz, skip_corrupt=skip)


def numbers_of(given: Sequence[str], saved: SavedRun) -> list[int]:
    """The classes that --candidates lists; UserError for an unknown one, and one listed twice."""
    names = saved.names or []
    last = saved.takes.num_classes - 1
    numbers: list[int] = []
    for text in given:
        if text in names:
            number = names.index(text)
        elif text.isdecimal():
            number = int(text)
        elif names:
            hint = close_to(text, names)
            raise UserError(f"--candidates {text}: is no class of the run{hint}")
        else:
            raise UserError(f"--candidates: must be a whole number, not {text!r}")
        if number > last:
            raise UserError(f"--candidates {text}: classes are 0 to {last}")
        if number in numbers:
            raise UserError(f"--candidates: {text} stands there twice")
        numbers.append(number)
    return numbers


class Explained:
    """One picture: its maps, which classes are candidates, and what is picked of them."""

    def __init__(self, image: Image.Image, saved: SavedRun, listed: list[int]) -> None:
        self.saved = saved
        self.maps = CandidateMaps(saved.model, as_input(image, saved.takes), saved.cav)
        outputs = self.maps.outputs
        likeliest = min(LIKELIEST, saved.takes.num_classes)
        self.listed = listed or outputs[0].topk(likeliest).indices.tolist()
        candidates = torch.zeros_like(outputs)
        candidates[0, self.listed] = 1
        self.picked = int(select_by_cav(outputs, candidates, cav=saved.cav, mask=saved.mask))
        self.largest: int | None = None
        if saved.select == "cam":
            self.largest = int(select_by_cam(self.maps.maps, candidates))

    def lines(self) -> list[str]:
        """What is picked, in words."""
        called = self.saved.called
        among = f"of the candidates {', '.join(map(called, self.listed))}"
        lines = []
        if self.largest is not None:
            rule = "the largest class activation map, by which the run selects, is that of"
            lines.append(f"{among} {rule} {called(self.largest)}")
        lines.append(f"{among} the class activation value picks {called(self.picked)}")
        return lines

    def record(self) -> dict[str, Any]:
        """The same as plain data."""
        called = self.saved.called
        maps = self.maps
        listed = []
        for k in self.listed:
            listed.append(
                {
                    "class": called(k),
                    "number": k,
                    "probability": float(maps.p[0, k]),
                    "value": float(maps.values[0, k]),
                    "area": int(maps.areas[0, k]),
                }
            )
        record: dict[str, Any] = {"picked_by_value": called(self.picked)}
        if self.largest is not None:
            record["picked_by_map"] = called(self.largest)
        return record | {"candidates": listed}

    def arrays(self) -> dict[str, np.ndarray]:
        """Logits (K,) and maps (K,h,w) of all classes."""
        logits = self.maps.outputs[0].float().cpu().numpy()
        return {"logits": logits, "maps": self.maps.maps[0].float().cpu().numpy()}

    def draw(self, path: Path, name: str) -> None:
        """The picture, and each candidate's map."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_rows(path, [self.maps.row(0, self.listed, name, names=self.saved.names)])


def explain_one(
    path: Path, saved: SavedRun, listed: list[int], out: Path, *, npz: bool = False
) -> None:
    """One picture: the figure `out`, and a json (and npz) of its name beside it."""
    found = Explained(read_own_picture(path), saved, listed)
    found.draw(out, path.name)
    record = {"picture": printable(str(path)), **found.record()}
    text = json.dumps(record, indent=1, ensure_ascii=False)
    atomic_write(out.with_suffix(".json"), f"{text}\n".encode("utf-8", "backslashreplace"))
    if npz:
        atomic_save(out.with_suffix(".npz"), lambda temporary: _save(temporary, found.arrays()))
    for line in found.lines():
        print(line)
    print(f"picture: {out}")


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def explain_all(
    pictures: Sequence[Path],
    saved: SavedRun,
    listed: list[int],
    folder: Path,
    *,
    npz: bool = False,
    skip_corrupt: bool = False,
) -> None:
    """Many pictures: a figure, a json (and npz) each in the folder, answers.json, sheet.png."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = Answers(folder)
    for path in pictures:
        try:
            image = read_own_picture(path)
        except CorruptImage as error:
            if not skip_corrupt:
                raise
            print(printable(f"{error}; left out"))
            continue
        found = Explained(image, saved, listed)
        found.draw(folder / f"{figure_name(len(answers.records), path)}.png", path.name)
        likely = int(found.maps.p[0].argmax())
        caption = [
            f"picked: {saved.called(found.picked)}",
            f"p {found.maps.p[0, likely]:.2f} {saved.called(likely)}",
        ]
        arrays = found.arrays() if npz else None
        answers.add(path, found.record(), shown=image, caption=caption, arrays=arrays)
        print(printable(f"{path}: {found.lines()[-1]}"))
    answers.finish(folder / "sheet.png")
    print(f"pictures: {folder}, all of them on {folder / 'sheet.png'}")


def as_input(image: Image.Image, takes: InputFormat) -> torch.Tensor:
    """A picture as network input (1, C, H, W) float32, in size, colours and scale of the run."""
    channels, *size = takes.shape
    interpolation = takes.interpolation or "bilinear"
    pixels = resized(image, size, channels=channels, interpolation=interpolation)[None]
    images = Images(pixels, torch.device("cpu"), mean=takes.mean, std=takes.std)
    return images[torch.arange(1)]


def network_input(path: Path, takes: InputFormat) -> torch.Tensor:
    """`as_input` of a picture file."""
    return as_input(read_own_picture(path), takes)


if __name__ == "__main__":
    run_main(partial(main, arguments=arguments))
