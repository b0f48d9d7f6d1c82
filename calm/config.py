"""The original's config.py.

`get_configs(argv)` gives the settings as one namespace; they live in options.py.
"""

import argparse
from collections.abc import Sequence

from calm.data_folders import set_data_path
from calm.data_lists import Attributes
from calm.options import parse_flags
from calm.options_flags import str2bool
from common.aliases import one_module
from common.cli import UserError

one_module(__name__, "calm.config")

__all__ = ["get_configs", "mch", "set_data_path", "str2bool"]

mch = Attributes


def get_configs(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags as one namespace.

    It also has log_folder (made here), reporter_root and data_paths. No data, checkpoint or GPU is
    needed.
    """
    settings = parse_flags(argv)
    folder = settings.log_folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from error

    args = argparse.Namespace(**vars(settings.args))
    args.log_folder = folder
    args.reporter_root = folder / "reports"
    args.data_paths = set_data_path(args.dataset_name, args.data_root)
    return args
