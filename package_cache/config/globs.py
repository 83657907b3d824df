"""Globs on paths, as in the configuration.

`*` matches any characters within a segment and `**` any characters at all; `**/` at the beginning of a segment matches any
folders, or none. `?` matches one character but a slash, `[a-z]` one of a set and `[!a-z]` one that is not in the set. A
glob without a slash is matched against the last segment, any other against the whole path, from its beginning.
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
    """The pattern of a glob, for paths that are decoded and begin with a slash. Raises ValueError."""
    if not glob:
        raise ValueError("a glob that is empty matches nothing; /** matches everything")
    whole = f"**/{glob}" if "/" not in glob else glob.removeprefix("/")
    try:
        return re.compile("/" + _expression(_TOKEN.findall(whole)), re.DOTALL)
    except re.error:
        raise ValueError(f"{glob!r} is no glob: its brackets name no set of characters") from None


def _expression(tokens: Iterable[str]) -> str:
    """The tokens as a regular expression that takes no long search in a long path.

    The text between two stars is matched where it comes first, since whatever may follow it elsewhere may follow it there;
    and so is the text between two double stars. Only for the last text is every place tried.
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
    """The tokens in pieces that begin with a star, and the pieces in chunks that begin with a double star."""
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
    """An expression without backtracking: it matches where it matches first, or not at all."""
    # The first releases of Python 3.11 have errors in atomic groups.
    name = f"g{next(numbers)}"
    return f"(?=(?P<{name}>{expression}))(?P={name})"


def _one(word: str) -> str:
    """The expression for a token that matches one character of a path."""
    if word == "?":
        return "[^/]"
    if not word.startswith("[") or word == "[":
        return re.escape(word)
    inner, mark = (word[2:-1], "^") if word.startswith("[!") else (word[1:-1], "")
    return f"(?!/)[{mark}{_RANGE.sub(_range, inner)}]"


def _range(match: re.Match[str]) -> str:
    """A character of a set, or a range of them."""
    first, last = match.groups()
    return re.escape(first) if last is None else f"{re.escape(first)}-{re.escape(last)}"
