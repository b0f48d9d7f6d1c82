"""Networks for small images.

`resnet` and `densenet` are the factories, `convnet` is the module with `Cnn`.
"""

from cavl.cifar_models import convnet
from cavl.cifar_models.densenet import densenet
from cavl.cifar_models.resnet import resnet
from common.aliases import one_module

one_module(__name__, "cavl.cifar_models")

__all__ = ["convnet", "densenet", "resnet"]
