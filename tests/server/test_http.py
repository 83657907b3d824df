"""What a client sees on the wire, under every host."""

import base64
import hashlib
import random
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import pytest
from forks import Forks
from origin import MODIFIED, Gate, Origin, Say, Serve, until
from product import HOSTS, Proxy, blobs, parts, stored
from raw import Answer, Client

BODY = random.Random(1).randbytes(1000)


@dataclass
class Site:
    """A source and a product in front of it, shared by the tests of one host; each test has paths of its own."""

    origin: Origin
    proxy: Proxy

    def connect(self) -> Client:
        return Client(self.proxy.address)

    def ask(self, target: str, *lines: str, method: str = "GET", version: str = "HTTP/1.1") -> Answer:
        """One request on a connection of its own."""
        with self.connect() as client:
            return client.get(target, *lines, method=method, version=version)

    def fetched(self, path: str) -> int:
        """How often the source was asked for the file itself."""
        return len([asked for asked in self.origin.requests(path) if asked.method == "GET"])

    def store(self, path: str, body: bytes = BODY, *script: Serve, etag: str | None = '"tag"') -> bytes:
        """Put a file at the source and let the product fetch it; from then on a hit."""
        self.origin.put(path, body, *script, etag=etag)
        assert self.ask(path).body == body
        until(lambda: self.ask(path, method="HEAD").get("cache-status") == "package-cache; hit")
        return body


@pytest.fixture(scope="module", params=HOSTS)
def site(request: pytest.FixtureRequest, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    origin = Origin()
    proxy = Proxy(tmp_path_factory.mktemp("cache"), [origin.url], host=request.param, spawn=forks.spawn)
    yield Site(origin, proxy)
    proxy.kill()
    origin.stop()


RANGES = [
    ("bytes=0-0", 206, 0, 1),
    ("bytes=100-199", 206, 100, 200),
    ("bytes=990-", 206, 990, 1000),
    ("bytes=990-5000", 206, 990, 1000),
    ("bytes=-5", 206, 995, 1000),
    ("bytes=-5000", 206, 0, 1000),
    ("Bytes = 1-2", 206, 1, 3),
    ("bytes=1000-", 416, 0, 0),
    ("bytes=5000-6000", 416, 0, 0),
    ("bytes=-0", 416, 0, 0),
    ("bytes=5-3", 200, 0, 1000),
    ("bytes=", 200, 0, 1000),
    ("items=0-1", 200, 0, 1000),
    ("bytes=0-600,2-900,-5", 200, 0, 1000),
    ("bytes=0-1,x", 200, 0, 1000),
    ("bytes=9-19,5-9", 206, 5, 20),
    ("bytes=990-,5000-", 206, 990, 1000),
    ("bytes=1000-,5000-", 416, 0, 0),
]


def test_a_hit_answers_single_ranges(site: Site) -> None:
    site.store("/ranges-1.tar")
    with site.connect() as client:
        for value, status, first, last in RANGES:
            answer = client.get("/ranges-1.tar", f"Range: {value}")
            expected = {206: f"bytes {first}-{last - 1}/1000", 416: "bytes */1000"}.get(status)
            assert (answer.status, answer.get("content-range")) == (status, expected), value
            assert answer.whole
            if status != 416:
                assert answer.body == BODY[first:last], value
                assert answer.get("content-length") == str(last - first)
    assert site.fetched("/ranges-1.tar") == 1


def test_several_ranges_are_answered_in_one_body_that_arrives_whole(site: Site) -> None:
    large = random.Random(2).randbytes(3_000_000)
    for path, body in (("/several-1.tar", BODY), ("/several-large-1.tar", large)):
        site.store(path, body)
        for _ in ("after another range", "again"):
            with site.connect() as client:
                answer = client.get(path, "Range: bytes=0-9, 100-109,-5", 'If-Range: "tag"')
                assert (answer.status, answer.get("content-range")) == (206, None)
                size = len(body)
                assert parts_of(answer) == [(0, body[:10], size), (100, body[100:110], size), (size - 5, body[-5:], size)]
                assert client.get(path, "Range: bytes=0-9,100-109", 'If-Range: "other"').body == body
                head = client.get(path, "Range: bytes=0-9,100-109", method="HEAD")
                assert (head.status, head.get("content-length")) == (200, str(len(body)))
    far = ",".join(f"{at}-{at + 999}" for at in range(2_000_000, 2_200_000, 2000))
    found = parts_of(site.ask("/several-large-1.tar", f"Range: bytes={far}"))
    assert [(at, len(data)) for at, data, _ in found] == [(at, 1000) for at in range(2_000_000, 2_200_000, 2000)]
    assert all(large[at:].startswith(data) for at, data, _ in found)
    assert site.fetched("/several-large-1.tar") == 1


def parts_of(answer: Answer) -> list[tuple[int, bytes, int]]:
    """The parts of a multipart body: where each begins, its bytes, and the size of the file."""
    kind = answer.get("content-type")
    assert answer.whole
    assert kind is not None
    assert answer.get("content-length") == str(len(answer.body))
    first, *parts, last = answer.body.split(b"\r\n--" + kind.removeprefix("multipart/byteranges; boundary=").encode())
    assert (first, last) == (b"", b"--\r\n")
    found = []
    for part in parts:
        head, _, data = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        place = re.fullmatch(rb"Content-Type: \S+\r\nContent-Range: bytes (\d+)-(\d+)/(\d+)", head)
        assert place is not None, head
        start, stop, size = (int(number) for number in place.groups())
        assert len(data) == stop - start + 1
        found.append((start, data, size))
    return found


def test_several_ranges_of_a_file_that_still_arrives_come_with_it(site: Site) -> None:
    body, gate = random.Random(3).randbytes(2_000_000), Gate()
    site.origin.put("/several-growing-1.tar", body, Serve(gate=gate, gate_at=1_000_000), etag='"tag"')
    with site.connect() as client, site.connect() as other:
        client.ask("/several-growing-1.tar")
        assert gate.reached.wait(30)
        other.ask("/several-growing-1.tar", "Range: bytes=10-19,1500000-1500009")
        head = other.head()
        gate.open()
        parts = parts_of(other.rest(head))
        assert parts == [(10, body[10:20], len(body)), (1_500_000, body[1_500_000:1_500_010], len(body))]
        assert client.answer().body == body
    assert site.fetched("/several-growing-1.tar") == 1


def test_curl_gets_several_ranges(site: Site, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    site.store("/several-curl-1.tar")
    options = ["--silent", "--show-error", "--fail", "--include", "--noproxy", "*", "--max-time", "30"]
    done = subprocess.run(
        [curl, *options, "-r", "0-9,100-109", f"{site.proxy.url}several-curl-1.tar"], capture_output=True, check=True
    )
    head, _, got = done.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 206 ")
    assert BODY[:10] in got
    assert BODY[100:110] in got


def test_a_range_is_served_where_if_range_still_holds_and_the_whole_file_where_not(site: Site) -> None:
    site.store("/if-range-1.tar")
    earlier = formatdate(parsedate_to_datetime(MODIFIED).timestamp() - 60, usegmt=True)
    with site.connect() as client:
        for condition, status in (
            ('"tag"', 206),
            ('"other"', 200),
            ('W/"tag"', 200),
            (MODIFIED, 206),
            (earlier, 200),
            ("nonsense", 200),
        ):
            answer = client.get("/if-range-1.tar", "Range: bytes=10-19", f"If-Range: {condition}")
            assert (answer.status, answer.body) == (status, BODY[10:20] if status == 206 else BODY), condition


def test_a_client_that_has_the_file_is_told_so(site: Site) -> None:
    site.store("/conditional-1.tar")
    modified = parsedate_to_datetime(MODIFIED).timestamp()
    later, earlier = formatdate(modified + 60, usegmt=True), formatdate(modified - 60, usegmt=True)
    with site.connect() as client:
        for lines, status in (
            (['If-None-Match: "tag"'], 304),
            (['If-None-Match: W/"tag"'], 304),
            (['If-None-Match: "a", "tag", "b"'], 304),
            (["If-None-Match: *"], 304),
            (['If-None-Match: "other"'], 200),
            (['If-None-Match: "other"', f"If-Modified-Since: {later}"], 200),
            ([f"If-Modified-Since: {MODIFIED}"], 304),
            ([f"If-Modified-Since: {later}"], 304),
            ([f"If-Modified-Since: {earlier}"], 200),
            (["If-Modified-Since: nonsense"], 200),
        ):
            answer = client.get("/conditional-1.tar", *lines)
            assert answer.status == status, lines
            assert answer.body == (BODY if status == 200 else b"")
            assert answer.get("etag") == '"tag"'
            assert answer.get("cache-status") == "package-cache; hit"
            if status == 304:
                assert answer.get("content-type") is None
                assert answer.get("content-length") in (None, "1000")


def test_head_of_a_hit_has_the_fields_of_get_and_no_body(site: Site) -> None:
    site.store("/head-1.tar")
    until(lambda: "/head-1.tar" in stored(site.proxy.cache))  # which another process has to find
    with site.connect() as client:
        head, get = client.get("/head-1.tar", method="HEAD"), client.get("/head-1.tar")
    varying = {"date", "age"}
    assert [pair for pair in head.fields if pair[0] not in varying] == [
        pair for pair in get.fields if pair[0] not in varying
    ]
    assert get.body == BODY
    assert head.get("content-length") == "1000"


def test_head_of_what_is_not_here_is_asked_of_the_source_and_fetches_nothing(site: Site) -> None:
    site.origin.put("/relayed-1.tar", BODY, etag='"tag"')
    before = len(blobs(site.proxy.cache)), parts(site.proxy.cache)
    answer = site.ask("/relayed-1.tar", method="HEAD")
    assert (answer.status, answer.get("content-length"), answer.get("etag")) == (200, "1000", '"tag"')
    assert "fwd=uri-miss" in str(answer.get("cache-status"))
    assert "stored" not in str(answer.get("cache-status"))
    assert [asked.method for asked in site.origin.requests("/relayed-1.tar")] == ["HEAD"]
    assert (len(blobs(site.proxy.cache)), parts(site.proxy.cache)) == before
    assert "fwd=uri-miss" in str(site.ask("/relayed-1.tar").get("cache-status"))
    assert [asked.method for asked in site.origin.requests("/relayed-1.tar")] == ["HEAD", "GET"]


@pytest.mark.parametrize("status", [405, 501])
def test_head_is_answered_from_a_source_that_does_not_know_the_method(site: Site, status: int) -> None:
    site.origin.put(f"/headless-{status}.tar", BODY, Say(status), Serve())
    answer = site.ask(f"/headless-{status}.tar", method="HEAD")
    assert (answer.status, answer.get("content-length")) == (200, "1000")
    assert [asked.method for asked in site.origin.requests(f"/headless-{status}.tar")] == ["HEAD", "GET"]
    assert site.ask(f"/headless-{status}.tar").body == BODY


def test_head_of_what_no_source_has_is_404_and_the_connection_goes_on(site: Site) -> None:
    site.store("/after-404.tar")
    with site.connect() as client:
        assert client.get("/nowhere-1.tar", method="HEAD").status == 404
        assert client.get("/after-404.tar").body == BODY


def test_other_methods_are_refused_and_named(site: Site) -> None:
    site.store("/methods-1.tar")
    with site.connect() as client:
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "OPTIONS"):
            answer = client.get("/methods-1.tar", method=method)
            assert (answer.status, answer.get("allow")) == (405, "GET, HEAD"), method
        answer = client.get("*", method="OPTIONS")
        assert (answer.status, answer.get("allow")) == (405, "GET, HEAD")
        assert client.get("/methods-1.tar").body == BODY
    assert {asked.method for asked in site.origin.requests()} <= {"GET", "HEAD"}
    assert site.fetched("/methods-1.tar") == 1


@pytest.mark.parametrize("line", ["X: y", "Expect: 100-continue"])
def test_the_answer_to_a_target_that_names_nothing_says_that_the_connection_ends(site: Site, line: str) -> None:
    if site.proxy.host == "gthread":
        pytest.skip("Gunicorn says it before it asks the application")
    for target in ("/%zz", "/../a-1.tar", "/a-1.tar#x", "http:///a-1.tar", "*", "/" + "a" * 8100):
        for method in ("GET", "HEAD"):
            with site.connect() as client:
                answer = client.get(target, line, method=method)
                assert answer.status == (414 if len(target) > 8000 else 400)
                assert answer.get("connection") == "close"
                assert answer.get("cache-status") == "package-cache; fwd=bypass"
                assert client.ended()


SMUGGLED = b"GET /smuggled-1.tar HTTP/1.1\r\nHost: mirror.example\r\n\r\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "GET", "HEAD"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_is_never_read_as_the_next_request(site: Site, method: str, framing: str) -> None:
    path = f"/body-{method}-{framing}-1.tar"
    site.store(path)
    site.origin.put("/smuggled-1.tar", BODY)
    body = SMUGGLED if framing == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    line = f"Content-Length: {len(body)}" if framing == "length" else "Transfer-Encoding: chunked"
    with site.connect() as client:
        client.send(f"{method} {path} HTTP/1.1\r\nHost: mirror.example\r\n{line}\r\n\r\n".encode() + body + SMUGGLED)
        answer = client.answer(method)
        assert answer.status == {"GET": 200, "HEAD": 200}.get(method, 405)
        if method == "GET":
            assert answer.body == BODY
        if site.proxy.host != "gthread":
            assert answer.get("connection") == "close"
        assert client.ended()
    assert site.origin.requests("/smuggled-1.tar") == []


def test_a_client_that_waits_for_100_continue_gets_an_answer(site: Site) -> None:
    with site.connect() as client:
        client.ask("/expect-1.tar", "Content-Length: 5", "Expect: 100-continue", method="POST")
        answer = client.answer()
        if answer.status == 100:  # Gunicorn asks for the content before it asks the application (RFC 9110, 10.1.1)
            assert site.proxy.host == "gthread"
            client.send(b"hello")
            answer = client.answer()
        assert answer.status == 405
        assert client.ended()


def test_a_hit_says_what_the_source_said(site: Site) -> None:
    unwanted = (
        ("Set-Cookie", "a=b"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("Trailer", "X-Checked"),
        ("Connection", "X-Private"),
        ("X-Private", "1"),
        ("Upgrade", "h2c"),
        ("Public-Key-Pins", "x"),
    )
    site.store("/fields-1.tar", BODY, Serve(fields=(*unwanted, ("Content-Language", "en"), ("Age", "100"))))
    for answer in (
        site.ask("/fields-1.tar"),
        site.ask("/fields-1.tar", "Range: bytes=0-1"),
        site.ask("/fields-1.tar", method="HEAD"),
    ):
        names = [name for name, _ in answer.fields]
        assert len(names) == len(set(names))
        assert answer.get("content-type") == "application/octet-stream"
        assert answer.get("content-language") == "en"
        assert answer.get("last-modified") == MODIFIED
        assert answer.get("etag") == '"tag"'
        assert answer.get("accept-ranges") == "bytes"
        assert answer.get("cache-status") == "package-cache; hit"
        assert 100 <= int(str(answer.get("age"))) < 1000
        assert re.fullmatch(r"1\.1 package-cache-\w+", str(answer.get("via")))
        assert parsedate_to_datetime(str(answer.get("date")))
        expected = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
        assert answer.get("repr-digest") == f"sha-256=:{expected}:"
        assert answer.get("transfer-encoding") is None
        assert answer.get("content-encoding") is None
        for name in {name.lower() for name, _ in unwanted} - {"connection"}:
            assert name not in names
        assert answer.get("connection") in (None, "keep-alive")


def test_a_miss_says_that_it_is_one(site: Site) -> None:
    site.origin.put("/miss-1.tar", BODY)
    answer = site.ask("/miss-1.tar")
    assert answer.get("cache-status") == "package-cache; fwd=uri-miss; fwd-status=200; stored"
    assert int(str(answer.get("age"))) < 100
    assert answer.get("via")


@pytest.mark.parametrize("etag", [None, 'W/"weak"', "unquoted"])
def test_a_hit_has_a_tag_of_its_digest_where_the_source_has_no_strong_one(site: Site, etag: str | None) -> None:
    path = f"/tag-{etag and etag.strip('W/')}-1.tar".replace('"', "")
    site.store(path, BODY, etag=etag)
    answer = site.ask(path)
    tag = f'"{hashlib.sha256(BODY).hexdigest()}"'
    assert answer.get("etag") == tag
    assert site.ask(path, f"If-None-Match: {tag}").status == 304
    assert site.ask(path, "Range: bytes=5-9", f"If-Range: {tag}").body == BODY[5:10]


def test_an_empty_file_is_served(site: Site) -> None:
    site.store("/empty-1.tar", b"")
    with site.connect() as client:
        for _ in range(2):
            answer = client.get("/empty-1.tar")
            assert (answer.status, answer.get("content-length"), answer.whole) == (200, "0", True)
        assert client.get("/empty-1.tar", "Range: bytes=0-").status == 416


def test_what_no_source_has_is_404_each_time(site: Site) -> None:
    site.origin.put("/gone-1.tar", BODY, Say(404))
    with site.connect() as client:
        for count in (1, 2):
            answer = client.get("/gone-1.tar")
            assert answer.status == 404
            assert answer.whole
            assert len(site.origin.requests("/gone-1.tar")) == count


def test_plus_and_its_escape_are_one_file(site: Site) -> None:
    site.origin.put("/gtk%2B-3.tar", BODY)
    for spelling in ("/gtk+-3.tar", "/gtk%2B-3.tar", "/gtk%2b-3.tar", "/%67tk+-3.tar", "/./gtk+-3.tar", "/x/../gtk+-3.tar"):
        assert site.ask(spelling).body == BODY, spelling
    assert len(site.origin.requests("/gtk%2B-3.tar")) == 1


def test_an_escaped_percent_sign_stays_one(site: Site) -> None:
    bodies = {"/a%253a.tar": b"one", "/a%3A.tar": b"two", "/b%2Fc.tar": b"three", "/b/c-1.tar": b"four"}
    for path, body in bodies.items():
        site.origin.put(path.replace("%3A", ":"), body)
    for path, body in bodies.items():
        assert site.ask(path).body == body, path


def test_the_query_is_part_of_the_name(site: Site) -> None:
    bodies = {"/q-1.tar": b"none", "/q-1.tar?v=1": b"one", "/q-1.tar?v=2": b"two", "/q-1.tar?v=1&w=2": b"three"}
    for path, body in bodies.items():
        site.origin.put(path, body)
    for _ in range(2):
        for path, body in bodies.items():
            assert site.ask(path).body == body, path


def test_a_file_may_stand_beside_a_folder_of_its_name(site: Site) -> None:
    bodies = {"/pkg": b"file", "/pkg/": b"listing", "/pkg/x-1.tar": b"member", "//pkg": b"empty segment"}
    for path, body in bodies.items():
        site.origin.put(path, body)
    for _ in range(2):
        for path, body in bodies.items():
            assert site.ask(path).body == body, path


def test_an_absolute_target_names_a_source_or_is_refused(site: Site) -> None:
    site.origin.put("/absolute-1.tar", BODY)
    with site.connect() as client:
        own = f"http://{socket.gethostname()}:{site.proxy.address[1]}/"
        for base in (site.origin.url, site.proxy.url, "http://LOCALHOST:1/", "HTTP://127.0.0.1/", own):
            assert client.get(f"{base}absolute-1.tar").body == BODY, base
        for base in ("http://elsewhere.example/", "http://127.0.0.1.elsewhere.example/", "https://mirror.example:443/"):
            assert client.get(f"{base}absolute-1.tar").status == 403, base
        assert client.get("/absolute-1.tar").body == BODY
    assert len(site.origin.requests("/absolute-1.tar")) == 1


def test_a_connection_serves_one_request_after_the_other(site: Site) -> None:
    site.store("/alive-1.tar")
    with site.connect() as client:
        for lines, method, target, status in (
            ([], "GET", "/alive-1.tar", 200),
            (['If-None-Match: "tag"'], "GET", "/alive-1.tar", 304),
            ([], "GET", "/alive-but-gone-1.tar", 404),
            (["Range: bytes=1-2"], "GET", "/alive-1.tar", 206),
            (["Range: bytes=2000-"], "GET", "/alive-1.tar", 416),
            ([], "HEAD", "/alive-1.tar", 200),
            (['If-None-Match: "tag"'], "HEAD", "/alive-1.tar", 304),
            ([], "DELETE", "/alive-1.tar", 405),
            ([], "GET", "http://elsewhere.example/", 403),
            ([], "GET", "/alive-1.tar", 200),
        ):
            answer = client.get(target, *lines, method=method)
            assert (answer.status, answer.whole) == (status, True)
            assert answer.get("connection") in (None, "keep-alive")
        answer = client.get("/alive-1.tar", "Connection: close")
        assert (answer.body, answer.get("connection")) == (BODY, "close")
        assert client.ended()


def test_requests_sent_at_once_are_answered_in_their_order(site: Site) -> None:
    first, second = site.store("/first-1.tar"), site.origin.put("/second-1.tar", BODY[::-1])
    requests = [(path, path.encode()) for path in ("/first-1.tar", "/second-1.tar", "/third-1.tar", "/first-1.tar") * 3]
    with site.connect() as client:
        client.send(b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path for _, path in requests))
        for path, _ in requests:
            answer = client.answer()
            if path == "/third-1.tar":
                assert answer.status == 404
            else:
                assert answer.body == (first if path == "/first-1.tar" else second)


def test_a_request_in_pieces_is_one_request(site: Site) -> None:
    site.store("/pieces-1.tar")
    with site.connect() as client:
        client.socket.setsockopt(6, 1, 1)  # TCP_NODELAY: each byte is a packet
        for byte in b"GET /pieces-1.tar HTTP/1.1\r\nHost: mirror.example\r\n\r\n" * 2:
            client.send(bytes([byte]))
        assert client.answer().body == BODY
        assert client.answer().body == BODY


def test_an_old_client_gets_the_whole_file_and_the_end_of_the_connection(site: Site) -> None:
    site.origin.put("/old-1.tar", BODY)
    for _ in range(2):
        with site.connect() as client:
            answer = client.get("/old-1.tar", version="HTTP/1.0")
            assert (answer.body, answer.whole, answer.get("transfer-encoding")) == (BODY, True, None)
            assert client.ended()
    with site.connect() as client:
        assert client.get("/old-1.tar", "Connection: keep-alive", version="HTTP/1.0").get("connection") == "keep-alive"
        assert client.get("/old-1.tar", version="HTTP/1.0").body == BODY


def test_a_file_of_unknown_length_arrives_whole(site: Site) -> None:
    gate = Gate()
    body = site.origin.put(
        "/chunked-1.tar", random.Random(2).randbytes(300_000), Serve(chunked=True, gate=gate, gate_at=200_000)
    )
    with site.connect() as modern, site.connect() as old:
        modern.ask("/chunked-1.tar")
        old.ask("/chunked-1.tar", version="HTTP/1.0")
        head = modern.head()
        assert (head.status, head.get("transfer-encoding"), head.get("content-length")) == (200, "chunked", None)
        gate.open()
        answer = modern.rest(head)
        assert (answer.whole, answer.body) == (True, body)
        # Without chunks only a length could tell it a cut body from a whole one.
        answer = old.answer()
        assert (answer.status, answer.get("content-length"), answer.body) == (200, "300000", body)
    assert site.ask("/chunked-1.tar", "Range: bytes=-10").body == body[-10:]
    assert site.fetched("/chunked-1.tar") == 1


def test_a_range_of_a_cold_file_of_unknown_length_waits_for_the_length(site: Site) -> None:
    body = site.origin.put("/chunked-range-1.tar", random.Random(3).randbytes(300_000), Serve(chunked=True))
    answer = site.ask("/chunked-range-1.tar", "Range: bytes=100-199")
    assert (answer.status, answer.body, answer.get("content-range")) == (206, body[100:200], "bytes 100-199/300000")


def test_a_range_during_a_cold_fill_waits_for_its_own_bytes_only(site: Site) -> None:
    gate = Gate()
    body = site.origin.put("/filling-1.tar", random.Random(4).randbytes(1_000_000), Serve(gate=gate, gate_at=500_000))
    with site.connect() as whole:
        whole.ask("/filling-1.tar")
        assert gate.reached.wait(30)
        answer = site.ask("/filling-1.tar", "Range: bytes=100000-199999")
        assert (answer.status, answer.body) == (206, body[100_000:200_000])
        assert not gate.opened.is_set()
        gate.open()
        assert whole.answer().body == body
    assert len(site.origin.requests("/filling-1.tar")) == 1


def test_a_request_that_comes_back_is_a_loop(site: Site) -> None:
    site.store("/loop-1.tar")
    via = site.ask("/loop-1.tar").get("via")
    with site.connect() as client:
        for value in (via, f"1.0 fred, {via}", f"{via}, 1.1 other"):
            for target in ("/loop-1.tar", "/loop-cold-1.tar"):
                assert client.get(target, f"Via: {value}").status == 508
        assert client.get("/loop-1.tar", "Via: 1.1 another-cache").body == BODY
    assert site.origin.requests("/loop-cold-1.tar") == []


def test_the_source_sees_who_asks_and_nothing_of_the_client(site: Site) -> None:
    site.origin.put("/private-1.tar", BODY)
    site.ask(
        "/private-1.tar",
        "Cookie: secret",
        "Authorization: Basic eA==",
        "User-Agent: Wget",
        "X-Own: 1",
        "Referer: http://a/",
    )
    (asked,) = site.origin.requests("/private-1.tar")
    assert re.fullmatch(r"package-cache/\S+", asked.fields["user-agent"])
    assert "package-cache-" in asked.fields["via"]
    assert not asked.fields.keys() & {"cookie", "authorization", "x-own", "referer", "range"}
    assert asked.fields["host"] == f"127.0.0.1:{site.origin.port}"
