"""Fedora's dnf, through the product, from repositories that are made with `rpmbuild` and `createrepo_c`."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from machines import Machine, Serve, pasted, serve_pasted, statuses, told
from mirror import (
    Mirror,
    archive,
    require,
    run_mirror,  # noqa: F401 - the fixture `mirror`
    start_without_errors,  # noqa: F401 - the fixture `serve`
)
from product import Proxy

HEADING = "Fedora"
RELEASE = "42"
SPEC = """\
Name: demo
Version: {version}
Release: 1
Summary: nothing
License: none
BuildArch: noarch
%description
Nothing.
%install
mkdir -p %{{buildroot}}/opt/demo
cp {data} %{{buildroot}}/opt/demo/data
echo {version} >%{{buildroot}}/opt/demo/version
%files
/opt/demo
"""


@dataclass
class Fedora:
    """A repository of a mirror, and the directory in which its packages are built."""

    mirror: Mirror
    build: Path
    folder: str = f"fedora/linux/releases/{RELEASE}/Everything/x86_64/os"

    @property
    def root(self) -> Path:
        return self.mirror.root / self.folder

    def release(self, version: str) -> None:
        """Add a version of the package to the repository."""
        (self.build / "data").write_bytes(archive(300_000))
        (self.build / "demo.spec").write_text(SPEC.format(version=version, data=self.build / "data"))
        packages = self.root / "Packages/d"
        packages.mkdir(parents=True, exist_ok=True)
        settings = {"_topdir": self.build, "_rpmdir": self.build, "_rpmfilename": "demo.rpm", "_binary_payload": "w1.gzdio"}
        defined = [word for name, value in settings.items() for word in ("--define", f"{name} {value}")]
        builder = Machine(self.build)
        builder.run("rpmbuild", "-bb", "--quiet", "--nodeps", *defined, self.build / "demo.spec")
        shutil.move(self.build / "demo.rpm", packages / f"demo-{version}-1.noarch.rpm")
        builder.run("createrepo_c", "--quiet", self.root)
        self.mirror.publish()


@pytest.fixture
def fedora(mirror: Mirror, tmp_path: Path) -> Fedora:
    """A repository with one release of a package."""
    require("dnf", "createrepo_c", "rpmbuild")
    if os.geteuid():
        pytest.skip("dnf installs for root only")
    (tmp_path / "build").mkdir()
    one = Fedora(mirror, tmp_path / "build")
    one.release("1.0~rc1")
    return one


class Dnf(Machine):
    """A Fedora machine without a package installed."""

    def set_up(self, proxy: Proxy) -> None:
        """Write its settings and its repository, as the guide says."""
        self.write("repos/fedora.repo", told(pasted(HEADING, "/etc/yum.repos.d/fedora.repo"), proxy))
        places = {"reposdir": "repos", "cachedir": "cache", "persistdir": "persist", "logdir": "log", "varsdir": "vars"}
        lines = ["[main]", "gpgcheck=0", "plugins=0", "retries=1", "pluginconfpath=/dev/null"]
        lines += [f"{name}={self.folder / path}" for name, path in places.items()]
        self.write("dnf.conf", "\n".join([*lines, ""]))

    def dnf(self, *words: str) -> str:
        """Run dnf; what it said."""
        root = self.folder / "root"
        places = [
            f"--config={self.folder / 'dnf.conf'}",
            f"--installroot={root}",
            f"--setopt=cachedir={self.folder / 'cache'}",
        ]
        return self.run("dnf", "-y", *places, f"--releasever={RELEASE}", "--forcearch=x86_64", *words)

    def install(self) -> str:
        """Read the indexes and install the newest release; its version."""
        self.dnf("install", "--refresh", "--best", "demo")
        assert (self.folder / "root/opt/demo/data").read_bytes() == archive(300_000)
        return (self.folder / "root/opt/demo/version").read_text().strip()


def test_dnf_installs_each_package_from_the_mirror_once_and_sees_a_new_one_at_once(
    fedora: Fedora, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    proxy = serve_pasted(serve, HEADING, mirror)
    first, second, late = machines = [Dnf(tmp_path / name) for name in ("first", "second", "late")]
    for machine in machines:
        machine.set_up(proxy)
    assert [first.install(), second.install()] == ["1.0~rc1"] * 2
    assert statuses(mirror, ".rpm") == [("demo-1.0~rc1-1.noarch.rpm", 200)]
    assert statuses(mirror, "repomd.xml") == [("repomd.xml", 200), ("repomd.xml", 304)]
    lists = [one.path for one in mirror.seen() if "/repodata/" in one.path and not one.path.endswith("repomd.xml")]
    assert lists
    assert len(lists) == len(set(lists))

    fedora.release("1.1")
    assert first.install() == "1.1"
    mirror.stop()
    assert late.install() == "1.1"


def test_dnf_finds_updates_by_the_other_file_of_the_readme(
    fedora: Fedora, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    Fedora(mirror, fedora.build, f"fedora/linux/updates/{RELEASE}/Everything/x86_64").release("1.1")
    proxy = serve_pasted(serve, HEADING, mirror)
    machine = Dnf(tmp_path / "machine")
    machine.set_up(proxy)
    machine.write("repos/fedora-updates.repo", told(pasted(HEADING, "/etc/yum.repos.d/fedora-updates.repo"), proxy))
    assert machine.install() == "1.1"
