"""Portage itself, from its package index, fetching through the product from a real mirror."""

import grp
import hashlib
import os
import pwd
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from machines import environment_of
from mirror import (
    Mirror,
    archive,
    clean_environment,
    poll,
    require,
    run_mirror,  # noqa: F401 - the fixture `mirror`
    start_without_errors,  # noqa: F401 - the fixture `serve`
)
from product import Proxy

Serve = Callable[..., Proxy]

VERSION = "3.0.83"
NAME = "foo+bar~1.0_rc1.tar.xz"
LAYOUT = "/distfiles/layout.conf"


@pytest.fixture(params=("wsgiref", "gunicorn"))
def host(request: pytest.FixtureRequest) -> str:
    """The two ways to run the command."""
    return str(request.param)


@pytest.fixture(scope="session")
def portage() -> Path:
    """A virtual environment with Portage: a named one, else one that is made once."""
    require("wget", "bash")
    named = os.environ.get("PACKAGE_CACHE_TEST_PORTAGE")
    if named:
        if not (Path(named) / "bin" / "ebuild").exists():
            pytest.fail(f"PACKAGE_CACHE_TEST_PORTAGE={named} has no bin/ebuild")
        return Path(named)
    return environment_of("portage", VERSION)


@dataclass(frozen=True)
class Gentoo:
    """A configuration root and an ebuild repository with one package, whose one distfile is `data`."""

    portage: Path
    root: Path
    data: bytes
    name: str

    def install(self) -> None:
        """Write what Portage reads."""
        user = pwd.getpwuid(os.getuid()).pw_name
        group = grp.getgrgid(os.getgid()).gr_name
        sums = f"BLAKE2B {hashlib.blake2b(self.data).hexdigest()} SHA512 {hashlib.sha512(self.data).hexdigest()}"
        ebuild = ["EAPI=8", 'DESCRIPTION="A test"', 'HOMEPAGE="http://mirror.example/"', 'LICENSE="GPL-3+"', "SLOT=0"]
        features = "-userfetch -userpriv -usersync -sandbox -usersandbox -network-sandbox -pid-sandbox -ipc-sandbox -news"
        repository = "repository/"
        files = {
            f"{repository}metadata/layout.conf": "masters =\nthin-manifests = true\nmanifest-hashes = BLAKE2B SHA512\n",
            f"{repository}profiles/repo_name": "gentoo\n",
            f"{repository}profiles/categories": "app-misc\n",
            f"{repository}profiles/arch.list": "amd64\n",
            f"{repository}profiles/test/eapi": "8\n",
            f"{repository}profiles/test/make.defaults": 'ARCH="amd64"\nACCEPT_KEYWORDS="amd64"\n',
            f"{repository}app-misc/foo/foo-1.ebuild": "\n".join([*ebuild, f'SRC_URI="mirror://gentoo/{self.name}"', ""]),
            f"{repository}app-misc/foo/Manifest": f"DIST {self.name} {len(self.data)} {sums}\n",
            "etc/portage/repos.conf": (
                f"[DEFAULT]\nmain-repo = gentoo\n\n[gentoo]\nlocation = {self.root}/repository\nauto-sync = no\n"
            ),
            "etc/portage/make.conf": (
                f'FEATURES="{features}"\nPORTAGE_USERNAME="{user}"\nPORTAGE_GRPNAME="{group}"\n'
                f'PORTAGE_TMPDIR="{self.root}"\nPORTAGE_DEPCACHEDIR="{self.root}/dep"\nPKGDIR="{self.root}/packages"\n'
            ),
        }
        for name, text in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)
        (self.root / "etc/portage/make.profile").symlink_to(self.root / "repository/profiles/test")

    def start(self, distdir: Path, *mirrors: str) -> "subprocess.Popen[str]":
        """Begin `ebuild foo-1.ebuild fetch` into `distdir`."""
        distdir.mkdir(exist_ok=True)
        environment = clean_environment(self.root / "home") | {
            "PORTAGE_CONFIGROOT": str(self.root),
            "GENTOO_MIRRORS": " ".join(mirrors),
            "DISTDIR": str(distdir),
        }
        ebuild = self.root / "repository/app-misc/foo/foo-1.ebuild"
        command = [str(self.portage / "bin" / "python"), str(self.portage / "bin" / "ebuild"), str(ebuild), "fetch"]
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def fetch(self, distdir: Path, *mirrors: str) -> str:
        """Fetch; what Portage said."""
        return self.finish(self.start(distdir, *mirrors), distdir)

    def has_begun(self, distdir: Path, size: int = 0) -> bool:
        """Whether more than `size` bytes of the distfile have arrived."""
        arriving = distdir / f"{self.name}.__download__"
        return arriving.exists() and arriving.stat().st_size > size

    def finish(self, process: "subprocess.Popen[str]", distdir: Path) -> str:
        """Wait for a fetch that must succeed; what Portage said."""
        with process:
            said = process.communicate(timeout=60)[0]
        assert process.returncode == 0, said
        assert f"{self.name} BLAKE2B SHA512 size ;-)" in said, said
        assert (distdir / self.name).read_bytes() == self.data
        return said


@pytest.fixture
def install(portage: Path, tmp_path: Path) -> Callable[..., Gentoo]:
    """Makes the package for a distfile of so many bytes."""

    def _install(size: int, name: str = NAME) -> Gentoo:
        gentoo = Gentoo(portage, tmp_path / "gentoo", archive(size), name)
        gentoo.install()
        return gentoo

    return _install


Install = Callable[..., Gentoo]


@pytest.mark.parametrize("slash", ["", "/"], ids=["without-slash", "with-slash"])
def test_a_distfile_is_fetched_once_for_all_machines_and_outlives_the_mirror(
    host: str, slash: str, mirror: Mirror, serve: Serve, install: Install, tmp_path: Path
) -> None:
    gentoo = install(700_000)
    path = mirror.put_distfile(NAME, gentoo.data)
    here = serve(mirror.url, host=host).url.rstrip("/") + slash
    gentoo.fetch(tmp_path / "first", here)
    assert [(one.path, one.status) for one in mirror.seen()] == [(LAYOUT, 200), (path, 200)]
    gentoo.fetch(tmp_path / "second", here)
    assert [(one.path, one.status) for one in mirror.seen()[2:]] == [(LAYOUT, 304)]
    mirror.stop()
    said = gentoo.fetch(tmp_path / "third", here)
    assert f"{here.rstrip('/')}{LAYOUT}'" in said
    assert f"{here.rstrip('/')}{path.rpartition('/')[0]}/" in said


def test_a_layout_that_appears_on_the_mirror_is_followed_at_once(
    host: str, mirror: Mirror, serve: Serve, install: Install, tmp_path: Path
) -> None:
    gentoo = install(100_000)
    layout = mirror.root / LAYOUT.lstrip("/")
    layout.unlink()
    flat = mirror.put(f"distfiles/{NAME}", gentoo.data)
    here = serve(mirror.url, host=host).url
    gentoo.fetch(tmp_path / "first", here)
    assert [(one.path, one.status) for one in mirror.seen()] == [(LAYOUT, 404), (flat, 200)]
    layout.write_text("[structure]\n0=filename-hash BLAKE2B 8\n")
    path = mirror.put_distfile(NAME, gentoo.data)
    gentoo.fetch(tmp_path / "second", here)
    assert [(one.path, one.status) for one in mirror.seen()[2:]] == [(LAYOUT, 200), (path, 200)]


def test_half_a_distfile_is_resumed_from_a_cold_and_from_a_warm_cache(
    host: str, mirror: Mirror, serve: Serve, install: Install, tmp_path: Path
) -> None:
    gentoo = install(3_000_000)
    path = mirror.put_distfile(NAME, gentoo.data)
    proxy = serve(mirror.url, host=host, arguments=["--verbose"])
    half = len(gentoo.data) // 2
    for cache in ("cold", "warm"):
        (tmp_path / cache).mkdir()
        (tmp_path / cache / f"{NAME}.__download__").write_bytes(gentoo.data[:half])
        gentoo.fetch(tmp_path / cache, proxy.url)
    poll(lambda: len([line for line in proxy.log if f'" 206 {len(gentoo.data) - half} ' in line]) == 2)
    assert [one.status for one in mirror.seen_of(path) if not one.range] == [200]
    mirror.stop()
    gentoo.fetch(tmp_path / "whole", proxy.url)


def test_two_machines_that_fetch_a_cold_distfile_at_once_cost_the_mirror_one_transfer(
    host: str, mirror: Mirror, serve: Serve, install: Install, tmp_path: Path
) -> None:
    gentoo = install(4_000_000, "paced-1.tar")
    path = mirror.put_distfile(gentoo.name, gentoo.data)
    here = serve(mirror.url, host=host).url
    distdirs = tmp_path / "first", tmp_path / "second"
    running = []
    for distdir in distdirs:
        running.append(gentoo.start(distdir, here))
        poll(partial(gentoo.has_begun, distdir))
    assert [process.poll() for process in running] == [None, None]
    for process, distdir in zip(running, distdirs, strict=True):
        gentoo.finish(process, distdir)
    assert [one.status for one in mirror.seen_of(path)] == [200]


def test_portage_heals_a_transfer_that_the_mirror_broke(
    host: str, mirror: Mirror, serve: Serve, install: Install, tmp_path: Path
) -> None:
    gentoo = install(4_000_000, "paced-2.tar")
    path = mirror.put_distfile(gentoo.name, gentoo.data)
    here = serve(mirror.url, host=host).url
    process = gentoo.start(tmp_path / "first", here)
    poll(lambda: gentoo.has_begun(tmp_path / "first", 500_000))
    mirror.stop()
    mirror.start()
    gentoo.finish(process, tmp_path / "first")
    asked = mirror.seen_of(path)
    assert {one.status for one in asked} == {206}
    gentoo.fetch(tmp_path / "second", here)
    assert mirror.seen_of(path) == asked


def test_portage_goes_on_to_its_next_mirror_for_what_the_sources_lack(
    host: str, mirror: Mirror, serve: Serve, install: Install, tmp_path: Path
) -> None:
    gentoo = install(1_000)
    (tmp_path / "other").mkdir()
    other = Mirror(tmp_path / "other")
    try:
        path = other.put_distfile(NAME, gentoo.data)
        gentoo.fetch(tmp_path / "first", serve(mirror.url, host=host).url, other.url)
        assert [one.status for one in mirror.seen_of(path)] == [404]
        assert [one.status for one in other.seen_of(path)] == [200]
    finally:
        other.close()
