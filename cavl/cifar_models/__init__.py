"""Networks for small images. `resnet` and `densenet` are the factories, `convnet` is the module with `Cnn`."""

from cavl.cifar_models import convnet
from cavl.cifar_models.densenet import densenet
from cavl.cifar_models.resnet import resnet

__all__ = ["convnet", "densenet", "resnet"]
