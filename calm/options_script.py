"""What the evaluation scripts have in common: how one starts, and how it ends."""

from collections.abc import Callable, Sequence
from functools import partial

from calm.options import Settings, parse
from common.aliases import one_module
from common.cli import parse_or_exit, run_main

one_module(__name__, "calm.options_script")

__all__ = ["Script", "Settings"]


class Script:
    """A script that `parse` knows.

    Where its file is the program, its command line is parsed at once, so that --help and mistakes
    are answered before torch is imported.

        script = Script("eval_wsol", __name__)

        import torch

        def main(argv=None, *, settings=None):
            settings = script.settings(argv, settings)

        script.run(main)

    Args:
        name: of the file, without its ending.
        module: `__name__` there.
    """

    def __init__(self, name: str, module: str) -> None:
        self.name = name
        self.is_program = module == "__main__"
        self._parsed: Settings | None = None
        if self.is_program:
            self._parsed = parse_or_exit(partial(parse, script=name))

    def settings(self, argv: Sequence[str] | None, parsed: Settings | None) -> Settings:
        """Those that were parsed already, else those of a command line."""
        return parsed or parse(argv, script=self.name)

    def run(self, main: Callable[..., int | None]) -> None:
        """Run `main`, where the file is the program; a user's mistake ends in one line."""
        if self.is_program:
            run_main(partial(main, settings=self._parsed))
