"""Weight files of any origin into a network: load_weights.

A file is a nest of mappings. Each mapping that holds tensors by name is a candidate, whatever the
wrappers around it are called (state_dict, model, ema, teacher, a run's state, ...), and within it
each prefix (module., backbone., encoder_q., ...). The one with the most tensors of the network's
names and shapes is taken; among equals averaged weights (ema) before others, a teacher before a
student, and in a checkpoint of a run of this repository the student.

All tensors of the backbone must be there but `num_batches_tracked` and a norm behind the pooling.
The classifier may be another or absent: then it is left out, and the report says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import checkpoint
from common.backbones_search import COMPUTED, HEADS, Found, Target, Tensors, find, under
from common.errors import MissingFileError, UserError

# In a folder, the first of them that is there.
_IN_FOLDER = (
    *("checkpoints/best.pt", "checkpoints/last.pt", "best.pt", "last.pt"),
    *("model.safetensors", "pytorch_model.bin"),
)


@dataclass(frozen=True)
class Report:
    """What was loaded; `str` is one line for the user.

    Args:
        source: the file.
        tensors: how many went into the backbone.
        place: where in the file they were, "" for bare names.
        renamed: whose names were translated, if any.
        head: "loaded", "none", or the shape of the file's that was left out.
        left_out: first names of other parts in the file.
        kept: names that the file lacks and that stay as they were.
    """

    source: str
    tensors: int
    place: str = ""
    renamed: str | None = None
    head: str = "none"
    left_out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.source}: {self.tensors} tensors loaded"]
        if self.place:
            parts[0] += f" from {self.place}"
        if self.renamed:
            parts.append(f"names of {self.renamed} translated")
        if self.head == "loaded":
            parts.append("with the classifier")
        elif self.head == "none":
            parts.append("no classifier in it")
        else:
            parts.append(f"its classifier {self.head} left out")
        if self.left_out:
            parts.append(f"also left out: {_first(self.left_out)}")
        if self.kept:
            parts.append(f"as initialised: {_first(self.kept)}")
        return "; ".join(parts)


def load_weights(
    module: nn.Module,
    file: str | Path,
    *,
    strict_head: bool = False,
    head: Sequence[str] | None = None,
) -> Report:
    """Fill a network from a weight file, and say what was loaded.

    Args:
        module: a FeatureNetwork, a CamClassifier, or any module.
        file: .pth, .pt, .bin, .tar, .safetensors, .npz (where the network reads its original's),
            or a folder with one of them or with a run.
        strict_head: the classifier must be loaded too.
        head: of any other module, the names of its classifier's parts (default HEADS).

    UserError in one line: no such file, pickled objects (never executed), a file that fits nothing
    or not all of the backbone, a file of a deeper network, with strict_head another classifier.
    """
    target = _target_of(module, head)
    path = _file_in(Path(file))
    if path.suffix == ".npz":
        return _load_npz(target, path)
    return fill(target, read(path), str(path), strict_head=strict_head)


def fill(target: Target, content: Any, source: str, *, strict_head: bool = False) -> Report:
    """Fill the target from what a file holds; as `load_weights`."""
    found = find(target, content)
    if found is None:
        raise UserError(f"{source}: holds {_what_is(content)}, expected weights by name")
    _require_whole(target, found, source)

    left_out, head_shape = _leftover(target, found, source)
    values = {**target.backbone, **target.optional}
    classifier = _classifier_in(target, found)
    if strict_head and target.classifier and not classifier:
        want = _shapes(target.classifier)
        raise UserError(f"{source}: no classifier that fits {target.what}: {want} wanted")

    kept = []
    with torch.no_grad():
        for name, own in values.items():
            given = found.tensors.get(name)
            if given is None or given.shape != own.shape:
                kept.append(name)
            else:
                own.copy_(given)
        for name, given in classifier.items():
            target.classifier[name].copy_(given)
    return Report(
        source=source,
        tensors=len(values) - len(kept),
        place=found.place,
        renamed=found.renamed,
        head="loaded" if classifier else head_shape,
        left_out=tuple(left_out),
        kept=tuple(name for name in kept if not name.endswith(COMPUTED)),
    )


# --- files ---


def _file_in(path: Path) -> Path:
    """The file itself, or the first weight file in a folder."""
    if not path.is_dir():
        return path
    for name in _IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise MissingFileError(f"{path}: no weight file in this folder, name the file")


def read(path: Path) -> Any:
    """What a weight file holds, on the CPU. No code in it is run; UserError where it is damaged."""
    if path.suffix != ".safetensors":
        return checkpoint.load(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    from safetensors.torch import load_file  # comes with timm

    try:
        return load_file(path)
    except PermissionError:
        raise
    except Exception as error:  # its own class, of a compiled library
        raise UserError(f"{path}: the file is damaged or no safetensors ({error})") from error


def _load_npz(target: Target, path: Path) -> Report:
    reads = getattr(target.module, "load_pretrained", None)
    if reads is None:
        raise UserError(f"{path}: {target.what} reads no .npz; convert it to .safetensors")
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    try:
        reads(str(path))
    except Exception as error:  # NumPy's for a damaged file, timm's for other names and shapes
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{path}: does not fit {target.what} ({lines[0]:.120})") from error
    return Report(str(path), len(target.backbone), renamed="the original (npz)")


# --- what does not fit ---


def _require_whole(target: Target, found: Found, source: str) -> None:
    missing = []
    shapes = []
    for name, own in target.backbone.items():
        given = found.tensors.get(name)
        if name.endswith(COMPUTED):
            continue
        if given is None:
            missing.append(name)
        elif given.shape != own.shape:
            shapes.append(f"{name} {tuple(given.shape)} instead of {tuple(own.shape)}")
    if not missing and not shapes:
        return

    wanted = target.needed
    if not found.count:
        holds = f"it holds {_first(tuple(found.beside))}; the network has "
        names = _first(tuple(target.backbone))
        raise UserError(f"{source}: nothing in it fits {target.what}; {holds}{names}")
    parts = [f"{source}: does not fit {target.what}; {found.count} of {wanted} tensors do"]
    if shapes:
        parts.append(f"{len(shapes)} of another shape: {_first(shapes)}")
    if missing:
        parts.append(f"{len(missing)} missing: {_first(missing)}")
    raise UserError("; ".join(parts))


def _leftover(target: Target, found: Found, source: str) -> tuple[list[str], str]:
    """Other parts in the file, and the shape of its classifier; UserError for a deeper network."""
    own = {**target.backbone, **target.optional}
    tops = {name.split(".")[0] for name in own}
    deeper = []
    others = []
    head = "none"
    for name, value in found.tensors.items():
        if name in own or name.endswith(COMPUTED):
            continue
        if _is_of(name, (*target.head, *HEADS)):
            if name.endswith("weight"):
                head = str(tuple(value.shape))
        elif name in target.classifier:
            continue
        elif name.split(".")[0] in tops:
            deeper.append(name)
        else:
            others.append(name)
    if deeper:
        more = f"it holds {len(deeper)} more tensors of its parts: {_first(deeper)}"
        raise UserError(f"{source}: is of another network than {target.what}; {more}")

    for name, value in found.beside.items():
        words = name.split(".")
        is_outside = not name.startswith(found.prefix)
        if is_outside and len(words) > 1 and words[-1] == "weight" and words[-2] in HEADS:
            head = str(tuple(value.shape))
    return others, head


def _is_of(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _classifier_in(target: Target, found: Found) -> Tensors:
    """The file's classifier under the target's names, where all of it fits; else empty."""
    tensors = found.tensors
    if not target.own:
        return _fitting(target.classifier, tensors)
    if found.prefix.endswith(target.own):
        root = found.prefix[: -len(target.own)]
        return _fitting(target.classifier, under(root, found.beside))
    for start in target.published:
        renamed_to = {}
        for name in target.classifier:
            value = tensors.get(f"{start}.{name.rpartition('.')[2]}")
            if value is not None:
                renamed_to[name] = value
        given = _fitting(target.classifier, renamed_to)
        if given:
            return given
    return {}


def _fitting(own: Tensors, given: Tensors) -> Tensors:
    """The given tensors under the own names, where each has its shape; else empty."""
    for name, value in own.items():
        if name not in given or given[name].shape != value.shape:
            return {}
    return {name: given[name] for name in own}


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown}, ..." if len(names) > 3 else shown


def _shapes(tensors: Tensors) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items())


def _what_is(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a mapping of {_first([repr(key) for key in content])} without tensors"
    return f"a {type(content).__name__}"


def _target_of(module: nn.Module, head: Sequence[str] | None) -> Target:
    """A network's own target, or that of any module by the names of its classifier."""
    module = checkpoint.unwrap(module)
    describe = getattr(module, "weight_target", None)
    if describe is not None:
        target = describe()
        assert isinstance(target, Target)
        return target
    heads = tuple(head) if head is not None else HEADS
    backbone: Tensors = {}
    classifier: Tensors = {}
    for name, value in module.state_dict().items():
        (classifier if _is_of(name, heads) else backbone)[name] = value
    return Target(type(module).__name__, backbone, head=heads, classifier=classifier, module=module)
