"""Documents whose links lead to files at another host: they lead through the cache, and nothing else is changed."""

import gzip
import hashlib
import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from origin import Hang, Origin, Serve, until
from product import Proxy, stored

from package_cache.model import Validators
from package_cache.rules.repositories.links import has_links, mark_of, marked, replaced, unmarked

Start = Callable[..., Proxy]

LINKS = (("https://files.example/", "/files/"),)
MARK = mark_of(LINKS)
PAGE, DOCUMENT = "text/html", "application/vnd.pypi.simple.v1+json"
WHEEL = b"PK\x03\x04" + bytes(5000)


def page(files: Origin, name: str = "foo-1.whl") -> bytes:
    return f'<a href="{files.url}packages/{name}#sha256={hashlib.sha256(WHEEL).hexdigest()}">{name}</a>'.encode()


@pytest.fixture
def proxy(origin: Origin, another: Origin, start: Start, tmp_path: Path, host: str) -> Proxy:
    """A cache of an index, `origin`, whose files are at `another`."""
    another.put("/packages/foo-1.whl", WHEEL)
    environment = {"PACKAGE_CACHE_HEAD_TIMEOUT": "0.5"}
    return start(host=host, config=configured(origin, another, tmp_path), environment=environment)


def configured(index: Origin, files: Origin, folder: Path, prefix: str = "/files/") -> Path:
    """A file of configuration."""
    path = folder / "config.toml"
    path.write_text(f"""
        [[repository]]
        name = "pypi"
        prefix = "/pypi/"
        sources = ["{index.url}"]
        preset = "pypi"
        links-to = ["files"]
        [[repository]]
        name = "files"
        prefix = "{prefix}"
        sources = ["{files.url}"]
        preset = "pypi"
    """)
    return path


def test_links_of_a_page_lead_through_the_cache_and_the_files_are_hits(
    proxy: Proxy, origin: Origin, another: Origin
) -> None:
    origin.put("/simple/foo/", page(another), content_type=PAGE)
    body = proxy.get("/pypi/simple/foo/").body
    assert body == page(another).replace(another.url.encode(), b"/files/")
    for _ in range(2):
        assert proxy.get("/files/packages/foo-1.whl").body == WHEEL
    assert len(another.requests()) == 1


def test_they_do_so_for_who_asks_by_the_host_of_the_index_too(proxy: Proxy, origin: Origin, another: Origin) -> None:
    origin.put("/simple/foo/", page(another), content_type=PAGE)
    assert b'href="/files/packages/foo-1.whl' in proxy.get(f"{origin.url}simple/foo/").body
    assert proxy.get(f"{origin.url}files/packages/foo-1.whl").body == WHEEL
    assert origin.requests("/files/packages/foo-1.whl") == []


def test_links_of_a_json_document_do_too(proxy: Proxy, origin: Origin, another: Origin) -> None:
    document = {"files": [{"url": f"{another.url}packages/foo-1.whl", "hashes": {"sha256": "0"}}]}
    origin.put("/simple/foo/", json.dumps(document).encode(), content_type=DOCUMENT)
    response = proxy.get("/pypi/simple/foo/", {"Accept": DOCUMENT})
    assert response.fields["Content-Type"] == DOCUMENT
    assert json.loads(response.body)["files"][0]["url"] == "/files/packages/foo-1.whl"


def test_a_page_in_a_content_coding_that_nobody_asked_for_is_read_all_the_same(
    proxy: Proxy, origin: Origin, another: Origin
) -> None:
    plain = page(another)
    how = {"body": gzip.compress(plain), "fields": (("Content-Encoding", "gzip"),)}
    origin.put("/simple/foo/", plain, Serve(cut=30, chunked=True, **how), etag='W/"1"', content_type=PAGE)
    assert proxy.get("/pypi/simple/foo/").status == 502
    origin.script("/simple/foo/", Serve(**how))
    for _ in range(2):
        answer = proxy.get("/pypi/simple/foo/")
        assert answer.body == plain.replace(another.url.encode(), b"/files/")
        assert answer.fields["Content-Encoding"] is None
    until(lambda: stored(proxy.cache))
    assert "304" in proxy.get("/pypi/simple/foo/").cache_status
    assert proxy.get("/pypi/simple/foo/", method="HEAD").fields["Content-Encoding"] is None


def test_slashes_of_a_json_document_may_be_escaped() -> None:
    document = rb'{"url": "https:\/\/files.example\/packages\/foo-1.whl", "other": "https:\/\/other.example\/"}'
    links = json.loads(replaced(document, LINKS))
    assert links == {"url": "/files/packages/foo-1.whl", "other": "https://other.example/"}


def test_what_is_no_document_is_as_it_is_and_resumes(proxy: Proxy, origin: Origin, another: Origin) -> None:
    data = page(another) * 40_000
    origin.put("/foo-1.bin", data, Serve(cut=len(data) // 2), Serve())
    assert proxy.get("/pypi/foo-1.bin").body == data
    assert any("range" in one.fields for one in origin.requests())


def test_a_document_that_has_not_changed_is_asked_for_with_its_own_tag_and_confirmed(
    proxy: Proxy, origin: Origin, another: Origin
) -> None:
    origin.put("/simple/foo/", page(another), content_type=PAGE)
    first = proxy.get("/pypi/simple/foo/")
    second = proxy.get("/pypi/simple/foo/", {"If-None-Match": first.fields["ETag"]})
    assert (second.status, second.cache_status) == (304, "package-cache; fwd=stale; fwd-status=304")
    conditional = origin.requests()[-1].fields
    assert conditional["if-none-match"] == origin.things["/simple/foo/"].etag != first.fields["ETag"]
    changed = page(another, "foo-2.whl")
    origin.put("/simple/foo/", changed, content_type=PAGE)
    third = proxy.get("/pypi/simple/foo/", {"If-None-Match": first.fields["ETag"]})
    assert (third.status, third.body) == (200, changed.replace(another.url.encode(), b"/files/"))


def test_without_tags_of_the_source_two_versions_have_two_tags(proxy: Proxy, origin: Origin, another: Origin) -> None:
    tags = set()
    for name in ("foo-1.whl", "foo-2.whl"):
        origin.put("/simple/foo/", page(another, name), content_type=PAGE, etag=None, modified=None)
        tags.add(proxy.get("/pypi/simple/foo/").fields["ETag"])
    assert len(tags) == 2


def test_a_document_is_fetched_anew_where_other_links_are_to_be_replaced(
    origin: Origin, another: Origin, start: Start, tmp_path: Path
) -> None:
    origin.put("/simple/foo/", page(another), content_type=PAGE)
    for prefix in ("/files/", "/elsewhere/"):
        proxy = start(config=configured(origin, another, tmp_path, prefix))
        assert f'href="{prefix}packages/'.encode() in proxy.get("/pypi/simple/foo/").body
        assert proxy.stop() == 0


@pytest.mark.parametrize(
    "behaviour",
    [
        Serve(cut=20),
        Serve(cut=20, chunked=True),
        Serve(fields=(("Repr-Digest", f"sha-256=:{b64encode(bytes(32)).decode()}:"),)),
        Serve(length=False),
        Hang(),
    ],
    ids=["short", "broken chunks", "other digest", "no end", "silence"],
)
def test_a_document_that_did_not_arrive_whole_is_not_served_and_the_old_one_is(
    proxy: Proxy, origin: Origin, another: Origin, behaviour: Serve
) -> None:
    origin.put("/simple/foo/", page(another), behaviour, content_type=PAGE)
    assert proxy.get("/pypi/simple/foo/").status in (502, 504)
    origin.script("/simple/foo/", Serve())
    whole = proxy.get("/pypi/simple/foo/")
    assert whole.body == page(another).replace(another.url.encode(), b"/files/")
    origin.put("/simple/foo/", page(another, "foo-2.whl"), behaviour, content_type=PAGE)
    stale = proxy.get("/pypi/simple/foo/")
    assert (stale.body, stale.cache_status) == (whole.body, "package-cache; fwd=stale")


def test_head_tells_of_the_same_document_without_its_size(proxy: Proxy, origin: Origin, another: Origin) -> None:
    origin.put("/simple/foo/", page(another), content_type=PAGE)
    head = proxy.get("/pypi/simple/foo/", method="HEAD")
    assert (head.status, head.fields["Content-Length"]) == (200, None)
    assert head.fields["ETag"] == proxy.get("/pypi/simple/foo/").fields["ETag"]


TAGS = st.none() | st.from_regex(r'(W/)?"[!#-~]{0,20}"', fullmatch=True)


@given(TAGS, st.none() | st.just("Tue, 02 Jan 2024 03:04:05 GMT"), st.binary())
def test_what_the_source_said_is_told_back_to_it(etag: str | None, modified: str | None, body: bytes) -> None:
    fields = tuple((name, value) for name, value in (("ETag", etag), ("Last-Modified", modified)) if value is not None)
    told = dict(marked(fields, MARK, body))
    said = Validators(told["ETag"], told.get("Last-Modified"))
    assert unmarked(said, MARK) == (Validators(etag, modified) or None)
    assert unmarked(said, mark_of((("https://other.example/", "/files/"),))) is None


@given(st.binary(), st.binary())
def test_only_the_beginnings_of_links_are_replaced(before: bytes, after: bytes) -> None:
    body = replaced(before + b'"https://files.example/a"' + after, LINKS)
    assert b'"/files/a"' in body
    assert body.replace(b"/files/", b"https://files.example/").endswith(
        after.replace(b"/files/", b"https://files.example/")
    )


@pytest.mark.parametrize(
    ("kind", "encoding", "expected"),
    [
        ("text/html; charset=utf-8", None, True),
        ("application/vnd.pypi.simple.v1+html", "identity", True),
        (DOCUMENT, None, True),
        (PAGE, "gzip", False),
        ("application/zip", None, False),
        (None, None, False),
    ],
)
def test_pages_and_json_have_links(kind: str | None, encoding: str | None, expected: bool) -> None:
    assert has_links(kind, encoding) is expected
