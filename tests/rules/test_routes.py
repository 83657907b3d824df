"""Whose file a request names: by its host, by the beginning of its path, and back from the name it has here."""

import hashlib
import socket
from urllib.parse import urlsplit

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from package_cache.config.layers import read_document
from package_cache.errors import BadRequest, ForeignHost, NoRepository, PackageCacheError
from package_cache.model import Preset, Repository, Source, Target, VirtualHost
from package_cache.rules.http.targets import key_of, parse_target
from package_cache.rules.repositories.layouts import HASHED
from package_cache.rules.repositories.routes import Routes, is_own
from package_cache.server.admission import Names

TEXT = """
[[repository]]
name = "gentoo"
prefix = "/"
sources = ["http://distfiles.example/", "http://mirror.example:8080/pub/gentoo"]
preset = "gentoo"

[[repository]]
name = "debian"
prefix = "/debian/"
hosts = ["deb.example/debian", "old.example:8080"]
sources = ["http://mirror.example/debian", "https://secure.example/d"]
preset = "debian"

[[repository]]
name = "security"
hosts = ["deb.example/security", "[2001:db8::1]:81/x"]
sources = ["http://mirror.example/debian/security"]

[[repository]]
name = "npm"
prefix = "/npm"
hosts = ["registry.example"]
sources = ["http://registry.example/", "file:///srv/npm"]
preset = "npm"
"""


def routes(text: str = TEXT, own: frozenset[str] = frozenset({"localhost", "cache.example", "::1"})) -> Routes:
    document = read_document("config.toml", text, lambda _kind, _name: "")
    assert not document.problems
    return Routes(document.repositories, own)


ROUTES = routes()


def found(text: str, host: str | None = None) -> tuple[str, str]:
    """The name of the repository, and the path in it."""
    target = ROUTES.find(text, host)
    return ROUTES.repository(target).name, target.asked


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("/distfiles/a.tar", "gentoo", "/distfiles/a.tar"),
        ("/", "gentoo", "/"),
        ("/debian/dists/x/InRelease", "debian", "/dists/x/InRelease"),
        ("/debian/", "debian", "/"),
        ("/debian", "gentoo", "/debian"),
        ("/debianx/a", "gentoo", "/debianx/a"),
        ("//debian/a", "gentoo", "//debian/a"),
        ("/DEBIAN/a", "gentoo", "/DEBIAN/a"),
        ("/d%65bian/a", "debian", "/a"),
        ("/x/../debian/a", "debian", "/a"),
        ("/debian/../debian/a?b", "debian", "/a?b"),
        ("/npm/@scope%2fname", "npm", "/@scope%2Fname"),
        ("/npm/-/package/x/dist-tags", "npm", "/-/package/x/dist-tags"),
        ("/-", "gentoo", "/-"),
    ],
)
def test_a_path_belongs_to_the_repository_of_its_beginning(text: str, name: str, path: str) -> None:
    assert found(text) == found(text, "cache.example:4000") == found(text, "unknown.example") == (name, path)


@pytest.mark.parametrize(
    ("host", "text", "name", "path"),
    [
        ("deb.example", "/debian/dists/x", "debian", "/dists/x"),
        ("deb.example", "/security/dists/x", "security", "/dists/x"),
        ("DEB.Example", "/security/", "security", "/"),
        ("deb.example:80", "/security/a", "security", "/a"),
        ("deb.example.", "/security/a", "security", "/a"),
        ("deb.example.:80", "/security/a", "security", "/a"),
        ("old.example:8080", "/dists/x", "debian", "/dists/x"),
        ("[2001:db8::1]:81", "/x/a", "security", "/a"),
        ("[2001:DB8::1]:81", "/x/a", "security", "/a"),
        ("registry.example", "/debian/a", "npm", "/debian/a"),
        ("registry.example", "/-/package/x/dist-tags", "npm", "/-/package/x/dist-tags"),
        # A client that believes it talks to a source.
        ("distfiles.example", "/distfiles/a.tar", "gentoo", "/distfiles/a.tar"),
        ("mirror.example:8080", "/pub/gentoo/distfiles/a.tar", "gentoo", "/distfiles/a.tar"),
        ("mirror.example", "/debian/dists/x", "debian", "/dists/x"),
        ("mirror.example", "/debian/security/x", "security", "/x"),
        ("secure.example", "/d/a", "debian", "/a"),
        # Not known with that port, or at that path: then the path decides.
        ("old.example", "/dists/x", "gentoo", "/dists/x"),
        ("old.example:81", "/debian/a", "debian", "/a"),
        ("deb.example:8080", "/security/a", "gentoo", "/security/a"),
        ("deb.example", "/ubuntu/a", "gentoo", "/ubuntu/a"),
        ("2001:db8::1", "/x/a", "gentoo", "/x/a"),
        ("", "/debian/a", "debian", "/a"),
        (":80", "/debian/a", "debian", "/a"),
        ("[", "/debian/a", "debian", "/a"),
        ("deb.example:x", "/debian/a", "debian", "/a"),
    ],
)
def test_a_host_comes_before_the_path(host: str, text: str, name: str, path: str) -> None:
    assert found(text, host) == (name, path)


@pytest.mark.parametrize(
    ("url", "name", "path"),
    [
        ("http://deb.example/debian/a", "debian", "/a"),
        ("HTTP://DEB.example:80/debian/a?b", "debian", "/a?b"),
        ("http://mirror.example/debian/security/a", "security", "/a"),
        ("https://secure.example:443/d/a", "debian", "/a"),
        ("http://[2001:db8::1]:81/x/a", "security", "/a"),
        ("http://registry.example", "npm", "/"),
        ("http://localhost:4000/debian/a", "debian", "/a"),
        ("http://cache.example/distfiles/a", "gentoo", "/distfiles/a"),
        ("http://[::1]:4000/npm/a", "npm", "/a"),
    ],
)
def test_a_client_may_use_it_as_a_proxy_for_hosts_that_it_knows(url: str, name: str, path: str) -> None:
    assert found(url) == found(url, "deb.example") == (name, path)


@pytest.mark.parametrize("url", ["http://other.example/a", "http://deb.example/ubuntu/a", "http://old.example/debian/a"])
def test_it_is_no_proxy_for_others_and_says_for_whom_it_is(url: str) -> None:
    with pytest.raises(ForeignHost, match="has nothing of ") as caught:
        ROUTES.find(url, "registry.example")
    assert caught.value.http_status == 403
    assert urlsplit(url).netloc in str(caught.value)
    assert "paths that begin with /debian/, /npm/, /" in str(caught.value)
    assert "deb.example" in str(caught.value)


def test_the_host_of_this_request_is_its_own() -> None:
    with pytest.raises(ForeignHost):
        ROUTES.find("http://192.0.2.7:4000/debian/a", None)
    assert ROUTES.find("http://192.0.2.7:4000/debian/a", None, "192.0.2.7").text == "/debian/a"


def test_where_nothing_is_is_told_with_what_there_is() -> None:
    bare = routes(TEXT.replace('prefix = "/"', 'prefix = "/gentoo/"'))
    for text in ("/", "/debian", "/distfiles/a"):
        with pytest.raises(NoRepository, match="has nothing at ") as caught:
            bare.find(text, "unknown.example")
        assert caught.value.http_status == 404
        assert str(caught.value).startswith(f"this cache has nothing at {text}; it has paths that begin with ")
        for one in ("/gentoo/", "/debian/", "/npm/", "deb.example", "registry.example", "mirror.example:8080"):
            assert one in str(caught.value)
        assert "/-/security" not in str(caught.value)
    with pytest.raises(NoRepository, match=r"^this cache has nothing at /a$"):
        Routes(()).find("/a", None)


@pytest.mark.parametrize("text", ["/-/", "/-/health", "/-/security/a", "/%2D/security/a", "/x/../-/security/a"])
def test_paths_of_the_cache_itself_are_no_repository(text: str) -> None:
    for host in (None, "cache.example", "unknown.example"):
        target = ROUTES.find(text, host)
        assert is_own(target)
        assert target.home not in {one.home for one in ROUTES.repositories}
    assert not is_own(ROUTES.find("/-/x", "registry.example"))


def test_a_host_leads_to_no_file_that_another_repository_has_under_that_name() -> None:
    """`/debian/a` at a mirror of Gentoo is not what Debian's mirror has at `/a`."""
    for text in ("/debian/a", "/-/security/a", "/npm/"):
        for where, host in ((text, "distfiles.example"), (f"http://distfiles.example{text}", None)):
            with pytest.raises(NoRepository, match="is the repository"):
                ROUTES.find(where, host)
    assert found("/-/other", "distfiles.example") == ("gentoo", "/-/other")


def test_hosts_that_are_named_come_before_those_of_sources_and_the_first_source_before_later_ones() -> None:
    one = Repository("one", (Source("http://a.example"), Source("http://b.example")), "/one")
    two = Repository("two", (Source("http://b.example"),), "/two", (VirtualHost("a.example"),))
    both = Routes((one, two))
    assert both.find("/x", "a.example").home == "/two"
    assert both.find("/x", "b.example").home == "/one"


def test_a_source_at_a_path_that_nobody_can_ask_for_is_known_by_no_host() -> None:
    odd = Routes((Repository("one", (Source("http://a.example/x%00y"), Source("http://b.example/a+b")), "/one"),))
    with pytest.raises(NoRepository):
        odd.find("/x/a", "a.example")
    assert odd.find("/a%2Bb/c", "b.example").text == odd.find("/a+b/c", "b.example").text == "/one/c"


# --- Names ------------------------------------------------------------------------------------------------------------


def test_a_person_may_write_the_name_or_any_url() -> None:
    name = "/debian/dists/x"
    for text in (
        name,
        "http://deb.example/debian/dists/x",
        "https://mirror.example/debian/dists/x",
        f"http://old.example{name}",
    ):
        assert ROUTES.named(text) == Target("/dists/x", None, "/debian")
    assert ROUTES.named("/-/security/a") == Target("/a", None, "/-/security")
    # A file of a repository that is no more has its name still.
    assert ROUTES.named("/-/gone/a") == Target("/-/gone/a")
    assert Routes(()).named("/gone/a") == Target("/gone/a")
    assert Routes(()).repository(Target("/gone/a")).name == ""
    with pytest.raises(BadRequest):
        ROUTES.named("no path")


SEGMENTS = st.sampled_from(
    [
        *("debian", "security", "npm", "-", "pub", "gentoo", "distfiles", "x", "d", "", ".", ".."),
        *("a.tar", "6f", "a+b", "%2f", "%2B"),
    ]
) | st.text("ab-%.2f+", max_size=4)
BEGINNINGS = st.sampled_from(["/", "/debian/", "/debian/security/", "/-/security/", "/npm/", "/pub/gentoo/", "/x/", "/d/"])
PATHS = st.builds("{}{}".format, BEGINNINGS, st.lists(SEGMENTS, max_size=4).map("/".join))
HOSTS = st.sampled_from(
    [
        *("deb.example", "DEB.EXAMPLE:80", "old.example:8080", "[2001:db8::1]:81", "registry.example", "distfiles.example"),
        *("mirror.example", "mirror.example:8080", "secure.example", "localhost:4000", "other.example", "", "[", "x:y"),
    ]
)


@settings(max_examples=examples(400), deadline=None)
@given(PATHS, st.none() | HOSTS, st.booleans())
def test_no_request_names_a_file_of_another_repository(path: str, host: str | None, absolute: bool) -> None:
    text = f"http://{host}{path}" if absolute and host else path
    try:
        target = ROUTES.find(text, host)
    except PackageCacheError:
        return
    if is_own(target):
        assert parse_target(text)[1].path.startswith("/-/")
        return
    repository = ROUTES.repository(target)
    key = key_of(target)
    assert key.startswith(f"{repository.home}/")
    others = [one for one in ROUTES.repositories if one.home and one is not repository]
    assert not [one for one in others if key.startswith(f"{one.home}/")]
    # Its name, in the log or on a command line, leads back to it.
    assert ROUTES.named(key) == target
    assert ROUTES.of_key(key_of(target, "text/html; a=b")) == (target, "text/html; a=b")
    hosts = {"deb.example": ("debian", "security"), "registry.example": ("npm",), "distfiles.example": ("gentoo",)}
    if (host or "").lower().removesuffix(":80") in hosts and path.startswith(("/debian/", "/security/")):
        assert repository.name in (*hosts[(host or "").lower().removesuffix(":80")], "gentoo")


# --- Layouts ----------------------------------------------------------------------------------------------------------

NAME = "portage-3.0.30.tar.bz2"
SPELLINGS = (
    NAME,
    HASHED.path(NAME),
    f"{hashlib.sha512(NAME.encode()).hexdigest()[:2]}/{hashlib.sha512(NAME.encode()).hexdigest()[2:4]}/{NAME}",
)


@pytest.mark.parametrize("preset", [None, *Preset])
def test_a_distfile_has_one_name_in_every_layout_where_files_of_gentoo_may_be(preset: Preset | None) -> None:
    one = Routes((Repository("one", (Source("http://mirror.example/pub"),), "/one", (), preset),))
    for folder in ("/one/distfiles/", "/one/gentoo/distfiles/"):
        names = {one.find(f"{folder}{spelling}", None).text for spelling in SPELLINGS}
        assert names == ({f"{folder}{NAME}"} if preset in (None, Preset.GENTOO) else {folder + each for each in SPELLINGS})
    assert one.find(f"/pub/distfiles/{SPELLINGS[1]}", "mirror.example") == one.find(f"/one/distfiles/{SPELLINGS[1]}", None)


def test_what_is_no_hash_of_the_name_stays_in_its_folder() -> None:
    for path in (
        f"/distfiles/00/{NAME}",
        f"/distfiles/6f/x/{NAME}",
        f"/other/6f/{NAME}",
        f"/distfiles/{HASHED.path(NAME)}?a",
    ):
        assert ROUTES.find(path, None).text == path


def test_the_name_of_a_distfile_is_hashed_as_it_is_decoded() -> None:
    for name, encoded in (("gtk+-3.tar", "gtk%2B-3.tar"), ("\u00e9.tar", "%C3%A9.tar")):
        assert ROUTES.find(f"/distfiles/{HASHED.path(name)[:3]}{encoded}", None).text == f"/distfiles/{encoded}"
    assert ROUTES.find(f"/distfiles/{HASHED.path('gtk+-3.tar')}", None).text == "/distfiles/gtk%2B-3.tar"


# --- The cache's own name -----------------------------------------------------------------------------------------------


def test_a_name_that_leads_to_where_the_client_came_is_the_caches_own() -> None:
    asked: list[str] = []

    def look_up(host: str) -> set[str]:
        asked.append(host)
        if host == "nowhere.example":
            raise OSError("not known")
        return {"192.0.2.7", "2001:db8::7"} if host.startswith("cache.") else {"198.51.100.1"}

    names = Names(look_up)
    for address in ("192.0.2.7", "2001:db8::7"):
        assert names.own("http://Cache.example:4000/x", address, 4000) == "cache.example"
    assert names.own("http://cache.example/x", "192.0.2.7", 80) == "cache.example"
    assert names.own("http://cache.example:4000/x", "192.0.2.8", 4000) is None
    assert names.own("http://elsewhere.example:4000/x", "192.0.2.7", 4000) is None
    before = len(asked)
    for _ in range(3):
        assert names.own("http://nowhere.example:4000/x", "192.0.2.7", 4000) is None
    assert len(asked) == before + 1
    for target in ("http://cache.example/x", "http://cache.example:80/x", "https://cache.example/x", "/x", "http://[/x"):
        assert names.own(target, "192.0.2.7", 4000) is None
    assert len(asked) == before + 1, "who asks for another port of it does not mean this cache"


def test_the_machines_own_name_is_the_caches() -> None:
    name = socket.gethostname()
    assert Names(lambda _: []).own(f"http://{name.upper()}:4000/x", "192.0.2.7", 4000) == name.lower()
