"""Large json files, read element by element: what is made of the whole is seven times the file."""

import codecs
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from common.text import unique_keys

BLOCK = 1 << 20  # bytes
SPACES = " \t\n\r"


class NotStreamed(ValueError):
    """The file is none that can be read element by element; `read_json` reads it, or says why."""


def read_lists(path: Path, takers: Mapping[str, Callable[[Any], object]]) -> dict[str, Any]:
    """The object that a json file holds, without the lists of `takers`, which must all be there.

    Every element of such a list is handed to its taker and then forgotten. NotStreamed for whatever
    `read_json` would refuse, and for much that it reads: takers may have been called by then.
    """
    content: dict[str, Any] = {}
    try:
        with path.open("rb") as file:
            stream = _Stream(file)
            stream.expect("{")
            for key in stream.keys():
                if key in content:
                    raise NotStreamed(f"the key {key!r} twice")
                content[key] = None
                if key in takers:
                    stream.hand_out(takers[key])
                else:
                    content[key] = stream.value()
            if stream.peek():
                raise NotStreamed("more behind the end")
    except NotStreamed:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise NotStreamed(str(error)) from error
    if not takers.keys() <= content.keys():
        raise NotStreamed("a list is not there")
    return {key: value for key, value in content.items() if key not in takers}


class _Stream:
    """The text of a file from some place on, as much as is needed to decode what comes next."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.utf8 = codecs.getincrementaldecoder("utf-8")()
        self.decode = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode
        self.text = ""
        self.at = 0
        self.is_whole = False

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in SPACES:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if self.is_whole:
                return ""
            self._read()

    def expect(self, wanted: str) -> str:
        """Step over the next character, one of `wanted`."""
        found = self.peek()
        if not found or found not in wanted:
            raise NotStreamed(f"{found!r} in place of {wanted!r}")
        self.at += 1
        return found

    def value(self) -> Any:
        """Step over the next value, and return it."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except json.JSONDecodeError:
                if self.is_whole:
                    raise
            else:
                if end < len(self.text) or self.is_whole:  # else a number may go on
                    self.at = end
                    return value
            self._read()

    def keys(self) -> Any:
        """The keys of an object whose brace was read; who asks reads the value after each."""
        if self.peek() == "}":
            self.at += 1
            return
        while True:
            if self.peek() != '"':
                raise NotStreamed("no key")
            key = self.value()
            self.expect(":")
            yield key
            if self.expect(",}") == "}":
                return

    def hand_out(self, take: Callable[[Any], object]) -> None:
        """Every element of the list that comes next."""
        self.expect("[")
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            take(self.value())
            if self.expect(",]") == "]":
                return

    def _read(self) -> None:
        """One block more; of a long element as much again."""
        rest = self.text[self.at :]
        data = self.file.read(max(BLOCK, len(rest)))
        self.is_whole = not data
        more = self.utf8.decode(data, final=self.is_whole)
        if "\0" in more or "\ufeff" in more:
            raise NotStreamed("a mark that is no text")
        self.text = rest + more
        self.at = 0
