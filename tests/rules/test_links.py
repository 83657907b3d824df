"""Links in documents to files at another host: which are replaced, and by what."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from package_cache.model import Preset, Repository, Representation, Target
from package_cache.rules.http.answer import entity_tag
from package_cache.rules.repositories.links import LONGEST, Base, Linking, has_links, linking_of

LINKS = (("https://files.example/", "/files/"),)
HERE = Base("http://cache.example:4000", "/npm")
LINKING = Linking(LINKS, Base("", "/pypi"))
PAGE, DOCUMENT = "text/html", "application/vnd.pypi.simple.v1+json"


def test_slashes_of_a_json_document_may_be_escaped() -> None:
    document = rb'{"url": "https:\/\/files.example\/packages\/foo-1.whl", "other": "https:\/\/other.example\/"}'
    links = json.loads(LINKING.body(document))
    assert links == {"url": "/files/packages/foo-1.whl", "other": "https://other.example/"}


def head_of(kind: str | None = "application/json", **fields: str) -> Representation:
    named = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in fields.items()}}
    return Representation(tuple((name, value) for name, value in named.items() if value), 100, "http://mirror.example/f", 0)


@given(st.binary(), st.binary())
def test_only_the_beginnings_of_links_are_replaced(before: bytes, after: bytes) -> None:
    body = LINKING.body(before + b'"https://files.example/a"' + after)
    assert b'"/files/a"' in body
    assert body.replace(b"/files/", b"https://files.example/").endswith(
        after.replace(b"/files/", b"https://files.example/")
    )


def test_links_lead_here_whether_they_are_http_or_https_unless_a_port_says_which() -> None:
    links = (("http://files.example/", "/files/"), ("http://other.example:8080/x/", "/other/"))
    body = b'"https://files.example/a" "http://files.example/b" "https://other.example:8080/x/c" "http://other.example:8080/x/d"'
    assert Linking(links, Base("", "")).body(body) == b'"/files/a" "/files/b" "https://other.example:8080/x/c" "/other/d"'


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        ("text/html", "/files/a"),
        ("application/vnd.pypi.simple.v1+html", "/files/a"),
        ("application/vnd.pypi.simple.v1+json", "/files/a"),
        ("application/json", "http://cache.example:4000/files/a"),
        ("application/vnd.npm.install-v1+json", "http://cache.example:4000/files/a"),
    ],
)
def test_links_are_whole_where_clients_need_that(kind: str, link: str) -> None:
    repository = Repository("index", (), links=LINKS)
    linking = linking_of(repository, Target("/x"), head_of(kind), lambda: HERE)
    assert linking is not None
    assert linking.body(b'"https://files.example/a"').decode() == f'"{link}"'


def tarball_of(path: str, tarball: str) -> str:
    """Where the link to a tarball leads in a document of npm at a path."""
    repository = Repository("npm", (), home="/npm", preset=Preset.NPM, tarballs=True)
    linking = linking_of(repository, Target(path), head_of(), lambda: HERE)
    assert linking is not None
    document = {"readme": tarball, "dist": {"tarball": tarball, "url": tarball}}
    found = json.loads(linking.body(json.dumps(document).encode()))
    assert (found["readme"], found["dist"]["url"]) == (tarball, tarball)
    assert json.loads(linking.body(json.dumps(document).replace("/", "\\/").encode())) == found
    return str(found["dist"]["tarball"])


@pytest.mark.parametrize(
    ("path", "there", "here"),
    [
        ("/a", "https://registry.example/a/-/a-1.0.0.tgz", "a/-/a-1.0.0.tgz"),
        ("/a", "http://registry.example:8080/some/npm/a/-/a-1.0.0-rc.1+x.tgz", "a/-/a-1.0.0-rc.1+x.tgz"),
        ("/a/1.0.0", "https://registry.example/a/-/a-1.0.0.tgz", "a/-/a-1.0.0.tgz"),
        ("/@s%2Fa", "https://registry.example/@s/a/-/a-1.0.0.tgz", "@s/a/-/a-1.0.0.tgz"),
        ("/@s%2Fa", "https://registry.example/@s%2fa/-/a-1.0.0.tgz", "@s%2fa/-/a-1.0.0.tgz"),
        ("/@s/a/latest", "https://registry.example/@s/a/-/@s/a-1.0.0.tgz", "@s/a/-/@s/a-1.0.0.tgz"),
    ],
)
def test_links_of_npm_to_tarballs_lead_to_the_repository_itself_whatever_their_host(
    path: str, there: str, here: str
) -> None:
    assert tarball_of(path, there) == f"http://cache.example:4000/npm/{here}"


@pytest.mark.parametrize(
    "tarball",
    [
        "https://registry.example/b/-/b-1.0.0.tgz",
        "https://registry.example/download/a/1.0.0/0123",
        "https://registry.example/a/-/a-1.0.0.tgz?token=1",
        "https://registry.example/xa/-/a-1.0.0.tgz",
        "file:///a/-/a-1.0.0.tgz",
        "https://registry.example",
        "",
    ],
)
def test_other_links_of_npm_stay_as_they_are(tarball: str) -> None:
    assert tarball_of("/a", tarball) == tarball


def test_two_clients_that_know_the_cache_by_two_names_are_told_two_tags() -> None:
    tags = set()
    for origin in ("http://cache.example:4000", "http://192.0.2.1:4000", "https://cache.example:4000"):
        head = Linking(LINKS, Base(origin, "/npm")).head(
            head_of(ETag='"1"', Repr_Digest="sha-256=:x:", X_Checksum_Sha1="x"), b"body"
        )
        assert (head.size, head.get("repr-digest"), head.get("x-checksum-sha1")) == (4, None, None)
        tags.add(entity_tag(head.get("etag"), None))
    assert len(tags) == 3
    assert None not in tags


@pytest.mark.parametrize("etag", [None, 'W/"1"', "1"])
def test_without_a_strong_tag_of_the_source_the_tag_is_that_of_the_bytes(etag: str | None) -> None:
    head = LINKING.head(head_of(**({"ETag": etag} if etag else {})), None)
    assert entity_tag(head.get("etag"), None) is None
    assert entity_tag(head.get("etag"), "ab") == '"ab"'


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


def test_links_of_a_document_that_is_too_large_to_be_read_stay_as_they_are() -> None:
    repository = Repository("index", (), links=LINKS)
    for size, expected in ((LONGEST, True), (LONGEST + 1, False), (None, True)):
        head = replace(head_of(PAGE), size=size)
        assert (linking_of(repository, Target("/x"), head, lambda: HERE) is not None) is expected
    assert linking_of(repository, Target("/x"), head_of("application/zip"), lambda: HERE) is None
