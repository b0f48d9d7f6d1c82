"""JSON files."""

import json
from pathlib import Path
from typing import Any

from common import text
from common.aliases import one_module
from common.files import atomic_write

one_module(__name__, "oass.tools.general.json_utils")


def read_json(filepath: str | Path) -> Any:
    """The file's content; UserError names a file that is missing or broken."""
    return text.read_json(filepath)


def write_json(filepath: str | Path, data: Any) -> None:
    """Write atomically."""
    atomic_write(Path(filepath), (json.dumps(data, indent=1) + "\n").encode())
