"""A corpus of sources that lie or break the rules: nobody takes what they made up for a file, and nothing of it is kept.

Each lie is told in front of a source that has the file, and by the only source there is.
"""

import gzip
import hashlib
import http.client
import io
import lzma
import random
import resource
import socket
import tarfile
import time
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from forks import Forks
from origin import MODIFIED, Behaviour, Flood, Gate, Origin, Raw, Say, Serve, until
from product import HOSTS, Proxy, Response, blobs

from package_cache.rules.transfers.transfer import OVERLAP

LIMITS = {
    "PACKAGE_CACHE_CONNECT_TIMEOUT": "4",
    "PACKAGE_CACHE_HEAD_TIMEOUT": "4",
    "PACKAGE_CACHE_STALL_TIMEOUT": "4",
    "PACKAGE_CACHE_CRAWL_TIMEOUT": "0.5",
}
ONE_WORKER = {"gunicorn": ("--workers", "1"), "gthread": ("-w", "1"), "wsgiref": ()}
"""Each process has its own idea of the sources' health."""
AT_ONCE = 12
"""Lies told at the same time where they are the only ones to be heard."""

CONTENT = random.Random(1).randbytes(300_000)
PAGE = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>Welcome to our network</body></html>\n"
JSON = b'{"error": "no such object"}\n'
TEXT = b"404 page not found\n"
XML = b'\xef\xbb\xbf\n<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>'
HTML = "text/html; charset=utf-8"


def tar(data: bytes = CONTENT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("content")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def packed() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("content", CONTENT)
    return file.getvalue()


FILES = {
    "xz": lzma.compress(tar(), preset=0),
    "gz": gzip.compress(tar(), 1),
    "tar": tar(),
    "zip": packed(),
    "deb": b"!<arch>\n" + CONTENT,
    "bin": CONTENT,
}
"""What the good source has, by the last suffix of the name."""


def ok(*lines: bytes, body: bytes = b"") -> Raw:
    return Raw(b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"", b"")) + body)


def chunks(*parts: bytes, tail: bytes = b"0\r\n\r\n") -> Raw:
    return ok(b"Transfer-Encoding: chunked", body=b"".join(parts) + tail)


def part(place: str, body: bytes, *lines: bytes) -> Raw:
    head = (b"HTTP/1.1 206 Part", b"Content-Length: %d" % len(body), b"Content-Range: bytes " + place.encode(), *lines)
    return Raw(b"\r\n".join((*head, b"", b"")) + body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def see(location: str) -> Say:
    return Say(302, fields=(("Location", location),))


def digest(name: str, algorithm: str, form: str, data: bytes) -> tuple[tuple[str, str], ...]:
    return ((name, form.format(b64encode(hashlib.new(algorithm, data).digest()).decode())),)


@dataclass(frozen=True)
class Lie:
    """What a source does for a file with that suffix; `kind` is the type it declares for a body of its own."""

    suffix: str
    script: tuple[Behaviour, ...]
    kind: str = "application/octet-stream"
    coding: str | None = None
    body: bytes | None = None
    """What is sent by a `Serve`, in the place of the file."""

    @property
    def sent_coding(self) -> str | None:
        return self.coding or dict(getattr(self.script[0], "fields", ())).get("Content-Encoding")


def lie(suffix: str, *script: Behaviour) -> Lie:
    return Lie(suffix, script)


def false(suffix: str, body: bytes, kind: str = "application/octet-stream", coding: str | None = None) -> Lie:
    """An answer in good order that is not the file."""
    fields = (("Content-Encoding", coding),) if coding else ()
    return Lie(suffix, (Serve(fields=fields),), kind, coding, body)


def misdeclared(name: str, algorithm: str, form: str) -> Lie:
    return lie("bin", Serve(fields=digest(name, algorithm, form, b"other bytes")))


BODY = FILES["bin"]
HALF = len(BODY) // 2
LENGTH = b"Content-Length: %d" % len(BODY)

TAG = f'"{hashlib.md5(BODY).hexdigest()}"'.encode()
OTHER = random.Random(4).randbytes(len(BODY))
JOINT = HALF - OVERLAP
"""From where the rest is asked for when half of the body is here."""
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

DEMANDS: dict[str, dict[str, Lie]] = {
    "an answer begins with a status line of HTTP/1 (RFC 9112, sections 2.1 and 4)": {
        "no HTTP": lie("bin", Raw(b"SSH-2.0-server\r\n")),
        "no HTTP, and no end": lie("bin", Flood(b"SSH-2.0-server\r\n", b"", 0.05)),
        "HTTP/0.9": lie("bin", Raw(BODY)),
        "HTTP/2": lie("bin", Raw(b"HTTP/2 200 OK\r\n" + LENGTH + b"\r\n\r\n" + BODY)),
    },
    "an answer that ends before its end is incomplete (RFC 9112, section 8)": {
        "nothing": lie("bin", Raw(b"")),
        "half a head": lie("bin", Raw(b"HTTP/1.1 200 OK\r\nContent-Le")),
        "less than declared": lie("bin", Serve(declared=len(BODY) + 1000, leave=True, ranges=False)),
        "chunks without an end": lie("bin", chunks(chunk(BODY), tail=b"")),
        "a chunk that breaks off": lie("bin", chunks(chunk(BODY), b"50\r\nabcde", tail=b"")),
    },
    "a body has one length, and who cannot tell it has an error (RFC 9112, section 6.3)": {
        "two lengths": lie("bin", ok(LENGTH, b"Content-Length: 3", body=BODY)),
        "two lengths in one": lie("bin", ok(LENGTH + b", 3", body=BODY)),
        "a negative length": lie("bin", ok(b"Content-Length: -3", body=BODY)),
        "a length with a sign": lie("bin", ok(b"Content-Length: +3", body=BODY)),
        "a length and chunks": lie(
            "bin", ok(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")
        ),
        "no framing": lie("bin", ok(body=BODY)),
        "more than declared": lie("bin", Serve(declared=len(BODY) - 1000, ranges=False)),
    },
    "chunked is the last coding, and no other one is sent unasked (RFC 9112, sections 6.1 and 7)": {
        "an unknown coding": lie("bin", ok(b"Transfer-Encoding: gzip", body=BODY)),
        "chunked, and then another coding": lie("bin", ok(b"Transfer-Encoding: chunked, gzip", body=BODY)),
    },
    "a chunk is a size in hex, a line, so many bytes, a line (RFC 9112, section 7.1)": {
        "a chunk of negative size": lie("bin", chunks(chunk(BODY), b"-5\r\nabcde\r\n")),
        "a chunk of huge size": lie("bin", chunks(chunk(BODY), b"f" * 17 + b"\r\nabcde\r\n")),
        "a chunk of no size": lie("bin", chunks(chunk(BODY), b"\r\n")),
        "a chunk longer than its size": lie("bin", chunks(chunk(BODY), b"5\r\nabcdef\r\n")),
        "a chunk's line with a line feed alone": lie("bin", chunks(chunk(BODY), b"5\nabcde\r\n")),
    },
    "a field is a token, a colon, and text of one line (RFC 9112, sections 2.2 and 5; RFC 9110, section 5.5)": {
        "a bare CR in a field": lie("bin", ok(b"A: b\rContent-Length: 3", LENGTH, body=BODY)),
        "a NUL in a field": lie("bin", ok(b"A: b\0", LENGTH, body=BODY)),
        "a blank before a colon": lie("bin", ok(LENGTH.replace(b":", b" :"), body=BODY)),
        "a field in front of all fields": lie("bin", ok(b" A: b", LENGTH, body=BODY)),
    },
    "nobody sends what only an answer to another request may be (RFC 9110, sections 7.8, 15.3.7 and 15.4.5)": {
        "another protocol": lie("bin", Raw(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n" + BODY)),
        "a part nobody asked for": lie("bin", part("0-3/4", b"body")),
        "all of it as a part": lie("bin", part(f"0-{len(BODY) - 1}/{len(BODY)}", BODY)),
        "no change, though nobody asked": lie("bin", Raw(b"HTTP/1.1 304 Same\r\n\r\n")),
    },
    "a part says which one it is, and is of the file that If-Range names (RFC 9110, sections 13.1.5, 14.4 and 15.3.7)": {
        "a part of another place": lie("bin", Serve(cut=HALF), part(f"0-{HALF - 1}/{len(BODY)}", BODY[HALF:])),
        "a part that goes too far": lie("bin", Serve(cut=HALF), part(f"{JOINT}-{len(BODY)}/{len(BODY)}", BODY[JOINT:])),
        "a part of a longer file": lie(
            "bin", Serve(cut=HALF), part(f"{JOINT}-{len(BODY)}/{len(BODY) + 1}", BODY[JOINT:] + b"x")
        ),
        "a part without a place": lie("bin", Serve(cut=HALF), part("", BODY[JOINT:])),
        "a part without a tag": lie("bin", Serve(cut=HALF), part(f"{JOINT}-{len(BODY) - 1}/{len(BODY)}", BODY[JOINT:])),
        "a part of a weak version": lie(
            "bin", Serve(cut=HALF), part(f"{JOINT}-{len(BODY) - 1}/{len(BODY)}", BODY[JOINT:], b"ETag: W/" + TAG)
        ),
        "a part of another version": lie(
            "bin", Serve(cut=HALF), part(f"{JOINT}-{len(BODY) - 1}/{len(BODY)}", BODY[JOINT:], b'ETag: "other"')
        ),
        "a part that is compressed": lie(
            "bin",
            Serve(cut=HALF),
            part(f"{JOINT}-{len(BODY) - 1}/{len(BODY)}", BODY[JOINT:], b"ETag: " + TAG, b"Content-Encoding: gzip"),
        ),
    },
    "a recipient protects itself from what is too long or too slow (RFC 9110, sections 15.6.5 and 17.5)": {
        "too many fields": lie("bin", ok(*[b"A: b"] * 300, LENGTH, body=BODY)),
        "a field without end": lie("bin", Flood(b"HTTP/1.1 200 OK\r\nA: ", b"a" * 1000)),
        "fields without end": lie("bin", Flood(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 100)),
        "a status line without end": lie("bin", Flood(b"HTTP/1.1 200 ", b"a" * 1000)),
        "interim answers without end": lie("bin", Flood(b"", b"HTTP/1.1 103 Hints\r\nLink: <x>\r\n\r\n")),
        "interim answers without end, one now and then": lie("bin", Flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.3)),
        "a head that comes byte by byte": lie("bin", Flood(b"HTTP/1.1 200 OK\r\nA: ", b"a", 0.05)),
        "next to nothing": lie("bin", Serve(pace=300)),
        "next to nothing in chunks": lie("bin", Serve(pace=300, chunked=True)),
        "a chunk's extension without end": lie("bin", Flood(CHUNKED + b"5;", b"a=b;" * 100)),
        "a chunk's extension byte by byte": lie("bin", Flood(CHUNKED + b"5;", b"a", 0.05)),
        "a trailer without end": lie("bin", Flood(CHUNKED + chunk(BODY) + b"0\r\n", b"A: b\r\n" * 100)),
    },
    "who takes the place of the source does not say 200 (RFC 6585, section 6)": {
        "a page as an archive": false("xz", PAGE, HTML),
        "a page as an archive of any type": false("xz", PAGE),
        "a page as a tar": false("tar", PAGE),
        "a page with a beginning of its own": false("tar", b"Please log in, <br>thank you", HTML),
        "a page that is compressed": false("gz", gzip.compress(PAGE), HTML, "gzip"),
        "an error in JSON": false("zip", JSON, "application/json"),
        "an error in JSON as a tar": false("tar", JSON),
        "an error in XML": false("deb", XML, "application/xml"),
        "a line of text": false("gz", TEXT, "text/plain"),
        "nothing as an archive": false("xz", b""),
        "a page, where a download is to go on": lie(
            "zip", Serve(cut=HALF), ok(b"Content-Length: %d" % len(PAGE), b"Content-Type: text/html", body=PAGE)
        ),
    },
    "nothing is coded that was asked for as it is (RFC 9110, section 12.5.3)": {
        "a tar compressed on the way": false("tar", gzip.compress(FILES["tar"]), coding="gzip"),
        "an archive compressed on the way": false("xz", gzip.compress(FILES["xz"]), coding="gzip"),
        "an archive compressed once more with the same": false("gz", gzip.compress(FILES["gz"]), coding="x-gzip"),
    },
    "a digest is that of the bytes (RFC 9530, sections 2 and 3; RFC 3230; RFC 1864)": {
        "a digest of other bytes": misdeclared("Repr-Digest", "sha256", "sha-256=:{}:"),
        "a long digest of other bytes": misdeclared("Repr-Digest", "sha512", "unixsum=:AA==:, sha-512=:{}:;a=1"),
        "a digest of another body": misdeclared("Content-Digest", "sha256", "sha-256=:{}:"),
        "an older digest of other bytes": misdeclared("Digest", "sha256", "adler32=03da0195, SHA-256={}"),
        "a weak digest of other bytes": misdeclared("Digest", "md5", "MD5={}"),
        "the oldest digest of other bytes": misdeclared("Content-MD5", "md5", "{}"),
        "a digest of other bytes behind a joint": lie(
            "bin", Serve(cut=HALF), Serve(fields=digest("Repr-Digest", "sha256", "sha-256=:{}:", b"other bytes"))
        ),
        "a digest of another part": lie(
            "bin", Serve(cut=HALF), Serve(fields=digest("Content-Digest", "sha256", "sha-256=:{}:", BODY[HALF:]))
        ),
    },
    "a client takes notice of a circle of redirects (RFC 9110, section 15.4)": {
        "a circle of redirects": lie("bin", see("?again")),
    },
    "a redirect leads to a place on the internet: special networks are none (RFC 6890, section 2)": {
        **{
            f"a redirect to {host}": lie("bin", see(f"http://{host}:9/secret"))
            for host in (
                *(
                    "127.0.0.1",
                    "localhost",
                    "LOCALHOST.",
                    "127.1",
                    "2130706433",
                    "0x7f000001",
                    "0177.1",
                    "0.0.0.0",
                    "[::1]",
                ),
                *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255"),
                *(
                    "[fe80::1]",
                    "[fd00::1]",
                    "[ff02::1]",
                    "[::ffff:10.0.0.1]",
                    "[64:ff9b::a00:1]",
                    "[2002:a00:1::1]",
                    "[::]",
                ),
                *("cache.local", "metadata.internal"),
            )
        },
        "a redirect within the source, and then to 10.0.0.1": lie("bin", see("?again"), see("http://10.0.0.1:9/secret")),
        "a redirect to a file": lie("bin", see("file:///etc/hostname")),
        "a redirect that breaks a line": lie("bin", see("http://mirror.example/\tx")),
    },
}
"""What the rules demand, and the sources that do not care."""

LIES = {name: told for group in DEMANDS.values() for name, told in group.items()}
DEMANDED = {name: demand for demand, group in DEMANDS.items() for name in group}


SHOWN = {"less than declared", "more than declared", "a chunk longer than its size", "a chunk that breaks off"}
"""When these are found out, clients were told another length, or have bytes that the file does not: they are cut, and come
back."""

HONEST: dict[str, Lie] = {
    "an archive that is called a page": Lie("gz", (Serve(),), HTML),
    "an archive that is called text": Lie("xz", (Serve(),), "text/plain"),
    "an archive without a type": Lie("zip", (ok(b"Content-Length: %d" % len(FILES["zip"]), body=FILES["zip"]),)),
    "an archive that is called compressed": Lie(
        "gz", (Serve(fields=(("Content-Encoding", "x-gzip"),)),), "application/x-tar"
    ),
    "an archive of a format to come": false("xz", b"\x00\x01\x02 the next format"),
    "a program in front of an archive": false("zip", b"#!/usr/bin/python3\n" + FILES["zip"]),
    "a page that is a page": false("html", PAGE, HTML),
    "a page without a name": false("/", PAGE, HTML),
    "an error in JSON that is a file": false("json", JSON, "application/json"),
    "an empty tar": false("tar", b""),
    "right digests": lie(
        "bin",
        Serve(
            fields=(
                *digest("Repr-Digest", "sha256", "sha-256=:{}:", BODY),
                *digest("Content-Digest", "sha512", "sha-512=:{}:", BODY),
                *digest("Digest", "sha256", "SHA-256={},UNIXsum=30637", BODY),
                *digest("Content-MD5", "md5", "{}", BODY),
            )
        ),
    ),
    "a digest of the whole at both sides of a joint": lie(
        "bin",
        Serve(cut=HALF, fields=digest("Digest", "md5", "MD5={}", BODY)),
        Serve(fields=digest("Digest", "sha512", "SHA-512={}", BODY)),
    ),
    "a digest of the part behind a joint": lie(
        "bin", Serve(cut=HALF), Serve(fields=digest("Content-MD5", "md5", "{}", BODY[HALF - 4096 :]))
    ),
    "digests that are none": lie("bin", Serve(fields=(("Repr-Digest", "sha-256=:AAAA:"), ("Content-MD5", "not base64")))),
    "a digest nobody knows": lie("bin", Serve(fields=(("Repr-Digest", "sha-1024=:AAAA:"), ("Digest", "crc32c=AAAAAA==")))),
    "some interim answers": lie(
        "bin",
        Raw(b"HTTP/1.1 103 Hints\r\nLink: <x>\r\n\r\n" * 8 + b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n\r\n" + BODY),
    ),
    "the same length twice": lie("bin", ok(LENGTH, LENGTH, body=BODY)),
    "lines that end with a line feed": lie("bin", Raw(b"HTTP/1.1 200 OK\n" + LENGTH + b"\n\n" + BODY)),
    "a value in two lines": lie("bin", ok(b"Content-Disposition: attachment;\r\n\tfilename=x", LENGTH, body=BODY)),
    "HTTP/1.0": lie("bin", Raw(b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n\r\n" + BODY)),
    "extensions and a trailer": lie(
        "bin",
        chunks(b'100;a="b";c\r\n' + BODY[:256] + b"\r\n", chunk(BODY[256:]), tail=b"000;d\r\nA: b\r\nC: d\r\n\r\n"),
    ),
    "sizes with blanks behind them": lie("bin", chunks(b"100  \r\n" + BODY[:256] + b"\r\n", chunk(BODY[256:]))),
    "an end in the place of the trailer": lie("bin", chunks(chunk(BODY), tail=b"0\r\n")),
}
"""What is odd, and no reason to refuse a file."""


def changed(*fields: tuple[str, str], body: bytes = OTHER, ranges: bool = False) -> tuple[Serve, Serve]:
    """Half of one file, and then all of another under the same name."""
    first = fields[:1]
    return (
        Serve(cut=HALF, validators=False, fields=first),
        Serve(body=body, ranges=ranges, validators=False, fields=fields[1:] or first),
    )


CHANGED: dict[str, tuple[Serve, Serve]] = {
    "another tag": changed(("ETag", '"1"'), ("ETag", '"2"')),
    "another tag, in a part": changed(("ETag", TAG.decode()), ("ETag", '"2"'), ranges=True),
    "the same tag": changed(("ETag", TAG.decode())),
    "the same tag, in a part": changed(("ETag", TAG.decode()), ranges=True),
    "a weak tag": changed(("ETag", 'W/"1"'), ranges=True),
    "another date": changed(("Last-Modified", MODIFIED), ("Last-Modified", "Wed, 03 Jan 2024 03:04:05 GMT")),
    "a date of the same second": changed(("Last-Modified", formatdate(time.time() + 86400, usegmt=True)), ranges=True),
    "nothing to know it by": changed(ranges=True),
    "another length": changed(body=OTHER[:-1]),
    "another length, and the same tag": changed(("ETag", TAG.decode()), body=OTHER + b"x", ranges=True),
}
"""A file that changes while a download of it is broken off; by what the source knows the versions."""
UNPROVEN = {"a weak tag", "a date of the same second", "nothing to know it by", "another length"}
"""In which nothing tells a version from the next, so that it is not asked for a part."""


@pytest.fixture(scope="module", params=HOSTS)
def pair(request: pytest.FixtureRequest, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Pair"]:
    it = Pair(str(request.param), tmp_path_factory.mktemp("lies"), forks)
    yield it
    it.stop()


on_one_host = pytest.mark.parametrize("pair", ["wsgiref"], indirect=True)
"""Which host it is makes no difference to a download; that each has the same one is seen with all lies at once."""


class Pair:
    """A cache with a liar in front of a good source, and one that has only the liar."""

    def __init__(self, host: str, place: Path, forks: Forks) -> None:
        self.liar, self.good = Origin(), Origin()
        options = {"host": host, "environment": LIMITS, "arguments": ONE_WORKER[host], "spawn": forks.spawn}
        self.both = Proxy(place / "both", [self.liar.url, self.good.url], **options)  # type: ignore[arg-type]
        self.alone = Proxy(place / "alone", [self.liar.url], **options)  # type: ignore[arg-type]
        self.numbers = count()
        self.right = {hashlib.sha256(body).hexdigest() for body in FILES.values()}

    def heal(self) -> None:
        """Let the liar be asked first again: it delivers what the other one does not have."""
        path = f"/heal-{next(self.numbers)}.bin"
        self.right.add(hashlib.sha256(self.liar.put(path, path.encode())).hexdigest())
        assert self.both.get(path).status == 200

    def wrong(self) -> set[str]:
        """What is stored and was never a file."""
        return {
            hashlib.sha256(path.read_bytes()).hexdigest()
            for proxy in (self.both, self.alone)
            for path in blobs(proxy.cache)
        } - self.right

    def stop(self) -> None:
        for proxy in (self.both, self.alone):
            proxy.kill()
        for origin in (self.liar, self.good):
            origin.stop()


def place(pair: Pair, told: Lie) -> str:
    path = f"/lie-{next(pair.numbers)}/file-1.0.{told.suffix}".replace("file-1.0./", "")
    if told.body is None:
        pair.liar.put(path, FILES[told.suffix], *told.script, content_type=told.kind)
    else:
        pair.liar.put(path, told.body, *told.script, content_type=told.kind)
    pair.liar.things[path + "?again"] = pair.liar.things[path]
    return path


@on_one_host
@pytest.mark.parametrize("name", LIES)
def test_after_a_lie_the_next_source_is_asked(pair: Pair, name: str) -> None:
    told = LIES[name]
    pair.heal()
    path, body = place(pair, told), FILES[told.suffix]
    pair.good.put(path, body)
    answer = fetch(pair.both, path)
    assert pair.liar.requests(path), "the liar was not asked at all"
    if name in SHOWN and is_failure(answer):
        assert answer is None or body.startswith(answer.body)
        answer = fetch(pair.both, path)
    assert answer is not None
    assert (answer.status, answer.whole, answer.body == body) == (200, True, True), DEMANDED[name]
    assert pair.both.get(path).cache_status == "package-cache; hit"
    assert not pair.wrong()


def test_after_many_lies_at_once_the_next_source_is_asked(pair: Pair) -> None:
    pair.heal()
    paths = {name: place(pair, told) for name, told in LIES.items()}
    for name, path in paths.items():
        pair.good.put(path, FILES[LIES[name].suffix])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip(paths, pool.map(partial(fetch, pair.both), paths.values()), strict=True))
    assert [path for path in paths.values() if pair.liar.requests(path)], "the liar was not asked at all"
    for name, answer in answers.items():
        body = FILES[LIES[name].suffix]
        if not is_failure(answer):
            assert answer is not None
            assert (answer.status, answer.whole, answer.body == body) == (200, True, True), DEMANDED[name]
        else:
            assert name in SHOWN, DEMANDED[name]
            assert answer is None or body.startswith(answer.body)
    assert not pair.wrong()


def test_a_lie_told_by_the_only_source_reaches_nobody(pair: Pair) -> None:
    paths = {name: place(pair, told) for name, told in LIES.items()}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip(paths, pool.map(partial(fetch, pair.alone), paths.values()), strict=True))
    assert not {name: DEMANDED[name] for name, answer in answers.items() if not is_failure(answer)}
    assert not pair.wrong()


def test_what_is_odd_and_no_lie_is_taken(pair: Pair) -> None:
    paths = {name: place(pair, told) for name, told in HONEST.items()}
    bodies = {name: FILES[told.suffix] if told.body is None else told.body for name, told in HONEST.items()}
    pair.right |= {hashlib.sha256(body).hexdigest() for body in bodies.values()}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip(paths, pool.map(pair.alone.get, paths.values()), strict=True))
    for name, answer in answers.items():
        assert (answer.status, answer.whole, answer.body == bodies[name]) == (200, True, True), name
        assert answer.fields["Content-Encoding"] == HONEST[name].sent_coding, name


@on_one_host
@pytest.mark.parametrize("name", CHANGED)
def test_the_rest_of_another_version_is_not_put_behind_the_first(pair: Pair, name: str) -> None:
    """Only a strong validator is worth an If-Range (RFC 9110, section 13.1.5), and the overlap must be the same."""
    path, (_, second) = f"/changed-{next(pair.numbers)}.bin", CHANGED[name]
    pair.liar.put(path, BODY, *CHANGED[name])
    assert second.body is not None
    pair.right.add(hashlib.sha256(second.body).hexdigest())
    answer = fetch(pair.alone, path)
    assert answer is not None
    assert answer.body == second.body if answer.whole else BODY.startswith(answer.body)
    until(lambda: pair.alone.get(path).body == second.body)
    assert not pair.wrong()
    assert ("if-range" in pair.liar.requests(path)[1].fields) == (name not in UNPROVEN)


def test_what_was_damaged_in_front_of_a_joint_is_found_by_the_digest_that_came_with_it(pair: Pair) -> None:
    path, damaged = f"/damaged-{next(pair.numbers)}.bin", bytes(100) + BODY[100:]
    right = digest("Repr-Digest", "sha256", "sha-256=:{}:", BODY)
    pair.liar.put(path, BODY, Serve(cut=HALF, body=damaged, fields=right), Serve())
    answer = fetch(pair.alone, path)
    assert is_failure(answer) or (answer is not None and answer.body == BODY)
    until(lambda: pair.alone.get(path).body == BODY)
    assert "if-range" in pair.liar.requests(path)[1].fields
    assert not pair.wrong()


def fetch(proxy: Proxy, path: str) -> Response | None:
    """What a client gets; None if its connection is closed without a word."""
    try:
        return proxy.get(path)
    except http.client.RemoteDisconnected:
        return None


def is_failure(answer: Response | None) -> bool:
    """Whether a client was told of an error, or sees that its transfer broke."""
    if answer is None:
        return True
    if answer.status in (502, 504):
        return answer.fields["Content-Type"].startswith("text/plain")
    return answer.status == 200 and not answer.whole


# Where nothing is stored, where only the head is asked for, and where a part is fetched beside the rest


@pytest.fixture
def passing(origin: Origin, another: Origin, start: Callable[..., Proxy]) -> Proxy:
    """A cache whose disk takes nothing, so that all it has is passed on. The second source has what the first has not."""
    proxy = start(origin.url, another.url, environment=LIMITS)
    resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    return proxy


def test_a_lie_that_is_not_stored_reaches_nobody_either(origin: Origin, passing: Proxy) -> None:
    paths = {}
    for number, (name, told) in enumerate(LIES.items()):
        path = paths[name] = f"/{number}.{told.suffix}"
        body = FILES[told.suffix] if told.body is None else told.body
        origin.put(path, body, *told.script, content_type=told.kind)
        origin.things[path + "?again"] = origin.things[path]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip(paths, pool.map(partial(fetch, passing), paths.values()), strict=True))
    assert not {name: DEMANDED[name] for name, answer in answers.items() if not is_failure(answer)}
    assert not blobs(passing.cache)


@pytest.mark.parametrize("size", [1000, 300_000])
def test_what_a_liar_sent_is_passed_on_whole_only_if_another_source_has_the_same(
    origin: Origin, another: Origin, passing: Proxy, size: int
) -> None:
    false = digest("Repr-Digest", "sha512", "sha-512=:{}:", b"other bytes")
    body = origin.put("/a-1.bin", BODY[:size], Serve(fields=false))
    another.put("/a-1.bin", body)
    answer = passing.get("/a-1.bin")
    assert (answer.status, answer.whole, answer.body == body) == (200, True, True)
    assert len(another.requests("/a-1.bin")) == 1
    other = origin.put("/b-1.bin", body[:-1] + b"!", Serve(fields=false))
    origin.put("/b-1.bin", other, Serve(fields=false))
    another.put("/b-1.bin", body)
    while not (answer := passing.get("/b-1.bin")).whole:  # the first one may be asked first once more
        assert body.startswith(answer.body)
    assert answer.body == body


def test_what_keeps_failing_backs_off_also_where_nothing_is_stored(origin: Origin, passing: Proxy) -> None:
    origin.put("/a-1.bin", BODY, Serve(fields=digest("Digest", "md5", "MD5={}", b"other bytes")))
    assert not passing.get("/a-1.bin").whole
    answers = [passing.get("/a-1.bin") for _ in range(30)]
    assert answers[-1].status == 502
    assert int(answers[-1].fields["Retry-After"]) >= 1
    assert len(origin.requests("/a-1.bin")) < 10


def test_a_head_that_calls_an_archive_a_page_is_not_believed_before_a_look_at_the_body(
    origin: Origin, another: Origin, start: Callable[..., Proxy], host: str
) -> None:
    origin.put("/a-1.xz", PAGE, content_type=HTML)
    another.put("/a-1.xz", FILES["xz"], content_type=HTML)
    answer = start(origin.url, another.url, host=host).get("/a-1.xz", method="HEAD")
    assert (answer.status, answer.fields["Content-Length"]) == (200, str(len(FILES["xz"])))
    assert [one.method for one in origin.requests()] == ["HEAD", "GET"]


@pytest.mark.parametrize(
    ("how", "aside"),
    [
        ((b"ETag: %t",), True),
        ((), False),
        ((b'ETag: "other"',), False),
        ((b"ETag: W/%t",), False),
        ((b"ETag: %t", b"Content-Encoding: gzip"), False),
    ],
    ids=["as asked for", "no tag", "another tag", "a weak tag", "a coding"],
)
def test_a_part_beside_a_download_is_taken_only_from_who_proves_to_have_the_same(
    origin: Origin, start: Callable[..., Proxy], how: tuple[bytes, ...], aside: bool
) -> None:
    gate, body = Gate(), random.Random(3).randbytes(4_000_000)
    tag = f'"{hashlib.md5(body).hexdigest()}"'.encode()
    lines = [line.replace(b"%t", tag) for line in how]
    origin.put(
        "/a-1.bin",
        body,
        Serve(gate=gate, gate_at=100_000),
        part("3000000-3000999/4000000", body[3_000_000:3_001_000] if aside else bytes(1000), *lines),
    )
    proxy = start(origin.url, environment={"PACKAGE_CACHE_STALL_TIMEOUT": "100"})
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(proxy.get, "/a-1.bin")
        assert gate.reached.wait(30)
        got = pool.submit(proxy.get, "/a-1.bin", {"Range": "bytes=3000000-3000999"})
        until(lambda: len(origin.requests()) == 2)
        if aside:
            assert got.result().body == body[3_000_000:3_001_000]
        gate.open()
        assert got.result().body == body[3_000_000:3_001_000]
        assert whole.result().body == body


@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_a_part_beside_a_download_whose_digest_is_wrong_is_not_given_whole(
    origin: Origin, start: Callable[..., Proxy], size: int
) -> None:
    gate, body = Gate(), random.Random(3).randbytes(6_000_000)
    false, where = bytes(size), f"3000000-{3_000_000 + size - 1}"
    tag = f'ETag: "{hashlib.md5(body).hexdigest()}"'.encode()
    [(name, value)] = digest("Content-Digest", "sha256", "sha-256=:{}:", body[3_000_000 : 3_000_000 + size])
    lie = part(f"{where}/6000000", false, tag, f"{name}: {value}".encode())
    origin.put("/a-1.bin", body, Serve(gate=gate, gate_at=100_000), lie)
    proxy = start(origin.url, environment={"PACKAGE_CACHE_STALL_TIMEOUT": "100"})
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(proxy.get, "/a-1.bin")
        assert gate.reached.wait(30)
        piece = pool.submit(proxy.get, "/a-1.bin", {"Range": f"bytes={where}"})
        until(lambda: any("of the digest it declares" in line for line in proxy.log))
        gate.open()
        assert piece.result().body == body[3_000_000 : 3_000_000 + size] or not piece.result().whole
        assert whole.result().body == body


# What follows from a lie, or from failures


def test_the_log_names_a_source_that_lies_and_tells_when_it_is_back(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    for number in range(3):
        origin.put(f"/{number}.xz", PAGE, content_type=HTML)
        another.put(f"/{number}.xz", FILES["xz"])
    origin.put("/only-here-1.bin", b"right")
    proxy = start(origin.url, another.url)
    for number in range(3):
        assert proxy.get(f"/{number}.xz").body == FILES["xz"]
    assert len(origin.requests()) == 1
    assert proxy.get("/only-here-1.bin").body == b"right"
    proxy.stop()
    told = [line for line in proxy.log if origin.url.rstrip("/") in line and "WARNING" in line]
    assert len(told) == 2
    assert "is asked last for 30 seconds: it sent text in the place of a .xz file" in told[0]
    assert "is well again" in told[1]


def test_a_client_in_a_loop_does_not_make_the_cache_hammer_a_source(
    origin: Origin, start: Callable[..., Proxy], host: str
) -> None:
    origin.put("/a-1.xz", PAGE, content_type=HTML)
    proxy = start(origin.url, host=host, arguments=ONE_WORKER[host])
    answers = [proxy.get("/a-1.xz", method="HEAD" if number > 20 else "GET") for number in range(30)]
    assert {answer.status for answer in answers} == {502}
    assert len(origin.requests()) < 10
    assert int(answers[-1].fields["Retry-After"]) >= 1
    assert b"in the place of a .xz file" in answers[20].body
    origin.put("/missing-1.xz", b"", Say(404))
    assert [proxy.get("/missing-1.xz").status for _ in range(5)] == [404] * 5
    assert len(origin.requests("/missing-1.xz")) == 5


def own_address() -> str:
    """An address of this machine that is not public, by which its own name is known."""
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        pytest.skip("the name of this machine does not resolve")
    if not address.startswith(("127.", "10.", "172.", "192.168.")):
        pytest.skip("the name of this machine leads to a public address")
    return address


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_leads_into_the_own_network_is_not_sent_a_byte(
    origin: Origin, start: Callable[..., Proxy], scheme: str
) -> None:
    with socket.create_server((own_address(), 0)) as secret:
        origin.put("/a-1.bin", b"", see(f"{scheme}://{socket.gethostname()}:{secret.getsockname()[1]}/secret"))
        answer = start(origin.url, environment={"no_proxy": "*"}).get("/a-1.bin")
        assert answer.status == 502
        assert b"not a public address" in answer.body
        secret.settimeout(0)
        with pytest.raises(BlockingIOError):
            secret.accept()


def test_a_slow_source_is_left_in_the_middle_for_one_that_is_known_to_be_faster(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    body, gate = random.Random(2).randbytes(4_000_000), Gate()
    another.put("/small-1.bin", BODY, Serve(before=gate))
    for source in (origin, another):
        source.put("/big-1.bin", body)
    origin.script("/big-1.bin", Serve(pace=300_000))
    proxy = start(origin.url, another.url, arguments=["--balance"])
    with ThreadPoolExecutor(1) as pool:
        small = pool.submit(proxy.get, "/small-1.bin")
        assert gate.reached.wait(30)
        time.sleep(0.5)  # so slow to begin that it is not the first to be asked
        gate.open()
        assert small.result().body == BODY
    answer = proxy.get("/big-1.bin")
    assert (answer.body, answer.whole) == (body, True)
    assert len(origin.requests("/big-1.bin")) == 1
    [rest] = another.requests("/big-1.bin")
    assert int(rest.fields["range"].removeprefix("bytes=").removesuffix("-")) > 100_000
    assert rest.fields["if-range"] == origin.things["/big-1.bin"].etag
