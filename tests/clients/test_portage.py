"""Portage itself, from its package index, fetching through the product from a real mirror."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from gentoo import (
    NAME,
    Install,
    provide_install,  # noqa: F401 - the fixture `install`
    provide_portage,  # noqa: F401 - the fixture `portage`
)
from mirror import (
    Mirror,
    poll,
    run_mirror,  # noqa: F401 - the fixture `mirror`
    settle,
    start_without_errors,  # noqa: F401 - the fixture `serve`
)
from product import Proxy

Serve = Callable[..., Proxy]

LAYOUT = "/distfiles/layout.conf"


@pytest.fixture(params=("wsgiref", "gunicorn"))
def host(request: pytest.FixtureRequest) -> str:
    """The two ways to run the command."""
    return str(request.param)


@pytest.mark.parametrize(("slash", "kind"), [("", "hashed"), ("/", "flat")])
def test_a_distfile_is_fetched_once_for_all_machines_and_outlives_the_mirror(
    host: str, slash: str, kind: str, mirror: Mirror, serve: Serve, install: Install, tmp_path: Path
) -> None:
    gentoo = install(700_000)
    if kind == "flat":
        mirror.put(LAYOUT, b"[structure]\n0=flat\n")
        path = mirror.put(f"/distfiles/{NAME}", gentoo.data)
    else:
        path = mirror.put_distfile(NAME, gentoo.data)
    proxy = serve(mirror.url, host=host)
    here = proxy.url.rstrip("/") + slash
    gentoo.fetch(tmp_path / "first", here)
    settle(proxy, mirror)
    asked = mirror.seen()
    assert {one.path for one in asked} == {LAYOUT, path}
    assert [one.status for one in mirror.seen_of(path)] == [200]
    gentoo.fetch(tmp_path / "second", here)
    assert [(one.path, one.status) for one in mirror.seen()[len(asked) :]] == [(LAYOUT, 304)]
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
    assert f"{here.rstrip('/')}{flat.rpartition('/')[0]}/" in gentoo.fetch(tmp_path / "first", here)
    asked = mirror.seen()
    assert {(one.path, one.status) for one in asked} == {(LAYOUT, 404), (flat, 200)}
    layout.write_text("[structure]\n0=filename-hash BLAKE2B 8\n")
    path = mirror.put_distfile(NAME, gentoo.data)
    assert f"{here.rstrip('/')}{path.rpartition('/')[0]}/" in gentoo.fetch(tmp_path / "second", here)
    # What is here under the one path is here under the other, too.
    assert [(one.path, one.status) for one in mirror.seen()[len(asked) :]] == [(LAYOUT, 200)]


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
    gentoo = install(8_000_000, "paced-1.tar")
    path = mirror.put_distfile(gentoo.name, gentoo.data)
    here = serve(mirror.url, host=host).url
    distdirs = tmp_path / "first", tmp_path / "second"
    running = [gentoo.start(distdir, here) for distdir in distdirs]
    for distdir in distdirs:
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


def test_portage_finds_a_distfile_wherever_each_of_two_mirrors_has_it(
    mirror: Mirror, serve: Serve, install: Install, tmp_path: Path
) -> None:
    gentoo = install(100_000)
    mirror.put(LAYOUT, b"[structure]\n0=flat\n")
    (tmp_path / "other").mkdir()
    other = Mirror(tmp_path / "other")
    try:
        path = other.put_distfile(NAME, gentoo.data)
        said = gentoo.fetch(tmp_path / "first", serve(mirror.url, other.url).url)
        # The client follows the layout of the first mirror, and the file comes from the other.
        assert f"/distfiles/{NAME.replace('+', '%2B')}" in said
        assert [one.status for one in mirror.seen_of(f"/distfiles/{NAME}")] == [404]
        assert [one.status for one in other.seen_of(path)] == [200]
    finally:
        other.close()
