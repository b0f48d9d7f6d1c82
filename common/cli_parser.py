"""The parser of every script: errors on one line, help that says the defaults, --version."""

import argparse
import platform
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from common.cli_help import ReadableHelp


class Version(argparse.Action):
    """--version: ours, and those of what the numbers depend on; nothing heavy is imported."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS)
        self.help = "print the versions of this repository, Python and torch"

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
        kwargs.setdefault("formatter_class", ReadableHelp)
        self.sample: dict[str, Mapping[str, Any]] = {}
        super().__init__(*args, **kwargs)
        if self.add_help:
            self.add_argument("--version", action=Version)

    def tell_sample(self, **defaults: Mapping[str, Any]) -> None:
        """Let --help name the defaults that a run on an offline sample has: name -> its layer."""
        self.sample = dict(defaults)

    def _get_formatter(self) -> argparse.HelpFormatter:
        formatter = super()._get_formatter()
        if isinstance(formatter, ReadableHelp):
            formatter.sample = self.sample
        return formatter

    def error(self, message: str) -> NoReturn:
        """Print `prog: error: message` on one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see --help)\n")
