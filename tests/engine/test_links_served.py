"""Documents whose links lead to files at another host: they lead through the cache, and nothing else is changed."""

import gzip
import hashlib
import json
import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from origin import Hang, Origin, Serve, until
from product import Proxy, as_file, blobs, npm_config, stored

Start = Callable[..., Proxy]
PAGE, DOCUMENT = "text/html", "application/vnd.pypi.simple.v1+json"
WHEEL = b"PK\x03\x04" + bytes(5000)


def page(files: Origin, name: str = "foo-1.whl") -> bytes:
    return f'<a href="{files.url}packages/{name}#sha256={hashlib.sha256(WHEEL).hexdigest()}">{name}</a>'.encode()


@pytest.fixture
def proxy(origin: Origin, another: Origin, start: Start, tmp_path: Path, host: str) -> Proxy:
    """A cache of an index, `origin`, whose files are at `another`."""
    another.put("/packages/foo-1.whl", WHEEL)
    environment = {"PACKAGE_CACHE_HEAD_TIMEOUT": "4"}
    return start(host=host, config=configured(origin, another, tmp_path), environment=environment)


def test_each_client_gets_links_to_the_host_that_it_asked(
    origin: Origin, another: Origin, start: Start, tmp_path: Path, host: str
) -> None:
    proxy = start(host=host, config=npm_config(origin.url, tmp_path))
    document = packument(another, times=2000)
    origin.put("/demo", document, content_type="application/json")
    tarball = origin.put("/demo/-/demo-1.0.0.tgz", gzip.compress(WHEEL))
    answers = {}
    for _ in ("from the source", "confirmed"):
        for name in ("cache.example:4000", "192.0.2.7", "[2001:db8::1]:81"):
            got = answers[name] = proxy.get("/npm/demo", {"Host": name})
            until(lambda: stored(proxy.cache))
            expected = document.replace(another.url.encode(), f"http://{name}/npm/".encode())
            assert (got.status, got.body, got.whole) == (200, expected, True)
            assert got.fields["Repr-Digest"] == f"sha-256=:{b64encode(hashlib.sha256(expected).digest()).decode()}:"
            assert proxy.get("/npm/demo", {"Host": name, "Range": "bytes=40-99"}).body == expected[40:100]
            parts = proxy.get("/npm/demo", {"Host": name, "Range": "bytes=40-99,5-9"})
            assert (parts.status, expected[40:100] in parts.body, parts.whole) == (206, True, True)
            head = proxy.get("/npm/demo", {"Host": name}, method="HEAD")
            assert (head.fields["Content-Length"], head.fields["ETag"]) == (str(len(expected)), got.fields["ETag"])
            again = proxy.get("/npm/demo", {"Host": name, "If-None-Match": got.fields["ETag"]})
            assert (again.status, again.body) == (304, b"")
    assert (
        proxy.get("/npm/demo", {"Host": "192.0.2.7", "If-None-Match": answers["cache.example:4000"].fields["ETag"]}).status
        == 200
    )
    origin_name = urlsplit(origin.url).netloc
    for target in ("/demo", f"{origin.url}demo"):
        assert f'"http://{origin_name}/demo/-/demo-1.0.0.tgz"'.encode() in proxy.get(target, {"Host": origin_name}).body
    assert stored(proxy.cache) == ["/npm/demo"]
    assert len([one for one in origin.requests("/demo") if "if-none-match" not in one.fields]) == 1
    assert proxy.get("/npm/demo/-/demo-1.0.0.tgz").body == tarball


def test_links_of_what_is_kept_for_a_time_or_not_at_all_are_replaced_for_each_client(
    origin: Origin, another: Origin, start: Start, tmp_path: Path
) -> None:
    origin.put("/demo", packument(another), content_type="application/json")
    origin.put("/passed", packument(another, "passed"), content_type="application/json")
    rules = """
        [[repository.rule]]
        match = "demo"
        fresh = "immutable"
        [[repository.rule]]
        match = "passed"
        fresh = "never"
    """
    proxy = start(config=npm_config(origin.url, tmp_path, rules))
    for _ in range(2):
        for name in ("cache.example", "192.0.2.7"):
            assert f'"http://{name}/npm/demo/-/'.encode() in proxy.get("/npm/demo", {"Host": name}).body
            assert f'"http://{name}/npm/passed/-/'.encode() in proxy.get("/npm/passed", {"Host": name}).body
    assert (len(origin.requests("/demo")), len(origin.requests("/passed"))) == (1, 4)


def test_a_document_that_rotted_on_the_disk_is_never_given_another_digest(
    origin: Origin, another: Origin, start: Start, tmp_path: Path
) -> None:
    origin.put("/demo", packument(another), content_type="application/json")
    config = npm_config(origin.url, tmp_path, '[[repository.rule]]\nmatch = "demo"\nfresh = "immutable"')
    proxy = start(config=config)
    here = {"Host": "cache.example"}
    first = proxy.get("/npm/demo", here)
    until(lambda: stored(proxy.cache))
    assert proxy.stop() == 0
    proxy = start(config=config)
    [row] = blobs(proxy.cache)
    blob = as_file(proxy.cache, row.read_bytes())
    before = blob.stat()
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().replace(b"demo-1.0.0", b"demo-1.0.1"))
    os.utime(blob, ns=(before.st_mtime_ns, before.st_mtime_ns))
    again = proxy.get("/npm/demo", here)
    assert (again.body, again.fields["ETag"]) == (first.body, first.fields["ETag"])
    assert len(origin.requests("/demo")) == 2


def test_with_an_empty_list_links_of_npm_stay_as_they_are(
    origin: Origin, another: Origin, start: Start, tmp_path: Path
) -> None:
    origin.put("/demo", packument(another), content_type="application/json")
    proxy = start(config=npm_config(origin.url, tmp_path, "links-to = []"))
    assert proxy.get("/npm/demo").body == packument(another)


def packument(registry: Origin, name: str = "demo", times: int = 1) -> bytes:
    """A document of npm whose tarballs are at a registry of another name."""
    dist = {"tarball": f"{registry.url}{name}/-/{name}-1.0.0.tgz"}
    return json.dumps({"name": name, "versions": {f"1.0.{at}": {"dist": dist} for at in range(times)}}).encode()


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
    # A process in which the source had failed serves what is here until it finds out.
    until(lambda: "304" in proxy.get("/pypi/simple/foo/").cache_status)
    assert proxy.get("/pypi/simple/foo/", method="HEAD").fields["Content-Encoding"] is None


def test_what_is_no_document_is_as_it_is_and_resumes(proxy: Proxy, origin: Origin, another: Origin) -> None:
    data = page(another) * 40_000
    origin.put("/foo-1.bin", data, Serve(cut=len(data) // 2), Serve())
    assert proxy.get("/pypi/foo-1.bin").body == data
    assert any("range" in one.fields for one in origin.requests())


def test_a_document_that_has_not_changed_is_asked_for_with_its_own_tag_and_confirmed(
    proxy: Proxy, origin: Origin, another: Origin
) -> None:
    origin.put("/simple/foo/", page(another), content_type=PAGE)
    first = proxy.fetch_new("/pypi/simple/foo/")
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
        tags.add(proxy.fetch_new("/pypi/simple/foo/").fields["ETag"])
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
    whole = proxy.fetch_new("/pypi/simple/foo/")
    assert whole.body == page(another).replace(another.url.encode(), b"/files/")
    origin.put("/simple/foo/", page(another, "foo-2.whl"), behaviour, content_type=PAGE)
    stale = proxy.get("/pypi/simple/foo/")
    assert stale.body == whole.body
    assert stale.cache_status.removesuffix("; collapsed") == "package-cache; fwd=stale"  # the commit may just be over


def test_head_tells_of_the_same_document_without_its_size(proxy: Proxy, origin: Origin, another: Origin) -> None:
    origin.put("/simple/foo/", page(another), content_type=PAGE)
    head = proxy.get("/pypi/simple/foo/", method="HEAD")
    assert (head.status, head.fields["Content-Length"]) == (200, None)
    assert head.fields["ETag"] == proxy.get("/pypi/simple/foo/").fields["ETag"]
