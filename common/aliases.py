"""One module under two names.

The originals are used from inside their folder: `cd mile`, then `from config import config`. Python
would load the file a second time under the short name, with classes and settings of its own that
the package never sees.
"""

import importlib
import sys


def one_module(name: str, full_name: str) -> None:
    """Make the module that is being imported as `name` the same object as `full_name`.

    Called once in a module's body with its `__name__`. Under its full name nothing happens, nor
    where the file is a script (`__main__`, in loader workers `__mp_main__`). Under another name the
    full one is imported and takes that name in `sys.modules`, which is what the import statement
    then hands out; a package's loaded modules take theirs with it.

    >>> one_module(__name__, "common.aliases")
    """
    if name == full_name or name.startswith("__"):
        return

    sys.modules[name] = importlib.import_module(full_name)

    # Without this, `from cifar_models.resnet import ResNet` would load resnet again and put the
    # module in the place of the package's function of the same name.
    for loaded, module in list(sys.modules.items()):
        if loaded.startswith(f"{full_name}."):
            sys.modules[name + loaded[len(full_name) :]] = module
