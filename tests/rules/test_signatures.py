"""What is told from first bytes, digests and addresses, without asking anybody."""

import gzip
import hashlib
import zlib
from base64 import b64encode
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from package_cache.rules.http.digests import Digest, declared
from package_cache.rules.transfers.signatures import FIRST, has_signature, wrong_type
from package_cache.rules.transfers.ways import is_inside_by_name, is_public

HTML = b"<!DOCTYPE html><html>"
BEGINNINGS = {
    "gz": b"\x1f\x8b\x08\0",
    "tgz": b"\x1f\x8b\x08\0",
    "xz": b"\xfd7zXZ\0\0\x04",
    "bz2": b"BZh91AY",
    "zst": b"\x28\xb5\x2f\xfd\x04",
    "zip": b"PK\x03\x04\x14",
    "whl": b"PK\x03\x04\x14",
    "jar": b"PK\x03\x04\x14",
    "deb": b"!<arch>\ndebian-binary   ",
    "rpm": b"\xed\xab\xee\xdb\x03",
    "lz": b"LZIP\x01",
    "7z": b"7z\xbc\xaf\x27\x1c",
    "apk": b"\x1f\x8b\x08\0",
    "crate": b"\x1f\x8b\x08\0",
    "lz4": b"\x04\x22\x4d\x18",
    "lzma": b"\x5d\0\0\x80",
    "tbz2": b"BZh91AY",
}


@pytest.mark.parametrize("suffix", BEGINNINGS)
def test_an_archive_is_known_by_its_first_bytes(suffix: str) -> None:
    path = f"/pool/a-1.0.{suffix}"
    for kind in (None, "text/html", "application/octet-stream", "text/plain"):
        assert wrong_type(path, kind, None, BEGINNINGS[suffix]) is None
    for wrong in (HTML, b" \n" + HTML, b"not found\n", b'{"error": 1}', b"", "Zugriff verweigert: ä".encode()):
        assert wrong_type(path, None, None, wrong)
        assert wrong_type(path.upper(), None, None, wrong)
    assert wrong_type(path, None, None, b"\0\1\2 something new") is None
    assert wrong_type(path, "text/html", None, b"\0\1\2 something new")


@pytest.mark.parametrize("suffix", ["tar", "gpkg.tar", "gem", "iso", "sig", "asc", "patch", "diff"])
def test_what_may_begin_with_anything_does_not_begin_as_a_page(suffix: str) -> None:
    path = f"/pool/a-1.0.{suffix}"
    for right in (
        b"",
        b"text",
        b"-----BEGIN PGP SIGNATURE-----",
        b"\x89\2",
        b"--- a/x\n+++ b/x\n",
        b"<stdio.h>",
        b"[PATCH] x",
    ):
        assert wrong_type(path, "application/octet-stream", None, right) is None
    for wrong in (HTML, b"\xef\xbb\xbf\r\n<html>", b"<?xml version='1.0'?>", b'{ "error": 1}', b"<!-- x -->", b"<BODY >"):
        assert wrong_type(path, None, None, wrong)
    assert wrong_type(path, "text/html", None, b"please log in")


@pytest.mark.parametrize("first", [b'{"', b"{}", b"<p\xf0", b"<h1>"])
def test_bytes_that_are_no_text_may_begin_as_a_page_by_chance(first: bytes) -> None:
    for path in ("/images/a.img", "/a.iso", "/a-1.0.tar"):
        assert wrong_type(path, None, None, first + b"\x91\0\1\x8f") is None
        assert wrong_type(path, None, None, first + b"</p>")


@pytest.mark.parametrize(
    "path", ["/", "/a", "/a/", "/simple/x/", "/a.html", "/a.json", "/a.tar.gz/", "/.xz", "/a.txt", "/a.xz.txt"]
)
def test_a_document_may_be_anything(path: str) -> None:
    assert not has_signature(path)
    for data in (b"", HTML, b"{}", b"\0"):
        assert wrong_type(path, "text/html", "gzip", data) is None


@pytest.mark.parametrize("path", ["/a-1.0.tar.xz.asc", "/a-1.0.tar.sign", "/a.sig"])
def test_a_signature_in_text_is_known_by_its_first_line(path: str) -> None:
    for kind in ("text/html", "text/plain", None):
        assert wrong_type(path, kind, None, b"-----BEGIN PGP SIGNATURE-----\n\niQIz") is None
    assert wrong_type(path, "text/html", None, b"-----BEGIN of the page-----")


def test_a_tar_is_known_by_the_mark_in_its_first_header() -> None:
    header = b"<html>".ljust(257, b"\0") + b"ustar\0"
    assert wrong_type("/a.tar", "text/html", None, header) is None


def test_a_content_coding_that_changed_the_bytes_is_found_out() -> None:
    once = gzip.compress(b"content" * 1000)
    twice = gzip.compress(once)
    assert wrong_type("/a.tar.gz", "application/x-tar", "gzip", once[:FIRST]) is None
    assert wrong_type("/a.tar.gz", None, "x-gzip", twice[:FIRST])
    assert wrong_type("/a.tar.gz", None, None, twice[:FIRST]) is None
    assert wrong_type("/a.tar.gz", "text/html", "gzip", once[:FIRST])
    assert wrong_type("/a.tar.xz", None, "gzip", once[:FIRST])
    assert wrong_type("/a.tar", None, "gzip", once[:FIRST])
    assert wrong_type("/a.tar.xz", None, "identity", b"\0\1") is None
    assert wrong_type("/a.tar.gz", None, "gzip", b"\x1f\x8b\xff\xff broken") is None
    assert wrong_type("/a.tar.xz", None, "deflate", zlib.compress(b"x"))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/repodata/primary.xml.gz", "application/xml"),
        ("/repodata/comps.xml.gz", "text/xml; charset=utf-8"),
        ("/repodata.JSON.gz", "application/json"),
        ("/manual.html.gz", "text/html"),
        ("/manual.htm.gz", "text/html"),
    ],
)
def test_a_compressed_document_may_be_declared_as_what_is_inside(path: str, kind: str) -> None:
    once = gzip.compress(b"<?xml version='1.0'?><metadata/>")
    for coding in ("x-gzip", "gzip", None):
        assert wrong_type(path, kind, coding, once) is None
    assert wrong_type(path, kind, "gzip", gzip.compress(once))
    assert wrong_type(path, kind, "gzip", HTML)
    for other in {"text/html", "application/json"} - {kind}:
        assert wrong_type(path, other, "gzip", once)


@given(st.binary(max_size=600), st.sampled_from([*BEGINNINGS, "tar", "patch"]), st.sampled_from([None, "gzip", "br"]))
def test_whatever_arrives_is_judged(data: bytes, suffix: str, coding: str | None) -> None:
    wrong_type(f"/a.{suffix}", None, coding, data)


# Digests

DATA = b"the bytes"


def base64_of(algorithm: str, data: bytes = DATA) -> str:
    return b64encode(hashlib.new(algorithm, data).digest()).decode()


def of(algorithm: str) -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, DATA).digest())


def test_digests_are_read_from_each_field_that_holds_one() -> None:
    fields = {
        "repr-digest": f"crc32c=:AAAA:, sha-256=:{base64_of('sha256')}:;x=1, sha-512=:{base64_of('sha512')}:",
        "content-digest": f"sha-512=:{base64_of('sha512')}:",
        "digest": f"SHA={base64_of('sha1')}, unixsum=30637,MD5={base64_of('md5')}",
        "content-md5": f" {base64_of('md5')} ",
    }
    found = declared(fields, whole=True, coded=False)
    assert set(found) == {of("sha256"), of("sha512"), of("sha1"), of("md5")}
    assert len(found) == 4


def test_what_is_declared_of_a_body_says_nothing_of_a_file_it_is_a_part_of() -> None:
    fields = {"content-digest": f"sha-512=:{base64_of('sha512')}:", "content-md5": base64_of("md5")}
    assert declared(fields, whole=False, coded=False) == ()
    assert declared({"digest": f"md5={base64_of('md5')}"}, whole=False, coded=False) == (of("md5"),)


def test_older_fields_say_nothing_of_a_body_in_a_content_coding() -> None:
    fields = {"digest": f"md5={base64_of('md5')}", "content-md5": base64_of("md5")}
    assert declared(fields, whole=True, coded=True) == ()
    assert declared({"repr-digest": f"sha-256=:{base64_of('sha256')}:"}, whole=True, coded=True) == (of("sha256"),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha-256",
        "sha-256=",
        "sha-256=::",
        "sha-256=:AAAA:",
        "sha-256=:!:",
        "sha-999=:AAAA:",
        "sha-256=?1",
        ",,",
        "=:AAAA:",
    ],
)
def test_a_digest_that_cannot_be_read_is_ignored(text: str) -> None:
    fields = dict.fromkeys(("repr-digest", "content-digest", "digest", "content-md5"), text)
    assert declared(fields, whole=True, coded=False) == ()


# Addresses


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "192.88.99.1"]
)
def test_an_address_of_the_internet_is_public(text: str) -> None:
    assert is_public(ip_address(text))
    assert not is_inside_by_name(text)


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "10.1.1.1", "172.31.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1", "::127.0.0.1", "2001::1"),
        *("::ffff:127.0.0.1", "::ffff:192.168.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:c0a8:1::1"),
    ],
)
def test_any_other_address_is_not(text: str) -> None:
    assert not is_public(ip_address(text))
    assert is_inside_by_name(text)


@pytest.mark.parametrize(
    "name",
    ["localhost", "LocalHost.", "a.localhost", "127.1", "0x7f.1", "017700000001", "2130706433", "printer.local", "1", "0"],
)
def test_a_name_may_say_that_it_is_near(name: str) -> None:
    assert is_inside_by_name(name)


@pytest.mark.parametrize(
    "name", ["mirror.example", "localhost.example", "1.2.3.4.example", "8.8.8.8", "134744072", "1.2.3.4.5", "08.8.8.8"]
)
def test_other_names_have_to_be_resolved(name: str) -> None:
    assert not is_inside_by_name(name)
