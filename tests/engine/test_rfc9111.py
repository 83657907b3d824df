"""What the RFCs say of a cache that many clients share, case by case: each names its section.

A source answers `one`, and `two` when it is asked again; so the body of the second answer tells whether what is stored was
used. What is stale is so at once, by its Age or its Date.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from forks import Forks
from origin import MODIFIED, Origin, Raw, Say
from product import Proxy, stored

from package_cache.rules.http.fields import format_date

DAY = 86400.0
NOW = time.time()
ONE, TWO = b"one" * 10, b"two" * 10
HIT = "package-cache; hit"

Fields = dict[str, str | tuple[str, ...]]


def at(days: float, form: str = "") -> str:
    """A date so many days from now; by default in the form that is to be sent."""
    return time.strftime(form, time.gmtime(NOW + days * DAY)) if form else format_date(NOW + days * DAY)


def control(*values: str) -> Fields:
    return {"Cache-Control": values}


HOUR = control("max-age=3600")
STALE = control("max-age=10") | {"Age": "100"}
UNTIL_TOMORROW = {"Expires": at(1)}

REUSED: dict[str, tuple[Fields, Fields]] = {
    "9111 4.2.1 max-age": (HOUR, {}),
    "9111 4.2.1 max-age before an Expires that is past": (HOUR | {"Expires": at(-1)}, {}),
    "9111 4.2.1 max-age before an Expires that is no date": (HOUR | {"Expires": "0"}, {}),
    "9111 4.2.1 s-maxage before max-age": (control("max-age=0, s-maxage=3600"), {}),
    "9111 4.2.1 s-maxage before Expires": (control("s-maxage=3600") | {"Expires": at(-1)}, {}),
    "9111 4.2.1 the first of two": (control("max-age=3600, max-age=0"), {}),
    "9111 4.2.1 the first of two fields": (control("max-age=3600", "max-age=0"), {}),
    "9111 4.2.1 Expires": ({"Expires": at(1), "Date": at(0)}, {}),
    "9111 4.2.1 Expires without a Date": ({"Expires": at(1)}, {}),
    "9110 5.6.7 Expires as in RFC 850": ({"Expires": at(1, "%A, %d-%b-%y %H:%M:%S GMT")}, {}),
    "9110 5.6.7 Expires as of asctime": ({"Expires": at(1, "%a %b %d %H:%M:%S %Y")}, {}),
    "9111 5.3 Expires far ahead": ({"Expires": at(20_000)}, {}),
    "9111 4.2.2 by Last-Modified": ({"Last-Modified": at(-100), "Date": at(0)}, {}),
    "9111 1.2.2 2^31 - 1": (control("max-age=2147483647"), {}),
    "9111 1.2.2 2^31": (control("max-age=2147483648"), {}),
    "9111 1.2.2 more than any clock has": (control(f"max-age={'9' * 40}"), {}),
    "9111 5.2 case": (control("MaX-aGe=3600"), {}),
    "9111 5.2 quoted": (control('max-age="3600"'), {}),
    "9111 5.2 spaces and nothing between commas": (control(" , ,\tmax-age=3600 ,"), {}),
    "9111 5.2 several fields": (control("public", "max-age=3600"), {}),
    "9111 5.2.3 an extension": (control("foo, max-age=3600"), {}),
    "9111 5.2.3 an extension with an argument": (control("foo=bar, max-age=3600"), {}),
    "9111 5.2.3 words in a quoted argument": (control('foo="no-store, max-age=0, no-cache", max-age=3600'), {}),
    "9111 5.2.3 names that only begin alike": (control("no-storex, privately, no-cache-2, max-age=3600"), {}),
    "9111 4.2.3 Age that is not enough": (HOUR | {"Age": "100"}, {}),
    "9111 4.2.3 Date that is not enough": (control("max-age=864000") | {"Date": at(-1)}, {}),
    "9111 4.2.3 Date ahead": (HOUR | {"Date": at(1)}, {}),
    "9111 5.1 Age of zeros": (HOUR | {"Age": "0000"}, {}),
    "9111 5.1 Age of a list": (HOUR | {"Age": "0, 7200"}, {}),
    "9111 5.1 Age of two fields": (HOUR | {"Age": ("0", "7200")}, {}),
    "9111 5.1 Age below zero": (HOUR | {"Age": "-7200"}, {}),
    "9111 5.1 Age with a fraction": (HOUR | {"Age": "7200.0"}, {}),
    "9111 5.1 Age of letters": (HOUR | {"Age": "abc"}, {}),
    "9111 5.1 Age with a parameter": (HOUR | {"Age": "7200;a=b"}, {}),
    "9111 5.2.2.2 must-revalidate, while fresh": (control("max-age=3600, must-revalidate"), {}),
    "9111 5.2.2.8 proxy-revalidate, while fresh": (control("max-age=3600, proxy-revalidate"), {}),
    "9111 5.2.2.9 public": (control("public, max-age=3600"), {}),
    "9111 5.2.2.6 no-transform": (control("no-transform, max-age=3600"), {}),
    "9111 5.2.2.3 must-understand, of a status that is": (control("must-understand, max-age=3600"), {}),
    "9111 5.4 Pragma of an answer": (HOUR | {"Pragma": "no-cache"}, {}),
    "9111 5.5 Warning of an answer": (HOUR | {"Warning": '110 - "Response is Stale"'}, {}),
    "9111 7.3 an answer with Set-Cookie": (HOUR | {"Set-Cookie": "a=b"}, {}),
    "9111 5.2.1.1 max-age above the age": (HOUR | {"Age": "100"}, control("max-age=1000")),
    "9111 5.2.1.2 max-stale above the staleness": (STALE, control("max-stale=1000")),
    "9111 5.2.1.2 max-stale of any staleness": (STALE, control("max-stale")),
    "9111 5.2.1.2 max-stale of what is fresh": (HOUR, control("max-stale=10")),
    "9111 5.2.1.3 min-fresh below what is left": (HOUR, control("min-fresh=60")),
    "9111 5.2.1.7 only-if-cached": (HOUR, control("only-if-cached")),
    "9111 5.2.3 what a request says besides": (HOUR, control("foo=bar, no-cachex")),
    "9111 5.4 Pragma beside Cache-Control": (HOUR, control("foo") | {"Pragma": "no-cache"}),
    "9111 5.4 Pragma of another word": (HOUR, {"Pragma": "foo"}),
    "9110 12.5.5 an Accept, of what varies by nothing": (HOUR, {"Accept-Language": "de"}),
}

ASKED: dict[str, tuple[Fields, Fields]] = {
    "9111 4.2.1 max-age=0": (control("max-age=0"), {}),
    "9111 4.2.1 max-age=0 before Expires": (control("max-age=0") | UNTIL_TOMORROW, {}),
    "9111 4.2.1 s-maxage before max-age": (control("max-age=3600, s-maxage=0"), {}),
    "9111 4.2.1 Expires that is past": ({"Expires": at(-1)}, {}),
    "9111 4.2.1 Expires that is the Date": ({"Expires": at(0), "Date": at(0)}, {}),
    "9111 4.2.1 Expires that is past by the Date": ({"Expires": at(1), "Date": at(2)}, {}),
    "9111 5.3 Expires: 0": ({"Expires": "0", "Last-Modified": at(-100)}, {}),
    "9111 5.3 Expires: -1": ({"Expires": "-1", "Last-Modified": at(-100)}, {}),
    "9111 5.3 Expires that is no date": ({"Expires": "tomorrow", "Last-Modified": at(-100)}, {}),
    "9111 5.3 Expires in quotes": ({"Expires": f'"{at(1)}"', "Last-Modified": at(-100)}, {}),
    "9111 4.2.1 max-age below zero": (control("max-age=-3600"), {}),
    "9111 4.2.1 max-age of letters": (control("max-age=abc") | UNTIL_TOMORROW, {}),
    "9111 4.2.1 max-age with a fraction": (control("max-age=3600.5") | UNTIL_TOMORROW, {}),
    "9111 4.2.1 max-age with more behind it": (control("max-age=3600a") | UNTIL_TOMORROW, {}),
    "9111 4.2.1 max-age of nothing": (control("max-age=") | UNTIL_TOMORROW, {}),
    "9111 4.2.2 nothing that tells": ({}, {}),
    "9111 4.2.2 Last-Modified just now": ({"Last-Modified": at(0), "Date": at(0)}, {}),
    "9111 4.2.2 Last-Modified ahead": ({"Last-Modified": at(1), "Date": at(0)}, {}),
    "9111 4.2.3 Age": (STALE, {}),
    "9111 4.2.3 Age against Expires": ({"Expires": at(1), "Age": "100000"}, {}),
    "9111 4.2.3 Age against Last-Modified": ({"Last-Modified": at(-5), "Age": "86400"}, {}),
    "9111 4.2.3 Date": (control("max-age=3600") | {"Date": at(-1)}, {}),
    "9111 4.2.3 the larger of Age and Date": (control("max-age=3600") | {"Date": at(-1), "Age": "1"}, {}),
    "9111 1.2.2 Age more than any clock has": (HOUR | {"Age": "9" * 40}, {}),
    "9111 5.1 Age of a list": (HOUR | {"Age": "7200, 0"}, {}),
    "9111 5.1 Age of two fields": (HOUR | {"Age": ("7200", "0")}, {}),
    "9111 5.2.2.4 no-cache": (control("no-cache"), {}),
    "9111 5.2.2.4 no-cache beside max-age": (control("max-age=3600, no-cache"), {}),
    "9111 5.2.2.4 no-cache, case": (control("No-CaChE, max-age=3600"), {}),
    "9111 5.2.2.4 no-cache of another field": (control("max-age=3600", "no-cache"), {}),
    "9111 5.2.2.4 no-cache behind what is quoted": (control('foo="a,b", no-cache, max-age=3600'), {}),
    "9111 5.2.2.4 no-cache beside Expires": (control("no-cache") | UNTIL_TOMORROW, {}),
    "9111 4.1 Vary: *": (HOUR | {"Vary": "*"}, {}),
    "9111 4.1 * in a list": (HOUR | {"Vary": "Accept, *"}, {}),
    "9111 4.1 * in another field": (HOUR | {"Vary": ("Accept", "*")}, {}),
    "9111 5.2.1.1 max-age=0": (HOUR, control("max-age=0")),
    "9111 5.2.1.1 max-age below the age": (HOUR | {"Age": "100"}, control("max-age=50")),
    "9111 5.2.1.1 max-age, case": (HOUR | {"Age": "100"}, control("Max-Age=50")),
    "9111 5.2.1.2 max-stale below the staleness": (STALE, control("max-stale=10")),
    "9111 4.2.4 max-stale, must-revalidate": (
        control("max-age=10, must-revalidate") | {"Age": "100"},
        control("max-stale"),
    ),
    "9111 4.2.4 max-stale, proxy-revalidate": (
        control("max-age=10, proxy-revalidate") | {"Age": "100"},
        control("max-stale"),
    ),
    "9111 4.2.4 max-stale, s-maxage": (control("s-maxage=10") | {"Age": "100"}, control("max-stale")),
    "9111 4.2.4 max-stale, no-cache": (control("no-cache") | {"Age": "100"}, control("max-stale")),
    "9111 4.1 max-stale, Vary: *": (HOUR | {"Vary": "*"}, control("max-stale")),
    "9111 5.2.1.3 min-fresh above what is left": (HOUR, control("min-fresh=7200")),
    "9111 5.2.1.3 min-fresh and Age": (HOUR | {"Age": "1000"}, control("min-fresh=3000")),
    "9111 5.2.1.4 no-cache": (HOUR, control("no-cache")),
    "9111 5.2.1.4 no-cache among others": (HOUR, control("foo=bar, No-Cache")),
    "9111 5.4 Pragma": (HOUR, {"Pragma": "no-cache"}),
}

UNSTORED: dict[str, Fields] = {
    "9111 5.2.2.5 no-store": control("no-store"),
    "9111 5.2.2.5 no-store beside max-age": control("max-age=3600, no-store"),
    "9111 5.2.2.5 no-store, case": control("No-StOrE, max-age=3600"),
    "9111 5.2.2.5 no-store of another field": control("max-age=3600", "no-store"),
    "9111 5.2.2.5 no-store beside Expires": control("no-store") | UNTIL_TOMORROW,
    "9111 5.2.2.7 private": control("private"),
    "9111 5.2.2.7 private beside max-age": control("max-age=3600, private"),
    "9111 5.2.2.7 private beside s-maxage": control("private, s-maxage=3600"),
    "9111 5.2.2.7 private, case": control("PriVate, max-age=3600"),
    "9111 5.2.2.7 private behind what is quoted": control('foo="a,b", private, max-age=3600'),
}

TAGGED: Fields = HOUR | {"ETag": '"a,1"', "Last-Modified": MODIFIED, "Content-Type": "text/x-one"}
EARLIER, LATER = "Mon, 01 Jan 2024 03:04:05 GMT", "Wed, 03 Jan 2024 03:04:05 GMT"
CONDITIONS: dict[str, tuple[int, Fields]] = {
    "9110 13.1.2 the tag": (304, {"If-None-Match": '"a,1"'}),
    "9110 13.1.2 the tag, weak": (304, {"If-None-Match": 'W/"a,1"'}),
    "9110 13.1.2 the tag in a list": (304, {"If-None-Match": '"b", "a,1", "c"'}),
    "9110 13.1.2 the tag in a list of weak ones": (304, {"If-None-Match": 'W/"b",W/"a,1"'}),
    "9110 13.1.2 any tag": (304, {"If-None-Match": "*"}),
    "9110 13.1.2 another tag": (200, {"If-None-Match": '"b"'}),
    "9110 13.1.2 part of the tag": (200, {"If-None-Match": '"a", "1"'}),
    "9110 13.1.2 the tag, case": (200, {"If-None-Match": '"A,1"'}),
    "9110 13.1.3 the date": (304, {"If-Modified-Since": MODIFIED}),
    "9110 13.1.3 a later date": (304, {"If-Modified-Since": LATER}),
    "9110 13.1.3 the date as in RFC 850": (304, {"If-Modified-Since": "Tuesday, 02-Jan-24 03:04:05 GMT"}),
    "9110 13.1.3 the date as of asctime": (304, {"If-Modified-Since": "Tue Jan  2 03:04:05 2024"}),
    "9110 13.1.3 an earlier date": (200, {"If-Modified-Since": EARLIER}),
    "9110 13.1.3 no date": (200, {"If-Modified-Since": "yesterday"}),
    "9110 13.2.2 another tag before the date": (200, {"If-None-Match": '"b"', "If-Modified-Since": MODIFIED}),
    "9110 13.2.2 the tag before an earlier date": (304, {"If-None-Match": '"a,1"', "If-Modified-Since": EARLIER}),
    "9110 14.2 a range": (206, {"Range": "bytes=1-2"}),
    "9110 14.1.2 the end": (206, {"Range": "bytes=-2"}),
    "9110 14.1.2 from a place": (206, {"Range": "bytes=28-"}),
    "9110 14.1.2 more than there is": (206, {"Range": "bytes=28-1000"}),
    "9110 15.5.17 behind the end": (416, {"Range": "bytes=30-"}),
    "9110 14.2 another unit": (200, {"Range": "pages=1-2"}),
    "9110 14.1.1 backwards": (200, {"Range": "bytes=2-1"}),
    "9110 13.1.5 the tag": (206, {"Range": "bytes=1-2", "If-Range": '"a,1"'}),
    "9110 13.1.5 another tag": (200, {"Range": "bytes=1-2", "If-Range": '"b"'}),
    "9110 13.1.5 the tag, weak": (200, {"Range": "bytes=1-2", "If-Range": 'W/"a,1"'}),
    "9110 13.1.5 the date": (206, {"Range": "bytes=1-2", "If-Range": MODIFIED}),
    "9110 13.1.5 a later date": (200, {"Range": "bytes=1-2", "If-Range": LATER}),
    "9110 13.2.2 a condition before the range": (304, {"Range": "bytes=1-2", "If-None-Match": '"a,1"'}),
}

DROPPED: dict[str, Fields] = {
    "9111 3.1 Connection": {"Connection": "X-One"},
    "9111 3.1 what Connection names": {"X-One": "1", "x-two": "2", "Connection": "x-one, X-TWO"},
    "9110 7.6.1 Keep-Alive": {"Keep-Alive": "timeout=5"},
    "9110 7.6.1 Proxy-Connection": {"Proxy-Connection": "keep-alive"},
    "9110 10.1.4 TE": {"TE": "trailers"},
    "9110 6.6.2 Trailer": {"Trailer": "X-One"},
    "9110 7.8 Upgrade": {"Upgrade": "h2c"},
    "9111 3.1 Proxy-Authenticate": {"Proxy-Authenticate": "Basic"},
    "9111 3.1 Proxy-Authentication-Info": {"Proxy-Authentication-Info": "a=b"},
    "9111 3.1 Proxy-Authorization": {"Proxy-Authorization": "Basic YTpi"},
    "9111 7.3 Set-Cookie": {"Set-Cookie": "a=b"},
}
"""Fields that no later client sees. That of cookies is this cache's own choice: they are for one client."""

KEPT: Fields = {
    "Content-Type": "text/x-one",
    "Content-Language": "en",
    "Content-Disposition": "attachment",
    "Content-Location": "/elsewhere",
    "Content-Foo": "1",
    "Link": "</a>; rel=next",
    "X-Frame-Options": "deny",
    "X-One": "2",
}

IN_NEED: dict[str, tuple[Fields, bool]] = {
    "9111 4.2.4 stale": (control("max-age=0"), True),
    "5861 4 stale-if-error": (control("max-age=0, stale-if-error=3600"), True),
    "9111 5.2.2.2 must-revalidate": (control("max-age=0, must-revalidate"), False),
    "9111 5.2.2.2 must-revalidate, case": (control("max-age=0, Must-Revalidate"), False),
    "9111 5.2.2.8 proxy-revalidate": (control("max-age=0, proxy-revalidate"), False),
    "9111 5.2.2.10 s-maxage": (control("s-maxage=0"), False),
    "9111 5.2.2.4 no-cache": (control("no-cache"), False),
}


def lines(fields: Fields) -> tuple[tuple[str, str], ...]:
    """As they are sent: a field of several values is several lines."""
    return tuple((name, one) for name, value in fields.items() for one in ([value] if isinstance(value, str) else value))


def asking(fields: Fields) -> dict[str, str]:
    return dict(lines(fields))


@pytest.fixture(scope="module")
def sources() -> Iterator[Sequence[Origin]]:
    """The one that answers, one for each case that needs a source that fails, and one that answers what is nothing."""
    with ExitStack() as stack:
        made = [Origin() for _ in range(2 + len(IN_NEED))]
        for one in made:
            stack.callback(one.stop)
        yield made


@pytest.fixture(scope="module")
def proxy(forks: Forks, sources: Sequence[Origin], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("rfc")
    config = folder / "config.toml"
    config.write_text("\n".join(repository(number, one.url) for number, one in enumerate(sources)))
    one = Proxy(Path(folder / "cache"), config=config, spawn=forks.spawn)
    yield one
    one.kill()


def repository(number: int, url: str) -> str:
    """One whose sources decide how long what is in it is good."""
    return (
        f'[[repository]]\nname = "r{number}"\nprefix = "/r{number}/"\nsources = [{json.dumps(url)}]\n'
        '[[repository.rule]]\nmatch = "*"\nfresh = "http"\n'
    )


class Place:
    """A path of its own, for one case."""

    def __init__(self, proxy: Proxy, sources: Sequence[Origin], name: str, number: int = 0) -> None:
        self.proxy, self.origin = proxy, sources[number]
        self.path = "/" + "".join(one if one.isalnum() else "-" for one in name)
        self.target = f"/r{number}{self.path}"

    def put(self, *script: Say | Raw) -> None:
        self.origin.put(self.path, ONE, *script)

    @property
    def times(self) -> int:
        return len(self.origin.requests(self.path))


@pytest.fixture
def place(request: pytest.FixtureRequest, proxy: Proxy, sources: Sequence[Origin]) -> Place:
    return Place(proxy, sources, request.node.name)


@pytest.mark.parametrize("case", REUSED)
def test_what_is_stored_is_used(case: str, place: Place) -> None:
    said, asked = REUSED[case]
    place.put(Say(200, ONE, lines(said)), Say(200, TWO, lines(said)))
    assert place.proxy.fetch(place.target).body == ONE
    answer = place.proxy.get(place.target, asking(asked))
    assert (answer.status, answer.body, answer.cache_status.split("; ")[:2]) == (200, ONE, HIT.split("; "))
    assert place.times == 1


@pytest.mark.parametrize("case", ASKED)
def test_the_source_is_asked_again(case: str, place: Place) -> None:
    said, asked = ASKED[case]
    place.put(Say(200, ONE, lines(said)), Say(200, TWO, lines(said)))
    assert place.proxy.fetch(place.target).body == ONE
    answer = place.proxy.get(place.target, asking(asked))
    assert (answer.status, answer.body, answer.cache_status.split("; ")[1][:4]) == (200, TWO, "fwd=")
    assert place.times == 2


@pytest.mark.parametrize("case", UNSTORED)
def test_an_answer_is_not_stored(case: str, place: Place) -> None:
    place.put(Say(200, ONE, lines(UNSTORED[case])))
    for _ in range(2):
        before = place.times
        answer = place.proxy.get(place.target)
        assert (answer.status, answer.body) == (200, ONE)
        assert "fwd=" in answer.cache_status
        assert "stored" not in answer.cache_status
        assert place.times > before
    assert place.target not in stored(place.proxy.cache)


def test_what_a_client_wants_unstored_is_not_stored(place: Place) -> None:
    """RFC 9111, section 5.2.1.5."""
    place.put(Say(200, ONE, lines(HOUR)), Say(200, ONE, lines(HOUR)))
    answer = place.proxy.get(place.target, {"Cache-Control": "no-store"})
    assert (answer.status, answer.body, "stored" in answer.cache_status) == (200, ONE, False)
    assert place.target not in stored(place.proxy.cache)


def test_what_is_wanted_stored_and_is_not_is_an_error(place: Place) -> None:
    """RFC 9111, section 5.2.1.7."""
    place.put(Say(200, ONE, lines(HOUR)))
    assert place.proxy.get(place.target, {"Cache-Control": "only-if-cached"}).status == 504
    assert place.times == 0


@pytest.mark.parametrize("case", CONDITIONS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_condition_is_decided_by_what_is_stored(method: str, case: str, place: Place) -> None:
    status, asked = CONDITIONS[case]
    place.put(Say(200, ONE, lines(TAGGED)), Say(500))
    place.proxy.fetch(place.target)
    answer = place.proxy.get(place.target, asking(asked), method)
    if method == "HEAD" and "Range" in asked:
        status = 304 if status == 304 else 200  # RFC 9110, section 14.2: of GET alone
    assert (answer.status, place.times) == (status, 1)
    if status != 416:
        assert answer.fields["ETag"] == '"a,1"'
        assert answer.fields["Cache-Control"] == "max-age=3600"
    if status == 206:
        start, _, rest = answer.fields["Content-Range"].removeprefix("bytes ").partition("-")
        end, _, size = rest.partition("/")
        assert (answer.body, size) == (ONE[int(start) : int(end) + 1], "30")
    elif status == 200:
        assert (answer.fields["Content-Length"], answer.body) == ("30", ONE if method == "GET" else b"")
    else:
        assert answer.body == b""
        assert "Content-Type" not in answer.fields


@pytest.mark.parametrize("case", DROPPED)
def test_a_field_is_not_stored(case: str, place: Place) -> None:
    place.put(Say(200, ONE, (*lines(HOUR), *lines(DROPPED[case]), ("X-Kept", "3"))))
    for answer in (place.proxy.fetch(place.target), place.proxy.get(place.target)):
        assert answer.fields["X-Kept"] == "3"
        values = [answer.fields.get(name) for name in DROPPED[case] if name != "Connection"]
        assert values == [None] * len(values)
        assert "X-One" not in (answer.fields.get("Connection") or "")


def test_all_other_fields_are_stored(place: Place) -> None:
    """RFC 9111, section 3.1."""
    place.put(Say(200, ONE, lines(HOUR | KEPT)))
    for answer in (place.proxy.fetch(place.target), place.proxy.get(place.target)):
        assert {name: answer.fields[name] for name in KEPT} == KEPT


def test_a_confirmation_brings_new_fields(place: Place) -> None:
    """RFC 9111, sections 3.2 and 4.3.4: also a new time for which what is stored is good; the body's fields stay."""
    first = control("max-age=0") | {"ETag": '"a"', "X-One": "1", "X-Two": "1", "X-Three": "1", "Content-Encoding": "foo"}
    news = HOUR | {"ETag": '"a"', "X-One": "2", "X-Three": ("2", "3"), "X-Four": "2", "Content-Encoding": "bar"}
    news |= {"Set-Cookie": "a=b", "Connection": "X-Five", "X-Five": "2"}
    place.put(Say(200, ONE, lines(first)), Say(304, fields=lines(news)), Say(200, TWO))
    place.proxy.fetch(place.target)
    confirmed = place.proxy.get(place.target)
    assert confirmed.cache_status == "package-cache; fwd=stale; fwd-status=304"
    assert place.origin.requests(place.path)[1].fields["if-none-match"] == '"a"'
    for answer in (confirmed, place.proxy.get(place.target)):
        assert (answer.status, answer.body, answer.fields["Cache-Control"]) == (200, ONE, "max-age=3600")
        assert [answer.fields.get(f"X-{name}") for name in ("One", "Two", "Four")] == ["2", "1", "2"]
        assert answer.fields.get_all("X-Three") == ["2", "3"]
        assert answer.fields["Content-Encoding"] == "foo"
        assert (answer.fields["Content-Length"], answer.fields["ETag"]) == ("30", '"a"')
        assert "Set-Cookie" not in answer.fields
    assert place.times == 2


def test_a_confirmation_of_something_else_confirms_nothing(place: Place) -> None:
    """RFC 9111, section 4.3.4."""
    first = control("max-age=0") | {"ETag": '"a"'}
    place.put(Say(200, ONE, lines(first)), Say(304, fields=lines(HOUR | {"ETag": '"b"'})), Say(200, TWO, lines(HOUR)))
    place.proxy.fetch(place.target)
    assert place.proxy.get(place.target).body == TWO
    assert "if-none-match" not in place.origin.requests(place.path)[2].fields


def test_a_date_makes_a_request_conditional(place: Place) -> None:
    """RFC 9111, section 4.3.1."""
    first = control("max-age=0") | {"Last-Modified": MODIFIED}
    place.put(Say(200, ONE, lines(first)), Say(304, fields=lines(HOUR)))
    place.proxy.fetch(place.target)
    assert place.proxy.get(place.target).body == ONE
    assert place.origin.requests(place.path)[1].fields["if-modified-since"] == MODIFIED


def test_an_answer_tells_its_age_and_its_way(place: Place) -> None:
    """RFC 9111, section 5.1; RFC 9110, sections 6.6.1 and 7.6.3; RFC 9211, section 2."""
    place.put(Say(200, ONE, lines(HOUR | {"Age": "100", "Via": "1.1 elsewhere", "Cache-Status": "Other; hit"})))
    first, second = place.proxy.fetch(place.target), place.proxy.get(place.target)
    assert first.fields["Age"] >= "100"
    assert 100 <= int(second.fields["Age"]) < 3600
    for answer in (first, second):
        assert len(answer.fields.get_all("Date", [])) == 1
        assert len(answer.fields.get_all("Age", [])) == 1
        ways = ", ".join(answer.fields.get_all("Via", [])).split(", ")
        assert (ways[0], ways[-1][:17]) == ("1.1 elsewhere", "1.1 package-cache")
        caches = ", ".join(answer.fields.get_all("Cache-Status", [])).split(", ")
        assert (caches[0], caches[-1].split("; ")[0]) == ("Other; hit", "package-cache")


def test_other_queries_are_other_things(place: Place) -> None:
    """RFC 9111, section 4: the target URI, with its query."""
    for query, body in (("?a=1", ONE), ("?a=2", TWO)):
        place.origin.put(place.path + query, body, Say(200, body, lines(HOUR)))
        assert place.proxy.fetch(place.target + query).body == body
    assert place.proxy.get(place.target + "?a=1").body == ONE


def test_what_is_stored_of_get_answers_head(place: Place) -> None:
    """RFC 9110, section 9.3.2."""
    place.put(Say(200, ONE, lines(HOUR | KEPT)), Say(500))
    whole = place.proxy.fetch(place.target)
    answer = place.proxy.get(place.target, method="HEAD")
    assert (answer.status, answer.body, answer.cache_status) == (200, b"", HIT)
    names = [name for name in whole.fields if name not in ("Date", "Age", "Cache-Status", "Repr-Digest", "ETag")]
    assert {name: answer.fields[name] for name in names} == {name: whole.fields[name] for name in names}


def test_an_answer_to_head_is_none_to_get(place: Place) -> None:
    """RFC 9110, section 9.3.2."""
    place.put(Say(200, ONE, lines(HOUR)))
    assert place.proxy.get(place.target, method="HEAD").status == 200
    answer = place.proxy.get(place.target)
    assert (answer.status, answer.body) == (200, ONE)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_passed_on_and_is_not_the_file(status: int, place: Place) -> None:
    """RFC 9110, section 15.5: with its text and fields; what comes after it is the file."""
    said: Fields = UNTIL_TOMORROW | {"Content-Type": "text/plain", "X-One": "1", "Last-Modified": MODIFIED, "ETag": '"a"'}
    place.put(Say(status, b"why not\n", lines(said)), Say(200, ONE, lines(HOUR)))
    answer = place.proxy.get(place.target)
    assert (answer.status, answer.body) == (status, b"why not\n")
    assert {name: answer.fields[name] for name in said} == said
    assert place.target not in stored(place.proxy.cache)
    answer = place.proxy.get(place.target, {"Cache-Control": "no-cache"})
    assert (answer.status, answer.body) == (200, ONE)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PATCH"])
def test_unsafe_methods_are_refused_and_change_nothing(method: str, place: Place) -> None:
    """RFC 9110, section 15.5.6; RFC 9111, section 4.4: what did not succeed invalidates nothing."""
    place.put(Say(200, ONE, lines(HOUR)), Say(200, TWO, lines(HOUR)))
    place.proxy.fetch(place.target)
    refused = place.proxy.get(place.target, {"Content-Length": "0"}, method)
    assert (refused.status, refused.fields["Allow"]) == (405, "GET, HEAD")
    answer = place.proxy.get(place.target)
    assert (answer.body, answer.cache_status, place.times) == (ONE, HIT, 1)


@pytest.mark.parametrize("case", IN_NEED)
def test_what_is_stale_is_served_when_the_source_fails_unless_that_is_forbidden(
    case: str, proxy: Proxy, sources: Sequence[Origin]
) -> None:
    said, served = IN_NEED[case]
    place = Place(proxy, sources, case, 1 + list(IN_NEED).index(case))
    place.put(Say(200, ONE, lines(said)), Raw(b""))
    assert proxy.fetch(place.target).body == ONE
    answer = proxy.get(place.target)
    if served:
        assert (answer.status, answer.body) == (200, ONE)
    else:
        assert answer.status in (502, 503, 504)
        assert ONE not in answer.body


COLD: dict[str, tuple[int, Fields]] = {
    "9110 14.2 a range": (206, {"Range": "bytes=1-2"}),
    "9110 14.1.2 the end": (206, {"Range": "bytes=-2"}),
    "9111 4.3.2 the tag": (304, {"If-None-Match": '"a,1"'}),
    "9111 4.3.2 another tag": (200, {"If-None-Match": '"b"'}),
    "9111 4.3.2 the date": (304, {"If-Modified-Since": MODIFIED}),
    "9111 4.3.2 an earlier date": (200, {"If-Modified-Since": EARLIER}),
}


@pytest.mark.parametrize("case", COLD)
def test_a_condition_of_the_first_client_does_not_decide_what_is_stored(case: str, place: Place) -> None:
    status, asked = COLD[case]
    place.put(Say(200, ONE, lines(TAGGED)))
    answer = place.proxy.get(place.target, asking(asked))
    assert answer.status == status
    if status == 206:
        assert answer.body == (ONE[1:3] if "1-2" in str(asked["Range"]) else ONE[-2:])
    assert place.proxy.fetch(place.target).body == ONE


NO_FILES: dict[str, Say | Raw] = {
    "9110 15.3.7 part of it, of unknown place": Say(206, ONE, lines(HOUR)),
    "9110 15.3.7 part of it": Say(206, ONE, lines(HOUR | {"Content-Range": "bytes 0-29/60"})),
    "9110 14.4 part of it, called whole": Say(200, ONE, lines(HOUR | {"Content-Range": "bytes 0-29/60"})),
    "9110 15.4.5 a confirmation that nobody asked for": Say(304, fields=lines(TAGGED)),
    "9112 6.3 two lengths": Raw(
        b"HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nContent-Length: 30\r\nContent-Length: 29\r\n\r\n" + ONE
    ),
}


@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_no_whole_answer_is_neither_served_as_one_nor_stored(
    case: str, proxy: Proxy, sources: Sequence[Origin]
) -> None:
    place = Place(proxy, sources, case, 1 + len(IN_NEED))
    place.put(NO_FILES[case])
    for _ in range(2):
        answer = proxy.get(place.target)
        assert answer.status >= 500 or not answer.whole
    assert place.target not in stored(proxy.cache)
