"""Globs on paths, as configuration has them.

`*` stands for any text within a segment and `**` for any text at all, `?` for one character but a slash, `[a-z]` for one of
a set and `[!a-z]` for one that is not in it. A glob without a slash is matched against the last segment, any other against
the whole path, from its beginning.
"""

import re

_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_ANY = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def glob_pattern(glob: str) -> re.Pattern[str]:
    """What a glob matches, of paths that are decoded and begin with a slash. Raises ValueError."""
    if not glob:
        raise ValueError("a glob that is empty matches nothing; /** matches everything")
    whole = f"**/{glob}" if "/" not in glob else glob.removeprefix("/")
    try:
        return re.compile("/" + "".join(_expression(token) for token in _TOKEN.findall(whole)), re.DOTALL)
    except re.error:
        raise ValueError(f"{glob!r} is no glob: its brackets name no set of characters") from None


def _expression(token: str) -> str:
    if token in _ANY:
        return _ANY[token]
    if token.startswith("[") and len(token) > 1:
        inner = token[1:-1].replace("\\", r"\\").replace("[", r"\[")
        return f"(?!/)[{'^' + inner[1:] if inner.startswith('!') else inner.replace('^', chr(92) + '^', 1)}]"
    return re.escape(token)
