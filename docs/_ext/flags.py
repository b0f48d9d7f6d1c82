"""A directive that lists the flags of a script, from the parser that answers its --help.

    ```{flags} cavl/main.py
    ```

    ```{flags} common/shards.py pack
    ```

The second form is for an action of a script that has several. The script is run up to the moment at
which it would print its help, in this process; torch is not imported by then, but for scripts that
parse late.
"""

import argparse
import contextlib
import io
import runpy
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from docs._ext.places import ROOT


@dataclass(frozen=True)
class Flag:
    """One flag: how it is written, what its help says, its default.

    A flag that is off, or nothing, where it is not given has the default "". One that must be given
    has "required".
    """

    written: str
    help: str
    default: str


def parser_of(script: str, *action: str) -> argparse.ArgumentParser:
    """The parser with which a script answers --help; LookupError where it has none.

    Args:
        script: a file, from the repository's root.
        action: what stands between the script and --help.
    """
    found: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, file: object = None) -> None:
        found.append(parser)

    with (
        mock.patch.object(argparse.ArgumentParser, "print_help", keep),
        mock.patch.object(sys, "argv", [str(ROOT / script), *action, "--help"]),
        mock.patch.object(sys, "path", [*sys.path]),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.suppress(SystemExit),
        _same_signals(),
    ):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    if not found:
        raise LookupError(f"{script} has no --help")
    return found[0]


@contextlib.contextmanager
def _same_signals() -> Iterator[None]:
    """Scripts take SIGINT and SIGTERM; afterwards both are as before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def groups_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[Flag]]]:
    """The parser's groups that have flags, in the order of its help: title, flags."""
    formatter = argparse.HelpFormatter(parser.prog)
    for group in parser._action_groups:
        flags = []
        for action in group._group_actions:
            is_usual = isinstance(action, argparse._HelpAction) or "--version" in _names(action)
            if action.help is not argparse.SUPPRESS and not is_usual:
                flags.append(_flag(action, formatter))
        if flags:
            yield group.title or "", flags


def _names(action: argparse.Action) -> list[str]:
    return list(action.option_strings)


def _flag(action: argparse.Action, formatter: argparse.HelpFormatter) -> Flag:
    metavar = formatter._get_default_metavar_for_optional(action)
    if not action.option_strings:
        metavar = formatter._get_default_metavar_for_positional(action)
    value = formatter._format_args(action, metavar)
    written = ", ".join(action.option_strings)
    text = formatter._expand_help(action) if action.help else ""
    return Flag(f"{written} {value}".strip(), " ".join(text.split()), _default(action))


def _default(action: argparse.Action) -> str:
    if action.required and action.option_strings:
        return "required"
    value = action.default
    if value is None or value is argparse.SUPPRESS or isinstance(value, bool) or value == []:
        return ""
    path = Path(str(value))
    if path.is_relative_to(ROOT):  # not where the repository lies when the site is built
        return path.relative_to(ROOT).as_posix()
    return str(value)


class Flags(SphinxDirective):
    """`{flags} SCRIPT`, or `{flags} SCRIPT ACTION`."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """What the script is for, then a table for each group of flags."""
        script = self.arguments[0]
        try:
            parser = parser_of(*self.arguments)
        except LookupError as error:
            raise self.error(str(error)) from error
        self.env.note_dependency(str(ROOT / script))

        found: list[nodes.Node] = []
        if parser.description:
            found.append(nodes.paragraph("", parser.description))
        for title, flags in groups_of(parser):
            found.append(nodes.rubric("", title))
            found.append(_table(flags))
        return found


def _table(flags: list[Flag]) -> nodes.table:
    """A row for each flag: flag, what it does, default."""
    table = nodes.table(classes=["flags"])
    group = nodes.tgroup(cols=3)
    group += [nodes.colspec(colwidth=width) for width in (30, 50, 20)]
    head = nodes.thead()
    head += _row(*[nodes.Text(word) for word in ("flag", "what it does", "default")])
    body = nodes.tbody()
    for flag in flags:
        written = nodes.literal(flag.written, flag.written)
        default: nodes.Node = nodes.Text("")
        if flag.default:
            default = nodes.literal(flag.default, flag.default)
        body += _row(written, nodes.Text(flag.help), default)
    group += [head, body]
    table += group
    return table


def _row(*cells: nodes.Node) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        row += nodes.entry("", nodes.paragraph("", "", cell))
    return row


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the directive to Sphinx."""
    app.add_directive("flags", Flags)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
