"""Which files are kept for ever and which are asked for again, by the paths that real clients ask for."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from package_cache.model import Freshness, Repository, Target
from package_cache.rules.http.targets import parse_target
from package_cache.rules.repositories.freshness import Policy

HEX = "0123456789abcdef" * 4


POLICY = Policy(Repository("root", ()))


def target(text: str) -> Target:
    return parse_target(text)[1]


def freshness_of(target: Target, content_type: str | None = None) -> Freshness:
    return POLICY.freshness(target, content_type).how


def accept_of(target: Target, accept: str | None) -> str | None:
    return POLICY.accept_of(target, accept)


PACKAGE_FILES = (
    # Gentoo
    "/distfiles/ab/foo-1.2.tar.xz",
    "/distfiles/foo-1.2.tar.xz",
    "/gentoo/distfiles/0f/gtk+-3.24.43.tar.xz",
    "/distfiles/0f/gtk%2B-3.24.43.tar.xz",
    "/distfiles/12/foo-1.2.tar.xz.asc",
    "/distfiles/12/foo-1.2.tar.xz.sig",
    "/distfiles/12/foo_1.2~rc1.orig.tar.gz",
    "/distfiles/12/foo-1.2-r1.patch",
    "/distfiles/12/foo-1.2-r1.diff.bz2",
    "/distfiles/12/foo.zip",
    "/distfiles/12/foo.7z",
    "/distfiles/12/foo-1.2.tgz",
    "/distfiles/12/foo-1.2.tar.lz",
    "/distfiles/12/foo-1.2.Z",
    "/distfiles/12/foo-1.2.crate",
    "/distfiles/12/foo-1.2.gem",
    "/distfiles/12/foo-1.2.jar",
    "/distfiles/12/foo-1.2.h%2B%2B",
    "/distfiles/12/greatest-1.5.tar.gz",
    "/distfiles/12/platest.tar.gz",
    "/distfiles/12/concurrent-1.0.tar.gz",
    "/distfiles/12/currently-1.0.tar.gz",
    "/snapshots/gentoo-20260101.tar.xz",
    "/snapshots/gentoo-20260101.tar.xz.md5sum",
    "/snapshots/gentoo-20260101.tar.xz.gpgsig",
    "/snapshots/portage-20260101.tar.bz2",
    "/snapshots/squashfs/gentoo-20260101.xz.sqfs",
    "/releases/amd64/autobuilds/20260101T170000Z/stage3-amd64-openrc-20260101T170000Z.tar.xz",
    "/releases/amd64/autobuilds/current-stage3-amd64-openrc/stage3-amd64-openrc-20260101T170000Z.tar.xz.DIGESTS",
    "/binpkgs/app-misc/foo/foo-1.2-1.gpkg.tar",
    "/binpkgs/app-misc/foo/foo-1.2-r3-12.gpkg.tar",
    "/binpkgs/x11-libs/gtk+/gtk+-2.24.33-r3-1.gpkg.tar",
    "/binpkgs/app-misc/foo/foo-1.2-1.xpak",
    # Debian
    "/debian/pool/main/g/g++/g%2b%2b_12.2.0-3_amd64.deb",
    "/debian/pool/main/f/foo/foo_1%253a2.0-1%7edeb12u1_amd64.deb",
    "/debian/pool/main/f/foo/foo_1.2-3.dsc",
    "/debian/pool/main/f/foo/foo_1.2.orig.tar.xz",
    "/debian/pool/main/f/foo/foo-di_1.2_amd64.udeb",
    "/linux/debian/dists/bookworm/pool/stable/amd64/foo_1.2_amd64.deb",
    f"/debian/dists/bookworm/main/binary-amd64/by-hash/SHA256/{HEX}",
    f"/debian/dists/bookworm/main/i18n/by-hash/MD5Sum/{HEX[:32]}",
    "/debian/dists/sid/main/binary-amd64/Packages.diff/T-2026-01-01-1404.11-F-2025-12-31-0204.46.gz",
    "/debian/dists/sid/main/binary-amd64/Packages.diff/2026-01-01-1404.11.gz",
    # Python
    f"/packages/ab/cd/{HEX}/foo-1.2-py3-none-any.whl",
    f"/packages/ab/cd/{HEX}/foo-1.2-py3-none-any.whl.metadata",
    f"/packages/ab/cd/{HEX}/foo-1.2.tar.gz",
    # npm
    "/foo/-/foo-1.2.3.tgz",
    "/@scope%2fname/-/name-1.2.3.tgz",
    "/@scope/name/-/name-1.2.3-beta.1.tgz",
    # Arch
    "/core/os/x86_64/foo-1:1.2-1-x86_64.pkg.tar.zst",
    "/core/os/x86_64/foo-1.2-1-x86_64.pkg.tar.zst.sig",
    "/extra/os/x86_64/libstdc++-1.2-1-any.pkg.tar.xz",
    "/iso/2026.01.01/archlinux-2026.01.01-x86_64.iso",
    # Fedora
    "/fedora/linux/releases/43/Everything/x86_64/os/Packages/f/foo-1.2-3.fc43.x86_64.rpm",
    f"/fedora/linux/releases/43/Everything/x86_64/os/repodata/{HEX}-primary.xml.zst",
    # Alpine
    "/alpine/v3.23/main/x86_64/foo-1.2-r0.apk",
    "/alpine/latest-stable/main/x86_64/foo-1.2-r0.apk",
)

LISTS = (
    # Gentoo
    "/distfiles/layout.conf",
    "/gentoo/distfiles/layout.conf",
    "/distfiles/timestamp.dev-local",
    "/distfiles/timestamp.mirmon",
    "/experimental/timestamp",
    "/experimental/timestamp.x",
    "/binpkgs/Packages",
    "/binpkgs/Packages.gz",
    "/binpkgs/app-misc/foo-1.2.gpkg.tar",
    "/binpkgs/app-misc/foo-1.2-r1.gpkg.tar",
    "/binpkgs/app-misc/foo-1.2.tbz2",
    "/snapshots/portage-latest.tar.xz",
    "/snapshots/gentoo-latest.tar.xz.md5sum",
    "/snapshots/gentoo-latest.tar.xz.gpgsig",
    "/snapshots/squashfs/gentoo-current.xz.sqfs",
    "/snapshots/sha512sum.txt",
    "/snapshots/squashfs/sha512sum.txt",
    "/releases/amd64/autobuilds/latest-stage3.txt",
    "/releases/amd64/autobuilds/current-install-amd64-minimal/latest-install-amd64-minimal.txt",
    # Debian
    "/debian/dists/bookworm/InRelease",
    "/debian/dists/bookworm/Release",
    "/debian/dists/bookworm/Release.gpg",
    "/flat/InRelease",
    "/flat/Release",
    "/flat/Release.gpg",
    "/flat/Packages.xz",
    "/flat/Packages",
    "/flat/Sources.gz",
    "/flat/Contents-amd64.gz",
    "/debian/dists/bookworm/main/binary-amd64/Packages.xz",
    "/debian/dists/bookworm/main/binary-amd64/Packages.diff/Index",
    "/debian/dists/bookworm/main/source/Sources.gz",
    "/debian/dists/bookworm/main/Contents-amd64.gz",
    "/debian/dists/bookworm/main/dep11/icons-64x64.tar.gz",
    "/debian/dists/bookworm/main/i18n/Translation-en.bz2",
    "/debian/dists/bookworm/main/dep11/Components-amd64.yml.gz",
    "/debian/dists/bookworm/main/installer-amd64/current/images/netboot/mini.iso",
    "/debian/ls-lR.gz",
    "/debian/project/trace/mirror.example",
    # Python
    "/simple/",
    "/simple/foo/",
    "/simple/foo.bar/",
    "/simple/foo.bar",
    "/simple/foo/index.html",
    "/pypi/foo/json",
    # npm
    "/foo",
    "/@scope%2fname",
    "/@scope/name",
    "/foo/latest",
    "/foo/1.2.3",
    "/-/package/foo/dist-tags",
    # Arch
    "/core/os/x86_64/core.db",
    "/core/os/x86_64/core.db.sig",
    "/core/os/x86_64/core.db.tar.gz",
    "/core/os/x86_64/core.files",
    "/core/os/x86_64/core.files.sig",
    "/core/os/x86_64/core.files.tar.zst",
    "/lastupdate",
    "/iso/latest/archlinux-x86_64.iso",
    "/iso/latest/sha256sums.txt",
    # Fedora
    "/fedora/linux/releases/43/Everything/x86_64/os/repodata/repomd.xml",
    "/fedora/linux/releases/43/Everything/x86_64/os/repodata/repomd.xml.asc",
    "/fedora/linux/releases/43/Everything/x86_64/os/.treeinfo",
    # Alpine
    "/alpine/v3.23/main/x86_64/APKINDEX.tar.gz",
    "/alpine/latest-stable/releases/x86_64/latest-releases.yaml",
    # Anywhere
    "/",
    "/distfiles/",
    "/distfiles/ab/",
    "/index.html",
    "/README.htm",
    "/SHA256SUMS",
    "/SHA256SUMS.gpg",
    "/SHA512SUMS.sign",
    "/md5sum.txt",
    "/MD5SUMS",
    "/sha256sums.txt",
    "/checksums.txt",
    "/foo-1.2.3",
    "/metalink?repo=fedora-43&arch=x86_64",
    "/distfiles/ab/foo-1.2.tar.xz?token=1",
)


@pytest.mark.parametrize("text", PACKAGE_FILES)
def test_package_file_is_kept_for_ever(text: str) -> None:
    assert freshness_of(target(text)) is Freshness.IMMUTABLE
    assert freshness_of(target(text), "application/octet-stream") is Freshness.IMMUTABLE


@pytest.mark.parametrize("text", LISTS)
def test_list_is_asked_for_again(text: str) -> None:
    assert freshness_of(target(text)) is Freshness.REVALIDATE
    assert freshness_of(target(text), "application/octet-stream") is Freshness.REVALIDATE


@pytest.mark.parametrize(
    ("content_type", "freshness"),
    [
        ("text/html", Freshness.REVALIDATE),
        ("Text/HTML; charset=utf-8", Freshness.REVALIDATE),
        ("application/xhtml+xml", Freshness.REVALIDATE),
        ("application/json", Freshness.REVALIDATE),
        ("application/vnd.npm.install-v1+json", Freshness.REVALIDATE),
        ("text/plain", Freshness.IMMUTABLE),
        ("application/x-xz", Freshness.IMMUTABLE),
        ("", Freshness.IMMUTABLE),
        (None, Freshness.IMMUTABLE),
    ],
)
def test_page_or_document_is_no_package_file_whatever_its_name(content_type: str | None, freshness: Freshness) -> None:
    """`/socket.io` is a document of npm, and a captive portal answers for any name."""
    assert freshness_of(Target("/socket.io"), content_type) is freshness


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True).filter(
    lambda name: name not in ("latest", "current", "timestamp")
)
VERSIONS = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}(-r[0-9])?", fullmatch=True)
SUFFIXES = st.sampled_from(
    [
        "tar.gz",
        "tar.bz2",
        "tar.xz",
        "tar.zst",
        "tgz",
        "zip",
        "deb",
        "rpm",
        "apk",
        "whl",
        "crate",
        "gem",
        "pkg.tar.zst",
        "jar",
    ]
)


@settings(deadline=None)
@given(st.lists(NAMES, max_size=3), NAMES, VERSIONS, SUFFIXES)
def test_name_with_a_version_and_a_suffix_is_a_package_file(
    folders: list[str], name: str, version: str, suffix: str
) -> None:
    path = "/" + "/".join([*(folder + "x" for folder in folders), f"{name}-{version}.{suffix}"])
    assert freshness_of(Target(path)) is Freshness.IMMUTABLE


NPM = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"
PIP = "application/vnd.pypi.simple.v1+json,application/vnd.pypi.simple.v1+html;q=0.1, text/html;q=0.01"


@pytest.mark.parametrize(
    ("path", "accept", "passed_on"),
    [
        ("/foo", None, None),
        ("/foo", "", None),
        ("/foo", "*/*", None),
        ("/foo", " */* ", None),
        ("/foo", "application/json", "application/json"),
        ("/foo", NPM, NPM),
        ("/socket.io", NPM, NPM),
        ("/simple/foo/", PIP, PIP.replace(",a", ", a")),
        ("/dists/x/InRelease", "text/*", "text/*"),
        ("/pool/f/foo.deb", "text/*", None),
        ("/foo/-/foo-1.tgz", "text/html,*/*;q=0.8", None),
        ("/foo", "text/html\x9b", None),
        ("/foo", "text/html, " * 1000, None),
    ],
)
def test_accept_counts_where_the_answer_may_depend_on_it(path: str, accept: str | None, passed_on: str | None) -> None:
    assert accept_of(Target(path), accept) == passed_on


def test_blanks_in_accept_make_no_difference() -> None:
    spellings = ("text/html,  a/b;q=0.1", "text/html,a/b;q=0.1 ", " text/html , a/b;q=0.1")
    assert {accept_of(Target("/foo"), accept) for accept in spellings} == {"text/html, a/b;q=0.1"}


def test_long_paths_cost_no_more_than_their_length() -> None:
    """Patterns that can match in many places would cost the square of their number."""
    began = time.process_time()
    for segment in (
        "latest-",
        "current.",
        "a/",
        ".1",
        ".a",
        "1-",
        ".html",
        ".db.tar",
        "Packages-",
        "/timestamp",
        "/a/a-1-",
    ):
        for end in ("/x", "/x.tar", "!", ".gpkg.tar"):
            freshness_of(Target("/" + segment * (8000 // len(segment)) + end))
    assert time.process_time() - began < 2.0
