"""Portage itself, from its package index, and a prefix of its own: an ebuild repository, and all that it reads and writes.

Import `provide_portage` and `provide_install` into a test module to have the fixtures `portage` and `install`.
"""

import grp
import hashlib
import os
import pwd
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from machines import Machine, environment_of
from mirror import archive, clean_environment, require

VERSION = "3.0.83"
NAME = "foo+bar~1.0_rc1.tar.xz"


@pytest.fixture(name="portage", scope="session")
def provide_portage() -> Path:
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
    """A prefix with settings and an ebuild repository of one package, `app-misc/foo`, whose one distfile is `data`."""

    portage: Path
    root: Path
    data: bytes
    name: str

    def install(self) -> None:
        """Write what Portage reads."""
        user = pwd.getpwuid(os.getuid()).pw_name
        group = grp.getgrgid(os.getgid()).gr_name
        features = "-userfetch -userpriv -usersync -sandbox -usersandbox -network-sandbox -pid-sandbox -ipc-sandbox -news"
        repository = "repository/"
        files = {
            f"{repository}metadata/layout.conf": "masters =\nthin-manifests = true\nmanifest-hashes = BLAKE2B SHA512\n",
            f"{repository}profiles/repo_name": "gentoo\n",
            f"{repository}profiles/categories": "app-misc\n",
            f"{repository}profiles/arch.list": "amd64\n",
            f"{repository}profiles/test/eapi": "8\n",
            f"{repository}profiles/test/make.defaults": 'ARCH="amd64"\nACCEPT_KEYWORDS="amd64"\n',
            "etc/portage/repos.conf": (
                f"[DEFAULT]\nmain-repo = gentoo\n\n[gentoo]\nlocation = {self.root}/repository\nauto-sync = no\n"
            ),
            "etc/portage/make.conf": (
                f'FEATURES="{features}"\nPORTAGE_USERNAME="{user}"\nPORTAGE_GRPNAME="{group}"\n'
                f'PORTAGE_TMPDIR="{self.root}"\nPORTAGE_DEPCACHEDIR="{self.root}/dep"\nPKGDIR="{self.root}/packages"\n'
                'CHOST="x86_64-pc-linux-gnu"\nACCEPT_LICENSE="*"\n'
            ),
        }
        machine = Machine(self.root)
        for name, text in files.items():
            machine.write(name, text)
        (self.root / "etc/portage/make.profile").symlink_to(self.root / "repository/profiles/test")
        # What comes with Portage is looked for below the prefix.
        (self.root / "share").symlink_to(self.portage / "share")
        self.add("foo", self.name, self.data)

    def add(self, package: str, distfile: str, data: bytes) -> None:
        """Add version 1 of a package to the repository. It installs its distfile as it is."""
        sums = f"BLAKE2B {hashlib.blake2b(data).hexdigest()} SHA512 {hashlib.sha512(data).hexdigest()}"
        lines = ["EAPI=8", 'DESCRIPTION="A test"', 'HOMEPAGE="http://mirror.example/"', 'LICENSE="GPL-3+"', "SLOT=0"]
        lines += ['KEYWORDS="amd64"', f'SRC_URI="mirror://gentoo/{distfile}"', 'S="${WORKDIR}"', "src_unpack() { :; }"]
        lines += [f'src_install() {{ insinto /opt/{package}; newins "${{DISTDIR}}/{distfile}" data; }}', ""]
        repository = Machine(self.root / "repository/app-misc" / package)
        repository.write(f"{package}-1.ebuild", "\n".join(lines))
        repository.write("Manifest", f"DIST {distfile} {len(data)} {sums}\n")

    def run(self, program: str, *words: str, fails: bool = False, **variables: str) -> str:
        """Run a program of Portage that must succeed, or, told so, fail; what it said."""
        prefix = {"PORTAGE_CONFIGROOT": str(self.root), "PORTAGE_OVERRIDE_EPREFIX": str(self.root)}
        return Machine(self.root).run(self.portage / "bin" / program, *words, fails=fails, **prefix, **variables)

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


@pytest.fixture(name="install")
def provide_install(portage: Path, tmp_path: Path) -> Callable[..., Gentoo]:
    """Makes the package for a distfile of so many bytes."""

    def _install(size: int, name: str = NAME) -> Gentoo:
        gentoo = Gentoo(portage, tmp_path / "gentoo", archive(size), name)
        gentoo.install()
        return gentoo

    return _install


Install = Callable[..., Gentoo]
