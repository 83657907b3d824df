"""`emerge` and `emerge-webrsync`, through the product: a binary package host, snapshots, distfiles fetched in advance."""

import gzip
import hashlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from gentoo import (
    Gentoo,
    Install,
    provide_install,  # noqa: F401 - the fixture `install`
    provide_portage,  # noqa: F401 - the fixture `portage`
)
from machines import Machine, Serve, pasted, serve_pasted, statuses, told
from mirror import (
    Mirror,
    archive,
    poll,
    require,
    run_mirror,  # noqa: F401 - the fixture `mirror`
    settle,
    start_without_errors,  # noqa: F401 - the fixture `serve`
)
from packing import PACKERS, tar

HEADING = "Gentoo"
BINHOST = "releases/amd64/binpackages/23.0/x86-64"


@dataclass(frozen=True)
class Binhost:
    """A binary package host on a mirror, and who builds for it."""

    mirror: Mirror
    gentoo: Gentoo

    @property
    def root(self) -> Path:
        return self.mirror.root / BINHOST

    def build(self) -> None:
        """Build the package."""
        distdir = self.gentoo.root / "built"
        distdir.mkdir()
        (distdir / self.gentoo.name).write_bytes(self.gentoo.data)
        words = "--buildpkgonly", "--oneshot", "--nodeps", "app-misc/foo"
        self.gentoo.run("emerge", *words, DISTDIR=str(distdir), PKGDIR=str(self.root))

    def pack(self) -> None:
        """Make another binary package of what is installed."""
        self.gentoo.run("quickpkg", "app-misc/foo", PKGDIR=str(self.root))

    def publish(self, ago: float) -> None:
        """Have the index say that it was made so many seconds ago."""
        index, when = self.root / "Packages", int(time.time() - ago)
        text = re.sub(r"(?m)^TIMESTAMP: .*$", f"TIMESTAMP: {when}", index.read_text())
        index.write_text(text)
        (self.root / "Packages.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        for name in ("Packages", "Packages.gz"):
            os.utime(self.root / name, (when, when))


@pytest.fixture
def binhost(mirror: Mirror, install: Install) -> Binhost:
    """A host with one binary package."""
    one = Binhost(mirror, install(200_000, "foo-1.tar.xz"))
    one.build()
    one.publish(ago=5000)
    return one


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def emerge(gentoo: Gentoo, *words: str, anew: bool = True, **variables: str) -> str:
    """Have emerge get the binary package, on another machine if `anew`; what it said."""
    for kept in ("packages", "var/cache", "opt") if anew else ():
        shutil.rmtree(gentoo.root / kept, ignore_errors=True)
    return gentoo.run("emerge", "--getbinpkgonly", "--oneshot", "--nodeps", *words, "app-misc/foo", **variables)


def test_emerge_installs_binary_packages_from_the_mirror_once_and_sees_a_new_build_at_once(
    binhost: Binhost, mirror: Mirror, serve: Serve
) -> None:
    gentoo = binhost.gentoo
    proxy = serve_pasted(serve, HEADING, mirror, at="gentoo/")
    emerge(gentoo, "--fetchonly", PORTAGE_BINHOST=f"{proxy.url}gentoo/{BINHOST}")
    settle(proxy, mirror)
    lines = told(pasted(HEADING, "/etc/portage/binrepos.conf"), proxy)
    Machine(gentoo.root).write("etc/portage/binrepos.conf", f"{lines}verify-signature = no\n")
    assert "foo-1-1.gpkg.tar MD5 SHA1 size ;-)" in emerge(gentoo)
    assert (gentoo.root / "opt/foo/data").read_bytes() == gentoo.data
    assert statuses(mirror, ".gpkg.tar") == [("foo-1-1.gpkg.tar", 200)]
    assert statuses(mirror, "Packages.gz") == [("Packages.gz", 200), ("Packages.gz", 304)]
    # The client asks with the time of its index and five seconds more, which is no time of any file.
    assert "Local copy of remote index is up-to-date" in emerge(gentoo, "--pretend", anew=False)
    poll(lambda: any('Packages.gz HTTP/1.1" 304 ' in line for line in proxy.log))

    binhost.pack()
    binhost.publish(ago=50)
    assert "foo-1-2.gpkg.tar" in emerge(gentoo, "--fetchonly", anew=False)
    mirror.stop()
    assert "foo-1-2.gpkg.tar MD5 SHA1 size ;-)" in emerge(gentoo)
    assert (gentoo.root / "opt/foo/data").read_bytes() == gentoo.data


def test_webrsync_finds_a_snapshot_that_was_not_there_the_time_before(
    install: Install, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    require("rsync", "tar")
    gentoo = install(1_000)
    proxy = serve_pasted(serve, HEADING, mirror, at="gentoo/")
    conf = gentoo.root / "etc/portage/make.conf"
    conf.write_text(conf.read_text() + told(pasted(HEADING, "/etc/portage/make.conf"), proxy))

    repository = gentoo.root / "repository"
    files = {str(path.relative_to(repository)): path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    # The snapshot of a day is made early on the next one; until an hour past midnight none is expected.
    newest = time.time() - 86400 * (2 if time.gmtime().tm_hour < 1 else 1)

    def offer(days: int) -> str:
        """Have the mirror offer the snapshot that is so many days older than the newest; its name."""
        day = newest - 86400 * days
        name = time.strftime("gentoo-%Y%m%d.tar.xz", time.gmtime(day))
        stamp = f"{int(day - day % 86400) + 86400 + 2700} whatever\n"
        content = files | {"metadata/timestamp.x": stamp.encode(), "profiles/day": name.encode() + b"\n" * days}
        data = PACKERS["xz"](tar({f"gentoo/{path}": text for path, text in content.items()}))
        for suffix, text in (("", data), (".md5sum", f"{md5(data)}  {name}\n".encode()), (".gpgsig", b"unsigned\n")):
            mirror.put(f"snapshots/{name}{suffix}", text)
        return name

    def sync(machine: str) -> str:
        """Sync the repository anew; the name of the snapshot that is there now."""
        gentoo.run("emerge-webrsync", "--no-pgp-verify", "--keep", DISTDIR=str(gentoo.root / machine))
        return (repository / "profiles/day").read_text().strip()

    older = offer(2)
    assert sync("first") == older
    latest = offer(0)
    assert sync("first") == latest
    mirror.stop()
    (repository / "metadata/timestamp.x").unlink()
    assert sync("second") == latest
    files = [one.path for one in mirror.seen() if one.status == 200]
    assert len(files) == len(set(files)) == 6


WAITS = """
pkg_setup() {
    local left=300
    until [[ -e ${PORTAGE_ACTUAL_DISTDIR}/bar-1.tar.xz ]] || (( --left < 0 )); do sleep 0.1; done
    die "enough"
}
"""
"""Has the build of a package wait for the file of another one."""


def test_emerge_fetches_in_advance_and_goes_on_where_it_stopped(
    install: Install, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    gentoo = install(700_000)
    ebuild = gentoo.root / "repository/app-misc/foo/foo-1.ebuild"
    ebuild.write_text(ebuild.read_text() + WAITS)
    other = archive(600_000, seed=1)
    gentoo.add("bar", "bar-1.tar.xz", other)
    paths = mirror.put_distfile(gentoo.name, gentoo.data), mirror.put_distfile("bar-1.tar.xz", other)
    proxy = serve_pasted(serve, HEADING, mirror, at="gentoo/")
    conf = gentoo.root / "etc/portage/make.conf"
    conf.write_text(conf.read_text() + told(pasted(HEADING, "/etc/portage/make.conf"), proxy))

    def emerge_both(distdir: Path, *words: str, fails: bool = False) -> None:
        distdir.mkdir()
        (distdir / "bar-1.tar.xz.__download__").write_bytes(other[:400_000])
        packages = "--oneshot", "--nodeps", "app-misc/foo", "app-misc/bar"
        gentoo.run("emerge", *words, *packages, fails=fails, DISTDIR=str(distdir))
        assert ((distdir / gentoo.name).read_bytes(), (distdir / "bar-1.tar.xz").read_bytes()) == (gentoo.data, other)

    emerge_both(tmp_path / "first", "--buildpkgonly", fails=True)
    assert "bar-1.tar.xz" in (gentoo.root / "var/log/emerge-fetch.log").read_text()
    assert [[one.status for one in mirror.seen_of(path) if not one.range] for path in paths] == [[200], [200]]
    mirror.stop()
    emerge_both(tmp_path / "second", "--fetchonly")
    poll(lambda: sum(f'" 206 {len(other) - 400_000} ' in line for line in proxy.log) == 2)
