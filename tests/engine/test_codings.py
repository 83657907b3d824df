"""Content codings that nobody asked for: taken off a document, left on a file that is itself compressed."""

import gzip
import http.client
from collections.abc import Callable
from contextlib import suppress

import pytest
from origin import Origin, Serve
from product import Proxy, blobs

LIMITS = {"PACKAGE_CACHE_HEAD_TIMEOUT": "4", "PACKAGE_CACHE_STALL_TIMEOUT": "4"}
CODED = (("Content-Encoding", "gzip"),)
INDEX = b"<a href='x'>x</a>" * 5000


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/simple/foo/", "text/html"),
        ("/foo", "application/json"),
        ("/foo", "application/vnd.pypi.simple.v1+json"),
        ("/dists/stable/main/binary-amd64/Packages", "text/plain"),
        ("/dists/stable/InRelease", None),
        ("/repodata/repomd.xml", "text/xml"),
    ],
)
def test_an_index_that_is_sent_in_a_coding_is_stored_and_served_without(
    origin: Origin, start: Callable[..., Proxy], path: str, kind: str | None
) -> None:
    packed = gzip.compress(INDEX)
    origin.put(path, packed, Serve(fields=CODED), Serve(fields=CODED, chunked=True), content_type=kind)
    proxy = start(origin.url)
    for fields in ({}, {"Accept-Encoding": "gzip"}):
        answer = proxy.get(path, fields)
        assert (answer.status, answer.whole, answer.body) == (200, True, INDEX)
        assert answer.fields["Content-Encoding"] is None
    assert {asked.fields["accept-encoding"] for asked in origin.requests()} == {"identity"}
    assert [path.read_bytes() for path in blobs(proxy.cache)] == [INDEX]


def test_what_a_source_says_of_the_coded_bytes_is_not_said_of_those_inside(
    origin: Origin, start: Callable[..., Proxy], host: str
) -> None:
    said = (("X-Checksum-Sha1", "0"), ("x-goog-hash", "crc32c=x"), ("X-Amz-Checksum-Sha256", "x"), ("X-Other", "1"))
    origin.put("/simple/foo/", gzip.compress(INDEX), Serve(fields=(*CODED, *said)), content_type="text/html")
    proxy = start(origin.url, host=host)
    for _ in range(2):
        answer = proxy.fetch("/simple/foo/")
        assert (answer.body, answer.fields["X-Other"]) == (INDEX, "1")
        assert [answer.fields[name] for name, _ in said[:3]] == [None] * 3
    origin.put("/a-1.bin", b"bytes", Serve(fields=said))
    assert [proxy.fetch("/a-1.bin").fields[name] for name, _ in said] == [value for _, value in said]


@pytest.mark.parametrize(
    "how",
    [
        Serve(body=gzip.compress(INDEX)[:-9], fields=CODED),
        Serve(body=gzip.compress(INDEX) + b"more", fields=CODED),
        Serve(body=gzip.compress(INDEX), cut=100, fields=CODED),
        Serve(body=gzip.compress(INDEX) + gzip.compress(INDEX), cut=len(gzip.compress(INDEX)), fields=CODED),
        Serve(body=gzip.compress(INDEX), length=False, fields=CODED),
        Serve(body=gzip.compress(INDEX), fields=(*CODED, ("Repr-Digest", f"sha-256=:{'A' * 43}=:"))),
    ],
)
def test_an_index_whose_coding_does_not_come_to_its_end_is_not_one(
    origin: Origin, start: Callable[..., Proxy], how: Serve
) -> None:
    origin.put("/simple/foo/", b"", how, content_type="text/html", etag=None)
    proxy = start(origin.url, environment=LIMITS)
    with suppress(http.client.RemoteDisconnected):  # cut, before there was anything to be had
        answer = proxy.get("/simple/foo/")
        assert answer.status == 502 or not answer.whole
    assert not blobs(proxy.cache)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/foo-1.tar.gz", "application/x-tar"),
        ("/foo-1.tgz", "text/plain"),
        ("/os/core.db", "application/octet-stream"),
        (f"/dists/stable/main/by-hash/SHA256/{'ab' * 32}", None),
        ("/v2/foo/blobs/x", "application/vnd.oci.image.layer.v1.tar+gzip"),
    ],
)
def test_a_file_that_is_compressed_stays_so_whatever_is_said_of_it(
    origin: Origin, start: Callable[..., Proxy], path: str, kind: str | None
) -> None:
    packed = origin.put(path, gzip.compress(INDEX), Serve(fields=CODED), content_type=kind)
    assert start(origin.url).get(path).body == packed
