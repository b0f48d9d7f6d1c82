"""Where a run stands and what it measured, as its checkpoints hold them, and checks of both."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from common.errors import UserError

NOT_WHOLE = "not a whole checkpoint of a run"
_COUNTS = ("epoch", "batch", "step", "images", "skipped")


@dataclass
class Progress:
    """Where a run stands; saved in every checkpoint. `batch` is the next batch of `epoch`."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    images: int = 0
    skipped: int = 0
    seconds: float = 0.0
    best: float | None = None
    finished: bool = False


def read_progress(values: Mapping[str, Any], source: object) -> Progress:
    """A checkpoint's progress; UserError names the first value that cannot be one."""
    names = {field.name for field in fields(Progress)}
    if set(values) != names:
        different = ", ".join(sorted(str(name) for name in names ^ set(values)))
        raise UserError(f"{source}: {NOT_WHOLE} (progress: {different})")

    seconds = values["seconds"]
    best = values["best"]
    fits = {name: _is_count(values[name]) for name in _COUNTS}
    if fits["batch"] and fits["step"]:
        fits["batch"] = values["batch"] <= values["step"]
    fits["seconds"] = _is_number(seconds) and 0 <= seconds < math.inf
    fits["best"] = best is None or _is_number(best)
    fits["finished"] = isinstance(values["finished"], bool)
    for name, is_fine in fits.items():
        if not is_fine:
            raise UserError(f"{source}: {NOT_WHOLE} ({name} is {values[name]!r:.40})")

    progress = Progress(**values)
    if best is not None and math.isnan(best):
        progress.best = None
    return progress


def pack_lines(lines: list[dict[str, Any]]) -> str:
    """The lines of metrics.jsonl for a checkpoint: one text, which torch saves at once."""
    return json.dumps(lines)


def read_lines(packed: str | list[Any], source: object) -> list[dict[str, Any]]:
    """A checkpoint's lines of metrics.jsonl; UserError names the first that cannot be one.

    Earlier checkpoints hold them as a list.
    """
    lines = packed
    if isinstance(packed, str):
        try:
            lines = json.loads(packed)
        except ValueError as error:
            raise UserError(f"{source}: {NOT_WHOLE} (metrics: {error})") from error
    if not isinstance(lines, list):
        raise UserError(f"{source}: {NOT_WHOLE} (metrics: not a list)")
    for number, line in enumerate(lines, 1):
        if not _is_line(line):
            raise UserError(f"{source}: {NOT_WHOLE} (line {number} of the metrics is {line!r:.40})")
    return list(lines)


def _is_line(line: Any) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("split"), str):
        return False
    try:
        json.dumps(line, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return _is_count(line.get("step")) and _is_count(line.get("epoch"))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
