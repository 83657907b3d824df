"""A POST is passed on where a repository lists the path, as that of npm audit; so is its answer, which is not kept."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from audits import AUDIT, configured
from origin import Gate, Hang, Origin, Raw, Say, Serve
from product import Proxy, stored
from raw import Answer, Client

Start = Callable[..., Proxy]

QUESTION = gzip.compress(json.dumps({"demo": ["1.0.0"]}).encode(), mtime=0)
ADVISORIES = b'{"demo": [{"id": 1, "severity": "high"}]}'


def post(proxy: Proxy, path: str, content: bytes, *lines: str, pause: Callable[[], None] | None = None) -> Answer:
    """A POST of that content; `pause` is called in the middle of it."""
    with Client(proxy.address) as client:
        client.ask(path, f"Content-Length: {len(content)}", *lines, method="POST")
        client.send(content[: len(content) // 2])
        if pause is not None:
            pause()
        client.send(content[len(content) // 2 :])
        return client.answer()


def test_an_audit_is_answered_by_the_registry(origin: Origin, start: Start, tmp_path: Path, host: str) -> None:
    origin.put(AUDIT, ADVISORIES, content_type="application/json", etag=None, modified=None)
    proxy = start(host=host, config=configured(tmp_path, origin))
    lines = ("Content-Type: application/json", "Content-Encoding: gzip", "Accept: */*", "Authorization: Basic eDp5")
    for _ in range(2):
        answer = post(proxy, "/npm" + AUDIT, QUESTION, *lines, "Cookie: a=b")
        assert (answer.status, answer.body, answer.whole) == (200, ADVISORIES, True)
        assert answer.get("content-type") == "application/json"
        assert answer.get("cache-status") == "package-cache; fwd=method; fwd-status=200"
    asked = origin.requests(AUDIT)
    assert [(one.method, one.content) for one in asked] == [("POST", QUESTION)] * 2
    assert (asked[0].fields["content-type"], asked[0].fields["content-encoding"]) == ("application/json", "gzip")
    assert asked[0].fields["accept-encoding"] == "identity"
    assert not {"authorization", "cookie", "expect"} & set(asked[0].fields)
    assert stored(proxy.cache) == []


def test_large_content_arrives_whole_and_too_much_is_refused(
    origin: Origin, start: Start, tmp_path: Path, host: str
) -> None:
    origin.put(AUDIT, ADVISORIES)
    proxy = start(host=host, config=configured(tmp_path, origin))
    large = random.Random(1).randbytes(10 << 20)
    assert post(proxy, "/npm" + AUDIT, large).status == 200
    assert origin.requests(AUDIT)[-1].content == large
    with Client(proxy.address) as client:
        client.ask("/npm" + AUDIT, f"Content-Length: {(10 << 20) + 1}", method="POST")
        assert client.answer().status == 413
    with Client(proxy.address) as client:
        client.ask("/npm" + AUDIT, "Transfer-Encoding: chunked", method="POST")
        client.send(b"0\r\n\r\n")
        assert client.answer().status == 411
    assert len(origin.requests(AUDIT)) == 1


def test_who_waits_to_be_asked_for_the_content_is_asked(origin: Origin, start: Start, tmp_path: Path, host: str) -> None:
    origin.put(AUDIT, ADVISORIES)
    proxy = start(host=host, config=configured(tmp_path, origin))
    with Client(proxy.address) as client:
        client.ask("/npm" + AUDIT, f"Content-Length: {len(QUESTION)}", "Expect: 100-continue", method="POST")
        assert client.head().status == 100
        client.send(QUESTION)
        assert client.answer().body == ADVISORIES


def test_nobody_waits_for_who_sends_slowly_or_for_a_source_that_does_not_answer(
    origin: Origin, start: Start, tmp_path: Path, host: str
) -> None:
    gate = Gate()
    origin.put(AUDIT, ADVISORIES, Serve(before=gate))
    origin.put("/demo/-/demo-1.0.0.tgz", gzip.compress(b"x"))
    proxy = start(host=host, config=configured(tmp_path, origin))

    def look() -> None:
        assert proxy.get("/npm/demo/-/demo-1.0.0.tgz").status == 200

    with Client(proxy.address) as client:
        client.ask("/npm" + AUDIT, "Content-Length: 5", method="POST")
        client.send(b"12345")
        assert gate.reached.wait(30)
        look()
        gate.open()
        assert client.answer().status == 200
    assert post(proxy, "/npm" + AUDIT, QUESTION, pause=look).status == 200


@pytest.mark.parametrize("path", [AUDIT, "/-/npm/v1/security/audits", "/-/npm/v1/security/audits/quick"])
def test_refusals_of_the_registry_are_passed_on(path: str, origin: Origin, start: Start, tmp_path: Path) -> None:
    proxy = start(config=configured(tmp_path, origin))
    assert post(proxy, "/npm" + path, QUESTION).status == 404
    origin.put(path, b"", Say(400, b'{"error": "bad"}', (("Content-Type", "application/json"),)))
    answer = post(proxy, "/npm" + path, QUESTION)
    assert (answer.status, answer.body, answer.get("content-type")) == (400, b'{"error": "bad"}', "application/json")


@pytest.mark.parametrize(
    "failure",
    [
        Say(503, b"down"),
        Say(301, b"", (("Location", "/elsewhere"),)),
        Serve(cut=10),
        Serve(length=False),
        Raw(b"nonsense\r\n\r\n"),
        Hang(),
    ],
    ids=["503", "redirect", "short", "no end", "nonsense", "silence"],
)
def test_the_next_source_is_asked_where_one_fails(
    failure: Serve | Say | Raw | Hang, origin: Origin, another: Origin, start: Start, tmp_path: Path
) -> None:
    for one in (origin, another):
        one.put(AUDIT, ADVISORIES, failure)
    environment = {"PACKAGE_CACHE_HEAD_TIMEOUT": "4"}
    proxy = start(config=configured(tmp_path, origin, another), environment=environment)
    assert post(proxy, "/npm" + AUDIT, QUESTION).status in (502, 504)
    another.script(AUDIT, Serve())
    answer = post(proxy, "/npm" + AUDIT, QUESTION)
    assert (answer.status, answer.body) == (200, ADVISORIES)


def test_a_redirect_that_keeps_the_method_is_followed(origin: Origin, start: Start, tmp_path: Path) -> None:
    origin.put(AUDIT, b"", Say(308, b"", (("Location", "/moved"),)))
    origin.put("/moved", ADVISORIES)
    proxy = start(config=configured(tmp_path, origin))
    assert post(proxy, "/npm" + AUDIT, QUESTION).body == ADVISORIES
    assert origin.requests("/moved")[0].content == QUESTION


def test_elsewhere_a_post_is_not_allowed(origin: Origin, start: Start, tmp_path: Path, host: str) -> None:
    proxy = start(host=host, config=configured(tmp_path, origin, more='pass-post = ["/api/*"]'))
    origin.put("/api/search", b"found")
    for path in ("/npm/demo", "/npm" + AUDIT, "/npm/api/a/b", "/other", "/-/health", "http://other.example/api/search"):
        assert post(proxy, path, QUESTION).status == 405, path
    assert post(proxy, "/npm/api/search", b"").body == b"found"
    assert [one.target for one in origin.requests()] == ["/api/search"]
    for method in ("PUT", "DELETE", "PATCH"):
        with Client(proxy.address) as client:
            assert client.get("/npm/api/search", method=method).status == 405


def test_content_that_ends_early_is_not_passed_on(origin: Origin, start: Start, tmp_path: Path, host: str) -> None:
    origin.put(AUDIT, ADVISORIES)
    proxy = start(host=host, config=configured(tmp_path, origin))
    with Client(proxy.address) as client:
        client.ask("/npm" + AUDIT, "Content-Length: 100", method="POST")
        client.send(b"0123")
        client.socket.shutdown(1)
        assert client.answer().status == 400
    assert origin.requests() == []
