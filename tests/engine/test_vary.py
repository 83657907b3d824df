"""Answers that vary: what a source would have answered differently is never taken for an answer to another request."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from mirror import (
    Mirror,
    run_mirror,  # noqa: F401 - the fixture `mirror`
)
from origin import Origin, Serve, until
from product import Proxy, stored

from package_cache.rules.http.fields import quality

Start = Callable[..., Proxy]

FILE = "/distfiles/a-1.bin"
DOCUMENT = "/packages/a"


def varying(field: str) -> Serve:
    return Serve(fields=(("Vary", field),))


@pytest.mark.parametrize("path", [FILE, DOCUMENT])
@pytest.mark.parametrize("host", ["wsgiref", "gthread"])
def test_clients_are_told_what_an_answer_varies_by(host: str, path: str, origin: Origin, start: Start) -> None:
    body = origin.put(path, b"one" * 100, varying("Accept, Accept-Encoding"))
    proxy = start(origin.url, host=host)
    for _ in ("from the source", "from the store", "from what is at hand"):
        got = proxy.get(path)
        assert (got.status, got.body, got.fields["Vary"]) == (200, body, "Accept, Accept-Encoding")
    confirmed = proxy.get(path, {"If-None-Match": got.fields["ETag"]})
    assert (confirmed.status, confirmed.fields["Vary"]) == (304, "Accept, Accept-Encoding")
    assert proxy.get(path, method="HEAD").fields["Vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize("path", [DOCUMENT, FILE])
def test_an_answer_that_varies_by_everything_is_never_an_answer_to_a_later_request(
    path: str, origin: Origin, start: Start
) -> None:
    origin.put(path, b"one", varying("*"), Serve(fields=(("Vary", "*"),), body=b"two"), etag=None, modified=None)
    proxy = start(origin.url)
    assert [proxy.get(path).body for _ in range(3)] == [b"one", b"two", b"two"]
    assert len(origin.requests(path)) == 3


def put_forms(mirror: Mirror, path: str, times: int = 1) -> dict[str, bytes]:
    """Offer a thing in two forms, by the client's Accept; their bodies."""
    forms = {"text/plain": b"plain" * times, "text/x-diff": b"a difference" * times}
    for (_, body), kind in zip(forms.items(), ("plain", "diff"), strict=True):
        mirror.put(f"{path}/index.{kind}", body)
    return forms


def test_a_document_is_given_in_the_form_that_was_asked_for_or_not_at_all(mirror: Mirror, start: Start) -> None:
    path = "/npm/thing"
    forms = put_forms(mirror, path)
    proxy = start(mirror.url)
    assert proxy.get(path, {"Accept": "text/plain"}).body == forms["text/plain"]
    mirror.stop()
    assert proxy.get(path, {"Accept": "text/x-diff"}).status == 502
    mirror.start()
    for _ in ("from the mirror", "confirmed"):
        assert {accept: proxy.get(path, {"Accept": accept}).body for accept in forms} == forms
    mirror.stop()
    assert {accept: proxy.get(path, {"Accept": accept}).body for accept in forms} == forms
    assert len(stored(proxy.cache)) == 2


def test_while_no_source_can_be_asked_a_form_that_was_asked_for_otherwise_is_given_to_whom_it_is_welcome(
    mirror: Mirror, start: Start
) -> None:
    forms = put_forms(mirror, "/npm/thing")
    put_forms(mirror, "/npm/thing-1.0.patch")
    proxy = start(mirror.url)
    for accept in forms:
        assert proxy.get("/npm/thing", {"Accept": accept}).body == forms[accept]
    assert proxy.get("/npm/thing-1.0.patch").body == forms["text/plain"]
    until(lambda: len(stored(proxy.cache)) == 3)
    asked = {
        "text/x-diff;q=0.1, text/plain": "text/plain",
        "text/x-diff, text/plain;q=0.9": "text/x-diff",
        "text/plain;q=0, */*;q=0.1": "text/x-diff",
    }
    mirror.stop()
    for accept, kind in asked.items():
        got = proxy.get("/npm/thing", {"Accept": accept})
        assert (got.status, got.fields["Content-Type"], got.body) == (200, kind, forms[kind])
        head = proxy.get("/npm/thing", {"Accept": accept}, method="HEAD")
        assert (head.status, head.fields["ETag"]) == (200, got.fields["ETag"])
    for anything in ({}, {"Accept": "*/*"}, {"Accept": "text/*"}):
        assert proxy.get("/npm/thing", anything).status == 200
    for accept in ("text/html", "text/plain;q=0", "application/*"):
        assert proxy.get("/npm/thing", {"Accept": accept}).status == 502
        assert proxy.get("/npm/thing", {"Accept": accept}, method="HEAD").status == 502
    assert proxy.get("/npm/thing-1.0.patch", {"Accept": "text/x-diff, text/plain;q=0.5"}).body == forms["text/plain"]
    assert proxy.get("/npm/thing-1.0.patch", {"Accept": "text/x-diff"}).status == 502


@pytest.mark.parametrize(
    ("accept", "kind", "expected"),
    [
        (None, "text/html", 1),
        ("", "text/html", 1),
        ("*/*", None, 1),
        ("text/*", None, 0),
        ("text/html", "Text/HTML; charset=utf-8", 1),
        ("text/html;q=0.5, */*;q=0.1", "text/html", 0.5),
        ("*/*;q=0.9, text/html;q=0.5, text/*;q=0.7", "text/html", 0.5),
        ("*/*;q=0.9, text/html;q=0.5, text/*;q=0.7", "text/plain", 0.7),
        ("text/html;level=1, text/html;q=0.7", "text/html;level=1", 1),
        ("text/html;level=1, text/html;q=0.7", "text/html", 0.7),
        ("text/html;q=0, */*", "text/html", 0),
        ("text/html;q=2", "text/html", 0),
        ("text/html;q=x, text/plain", "text/plain", 1),
        ("text", "text/html", 0),
        ("*", "text/html", 0),
        ("*/html", "text/html", 0),
        (",,", "text/html", 0),
    ],
)
def test_how_welcome_a_type_is_to_a_client(accept: str | None, kind: str | None, expected: float) -> None:
    assert quality(accept, kind) == expected


def test_a_package_file_that_varies_by_accept_is_given_in_the_form_that_was_asked_for(mirror: Mirror, start: Start) -> None:
    path = "/npm/thing-1.0.patch"
    forms = put_forms(mirror, path)
    proxy = start(mirror.url)
    assert proxy.get(path).body == forms["text/plain"]
    for _ in ("from the mirror", "from the store", "from what is at hand"):
        assert {accept: proxy.get(path, {"Accept": accept}).body for accept in forms} == forms


@pytest.mark.parametrize("path", ["/npm/paced-thing-1.0.patch", "/npm/paced-thing"])
def test_clients_that_ask_for_two_forms_at_once_have_each_its_own(path: str, mirror: Mirror, start: Start) -> None:
    forms = put_forms(mirror, path, 50_000)
    proxy = start(mirror.url)
    accepts = [*forms] * 4
    with ThreadPoolExecutor(len(accepts)) as clients:
        got = list(clients.map(lambda accept: proxy.get(path, {"Accept": accept}), accepts))
    assert [one.body for one in got] == [forms[accept] for accept in accepts]


def test_a_package_file_is_kept_once_for_clients_that_differ_in_what_sources_are_never_told(
    origin: Origin, start: Start
) -> None:
    body = origin.put(FILE, b"one" * 100, varying("Accept-Encoding, User-Agent, Accept-Language"))
    proxy = start(origin.url)
    for encoding, agent, language in (("gzip", "one", "de"), ("identity", "two", "en"), ("zstd", "three", "fr")):
        fields = {"Accept-Encoding": encoding, "User-Agent": agent, "Accept-Language": language}
        assert proxy.get(FILE, fields).body == body
    (asked,) = origin.requests(FILE)
    assert asked.fields["accept-encoding"] == "identity"
    assert "accept-language" not in asked.fields
    assert asked.fields["user-agent"].startswith("package-cache/")
