"""pip and uv, through the product, from an index that answers in two forms: pages of links, and JSON."""

import io
import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import pytest
from machines import Machine, Serve, environment_of, files_of, pasted, serve_pasted, sha256, statuses, told
from mirror import (
    Mirror,
    archive,
    poll,
    run_mirror,  # noqa: F401 - the fixture `mirror`
    settle,
    start_without_errors,  # noqa: F401 - the fixture `serve`
)

HEADING = "Python: pip and uv"
UV = "0.13.8"
PAGE = "/pypi/simple/demo-package/"
JSON = "application/vnd.pypi.simple.v1+json"


def wheel(version: str) -> bytes:
    """A wheel with half a megabyte of data."""
    out, record = io.BytesIO(), f"demo_package-{version}.dist-info"
    with zipfile.ZipFile(out, "w") as archived:
        archived.writestr("demo_package/__init__.py", f"version = {version!r}\n")
        archived.writestr("demo_package/data.bin", archive(500_000))
        archived.writestr(f"{record}/METADATA", metadata(version))
        archived.writestr(
            f"{record}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        names = ("demo_package/__init__.py", "demo_package/data.bin", f"{record}/METADATA", f"{record}/WHEEL")
        archived.writestr(f"{record}/RECORD", "".join(f"{name},,\n" for name in (*names, f"{record}/RECORD")))
    return out.getvalue()


def metadata(version: str) -> bytes:
    return f"Metadata-Version: 2.1\nName: demo-package\nVersion: {version}\n".encode()


@dataclass
class Index:
    """A package index on a mirror: both forms of its pages (PEP 503, PEP 691), and metadata beside the wheels (PEP 658).

    The files of one release are at another host, those of the next beside the pages.
    """

    mirror: Mirror
    files: list[dict[str, object]] = field(default_factory=list)

    def release(self, version: str) -> None:
        """Add a version of the package to the index."""
        name, data, about = f"demo_package-{version}-py3-none-any.whl", wheel(version), metadata(version)
        beside = bool(len(self.files) % 2)
        path = self.mirror.put(f"{'pypi/' if beside else ''}packages/aa/bb/{name}", data)
        self.mirror.put(f"{path}.metadata", about)
        url = f"../../..{quote(path)}" if beside else files_of(self.mirror) + quote(path[1:])
        file = {"filename": name, "url": url, "hashes": {"sha256": sha256(data)}}
        self.files.append(
            file | {"core-metadata": {"sha256": sha256(about)}, "sha256": sha256(data), "about": sha256(about)}
        )
        link = '<a href="{url}#sha256={sha256}" data-core-metadata="sha256={about}">{filename}</a>\n'
        page = "".join(link.format_map(one) for one in self.files)
        self.mirror.put(f"{PAGE}index.html", f"<!DOCTYPE html><html><body>\n{page}</body></html>\n".encode())
        kept = [{name: one[name] for name in ("filename", "url", "hashes", "core-metadata")} for one in self.files]
        document = {"meta": {"api-version": "1.0"}, "name": "demo-package", "files": kept}
        self.mirror.put(f"{PAGE}index.simple", json.dumps(document).encode())
        self.mirror.publish()


@pytest.fixture
def index(mirror: Mirror) -> Index:
    """An index with one release."""
    one = Index(mirror)
    one.release("1.2+local.3")
    return one


Installer = Callable[[Machine, str], str]
"""Installs the newest release on a machine, with "cache" or without its own cache; the version that is there then."""


def installed(machine: Machine, target: str) -> str:
    folder = machine.folder / target
    assert (folder / "demo_package/data.bin").read_bytes() == archive(500_000)
    return (folder / "demo_package/__init__.py").read_text().removeprefix("version = '").rstrip("'\n")


def pip(machine: Machine, how: str) -> str:
    kept = ["--cache-dir", str(machine.folder / "pip")] if how == "cache" else ["--no-cache-dir"]
    words = ["install", "--disable-pip-version-check", "--no-compile", "--upgrade", "--target", "installed", *kept]
    machine.run(sys.executable, "-m", "pip", *words, "demo-package", PIP_CONFIG_FILE=str(machine.folder / "pip.conf"))
    return installed(machine, "installed")


def uv(machine: Machine, how: str) -> str:
    kept = ["--cache-dir", str(machine.folder / "uv"), "--refresh"] if how == "cache" else ["--no-cache"]
    program = environment_of("uv", UV) / "bin/uv"
    words = ["pip", "install", "--python", sys.executable, "--upgrade", "--target", "installed", *kept, "demo-package"]
    machine.run(program, *words, UV_CONFIG_FILE=str(machine.folder / "uv.toml"), UV_PYTHON_DOWNLOADS="never")
    return installed(machine, "installed")


@pytest.mark.parametrize(("installer", "host"), [(pip, "wsgiref"), (uv, "gunicorn")])
def test_each_wheel_comes_from_the_mirror_once_and_a_new_release_is_seen_at_once(
    installer: Installer, host: str, index: Index, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    if installer is pip and find_spec("pip") is None:
        pytest.skip("this Python has no pip")
    proxy = serve_pasted(serve, HEADING, mirror, host=host)
    machines = [Machine(tmp_path / name) for name in ("first", "second")]
    for machine in machines:
        # The same by an address that pip, unlike 127.0.0.1, trusts only where it is told to.
        machine.write("pip.conf", told(pasted(HEADING, "/etc/pip.conf"), proxy).replace("127.0.0.1", "0.0.0.0"))
        machine.write("uv.toml", told(pasted(HEADING, "/etc/uv/uv.toml"), proxy))
    first, second = machines
    assert installer(first, "cache") == "1.2+local.3"
    settle(proxy, mirror)
    assert installer(second, "none") == "1.2+local.3"
    assert [status for _, status in statuses(mirror, ".whl")] == [200]
    assert [one.status for one in mirror.seen_of(PAGE)] == [200, 304]
    if installer is uv:  # which reads the metadata beside a wheel first; not every pip does
        assert [status for _, status in statuses(mirror, ".metadata")] == [200]

    assert installer(first, "cache") == "1.2+local.3"
    poll(lambda: any(f'"GET {PAGE} HTTP/1.1" 304 ' in line for line in proxy.log))

    index.release("1.10")
    assert installer(first, "cache") == "1.10"
    assert [one.status for one in mirror.seen_of(PAGE)] == [200, 304, 304, 200]
    settle(proxy, mirror)
    mirror.stop()
    assert installer(second, "none") == "1.10"


def test_the_two_forms_of_a_page_are_kept_apart_and_each_outlives_the_mirror(
    index: Index, mirror: Mirror, serve: Serve
) -> None:
    proxy = serve_pasted(serve, HEADING, mirror)
    forms = {
        "text/html": ("text/html", "index.html"),
        JSON: (JSON, "index.simple"),
        f"{JSON}, text/html;q=0.1": (JSON, "index.simple"),
        "*/*": ("text/html", "index.html"),
    }

    def look() -> None:
        for accept, (kind, name) in forms.items():
            got = proxy.get(PAGE, {"Accept": accept})
            assert (got.status, got.fields["Content-Type"], got.fields["Vary"]) == (200, kind, "Accept"), accept
            sent = (mirror.root / f"{PAGE.lstrip('/')}{name}").read_bytes()
            assert got.body == sent.replace(files_of(mirror).encode(), b"/pypi-files/"), accept
            again = proxy.get(PAGE, {"Accept": accept, "If-None-Match": got.fields["ETag"]})
            assert (again.status, again.fields["Vary"]) == (304, "Accept")

    look()
    index.release("1.10")
    look()
    mirror.stop()
    look()
    unseen = proxy.get(PAGE, {"Accept": "application/vnd.pypi.simple.v1+html"})
    assert unseen.status == 502
