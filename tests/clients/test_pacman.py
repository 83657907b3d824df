"""Arch's pacman, through the product, from repositories that are made with `repo-add`."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from machines import Machine, Serve, pasted, serve_pasted, statuses, told
from mirror import (
    Mirror,
    archive,
    poll,
    require,
    run_mirror,  # noqa: F401 - the fixture `mirror`
    start_without_errors,  # noqa: F401 - the fixture `serve`
)
from packing import tar, zstd
from product import Proxy

HEADING = "Arch Linux"


@dataclass
class Arch:
    """The repository "extra" of a mirror, and the directory in which its database is made."""

    mirror: Mirror
    build: Path

    def release(self, version: str) -> Path:
        """Add a version of the package to the repository; its file there."""
        lines = [
            "pkgname = demo",
            "pkgbase = demo",
            f"pkgver = {version}",
            "pkgdesc = nothing",
            "url = http://mirror.example/",
        ]
        lines += ["builddate = 1700000000", "packager = nobody", "size = 300000", "arch = any", "license = none", ""]
        files = {".PKGINFO": "\n".join(lines).encode(), "demo.version": version.encode(), "demo.data": archive(300_000)}
        folder = self.mirror.root / "archlinux/extra/os/x86_64"
        file = folder / f"demo-{version}-any.pkg.tar.zst"
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(zstd(tar(files)))
        Machine(self.build).run("repo-add", "--quiet", self.build / "extra.db.tar.gz", file)
        for kind in ("db", "files"):
            shutil.copyfile(self.build / f"extra.{kind}.tar.gz", folder / f"extra.{kind}")
        self.mirror.publish()
        return file


@pytest.fixture
def arch(mirror: Mirror, tmp_path: Path) -> Arch:
    """A repository with one release of a package, whose name needs an escape."""
    require("pacman", "repo-add", "bsdtar")
    if os.geteuid():
        pytest.skip("pacman installs for root only")
    one = Arch(mirror, tmp_path / "build")
    one.release("1:1.0+r1-1")
    return one


class Pacman(Machine):
    """An Arch machine without a package installed."""

    def set_up(self, proxy: Proxy) -> None:
        """Write its settings and the mirrorlist, as the guide says."""
        for name in ("root", "db", "packages", "gpg", "hooks"):
            (self.folder / name).mkdir()
        self.write("mirrorlist", told(pasted(HEADING, "/etc/pacman.d/mirrorlist"), proxy))
        lines = [
            "[options]",
            "Architecture = x86_64",
            "SigLevel = Never",
            "[extra]",
            f"Include = {self.folder}/mirrorlist",
            "",
        ]
        self.write("pacman.conf", "\n".join(lines))

    def pacman(self, *words: str) -> str:
        """Run pacman; what it said."""
        places = {"root": "root", "dbpath": "db", "cachedir": "packages", "gpgdir": "gpg", "hookdir": "hooks"}
        places |= {"logfile": "log", "config": "pacman.conf"}
        options = [word for name, path in places.items() for word in (f"--{name}", str(self.folder / path))]
        return self.run("pacman", *options, "--noconfirm", "--noprogressbar", *words)

    def install(self) -> str:
        """Read the databases and install the newest release; its version. Its file is not kept."""
        self.pacman("-Sy", "demo")
        assert (self.folder / "root/demo.data").read_bytes() == archive(300_000)
        shutil.rmtree(self.folder / "packages")
        (self.folder / "packages").mkdir()
        return (self.folder / "root/demo.version").read_text()


def test_pacman_installs_each_package_from_the_mirror_once_and_sees_a_new_one_at_once(
    arch: Arch, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    proxy = serve_pasted(serve, HEADING, mirror)
    machines = [Pacman(tmp_path / name) for name in ("first", "second", "late")]
    for machine in machines:
        machine.set_up(proxy)
    assert [machine.install() for machine in machines[:2]] == ["1:1.0+r1-1"] * 2
    assert statuses(mirror, ".zst") == [("demo-1:1.0+r1-1-any.pkg.tar.zst", 200)]
    assert statuses(mirror, ".db") == [("extra.db", 200), ("extra.db", 304)]
    machines[0].install()
    poll(lambda: any('extra.db HTTP/1.1" 304 ' in line for line in proxy.log))

    arch.release("1:1.1-1")
    assert [machine.install() for machine in machines[:2]] == ["1:1.1-1"] * 2
    assert statuses(mirror, ".zst")[1:] == [("demo-1:1.1-1-any.pkg.tar.zst", 200)]
    assert [status for _, status in statuses(mirror, ".db")][2:] == [304, 200, 304]

    machines[0].pacman("-Fy")
    mirror.stop()
    assert [machine.install() for machine in machines] == ["1:1.1-1"] * 3
    machines[2].pacman("-Fy")


def test_pacman_resumes_half_a_package_from_a_cold_and_from_a_warm_cache(
    arch: Arch, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    file = arch.release("2:1-1")
    proxy = serve_pasted(serve, HEADING, mirror)
    size = file.stat().st_size
    for name in ("cold", "warm"):
        machine = Pacman(tmp_path / name)
        machine.set_up(proxy)
        machine.pacman("-Sy")
        (machine.folder / f"packages/{file.name}.part").write_bytes(file.read_bytes()[: size // 2])
        machine.pacman("-Sw", "demo")
        assert (machine.folder / "packages" / file.name).read_bytes() == file.read_bytes()
    poll(lambda: sum(f'" 206 {size - size // 2} ' in line for line in proxy.log) == 2)
    assert [one.status for one in mirror.seen() if one.path.endswith(".zst") and not one.range] == [200]
