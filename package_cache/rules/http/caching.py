"""What RFC 9111 says of a response, for a cache that many clients share: what is stored, its age, how long it is fresh.

Decides by header fields alone. Which names may be kept for ever and which rule of the configuration applies is decided by
`rules.repositories.freshness`. All times are in seconds of the epoch.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import compress

from package_cache.model import Fields, Representation, frozen
from package_cache.rules.http.fields import parse_date

_OF_CONNECTION = (
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    *("proxy-authenticate", "proxy-authentication-info", "proxy-authorization"),
)
"""Of one connection, and never stored (RFC 9110, section 7.6.1; RFC 9111, section 3.1)."""
_OF_CLIENT = ("set-cookie", "set-cookie2", "authentication-info", "www-authenticate", "clear-site-data")
"""For the one client that asked."""
_OF_HOST = ("server", "alt-svc", "strict-transport-security", "public-key-pins", "public-key-pins-report-only")
"""Said of the host that answers, which is another one here."""
_OF_MESSAGE = (
    *("content-length", "content-range", "accept-ranges"),
    *("content-md5", "content-digest", "repr-digest", "digest"),
)
"""What this cache says of its own messages; digests of the source were compared when its answer came."""
_OF_SERVERS = re.compile("x-accel-|x-sendfile|x-lighttpd-send-file|x-litespeed-location|x-reproxy-")
"""Orders to the server in front, which would serve what no source has to say anything about."""
_NOT_STORED = frozenset((*_OF_CONNECTION, *_OF_CLIENT, *_OF_HOST, *_OF_MESSAGE))
_NEEDED = frozenset(
    {
        *("content-type", "content-encoding", "content-language", "content-disposition", "last-modified", "etag"),
        *("date", "age", "cache-control", "expires", "vary", "link"),
    }
)
"""What is stored though there are too many fields."""
_MOST = 8192
"""Bytes of names and values that are stored of one response; of more, the largest that are not needed are dropped."""
_STATED_ANEW = frozenset({"etag", "date", "age"})
"""Stored fields that this cache states itself in its own responses."""
_OF_TIME = frozenset({"date", "age"})
"""Fields of an answer that refuses which this cache does not repeat: it may tell a later client the same."""
_OF_BODY = frozenset(
    {"content-type", "content-encoding", "content-language", "content-disposition", "last-modified", "etag", "vary"}
)
"""What a 304 leaves as it is: it describes the body, or is what was compared."""
_FOLD = re.compile(r"[ \t]*\r?\n[ \t]+")
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_DIGITS = 15
"""Of a number with more, the first ones say enough: that is for ever."""
_RESOLUTION = 2.0
"""Seconds by which a Date may be past that was written just now: it has no fractions, and the response was on its way."""
LONGEST_GUESS = 86400.0
"""The heuristic freshness lifetime, in seconds, is at most this (RFC 9111, section 4.2.2) ..."""
_PART_OF_AGE = 0.1
"""... and this part of the time since the last modification."""
AHEAD = 60.0
"""Seconds by which a response may have come after the request: it joined a download that was about to begin."""
_LONGEST_ACCEPT = 1024


def kept_fields(fields: Fields, names: Sequence[str] | None = None) -> Fields:
    """The fields of a source's response that are stored and served again; `names` are theirs in lower case, if at hand.

    That is all but those of the connection, of one client, of the host, and of the message (RFC 9111, section 3.1). A value
    written over several lines becomes one line (RFC 9112, section 5.2); one that cannot be sent again is dropped.
    """
    names = [name.lower() for name, _ in fields] if names is None else names
    kept = list(compress(fields, _are_stored(tuple(names))))
    if "connection" in names:
        of_connection = _named_by(
            ",".join([value for name, (_, value) in zip(names, fields, strict=True) if name == "connection"])
        )
        if of_connection:
            kept = [pair for pair in kept if pair[0].lower() not in of_connection]
    values = f" {' '.join([value for _, value in kept])} "
    if len(values) + sum(map(len, names)) > _MOST:
        kept = _bounded(kept)
    if not values.isascii() or not values.isprintable() or "  " in values:
        unfolded = [(name, _FOLD.sub(" ", value).strip(" \t")) for name, value in kept]
        kept = [pair for pair in unfolded if not _UNSENDABLE.search(pair[1])]
    return tuple(kept)


def fields_of_refusal(fields: Fields) -> Fields:
    """The fields of an answer that says why a request is refused, for the client whose request it is."""
    names = tuple([name.lower() for name, _ in fields])
    challenges = [pair for name, pair in zip(names, fields, strict=True) if name == "www-authenticate"]
    kept = [pair for pair in kept_fields(fields, names) if pair[0].lower() not in _OF_TIME]
    return (*kept, *[pair for pair in challenges if not _UNSENDABLE.search(pair[1])])


def _bounded(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """As many of them as may be stored: of too many, all but the largest ones that are not needed."""
    sizes = [len(name) + len(value) for name, value in fields]
    surplus, dropped = sum(sizes) - _MOST, set[int]()
    if surplus <= 0:
        return fields
    for at in sorted(range(len(fields)), key=sizes.__getitem__, reverse=True):
        if surplus > 0 and fields[at][0].lower() not in _NEEDED:
            dropped.add(at)
            surplus -= sizes[at]
    return [pair for at, pair in enumerate(fields) if at not in dropped]


@lru_cache(256)
def _are_stored(names: tuple[str, ...]) -> tuple[bool, ...]:
    """Of each of these fields, whether it is stored. A source says the same ones each time."""
    return tuple(map(_is_stored, names))


@lru_cache(1024)
def _is_stored(name: str) -> bool:
    return name not in _NOT_STORED and not _OF_SERVERS.match(name)


@lru_cache(256)
def _named_by(connection: str) -> frozenset[str]:
    """The fields that a Connection says are of the connection, of those that would be stored."""
    return frozenset({one.strip(" \t").lower() for one in connection.split(",")} - _NEEDED - _NOT_STORED)


def divided(stored: Representation) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The stored fields that are sent on, and those that are stated anew: the first of each, by its name in lower case."""
    sent, anew = list[tuple[str, str]](), {}
    for pair in stored.fields:
        name = _stated_anew(pair[0])
        if name is None:
            sent.append(pair)
        elif name not in anew:
            anew[name] = pair[1]
    return sent, anew


@lru_cache(256)
def _stated_anew(name: str) -> str | None:
    lower = name.lower()
    return lower if lower in _STATED_ANEW else None


def initial_age(anew: Mapping[str, str], received: float) -> float:
    """Seconds that a response was old when it came: by its Age, or by its Date (RFC 9111, section 4.2.3).

    `anew` are the fields that `divided` gives second. Of an Age that is a list, the first member counts (section 5.1).
    """
    said = _seconds(anew["age"].partition(",")[0]) if "age" in anew else 0.0
    return max(said, apparent_age(anew.get("date"), received))


def apparent_age(date: str | None, received: float) -> float:
    """Seconds that a response was old when it came, by its Date."""
    made = parse_date(date)
    apparent = 0.0 if made is None else received - made
    return apparent if apparent >= _RESOLUTION else 0.0


def _seconds(text: str) -> float:
    """A number of seconds, however large (section 1.2.2); 0 for anything else, which makes a response stale."""
    text = text.strip(" \t")
    return float(text[:_DIGITS]) if text.isascii() and text.isdigit() else 0.0


def directives(value: str | None) -> dict[str, str]:
    """The directives of a Cache-Control field, in lower case, with their arguments (RFC 9111, section 5.2).

    Of a directive that is there twice, the first counts.
    """
    parts, quoted = [""], False
    for character in value or "":
        quoted ^= character == '"'
        if character == "," and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    found: dict[str, str] = {}
    for part in parts:
        name, _, argument = part.partition("=")
        if part.strip():
            found.setdefault(name.strip().lower(), argument.strip().strip('"'))
    return found


def directives_of(response: Representation) -> dict[str, str]:
    """The directives in all Cache-Control fields of a response."""
    return directives(", ".join(value for name, value in response.fields if name.lower() == "cache-control"))


def is_private(response: Representation) -> bool:
    """Whether the source wants the response in no shared cache (RFC 9111, section 3)."""
    return not {"no-store", "private"}.isdisjoint(directives_of(response))


def must_not_be_stale(response: Representation) -> bool:
    """Whether the response must not be served stale, even if no source can be asked (section 4.2.4)."""
    return not {"no-cache", "must-revalidate", "proxy-revalidate", "s-maxage"}.isdisjoint(directives_of(response))


def good_until(response: Representation) -> float:
    """Until when the response is fresh by what its source says, which is not before it came."""
    return max(response.received, stale_from(response))


def stale_from(response: Representation) -> float:
    """From when on the response is stale by what its source says: that may be before it came."""
    said = directives_of(response)
    if "no-cache" in said:
        return response.received
    return response.received + _lifetime(response, said) - initial_age(divided(response)[1], response.received)


def _lifetime(response: Representation, said: dict[str, str]) -> float:
    """The freshness lifetime in seconds, from when the response was made (section 4.2.1)."""
    for name in ("s-maxage", "max-age"):
        if name in said:
            return _seconds(said[name])
    date = parse_date(response.get("date"))
    made = response.received if date is None else date
    if response.get("expires") is not None:
        expires = parse_date(response.get("expires"))
        return 0.0 if expires is None else max(0.0, expires - made)
    modified = parse_date(response.get("last-modified"))
    return 0.0 if modified is None else min(LONGEST_GUESS, max(0.0, _PART_OF_AGE * (made - modified)))


@frozen
class Demand:
    """What a client demands of a response (section 5.2.1).

    It is at most `age` seconds old, stays fresh for `fresh` seconds more, or has been `stale` for no longer. If it is to be
    `stored_only`, no source is asked; if `unstored`, what a source says is not stored.
    """

    age: float = math.inf
    fresh: float = 0.0
    stale: float = 0.0
    stored_only: bool = False
    unstored: bool = False


def demanded(cache_control: str | None, pragma: str | None) -> Demand | None:
    """What a request demands by these fields; None if nothing."""
    asked = directives(cache_control)
    if "no-cache" in asked or (cache_control is None and "no-cache" in directives(pragma)):
        age = 0.0
    else:
        age = _seconds(asked["max-age"]) if "max-age" in asked else math.inf
    stale = asked.get("max-stale")
    demand = Demand(
        age,
        _seconds(asked.get("min-fresh", "")),
        math.inf if stale == "" else _seconds(stale or ""),
        "only-if-cached" in asked,
        "no-store" in asked,
    )
    return None if demand == _NOTHING else demand


_NOTHING = Demand()


def is_fresh(until: float, received: float, now: float) -> bool:
    """Whether a response that came at `received` and is good until then may be served at `now` without asking a source.

    If it came at a time that is still to come, the clock was wrong, and that time tells nothing of its age.
    """
    return now <= until > received and (math.isinf(until) or received <= now + AHEAD)


def normal_accept(accept: str | None) -> str | None:
    """An Accept field in one spelling; None if it says nothing, or nothing that can be part of a key."""
    if accept is None or accept.strip() in ("", "*/*"):
        return None
    if len(accept) > _LONGEST_ACCEPT or not (accept.isascii() and accept.isprintable()):
        return None
    return ", ".join(part.strip() for part in accept.split(","))


def varies(response: Representation) -> list[str]:
    """The names in Vary, in lower case: what the response depends on besides the target (RFC 9110, section 12.5.5)."""
    fields = [value for name, value in response.fields if len(name) == 4 and name.lower() == "vary"]
    return fields and [word.strip().lower() for value in fields for word in value.split(",")]


def varies_by_accept(response: Representation) -> bool:
    """Whether the source may have another response for another Accept."""
    return "accept" in varies(response)


def refreshed(stored: Representation, confirmation: Representation) -> Representation:
    """The stored head after a 304 confirmed it (RFC 9111, section 3.2). What describes the body stays as it was.

    If the 304 has no Date, it was made when it arrived (RFC 9110, section 6.6.1).
    """
    news = [pair for pair in confirmation.fields if (name := pair[0].lower()) not in _OF_BODY and _is_stored(name)]
    replaced = {"age", "date", *[name.lower() for name, _ in news]}
    kept = [pair for pair in stored.fields if pair[0].lower() not in replaced]
    fields = tuple(_bounded([*kept, *news]))
    return Representation(fields, stored.size, stored.source, confirmation.received, stored.good_until)


def dated(stored: Representation, date: str, received: float) -> Representation:
    """What `refreshed` gives for a 304 that differs from the previous one in its Date only."""
    fields = tuple([("Date", date) if pair[0] == "Date" else pair for pair in stored.fields])
    return Representation(fields, stored.size, stored.source, received, stored.good_until)
