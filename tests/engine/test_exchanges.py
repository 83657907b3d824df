"""What the event loop asks the sources itself: the same answers and rows as in the general way, and one question."""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from origin import Behaviour, Gate, Hang, Origin, Raw, Say, Serve, until
from product import Proxy, Response, stored, versions
from raw import Client

Start = Callable[..., Proxy]

BODY = b"what is there\n" * 40
SMALL = 65536
REPERTOIRE: dict[str, tuple[Any, ...]] = {
    "a length": (BODY, Serve()),
    "chunked": (BODY, Serve(chunked=True)),
    "nothing": (b"", Serve()),
    "as much as is small": (b"x" * SMALL, Serve()),
    "a byte more": (b"x" * (SMALL + 1), Serve()),
    "chunked and large": (b"x" * (3 * SMALL), Serve(chunked=True)),
    "to the end of the connection": (BODY, Serve(length=False)),
    "cut": (BODY, Serve(cut=100)),
    "more than declared": (BODY, Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcmore")),
    "less than declared": (BODY, Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")),
    "fields": (BODY, Serve(fields=(("Cache-Control", "max-age=5"), ("X-Other", "b"), ("Link", "<a>; rel=next")))),
    "a cookie": (BODY, Serve(fields=(("Set-Cookie", "a=b"), ("Connection", "X-Gone"), ("X-Gone", "1")))),
    "a right digest": (b"abc", Serve(fields=(("Content-MD5", "kAFQmDzST7DWlj99KOF/cg=="),))),
    "a wrong digest": (b"abd", Serve(fields=(("Content-MD5", "kAFQmDzST7DWlj99KOF/cg=="),))),
    "vary": (BODY, Serve(fields=(("Vary", "Accept"),))),
    "vary by all": (BODY, Serve(fields=(("Vary", "*"),))),
    "not found": (BODY, Say(404)),
    "gone": (BODY, Say(410)),
    "forbidden": (BODY, Say(403)),
    "broken": (BODY, Say(500)),
    "busy": (BODY, Say(429, fields=(("Retry-After", "1"),))),
    "made over": (BODY, Raw(b"HTTP/1.1 203 Made Over\r\nContent-Length: 3\r\n\r\nabc")),
    "no content": (BODY, Raw(b"HTTP/1.1 204 No\r\n\r\n")),
    "interim": (BODY, Raw(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")),
    "no HTTP": (BODY, Raw(b"SSH-2.0-x\r\n")),
    "silent end": (BODY, Raw(b"")),
    "unauthorized": (BODY, Say(401, fields=(("WWW-Authenticate", "Basic realm=x"),))),
    "a portal": (BODY, Serve(body=b"<!DOCTYPE html><html>log in</html>", fields=(("Content-Type", "text/html"),))),
    "a redirect": (BODY, Say(302, fields=(("Location", "/there"),))),
    "a redirect in a loop": (BODY, Say(302, fields=(("Location", "/around"),))),
    "a redirect to a private address": (BODY, Say(302, fields=(("Location", "http://10.0.0.1/x"),))),
    "a redirect to the other": (BODY, Say(307, fields=(("Location", "http://localhost:1/x"),))),
    "a redirect to two places": (BODY, Say(301, fields=(("Location", "/there"), ("Location", "/around")))),
    "a redirect to nowhere": (BODY, Say(301)),
    "a part": (BODY, Raw(b"HTTP/1.1 206 Part\r\nContent-Range: bytes 0-2/9\r\nContent-Length: 3\r\n\r\nabc")),
    "confirmed unasked": (BODY, Raw(b"HTTP/1.1 304 Same\r\n\r\n")),
    "not to be stored": (BODY, Serve(fields=(("Cache-Control", "no-store"),))),
    "coded": (BODY, Serve(fields=(("Content-Encoding", "gzip"),))),
    "once broken": (BODY, Say(500), Serve()),
    "once cut": (BODY, Serve(cut=100), Serve()),
    "cut far behind": (b"x" * 20000, Serve(cut=9000), Serve(cut=12000), Serve()),
    "later": (BODY, Say(503, fields=(("Retry-After", "1"),))),
}
OWN = {"date", "age", "via", "server", "connection", "transfer-encoding"}
NAMES = {"a package": "/pool/a-1.0-{}.bin", "an index": "/dists/{}/Release", "an archive": "/pool/a-1.0-{}.tar.gz"}


def told(answer: Response) -> tuple[object, ...]:
    fields = sorted((name.lower(), value) for name, value in answer.fields.items() if name.lower() not in OWN)
    return answer.status, answer.whole, answer.body if answer.status in (200, 206) else b"", fields


def rows(cache: Path) -> list[tuple[object, ...]]:
    """What the registry has, but for times and where it came from."""
    with contextlib.closing(sqlite3.connect(cache / "registry-v1.db", timeout=30)) as connection:
        found = connection.execute("SELECT key, version, status, digest, representation FROM entry ORDER BY key").fetchall()
    heads = [json.loads(text) for *_, text in found]
    fields = [sorted((name, value) for name, value in head["fields"] if name.lower() != "date") for head in heads]
    return [(*row[:4], head["size"], said) for row, head, said in zip(found, heads, fields, strict=True)]


def _has(cache: Path, path: str) -> bool:
    return path in stored(cache)


def configured(path: Path, *origins: Origin) -> Path:
    """A repository for each of the repertoire, so that what a source did before does not matter."""
    path.write_text(
        "".join(
            f'[[repository]]\nname = "r{at}"\nprefix = "/r{at}/"\nsources = {[f"{one.url}r{at}/" for one in origins]}\n'
            for at in range(len(REPERTOIRE))
        )
    )
    return path


@pytest.mark.parametrize(("kind", "mirrors"), [*((kind, 1) for kind in NAMES), ("a package", 2)])
def test_the_quick_way_and_the_general_one_give_the_same_answers_and_rows(
    tmp_path: Path, start: Start, kind: str, mirrors: int
) -> None:
    seen = []
    for host in ("wsgiref", "gthread"):  # a plain Gunicorn has no loop of ours
        origins = [Origin() for _ in range(mirrors)]
        origin, spare = origins[0], origins[-1]
        config = configured(tmp_path / f"{host}.toml", *origins)
        arguments = ["-w", "1"] if host == "gthread" else []
        proxy = start(host=host, cache=tmp_path / host, arguments=arguments, config=config)
        answers: dict[str, tuple[object, ...]] = {}
        origin.put("/there", BODY)
        origin.put("/around", BODY, Say(302, fields=(("Location", "/around"),)))
        for number, (name, (body, *hows)) in enumerate(REPERTOIRE.items()):
            path = f"/r{number}{NAMES[kind].format(number)}"
            spare.put(path, body)
            origin.put(path, body, *hows)
            first = proxy.get(path)
            if first.whole and first.status == 200 and "stored" in first.cache_status:
                until(partial(_has, proxy.cache, path))
            answers[name] = told(first), len(origin.requests(path))
            if path in stored(proxy.cache):
                answers[name] += (told(proxy.get(path, {"Range": "bytes=1-5"})),)
        proxy.stop()
        seen.append((answers, rows(proxy.cache)))
        for one in origins:
            one.stop()
    (quick, quick_rows), (general, general_rows) = seen
    for name in REPERTOIRE:
        if name in ("chunked and large", "a byte more"):  # what is known when it is answered is a matter of moments
            quick[name], general[name] = quick[name][0][:3], general[name][0][:3]
        assert quick[name] == general[name], name
    assert quick_rows == general_rows


def test_all_who_ask_for_a_small_file_meanwhile_get_what_one_question_brings(origin: Origin, start: Start) -> None:
    gate = Gate()
    body = origin.put("/pool/a-1.0.bin", BODY, Serve(before=gate))
    proxy = start(origin.url)
    with ThreadPoolExecutor(20) as pool:
        asking = [pool.submit(proxy.get, "/pool/a-1.0.bin") for _ in range(20)]
        assert gate.reached.wait(30)
        gate.open()
        answers = [one.result() for one in asking]
    assert {one.body for one in answers} == {body}
    assert len(origin.requests()) == 1


@pytest.mark.parametrize("size", [1000, 300_000])
def test_a_request_for_a_head_is_answered_with_what_a_download_brings(origin: Origin, start: Start, size: int) -> None:
    gate = Gate()
    body = origin.put("/pool/a-1.0.bin", b"x" * size, Serve(before=gate))
    proxy = start(origin.url)
    with ThreadPoolExecutor(1) as pool, contextlib.closing(proxy.connect()) as client:
        downloading = pool.submit(proxy.get, "/pool/a-1.0.bin")
        assert gate.reached.wait(30)
        client.sendall(b"HEAD /pool/a-1.0.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        gate.open()
        assert f"content-length: {size}\r\n".encode() in client.recv(65536).lower()
        assert downloading.result().body == body
    assert [one.method for one in origin.requests()] == ["GET"]


def test_a_request_for_a_head_does_not_wait_for_a_silent_download(origin: Origin, start: Start) -> None:
    gate = Gate()
    body = origin.put("/pool/a-1.0.bin", BODY, Serve(before=gate), Serve())
    proxy = start(origin.url)
    with ThreadPoolExecutor(1) as pool:
        downloading = pool.submit(proxy.get, "/pool/a-1.0.bin")
        assert gate.reached.wait(30)
        assert proxy.get("/pool/a-1.0.bin", method="HEAD").fields["Content-Length"] == str(len(body))
        gate.open()
        assert downloading.result().body == body
    assert [one.method for one in origin.requests()] == ["GET", "HEAD"]


def test_clients_of_an_index_share_a_conditional_request(origin: Origin, start: Start) -> None:
    """Whatever they want of it; whether it is at hand already or not."""
    body = origin.put("/dists/a/Release", BODY)
    tag = origin.things["/dists/a/Release"].etag
    proxy = start(origin.url)
    assert proxy.get("/dists/a/Release").body == body
    until(lambda: stored(proxy.cache))
    wishes = [(), (f"If-None-Match: {tag}",), ("Range: bytes=3-9",), ("Cache-Control: max-age=0",), ("Via: 1.1 another",)]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(proxy.address)) for _ in range(20)]
        other = stack.enter_context(Client(proxy.address))
        for client in (*clients, other):
            assert client.get("/-/health").status == 200
        for _ in range(3):
            gate, before = Gate(), len(origin.requests())
            origin.script("/dists/a/Release", Serve(before=gate))
            for client, wish in zip(clients, wishes * 4, strict=True):
                client.ask("/dists/a/Release", *wish)
            assert gate.reached.wait(30)
            for _ in range(2):  # what was asked before is read by then
                other.get("/-/health")
            gate.open()
            for client, wish in zip(clients, wishes * 4, strict=True):
                answer = client.answer()
                expected = {1: (304, b""), 2: (206, body[3:10])}.get(wishes.index(wish), (200, body))
                assert (answer.status, answer.body) == expected
                assert answer.get("cache-status") == "package-cache; fwd=stale; fwd-status=304"
            # While a disk is slow, who asks is looked up in a thread, and may come too late to share.
            assert len(origin.requests()) - before <= 3


def test_who_looks_at_the_head_of_an_index_meanwhile_shares_the_question(origin: Origin, start: Start) -> None:
    body = origin.put("/dists/a/Release", BODY)
    proxy = start(origin.url)
    proxy.fetch("/dists/a/Release")
    assert proxy.get("/dists/a/Release").body == body  # it is at hand from now on
    with Client(proxy.address) as one, Client(proxy.address) as other:
        for client in (one, other):
            assert client.get("/-/health").status == 200
        gate = Gate()
        origin.script("/dists/a/Release", Serve(before=gate))
        one.ask("/dists/a/Release")
        assert gate.reached.wait(30)
        other.ask("/dists/a/Release", method="HEAD")
        assert proxy.get("/-/health").status == 200  # so it has been read
        gate.open()
        assert one.answer().body == body
        assert other.head().status == 200
    assert len(origin.requests()) == 3


def test_silent_sources_keep_nobody_from_a_cold_file(origin: Origin, another: Origin, start: Start, tmp_path: Path) -> None:
    """A hundred and fifty downloads that wait for a source take no place from the next one."""
    for number in range(150):
        origin.put(f"/silent/a-{number}.bin", b"", Hang())
    body = another.put("/quick/a-1.bin", BODY)
    config = tmp_path / "config.toml"
    tables = [("silent", origin.url + "silent/"), ("quick", another.url + "quick/")]
    config.write_text(
        "".join(f'[[repository]]\nname = "{name}"\nprefix = "/{name}/"\nsources = ["{url}"]\n' for name, url in tables)
    )
    proxy = start(config=config)
    with contextlib.ExitStack() as stack:
        for number in range(150):
            client = stack.enter_context(contextlib.closing(proxy.connect()))
            client.sendall(b"GET /silent/a-%d.bin HTTP/1.1\r\nHost: x\r\n\r\n" % number)
        until(lambda: len(origin.requests()) > 100)
        assert proxy.get("/quick/a-1.bin").body == body


def threads_of(proxy: Proxy) -> int:
    return len(list(Path(f"/proc/{proxy.process.pid}/task").iterdir()))


@pytest.mark.parametrize(
    "how", [Say(404), Say(503), Serve(cut=100), Raw(b"SSH-2.0-x\r\n"), Say(302, fields=(("Location", "/there"),))]
)
def test_who_waits_for_the_next_source_has_no_thread(
    origin: Origin, another: Origin, start: Start, tmp_path: Path, how: Behaviour
) -> None:
    for number in range(100):
        origin.put(f"/a-{number}.bin", BODY, how)
        another.put(f"/a-{number}.bin", BODY, Hang())
    origin.put("/there", b"", Hang())
    proxy = start(origin.url, another.url)
    before = threads_of(proxy)
    with contextlib.ExitStack() as stack:
        for number in range(100):
            client = stack.enter_context(contextlib.closing(proxy.connect()))
            client.sendall(b"GET /a-%d.bin HTTP/1.1\r\nHost: x\r\n\r\n" % number)
        until(lambda: len(another.requests()) == 100 or len(origin.requests("/there")) == 100)
        assert threads_of(proxy) < before + 10


def test_what_a_source_confirmed_is_written_at_the_end(origin: Origin, start: Start) -> None:
    origin.put("/dists/a/Release", BODY)
    proxy = start(origin.url)
    proxy.get("/dists/a/Release")
    until(lambda: stored(proxy.cache))

    def received() -> float:
        with contextlib.closing(sqlite3.connect(proxy.cache / "registry-v1.db", timeout=30)) as connection:
            (text,) = connection.execute("SELECT representation FROM entry").fetchone()
        return float(json.loads(text)["received"])

    before = received()
    assert proxy.get("/dists/a/Release").cache_status == "package-cache; fwd=stale; fwd-status=304"
    assert received() == before
    assert proxy.stop() == 0
    assert received() > before


def test_no_thread_waits_for_a_source_that_is_silent(origin: Origin, start: Start, tmp_path: Path) -> None:
    """Whatever is asked for: what is stored and what is not, a head, another form, other links, an audit."""
    audit = "/-/npm/v1/security/audits"
    config = tmp_path / "config.toml"
    config.write_text(
        f'[[repository]]\nname = "npm"\nprefix = "/npm/"\nsources = ["{origin.url}"]\npreset = "npm"\n'
        f'[[repository]]\nname = "x"\nprefix = "/x/"\nsources = ["{origin.url}"]\n'
        '[[repository.rule]]\nmatch = "*.iso"\nfresh = "never"\n'
    )
    proxy = start(config=config, arguments=["--workers", "1"], environment={"PACKAGE_CACHE_HEAD_TIMEOUT": "60"})
    assert proxy.get("/x/nothing-1.0.bin").status == 404
    asked = [
        *(("GET", f"/x/a-{at}.bin") for at in range(20)),
        *(("GET", f"/x/a-{at}.iso") for at in range(20)),
        *(("HEAD", f"/x/b-{at}.bin") for at in range(20)),
        *(("GET", f"/npm/demo{at}") for at in range(20)),
        *(("HEAD", f"/x/old{at}/") for at in range(20)),
        *(("GET", f"/x/form-{at}.bin") for at in range(20)),
        *(("GET", f"/x/distfiles/a{at}-1.0.tar.gz") for at in range(20)),
        *(("POST", f"/npm{audit}") for _ in range(20)),
    ]
    layout = Gate()
    origin.put("/distfiles/layout.conf", b"[structure]\n0=flat\n", Serve(before=layout))
    with contextlib.ExitStack() as stack:
        gates = [Gate() for _ in asked]
        for gate, (method, path) in zip(gates, asked, strict=True):
            if "old" in path or "form" in path:
                fields = (("Vary", "Accept"),)
                origin.put(path.removeprefix("/x"), b"{}", Serve(fields=fields), Serve(before=gate, fields=fields))
                assert proxy.get(path).status == 200
            elif method != "POST":
                origin.put(path.removeprefix("/npm").removeprefix("/x"), b"{}", Serve(before=gate))
        until(lambda: len(versions(proxy.cache)) == 40)
        origin.put(audit, b"{}", *(Serve(before=gate) for gate in gates[-20:]))
        for method, path in asked:
            client = stack.enter_context(contextlib.closing(proxy.connect()))
            client.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nAccept: a/b\r\nContent-Length: 0\r\n\r\n".encode())
        for gate, (_, path) in zip(gates, asked, strict=True):
            assert (layout if "/distfiles/" in path else gate).reached.wait(30)
        status = Path(f"/proc/{proxy.process.pid}/status").read_text()
        assert int(status.partition("Threads:")[2].split()[0]) < 20
        for gate in (layout, *gates):
            gate.open()
    assert len(origin.requests("/distfiles/layout.conf")) == 1
