"""Several repositories as clients see them: the ways to each, its sources, how long its files are good, its layouts."""

import gzip
import json
import random
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from forks import run
from origin import Flood, Gate, Hang, Origin, Raw, Say, Serve, until
from product import Proxy, blobs, parts, stored
from raw import Answer, Client

from package_cache.model import Key
from package_cache.rules.http.fields import format_date
from package_cache.rules.repositories.layouts import FLAT, HASHED, Structure, layout_text
from package_cache.storage.registry import Registry

Start = Callable[..., Proxy]
LIMITS = {"PACKAGE_CACHE_HEAD_TIMEOUT": "4", "PACKAGE_CACHE_STALL_TIMEOUT": "4"}
NEWER = "Wed, 03 Jan 2024 03:04:05 GMT"
HIT = "package-cache; hit"
BODY = random.Random(1).randbytes(300_000)

pytestmark = pytest.mark.usefixtures("shell")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of configuration, of tables as text."""

    def _write(*tables: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text("\n".join(tables))
        return path

    return _write


def table(name: str, *sources: str, rules: str = "", **keys: str) -> str:
    """A repository at /NAME/. `rules` are globs with words, such as "* 5m"; a number of bytes is a limit."""
    keys = {"prefix": f"/{name}/"} | keys
    lines = [f'[[repository]]\nname = "{name}"\nsources = {json.dumps(sources)}']
    lines += [
        f"{key.replace('_', '-')} = {value if value[0] in '[{' else json.dumps(value)}" for key, value in keys.items()
    ]
    for rule in filter(None, rules.split("; ")):
        match, word = rule.split()
        key, word = ("max-file-size", f"{word}B") if word.isdigit() else ("fresh", word)
        lines.append(f"[[repository.rule]]\nmatch = {json.dumps(match)}\n{key} = {json.dumps(word)}")
    return "\n".join(lines)


def ask(proxy: Proxy, target: str, host: str, *lines: str) -> Answer:
    """What a client gets that believes it talks to that host."""
    with Client(proxy.address) as client:
        request = "".join(
            f"{line}\r\n" for line in (f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "")
        )
        client.send(request.encode())
        return client.answer()


def aged(proxy: Proxy, key: str, seconds: float) -> None:
    """Have what is stored be confirmed that many seconds earlier."""
    until(lambda: key in stored(proxy.cache) and not parts(proxy.cache))
    registry = Registry(proxy.cache / "registry-v1.db")
    try:
        entry = registry.best(Key(key))
        assert entry is not None
        head = entry.representation
        fields = tuple(one for one in head.fields if one[0].lower() != "date")
        assert registry.confirm(entry, replace(head, fields=fields, received=head.received - seconds), None)
    finally:
        registry.close()


def why(proxy: Proxy, config: Path, path: str) -> str:
    ended = run("why", path, "--cache", str(proxy.cache), PACKAGE_CACHE_CONFIG=str(config))
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


# --- Ways in ----------------------------------------------------------------------------------------------------------


def test_all_ways_lead_to_one_entry(origin: Origin, start: Start, write: Callable[..., Path], host: str) -> None:
    body = origin.put("/debian/pool/a_1.deb", BODY)
    config = write(table("debian", origin.url + "debian", hosts='["deb.example", "old.example:81/linux"]', preset="debian"))
    proxy = start(host=host, config=config)
    own = f"127.0.0.1:{origin.port}"
    ways = (
        ("/debian/pool/a_1.deb", "cache.example:4000"),
        ("/pool/a_1.deb", "deb.example"),
        ("/pool/a_1.deb", "DEB.example.:80"),
        ("/linux/pool/a_1.deb", "old.example:81"),
        ("http://deb.example/pool/a_1.deb", "deb.example"),
        ("http://old.example:81/linux/x/../pool/a%5f1.deb", "deb.example"),
        ("/debian/pool/a_1.deb", own),
        (f"http://{own}/debian/pool/a_1.deb", own),
        ("http://127.0.0.1:4000/debian/pool/a_1.deb", "127.0.0.1:4000"),
    )
    for target, name in ways:
        answer = ask(proxy, target, name)
        assert (answer.status, answer.body) == (200, body), (target, name)
    assert len(origin.requests()) == 1
    until(lambda: stored(proxy.cache) == ["/debian/pool/a_1.deb"])
    foreign = ask(proxy, "http://other.example/pool/a_1.deb", "other.example")
    assert foreign.status == 403
    told = foreign.body.decode()
    assert told.startswith(
        "this cache has nothing of other.example; it has paths that begin with /debian/, and what belongs to "
    )
    assert set(told.strip().rpartition(" to ")[2].split(", ")) == {"deb.example", "old.example:81", own}
    nothing = ask(proxy, "/pool/a_1.deb", "cache.example")
    assert (nothing.status, nothing.body[:35]) == (404, b"this cache has nothing at /pool/a_1")
    assert len(origin.requests()) == 1


def test_a_repository_that_is_known_by_hosts_alone_has_no_path(
    origin: Origin, start: Start, write: Callable[..., Path]
) -> None:
    body = origin.put("/a-1.tar", BODY)
    config = write('[[repository]]\nname = "x"\nhosts = ["h.example"]\n' + f'sources = ["{origin.url}"]')
    proxy = start(config=config)
    assert ask(proxy, "/a-1.tar", "h.example").body == body
    assert ask(proxy, "/a-1.tar", "cache.example").status == 404
    assert ask(proxy, "/-/x/a-1.tar", "cache.example").status == 404
    until(lambda: stored(proxy.cache) == ["/-/x/a-1.tar"])
    assert "of        the repository x" in why(proxy, config, "http://h.example/a-1.tar")
    assert "version 1 is served from the cache" in why(proxy, config, "/-/x/a-1.tar")


def test_each_repository_asks_its_own_sources_and_the_next_one_where_one_fails(
    origin: Origin, another: Origin, start: Start, write: Callable[..., Path]
) -> None:
    for one in (origin, another):
        one.put("/a-1.tar", BODY)
    another.put("/b-1.tar", b"b")
    origin.script("/a-1.tar", Say(503))
    third = Origin()
    third.put("/sub/b-1.tar", b"other b")
    try:
        config = write(table("a", origin.url, another.url), table("b", another.url), table("c", third.url + "sub"))
        proxy = start(config=config)
        assert proxy.get("/a/a-1.tar").body == BODY
        assert [len(one.requests("/a-1.tar")) for one in (origin, another)] == [1, 1]
        assert proxy.get("/b/b-1.tar").body == b"b"
        assert proxy.get("/c/b-1.tar").body == b"other b"
        assert proxy.get("/b/a-1.tar").body == BODY
        assert proxy.get("/c/a-1.tar").status == 404
        assert len(origin.requests()) == 1
        assert [one.target for one in third.requests()] == ["/sub/b-1.tar", "/sub/a-1.tar"]
    finally:
        third.stop()


def test_sources_on_the_command_line_take_the_place_of_those_in_the_file(
    origin: Origin, another: Origin, start: Start, write: Callable[..., Path]
) -> None:
    origin.put("/a", b"old")
    another.put("/a", b"new")
    config = write(table("all", origin.url, prefix="/", rules="** 1d"))
    proxy = start(another.url, config=config)
    assert [proxy.get("/a").body for _ in range(2)] == [b"new", b"new"]
    assert (len(origin.requests()), len(another.requests())) == (0, 1)


# --- How long ---------------------------------------------------------------------------------------------------------


DOUBTS = ({"Cache-Control": "no-cache"}, {"Cache-Control": "max-age=0"}, {"Pragma": "no-cache"})


def test_a_client_may_have_a_file_confirmed_that_is_kept_for_ever(origin: Origin, start: Start) -> None:
    path, confirmed = "/foo-1.0.dat", "package-cache; fwd=stale; fwd-status=304"
    body = origin.put(path, b"first")
    proxy = start(origin.url)
    assert proxy.get(path).body == body
    for number, doubt in enumerate(DOUBTS, 2):
        aged(proxy, path, 60)
        assert proxy.get(path).cache_status == HIT
        answer = proxy.get(path, doubt)
        assert (answer.body, answer.cache_status) == (body, confirmed)
        aged(proxy, path, -30)  # however slow the machine is, it was confirmed just now
        assert [proxy.get(path, doubt).cache_status for _ in range(5)] == [HIT] * 5
        assert len(origin.requests()) == number
        assert origin.requests()[-1].fields["if-none-match"] == origin.things[path].etag
    aged(proxy, path, 60)
    origin.put(path, b"second", modified=NEWER)
    assert proxy.get(path).body == body
    assert proxy.get(path, DOUBTS[0]).body == b"second"
    until(lambda: proxy.get(path).body == b"second")
    assert len(origin.requests()) == 5


def test_a_file_that_is_kept_for_ever_outlives_its_source_though_clients_doubt_it(origin: Origin, start: Start) -> None:
    path = "/foo-1.0.dat"
    body = origin.put(path, b"first")
    proxy = start(origin.url)
    proxy.get(path)
    aged(proxy, path, 20)
    for behaviour in (Say(404), Say(500), None):
        if behaviour is None:
            origin.stop()
        else:
            origin.script(path, behaviour)
        answer = proxy.get(path, DOUBTS[0])
        assert (answer.status, answer.body, answer.cache_status) == (200, body, "package-cache; fwd=stale")
        assert proxy.get(path).cache_status == HIT


def test_clients_that_doubt_a_file_at_the_same_time_cost_one_request(origin: Origin, start: Start) -> None:
    path, gate = "/foo-1.0.dat", Gate()
    origin.put(path, b"first", Serve(), Serve(before=gate), Serve())
    proxy = start(origin.url)
    proxy.get(path)
    aged(proxy, path, 20)
    with ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(16)]
        for client in clients:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nPragma: no-cache\r\nConnection: close\r\n\r\n".encode())
        assert gate.reached.wait(30)
        gate.open()
        answers = [client.makefile("rb").read() for client in clients]
    assert {answer.partition(b"\r\n\r\n")[2] for answer in answers} == {b"first"}
    assert len(origin.requests()) == 2


def test_what_its_name_settles_is_not_doubted(origin: Origin, start: Start) -> None:
    """apt sends max-age=0 for what it names by a digest, and Maven no-cache for every release."""
    body = b"bytes"
    proxy = start(origin.url)
    for path in (f"/dists/x/by-hash/SHA256/{sha256(body).hexdigest()}", "/org/foo/1.0/foo-1.0.jar"):
        origin.put(path, body if "hash" in path else b"PK\3\4")
        proxy.get(path)
        aged(proxy, path, 20)
        assert [proxy.get(path, doubt).cache_status for doubt in DOUBTS] == [HIT] * 3
    assert len(origin.requests()) == 2


def test_what_has_a_time_is_asked_for_when_it_is_over(
    origin: Origin, start: Start, write: Callable[..., Path], host: str
) -> None:
    body = origin.put("/index/", b"first", Serve(fields=(("Cache-Control", "no-store"),)))
    config = write(table("x", origin.url, rules="** 5m"))
    proxy = start(host=host, config=config)
    assert proxy.fetch("/x/index/").body == body
    for fields in ({}, {"Cache-Control": "max-age=60"}, {"Range": "bytes=0-"}):
        answer = proxy.get("/x/index/", fields)
        assert (answer.body, answer.cache_status) == (body, HIT)
    assert len(origin.requests()) == 1
    assert "rule      5m: the rule for ** in the repository x" in why(proxy, config, "/x/index/")
    assert "request   version 1 is served from the cache until " in why(proxy, config, "/x/index/")
    aged(proxy, "/x/index/", 200)
    assert proxy.get("/x/index/").cache_status == HIT
    aged(proxy, "/x/index/", 101)
    assert "request   a source is asked whether version 1 still holds" in why(proxy, config, "/x/index/")
    assert proxy.get("/x/index/").cache_status == "package-cache; fwd=stale; fwd-status=304"
    assert proxy.get("/x/index/").cache_status == HIT
    assert len(origin.requests()) == 2
    aged(proxy, "/x/index/", 301)
    body = origin.put("/index/", b"second", modified=NEWER)
    assert [proxy.fetch("/x/index/").body for _ in range(2)] == [body, body]
    assert len(origin.requests()) == 3


def test_what_came_while_the_clock_was_ahead_is_not_good_until_the_clock_is_there_again(
    origin: Origin, start: Start, write: Callable[..., Path]
) -> None:
    origin.put("/index/", b"first")
    origin.put("/file-1.bin", BODY)
    config = write(table("x", origin.url, rules="*.bin immutable; ** 5m"))
    proxy = start(config=config)
    for path in ("/x/index/", "/x/file-1.bin"):
        proxy.get(path)
        aged(proxy, path, -86400)
    assert "request   a source is asked whether version 1 still holds" in why(proxy, config, "/x/index/")
    body = origin.put("/index/", b"second", modified=NEWER)
    assert [proxy.get("/x/index/").body for _ in range(2)] == [body, body]
    assert proxy.get("/x/file-1.bin").cache_status == HIT
    assert len(origin.requests()) == 3


def test_what_a_source_says_of_it_counts_where_the_rule_is_http(
    origin: Origin, start: Start, write: Callable[..., Path]
) -> None:
    def says(*values: str) -> Serve:
        return Serve(fields=tuple(("Cache-Control", value) for value in values))

    config = write(table("x", origin.url, preset="raw"))
    proxy = start(config=config)
    origin.put("/a", b"first", says("max-age=60"))
    assert [proxy.fetch("/x/a").body for _ in range(3)] == [b"first"] * 3
    assert len(origin.requests("/a")) == 1
    assert "is served from the cache until " in why(proxy, config, "/x/a")
    assert "the preset raw leaves it to the source" in why(proxy, config, "/x/a")
    for fields in ({"Cache-Control": "no-cache"}, {"Pragma": "no-cache"}, {"Cache-Control": "max-age=0"}):
        assert proxy.get("/x/a", fields).cache_status == "package-cache; fwd=stale; fwd-status=304"
    assert len(origin.requests("/a")) == 4
    assert proxy.get("/x/a", {"Cache-Control": "max-age=3000"}).cache_status == HIT
    aged(proxy, "/x/a", 61)
    assert "if none answers, it is served as it is" in why(proxy, config, "/x/a")
    origin.script("/a", Say(503))
    assert (proxy.get("/x/a").body, proxy.get("/x/a").cache_status) == (b"first", "package-cache; fwd=stale")

    origin.put("/strict", b"first", says("max-age=60", "must-revalidate"))
    assert [proxy.fetch("/x/strict").body for _ in range(2)] == [b"first"] * 2
    aged(proxy, "/x/strict", 61)
    assert "if none answers, the client is told so" in why(proxy, config, "/x/strict")
    origin.script("/strict", Say(503))
    assert proxy.get("/x/strict").status == 503

    origin.put("/old", b"first", modified=format_date(time.time() - 100_000))
    assert [proxy.fetch("/x/old").cache_status for _ in range(2)][1] == HIT
    origin.put("/none", b"first", modified=None)
    for _ in range(2):
        assert proxy.fetch("/x/none").body == b"first"
    assert len(origin.requests("/none")) == 2


def test_what_a_client_says_of_freshness_counts_where_the_rule_is_http(
    origin: Origin, start: Start, write: Callable[..., Path], host: str
) -> None:
    origin.put("/a", b"first", Serve(fields=(("Cache-Control", "max-age=600"),)))
    origin.put("/strict", b"first", Serve(fields=(("Cache-Control", "max-age=600, must-revalidate"),)))
    proxy = start(host=host, config=write(table("x", origin.url, preset="raw")))

    def told(wish: str, path: str = "/x/a") -> str:
        """What became of the request: one that changes nothing of what is stored."""
        origin.script(path[2:], Say(503))
        return proxy.get(path, {"Cache-Control": wish, "Connection": "close"}).cache_status

    for path in ("/x/a", "/x/strict"):
        proxy.fetch(path)
        aged(proxy, path, 100)
    assert [told("min-fresh=400"), told("max-age=200"), told("max-stale=5"), told("min-fresh=x")] == [HIT] * 4
    assert HIT not in (told("min-fresh=501"), told("max-age=99"), told("min-fresh=400, max-age=99"))
    aged(proxy, "/x/a", 510)
    aged(proxy, "/x/strict", 510)
    assert [told("max-stale=60"), told("max-stale"), told("max-stale=60, only-if-cached")] == [HIT] * 3
    assert HIT not in (told("max-stale=0"), told("max-age=60, max-stale"))
    assert HIT not in (told("max-stale", "/x/strict"), told("max-stale=60", "/x/strict"))


@pytest.mark.parametrize("rule", ["immutable", "revalidate", "http", "5m", "never"])
def test_a_client_that_wants_what_is_stored_causes_no_request(
    origin: Origin, start: Start, write: Callable[..., Path], host: str, rule: str
) -> None:
    """Whether it is stored, stale, or about to be fetched for another client."""
    gate, only = Gate(), {"Cache-Control": "only-if-cached"}
    fields = (("Cache-Control", "max-age=60"),)
    origin.put("/a", b"first", Serve(before=gate, fields=fields), Serve(fields=fields))
    proxy = start(host=host, config=write(table("x", origin.url, rules=f"** {rule}")))
    for method in ("GET", "HEAD"):
        answer = proxy.get("/x/a", only, method=method)
        assert (answer.status, answer.cache_status) == (504, "package-cache; fwd=bypass")
    with ThreadPoolExecutor() as pool:
        fetched = pool.submit(proxy.get if rule == "never" else proxy.fetch, "/x/a")
        assert gate.reached.wait(30)
        assert proxy.get("/x/a", only).status == 504
        gate.open()
        assert fetched.result().body == b"first"
    asked = len(origin.requests())
    until(lambda: rule in ("revalidate", "never") or proxy.get("/x/a", only).cache_status == HIT)
    if rule != "immutable":
        if rule != "never":
            aged(proxy, "/x/a", 400)
        assert [proxy.get("/x/a", only).status for _ in range(3)] == [504] * 3
    assert len(origin.requests()) == asked


def test_what_a_client_wants_stored_nowhere_is_passed_on(
    origin: Origin, start: Start, write: Callable[..., Path], host: str
) -> None:
    origin.put("/a", b"first", Serve(fields=(("Cache-Control", "max-age=60"),)))
    proxy = start(host=host, config=write(table("x", origin.url, preset="raw")))
    for method in ("GET", "GET", "HEAD"):
        answer = proxy.get("/x/a", {"Cache-Control": "no-store"}, method=method)
        assert (answer.status, answer.cache_status.partition(";")[2]) != (200, " hit")
    assert len(origin.requests()) == 3
    assert not blobs(proxy.cache)
    assert stored(proxy.cache) == []
    proxy.fetch("/x/a")
    assert proxy.get("/x/a", {"Cache-Control": "no-store"}).cache_status == HIT


@pytest.mark.parametrize("value", ["no-store", "max-age=60, private"])
def test_what_a_source_wants_kept_nowhere_is_passed_on(
    origin: Origin, start: Start, write: Callable[..., Path], host: str, value: str
) -> None:
    origin.put("/a-1.tar", BODY, Serve(fields=(("Cache-Control", value),)))
    proxy = start(host=host, config=write(table("x", origin.url, rules="** http")))
    for _ in range(2):
        answer = proxy.get("/x/a-1.tar")
        assert (answer.status, answer.body, answer.whole) == (200, BODY, True)
        assert "hit" not in answer.cache_status
    assert proxy.get("/x/a-1.tar", {"Range": "bytes=100-199"}).body == BODY[100:200]
    until(lambda: not parts(proxy.cache))
    assert not blobs(proxy.cache)
    assert run("ls", "--json", "--cache", str(proxy.cache)).stdout.strip() in ("", "[]")
    origin.stop()
    assert proxy.get("/x/a-1.tar").status == 502


def test_why_tells_that_a_path_of_no_repository_is_not_found(
    origin: Origin, start: Start, write: Callable[..., Path], host: str
) -> None:
    config = write(table("x", origin.url))
    proxy = start(host=host, config=config)
    assert proxy.get("/y/a-1.tar").status == 404
    why = ("why", "/y/a-1.tar", "--cache", str(proxy.cache), "--config", str(config))
    assert json.loads(run(*why, "--json").stdout)["request"] == "the client is told 404: no repository has such a path"
    said = run(*why).stdout
    assert "request   the client is told 404: no repository has such a path\n" in said
    assert "source" not in said


def test_what_is_never_stored_is_passed_on(origin: Origin, start: Start, write: Callable[..., Path], host: str) -> None:
    origin.put("/a-1.iso", BODY)
    origin.put("/b-1.iso", BODY, Serve(chunked=True))
    origin.put("/c-1.tar", b"c")
    config = write(table("x", origin.url, rules="*.iso never"))
    proxy = start(host=host, config=config)
    for number in (1, 2):
        assert proxy.get("/x/a-1.iso").body == BODY
        assert len(origin.requests("/a-1.iso")) == number
    assert proxy.get("/x/b-1.iso").body == BODY
    answer = proxy.get("/x/a-1.iso", {"Range": "bytes=1000-1999"})
    assert (answer.status, answer.body) == (206, BODY[1000:2000])
    assert proxy.get("/x/a-1.iso", method="HEAD").fields["Content-Length"] == str(len(BODY))
    assert proxy.get("/x/none-1.iso").status == 404
    assert proxy.get("/x/c-1.tar").body == b"c"
    until(lambda: stored(proxy.cache) == ["/x/c-1.tar"])
    assert "request   the file is passed on from the first source that has it, and not stored" in why(
        proxy, config, "/x/a-1.iso"
    )


@pytest.mark.parametrize("how", [Serve(), Serve(chunked=True), Serve(length=False)], ids=["length", "chunked", "neither"])
def test_a_file_that_is_too_large_comes_whole_and_is_not_stored(
    origin: Origin, start: Start, write: Callable[..., Path], host: str, how: Serve
) -> None:
    origin.put("/large-1.tar", BODY, how)
    origin.put("/fits-1.tar", BODY[:1000], how)
    proxy = start(host=host, config=write(table("x", origin.url, max_file_size="200000B", rules="small* 100; fits* 1000")))
    is_told = how.length or how.chunked
    for _ in range(2):
        answer = proxy.get("/x/large-1.tar")
        # What neither says its length nor marks its end is believed by nobody.
        assert (answer.body == BODY and answer.whole) is is_told
    if is_told:
        assert proxy.get("/x/fits-1.tar").body == BODY[:1000]
        until(lambda: stored(proxy.cache) == ["/x/fits-1.tar"])
        assert len(blobs(proxy.cache)) == 1
    until(lambda: not parts(proxy.cache))
    assert "/x/large-1.tar" not in stored(proxy.cache)


def test_the_limit_of_a_rule_comes_before_that_of_its_repository(
    origin: Origin, start: Start, write: Callable[..., Path]
) -> None:
    for name in ("/a-1.iso", "/a-1.tar"):
        origin.put(name, BODY)
    proxy = start(config=write(table("x", origin.url, max_file_size="1000B", rules="*.iso 1000000")))
    for name in ("/x/a-1.iso", "/x/a-1.tar"):
        assert proxy.get(name).body == BODY
    until(lambda: stored(proxy.cache) == ["/x/a-1.iso"])


# --- Documents that say for how long they are good --------------------------------------------------------------------


def dated(timestamp: float, ttl: float, **more: object) -> bytes:
    return json.dumps({"metadata": {"timestamp": timestamp, "ttl": ttl}, **more}).encode()


@pytest.fixture
def documents(write: Callable[..., Path], origin: Origin) -> Path:
    return write(table("x", origin.url, rules="*.json json-metadata"))


def test_a_document_is_good_for_as_long_as_it_says(origin: Origin, start: Start, documents: Path, host: str) -> None:
    body = origin.put("/a.json", dated(time.time(), 3000), content_type="application/json")
    proxy = start(host=host, config=documents)
    for _ in range(3):
        assert proxy.get("/x/a.json").body == body
    assert proxy.get("/x/a.json").cache_status == HIT
    aged(proxy, "/x/a.json", 2000)
    assert proxy.get("/x/a.json").cache_status == HIT
    assert len(origin.requests()) == 1
    assert "rule      json-metadata" in why(proxy, documents, "/x/a.json")
    assert "is served from the cache until " in why(proxy, documents, "/x/a.json")
    proxy.kill()
    proxy = start(host=host, config=documents)
    assert (proxy.get("/x/a.json").body, len(origin.requests())) == (body, 1)


def test_a_document_whose_time_is_over_is_asked_for_once_a_minute(origin: Origin, start: Start, documents: Path) -> None:
    body = origin.put("/a.json", gzip.compress(dated(1000, 10)))
    proxy = start(config=documents)
    for _ in range(3):
        assert proxy.get("/x/a.json").body == body
    assert len(origin.requests()) == 1
    aged(proxy, "/x/a.json", 61)
    assert "a source is asked whether version 1 still holds" in why(proxy, documents, "/x/a.json")
    assert [proxy.get("/x/a.json").cache_status for _ in range(3)] == ["package-cache; fwd=stale; fwd-status=304", HIT, HIT]
    assert len(origin.requests()) == 2
    assert "if-none-match" in origin.requests()[1].fields
    aged(proxy, "/x/a.json", 61)
    body = origin.put("/a.json", dated(time.time(), 3000, data=1), modified=NEWER)
    for _ in range(3):
        assert proxy.get("/x/a.json").body == body
    assert len(origin.requests()) == 3
    until(lambda: not parts(proxy.cache))
    aged(proxy, "/x/a.json", 0)


BROKEN = {
    "no JSON": b"<html>",
    "cut": dated(1, 1)[:-1],
    "no metadata": b"{}",
    "no time": b'{"metadata": {"timestamp": 1}}',
    "broken gzip": gzip.compress(dated(1, 1))[:-1],
    "a list": b"[]",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_document_is_not_stored_and_the_old_one_served(
    origin: Origin, start: Start, documents: Path, name: str
) -> None:
    body = origin.put("/a.json", dated(1000, 10))
    origin.put("/b.json", BROKEN[name])
    proxy = start(config=documents)
    answer = proxy.get("/x/b.json")
    assert answer.status == 502
    assert b"sent what is not to be stored: " in answer.body
    assert proxy.get("/x/a.json").body == body
    aged(proxy, "/x/a.json", 61)
    origin.put("/a.json", BROKEN[name], modified=NEWER)
    for _ in range(3):
        answer = proxy.get("/x/a.json")
        assert (answer.body, answer.cache_status) == (body, "package-cache; fwd=stale")
    until(lambda: not parts(proxy.cache))
    assert stored(proxy.cache) == ["/x/a.json"]
    assert len(blobs(proxy.cache)) == 1


def test_where_a_source_has_no_document_the_next_one_is_asked(
    origin: Origin, another: Origin, start: Start, write: Callable[..., Path]
) -> None:
    """Though it says that what it has is newer."""
    origin.put("/a.json", b"<html>", modified=NEWER)
    body = another.put("/a.json", dated(time.time(), 3000))
    proxy = start(config=write(table("x", origin.url, another.url, rules="*.json json-metadata")))
    for status in ("fwd=uri-miss; fwd-status=200; stored", "hit"):
        answer = proxy.get("/x/a.json")
        assert (answer.status, answer.body, answer.cache_status) == (200, body, f"package-cache; {status}")
    assert (len(origin.requests()), len(another.requests())) == (1, 1)
    until(lambda: stored(proxy.cache) == ["/x/a.json"])


def test_what_is_no_document_anywhere_is_told_with_every_source(
    origin: Origin, another: Origin, start: Start, write: Callable[..., Path]
) -> None:
    origin.put("/a.json", b"<html>")
    another.put("/a.json", b"[]")
    proxy = start(config=write(table("x", origin.url, another.url, rules="*.json json-metadata")))
    answer = proxy.get("/x/a.json")
    assert answer.status == 502
    assert all(f"{one.url}a.json sent what is not to be stored: ".encode() in answer.body for one in (origin, another))
    until(lambda: not parts(proxy.cache))
    assert not blobs(proxy.cache)


def test_a_large_document_that_is_none_never_comes_whole(origin: Origin, start: Start, documents: Path, host: str) -> None:
    origin.put("/a.json", b"[" + b"1," * 200_000)
    proxy = start(host=host, config=documents)
    answer = proxy.get("/x/a.json")
    assert answer.status == 502 or not answer.whole
    until(lambda: not parts(proxy.cache))
    assert not blobs(proxy.cache)


@pytest.mark.parametrize("behaviour", [Hang(), Raw(b""), Say(503), Serve(stall=5), Serve(cut=5)])
def test_the_old_document_is_served_while_its_publisher_is_not_there(
    origin: Origin, start: Start, documents: Path, behaviour: Hang | Raw | Say | Serve
) -> None:
    body = origin.put("/a.json", dated(1000, 10))
    proxy = start(config=documents, environment=LIMITS)
    assert proxy.get("/x/a.json").body == body
    aged(proxy, "/x/a.json", 61)
    origin.put("/a.json", dated(time.time(), 3000), behaviour, modified=NEWER)
    answer = proxy.get("/x/a.json")
    assert (answer.status, answer.body, answer.cache_status) == (200, body, "package-cache; fwd=stale")


# --- Credentials ------------------------------------------------------------------------------------------------------

SECRET = "s3cr3t-w0rd"
BASIC = "Basic " + b64encode(f"user:{SECRET}".encode()).decode()


def test_credentials_go_to_their_own_host_and_nowhere_else(
    origin: Origin, another: Origin, start: Start, write: Callable[..., Path], host: str, tmp_path: Path
) -> None:
    (tmp_path / "pair").write_text(f"user:{SECRET}\n")
    config = write(
        table(
            "x",
            origin.url + "x",
            credentials='{ file = "pair" }',
            headers='{ X-Token = { env = "TOKEN" } }',
        ).replace(f'["{origin.url}x"]', f'[{{ url = "{origin.url}x" }}]'),
        table("y", another.url + "y"),
        table("z", origin.url + "z"),
    )
    origin.put("/x/a-1.tar", b"a")
    origin.put("/x/away-1.tar", b"", Say(302, fields=(("Location", f"{another.url}b-1.tar"),)))
    origin.put("/x/home-1.tar", b"", Say(302, fields=(("Location", "/w/c-1.tar"),)))
    origin.put("/x/secret-1.tar", b"", Say(403, body=SECRET.encode()))
    origin.put("/w/c-1.tar", b"c")
    origin.put("/z/d-1.tar", b"d")
    another.put("/b-1.tar", b"b")
    another.put("/y/b-1.tar", b"b")
    another.put("/y/back-1.tar", b"", Say(302, fields=(("Location", f"{origin.url}x/a-1.tar"),)))
    arguments = () if host == "gthread" else ("-vv", "--access-log", "-")
    environment = {"TOKEN": SECRET, "PACKAGE_CACHE_VERBOSE": "2", "PACKAGE_CACHE_ACCESS_LOG": str(tmp_path / "access")}
    proxy = start(host=host, config=config, environment=environment, arguments=arguments)
    paths = (
        "x/a-1.tar",
        "x/away-1.tar",
        "x/home-1.tar",
        "x/none-1.tar",
        "x/secret-1.tar",
        "y/b-1.tar",
        "y/back-1.tar",
        "z/d-1.tar",
    )
    bodies = {path: proxy.get(f"/{path}").body for path in paths}
    assert (bodies["x/a-1.tar"], bodies["x/away-1.tar"], bodies["x/home-1.tar"], bodies["z/d-1.tar"]) == (
        b"a",
        b"b",
        b"c",
        b"d",
    )
    for asked in origin.requests():
        mine = asked.target.startswith(("/x/", "/w/"))
        assert (asked.fields.get("authorization"), asked.fields.get("x-token")) == (
            (BASIC, SECRET) if mine else (None, None)
        )
    assert another.requests()
    for asked in another.requests():
        assert not {"authorization", "x-token"} & set(asked.fields)
    proxy.stop()
    log = "".join(proxy.log) + (tmp_path / "access").read_text() if (tmp_path / "access").exists() else "".join(proxy.log)
    assert "/x/a-1.tar" in log
    for text in (SECRET, BASIC[6:]):
        assert text not in log
        assert not any(text.encode() in body for body in bodies.values())


def test_credentials_do_not_follow_a_download_to_the_next_mirror(
    origin: Origin, another: Origin, start: Start, write: Callable[..., Path]
) -> None:
    origin.put("/a-1.tar", BODY, Serve(cut=100_000))
    another.put("/a-1.tar", BODY)
    own = origin.url.replace("//", f"//user:{SECRET}@")
    proxy = start(config=write(table("x", own, another.url)), arguments=("-vv",))
    assert proxy.get("/x/a-1.tar").body == BODY
    assert {asked.fields.get("authorization") for asked in origin.requests()} == {BASIC}
    assert another.requests()
    assert {asked.fields.get("authorization") for asked in another.requests()} == {None}
    assert SECRET not in "".join(proxy.log)


# --- Layouts of Gentoo ------------------------------------------------------------------------------------------------

NAME = "gtk+-3.24.tar.xz"
SHA512 = Structure("filename-hash", "SHA512", (8, 8))
SPELLINGS = [one.path(NAME) for one in (FLAT, HASHED, SHA512)]


def is_in(origin: Origin, structure: Structure, told: str | None, body: bytes = BODY, name: str = NAME) -> None:
    """Have a mirror with a file in that structure, and with that text as its layout."""
    origin.put(f"/distfiles/{structure.path(name).replace('+', '%2B')}", body)
    if told is not None:
        origin.put("/distfiles/layout.conf", told.encode())


def got(origin: Origin) -> list[str]:
    """The paths that were asked for and are there, but for the layout."""
    paths = [one.target for one in origin.requests() if one.target in origin.things]
    return [path for path in paths if path != "/distfiles/layout.conf"]


LAYOUTS = {
    "flat": (FLAT, layout_text([FLAT])),
    "hashed": (HASHED, layout_text([HASHED])),
    "other hash": (SHA512, layout_text([SHA512, FLAT])),
    "by content first": (HASHED, "[structure]\n0=content-hash SHA512 8\n1=filename-hash BLAKE2B 8\n"),
    "flat, untold": (FLAT, None),
    "hashed, untold": (HASHED, None),
    "hashed, told wrongly": (HASHED, "<html>"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_client_of_any_layout_finds_the_file_in_a_source_of_any_layout(origin: Origin, start: Start, name: str) -> None:
    is_in(origin, *LAYOUTS[name])
    proxy = start(origin.url)
    for spelling in SPELLINGS * 2:
        answer = proxy.get(f"/distfiles/{spelling}")
        assert (answer.status, answer.body) == (200, BODY), spelling
    assert len(got(origin)) == 1
    until(lambda: stored(proxy.cache) == ["/distfiles/gtk%2B-3.24.tar.xz"])
    assert len(origin.requests("/distfiles/layout.conf")) == 1
    origin.stop()
    assert proxy.get(f"/distfiles/{SPELLINGS[1]}").cache_status == HIT


def test_the_source_of_a_hashed_file_is_told_by_why(origin: Origin, start: Start, write: Callable[..., Path]) -> None:
    is_in(origin, HASHED, layout_text([HASHED]))
    config = write(table("gentoo", origin.url, prefix="/", preset="gentoo"))
    proxy = start(config=config)
    assert proxy.get(f"/distfiles/{NAME}").status == 200
    until(lambda: stored(proxy.cache))
    assert ": gave version 1 on " in why(proxy, config, f"/distfiles/{HASHED.path(NAME)}")
    assert "of        the repository gentoo" in why(proxy, config, f"/distfiles/{NAME}")


def test_sources_of_different_layouts_work_together(origin: Origin, another: Origin, start: Start) -> None:
    is_in(origin, FLAT, layout_text([FLAT]), b"only here", "a.tar")
    is_in(another, HASHED, layout_text([HASHED]), b"only there", "b.tar")
    for one, structure in ((origin, FLAT), (another, HASHED)):
        is_in(one, structure, None)
    origin.script(f"/distfiles/{NAME.replace('+', '%2B')}", Serve(cut=100_000), Say(503))
    proxy = start(origin.url, another.url)
    for spelling in (FLAT, HASHED):
        assert proxy.get(f"/distfiles/{spelling.path('a.tar')}").body == b"only here"
        assert proxy.get(f"/distfiles/{spelling.path('b.tar')}").body == b"only there"
    # A download goes on where it is in another folder.
    answer = proxy.get(f"/distfiles/{SPELLINGS[2]}")
    assert (answer.body, answer.whole) == (BODY, True)
    origin.stop()
    is_in(another, HASHED, None, b"later", "c-1.tar")
    assert proxy.get("/distfiles/c-1.tar").body == b"later"
    until(lambda: len(stored(proxy.cache)) >= 3)


def test_a_directory_of_this_machine_has_a_layout_too(start: Start, tmp_path: Path) -> None:
    for name, structure in (("flat", FLAT), ("hashed", HASHED)):
        file = tmp_path / name / "distfiles" / structure.path(f"{name}+.tar")
        file.parent.mkdir(parents=True)
        file.write_bytes(name.encode())
    (tmp_path / "hashed/distfiles/layout.conf").write_text(layout_text([HASHED]))
    proxy = start((tmp_path / "flat").as_uri(), (tmp_path / "hashed").as_uri())
    for name in ("flat", "hashed"):
        for structure in (FLAT, HASHED, SHA512):
            assert proxy.get(f"/distfiles/{structure.path(f'{name}+.tar')}").body == name.encode()
    assert proxy.get("/distfiles/layout.conf").body == layout_text([HASHED]).encode()
    until(lambda: len(stored(proxy.cache)) == 3)


def test_the_layout_that_clients_are_told_is_that_of_the_source(origin: Origin, start: Start) -> None:
    proxy = start(origin.url)
    assert proxy.get("/distfiles/layout.conf").status == 404
    for text in ("[structure]\n0=flat\n", "[structure]\n0=filename-hash BLAKE2B 8\n1=flat\n"):
        origin.put("/distfiles/layout.conf", text.encode(), modified=None)
        assert proxy.get("/distfiles/layout.conf").body == text.encode()


def test_what_is_no_distfile_is_asked_for_where_it_is(origin: Origin, start: Start, write: Callable[..., Path]) -> None:
    path = f"/distfiles/{HASHED.path('a.tar')}"
    for one in (path, "/distfiles/sub/a-1.tar", "/snapshots/a-1.tar"):
        origin.put(one, b"a")
    proxy = start(config=write(table("debian", origin.url, preset="debian"), table("gentoo", origin.url, preset="gentoo")))
    assert proxy.get(f"/debian{path}").body == b"a"
    assert proxy.get("/gentoo/distfiles/sub/a-1.tar").body == b"a"
    assert proxy.get("/gentoo/snapshots/a-1.tar").body == b"a"
    assert not origin.requests("/distfiles/layout.conf")
    assert len(origin.requests()) == 3


SLOW = Flood(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n", b"#" * 10, pause=0.2)
DEAD = {
    "hangs": Hang(),
    "dies": Raw(b""),
    "fails": Say(500),
    "stalls": Serve(stall=3),
    "breaks off": Serve(cut=3),
    "crawls": SLOW,
    "never ends": Flood(b"HTTP/1.1 200 OK\r\n\r\n", b"#" * 65536),
}


@pytest.mark.parametrize("name", DEAD)
def test_a_layout_that_does_not_come_keeps_no_file_from_a_client(origin: Origin, start: Start, name: str) -> None:
    is_in(origin, HASHED, layout_text([HASHED]))
    origin.script("/distfiles/layout.conf", DEAD[name])
    proxy = start(origin.url, environment={**LIMITS, "PACKAGE_CACHE_CRAWL_TIMEOUT": "2"})
    began = time.monotonic()
    assert proxy.get(f"/distfiles/{NAME}").body == BODY
    assert time.monotonic() - began < 30


def test_sources_whose_layouts_do_not_come_are_not_all_waited_for(origin: Origin, another: Origin, start: Start) -> None:
    third = Origin()
    try:
        for one in (origin, another, third):
            is_in(one, HASHED, layout_text([HASHED]))
        another.script("/distfiles/layout.conf", Hang())
        third.script("/distfiles/layout.conf", Hang())
        proxy = start(origin.url, another.url, third.url)
        assert proxy.get(f"/distfiles/{NAME}").body == BODY
        assert (len(another.requests()), len(third.requests())) == (0, 0)
    finally:
        third.stop()


@pytest.fixture
def gate() -> Iterator[Gate]:
    one = Gate()
    yield one
    one.open()


def test_many_clients_wait_for_one_request_for_a_layout(origin: Origin, start: Start, gate: Gate) -> None:
    names = [f"{number}.tar" for number in range(20)]
    for name in names:
        is_in(origin, HASHED, layout_text([HASHED]), name.encode(), name)
    origin.script("/distfiles/layout.conf", Serve(before=gate))
    proxy = start(origin.url)
    clients = [Client(proxy.address) for _ in names]
    try:
        for client, name in zip(clients, names, strict=True):
            client.ask(f"/distfiles/{name}")
        assert gate.reached.wait(30)
        gate.open()
        assert [client.answer().body for client in clients] == [name.encode() for name in names]
    finally:
        for client in clients:
            client.socket.close()
    assert len(got(origin)) == len(names)
    assert len(origin.requests("/distfiles/layout.conf")) == 1


def test_a_layout_that_did_not_come_is_not_waited_for_with_each_file(origin: Origin, start: Start) -> None:
    is_in(origin, HASHED, None)
    for number in range(5):
        is_in(origin, HASHED, layout_text([HASHED]), BODY, f"{number}.tar")
    origin.script("/distfiles/layout.conf", Hang())
    proxy = start(origin.url, environment=LIMITS)
    for number in range(5):
        assert proxy.get(f"/distfiles/{number}.tar").body == BODY
    assert len(origin.requests("/distfiles/layout.conf")) == 1


def test_a_document_of_npm_may_be_named_like_an_archive_and_an_archive_is_none_of_its_documents(
    origin: Origin, start: Start, write: Callable[..., Path]
) -> None:
    proxy = start(config=write(table("npm", origin.url, preset="npm")))
    document = origin.put("/tar.gz", b'{"name": "tar.gz"}', content_type="application/json")
    origin.put("/tar.gz/-/tar.gz-1.0.0.tgz", document, content_type="application/json")
    for method, body in (("HEAD", b""), ("GET", document)):
        answer = proxy.get("/npm/tar.gz", method=method)
        assert (answer.status, answer.body) == (200, body)
        assert proxy.get("/npm/tar.gz/-/tar.gz-1.0.0.tgz", method=method).status == 502
