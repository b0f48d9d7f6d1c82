"""The methods that CAVL is compared with, a file each.

A seventh is one more file: its name is the value of -method, and its `METHOD` a dataclass that
derives from `cavl.method.PartialLabelMethod` and says init, loss and update. A field of it is a
flag of main.py of the same name (cavl/options.py).
"""

from importlib import import_module
from pkgutil import iter_modules

from cavl.method import PartialLabelMethod

BASELINES: dict[str, type[PartialLabelMethod]] = {}
for _module in iter_modules(__path__):
    BASELINES[_module.name] = import_module(f"{__name__}.{_module.name}").METHOD
