"""Networks of timm without their heads, for common.backbones."""

import contextlib
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.error import HTTPError

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import is_model_pretrained
from torch import nn

from common.backbones_body import Built, Facts, Linear
from common.backbones_names import is_on_hub, is_remote, nearest
from common.download import CONNECTION_LIMIT, OFFLINE, connection_limits
from common.errors import UserError

_AVERAGE = ("avg", "fast", "fastavg")  # timm's names of the global average pooling
_NORMS = ("fc_norm", "head.norm")  # of the layer norm that follows it


def has(name: str) -> bool:
    """Whether timm has a network of this name (with a tag or without), or can look it up."""
    return is_remote(name) or timm.is_model(name)


def names() -> list[str]:
    """All names, without tags."""
    return timm.list_models()


def build(
    name: str, *, pretrained: bool, image_size: tuple[int, int] | None, stride: int | None
) -> Built:
    """The network, with its published weights or without. UserError in one line."""
    wanted: dict[str, Any] = {"dynamic_img_size": True, "strict_img_size": False}
    if image_size is not None:
        wanted["img_size"] = image_size
    if stride is not None:
        wanted["output_stride"] = stride

    published = None
    if pretrained:
        _require_published(name)
        with torch.random.fork_rng(devices=[]):
            _, accepted = _create(name, wanted, num_classes=0)
        model = _fetched(name, accepted)
        published = _classifier_of(model)
        model.reset_classifier(0)
    else:
        model, accepted = _create(name, wanted, num_classes=0)
    return _described(model, accepted, image_size, published)


def _create(name: str, wanted: dict[str, Any], **fixed: Any) -> tuple[Any, dict[str, Any]]:
    """The network, and those of the wanted arguments that its family has."""
    accepted = dict(wanted)
    while True:
        try:
            make = partial(timm.create_model, name, **fixed, **accepted)
            if is_on_hub(name):  # even its configuration is a download
                return _with_hub(make), accepted
            return make(), accepted
        except Exception as error:  # each family refuses in its own way
            refused = [key for key in accepted if f"'{key}'" in str(error)]
            if not (refused and isinstance(error, TypeError)):
                refused = [key for key in ("output_stride",) if key in accepted]
            if not refused:
                raise _not_made(name, accepted, error) from error
            for key in refused:
                del accepted[key]


def _not_made(name: str, accepted: dict[str, Any], error: Exception) -> UserError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0]
    if is_on_hub(name):
        return UserError(f"{name}: cannot be looked up on the hub ({reason})")
    if "Invalid pretrained tag" in reason:
        architecture, _, tag = name.partition(".")
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
        near = ", ".join(nearest(tag, tags) or tags[:4]) or "none"
        return UserError(f"{name}: no published weights have the tag {tag!r}; there are {near}")
    size = accepted.get("img_size")
    with_size = "" if size is None else f" for {size[0]}x{size[1]} px"
    return UserError(f"{name}: timm cannot make it{with_size} ({reason})")


def _require_published(name: str) -> None:
    if is_remote(name) or is_model_pretrained(name):
        return
    family = name.split(".")[0]
    similar = nearest(family, timm.list_models(pretrained=True))
    remedy = f"; there are those of {', '.join(similar)}" if similar else ""
    raise UserError(f"{name}: timm publishes no weights of it{remedy}")


def _fetched(name: str, accepted: dict[str, Any]) -> Any:
    """The network with published weights and head, from timm's cache or from the hub."""
    try:
        return _with_hub(partial(timm.create_model, name, pretrained=True, **accepted))
    except Exception as error:  # the hub's client, urllib and timm each have their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{name}: its published weights are not in the cache and cannot be downloaded "
            f"({lines[0]:.120}); give a weight file, or train from scratch"
        ) from error


def _with_hub(make: Callable[[], Any]) -> Any:
    """What `make` returns, from the cache of the hub's client or, where it lacks a file, the hub.

    The client tries six times a file, a minute where nobody answers: so it is asked only where the
    hub answers once, within 15 s.
    """
    try:
        with _hub_offline():
            return make()
    except (OSError, RuntimeError):  # not in the cache
        if os.environ.get(OFFLINE):
            raise OSError(f"{OFFLINE} is set") from None
    with connection_limits():
        _require_hub()
        return make()


@contextlib.contextmanager
def _hub_offline() -> Iterator[None]:
    from huggingface_hub import constants  # comes with timm

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        with connection_limits():
            yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _require_hub() -> None:
    """OSError where the hub does not answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    with contextlib.suppress(HTTPError):  # an answer too
        urllib.request.urlopen(request, timeout=CONNECTION_LIMIT).close()


def _described(
    model: Any,
    accepted: dict[str, Any],
    image_size: tuple[int, int] | None,
    published: Linear | None,
) -> Built:
    config = model.pretrained_cfg or {}
    native = tuple(config.get("input_size", (3, 224, 224))[1:])
    is_dynamic = "dynamic_img_size" in accepted or "strict_img_size" in accepted
    fixed = None
    if config.get("fixed_input_size", False) and not is_dynamic:
        fixed = image_size if "img_size" in accepted else native

    names = config.get("classifier") or ()
    if isinstance(names, str):
        names = (names,)
    fits = _head_fits(model, names)
    return model, Facts(
        features=_forward_features,
        is_last=getattr(model, "output_fmt", "NCHW") == "NHWC",
        prefix_tokens=_prefix_tokens(model),
        image_size=fixed,
        native_size=native,
        multiple=_multiple(model),
        norm=_norm_behind_pooling(model),
        head_fits=fits,
        head_names=names,
        published=published if fits else None,
        convert=_conversion_of(model),
        mean=tuple(config.get("mean", Facts.mean)),
        std=tuple(config.get("std", Facts.std)),
        interpolation=config.get("interpolation") or Facts.interpolation,
        crop_pct=config.get("crop_pct") or Facts.crop_pct,
    )


def _forward_features(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model.forward_features(images)


def _prefix_tokens(model: Any) -> int:
    """How many tokens stand before those of the places."""
    is_classed = getattr(model, "cls_token", None) is not None
    return int(getattr(model, "num_prefix_tokens", is_classed))


def _multiple(model: Any) -> int:
    """H and W must be multiples of the patch where the patches are cut without padding."""
    embedding = getattr(model, "patch_embed", None)
    if not isinstance(embedding, PatchEmbed) or getattr(embedding, "dynamic_img_pad", False):
        return 1
    size = embedding.patch_size
    return size if isinstance(size, int) else max(size)


def _pooling(model: Any) -> str | None:
    head = getattr(model, "head", None)
    for owner in (model, head):
        for pooling in (getattr(owner, "global_pool", None), getattr(owner, "pool_type", None)):
            if isinstance(pooling, nn.Module):
                pooling = getattr(pooling, "pool_type", None)
            if isinstance(pooling, str):
                return pooling
    return None


def _is_narrow(model: Any) -> bool:
    """Whether no wider layer stands between pooling and classifier (as in MobileNetV3)."""
    channels = model.num_features
    return getattr(model, "head_hidden_size", channels) == channels


def _norm_behind_pooling(model: Any) -> str | None:
    if not _is_narrow(model):
        return None
    for name in _NORMS:
        try:
            norm = model.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(norm, nn.LayerNorm):
            return name
    return None


def _head_fits(model: Any, names: tuple[str, ...]) -> bool:
    """Whether the published classifier is linear on the (normed) average of the map."""
    if len(names) != 1 or names[0].count(".") > 1:  # two heads; the last layer of a perceptron
        return False
    return _is_narrow(model) and _pooling(model) in _AVERAGE


def _classifier_of(model: Any) -> Linear | None:
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Linear):
        return None
    bias = classifier.bias
    return Linear(classifier.weight.detach(), None if bias is None else bias.detach())


def _conversion_of(model: Any) -> Callable[[dict[str, torch.Tensor], Any], Any] | None:
    """timm's own conversion of originals' files, which also resizes position embeddings."""
    return getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
