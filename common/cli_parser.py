"""The parser of every script: errors on one line, help that says the defaults, --version."""

import argparse
import platform
from collections.abc import Sequence
from typing import Any, NoReturn


class DefaultsThatSay(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the default of each flag, where there is one to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_empty = action.default is None or action.default is False or action.default == []
        if is_empty or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Version(argparse.Action):
    """--version: ours, and those of what the numbers depend on; nothing heavy is imported."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS)
        self.help = "print versions, of this repository, Python, torch and accelerate, and end"

    def __call__(self, parser: argparse.ArgumentParser, *_args: Any) -> NoReturn:
        """Print one line on stdout, exit with status 0."""
        told_versions = [f"Python {platform.python_version()}"]
        for name in ("torch", "torchvision", "accelerate"):
            told_versions.append(f"{name} {_version_of(name)}")
        ours = f"weak-supervision-reproductions {_version_of('weak-supervision-reproductions')}"
        print(f"{ours} ({', '.join(told_versions)})")
        parser.exit()


def _version_of(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


class OneLineParser(argparse.ArgumentParser):
    """argparse, with errors on one line, no abbreviated flags, and --version."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", DefaultsThatSay)
        super().__init__(*args, **kwargs)
        if self.add_help:
            self.add_argument("--version", action=Version)

    def error(self, message: str) -> NoReturn:
        """Print `prog: error: message` on one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see --help)\n")
