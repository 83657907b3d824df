"""Globs on paths, as configuration has them.

`*` stands for any text within a segment and `**` for any text at all; `**/` at the beginning of a segment stands for any
folders, or none. `?` stands for one character but a slash, `[a-z]` for one of a set and `[!a-z]` for one that is not in it.
A glob without a slash is matched against the last segment, any other against the whole path, from its beginning.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import count

_TOKEN = re.compile(r"(?:(?<=/)|^)\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_RANGE = re.compile(r"(.)(?:-(.))?", re.DOTALL)
_FOLDERS, _ANY, _STAR = "**/", "**", "*"
_EAGER = {_FOLDERS: "(?:.*/)?", _ANY: ".*", _STAR: "[^/]*", "": ""}
_LAZY = {_FOLDERS: "(?:|.*?/)", _ANY: ".*?", _STAR: "[^/]*?", "": ""}


def glob_pattern(glob: str) -> re.Pattern[str]:
    """What a glob matches, of paths that are decoded and begin with a slash. Raises ValueError."""
    if not glob:
        raise ValueError("a glob that is empty matches nothing; /** matches everything")
    whole = f"**/{glob}" if "/" not in glob else glob.removeprefix("/")
    try:
        return re.compile("/" + _expression(_TOKEN.findall(whole)), re.DOTALL)
    except re.error:
        raise ValueError(f"{glob!r} is no glob: its brackets name no set of characters") from None


def _expression(tokens: Iterable[str]) -> str:
    """The tokens as a regular expression of which a long path cannot make a long search.

    What stands between two stars is taken where it comes first, since whatever may follow it elsewhere may follow it there;
    and so is what stands between two double stars. Every place is tried for what comes last, only.
    """
    numbers = count()
    begin, *middle = _chunks(tokens)
    if not middle:
        return _of_chunk(begin, numbers, _EAGER, ended=True)
    *middle, end = middle
    taken = (_first(_of_chunk(chunk, numbers, _LAZY, ended=False), numbers) for chunk in middle)
    return "".join(
        (
            _of_chunk(begin, numbers, _EAGER, ended=False),
            *taken,
            _of_chunk(end, numbers, _EAGER, ended=True),
        )
    )


def _chunks(tokens: Iterable[str]) -> list[list[list[str]]]:
    """The tokens in pieces, which begin with their star, and the pieces in chunks, which begin with a double star."""
    chunks: list[list[list[str]]] = [[["", ""]]]
    for token in tokens:
        if token in (_FOLDERS, _ANY):
            chunks.append([[token, ""]])
        elif token == _STAR:
            chunks[-1].append([token, ""])
        else:
            chunks[-1][-1][1] += _one(token)
    return chunks


def _of_chunk(pieces: list[list[str]], numbers: Iterator[int], stars: dict[str, str], *, ended: bool) -> str:
    (star, text), *rest = pieces
    found = stars[star] + text
    for number, (star, text) in enumerate(rest, 1):
        is_last = ended and number == len(rest)
        found += _EAGER[star] + text if is_last else _first(_LAZY[star] + text, numbers)
    return found


def _first(expression: str, numbers: Iterator[int]) -> str:
    """What an expression matches first, and nothing else instead."""
    # An atomic group would do, but for the first releases of Python 3.11.
    name = f"g{next(numbers)}"
    return f"(?=(?P<{name}>{expression}))(?P={name})"


def _one(word: str) -> str:
    """One character of a path."""
    if word == "?":
        return "[^/]"
    if not word.startswith("[") or word == "[":
        return re.escape(word)
    inner, mark = (word[2:-1], "^") if word.startswith("[!") else (word[1:-1], "")
    return f"(?!/)[{mark}{_RANGE.sub(_range, inner)}]"


def _range(match: re.Match[str]) -> str:
    """A character of a set, or two with all between them."""
    first, last = match.groups()
    return re.escape(first) if last is None else f"{re.escape(first)}-{re.escape(last)}"
