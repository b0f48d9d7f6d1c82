"""The released logger interface: `load_logger(kind)(folder)` with log, log_dict, report, finalize_log."""

import json
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from common.aliases import one_module

one_module(__name__, "calm.logger")

LOGGER_TYPES = ("PythonLogger", "tensorboard")


class PythonLogger:
    """Prints what it is told and keeps it; `finalize_log` writes FOLDER/log.json."""

    def __init__(self, log_folder: str | Path) -> None:
        self.folder, self.entries = Path(log_folder), []

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
        shown = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()
        )
        print(shown if step is None else f"step {step}: {shown}", flush=True)

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
    """The logger class of a name; ValueError lists the choices."""
    classes = {"PythonLogger": PythonLogger, "tensorboard": TensorboardLogger}
    if logger_type not in classes:
        raise ValueError(f"logger_type {logger_type!r}: choose from {', '.join(classes)}")
    return classes[logger_type]
