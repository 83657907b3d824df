"""npm, through the product, from a registry of files in which a document and the folder of its tarballs have one name."""

import base64
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
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
from product import Proxy

HEADING = "npm"
NAMES = ("demo", "@scope/thing")
INSTALL = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"


def tarball(name: str, version: str) -> bytes:
    """What `npm pack` makes of a package with a file of random bytes."""
    out = io.BytesIO()
    files = {"package.json": json.dumps({"name": name, "version": version}).encode(), "data": archive(300_000)}
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        for path, data in files.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return out.getvalue()


@dataclass
class Registry:
    """A registry below /npm/ of a mirror, with both forms of its documents: the whole, and what is needed to install."""

    mirror: Mirror
    versions: dict[str, dict[str, object]] = field(default_factory=dict)

    def release(self, name: str, version: str) -> None:
        """Add a version of a package, and let it be the latest."""
        data = tarball(name, version)
        path = self.mirror.put(f"npm/{name}/-/{name.rpartition('/')[2]}-{version}.tgz", data)
        sums = {
            "integrity": "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode(),
            "shasum": hashlib.sha1(data).hexdigest(),
        }
        # The URL that everybody sees, whatever name the cache has for the registry.
        dist = {"tarball": f"http://registry.mirror.example{path}", **sums}
        released = self.versions.setdefault(name, {})
        released[version] = {"name": name, "version": version, "dist": dist}
        document = {"name": name, "dist-tags": {"latest": version}, "versions": released}
        self.mirror.put(f"npm/{name}/index.install", json.dumps(document).encode())
        whole = document | {"_id": name, "readme": f"# {name}\n" * 100, "time": {version: "2024-01-02T03:04:05.000Z"}}
        self.mirror.put(f"npm/{name}/index.full", json.dumps(whole).encode())
        self.mirror.publish()


@pytest.fixture
def registry(mirror: Mirror) -> Registry:
    """A registry with a plain and a scoped package."""
    one = Registry(mirror)
    for name in NAMES:
        one.release(name, "1.0.0")
    return one


class Npm(Machine):
    """A machine with a project of its own."""

    def set_up(self, proxy: Proxy) -> None:
        """Write npm's settings, as the guide says."""
        self.write(".npmrc", told(pasted(HEADING, "~/.npmrc"), proxy))
        self.write("global.npmrc", "audit=false\nfund=false\nupdate-notifier=false\nfetch-retries=0\n")
        self.write("project/package.json", '{"name": "project", "version": "1.0.0"}')

    def npm(self, *words: str) -> str:
        """Run npm in the project; what it said."""
        here = {"userconfig": ".npmrc", "globalconfig": "global.npmrc", "cache": "cache", "prefix": "prefix"}
        variables = {f"npm_config_{name}": str(self.folder / path) for name, path in here.items()}
        return self.run("npm", "--prefix", self.folder / "project", *words, **variables)

    def install(self, *, clear: bool = False) -> list[str]:
        """Install the latest of all packages anew; their versions. `clear` empties npm's own cache before."""
        shutil.rmtree(self.folder / "project/node_modules", ignore_errors=True)
        (self.folder / "project/package-lock.json").unlink(missing_ok=True)
        if clear:
            shutil.rmtree(self.folder / "cache")
        self.npm("install", "--prefer-online", *(f"{name}@latest" for name in NAMES))
        folders = [self.folder / "project/node_modules" / name for name in NAMES]
        assert {(folder / "data").read_bytes() for folder in folders} == {archive(300_000)}
        return [json.loads((folder / "package.json").read_text())["version"] for folder in folders]


def test_npm_gets_each_tarball_from_the_mirror_once_and_sees_a_new_version_at_once(
    registry: Registry, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    require("npm")
    proxy = serve_pasted(serve, HEADING, mirror)
    machine = Npm(tmp_path / "machine")
    machine.set_up(proxy)
    assert machine.install() == ["1.0.0", "1.0.0"]
    settle(proxy, mirror)
    assert machine.install(clear=True) == ["1.0.0", "1.0.0"]
    assert sorted(statuses(mirror, ".tgz")) == [("demo-1.0.0.tgz", 200), ("thing-1.0.0.tgz", 200)]
    # Both forms are asked for, in the one spelling that keeps a scope and its package together.
    documents = [(one.target, one.status) for one in mirror.seen() if not one.path.endswith(".tgz")]
    for name in ("demo", "@scope%2Fthing"):
        assert [status for target, status in documents if target == f"/npm/{name}"] == [200, 200, 304, 304]

    registry.release("@scope/thing", "1.1.0")
    assert machine.install() == ["1.0.0", "1.1.0"]
    assert sorted(statuses(mirror, ".tgz"))[1:] == [("thing-1.0.0.tgz", 200), ("thing-1.1.0.tgz", 200)]
    poll(lambda: any('"GET /npm/demo HTTP/1.1" 304 ' in line for line in proxy.log))
    mirror.stop()
    assert machine.install(clear=True) == ["1.0.0", "1.1.0"]
    shutil.rmtree(machine.folder / "cache")
    assert "thing-1.1.0.tgz" in machine.npm("pack", "@scope/thing")


def pnpm(machine: Machine) -> None:
    machine.run("pnpm", "--dir", "project", "--store-dir", machine.folder / "store", "add", *NAMES)


def yarn_classic(machine: Machine) -> None:
    folders = ("--cwd", machine.folder / "project", "--cache-folder", machine.folder / "cache")
    machine.run("yarn", *folders, "add", "--network-timeout", "20000", *NAMES)


def yarn_berry(machine: Machine) -> None:
    machine.write("project/yarn.lock", "")
    machine.run("yarn", "--cwd", machine.folder / "project", "add", *NAMES, YARN_ENABLE_TELEMETRY="0")


@pytest.mark.parametrize(
    ("manager", "version"), [(pnpm, ""), (yarn_classic, "1."), (yarn_berry, "4.")], ids=["pnpm", "yarn 1", "yarn 4"]
)
def test_others_get_all_tarballs_through_the_cache(
    manager: Callable[[Machine], None], version: str, registry: Registry, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    program = manager.__name__.partition("_")[0]
    require(program)
    machine = Machine(tmp_path / "machine")
    found = machine.run(program, "--version").strip()
    if not found.startswith(version):
        pytest.skip(f"{program} is {found}, and not {version}x")
    proxy = serve_pasted(serve, HEADING, mirror)
    for machine in (Machine(tmp_path / "first"), Machine(tmp_path / "second")):
        machine.write("home/.npmrc", told(pasted(HEADING, "~/.npmrc"), proxy))
        machine.write(
            "home/.yarnrc.yml",
            told(pasted(HEADING, "~/.yarnrc.yml"), proxy) + "enableGlobalCache: false\nnodeLinker: node-modules\n",
        )
        machine.write("project/package.json", '{"name": "project", "version": "1.0.0"}')
        manager(machine)
        for name in NAMES:
            assert (machine.folder / "project/node_modules" / name / "data").read_bytes() == archive(300_000)
    assert sorted(statuses(mirror, ".tgz")) == [("demo-1.0.0.tgz", 200), ("thing-1.0.0.tgz", 200)]


def test_the_forms_of_a_document_are_kept_apart_from_each_other_and_from_what_is_below_its_name(
    registry: Registry, mirror: Mirror, serve: Serve
) -> None:
    proxy = serve_pasted(serve, HEADING, mirror)
    forms = {INSTALL: "install", "application/json": "full"}

    def look() -> None:
        for name in NAMES:
            for accept, form in forms.items():
                got = proxy.get(f"/npm/{name.replace('/', '%2f')}", {"Accept": accept})
                assert (got.status, got.fields["Vary"]) == (200, "Accept")
                assert got.fields["Content-Type"] == ("application/json" if form == "full" else INSTALL.partition(";")[0])
                sent = (mirror.root / f"npm/{name}/index.{form}").read_bytes()
                assert got.body == sent.replace(b"http://registry.mirror.example/", proxy.url.encode())
            below = proxy.get(f"/npm/{name}/-/{name.rpartition('/')[2]}-1.0.0.tgz", {"Accept": "*/*"})
            assert below.body == tarball_of(mirror, name)

    look()
    registry.release("demo", "1.1.0")
    look()
    mirror.stop()
    look()


def tarball_of(mirror: Mirror, name: str) -> bytes:
    return (mirror.root / f"npm/{name}/-/{name.rpartition('/')[2]}-1.0.0.tgz").read_bytes()
