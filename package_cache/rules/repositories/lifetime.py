"""How long an answer is good by what its source said of it (RFC 9111), for a cache that many clients share."""

from package_cache.model import Representation
from package_cache.rules.http.answer import initial_age
from package_cache.rules.http.fields import parse_date

LONGEST_GUESS = 86400.0
"""Seconds for which an answer is good at most whose source says nothing of it (RFC 9111, section 4.2.2)."""
_PART_OF_AGE = 0.1
_DIGITS = 15
"""Of a number with more, the first ones say enough: that is for ever."""


def directives(value: str | None) -> dict[str, str]:
    """The directives of a Cache-Control field, in lower case, with their arguments (RFC 9111, section 5.2).

    Of one that is there twice, the first counts.
    """
    found: dict[str, str] = {}
    for part in _parts(value or ""):
        name, _, argument = part.partition("=")
        found.setdefault(name.strip().lower(), argument.strip().strip('"'))
    return found


def _parts(value: str) -> list[str]:
    """What commas part that are not within quotes."""
    parts, quoted = [""], False
    for character in value:
        quoted ^= character == '"'
        if character == "," and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def said_of(representation: Representation) -> dict[str, str]:
    """The directives of an answer."""
    fields = (value for name, value in representation.fields if name.lower() == "cache-control")
    return directives(", ".join(fields))


def is_private(representation: Representation) -> bool:
    """Whether the source wants the answer in no cache that is shared (RFC 9111, section 3)."""
    return not {"no-store", "private"}.isdisjoint(said_of(representation))


def must_not_be_stale(representation: Representation) -> bool:
    """Whether the answer must not be served once its time is over, though no source can be asked (section 4.2.4)."""
    return not {"no-cache", "must-revalidate", "proxy-revalidate", "s-maxage"}.isdisjoint(said_of(representation))


def good_until(representation: Representation) -> float:
    """Until when the answer is good, in seconds of the epoch."""
    said = said_of(representation)
    if "no-cache" in said:
        return representation.received
    return representation.received + max(0.0, _lifetime(representation, said) - initial_age(representation))


def _made(representation: Representation) -> float:
    """When the source made the answer."""
    date = parse_date(representation.get("date"))
    return representation.received if date is None else date


def _seconds(text: str | None) -> float:
    """A number of seconds, however large (section 1.2.2); 0 for anything else, which makes an answer stale."""
    text = (text or "").strip(" \t")
    return float(text[:_DIGITS]) if text.isascii() and text.isdigit() else 0.0


def _lifetime(representation: Representation, said: dict[str, str]) -> float:
    """Seconds for which the answer is good from when it was made (section 4.2.1)."""
    for name in ("s-maxage", "max-age"):
        if name in said:
            return _seconds(said[name])
    made = _made(representation)
    if representation.get("expires") is not None:
        expires = parse_date(representation.get("expires"))
        return 0.0 if expires is None else max(0.0, expires - made)
    modified = parse_date(representation.get("last-modified"))
    return 0.0 if modified is None else min(LONGEST_GUESS, max(0.0, _PART_OF_AGE * (made - modified)))


def demanded(cache_control: str | None, pragma: str | None) -> float | None:
    """How many seconds ago an answer may have come from its source at most, for a client that asks so; None if any."""
    asked = directives(cache_control)
    if "no-cache" in asked or (cache_control is None and "no-cache" in directives(pragma)):
        return 0.0
    return _seconds(asked["max-age"]) if "max-age" in asked else None
