"""What Alpine's apk sends, through the product: a script in its place, since neither Debian nor the Python index has apk.

Its requests are those of the HTTP library in apk-tools, libfetch: no Accept, If-Modified-Since with the time of the index
it has, and a connection that is used again where the answer says `Connection: keep-alive`.
"""

import gzip
import http.client
import io
import socket
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import urlsplit

import pytest
from machines import Serve, pasted, serve_pasted, statuses, told
from mirror import (
    Mirror,
    archive,
    run_mirror,  # noqa: F401 - the fixture `mirror`
    start_without_errors,  # noqa: F401 - the fixture `serve`
)
from packing import tar
from product import Proxy

HEADING = "Alpine"


def release(mirror: Mirror, *versions: str) -> None:
    """Offer these versions of a package in both repositories."""
    for name in ("main", "community"):
        folder = f"alpine/v3.22/{name}/x86_64"
        records = []
        for version in versions:
            data = gzip.compress(archive(50_000), mtime=0) + gzip.compress(version.encode(), mtime=0)
            mirror.put(f"{folder}/{name}-lib++-{version}.apk", data)
            records.append(f"P:{name}-lib++\nV:{version}\nA:x86_64\nS:{len(data)}\n")
        mirror.put(f"{folder}/APKINDEX.tar.gz", gzip.compress(tar({"APKINDEX": "\n".join(records).encode()}), mtime=0))
    mirror.publish()


class Apk:
    """A machine with the repositories that the guide names, and a kept index of each."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.repositories = told(pasted(HEADING, "/etc/apk/repositories"), proxy).split()
        self.kept: dict[str, tuple[float, bytes]] = {}
        self.connections = 0
        self._open: socket.socket | None = None

    def get(self, url: str, since: float | None = None) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request, on the connection of the one before if that may be used again."""
        if self._open is None:
            self._open = self.proxy.connect()
            self.connections += 1
        place = urlsplit(url)
        lines = [f"GET {place.path} HTTP/1.1"]
        if since is not None:
            lines.append(f"If-Modified-Since: {formatdate(since, usegmt=True)}")
        lines += [f"Host: {place.netloc}", "User-Agent: apk-tools/2.14.9", "", ""]
        self._open.sendall("\r\n".join(lines).encode())
        answer = http.client.HTTPResponse(self._open)
        answer.begin()
        body = answer.read()
        if answer.headers.get("Connection", "").lower() != "keep-alive":
            self.close()
        return answer.status, answer.headers, body

    def upgrade(self) -> tuple[list[int], dict[str, str]]:
        """Fetch the indexes and the newest package of each: statuses of the indexes, and versions by name."""
        found, got = [], {}
        for repository in self.repositories:
            url = f"{repository}/x86_64/APKINDEX.tar.gz"
            status, fields, body = self.get(url, self.kept[url][0] if url in self.kept else None)
            found.append(status)
            if status == 200:
                self.kept[url] = parsedate_to_datetime(fields["Last-Modified"]).timestamp(), body
            with tarfile.open(fileobj=io.BytesIO(self.kept[url][1])) as index:
                member = index.extractfile("APKINDEX")
                assert member is not None
                record = member.read().decode().strip().split("\n\n")[-1]
            about = dict(line.split(":", 1) for line in record.split("\n"))
            status, _, data = self.get(f"{repository}/x86_64/{about['P']}-{about['V']}.apk")
            assert (status, len(data)) == (200, int(about["S"]))
            assert gzip.decompress(data) == archive(50_000) + about["V"].encode()
            got[about["P"]] = about["V"]
        return found, got

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


@pytest.fixture
def machines(mirror: Mirror, serve: Serve) -> Iterator[list[Apk]]:
    """Three machines, with one release in the repositories."""
    release(mirror, "1.0-r0")
    proxy = serve_pasted(serve, HEADING, mirror)
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Apk(proxy))) for _ in range(3)]


def test_what_apk_asks_for_comes_from_the_mirror_once_and_a_new_index_is_seen_at_once(
    machines: list[Apk], mirror: Mirror
) -> None:
    old, new = (dict.fromkeys(("main-lib++", "community-lib++"), version) for version in ("1.0-r0", "1.1_rc2-r3"))
    assert [machine.upgrade() for machine in machines[:2]] == [([200, 200], old)] * 2
    assert sorted(statuses(mirror, ".apk")) == [("community-lib++-1.0-r0.apk", 200), ("main-lib++-1.0-r0.apk", 200)]
    assert machines[0].upgrade() == ([304, 304], old)

    release(mirror, "1.0-r0", "1.1_rc2-r3")
    assert [machine.upgrade() for machine in machines[:2]] == [([200, 200], new)] * 2
    assert [status for _, status in statuses(mirror, "APKINDEX.tar.gz")] == [200, 200, *[304] * 4, 200, 200, 304, 304]
    assert len(statuses(mirror, ".apk")) == 4

    mirror.stop()
    assert [machine.upgrade()[1] for machine in machines] == [new] * 3
    assert [machine.connections for machine in machines] == [1] * 3
