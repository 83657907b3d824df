"""Sources: directories, HTTP servers behind redirects, credentials and TLS, and what is refused of them."""

import os
import random
import shutil
import socket
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from forks import run
from origin import Origin, Raw, Say, Serve, until
from product import Proxy, blobs, open_files, parts, stored

from package_cache.errors import UpstreamError
from package_cache.model import Validators
from package_cache.rules.http.fields import parse_date
from package_cache.rules.transfers.steps import Ask
from package_cache.upstream.files import open_file

FEW = 3
"""Requests of one file that show whether a connection is used again."""


@pytest.fixture
def start(start: Callable[..., Proxy]) -> Callable[..., Proxy]:
    return start


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


# Directories


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A directory that serves as a source."""
    path = tmp_path / "shelf"
    path.mkdir()
    return path


def test_a_directory_is_a_source(shelf: Path, start: Callable[..., Proxy], host: str) -> None:
    (shelf / "sub").mkdir()
    for name in ("a-1.tar", "sub/with blank+plus-1.tar", "empty-1.tar"):
        (shelf / name).write_bytes(b"" if "empty" in name else noise(3_000_000))
    proxy = start(shelf.as_uri() + "/", host=host)
    for target, name in (
        ("/a-1.tar", "a-1.tar"),
        ("/sub/with%20blank+plus-1.tar", "sub/with blank+plus-1.tar"),
        ("/empty-1.tar", "empty-1.tar"),
    ):
        for expected in ("stored", "hit"):
            answer = proxy.get(target)
            assert (answer.status, answer.body) == (200, (shelf / name).read_bytes())
            assert answer.cache_status.endswith(expected)
    assert proxy.get("/a-1.tar", {"Range": "bytes=5-9"}).body == (shelf / "a-1.tar").read_bytes()[5:10]


def test_what_is_no_file_of_a_directory_is_not_found(shelf: Path, start: Callable[..., Proxy]) -> None:
    (shelf / "sub").mkdir()
    (shelf / "sub" / "a-1.tar").write_bytes(b"in a directory")
    os.mkfifo(shelf / "pipe-1.tar")
    (shelf / "dangling-1.tar").symlink_to("nowhere")
    (shelf / "circle-1.tar").symlink_to("circle-1.tar")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(shelf / "socket-1.tar"))
        proxy = start(shelf.as_uri())
        for target in (
            "/missing-1.tar",
            "/sub",
            "/sub/",
            "/",
            "/pipe-1.tar",
            "/dangling-1.tar",
            "/circle-1.tar",
            "/sub%2Fa.tar",
            "/sub/a-1.tar/b-1.tar",
            "/" + "n" * 300 + ".tar",
        ):
            answer = proxy.get(target)
            assert (target, answer.status) == (target, 404)
        assert proxy.get("/socket-1.tar").status in (404, 502)
    assert not blobs(proxy.cache)


def test_a_link_of_a_directory_is_followed(shelf: Path, start: Callable[..., Proxy]) -> None:
    (shelf / "a-1.tar").write_bytes(b"one")
    (shelf / "link-1.tar").symlink_to("a-1.tar")
    assert start(shelf.as_uri()).get("/link-1.tar").body == b"one"


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_of_a_directory_that_may_not_be_read_is_refused(shelf: Path, start: Callable[..., Proxy]) -> None:
    (shelf / "a-1.tar").write_bytes(b"secret")
    (shelf / "a-1.tar").chmod(0)
    assert start(shelf.as_uri()).get("/a-1.tar").status == 403


def test_a_changed_index_in_a_directory_is_seen_at_once(shelf: Path, start: Callable[..., Proxy]) -> None:
    (shelf / "layout.conf").write_bytes(b"first")
    proxy = start(shelf.as_uri())
    assert proxy.fetch("/layout.conf").body == b"first"
    assert proxy.get("/layout.conf").cache_status.endswith("fwd-status=304")
    (shelf / "layout.conf").write_bytes(b"other")
    os.utime(shelf / "layout.conf", (1, 1))
    assert proxy.fetch("/layout.conf").body == b"other"
    (shelf / "layout.conf").unlink()
    assert proxy.get("/layout.conf").status == 404


def test_a_download_goes_on_in_a_directory_where_a_mirror_broke_off(
    shelf: Path, origin: Origin, start: Callable[..., Proxy]
) -> None:
    body = origin.put("/a-1.tar", noise(600_000), Serve(cut=300_000), Say(404))
    (shelf / "a-1.tar").write_bytes(body)
    answer = start(origin.url, shelf.as_uri()).get("/a-1.tar")
    assert (answer.body, answer.whole) == (body, True)


def test_a_directory_answers_a_range_for_the_version_it_has(shelf: Path) -> None:
    path = shelf / "a-1.tar"
    path.write_bytes(b"0123456789")
    whole = open_file(Ask(path.as_uri()))
    whole.close()
    etag, modified = whole.head.representation.validators.etag, whole.head.representation.validators.last_modified
    for proof in (etag, modified):
        part = open_file(Ask(path.as_uri(), 4, proof))
        assert (part.head.status, part.read(), part.read()) == (206, b"456789", b"")
        part.close()
    other = open_file(Ask(path.as_uri(), 4, '"another"'))
    assert (other.head.status, other.read()) == (200, b"0123456789")
    other.close()
    assert open_file(Ask(path.as_uri(), condition=Validators(etag))).head.status == 304


@pytest.mark.parametrize("change", ["rewritten", "cut", "lengthened"])
def test_a_file_of_a_directory_that_changes_while_it_is_read_is_not_taken(shelf: Path, change: str) -> None:
    path = shelf / "a-1.tar"
    path.write_bytes(bytes(3_000_000))
    os.utime(path, (1, 1))
    answer = open_file(Ask(path.as_uri()))
    try:
        assert answer.read()
        with path.open("r+b") as file:
            match change:
                case "rewritten":
                    file.write(b"x" * 3_000_000)
                case "cut":
                    file.truncate(1_500_000)
                case _:
                    file.seek(0, os.SEEK_END)
                    file.write(b"x")
        with pytest.raises(UpstreamError):
            list(iter(answer.read, b""))
    finally:
        answer.close()


@pytest.mark.parametrize("mtime", [2.0**33, -1e9, 1e13])
def test_a_file_of_a_directory_has_no_date_to_come(shelf: Path, mtime: float) -> None:
    path = shelf / "a-1.tar"
    path.write_bytes(b"abc")
    try:
        os.utime(path, (mtime, mtime))
    except OSError:
        pytest.skip("the file system here has no such dates")
    answer = open_file(Ask(path.as_uri()))
    assert answer.read() == b"abc"
    answer.close()
    date, modified = (parse_date(answer.head.representation.get(name)) for name in ("date", "last-modified"))
    assert date is not None
    assert modified is not None
    assert 0 <= modified <= date


def test_asking_a_directory_for_what_is_no_file_holds_no_descriptor(shelf: Path) -> None:
    os.mkfifo(shelf / "pipe")
    before = open_files()
    for _ in range(10):
        for path in (shelf, shelf / "pipe", shelf / "missing"):
            assert open_file(Ask(path.as_uri())).head.status == 404
    assert open_files() <= before


# Redirects


def see(url: str, status: int = 302) -> Say:
    return Say(status, fields=(("Location", url),))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_within_a_source_is_followed(origin: Origin, start: Callable[..., Proxy], status: int) -> None:
    origin.put("/a-1.tar", b"", see("/pool/a-1.tar", status))
    body = origin.put("/pool/a-1.tar", noise(100_000))
    proxy = start(origin.url)
    assert proxy.get("/a-1.tar").body == body
    assert proxy.get("/a-1.tar").cache_status == "package-cache; hit"


def test_a_redirect_to_another_source_is_followed(origin: Origin, another: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", b"", see(another.url + "pool/a-1.tar"))
    body = another.put("/pool/a-1.tar", noise(100_000))
    assert start(origin.url, another.url + "elsewhere/").get("/a-1.tar").body == body


@pytest.mark.parametrize("location", ["/pool/für b-1.tar", "/pool/f%C3%BCr b-1.tar", "/pool/f%c3%bcr%20b-1.tar"])
def test_a_redirect_may_name_a_file_by_its_bare_bytes(origin: Origin, start: Callable[..., Proxy], location: str) -> None:
    origin.put("/a-1.tar", b"", see(location.encode().decode("latin-1")))
    body = origin.put("/pool/f%C3%BCr%20b-1.tar", noise(1000))
    assert start(origin.url).get("/a-1.tar").body == body


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1"])
def test_a_redirect_into_the_own_network_is_refused(
    origin: Origin, another: Origin, start: Callable[..., Proxy], name: str
) -> None:
    origin.put("/a-1.tar", b"", see(f"http://{name}:{another.port}/secret"))
    another.put("/secret", b"for this machine only")
    proxy = start(origin.url)
    answer = proxy.get("/a-1.tar")
    assert answer.status == 502
    assert b"for this machine" not in answer.body
    assert not another.requests()


@pytest.mark.parametrize(
    "location",
    [
        "http://[bad/a-1.tar",
        "http://mirror.example:port/a-1.tar",
        "http://mirror.example:99999/a-1.tar",
        "http:///a-1.tar",
        "file:///etc/hostname",
        "ftp://mirror.example/a-1.tar",
        "http://does-not-exist.invalid/a-1.tar",
        "http://%00/",
        "/a-1.tar",
        "/\x7f\xff a.tar",
    ],
)
def test_after_a_redirect_that_leads_nowhere_the_next_mirror_is_asked(
    origin: Origin, another: Origin, start: Callable[..., Proxy], location: str
) -> None:
    origin.put("/a-1.tar", b"", see(location))
    body = another.put("/a-1.tar", noise(100_000))
    answer = start(origin.url, another.url).get("/a-1.tar")
    assert (answer.status, answer.body) == (200, body)
    assert len(origin.requests()) <= 12


def test_a_circle_of_redirects_ends(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", b"", see("/b-1.tar"))
    origin.put("/b-1.tar", b"", see("/a-1.tar"))
    proxy = start(origin.url)
    assert proxy.get("/a-1.tar").status == 502
    assert len(origin.requests()) == 6
    origin.put("/1.tar", b"", *(see(f"/{number}.tar") for number in (2,)))
    for number in range(2, 6):
        origin.put(f"/{number}.tar", b"", see(f"/{number + 1}.tar"))
    body = origin.put("/6.tar", b"five redirects away")
    assert proxy.get("/1.tar").body == body


def test_a_redirect_without_a_place_is_a_failure(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", b"", Say(302))
    assert start(origin.url).get("/a-1.tar").status == 502


def test_a_download_that_broke_off_behind_a_redirect_goes_on(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", b"", see("/pool/a-1.tar"))
    body = origin.put("/pool/a-1.tar", noise(600_000), Serve(cut=300_000), Serve())
    assert start(origin.url).get("/a-1.tar").body == body
    assert origin.requests("/pool/a-1.tar")[1].fields["range"] == f"bytes={300_000 - 4096}-"


# Credentials


def with_password(url: str, pair: str = "user:p%40ss") -> str:
    return url.replace("http://", f"http://{pair}@")


USER = "Basic " + b64encode(b"user:p@ss").decode()


def test_credentials_are_for_their_own_source_only(origin: Origin, another: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", b"", see(another.url + "a-1.tar"))
    origin.put("/b-1.tar", b"", see("/c-1.tar"))
    origin.put("/c-1.tar", b"c", Serve())
    another.put("/a-1.tar", b"a")
    proxy = start(with_password(origin.url), another.url, arguments=["-vv"])
    assert proxy.get("/a-1.tar").body == b"a"
    assert proxy.get("/b-1.tar").body == b"c"
    assert proxy.get("/missing-1.tar").status == 404
    assert {asked.fields.get("authorization") for asked in origin.requests()} == {USER}
    assert {asked.fields.get("authorization") for asked in another.requests()} == {None}
    proxy.stop()
    log = "".join(proxy.log)
    assert "/missing-1.tar" in log
    assert "p%40ss" not in log
    assert "p@ss" not in log
    assert USER.split()[1] not in log
    for path in proxy.cache.rglob("*"):
        assert not path.is_file() or USER.encode() not in path.read_bytes()


def test_two_sources_of_one_host_have_credentials_of_their_own(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/one/a-1.tar", b"1")
    origin.put("/two/b-1.tar", b"2")
    origin.put("/open/c-1.tar", b"3")
    proxy = start(
        with_password(origin.url, "first:1") + "one/",
        with_password(origin.url, "second:2") + "two/",
        origin.url + "open",
    )
    assert [proxy.get(f"/{name}-1.tar").body for name in "abc"] == [b"1", b"2", b"3"]
    sent = {asked.target: asked.fields.get("authorization") for asked in origin.requests()}
    assert sent["/one/a-1.tar"] == "Basic " + b64encode(b"first:1").decode()
    assert sent["/two/b-1.tar"] == "Basic " + b64encode(b"second:2").decode()
    assert sent["/open/c-1.tar"] is None


def test_credentials_in_a_redirect_are_not_logged(origin: Origin, start: Callable[..., Proxy]) -> None:
    port = free_port()
    origin.put("/a-1.tar", b"", see(f"http://user:hidden@127.0.0.1:{port}/a-1.tar?signature=hidden"))
    proxy = start(origin.url, arguments=["-vv"])
    assert b"hidden" not in proxy.get("/a-1.tar").body
    proxy.stop()
    assert "hidden" not in "".join(proxy.log)


# Connections


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_one_connection_serves_many_requests(origin: Origin, start: Callable[..., Proxy]) -> None:
    for number in range(FEW):
        origin.put(f"/{number}.tar", noise(100_000, number))
    origin.put("/layout.conf", b"x")
    proxy = start(origin.url)
    for number in range(FEW):
        proxy.get(f"/{number}.tar")
        assert proxy.get("/layout.conf").status == 200
    assert len(origin.requests()) == 2 * FEW
    assert origin.accepted == 1


@pytest.mark.parametrize(
    "closing", [Serve(leave=True), Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")], ids=["http", "raw"]
)
def test_a_connection_the_source_closed_meanwhile_is_opened_again(
    origin: Origin, start: Callable[..., Proxy], closing: Serve | Raw
) -> None:
    proxy = start(origin.url)
    for number in range(FEW):
        origin.put(f"/{number}.tar", b"old", closing)
        assert proxy.get(f"/{number}.tar").body == b"old"
    assert len(origin.requests()) == FEW


def test_a_source_that_closes_on_the_next_request_is_asked_again(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", b"first")
    body = origin.put("/b-1.tar", noise(100_000), Raw(b""), Serve())
    proxy = start(origin.url)
    proxy.get("/a-1.tar")
    assert proxy.get("/b-1.tar").body == body
    assert len(origin.requests("/b-1.tar")) == 2


HEADS = {
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nbody",
    "two lengths in one": b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nbody",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nbody",
    "a length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nbody",
    "a length with a line between": b"HTTP/1.1 200 OK\r\nContent-Length: 4_0\r\n\r\n" + b"body" * 10,
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 4\r\n\r\nbody",
    "nothing about the length": b"HTTP/1.1 200 OK\r\n\r\nbody",
    "a part nobody asked for": b"HTTP/1.1 206 Part\r\nContent-Length: 4\r\nContent-Range: bytes 0-3/9\r\n\r\nbody",
    "no HTTP": b"SSH-2.0-server\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "HTTP/0.9": b"body",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_cannot_be_trusted_is_refused(
    origin: Origin, another: Origin, start: Callable[..., Proxy], name: str
) -> None:
    origin.put("/a-1.tar", b"", Raw(HEADS[name]))
    origin.put("/b-1.tar", b"", Raw(HEADS[name]))
    body = another.put("/b-1.tar", b"right")
    proxy = start(origin.url, another.url)
    assert proxy.get("/a-1.tar").status == 502
    assert proxy.get("/b-1.tar").body == body
    until(lambda: stored(proxy.cache) and not parts(proxy.cache))
    assert len(blobs(proxy.cache)) == 1


def test_fields_of_the_connection_and_cookies_are_not_kept(origin: Origin, start: Callable[..., Proxy]) -> None:
    dropped = {"Set-Cookie": "a=b", "Keep-Alive": "timeout=5", "Proxy-Authenticate": "Basic", "X-Accel-Redirect": "/x"}
    origin.put("/a-1.tar", b"a", Serve(fields=tuple(dropped.items())))
    proxy = start(origin.url)
    for _ in range(2):
        answer = proxy.get("/a-1.tar")
        assert not {name.lower() for name in answer.fields} & {name.lower() for name in dropped}
        assert answer.fields["Content-Type"] == "application/octet-stream"


def test_all_other_fields_of_a_source_are_served_and_a_confirmation_renews_them(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    said = (("Docker-Content-Digest", "sha256:1"), ("X-Repo-Commit", "2"), ("X-Served-By", "a"), ("Via", "1.1 other"))
    origin.put("/index.json", b"{}", Serve(fields=said))
    proxy = start(origin.url)
    proxy.fetch_new("/index.json")
    origin.put("/index.json", b"{}", Serve(fields=(("X-Served-By", "b"),)))
    confirmed = proxy.get("/index.json")
    origin.stop()
    stale = proxy.get("/index.json")
    for answer, kind in ((confirmed, "fwd-status=304"), (stale, "fwd=stale")):
        assert kind in answer.fields["Cache-Status"]
        assert answer.fields["Docker-Content-Digest"] == "sha256:1"
        assert answer.fields["X-Repo-Commit"] == "2"
        assert answer.fields["X-Served-By"] == "b"
        assert "1.1 other" in answer.fields["Via"]


def test_a_source_is_told_who_asks_and_not_what_the_client_sent(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", b"a")
    fields = {"Cookie": "a=b", "Authorization": "Basic eA==", "X-Other": "y", "Accept-Encoding": "gzip"}
    start(origin.url).get("/a-1.tar", {**fields, "User-Agent": "client"})
    asked = origin.requests()[0]
    assert asked.fields["user-agent"].startswith("package-cache/")
    assert asked.fields["via"].startswith("1.1 package-cache-")
    assert asked.fields["accept-encoding"] == "identity"
    assert asked.fields["host"] == f"127.0.0.1:{origin.port}"
    assert not {"cookie", "authorization", "x-other", "range", "accept"} & set(asked.fields)


def test_a_source_that_leads_back_is_found_out(start: Callable[..., Proxy]) -> None:
    port = free_port()
    answer = start(f"http://127.0.0.1:{port}/", arguments=["--port", str(port)]).get("/a-1.tar")
    assert answer.status == 508
    assert b"every source leads back to this cache" in answer.body


def test_a_copy_of_a_cache_may_have_the_original_as_its_source(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    start(origin.url).stop()
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    origin.put("/new-1.tar", b"new")
    parent = start(origin.url)
    assert start(parent.url, cache=tmp_path / "copy").get("/new-1.tar").body == b"new"


def test_a_request_that_has_passed_through_too_many_proxies_is_passed_on_to_nobody(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    body, proxy = origin.put("/a-1.tar", b"a"), start(origin.url)
    assert proxy.get("/a-1.tar", {"Via": ", ".join(["1.1 somebody"] * 200)}).status == 508
    assert not origin.requests()
    assert proxy.get("/a-1.tar", {"Via": ", ".join(["1.1 somebody"] * 20)}).body == body


# Proxies and TLS

HTTP, HTTPS = "http://mirror.example/", "https://mirror.example/"
LIMITS = {"PACKAGE_CACHE_HEAD_TIMEOUT": "4", "PACKAGE_CACHE_CONNECT_TIMEOUT": "4"}


def test_the_proxy_of_the_environment_is_used(origin: Origin, start: Callable[..., Proxy]) -> None:
    body = origin.put("http://mirror.example/gentoo/a-1.tar", noise(100_000))
    proxy = start(
        "http://mirror.example/gentoo/",
        environment={"http_proxy": origin.url, "no_proxy": "127.0.0.1", "HTTP_PROXY": origin.url},
    )
    assert proxy.get("/a-1.tar").body == body


def test_a_proxy_without_a_scheme_is_used_and_one_of_a_scheme_that_no_source_has_may_be_anything(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    through = origin.put("http://mirror.example/a-1.tar", b"through the proxy")
    straight = another.put("/b-1.tar", b"straight")
    origin.put("http://mirror.example/c-1.tar", b"", see("https://elsewhere.example/c-1.tar"))
    environment = {"http_proxy": f"127.0.0.1:{origin.port}", "https_proxy": "socks5://x", "no_proxy": "127.0.0.0/8"}
    proxy = start("http://mirror.example/", another.url, environment=environment)
    assert proxy.get("/a-1.tar").body == through
    assert proxy.get("/b-1.tar").body == straight
    answer = proxy.get("/c-1.tar")
    assert answer.status == 502
    assert b"https_proxy='socks5://x' cannot be used: socks5 is not spoken to proxies here" in answer.body


@pytest.mark.parametrize(
    ("source", "environment", "told"),
    [
        (HTTP, {"http_proxy": "socks5://a:1"}, "http_proxy='socks5://a:1' cannot be used: socks5 is not spoken"),
        (HTTP, {"HTTP_PROXY": "http://a:b/"}, "HTTP_PROXY='http://a:b/' cannot be used: its port is not a number"),
        (HTTPS, {"SSL_CERT_FILE": "/does/not/exist"}, "SSL_CERT_FILE='/does/not/exist' cannot be used: No such file"),
        (HTTPS, {"SSL_CERT_FILE": __file__}, "cannot be used: it holds no certificate"),
        (HTTPS, {"SSL_CERT_DIR": "/does/not/exist"}, "SSL_CERT_DIR='/does/not/exist' cannot be used: there is no such"),
    ],
)
@pytest.mark.parametrize("words", [("--port", "0"), ("config", "check")])
@pytest.mark.usefixtures("shell")
def test_what_the_environment_names_and_cannot_be_used_is_one_line(
    tmp_path: Path, words: tuple[str, ...], source: str, environment: dict[str, str], told: str
) -> None:
    ended = run(*words, **environment, PACKAGE_CACHE_SOURCE=source, PACKAGE_CACHE_CACHE=str(tmp_path / "cache"))
    assert ended.returncode == 2
    assert told in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_certificates_of_the_environment_matter_to_sources_over_tls_alone(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    body = origin.put("/a-1.tar", b"a")
    assert start(origin.url, environment={"SSL_CERT_FILE": "/does/not/exist"}).get("/a-1.tar").body == body


def test_credentials_do_not_follow_a_redirect_to_a_host_that_is_no_source(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    origin.put("http://mirror.example/gentoo/a-1.tar", b"", see("http://elsewhere.example/a-1.tar"))
    origin.put("http://elsewhere.example/a-1.tar", b"", see("http://mirror.example/pool/a-1.tar"))
    origin.put("http://mirror.example/pool/a-1.tar", b"a")
    proxy = start("http://user:p%40ss@mirror.example/gentoo", environment={"http_proxy": origin.url, "no_proxy": ""})
    assert proxy.get("/a-1.tar").body == b"a"
    assert [asked.fields.get("authorization") for asked in origin.requests()] == [USER, None, USER]


def test_a_redirect_into_the_own_network_is_refused_behind_a_proxy_too(origin: Origin, start: Callable[..., Proxy]) -> None:
    for number, host in enumerate(("127.0.0.1", "[::1]", "localhost", "10.0.0.1", "169.254.169.254")):
        origin.put(f"http://mirror.example/{number}.tar", b"", see(f"http://{host}:9/{number}"))
        origin.put(f"http://{host}:9/{number}", b"secret")
    proxy = start("http://mirror.example/", environment={"http_proxy": origin.url, "no_proxy": ""})
    for number in range(5):
        assert proxy.get(f"/{number}.tar").status == 502
    assert len(origin.requests()) == 5


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate with its key, for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=mirror.example", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path)]
    made = subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", *key, *subject], capture_output=True, check=True, text=True
    )
    with path.open("a") as file:
        file.write(made.stdout)
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[Origin]:
    """A source over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    one = Origin(context=context)
    yield one
    one.stop()


def test_a_source_over_tls_is_fetched_from(secure: Origin, certificate: Path, start: Callable[..., Proxy]) -> None:
    body = secure.put("/a-1.tar", noise(600_000), Serve(cut=300_000), Serve())
    chunked = secure.put("/b-1.tar", noise(300_000), Serve(chunked=True))
    proxy = start(secure.url, environment={"SSL_CERT_FILE": str(certificate)})
    assert proxy.get("/a-1.tar").body == body
    assert proxy.get("/b-1.tar").body == chunked
    assert len(secure.requests()) == 3


def test_certificates_in_a_directory_are_trusted(
    tmp_path: Path, secure: Origin, certificate: Path, start: Callable[..., Proxy]
) -> None:
    body = secure.put("/a-1.tar", b"a")
    hashed = subprocess.run(["openssl", "x509", "-hash", "-noout", "-in", certificate], capture_output=True, check=True)
    (tmp_path / f"{hashed.stdout.decode().strip()}.0").write_bytes(certificate.read_bytes())
    assert start(secure.url, environment={"SSL_CERT_DIR": str(tmp_path)}).get("/a-1.tar").body == body


def test_a_certificate_nobody_vouches_for_is_refused(secure: Origin, origin: Origin, start: Callable[..., Proxy]) -> None:
    secure.put("/a-1.tar", b"forged")
    origin.put("/a-1.tar", b"right")
    assert start(secure.url, origin.url).get("/a-1.tar").body == b"right"
    assert not secure.requests()


def test_a_redirect_never_leads_from_https_to_http(
    secure: Origin, origin: Origin, certificate: Path, start: Callable[..., Proxy]
) -> None:
    secure.put("/a-1.tar", b"", see(origin.url + "a-1.tar"))
    origin.put("/b-1.tar", b"", see(secure.url + "b-1.tar"))
    secure.put("/b-1.tar", b"up")
    origin.put("/a-1.tar", b"down")
    proxy = start(secure.url, origin.url + "none/", environment={"SSL_CERT_FILE": str(certificate)})
    assert proxy.get("/a-1.tar").status in (404, 502)
    assert not origin.requests("/a-1.tar")
    other = start(origin.url, secure.url + "none/", environment={"SSL_CERT_FILE": str(certificate)})
    assert other.get("/b-1.tar").body == b"up"


def test_a_plain_answer_to_a_tls_greeting_does_not_hold_the_next_mirror_up(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    another.put("/a-1.tar", b"right")
    proxy = start(origin.url.replace("http", "https"), another.url, environment=LIMITS)
    assert proxy.get("/a-1.tar").body == b"right"


def test_a_source_that_accepts_and_says_nothing_is_left_in_time(another: Origin, start: Callable[..., Proxy]) -> None:
    another.put("/a-1.tar", b"right")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held: list[socket.socket] = []
        Thread(target=lambda: held.append(silent.accept()[0]), daemon=True).start()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        assert start(url, another.url, environment=LIMITS).get("/a-1.tar").body == b"right"
        for one in held:
            one.close()
