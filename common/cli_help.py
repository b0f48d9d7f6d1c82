"""What --help says of each flag: a short name for its value, choices, default, sample's default."""

import argparse
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH = 100  # columns, of a page that is no terminal, and at most
LEFT = 28  # columns of the flags; choices that do not fit there stand in the text
MANY = 8  # flags, from which on the usage names the required ones only
SAYS_DEFAULT = re.compile(r"\(default|default:|default follows")
NOTE = re.compile(r"(.*\(default.*)\)", re.DOTALL)
ARGPARSES_OWN = " (default: %(default)s)"  # of BooleanOptionalAction before Python 3.13


class ReadableHelp(argparse.HelpFormatter):
    """A line a flag where it fits. `sample`: name of a sample -> the defaults that it changes."""

    def __init__(self, prog: str, sample: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        columns = WIDTH
        if os.environ.get("COLUMNS") or os.isatty(1):
            columns = shutil.get_terminal_size().columns
        super().__init__(prog, max_help_position=LEFT, width=min(columns, WIDTH))
        self.sample = sample or {}

    # --- the left side ---

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return metavar_of(action)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Any:
        if action.metavar is None and action.choices is not None and not _stand_beside(action):
            return lambda size: ("NAME",) * size
        return super()._metavar_formatter(action, default_metavar)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        if isinstance(action, argparse.BooleanOptionalAction):
            return f"--[no-]{action.option_strings[0].removeprefix('--')}"
        spelled: dict[str, str] = {}
        for flag in action.option_strings:  # the same with another dash is one flag
            spelled.setdefault(flag.lstrip("-").replace("-", "_"), flag)
        value = ""
        if action.nargs != 0:
            value = f" {self._format_args(action, metavar_of(action))}"
        return ", ".join(spelled.values()) + value

    # --- the right side ---

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").replace(ARGPARSES_OWN, "")
        notes = list(self._notes(action, text))
        if not notes:
            return text
        told = "; ".join(notes).replace("%", "%%")
        has_notes = NOTE.fullmatch(text)
        if has_notes is not None:
            return f"{has_notes[1]}; {told})"
        return f"{text} ({told})".lstrip()

    def _notes(self, action: argparse.Action, text: str) -> Iterable[str]:
        if action.choices is not None and action.option_strings and not _stand_beside(action):
            names = [str(name) for name in action.choices]
            if not all(name in text for name in names):
                yield ", ".join(names)
        if not SAYS_DEFAULT.search(text) and _is_worth_telling(action.default):
            yield f"default {shown(action.default)}"
        if "sample" not in text:
            yield from self._of_samples(action)

    def _of_samples(self, action: argparse.Action) -> Iterable[str]:
        """What a sample run takes in the place of the default."""
        names_of: dict[str, list[str]] = {}
        for name, layer in self.sample.items():
            if action.dest in layer and layer[action.dest] != action.default:
                names_of.setdefault(shown(layer[action.dest]), []).append(name)
        if [*self.sample] in names_of.values() and len(names_of) == 1:
            yield f"{next(iter(names_of))} on the sample"
        elif names_of:
            each = [f"{value} ({', '.join(names)})" for value, names in names_of.items()]
            yield f"on the sample {', '.join(each)}"

    # --- the first line ---

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        """The usage; of many flags only what must be given."""
        actions = list(actions)
        flags = [action for action in actions if action.option_strings]
        if usage is None and len(flags) > MANY:
            usage = " ".join(["%(prog)s", *self._required(actions), "[FLAG ...]"])
        super().add_usage(usage, actions, groups, prefix)

    def _required(self, actions: Sequence[argparse.Action]) -> Iterable[str]:
        for action in actions:
            if not action.option_strings:
                yield self._format_args(action, self._get_default_metavar_for_positional(action))
            elif action.required:
                yield f"{action.option_strings[0]} {self._format_args(action, metavar_of(action))}"


def metavar_of(action: argparse.Action) -> str:
    """What stands for a flag's value: what it says, else N, X, BOOL, FILE, DIR, PATH or NAME."""
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}" if _stand_beside(action) else "NAME"
    told = getattr(action.type, "metavar", None)
    if told is not None:
        return told
    if isinstance(action.default, bool):
        return "BOOL"
    if action.type is int or isinstance(action.default, int):
        return "N"
    if action.type is float or isinstance(action.default, float):
        return "X"
    is_place = re.search(r"(path|root|dir|file|data|metadata|checkpoint)$", action.dest)
    if action.type is Path or is_place is not None:
        return "PATH"
    return "NAME"


def shown(value: Any) -> str:
    """A default as a user would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(shown, value))
    return "none" if value is None else str(value)


def _is_worth_telling(default: Any) -> bool:
    is_switched_off = default is None or default is False
    return not is_switched_off and default not in ("", argparse.SUPPRESS) and default != []


def _stand_beside(action: argparse.Action) -> bool:
    """Whether a flag's choices are short enough to stand beside it."""
    flag = max(action.option_strings, key=len, default="")
    return len(f"  {flag} {{{','.join(map(str, action.choices or ()))}}}  ") <= LEFT
