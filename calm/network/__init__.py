"""The networks, each made by a function of its name.

An example is `resnet50(num_classes=200, large_feature_map=True, attribution_method="CALM-EM")`. All
keep the original's state-dict keys, so that its checkpoints load as they are.
"""

from collections.abc import Callable
from typing import Any

from calm.network.head import AttributionNet
from calm.network.inception import build_inception_v3
from calm.network.resnet import build_resnet
from calm.network.small import SmallCam
from calm.network.universal import METHODS, UniversalProcess, canonical_method  # noqa: F401
from calm.network.vgg import build_vgg16
from common.aliases import one_module

one_module(__name__, "calm.network")


def _factory(name: str, build: Callable[..., AttributionNet]) -> Callable[..., AttributionNet]:
    def create(
        pretrained: bool = False,
        pretrained_path: str | None = None,
        num_classes: int = 1000,
        large_feature_map: bool = False,
        use_bn: bool = False,
        attribution_method: str = "CAM",
        prior_activation: str = "relu",
        prior_gradient: str = "detach",
        **_: object,
    ) -> AttributionNet:
        return build(
            pretrained=pretrained,
            pretrained_path=pretrained_path,
            num_classes=num_classes,
            large_feature_map=large_feature_map,
            use_bn=use_bn,
            attribution_method=canonical_method(attribution_method),
            prior_activation=prior_activation,
            prior_gradient=prior_gradient,
        )

    create.__name__ = name
    create.__doc__ = f"{name} with the two heads; see `calm.network.head.AttributionNet`."
    return create


def _small(pretrained: bool, pretrained_path: str | None, **kwargs: Any) -> SmallCam:
    if pretrained:
        raise ValueError("small has no ImageNet weights; train it with --pretrained=False")
    for unused in ("large_feature_map", "use_bn"):
        kwargs.pop(unused)
    return SmallCam(**kwargs)


resnet18 = _factory("resnet18", lambda **kwargs: build_resnet("resnet18", **kwargs))
resnet50 = _factory("resnet50", lambda **kwargs: build_resnet("resnet50", **kwargs))
vgg16 = _factory("vgg16", build_vgg16)
inception_v3 = _factory("inception_v3", build_inception_v3)
small = _factory("small", _small)

ARCHITECTURES = {
    "vgg16": vgg16,
    "resnet50": resnet50,
    "inception_v3": inception_v3,
    "resnet18": resnet18,
    "small": small,
}
