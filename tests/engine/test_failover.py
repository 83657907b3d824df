"""Failover: what clients get where sources fail, and what the sources are asked for then."""

import email.utils
import hashlib
import http.client
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from origin import Behaviour, Gate, Hang, Origin, Raw, Say, Serve, until
from product import Proxy, Response, blobs, parts

from package_cache.upstream.mirrors import LOOK_SECONDS

LIMITS = {
    "PACKAGE_CACHE_CONNECT_TIMEOUT": "4",
    "PACKAGE_CACHE_HEAD_TIMEOUT": "4",
    "PACKAGE_CACHE_STALL_TIMEOUT": "4",
}
ONE_WORKER = {"gunicorn": ("--workers", "1"), "gthread": ("-w", "1"), "wsgiref": ()}
OVERLAP = 4096
"""Bytes before the joint that are asked for again."""
NEWER = "Wed, 03 Jan 2024 03:04:05 GMT"


@pytest.fixture
def start(start: Callable[..., Proxy]) -> Callable[..., Proxy]:
    return start


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


BODY, OTHER = noise(600_000, 1), noise(600_000, 2)
HALF = 300_000


@contextmanager
def refused_port() -> Iterator[int]:
    """A port of this machine where nobody listens, and nobody will while it is bound."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def assert_unmixed(answer: Response, told: bytes, true: bytes) -> None:
    """A client has the beginning of what it was told and is cut, or it has the one true file."""
    assert answer.status == 200
    if answer.whole:
        assert answer.body == true
    else:
        assert told.startswith(answer.body)


def ranges(origin: Origin, path: str = "/a-1.tar") -> list[str | None]:
    return [asked.fields.get("range") for asked in origin.requests(path)]


FAILURES: dict[str, Behaviour] = {
    "hang before the head": Hang(),
    "stall in the body": Serve(stall=HALF),
    "stall before the body": Serve(stall=0),
    "close without an answer": Raw(b""),
    "404": Say(404),
    "410": Say(410),
    "403": Say(403),
    "401": Say(401),
    "429": Say(429),
    "500": Say(500),
    "503": Say(503),
    "no length and no chunks": Serve(length=False),
    "redirect to nowhere": Say(302, fields=(("Location", "http://does-not-exist.invalid/"),)),
    "cut at once": Serve(cut=0),
    "cut half way, each time": Serve(cut=HALF),
    "reset half way, each time": Serve(reset=HALF),
}


@pytest.mark.parametrize("name", FAILURES)
def test_the_second_mirror_delivers_where_the_first_fails(
    origin: Origin, another: Origin, start: Callable[..., Proxy], name: str
) -> None:
    origin.put("/a-1.tar", BODY, FAILURES[name])
    another.put("/a-1.tar", BODY)
    proxy = start(origin.url, another.url, environment=LIMITS)
    answer = proxy.get("/a-1.tar")
    assert (answer.status, answer.whole, answer.body) == (200, True, BODY)
    assert origin.requests()
    assert len(another.requests()) == 1
    assert proxy.get("/a-1.tar").cache_status == "package-cache; hit"


@pytest.mark.parametrize("kind", ["name", "port", "tls"])
def test_the_second_mirror_delivers_where_the_first_cannot_be_reached(
    origin: Origin, another: Origin, start: Callable[..., Proxy], kind: str
) -> None:
    another.put("/a-1.tar", BODY)
    with refused_port() as port:
        first = {
            "name": "http://does-not-exist.invalid/",
            "port": f"http://127.0.0.1:{port}/",
            "tls": origin.url.replace("http", "https"),
        }[kind]
        proxy = start(first, another.url, environment=LIMITS)
        answer = proxy.get("/a-1.tar")
    assert (answer.status, answer.whole, answer.body) == (200, True, BODY)


def test_silence_within_a_body_has_a_limit_of_its_own(origin: Origin, another: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", BODY, Serve(stall=HALF), Say(404))
    another.put("/a-1.tar", BODY)
    proxy = start(origin.url, another.url, environment={**LIMITS, "PACKAGE_CACHE_HEAD_TIMEOUT": "300"})
    assert proxy.get("/a-1.tar").body == BODY


@pytest.mark.parametrize("declared", [-1000, 1000])
def test_a_file_of_the_wrong_length_is_never_mixed_with_the_right_one(
    origin: Origin, another: Origin, start: Callable[..., Proxy], declared: int
) -> None:
    small = noise(50_000)
    origin.put("/small-1.tar", small, Serve(declared=len(small) + declared, leave=True, ranges=False))
    origin.put("/big-1.tar", BODY, Serve(declared=len(BODY) + declared, leave=True, ranges=False))
    another.put("/small-1.tar", small)
    another.put("/big-1.tar", BODY)
    proxy = start(origin.url, another.url, environment=LIMITS)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(proxy.get, ("/small-1.tar", "/big-1.tar"))
    assert (first.status, first.body) == (200, small)
    assert_unmixed(second, BODY, BODY)
    until(lambda: not parts(proxy.cache) or declared > 0)
    answer = proxy.get("/big-1.tar")
    assert (answer.body, answer.whole) == (BODY, True)


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (Say(404), Say(404), 404),
        (Say(404), Say(410), 404),
        (Say(404), Say(403), 404),
        (Say(403), Say(403), 403),
        (Say(500), Say(404), 500),
        (Say(503), Say(503), 503),
        (Hang(), Hang(), 504),
        (Hang(), Say(404), 404),
        (Raw(b""), Raw(b""), 502),
    ],
)
def test_what_a_client_is_told_where_no_source_delivers(
    origin: Origin, another: Origin, start: Callable[..., Proxy], first: Behaviour, second: Behaviour, status: int
) -> None:
    origin.put("/a-1.tar", BODY, first)
    another.put("/a-1.tar", BODY, second)
    proxy = start(origin.url, another.url, environment=LIMITS)
    answer = proxy.get("/a-1.tar")
    assert answer.status == status
    until(lambda: not parts(proxy.cache))
    # It is not remembered: what a source has now is given now.
    another.script("/a-1.tar", Serve())
    assert proxy.get("/a-1.tar").body == BODY


def test_a_client_is_told_that_no_source_can_be_reached(start: Callable[..., Proxy]) -> None:
    with refused_port() as port:
        sources = {"http://does-not-exist.invalid/": "does not resolve", f"http://127.0.0.1:{port}/": "refused"}
        for source, reason in sources.items():
            answer = start(source, environment=LIMITS).get("/a-1.tar")
            assert answer.status == 502
            assert reason in answer.body.decode()
        answer = start(*sources, environment=LIMITS).get("/a-1.tar")
        assert answer.status == 502
        assert all(reason in answer.body.decode() for reason in sources.values())


def test_a_mirror_that_does_not_answer_is_asked_last_for_a_while(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    origin.put("/a-1.tar", BODY, Hang())
    origin.put("/b-1.tar", OTHER)
    origin.put("/c-1.tar", b"only here")
    another.put("/a-1.tar", BODY)
    another.put("/b-1.tar", OTHER)
    proxy = start(origin.url, another.url, environment=LIMITS)
    assert proxy.get("/a-1.tar").body == BODY
    assert proxy.get("/b-1.tar").body == OTHER
    assert not origin.requests("/b-1.tar")
    assert proxy.get("/c-1.tar").body == b"only here"


def test_a_download_that_waits_for_its_sources_shows_that_it_lives(start: Callable[..., Proxy]) -> None:
    """Clients of other processes give up on a leader that shows no sign of life. In its first moments there is none yet."""
    origins = [Origin() for _ in range(4)]
    try:
        for origin in origins:
            origin.put("/a-1.tar", BODY, Hang())
        proxy = start(*(origin.url for origin in origins), environment=LIMITS)
        signs = set()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(proxy.get, "/a-1.tar")
            for origin in origins:
                until(origin.requests)
                signs |= {path.stat().st_mtime_ns for path in parts(proxy.cache)}
            assert waiting.result().status == 504
        assert len(signs) >= 2
    finally:
        for origin in origins:
            origin.stop()


# Broken off, and continued


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
@pytest.mark.parametrize("how", ["cut", "reset", "stall"])
def test_a_broken_download_goes_on_where_it_broke_off(
    origin: Origin, start: Callable[..., Proxy], host: str, how: str
) -> None:
    origin.put("/a-1.tar", BODY, Serve(**{how: HALF}), Serve())
    proxy = start(origin.url, host=host, environment=LIMITS)
    answer = proxy.get("/a-1.tar")
    assert (answer.status, answer.whole, answer.body) == (200, True, BODY)
    first, second = origin.requests()
    assert "range" not in first.fields
    at = int(second.fields["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < at <= HALF - OVERLAP
    assert how == "reset" or at == HALF - OVERLAP
    assert second.fields["if-range"] == origin.things["/a-1.tar"].etag
    until(lambda: len(blobs(proxy.cache)) == 1)


def test_a_date_proves_a_version_where_there_is_no_tag(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", BODY, Serve(cut=HALF), Serve(), etag=None)
    assert start(origin.url).get("/a-1.tar").body == BODY
    assert origin.requests()[1].fields["range"] == f"bytes={HALF - OVERLAP}-"
    assert origin.requests()[1].fields["if-range"] == origin.things["/a-1.tar"].modified


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_proof_of_the_version_the_whole_is_read_again_and_compared(
    origin: Origin, start: Callable[..., Proxy], tag: str | None
) -> None:
    origin.put("/a-1.tar", BODY, Serve(cut=HALF), Serve(), etag=tag, modified=None)
    answer = start(origin.url).get("/a-1.tar")
    assert (answer.body, answer.whole) == (BODY, True)
    assert ranges(origin) == [None, None]


def test_a_download_that_breaks_off_again_and_again_ends_well(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", BODY, *(Serve(cut=place) for place in range(100_000, 600_000, 100_000)), Serve())
    assert start(origin.url).get("/a-1.tar").body == BODY
    assert ranges(origin)[1:] == [f"bytes={place - OVERLAP}-" for place in range(100_000, 600_000, 100_000)]


def test_a_mirror_with_the_same_tag_goes_on_where_the_other_broke_off(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    origin.put("/a-1.tar", BODY, Serve(cut=HALF), Say(503))
    another.put("/a-1.tar", BODY)
    answer = start(origin.url, another.url).get("/a-1.tar")
    assert (answer.body, answer.whole) == (BODY, True)
    assert ranges(another) == [f"bytes={HALF - OVERLAP}-"]


@pytest.mark.parametrize("tag", ['"of another"', None])
def test_a_mirror_that_proves_nothing_is_compared_from_its_first_byte(
    origin: Origin, another: Origin, start: Callable[..., Proxy], tag: str | None
) -> None:
    origin.put("/a-1.tar", BODY, Serve(cut=HALF), Say(503))
    another.put("/a-1.tar", BODY, etag=tag)
    answer = start(origin.url, another.url).get("/a-1.tar")
    assert (answer.status, answer.whole, answer.body) == (200, True, BODY)
    assert len(another.requests()) == 1


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("differs_at", [0, HALF - 1, HALF + 1, len(BODY) - 1])
def test_bytes_of_two_files_are_never_mixed(
    origin: Origin, another: Origin, start: Callable[..., Proxy], differs_at: int, chunked: bool
) -> None:
    theirs = BODY[:differs_at] + bytes([BODY[differs_at] ^ 1]) + BODY[differs_at + 1 :]
    origin.put("/a-1.tar", BODY, Serve(cut=HALF, chunked=chunked), Say(404))
    another.put("/a-1.tar", theirs, Serve(chunked=chunked))
    proxy = start(origin.url, another.url)
    answer = proxy.get("/a-1.tar")
    if differs_at >= HALF:
        # What came from the first one is also the beginning of the second one's file.
        assert (answer.body, answer.whole) == (theirs, True)
    assert_unmixed(answer, BODY, theirs)
    again = proxy.get("/a-1.tar")
    assert (again.body, again.whole) == (theirs, True)


def test_a_tag_that_lies_is_found_out_at_the_joint(origin: Origin, another: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", BODY, Serve(cut=HALF), Say(404), etag='"same"')
    another.put("/a-1.tar", OTHER, etag='"same"')
    proxy = start(origin.url, another.url)
    assert_unmixed(proxy.get("/a-1.tar"), BODY, OTHER)
    again = proxy.get("/a-1.tar")
    assert (again.body, again.whole) == (OTHER, True)


@pytest.mark.parametrize(
    "resumed",
    [
        Serve(ranges=False),
        Serve(range_shift=5),
        Serve(range_shift=-5),
        Serve(chunked=True),
        Serve(ranges=False, chunked=True),
        Serve(validators=False),
        Say(416),
        Raw(b"HTTP/1.1 206 Part\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/10\r\n\r\n0123456789"),
        Raw(b"HTTP/1.1 206 Part\r\nContent-Length: 10\r\n\r\n0123456789"),
        Raw(b"HTTP/1.1 206 Part\r\nContent-Type: multipart/byteranges; boundary=x\r\nContent-Length: 3\r\n\r\n--x"),
    ],
    ids=repr,
)
def test_a_source_that_is_at_odds_with_ranges_is_still_read_to_the_end(
    origin: Origin, start: Callable[..., Proxy], resumed: Behaviour
) -> None:
    origin.put("/a-1.tar", BODY, Serve(cut=HALF), resumed, Serve(ranges=False))
    answer = start(origin.url).get("/a-1.tar")
    assert (answer.status, answer.whole, answer.body) == (200, True, BODY)


def change_half_way(origin: Origin, proxy: Proxy, new: bytes, etag: str | None) -> Response:
    """The answer to a client who reads while the file changes at its source."""
    gate = Gate()
    origin.script("/a-1.tar", Serve(gate=gate, gate_at=HALF, cut=HALF))
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(proxy.get, "/a-1.tar")
        assert gate.reached.wait(30)
        origin.put("/a-1.tar", new, etag=etag)
        gate.open()
        return client.result()


@pytest.mark.parametrize("etag", ["auto", None], ids=["tag", "no tag"])
@pytest.mark.parametrize("new", [OTHER, OTHER[:-1], OTHER + b"x", BODY[:400_000], BODY[:HALF], BODY[: HALF - 1]])
def test_a_file_that_changes_while_it_is_fetched_is_cut_and_then_right(
    origin: Origin, start: Callable[..., Proxy], new: bytes, etag: str | None
) -> None:
    origin.put("/a-1.tar", BODY, etag=etag)
    proxy = start(origin.url)
    assert_unmixed(change_half_way(origin, proxy, new, etag), BODY, new)
    again = proxy.get("/a-1.tar")
    assert (again.status, again.whole, again.body) == (200, True, new)
    assert proxy.fetch("/a-1.tar").body == new
    assert len(blobs(proxy.cache)) == 1


def test_a_body_that_outgrows_the_length_clients_were_told_is_not_theirs(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    longer = BODY + b"more"
    origin.put("/a-1.tar", BODY, Serve(cut=HALF), Serve(body=longer, chunked=True, ranges=False, validators=False))
    proxy = start(origin.url)
    assert_unmixed(proxy.get("/a-1.tar"), BODY, longer)
    again = proxy.get("/a-1.tar")
    assert (again.body, again.whole) == (longer, True)


def test_a_client_that_has_no_byte_of_a_changed_file_gets_the_new_one(origin: Origin, start: Callable[..., Proxy]) -> None:
    old, new, gate = noise(60_000, 1), noise(50_000, 2), Gate()
    origin.put("/a-1.tar", old, Serve(gate=gate, gate_at=30_000, cut=30_000))
    proxy = start(origin.url)
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(proxy.get, "/a-1.tar")
        assert gate.reached.wait(30)
        origin.put("/a-1.tar", new)
        gate.open()
        answer = client.result()
    assert (answer.status, answer.whole, answer.body) == (200, True, new)


def test_what_a_given_up_download_has_is_kept_for_the_next_request(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    """Giving up with bytes in hand takes some seconds; three endings share them."""
    origin.put("/same-1.tar", BODY, Serve(cut=HALF), Say(503))
    origin.put("/new-1.tar", BODY, Serve(cut=HALF), Say(503))
    origin.put("/gone-1.tar", BODY, Serve(cut=HALF), Say(503))
    proxy = start(origin.url)
    paths = ("/same-1.tar", "/new-1.tar", "/gone-1.tar")
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(proxy.get, paths))
    for answer in answers:
        assert not answer.whole
        assert BODY.startswith(answer.body)
    until(lambda: len(parts(proxy.cache)) == 6)
    asked = len(origin.requests())
    origin.script("/same-1.tar", Serve())
    origin.put("/new-1.tar", OTHER)
    origin.script("/gone-1.tar", Say(404))
    assert proxy.get("/same-1.tar").body == BODY
    assert proxy.get("/new-1.tar").body == OTHER
    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(proxy.get, "/gone-1.tar").result()
    assert gone.status == 404
    assert origin.requests()[asked].fields["range"] == f"bytes={HALF - OVERLAP}-"
    assert len(ranges(origin, "/same-1.tar")) == asked // 3 + 1


def test_an_index_that_was_nowhere_is_absent_still_when_no_source_can_be_asked(
    origin: Origin, start: Callable[..., Proxy], host: str
) -> None:
    """apt takes Release where there is no InRelease, and gives up where there is an error."""
    proxy = start(origin.url, host=host)
    assert proxy.get("/dists/InRelease").status == 404
    origin.stop()
    assert [proxy.get(path).status for path in ("/dists/InRelease", "/dists/Release", "/InRelease.deb")] == [404, 502, 502]


def test_an_index_that_was_nowhere_is_there_as_soon_as_a_source_has_it(origin: Origin, start: Callable[..., Proxy]) -> None:
    proxy = start(origin.url)
    assert proxy.get("/dists/InRelease").status == 404
    origin.put("/dists/InRelease", b"new")
    assert proxy.get("/dists/InRelease").body == b"new"


def test_an_index_that_was_removed_does_not_come_back_when_no_source_can_be_asked(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    origin.put("/dists/InRelease", b"old", Serve(), Say(404))
    proxy = start(origin.url)
    assert [proxy.get("/dists/InRelease").status for _ in range(2)] == [200, 404]
    origin.stop()
    assert proxy.get("/dists/InRelease").status == 404


# --- Sources that have too much to do, or say nothing -----------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_a_source_that_says_when_it_may_be_asked_again_is_not_asked_before_and_clients_are_told(
    origin: Origin, start: Callable[..., Proxy], status: int
) -> None:
    names = [f"/{number}.tar" for number in range(20)]
    for name in names:
        origin.put(name, b"", Say(status, fields=(("Retry-After", "120"),)))
    proxy = start(origin.url)
    answers = [proxy.get(name, method="HEAD" if number % 5 == 4 else "GET") for number, name in enumerate(names)]
    assert {answer.status for answer in answers} == {status, 503}  # who comes later is told by the cache itself
    assert all(100 < int(answer.fields["Retry-After"]) <= 120 for answer in answers)
    assert len(origin.requests()) == 1
    proxy.stop()
    assert len([line for line in proxy.log if "WARNING" in line]) == 1


def test_while_one_source_has_too_much_to_do_another_one_delivers(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    soon = email.utils.formatdate(time.time() + 100, usegmt=True)
    for number in range(3):
        origin.put(f"/{number}.tar", b"", Say(503, fields=(("Retry-After", soon),)))
        another.put(f"/{number}.tar", BODY)
    proxy = start(origin.url, another.url)
    for number in range(3):
        assert proxy.get(f"/{number}.tar").body == BODY
    assert len(origin.requests()) == 1
    answer = proxy.get("/none-1.tar")
    assert (answer.status, len(origin.requests())) == (503, 1)
    assert int(answer.fields["Retry-After"]) > 50


def test_indexes_of_a_silent_source_cost_its_silence_once(origin: Origin, start: Callable[..., Proxy]) -> None:
    names = [f"/simple/{number}/" for number in range(12)]
    for name in names:
        origin.put(name, b"<a>", content_type="text/html")
    proxy = start(origin.url, environment={"PACKAGE_CACHE_HEAD_TIMEOUT": "2"})
    for name in names:
        assert proxy.get(name).status == 200
    for name in names:
        origin.script(name, Hang())
    asked, begun = len(origin.requests()), time.monotonic()
    assert [proxy.get(name).cache_status for name in names] == ["package-cache; fwd=stale"] * len(names)
    assert time.monotonic() - begun < 20  # 2 seconds for each of them would be 24
    assert len(origin.requests()) - asked < len(names)
    for name in names:
        origin.script(name, Serve())
    until(lambda: "304" in proxy.get(names[0]).cache_status)


_NAMES = """\
import os, socket, time
ask = socket.getaddrinfo
def getaddrinfo(host, port, *arguments, **options):
    if host != "mirror.example":
        return ask(host, port, *arguments, **options)
    while not os.path.exists({answered!r}):
        time.sleep(0.005)
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in {addresses!r}]
socket.getaddrinfo = getaddrinfo
"""


def named(origin: Origin, folder: Path, *addresses: str) -> tuple[str, dict[str, str]]:
    """The origin by a name, and what an interpreter is to be told so that it finds it once `answered` is in the folder."""
    text = _NAMES.format(answered=str(folder / "answered"), addresses=addresses)
    (folder / "sitecustomize.py").write_text(text)
    return f"http://mirror.example:{urlsplit(origin.url).port}/", {"PYTHONPATH": str(folder)}


def test_addresses_that_say_nothing_hold_the_good_one_up_for_a_moment(
    origin: Origin, start: Callable[..., Proxy], silence: Callable[[str, int], None], tmp_path: Path
) -> None:
    body, port = origin.put("/a-1.tar", BODY), urlsplit(origin.url).port
    assert port is not None
    silent = [f"127.0.0.{number}" for number in range(2, 6)]
    for address in silent:
        silence(address, port)
    url, names = named(origin, tmp_path, *silent, "127.0.0.1")
    (tmp_path / "answered").touch()
    proxy = start(url, environment={**names, "PACKAGE_CACHE_CONNECT_TIMEOUT": "10"})
    begun = time.monotonic()
    assert proxy.get("/a-1.tar").body == body
    assert time.monotonic() - begun < 30  # 10 seconds for each of them would be 40


def test_a_name_that_nobody_answers_for_is_waited_for_no_longer_than_for_a_connection(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    body = origin.put("/a-1.tar", BODY)
    url, names = named(origin, tmp_path, "127.0.0.1")
    proxy = start(url, environment={**names, "PACKAGE_CACHE_CONNECT_TIMEOUT": "1"})
    assert proxy.get("/a-1.tar").status == 504
    assert not origin.requests()
    (tmp_path / "answered").touch()
    until(lambda: proxy.get("/a-1.tar").body == body)


def test_while_all_sources_are_aside_clients_get_what_is_here_at_once_and_one_request_finds_out(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    here, absent, gate = [f"/simple/{number}/" for number in range(8)], "/simple/none/", Gate()
    for name in here:
        origin.put(name, b"old", content_type="text/html")
    proxy = start(origin.url, environment={"PACKAGE_CACHE_HEAD_TIMEOUT": "60"})
    assert [proxy.fetch(name).status for name in here] == [200] * len(here)
    assert proxy.get(absent).status == 404
    origin.script(here[0], Say(500))
    assert proxy.get(here[0]).cache_status == "package-cache; fwd=stale"
    for name in (*here, absent):
        origin.put(name, b"new", Serve(before=gate), Serve(), content_type="text/html", modified=NEWER)
    asked, begun = len(origin.requests()), time.monotonic()
    for _ in range(100):  # 0.3 seconds each would be 30
        assert proxy.get(here[1]).body == b"old"
    assert time.monotonic() - begun < 25
    assert gate.reached.wait(30)
    while time.monotonic() - begun < 2 * LOOK_SECONDS:
        for name in here:
            answer = proxy.get(name)
            assert (answer.body, answer.cache_status) == (b"old", "package-cache; fwd=stale")
        assert [proxy.get(absent, method=method).status for method in ("GET", "HEAD")] == [404, 404]
    assert len(origin.requests()) == asked + 1
    gate.open()
    until(lambda: proxy.get(here[2]).body == b"new")
    assert [proxy.get(name).body for name in (*here, absent)] == [b"new"] * (len(here) + 1)


def test_what_is_known_to_be_nowhere_finds_out_how_sources_are_too(origin: Origin, start: Callable[..., Proxy]) -> None:
    proxy = start(origin.url, environment={"PACKAGE_CACHE_HEAD_TIMEOUT": "60"})
    assert proxy.get("/simple/a/").status == 404
    gate = Gate()
    origin.put("/simple/a/", b"new", Say(500), Serve(before=gate), Serve(), content_type="text/html")
    assert [proxy.get("/simple/a/").status for _ in range(10)] == [404] * 10
    assert gate.reached.wait(30)
    gate.open()
    until(lambda: proxy.get("/simple/a/").body == b"new")


def test_a_source_that_is_down_costs_the_log_one_line(origin: Origin, start: Callable[..., Proxy]) -> None:
    for number in range(10):
        origin.put(f"/simple/{number}/", b"<a>", content_type="text/html")
        origin.put(f"/cut/{number}.tar", BODY, Serve(cut=HALF))
    proxy = start(origin.url, environment={**LIMITS, "PACKAGE_CACHE_CONNECT_TIMEOUT": "1"})
    for number in range(10):
        assert proxy.fetch(f"/simple/{number}/").status == 200
    for thing in origin.things.values():
        thing.script[:] = [Say(500)]
    for number in range(10):
        assert proxy.get(f"/simple/{number}/").cache_status == "package-cache; fwd=stale"
        assert proxy.get(f"/package-{number}.tar").status == 404
        assert proxy.get(f"/cut/{number}.tar").status == 500
    proxy.stop()
    told = [line for line in proxy.log if "WARNING" in line or "ERROR" in line]
    assert len([line for line in told if "well again" not in line]) == 1, told


def test_clients_that_are_cut_cost_the_log_one_line(origin: Origin, start: Callable[..., Proxy], host: str) -> None:
    proxy = start(origin.url, host=host, environment=LIMITS, arguments=ONE_WORKER[host])
    for number in range(5):
        origin.put(f"/{number}.tar", BODY, Serve(cut=HALF, ranges=False), Say(404))
        with suppress(http.client.RemoteDisconnected):  # cut before the head was sent
            assert not proxy.get(f"/{number}.tar").whole
    proxy.stop()
    assert len([line for line in proxy.log if "cut the connection" in line]) <= 1


# --- Where a source leads, and what it calls a file -------------------------------------------------------------------


def test_two_places_at_once_are_no_redirect(origin: Origin, another: Origin, start: Callable[..., Proxy]) -> None:
    places = (("Location", "/b-1.tar"), ("Location", "/c-1.tar"))
    origin.put("/a-1.tar", b"", Say(302, fields=places))
    origin.put("/b-1.tar", b"wrong")
    another.put("/a-1.tar", b"right")
    proxy = start(origin.url, another.url)
    assert proxy.get("/a-1.tar").body == b"right"
    assert len(origin.requests()) == 1
    origin.put("/same-1.tar", b"", Say(302, fields=(("Location", "/b-1.tar"),) * 2))
    assert proxy.get("/same-1.tar").status in (200, 404)


@pytest.mark.parametrize("size", [5, 600_000], ids=["small", "large"])
def test_what_a_redirect_tells_of_its_file_is_kept_with_the_file(
    origin: Origin, start: Callable[..., Proxy], host: str, size: int
) -> None:
    """The object store at the end does not know of which commit a file is, and has a tag of its own for it."""
    body = origin.put("/store/1234", noise(size), Serve(fields=(("X-Linked-Size", "77"), ("X-Own", "1"))))
    told = (("X-Repo-Commit", "abc"), ("X-Linked-Etag", '"e"'), ("X-Other", "no"))
    origin.put("/new/a-1.tar", b"", Say(302, fields=(("Location", "/store/1234"), ("X-Repo-Commit", "later"), *told[1:])))
    origin.put("/a-1.tar", b"", Say(307, fields=(("Location", "/new/a-1.tar"), told[0])))
    origin.put("/b-1.tar", b"", Say(302, fields=(("Location", "/store/1234"), ("X-Linked-Size", str(size)))))
    proxy = start(origin.url, host=host)
    for method in ("HEAD", "GET", "GET", "HEAD"):
        answer = proxy.get("/a-1.tar", method=method)
        assert (answer.status, answer.body) == (200, b"" if method == "HEAD" else body)
        assert answer.fields.get_all("X-Repo-Commit") == ["abc"]
        assert (answer.fields["X-Linked-Etag"], answer.fields["X-Linked-Size"], answer.fields["X-Own"]) == (
            '"e"',
            "77",
            "1",
        )
        assert "X-Other" not in answer.fields
    assert [proxy.fetch("/b-1.tar").fields.get_all("X-Linked-Size") for _ in range(2)] == [[str(size)]] * 2


@pytest.mark.parametrize(
    ("place", "taken"), [("bytes 0-9/100", False), ("bytes 90-99/100", False), ("bytes 0-9/10", True), ("nonsense", True)]
)
def test_a_part_that_is_called_the_whole_is_no_file(
    origin: Origin, start: Callable[..., Proxy], place: str, taken: bool
) -> None:
    origin.put("/a-1.bin", b"0123456789", Serve(fields=(("Content-Range", place),)))
    proxy = start(origin.url)
    assert proxy.get("/a-1.bin").status == (200 if taken else 502)
    until(lambda: len(blobs(proxy.cache)) == taken)


def test_a_path_that_a_client_asks_for_is_asked_of_the_source_too(origin: Origin, start: Callable[..., Proxy]) -> None:
    name = "foo-1.tar.xz"
    folders = {hashlib.new(algorithm, name.encode()).hexdigest()[:2] for algorithm in ("sha512", "sha256", "md5")}
    proxy = start(origin.url)
    for folder in folders:
        assert proxy.get(f"/distfiles/{folder}/{name}").status == 404
    folder = folders.pop()
    body = origin.put(f"/distfiles/{folder}/{name}", b"\xfd7zXZ\0" + bytes(100))
    assert proxy.get(f"/distfiles/{folder}/{name}").body == body
    assert proxy.get(f"/distfiles/{name}").cache_status == "package-cache; hit"


def test_caches_that_are_each_others_sources_find_that_out_at_once(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    there = start(f"http://127.0.0.1:{port}/", origin.url, cache=tmp_path / "there")
    here = start(there.url, arguments=["--port", str(port)], cache=tmp_path / "here")
    begun = time.monotonic()
    answer = here.get("/a-1.tar", {"Via": "1.1 somebody"})
    assert answer.status == 404
    assert time.monotonic() - begun < 30
    assert re.fullmatch(
        r"1\.1 somebody, 1\.1 package-cache-\S+, 1\.1 package-cache-\S+", origin.requests()[0].fields["via"]
    )
    body = origin.put("/b-1.tar", BODY)
    assert here.get("/b-1.tar").body == body
    assert not [line for line in there.log if "is asked last" in line]
