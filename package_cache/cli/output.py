"""What commands print: columns for people, JSON for scripts. Nothing that a client or a source said steers the terminal."""

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence

CHUNK = 1 << 18
"""Bytes to be read at a time, for `pour`."""


def pour(pieces: Iterable[bytes]) -> None:
    """Write bytes as they are to standard output."""
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def shown(text: str) -> str:
    """A text with everything escaped that a terminal would not show as a character."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def line(text: str = "") -> None:
    """Print a line, with everything escaped that a terminal, or its encoding, has no character for."""
    text = shown(text)
    encoding = sys.stdout.encoding or "utf-8"  # a stream in memory has none
    print(text.encode(encoding, "backslashreplace").decode(encoding))  # noqa: T201 - what was asked for


def path(name: str) -> None:
    """Print the path of a file: for a program as it is, since that is to find the file there."""
    if sys.stdout.isatty():
        line(name)
    else:
        pour([os.fsencode(name), b"\n"])


def document(value: object) -> None:
    """Print a value as one line of JSON."""
    print(json.dumps(value))  # noqa: T201 - what was asked for


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> None:
    """Print rows in columns as wide as they need to be; the first `right` columns are aligned to the right."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for words in lines:
        cells = (
            word.rjust(width) if at < right else word.ljust(width)
            for at, (word, width) in enumerate(zip(words, widths, strict=True))
        )
        line("  ".join(cells).rstrip())


def moment(seconds: float) -> str:
    """A moment in local time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def count(number: int, one: str, many: str) -> str:
    """A number and what it counts."""
    return f"{number} {one if number == 1 else many}"
