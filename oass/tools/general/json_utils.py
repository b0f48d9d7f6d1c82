"""JSON files."""

import json
from pathlib import Path
from typing import Any

from common.checkpoint import atomic_write
from common.cli import UserError


def read_json(filepath: str | Path) -> Any:
    """The file's content; UserError names a file that is missing or broken."""
    try:
        return json.loads(Path(filepath).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{filepath}: not a readable JSON file ({error})") from error


def write_json(filepath: str | Path, data: Any) -> None:
    """Write atomically."""
    atomic_write(Path(filepath), (json.dumps(data, indent=1) + "\n").encode())
