"""What a client's Accept makes of a media type (RFC 9110, section 12.5.1)."""

import re

from package_cache.rules.http.fields import media_type

_TYPE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)/([!#$%&'*+.^_`|~0-9A-Za-z-]+)")
_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")

_AROUND = ' \t"'


def quality(accept: str | None, content_type: str | None) -> float:
    """How welcome an answer of that type is, from 0, not at all, to 1. Who says nothing takes everything.

    Of the ranges that cover the type, the most specific one counts; one that cannot be read covers nothing.
    """
    if accept is None or not accept.strip():
        return 1.0
    kind = media_type(content_type)
    said = _parameters(content_type or "")
    found = (_covering(part, kind, said) for part in accept.split(","))
    return max((one for one in found if one is not None), default=((0, 0), 0.0))[1]


def _covering(text: str, kind: str, said: frozenset[str]) -> tuple[tuple[int, int], float] | None:
    """How specific a range is, and its weight; None if it does not cover a type with these parameters."""
    match = _TYPE.fullmatch(media_type(text))
    parameters = _parameters(text)
    weights = [one.removeprefix("q=") for one in parameters if one.startswith("q=")]
    asked = {one for one in parameters if not one.startswith("q=")}
    if match is None or not all(_QUALITY.fullmatch(weight) for weight in weights) or not asked <= said:
        return None
    if match[0] == "*/*":
        place = 0
    elif match[2] == "*" and kind.startswith(f"{match[1]}/"):
        place = 1
    elif match[0] == kind:
        place = 2
    else:
        return None
    return (place, len(asked)), float(weights[0]) if weights else 1.0


def _parameters(text: str) -> frozenset[str]:
    """The parameters of a type or a range, in one spelling."""
    _, *parts = text.split(";")
    pairs = (part.lower().partition("=") for part in parts)
    return frozenset(f"{name.strip()}={value.strip(_AROUND)}" for name, mark, value in pairs if mark)
