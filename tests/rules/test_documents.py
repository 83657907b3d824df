"""JSON documents with their own time to live: what they must be, and how long they are fresh."""

import bz2
import gzip
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from package_cache.rules.repositories.documents import TimedDocument, inflated, parse


def packed(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def document(timestamp: object, ttl: object = 60, data: object = None) -> bytes:
    return json.dumps({"metadata": {"timestamp": timestamp, "ttl": ttl, "version": "1.0"}, "data": data}).encode()


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**41), st.integers(0, 2**41), st.integers(0, 10**6))
def test_a_document_is_fresh_up_to_and_including_its_time_or_the_interval(
    timestamp: int, ttl: int, at: int, checked: int, interval: int
) -> None:
    one = TimedDocument({}, timestamp, ttl)
    assert one.is_fresh(at, checked, interval) == (at <= timestamp + ttl or at <= checked + interval)
    assert one.is_fresh(timestamp + ttl, 0, 0)
    assert not one.is_fresh(timestamp + ttl + 1, 0, 0)


@pytest.mark.parametrize("pack", [bytes, packed, bz2.compress, lambda body: packed(body[:9]) + packed(body[9:])])
def test_a_document_may_be_compressed(pack: Callable[[bytes], bytes]) -> None:
    assert parse(pack(document(7, 1.5))) == TimedDocument(json.loads(document(7, 1.5)), 7.0, 1.5)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no object named metadata"),
        (b"{}", "no object named metadata"),
        (b'{"metadata": 7}', "no object named metadata"),
        (b'{"metadata": {"ttl": 7}}', "no timestamp"),
        (b'{"metadata": {"timestamp": 7}}', "no ttl"),
        (document("7"), "metadata.timestamp is '7'"),
        (document(7, "3600"), "metadata.ttl is '3600'"),
        (document(7, True), "metadata.ttl is True"),
        (document(7, -1), "metadata.ttl is -1"),
        (document(10**400), "which is no such time"),
        (b'{"metadata": {"timestamp": NaN, "ttl": 1}}', "which is no such time"),
        (packed(document(7))[:-4], "gzip ends too early"),
        (packed(document(7)) + b"more", "gzip is broken"),
        (b"\x1f\x8bnot", "no gzip"),
        (bz2.compress(document(7))[:-4], "bzip2 ends too early"),
        (b"BZhnot bzip2", "no bzip2"),
    ],
)
def test_what_is_no_such_document_is_told_with_the_reason(body: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(body)


@pytest.mark.parametrize("pack", [bytes, packed, bz2.compress])
def test_what_would_be_too_large_is_not_inflated(pack: Callable[[bytes], bytes]) -> None:
    body = pack(b" " * 1_000_000)
    assert len(inflated(body, 1_000_000)) == 1_000_000
    with pytest.raises(ValueError, match="more than 999999 bytes"):
        inflated(body, 999_999)
