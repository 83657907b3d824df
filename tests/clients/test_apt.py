"""Debian's apt, through the product, from repositories that are made with Debian's own tools."""

import gzip
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from machines import CACHE, Machine, Serve, pasted, serve_pasted, set_time_of, sha256, statuses, told
from mirror import (
    Mirror,
    archive,
    poll,
    require,
    run_mirror,  # noqa: F401 - the fixture `mirror`
    settle,
    start_without_errors,  # noqa: F401 - the fixture `serve`
)
from product import Proxy

HEADING = "Debian"
LINE = f"deb {CACHE}debian/ stable main\n"
"""The first of the sources that the guide has, with another suite, in one line."""


@dataclass
class Debian:
    """A suite of a repository in a directory of a mirror. `key` is the directory of the key it is signed with, if any."""

    mirror: Mirror
    build: Path
    key: Path | None
    published: datetime = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    folder: str = "debian"
    suite: str = "stable"

    @property
    def root(self) -> Path:
        return self.mirror.root / self.folder

    @property
    def lists(self) -> Path:
        """Where the suite has its indexes."""
        return self.root / "dists" / self.suite / "main/binary-all"

    def add(self, version: str, size: int = 200_000) -> Path:
        """Build a package of that version and put it into the pool; its file there. `publish` makes it known."""
        folder = self.build / "package"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "DEBIAN").mkdir(parents=True)
        lines = ["Package: demo", f"Version: {version}", "Architecture: all", "Maintainer: nobody <nobody@mirror.example>"]
        (folder / "DEBIAN/control").write_text("\n".join([*lines, "Description: nothing", ""]))
        (folder / "usr/share/demo").mkdir(parents=True)
        (folder / "usr/share/demo/data").write_bytes(archive(size))
        (folder / "usr/share/demo/version").write_text(version)
        file = self.root / "pool/main/d/demo" / f"demo_{version.replace(':', '%3a')}_all.deb"
        file.parent.mkdir(parents=True, exist_ok=True)
        build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(folder), str(file)]
        subprocess.run(build, capture_output=True, check=True)
        return file

    def publish(self) -> None:
        """Write the indexes of what is in the pool, with the difference to those before, and sign them."""
        lists = self.lists
        lists.mkdir(parents=True, exist_ok=True)
        before = (lists / "Packages").read_bytes() if (lists / "Packages").exists() else b""
        # What differs must be small beside the whole, or apt takes the whole.
        text = self._ftparchive("packages", "pool") + self._padding()
        (lists / "Packages").write_bytes(text)
        (lists / "Packages.gz").write_bytes(gzip.compress(text, mtime=0))
        if before:
            self._write_difference(before, text)
        release = self.root / "dists" / self.suite
        settings = {"DoByHash": "yes", "Release::Suite": self.suite, "Release::Components": "main"}
        settings |= {"Release::Architectures": "all amd64"}
        words = [word for name, value in settings.items() for word in ("-o", f"APT::FTPArchive::{name}={value}")]
        (release / "Release").unlink(missing_ok=True)
        (release / "Release").write_bytes(self._ftparchive(*words, "release", f"dists/{self.suite}"))
        if self.key is not None:
            sign = ["gpg", "--homedir", str(self.key), "--batch", "--yes", "--clearsign", "-o", str(release / "InRelease")]
            subprocess.run([*sign, str(release / "Release")], capture_output=True, check=True)
        self.published += timedelta(hours=6)
        self.mirror.publish()

    def publish_flat(self) -> None:
        """Write the indexes of a repository that is one directory, as small projects have them: unsigned, no by-hash."""
        for name, words in (("Packages", ("packages", ".")), ("Release", ("release", "."))):
            (self.root / name).unlink(missing_ok=True)
            (self.root / name).write_bytes(self._ftparchive(*words))
        self.mirror.publish()

    def _ftparchive(self, *words: str) -> bytes:
        command = ["apt-ftparchive", "-q", *words]
        return subprocess.run(command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout

    @staticmethod
    def _padding() -> bytes:
        names = (f"other-{number}" for number in range(400))
        fields = "Version: 1\nArchitecture: all\nMaintainer: nobody\nFilename: pool/{0}.deb\nSize: 1\nSHA256: {1}\n\n"
        return "".join(f"Package: {name}\n{fields.format(name, sha256(name.encode()))}" for name in names).encode()

    def _write_difference(self, before: bytes, after: bytes) -> None:
        """The patch from one Packages to the next, and the Index of this one patch."""
        (self.build / "before").write_bytes(before)
        (self.build / "after").write_bytes(after)
        compare = ["diff", "--ed", str(self.build / "before"), str(self.build / "after")]
        patch = subprocess.run(compare, stdout=subprocess.PIPE, check=False).stdout
        folder = self.lists / "Packages.diff"
        folder.mkdir(exist_ok=True)
        name = self.published.strftime("%Y-%m-%d-%H%M.%S")
        packed = gzip.compress(patch, mtime=0)
        (folder / f"{name}.gz").write_bytes(packed)
        lines = [f"SHA256-Current: {sha256(after)} {len(after)}"]
        lines += ["SHA256-History:", f" {sha256(before)} {len(before)} {name}"]
        lines += ["SHA256-Patches:", f" {sha256(patch)} {len(patch)} {name}"]
        lines += ["SHA256-Download:", f" {sha256(packed)} {len(packed)} {name}.gz", ""]
        (folder / "Index").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def key() -> Iterator[Path | None]:
    """The directory of a key to sign with, and its public half, `key.asc`; None where there is no gpg."""
    if shutil.which("gpg") is None or shutil.which("gpg-agent") is None:
        yield None
        return
    # Short, for the name of the agent's socket.
    folder = Path(tempfile.mkdtemp(prefix="pc-gpg-"))
    gpg = ["gpg", "--homedir", str(folder), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    try:
        generate = ["--quick-generate-key", "nobody@mirror.example", "ed25519", "sign", "never"]
        subprocess.run([*gpg, *generate], capture_output=True, check=True)
        subprocess.run([*gpg, "--armor", "--output", str(folder / "key.asc"), "--export"], capture_output=True, check=True)
        yield folder
    finally:
        subprocess.run(["gpgconf", "--homedir", str(folder), "--kill", "all"], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def debian(mirror: Mirror, key: Path | None, tmp_path: Path) -> Debian:
    """A repository with one package, whose name needs every escape."""
    require("apt-get", "apt-ftparchive", "dpkg", "dpkg-deb", "diff")
    (tmp_path / "build").mkdir()
    one = Debian(mirror, tmp_path / "build", key)
    one.add("1:2.0+b1~rc1")
    one.publish()
    return one


class Apt(Machine):
    """A Debian machine without a package installed."""

    def set_up(self, sources: str, settings: str, key: Path | None) -> None:
        """Write its `sources.list` and settings."""
        for name in (
            "log",
            "state/lists/partial",
            "archives/partial",
            "root/var/lib/dpkg/info",
            "root/var/lib/dpkg/updates",
        ):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "root/var/lib/dpkg/status").touch()
        (self.folder / "root/var/lib/dpkg/available").touch()
        trust = "[trusted=yes]" if key is None else f"[signed-by={key}/key.asc]"
        self.write("sources.list", sources.replace("deb ", f"deb {trust} "))
        paths = {
            "Dir::State": "state",
            "Dir::State::lists": "state/lists",
            "Dir::State::status": "root/var/lib/dpkg/status",
            "Dir::Cache": ".",
            "Dir::Cache::archives": "archives",
            "Dir::Etc::sourcelist": "sources.list",
            "Dir::Log": "log",
        }
        lines = [f'{name} "{self.folder}/{path}";' for name, path in paths.items()]
        lines += [f'{name} "/dev/null";' for name in ("Dir::Etc::sourceparts", "Dir::Etc::parts", "Dir::Etc::main")]
        lines += [f'{name} "/dev/null";' for name in ("Dir::Etc::preferencesparts", "Dir::Etc::trustedparts")]
        options = f"--root={self.folder}/root --force-not-root --force-bad-path --log={self.folder}/dpkg.log".split()
        lines += [f'DPkg::Options {{ "{option}"; }};' for option in options]
        lines += [
            'Acquire::Retries "0";',
            'APT::Sandbox::User "";',
            'Acquire::Languages "none";',
            'APT::Architecture "amd64";',
            settings,
        ]
        self.write("apt.conf", "\n".join(lines) + "\n")

    def apt(self, *words: str, fails: bool = False) -> str:
        """Run apt-get; what it said."""
        return self.run("apt-get", "-q", "-y", *words, fails=fails, APT_CONFIG=str(self.folder / "apt.conf"))

    def install(self) -> str:
        """Update, install, clean up; the version that is there now."""
        self.apt("update")
        self.apt("install", "demo")
        assert (self.folder / "root/usr/share/demo/data").read_bytes() == archive(200_000)
        self.apt("clean")
        return (self.folder / "root/usr/share/demo/version").read_text()


@pytest.mark.parametrize(("way", "host"), [("sources.list", "wsgiref"), ("proxy", "gunicorn")])
def test_apt_installs_each_package_from_the_mirror_once_and_sees_a_new_one_at_once(
    way: str, host: str, debian: Debian, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    proxy = serve_pasted(serve, HEADING, mirror, host=host)
    sources, settings = told(LINE, proxy), ""
    if way == "proxy":
        sources = sources.replace(proxy.url, mirror.url)
        settings = told(pasted(HEADING, "/etc/apt/apt.conf.d/02cache"), proxy)
    machines = [Apt(tmp_path / name) for name in ("first", "second", "late", "last")]
    for machine in machines:
        machine.set_up(sources, settings, debian.key)
    for machine in machines[:2]:
        assert machine.install() == "1:2.0+b1~rc1"
        settle(proxy, mirror)
    assert statuses(mirror, ".deb") == [("demo_1%3a2.0+b1~rc1_all.deb", 200)]
    # The index of the by-hash form is kept for ever, the list of the indexes is confirmed for each machine.
    assert [status for _, status in statuses(mirror, "Release")] == ([200, 304] if debian.key else [404, 200, 404, 304])
    assert [one.status for one in mirror.seen() if "/by-hash/" in one.path and one.status != 404] == [200]

    debian.add("1:2.0+b1")
    debian.publish()
    for machine in machines[:2]:
        assert machine.install() == "1:2.0+b1"
        settle(proxy, mirror)
    assert [name for name, _ in statuses(mirror, ".deb")][1:] == ["demo_1%3a2.0+b1_all.deb"]
    # Both took the difference, which came from the mirror once.
    patches = [(one.path, one.status) for one in mirror.seen() if "Packages.diff/2" in one.path]
    assert [status for _, status in patches] == [200]
    poll(lambda: sum(f'{patches[0][0]} HTTP/1.1" 200' in line for line in proxy.log) == 2)

    # Who has no index takes the whole, not the difference.
    machines[2].apt("update")
    mirror.stop()
    if debian.key is None:  # then there is no InRelease, and who does not know that asks for it in vain
        del machines[3]
    assert [machine.install() for machine in machines] == ["1:2.0+b1"] * len(machines)
    machines[2].apt("install", "--allow-downgrades", "demo=1:2.0+b1~rc1")


def test_apt_resumes_half_a_package_from_a_cold_and_from_a_warm_cache(
    debian: Debian, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    file = debian.add("1:3")
    debian.publish()
    proxy = serve_pasted(serve, HEADING, mirror)
    size = file.stat().st_size
    for name in ("cold", "warm"):
        machine = Apt(tmp_path / name)
        machine.set_up(told(LINE, proxy), "", debian.key)
        machine.apt("update")
        half = machine.folder / "archives/partial" / file.name
        half.write_bytes(file.read_bytes()[: size // 2])
        set_time_of(half, file)
        machine.apt("install", "--download-only", "demo")
        assert (machine.folder / "archives" / file.name).read_bytes() == file.read_bytes()
    poll(lambda: sum(f'" 206 {size - size // 2} ' in line for line in proxy.log) == 2)
    assert [one.status for one in mirror.seen() if one.path.endswith(".deb") and not one.range] == [200]


@pytest.mark.parametrize(
    ("heading", "file", "security"),
    [
        ("Debian", "/etc/apt/sources.list.d/debian.sources", "security/debian-security"),
        ("Ubuntu", "/etc/apt/sources.list.d/ubuntu.sources", "security/ubuntu"),
    ],
)
def test_apt_finds_updates_and_security_by_the_sources_of_the_readme(
    heading: str, file: str, security: str, mirror: Mirror, key: Path | None, serve: Serve, tmp_path: Path
) -> None:
    require("apt-get", "apt-ftparchive", "dpkg", "dpkg-deb", "diff")
    proxy = serve_pasted(serve, heading, mirror)
    sources = told(pasted(heading, file), proxy)
    stanzas = [dict(line.split(": ", 1) for line in stanza.splitlines()) for stanza in sources.strip().split("\n\n")]
    folders = (heading.lower(), security)
    (tmp_path / "build").mkdir()
    for number, (stanza, folder) in enumerate(zip(stanzas, folders, strict=True)):
        suites = [Debian(mirror, tmp_path / "build", key, folder=folder, suite=suite) for suite in stanza["Suites"].split()]
        suites[0].add(f"1.{number}")
        for suite in suites:
            suite.publish()
    machine = Apt(tmp_path / "machine")
    machine.set_up("", f'Dir::Etc::sourceparts "{machine.folder}/sources.list.d";', key)
    trust = "Trusted: yes" if key is None else f"Signed-By: {key}/key.asc"
    keyring = f"Signed-By: /usr/share/keyrings/{heading.lower()}-archive-keyring.gpg"
    assert sources.count(keyring) == len(stanzas)
    machine.write("sources.list.d/one.sources", sources.replace(keyring, trust))
    assert machine.install() == "1.1"
    assert statuses(mirror, ".deb") == [("demo_1.1_all.deb", 200)]
    told_of = machine.apt("update")
    assert all(f" {suite} " in told_of for stanza in stanzas for suite in stanza["Suites"].split())


def flat(debian: Debian, serve: Serve, mirror: Mirror, *folders: Path) -> tuple[Proxy, list[Apt]]:
    """Machines that use the repository in its flat form, through the product."""
    debian.publish_flat()
    proxy = serve_pasted(serve, HEADING, mirror)
    machines = [Apt(folder) for folder in folders]
    for machine in machines:
        lines = told(LINE, proxy).replace("stable main", "./")
        machine.set_up(lines, "", None)
    return proxy, machines


def test_apt_sees_a_new_package_in_a_flat_repository_without_signature(
    debian: Debian, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    proxy, (machine,) = flat(debian, serve, mirror, tmp_path / "machine")
    assert machine.install() == "1:2.0+b1~rc1"
    settle(proxy, mirror)
    debian.add("1:2.1")
    debian.publish_flat()
    assert machine.install() == "1:2.1"
    assert [status for name, status in statuses(mirror, "/debian/Packages")] == [200, 200]
    mirror.stop()
    assert machine.install() == "1:2.1"


def test_another_machine_updates_from_a_flat_repository_when_the_mirror_is_gone(
    debian: Debian, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    _, (machine, late) = flat(debian, serve, mirror, tmp_path / "machine", tmp_path / "late")
    assert machine.install() == "1:2.0+b1~rc1"
    mirror.stop()
    assert late.install() == "1:2.0+b1~rc1"
