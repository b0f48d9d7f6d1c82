"""Where in a weight file a network's tensors are: the mapping, the prefix, whose names.

`find` returns the place with the most tensors of the network's names and shapes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from common.backbones_renamed import renamed

Tensors = dict[str, torch.Tensor]

# Of a network that states none: what classifiers are called.
HEADS = ("fc", "head", "heads", "head_dist", "classifier", "last_linear", "logits")
# Tensors of some versions that are computed and not learnt.
COMPUTED = (
    *("num_batches_tracked", "relative_position_index", "attn_mask", "relative_coords_table"),
    *("total_ops", "total_params", "freqs_cos", "freqs_sin", "periods"),
)
# Which of several equal candidates is taken: the lowest sum over the words of path and prefix.
_RANKS = {
    **dict.fromkeys(("state_dict_ema", "model_ema", "ema"), -1),
    **dict.fromkeys(("teacher",), 1),
    **dict.fromkeys(("student", "encoder_k", "momentum_encoder", "key_encoder"), 2),
    **dict.fromkeys(("optimizer", "optimiser"), 9),
}


@dataclass
class Target:
    """What a file's tensors go into.

    Args:
        what: the network in a message.
        backbone: name -> tensor, filled in place; all must be in the file.
        optional: as `backbone`, but they may be absent.
        head: names that the classifier's part may have, relative to the backbone's names; a part
            is one of these or begins with one and a point.
        classifier: name -> tensor of the network's own classifier, taken where names and shapes
            fit; empty where it has none.
        published: the names that this classifier has in published files; empty where theirs would
            not fit, or where it has one name everywhere.
        own: what the backbone is called in a checkpoint of the whole network ("features.body."),
            where the classifier then has its own name; empty where no name differs.
        module: for `convert` and `load_pretrained`.
        convert: from an original's names to the module's.
    """

    what: str
    backbone: Tensors
    optional: Tensors = field(default_factory=dict)
    head: tuple[str, ...] = HEADS
    classifier: Tensors = field(default_factory=dict)
    published: tuple[str, ...] = ()
    own: str = ""
    module: Any = None
    convert: Callable[[Tensors, Any], Any] | None = None

    @property
    def needed(self) -> int:
        """How many tensors a file must hold."""
        return sum(not name.endswith(COMPUTED) for name in self.backbone)


@dataclass
class Found:
    """A place in a file.

    Args:
        tensors: under the network's names, with whatever else stands beside them.
        count: how many fit the backbone by name and shape.
        named: how many have a name of the backbone.
        rank: the lower the better among equals.
        place: wrappers and prefix, in words.
        renamed: whose names were translated, if any.
        prefix: what stood before the network's names.
        beside: all tensors of the mapping, under its own names.
    """

    tensors: Tensors
    count: int
    named: int
    rank: int
    place: str
    renamed: str | None = None
    prefix: str = ""
    beside: Tensors = field(default_factory=dict)


def find(target: Target, content: Any) -> Found | None:
    """The best place in what a file holds; None where it holds no tensors by name."""
    found = _best_of(target, content)
    if found is None or found.count < target.needed:
        found = _converted(target, content, found) or found
    return found


def _nodes(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    """Every mapping in the file that holds tensors by name, and the keys that lead to it."""
    if not isinstance(content, Mapping) or len(path) > 4:
        return
    tensors = {}
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, torch.Tensor):
            tensors[key] = value
    if tensors:
        yield path, tensors
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            yield from _nodes(value, (*path, key))


def _is_run(content: Any) -> bool:
    return isinstance(content, Mapping) and {"state", "progress", "settings"} <= set(content)


def _best_of(target: Target, content: Any) -> Found | None:
    best: Found | None = None
    for path, node in _nodes(content):
        for names, tensors in [(None, node), *renamed(node, target.backbone)]:
            for prefix, (count, named) in _prefixes(target.backbone, tensors).items():
                rank = _rank((*path, *prefix.split(".")), _is_run(content))
                if best is None or (count, named, -rank) > (best.count, best.named, -best.rank):
                    best = Found(
                        tensors=under(prefix, tensors),
                        count=count,
                        named=named,
                        rank=rank,
                        place=_place(path, prefix),
                        renamed=names,
                        prefix=prefix,
                        beside=tensors,
                    )
    if best is None:
        for path, node in _nodes(content):
            return Found(node, 0, 0, 0, _place(path, ""), beside=node)
    return best


def _prefixes(own: Tensors, tensors: Tensors) -> dict[str, tuple[int, int]]:
    """Prefix -> tensors that fit one of the network's by name and shape, and by name alone."""
    fitting: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for key, value in tensors.items():
        start = 0
        while True:
            name = key[start:]
            if name in own and not name.endswith("num_batches_tracked"):
                named[key[:start]] += 1
                fitting[key[:start]] += int(own[name].shape == value.shape)
            point = key.find(".", start)
            if point < 0:
                break
            start = point + 1
    return {prefix: (fitting[prefix], named[prefix]) for prefix in named}


def _rank(words: tuple[str, ...], is_run: bool) -> int:
    ranks = dict(_RANKS)
    if is_run:
        ranks["student"] = 0
    return sum(ranks.get(word, 0) for word in words)


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors whose names begin with the prefix, without it."""
    return {k[len(prefix) :]: value for k, value in tensors.items() if k.startswith(prefix)}


def _place(path: tuple[str, ...], prefix: str) -> str:
    parts = list(path)
    if prefix:
        parts.append(prefix)
    return "/".join(parts)


def _converted(target: Target, content: Any, best: Found | None) -> Found | None:
    """The best mapping after the conversion of originals' names; None where that is no better."""
    if target.convert is None:
        return None
    candidates: list[tuple[tuple[str, ...], str, Tensors]] = []
    for path, node in _nodes(content):
        for prefix in _leading(node):
            candidates.append((path, prefix, under(prefix, node)))
    for path, prefix, tensors in candidates:
        try:
            values = target.convert(dict(tensors), target.module)
        except Exception:  # written for one original's files, it fails on others in any way
            continue
        if not isinstance(values, Mapping):
            continue
        values = {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
        count, named = _prefixes(target.backbone, values).get("", (0, 0))
        if best is None or count > best.count:
            place = _place(path, prefix)
            best = Found(values, count, named, 0, place, "an original", beside=values)
            if set(values) == set(tensors):  # only sizes changed
                best.renamed = None
    return best


def _leading(tensors: Tensors) -> list[str]:
    """ "", and the dotted beginnings that the most tensors share: a., a.b., ..."""
    counts: Counter[str] = Counter()
    for key in tensors:
        words = key.split(".")
        for depth in range(1, min(len(words), 4)):
            counts[".".join(words[:depth]) + "."] += 1
    return ["", *(prefix for prefix, count in counts.most_common(8) if count * 4 > len(tensors))]
