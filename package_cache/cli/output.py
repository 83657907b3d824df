"""What commands print: columns for people, JSON for scripts, a status line while they work, a report at the end.

Nothing that a client or a source sent can steer the terminal.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from package_cache.cli.arguments import DONE, FAILED, INTERRUPTED

CHUNK = 1 << 18
"""Bytes to be read at a time, for `pour`."""
_SHOW_SECONDS = 0.2


def pour(pieces: Iterable[bytes]) -> None:
    """Write bytes as they are to standard output."""
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def shown(text: str) -> str:
    """The text, with everything escaped that a terminal would not show as a character."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def line(text: str = "") -> None:
    """Print a line, with everything escaped that a terminal, or its encoding, has no character for."""
    text = shown(text)
    encoding = sys.stdout.encoding or "utf-8"  # a stream in memory has none
    print(text.encode(encoding, "backslashreplace").decode(encoding))  # noqa: T201 - what was asked for


def path(name: str) -> None:
    """Print the path of a file. A program gets it unescaped, since it is to find the file there."""
    if sys.stdout.isatty():
        line(name)
    else:
        pour([os.fsencode(name), b"\n"])


def document(value: object) -> None:
    """Print a value as one line of JSON."""
    print(json.dumps(value))  # noqa: T201 - what was asked for


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns as wide as they need to be."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for words in lines:
        line("  ".join(word.ljust(width) for word, width in zip(words, widths, strict=True)).rstrip())


def moment(seconds: float) -> str:
    """A moment in local time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def count(number: int, one: str, many: str) -> str:
    """A number and what it counts."""
    return f"{number} {one if number == 1 else many}"


def report(document_of: Mapping[str, object], lines: Iterable[str], *, as_json: bool, whole: bool, failed: bool) -> int:
    """Print what a long command did, as JSON or as lines; its exit code. Unless it is `whole`, it was interrupted."""
    if as_json:
        document({"whole": whole, **document_of})
    else:
        for text in lines:
            line(text)
        if not whole:
            line("interrupted: run it again to resume")
    if not whole:
        return INTERRUPTED
    return FAILED if failed else DONE


class StatusLine:
    """A line on the terminal that says how far a command is; nothing where standard error is no terminal.

    `text` is called for it when it is about to be drawn again.
    """

    def __init__(self, text: Callable[[], str]) -> None:
        self.visible = sys.stderr.isatty()
        self._text = text
        self._drawn = 0.0

    def step(self) -> None:
        """Something was done: draw the line again, unless that was done a moment ago."""
        now = time.monotonic()
        if self.visible and now - self._drawn > _SHOW_SECONDS:
            self._drawn = now
            self._write(self._text())

    def clear(self) -> None:
        """Leave the terminal as it was."""
        if self.visible:
            self._write("")

    def through(self, work: Callable[[], None]) -> bool:
        """Do some work; whether it came to its end, and was not interrupted by Ctrl-C. Then the line is removed."""
        try:
            work()
        except KeyboardInterrupt:
            return False
        finally:
            self.clear()
        return True

    @staticmethod
    def _write(text: str) -> None:
        # What went over the end of the line would stay there.
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
        sys.stderr.write(f"\r\x1b[K{text[: columns - 1] if columns else text}")
        sys.stderr.flush()


def percentage(done: int, total: int) -> str:
    """How much of the whole is done; 100 % where there is nothing to do."""
    return f"{min(100, 100 * done // total) if total else 100:3d} %"
