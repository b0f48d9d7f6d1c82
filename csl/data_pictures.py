"""The names of classes that infer.py shows, and the offline sample's pictures."""

from collections.abc import Sequence
from pathlib import Path

from common import samples
from common.aliases import one_module
from csl.data_errors import say
from csl.data_openimages import read_class_names

one_module(__name__, "csl.data_pictures")


def class_names(names: Sequence[str], descriptions: Path) -> list[str]:
    """The names of classes, those that are MIDs spelled out by the class-description csv.

    A name that the csv lacks stays as it is; one warning counts the MIDs among them.
    """
    mids = [name for name in names if name.startswith(("/m/", "/g/"))]
    if not mids:
        return list(names)
    path = descriptions if descriptions.is_file() else None
    described = read_class_names(descriptions.parent, path)
    missing = sum(mid not in described for mid in mids)
    if missing:
        told = f"lacks {missing} of {len(mids)} classes; they keep their MID"
        say(f"{descriptions}: {told}")
    return [described.get(name, name) for name in names]


def sample_pictures(count: int = 8) -> list[str]:
    """The first test pictures of the COCO_2014 sample."""
    pictures = sorted((samples.ensure("COCO_2014") / "val2014").glob("*.jpg"))
    return list(map(str, pictures[:count]))
