"""What is kept beside a run's own files.

These are the released loggers and reports, and a copy of what is printed.
"""

import io
import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from tensorboardX import SummaryWriter

from common.aliases import one_module
from common.files import atomic_write

one_module(__name__, "calm.report_logger")


class PythonLogger:
    """Prints what it is told and keeps it; `finalize_log` writes FOLDER/log.json."""

    def __init__(self, log_folder: str | Path) -> None:
        self.folder = Path(log_folder)
        self.entries: list[dict[str, Any]] = []

    def log(self, key: str, value: Any, step: int | None = None) -> None:
        """Note one value."""
        self.entries.append({"key": key, "value": value, "step": step})

    def log_dict(self, values: dict[str, Any], step: int | None = None) -> None:
        """Note several values."""
        for key, value in values.items():
            self.log(key, value, step)

    def report(self, step: int | None = None, **values: Any) -> None:
        """Note values and print them on one line."""
        self.log_dict(values, step)
        parts = []
        for key, value in values.items():
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            parts.append(f"{key} {shown}")
        start = "" if step is None else f"step {step}: "
        print(start + ", ".join(parts), flush=True)

    def finalize_log(self) -> None:
        """Write everything as JSON."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log.json").write_text(
            json.dumps(self.entries, indent=1, default=float) + "\n"
        )


class TensorboardLogger(PythonLogger):
    """The same, and numbers also as TensorBoard scalars in FOLDER/tensorboard_logger."""

    def __init__(self, log_folder: str | Path) -> None:
        super().__init__(log_folder)
        self.writer = SummaryWriter(str(self.folder / "tensorboard_logger"))

    def log(self, key: str, value: Any, step: int | None = None) -> None:
        """Note one value; numbers become scalars."""
        super().log(key, value, step)
        if isinstance(value, (int, float)):
            self.writer.add_scalar(key, value, step or 0)

    def finalize_log(self) -> None:
        """Write the JSON and close TensorBoard."""
        super().finalize_log()
        self.writer.close()


def load_logger(logger_type: str) -> type[PythonLogger]:
    """The class of a name, made as `load_logger(kind)(folder)`; ValueError lists the choices."""
    classes = {"PythonLogger": PythonLogger, "tensorboard": TensorboardLogger}
    if logger_type not in classes:
        raise ValueError(f"logger_type {logger_type!r}: choose from {', '.join(classes)}")
    return classes[logger_type]


class Reporter:
    """Collects the values of one epoch and writes them as ROOT/EPOCH.json."""

    def __init__(self, root: str | Path, epoch: int | str) -> None:
        self.path = Path(root) / f"{epoch}.json"
        self.epoch_dict: dict[str, Any] = {"epoch": epoch}

    def add(self, key: str, val: Any) -> None:
        """Note a value under a name."""
        self.epoch_dict[key] = val

    def write(self) -> Path:
        """Write the file atomically and return its path."""
        text = json.dumps(self.epoch_dict, indent=1, default=float)
        atomic_write(self.path, f"{text}\n".encode())
        return self.path


class Logger:
    """While open as a context, copies what is printed to a file.

    stdout is restored on leaving.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.terminal = sys.stdout
        self.file: TextIO = io.StringIO()  # until it is entered

    def __enter__(self) -> "Logger":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("a")
        self.terminal = sys.stdout
        sys.stdout = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.stdout = self.terminal
        self.file.close()

    def write(self, message: str) -> int:
        """Write to the terminal and the file."""
        self.file.write(message)
        return self.terminal.write(message)

    def flush(self) -> None:
        """Flush both."""
        self.file.flush()
        self.terminal.flush()

    def isatty(self) -> bool:
        """What the terminal says."""
        return self.terminal.isatty()
