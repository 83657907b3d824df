"""What is sent to a source: what it is always told, what the client says and asks for; and what its answer means."""

import pytest

from package_cache.model import Validators
from package_cache.rules.transfers.requests import RequestTemplate, answered, raw_request
from package_cache.rules.transfers.steps import Ask
from package_cache.rules.transfers.ways import Origin, Way

OWN = {"User-Agent": "package-cache", "Accept-Encoding": "identity"}


def lines_of(prepared: RequestTemplate, ask: Ask, accept: str | None = None, via: str | None = None) -> list[str]:
    text = prepared.text(ask, accept, via).decode("latin-1")
    assert text.endswith("\r\n\r\n")
    return text.removesuffix("\r\n\r\n").split("\r\n")


def test_a_request_has_the_path_of_its_source_and_what_that_is_always_told() -> None:
    prepared = RequestTemplate.of("https://u:p@mirror.example:8443/a/b/", OWN, "1.1 here", (("Authorization", "Basic x"),))
    assert prepared.origin == Origin("https", "mirror.example", 8443)
    first, *fields = lines_of(prepared, Ask("https://u:p@mirror.example:8443/a/b/c/d-1.tar?e=f"))
    assert first == "GET /a/b/c/d-1.tar?e=f HTTP/1.1"
    assert sorted(fields) == [
        "Accept-Encoding: identity",
        "Authorization: Basic x",
        "Host: mirror.example:8443",
        "User-Agent: package-cache",
        "Via: 1.1 here",
    ]


def test_a_request_says_what_the_client_says_and_what_is_asked_for() -> None:
    prepared = RequestTemplate.of("http://mirror.example/", OWN, "1.1 here", ())
    ask = Ask("http://mirror.example/x", condition=Validators('"t"', "Sun, 06 Nov 1994 08:49:37 GMT"))
    first, *fields = lines_of(prepared, ask, "text/html", "1.0 there")
    assert first == "GET /x HTTP/1.1"
    assert {
        "Via: 1.0 there, 1.1 here",
        "Accept: text/html",
        'If-None-Match: "t"',
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    } <= set(fields)
    fields = lines_of(prepared, Ask("http://mirror.example/x", 10, '"t"', stop=20))
    assert {"Range: bytes=10-19", 'If-Range: "t"'} <= set(fields)


def test_what_the_configuration_tells_a_source_goes_before_what_the_client_says_but_not_before_what_is_asked() -> None:
    private = (("Accept", "a/b"), ("user-agent", "other"), ("Via", "1.1 x"), ("Host", "h.example"), ("Range", "bytes=0-"))
    prepared = RequestTemplate.of("http://mirror.example/", OWN, "1.1 here", private)
    ask = Ask("http://mirror.example/x", 10, '"t"')
    assert sorted(lines_of(prepared, ask, "text/html", "1.0 there")[1:]) == [
        "Accept-Encoding: identity",
        "Accept: a/b",
        "Host: h.example",
        'If-Range: "t"',
        "Range: bytes=10-",
        "Via: 1.1 x",
        "user-agent: other",
    ]


@pytest.mark.parametrize(
    ("path", "tag", "via"),
    [
        ("a b", '"t"', None),
        ("a\r\nX: y", '"t"', None),
        ("a", '"t"\r\nX: y', None),
        ("a", '"t"\nX: y', None),
        ("a", "\0", None),
        ("a", '"t"', "x\r\nX: y"),
        ("\u20ac", '"t"', None),
    ],
)
def test_what_would_be_read_as_something_else_is_not_asked(path: str, tag: str, via: str | None) -> None:
    prepared = RequestTemplate.of("http://mirror.example/", OWN, "1.1 here", ())
    with pytest.raises(ValueError):  # noqa: PT011
        prepared.text(Ask(f"http://mirror.example/{path}", condition=Validators(tag)), None, via)


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\r\nX-Other: b", "a\0b", "a\r"])
def test_what_would_end_a_line_of_a_request_is_not_sent(text: str) -> None:
    url = "http://mirror.example/f"
    way = Way(Origin.of(url))
    assert raw_request("GET", url, (("X-One", "a"), ("X-Two", "b")), way).text.count(b"\r\n") == 5
    for fields in ((("X-One", text),), (("X-One", "a"), (text, "b"))):
        with pytest.raises(ValueError, match="control character"):
            raw_request("GET", url, fields, way)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT", "date": "Sun, 06 Nov 1994 08:49:00 GMT"}, 37.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 7.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT", "date": "yesterday"}, 7.0),
        ({}, None),
    ],
)
def test_a_date_to_ask_again_is_compared_with_that_of_the_answer_or_else_of_its_arrival(
    said: dict[str, str], seconds: float | None
) -> None:
    received = 784111770.0  # 08:49:30
    for status, expected in ((429, seconds), (503, seconds), (500, None)):
        head = answered(status, tuple(said.items()), said, (), "http://mirror.example/f", received, marked=True)
        assert head.retry_after == expected
