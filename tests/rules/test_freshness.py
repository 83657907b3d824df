"""Which files are kept for ever and which are asked for again, by the paths that real clients ask for."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from package_cache.model import Fresh, Freshness, Preset, Repository, Rule, Target
from package_cache.rules.http.targets import parse_target
from package_cache.rules.repositories.freshness import RepositoryPolicy
from package_cache.rules.repositories.names import has_suffix

HEX = "0123456789abcdef" * 4


POLICY = RepositoryPolicy(Repository("root", ()))


def target(text: str) -> Target:
    return parse_target(text)[1]


def freshness_of(target: Target, content_type: str | None = None) -> Freshness:
    return POLICY.at(target).freshness(content_type).how


def accept_of(target: Target, accept: str | None) -> str | None:
    return POLICY.at(target).accept_of(accept)


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


NIX = ("1b8m03r63zqhnjf7l5wnldhh7c13" * 2)[:52]
ALSO_KEPT = (
    "/m2/org/foo/foo/1.0/foo-1.0.jar",
    "/m2/org/foo/foo/1.0/foo-1.0.pom",
    "/m2/org/foo/foo/1.0/foo-1.0-sources.jar.sha1",
    "/m2/org/foo/foo/1.0/foo-1.0.jar.asc.md5",
    "/m2/org/foo/foo/1.0-SNAPSHOT/foo-1.0-20240102.030405-6.jar",
    "/conda-forge/linux-64/foo-1.2.3-py311h0123456_0.conda",
    "/conda-forge/noarch/foo-1.2.3-pyhd8ed1ab_0.tar.bz2",
    f"/conda-forge/linux-64/shards/{HEX}.msgpack.zst",
    "/miniconda/Miniconda3-py311_23.10.0-1-Linux-x86_64.sh",
    "/cran/src/contrib/foo_1.2-3.tar.gz",
    "/cran/src/base/R-4/R-4.3.1.tar.gz",
    "/cpan/authors/id/A/AB/ABC/Foo-Bar-1.23.tar.gz",
    "/cpan/authors/id/A/AB/ABC/Foo-v1.2.3.tar.gz",
    "/gems/gems/foo-1.2.3.gem",
    "/gems/gems/foo-1.2.3-x86_64-linux.gem",
    "/gems/quick/Marshal.4.8/foo-1.2.3.gemspec.rz",
    "/dist/2024-07-25/rust-1.80.0-x86_64-unknown-linux-gnu.tar.xz",
    "/dist/2024-07-25/rust-1.80.0-x86_64-unknown-linux-gnu.tar.xz.sha256",
    "/crates/foo/foo-1.2.3.crate",
    "/crates/nightly/nightly-1.0.0-beta.1.crate",
    f"/flathub/repo/objects/ab/{HEX[2:]}.filez",
    f"/flathub/repo/objects/ab/{HEX[2:]}.dirtree",
    f"/flathub/repo/summaries/{HEX}.gz",
    f"/flathub/repo/summaries/{HEX}-{HEX}.delta",
    f"/flathub/repo/summaries/{HEX}.idx.sig",
    "/elpa/foo-1.2.tar",
    "/elpa/foo-20240102.304.tar",
    "/elpa/foo-1.2.tar.sig",
    "/elpa/foo-1.2.el",
    "/systems/texlive/tlnet/archive/l3kernel.r70123.tar.xz",
    "/systems/texlive/Images/texlive2024-20240312.iso",
    "/systems/texlive/Images/texlive2024-20240312.iso.sha512.asc",
    "/pool/main/f/foo/foo_1.2-3_amd64.deb",
    "/pool/main/f/foo-stable/foo-stable_1.2.3-1_amd64.deb",
    "/pool/main/f/foo/foo-dev_1.2_all.deb",
    "/pool/main/f/foo/foo_1.2-3.debian.tar.xz",
    "/pool/main/f/foo/foo_1.2.orig.tar.gz.asc",
    "/pool/main/f/foo/foo-dbgsym_1.2-3_amd64.ddeb",
    "/deb/foo-nightly_1.2_x86_64.deb",
    "/deb/foo_64-1_amd64.deb",
    "/cdimage/debian-12.5.0-amd64-netinst.iso",
    "/cdimage/debian-12.5.0-amd64-netinst.iso.zsync",
    "/cdimage/debian-12.5.0-amd64-netinst.iso.torrent",
    "/releases/ubuntu-24.04-desktop-amd64.iso",
    "/images/cloud/debian-12-generic-amd64-20240211-1654.qcow2",
    "/v3.20/main/x86_64/foo-1.2.3-r4.apk",
    "/edge/main/x86_64/foo-git-0.1_p20240102-r0.apk",
    "/arch/core/os/x86_64/foo-1:1.2-1-x86_64.pkg.tar.zst",
    "/arch/core/os/x86_64/foo-nightly-r123.abcdef0-1-any.pkg.tar.zst.sig",
    "/arch/iso/2026.01.01/archlinux-2026.01.01-x86_64.iso.sig",
    "/msys2/mingw64/mingw-w64-x86_64-foo-1.2-3-any.pkg.tar.zst",
    "/tumbleweed/iso/openSUSE-Tumbleweed-DVD-x86_64-Snapshot20240102-Media.iso",
    "/tumbleweed/iso/openSUSE-Tumbleweed-DVD-x86_64-Snapshot20240102-Media.iso.sha256",
    "/tumbleweed/repo/oss/x86_64/foo-1.2-3.4.x86_64.rpm",
    "/tumbleweed/repo/oss/x86_64/foo-devel-64-1.x86_64.rpm",
    "/void/musl/foo-1.2.3_1.x86_64-musl.xbps",
    "/void/musl/foo-1.2.3_1.x86_64-musl.xbps.sig2",
    "/slackware64-15.0/slackware64/a/foo-1.2-x86_64-1.txz",
    "/slackware64-15.0/slackware64/a/foo-1.2-x86_64-1.txz.asc",
    "/fedora/os/Packages/f/fedora-release-43-26.noarch.rpm",
    "/fedora/os/Packages/g/google-stable-1.2-3.fc43.x86_64.rpm",
    f"/fedora/os/repodata/{HEX}-primary.xml.zst",
    f"/fedora/os/repodata/{HEX}-comps-Everything.x86_64.xml",
    "/fedora/os/drpms/foo-1.2-3_1.2-4.fc43.x86_64.drpm",
    "/fedora/iso/Fedora-Server-dvd-x86_64-43-1.6.iso",
    "/cloud/CentOS-Stream-GenericCloud-9-20240102.0.x86_64.qcow2",
    f"/nar/{NIX}.nar.xz",
    f"/nar/{NIX}.nar.zst",
    "/brew/foo-1.2.3.arm64_sonoma.bottle.tar.gz",
    f"/v2/homebrew/core/foo/blobs/sha256:{HEX}",
    "/go/example.org/foo/@v/v1.2.3.mod",
    "/go/example.org/foo/@v/v1.2.3.zip",
    "/go/example.org/foo/@v/v0.0.0-20240102030405-abcdef012345.zip",
    "/clamav/daily-27123.cdiff",
    "/clamav/main-63.cvd.sign",
    "/openwrt/packages/foo_1.2-r3_mips_24kc.ipk",
    "/openwrt/openwrt-23.05.2-x86-64-generic-ext4-combined.img.gz",
    "/openbsd/7.4/packages/amd64/foo-1.2p0.tgz",
    "/freebsd/All/foo-1.2.3_4.pkg",
    "/freebsd/All/Hashed/foo-1.2~0123456789.pkg",
    "/freebsd/FreeBSD-14.0-RELEASE-amd64-disc1.iso",
    "/fdroid/repo/org.foo_123.apk",
    "/luarocks/foo-1.2-1.rockspec",
    "/luarocks/foo-1.2-1.src.rock",
    "/hackage/package/foo-1.2.3.tar.gz",
    "/hex/tarballs/foo-1.2.3.tar",
    f"/opam/cache/sha256/{HEX[:2]}/{HEX}",
    "/cygwin/x86_64/release/foo/foo-1.2-1.tar.xz",
    "/charts/foo-1.2.3.tgz",
    "/charts/foo-1.2.3.tgz.prov",
    "/terraform/foo_1.5.0_linux_amd64.zip",
    "/nuget/foo/1.2.3/foo.1.2.3.nupkg",
    "/node/v20.10.0/node-v20.10.0-linux-x64.tar.xz",
    "/node/latest-v20.x/node-v20.10.0-linux-x64.tar.xz",
    "/kernel/v6.x/linux-6.6.7.tar.xz",
    "/kernel/v6.x/linux-6.6.7.tar.sign",
    "/python/3.12.0/python-3.12.0-amd64.exe",
    "/foo/releases/download/v1.2.3/foo_1.2.3_linux_amd64.tar.gz",
    "/foo/archive/refs/tags/v1.2.3.tar.gz",
    "/foo/archive/0123456789abcdef0123456789abcdef01234567.tar.gz",
    "/foo/archive/abcdef0.zip",
    "/boost/boost_1_84_0.tar.bz2",
    "/packages/foo/foo-1.0.tar.gz.metadata",
    "/foo/-/foo-1.2.3.tgz",
    "/distfiles/ab/foo-stable-1.2.tar.xz",
    "/distfiles/ab/foo.zip",
    "/distfiles/ab/foo.xml",
    "/snapshots/gentoo-20260101.tar.xz.gpgsig",
    "/foo-7-x86_64.tar.gz",
    "/foo-1.2rc1.tar.gz",
    "/foo-2b.tar.gz",
)
"""What other kinds of repositories keep for ever, without a preset."""

ALSO_ASKED = (
    "/m2/org/foo/foo/maven-metadata.xml",
    "/m2/org/foo/foo/maven-metadata.xml.sha1",
    "/m2/org/foo/foo/maven-metadata-central.xml",
    "/m2/org/foo/foo/1.0-SNAPSHOT/foo-1.0-SNAPSHOT.jar",
    "/m2/org/foo/foo/1.0-SNAPSHOT/foo-1.0-SNAPSHOT-sources.jar.sha1",
    "/m2/archetype-catalog.xml",
    "/m2/.index/nexus-maven-repository-index.gz",
    "/m2/.index/nexus-maven-repository-index.812.gz",
    "/conda-forge/linux-64/repodata.json",
    "/conda-forge/linux-64/repodata.json.zst",
    "/conda-forge/linux-64/repodata.json.bz2",
    "/conda-forge/linux-64/current_repodata.json",
    "/conda-forge/linux-64/repodata.jlap",
    "/conda-forge/linux-64/repodata_shards.msgpack.zst",
    "/miniconda/Miniconda3-latest-Linux-x86_64.sh",
    "/cran/src/contrib/PACKAGES",
    "/cran/src/contrib/PACKAGES.gz",
    "/cran/src/contrib/PACKAGES.rds",
    "/cran/src/contrib/Meta/archive.rds",
    "/cran/src/base/R-latest.tar.gz",
    "/bioc/VIEWS.gz",
    "/cpan/modules/02packages.details.txt.gz",
    "/cpan/modules/03modlist.data.gz",
    "/cpan/modules/06perms.txt.gz",
    "/cpan/authors/01mailrc.txt.gz",
    "/cpan/authors/id/A/AB/ABC/CHECKSUMS",
    "/cpan/authors/RECENT-1h.json",
    "/gems/specs.4.8.gz",
    "/gems/latest_specs.4.8.gz",
    "/gems/prerelease_specs.4.8.gz",
    "/gems/Marshal.4.8.Z",
    "/gems/versions",
    "/gems/info/foo-1.x",
    "/dist/channel-rust-stable.toml",
    "/dist/channel-rust-stable.toml.sha256",
    "/dist/channel-rust-1.80.toml",
    "/dist/channel-rust-nightly.toml.asc",
    "/dist/rust-nightly-x86_64-unknown-linux-gnu.tar.xz",
    "/rustup/release-stable.toml",
    "/crates/config.json",
    "/flathub/repo/summary",
    "/flathub/repo/summary.sig",
    "/flathub/repo/summary.idx",
    "/flathub/repo/summary.idx.sig",
    "/flathub/repo/config",
    "/flathub/repo/refs/heads/ostree-1.0.tar",
    "/flathub/repo/delta-indexes/ab/0123456789abcdef.index",
    f"/flathub/repo/objects/ab/{HEX[2:]}.commitmeta",
    "/flathub/repo/org.foo.Bar.flatpakref",
    "/elpa/archive-contents",
    "/elpa/archive-contents.sig",
    "/elpa/foo-readme.txt",
    "/systems/texlive/tlnet/tlpkg/texlive.tlpdb",
    "/systems/texlive/tlnet/tlpkg/texlive.tlpdb.xz",
    "/systems/texlive/tlnet/tlpkg/texlive.tlpdb.sha512",
    "/systems/texlive/tlnet/tlpkg/texlive.tlpdb.sha512.asc",
    "/systems/texlive/tlnet/archive/l3kernel.tar.xz",
    "/systems/texlive/tlnet/archive/tikz-3dplot.tar.xz",
    "/systems/texlive/tlnet/archive/collection-4.tar.xz",
    "/systems/texlive/tlnet/install-tl-unx.tar.gz",
    "/systems/texlive/tlnet/update-tlmgr-latest.exe",
    "/systems/texlive/Images/texlive2024.iso",
    "/macros/latex/contrib/l3kernel.zip",
    "/flat/Packages.sig",
    "/images/cloud/debian-12-generic-amd64.qcow2",
    "/cdimage/debian-testing-amd64-netinst.iso",
    "/deb/packages-prod.deb",
    "/deb/foo_amd64.deb",
    "/deb/foo-stable_current_amd64.deb",
    "/deb/foo_latest_x86_64.deb",
    "/ubuntu/ubuntu-24.04-server-cloudimg-amd64.img",
    "/keys/archive-key-12.asc",
    "/v3.20/main/x86_64/APKINDEX.tar.gz",
    "/v3.20/releases/x86_64/latest-releases.yaml",
    "/edge/main/x86_64/Packages.adb",
    "/arch/core/os/x86_64/core.db",
    "/arch/core/os/x86_64/core.db.sig",
    "/msys2/mingw64/mingw64.db",
    "/msys2/mingw64/mingw64.files.sig",
    "/tumbleweed/iso/openSUSE-Tumbleweed-DVD-x86_64-Current.iso",
    "/tumbleweed/iso/openSUSE-Tumbleweed-DVD-x86_64-Current.iso.sha256",
    "/tumbleweed/iso/openSUSE-Tumbleweed-DVD-x86_64-CURRENT.iso.sha256.asc",
    "/tumbleweed/repo/oss/suse/setup/descr/packages.gz",
    "/tumbleweed/repo/oss/repodata/appdata.xml.gz",
    "/tumbleweed/repo/oss/license.tar.gz",
    "/repos/home_foo.repo",
    "/void/current/x86_64-repodata",
    "/void/musl/x86_64-musl-repodata.sig2",
    "/slackware64-15.0/PACKAGES.TXT",
    "/slackware64-15.0/CHECKSUMS.md5",
    "/slackware64-15.0/CHECKSUMS.md5.asc",
    "/slackware64-15.0/MANIFEST.bz2",
    "/fedora/os/images/pxeboot/initrd.img",
    "/fedora/os/images/pxeboot/vmlinuz",
    "/fedora/os/images/install.img",
    "/fedora/os/images/boot.iso",
    "/fedora/os/images/efiboot.img",
    "/fedora/os/.treeinfo",
    "/fedora/os/treeinfo",
    "/fedora/Fedora-Server-43-1.6-x86_64-CHECKSUM",
    "/epel/epel-release-latest-9.noarch.rpm",
    "/epel/remi-release-9.rpm",
    "/elrepo/elrepo-release-9.el9.elrepo.noarch.rpm",
    "/cloud/CentOS-7-x86_64-GenericCloud.qcow2",
    "/nix-cache-info",
    f"/{NIX[:32]}.narinfo",
    "/channels/nixos-24.05",
    "/channels/nixos-unstable/nixexprs.tar.xz",
    "/iso/latest-nixos-minimal-x86_64-linux.iso",
    "/brew/api/formula.jws.json",
    "/brew/api/internal/formula.arm64_sonoma.jws.json",
    "/go/example.org/foo/@v/list",
    "/go/example.org/foo/@latest",
    "/go/example.org/foo/@v/v1.info",
    "/go/example.org/foo/@v/v1.2.info",
    "/go/example.org/foo/@v/release-1.2.info",
    "/go/sumdb/sum.example.org/lookup/foo@v1.2.3+incompatible",
    "/v2/library/alpine/manifests/3.20.rc1",
    "/v2/library/alpine/tags/list",
    "/clamav/main.cvd",
    "/clamav/daily.cvd",
    "/clamav/bytecode.cvd",
    "/clamav/daily.cld",
    "/openwrt/Packages.manifest",
    "/openwrt/Packages.adb",
    "/openwrt/sha256sums.asc",
    "/openwrt/openwrt-x86-64-generic-ext4-combined.img.gz",
    "/openbsd/snapshots/amd64/base74.tgz",
    "/openbsd/snapshots/amd64/SHA256.sig",
    "/freebsd/packagesite.pkg",
    "/freebsd/meta.txz",
    "/pkgsrc/pkg_summary.gz",
    "/fdroid/repo/index-v1.jar",
    "/fdroid/repo/index-v2.json",
    "/fdroid/repo/entry.jar",
    "/luarocks/manifest-5.1.zip",
    "/luarocks/foo-scm-1.rockspec",
    "/luarocks/foo-scm-1.src.rock",
    "/hackage/01-index.tar.gz",
    "/hackage/00-index.tar",
    "/opam/index.tar.gz",
    "/opam/urls.txt",
    "/cygwin/x86_64/setup.xz",
    "/cygwin/x86_64/setup.zst.sig",
    "/cygwin/setup-x86_64.exe",
    "/charts/index.yaml",
    "/node/latest-v20.x/SHASUMS256.txt",
    "/node/latest-v20.x/SHASUMS256.txt.asc",
    "/node/setup_20.x",
    "/foo/releases/download/v1.2.3/foo-linux-amd64.tar.gz",
    "/foo/releases/download/v1.2.3/checksums.txt",
    "/foo/releases/latest/download/foo-1.2.tar.gz",
    "/foo/archive/refs/heads/release-1.2.tar.gz",
    "/foo/archive/main.zip",
    "/foo/foo-1.2-dev.tar.gz",
    "/foo/foo-Nightly-1.2.zip",
    "/foo/FOO_ROLLING_2.zip",
    "/geo/GeoLite2-City.mmdb",
    "/nvd/nvdcve-1.1-2023.json.gz",
    "/tools/commandlinetools-linux-11076708_latest.zip",
    "/cacert.pem",
    "/foo-linux-64.tar.gz",
    "/foo-win-64.zip",
    "/foo-utf-8.zip",
    "/foo-arm-v7.tar.gz",
    "/foo-x86-64-v3.zip",
    "/foo.mp3",
    "/foo.7z",
    "/foo_python3_x86_64.tar.bz2",
)
"""What other kinds of repositories write anew in place, numbers in its name or not."""


@pytest.mark.parametrize("text", PACKAGE_FILES)
def test_package_file_is_kept_for_ever(text: str) -> None:
    assert freshness_of(target(text)) is Freshness.IMMUTABLE
    assert freshness_of(target(text), "application/octet-stream") is Freshness.IMMUTABLE


@pytest.mark.parametrize("text", LISTS)
def test_list_is_asked_for_again(text: str) -> None:
    assert freshness_of(target(text)) is Freshness.REVALIDATE
    assert freshness_of(target(text), "application/octet-stream") is Freshness.REVALIDATE


def test_files_of_all_kinds_of_repositories_are_kept_for_ever() -> None:
    assert [text for text in ALSO_KEPT if freshness_of(target(text)) is not Freshness.IMMUTABLE] == []


def test_indexes_of_all_kinds_of_repositories_are_asked_for_again() -> None:
    for preset in (None, *Preset):
        if preset is not Preset.RAW:
            policy = RepositoryPolicy(Repository("root", (), preset=preset))
            kept = [text for text in ALSO_ASKED if policy.at(target(text)).freshness().how is not Freshness.REVALIDATE]
            assert kept == [], preset


@pytest.mark.parametrize(
    ("content_type", "freshness"),
    [
        ("text/html", Freshness.REVALIDATE),
        ("Text/HTML; charset=utf-8", Freshness.REVALIDATE),
        ("application/xhtml+xml", Freshness.REVALIDATE),
        ("application/json", Freshness.REVALIDATE),
        ("application/vnd.npm.install-v1+json", Freshness.REVALIDATE),
        ("application/xml", Freshness.REVALIDATE),
        ("text/xml; charset=utf-8", Freshness.REVALIDATE),
        ("application/rss+xml", Freshness.REVALIDATE),
        ("text/plain", Freshness.IMMUTABLE),
        ("application/x-xz", Freshness.IMMUTABLE),
        ("", Freshness.IMMUTABLE),
        (None, Freshness.IMMUTABLE),
    ],
)
def test_page_or_document_is_no_package_file_whatever_its_name(content_type: str | None, freshness: Freshness) -> None:
    """`/socket-1.io` may be a document of npm, and a captive portal answers for any name."""
    assert freshness_of(Target("/socket-1.io"), content_type) is freshness


def test_type_of_what_its_name_settles_does_not_count_but_for_a_page() -> None:
    """The POM of a release is XML, and a list of packages may be, whose name is its digest."""
    for path in ("/org/foo/1.0/foo-1.0.pom", f"/repodata/{HEX}-comps.xml", f"/v2/x/blobs/sha256:{HEX}"):
        for kind in ("text/xml", "application/json", "application/octet-stream"):
            assert freshness_of(Target(path), kind) is Freshness.IMMUTABLE
        assert freshness_of(Target(path), "text/html") is Freshness.REVALIDATE
    assert freshness_of(Target("/org/foo/1.0-SNAPSHOT/foo-1.0-SNAPSHOT.pom"), "text/xml") is Freshness.REVALIDATE
    assert freshness_of(Target("/org/foo/foo-1.0.pom"), "text/xml") is Freshness.REVALIDATE


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
        ("/images/boot.iso", "text/html,*/*;q=0.8", None),
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


TWINS = ("sig", "sig2", "asc", "sign", "gpg", "sha1", "SHA256", "sha512sum", "md5", "zsync", "torrent", "sha256.asc")


@settings(deadline=None)
@given(st.sampled_from(ALSO_KEPT + ALSO_ASKED + LISTS), st.sampled_from(TWINS))
def test_what_vouches_for_a_file_is_as_fresh_as_that_file(text: str, twin: str) -> None:
    if "?" not in text and not text.endswith("/"):
        path = target(text).path
        known = POLICY.at(Target(path)).freshness().how
        # What is named by the digest of its own bytes vouches for nothing, and nothing is beside it.
        if has_suffix(path):
            assert POLICY.at(Target(f"{path}.{twin}")).freshness().how is known


def test_what_vouches_for_a_file_is_as_fresh_as_a_rule_has_that_file() -> None:
    rules = (Rule("summary", Fresh(Freshness.TIMED, "5m", 300)), Rule("*.iso.asc", Fresh(Freshness.NEVER, "never")))
    policy = RepositoryPolicy(Repository("root", (), rules=(*rules, Rule("*.iso", Fresh(Freshness.TIMED, "1h", 3600)))))
    texts = [
        policy.at(Target(f"/{name}")).freshness().text for name in ("summary.sig", "a.iso.sha256", "a.iso.asc", "a-1.tar")
    ]
    assert texts == ["5m", "1h", "never", "immutable"]
