"""A disk that refuses: clients get their files all the same, nothing wrong is kept, and it ends when the disk is well."""

import random
import resource
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from origin import Gate, Origin, Serve, until
from product import HOSTS, Proxy, blobs, parts, stored

BODY = random.Random(1).randbytes(3_000_000)
SMALL = random.Random(2).randbytes(5_000)

Start = Callable[..., Proxy]


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def limit(proxy: Proxy, size: int) -> None:
    """Let no file of the server's processes grow beyond so many bytes."""
    for pid in (proxy.process.pid, *proxy.workers()):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def lift(proxy: Proxy) -> None:
    limit(proxy, resource.RLIM_INFINITY)


def told(proxy: Proxy, text: str) -> int:
    return sum(text in line for line in proxy.log)


def start_one(start: Start, origin: Origin, host: str) -> Proxy:
    arguments = ["-w", "1"] if host == "gthread" else ["--workers", "1"]
    proxy = start(origin.url, host=host, arguments=arguments if host != "wsgiref" else [])
    assert proxy.get("/is-there-a-worker-yet-1.tar").status == 404
    return proxy


def test_a_full_disk_keeps_no_file_from_a_client(origin: Origin, start: Start, host: str) -> None:
    origin.put("/big-1.tar", BODY)
    origin.put("/small-1.tar", SMALL)
    origin.put("/index/", SMALL, Serve(chunked=True))
    proxy = start_one(start, origin, host)
    limit(proxy, 0)
    for _ in range(3):
        assert proxy.get("/big-1.tar").body == BODY
        answer = proxy.get("/small-1.tar")
        assert (answer.status, answer.body, answer.whole) == (200, SMALL, True)
        assert proxy.get("/index/").body == SMALL
        answer = proxy.get("/big-1.tar", {"Range": "bytes=2000000-2000999"})
        assert (answer.status, answer.body) == (206, BODY[2_000_000:2_001_000])
        assert proxy.get("/big-1.tar", {"Range": "bytes=-1000"}).body == BODY[-1000:]
        assert proxy.get("/big-1.tar", {"Range": "bytes=1000-"}).body == BODY[1000:]
        assert proxy.get("/big-1.tar", {"Range": f"bytes={len(BODY)}-"}).status == 416
        answer = proxy.get("/big-1.tar", {"Range": "bytes=5-9,0-3"})  # what passes by passes once
        assert (answer.status, answer.body, answer.whole) == (200, BODY, True)
        assert proxy.get("/big-1.tar", method="HEAD").fields["Content-Length"] == str(len(BODY))
        assert proxy.get("/nothing-1.tar").status == 404
    assert not blobs(proxy.cache)
    assert not parts(proxy.cache)
    until(lambda: told(proxy, "passed on without being stored") == 1)
    lift(proxy)
    until(lambda: "hit" in proxy.get("/small-1.tar").cache_status)
    until(lambda: told(proxy, "stored again") == 1)
    assert proxy.get("/big-1.tar").body == BODY
    until(lambda: len(blobs(proxy.cache)) >= 2)


@pytest.mark.parametrize("validators", [True, False], ids=["proof", "no proof"])
def test_a_disk_that_fills_up_in_the_middle_cuts_nobody(origin: Origin, start: Start, host: str, validators: bool) -> None:
    gate = Gate()
    origin.put("/big-1.tar", BODY, Serve(gate=gate, gate_at=600_000, validators=validators), Serve(validators=validators))
    proxy = start_one(start, origin, host)
    limit(proxy, 1_000_000)
    ranges = (
        {},
        {},
        {"Range": "bytes=100000-2999999"},
        {"Range": "bytes=200000-400000"},
        {"Range": "bytes=500000-1500000"},
    )
    with ThreadPoolExecutor(len(ranges)) as pool:
        answers = [pool.submit(proxy.get, "/big-1.tar", fields) for fields in ranges]
        assert gate.reached.wait(30)
        gate.open()
        bodies = [answer.result().body for answer in answers]
    assert bodies == [BODY, BODY, BODY[100_000:], BODY[200_000:400_001], BODY[500_000:1_500_001]]
    assert not blobs(proxy.cache)
    assert not parts(proxy.cache)
    until(lambda: told(proxy, "passed on without being stored") == 1)


def test_a_disk_that_fills_up_does_not_cut_who_has_a_part_beside_the_download(
    origin: Origin, start: Start, host: str
) -> None:
    whole, part = Gate(), Gate()
    origin.put("/big-1.tar", BODY, Serve(gate=whole, gate_at=600_000), Serve(gate=part, gate_at=2_400_000), Serve())
    proxy = start_one(start, origin, host)
    limit(proxy, 1_000_000)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(proxy.get, "/big-1.tar")
        assert whole.reached.wait(30)
        second = pool.submit(proxy.get, "/big-1.tar", {"Range": "bytes=2000000-2999999"})
        assert part.reached.wait(30)
        whole.open()
        until(lambda: told(proxy, "passed on without being stored"))
        part.open()
        assert first.result().body == BODY
        assert second.result().body == BODY[2_000_000:]


def test_bytes_of_another_file_are_never_put_behind_those_of_the_first(origin: Origin, start: Start, host: str) -> None:
    """The disk fills up, and by then the source has another file of the same size under the name."""
    gate = Gate()
    other = random.Random(3).randbytes(len(BODY))
    origin.put(
        "/big-1.tar",
        BODY,
        Serve(gate=gate, gate_at=600_000, validators=False),
        Serve(body=other, validators=False),
    )
    proxy = start_one(start, origin, host)
    limit(proxy, 1_000_000)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(proxy.get, "/big-1.tar")
        assert gate.reached.wait(30)
        gate.open()
        got = answer.result()
    # On a busy machine the other one may be asked before the client has a byte of the first.
    assert got.body == other if got.whole else BODY.startswith(got.body)


@pytest.mark.parametrize(
    "later",
    [
        Serve(body=SMALL * 600, ranges=False, validators=False, fields=(("ETag", '"2"'),)),
        Serve(body=SMALL * 600, ranges=False, validators=False),
        Serve(body=SMALL * 700, ranges=False),
    ],
    ids=["another tag", "no tag", "another length"],
)
def test_a_part_is_of_the_file_whose_head_was_sent_with_it(origin: Origin, start: Start, later: Serve) -> None:
    """The head comes with the first bytes, which are far from the part; the part with another answer."""
    origin.put("/big-1.tar", BODY, Serve(), later)
    origin.put("/small-1.tar", SMALL)
    proxy = start_one(start, origin, "wsgiref")
    limit(proxy, 0)
    assert proxy.get("/small-1.tar").body == SMALL
    until(lambda: told(proxy, "passed on without being stored"))  # a small file is answered before it is stored
    answer = proxy.get("/big-1.tar", {"Range": "bytes=2000000-2000999"})
    assert (answer.status, answer.whole) == (206, False)
    assert [("range" in one.fields) for one in origin.requests("/big-1.tar")] == [False, True]


def test_a_source_that_breaks_off_is_asked_for_the_rest(origin: Origin, start: Start, host: str) -> None:
    origin.put("/big-1.tar", BODY, Serve(), Serve(cut=1_500_000), Serve())
    proxy = start_one(start, origin, host)
    limit(proxy, 0)
    assert proxy.get("/big-1.tar").body == BODY
    assert proxy.get("/big-1.tar").body == BODY


def test_a_source_that_ends_early_and_has_no_more_cuts_the_client(origin: Origin, start: Start, host: str) -> None:
    origin.put("/big-1.tar", BODY, Serve(validators=False), Serve(cut=1_500_000, validators=False))
    proxy = start_one(start, origin, host)
    limit(proxy, 0)
    proxy.get("/big-1.tar")
    got = proxy.get("/big-1.tar")
    assert not got.whole
    assert BODY.startswith(got.body)


def test_what_is_here_is_served_while_nothing_can_be_stored(origin: Origin, start: Start, host: str) -> None:
    origin.put("/small-1.tar", SMALL)
    origin.put("/index/", SMALL)
    proxy = start_one(start, origin, host)
    for path in ("/small-1.tar", "/index/"):
        assert proxy.get(path).body == SMALL
    until(lambda: stored(proxy.cache) == ["/index/", "/small-1.tar"] and not parts(proxy.cache))
    limit(proxy, 65_536)  # less than the files have by now; it holds for files in memory too
    answer = proxy.get("/small-1.tar")
    assert (answer.body, answer.cache_status) == (SMALL, "package-cache; hit")
    origin.put("/index/", BODY[:70_000])
    assert proxy.get("/index/").body == BODY[:70_000]
    origin.stop()
    assert proxy.get("/index/").body == SMALL


def test_a_place_for_downloads_that_is_gone_keeps_no_file_from_a_client(origin: Origin, start: Start, host: str) -> None:
    origin.put("/big-1.tar", BODY)
    proxy = start_one(start, origin, host)
    shutil.rmtree(proxy.cache / "parts-v1")
    for _ in range(3):
        assert proxy.get("/big-1.tar").body == BODY
    until(lambda: told(proxy, "passed on without being stored") == 1)
    (proxy.cache / "parts-v1").mkdir()
    until(lambda: "hit" in proxy.get("/big-1.tar").cache_status)
