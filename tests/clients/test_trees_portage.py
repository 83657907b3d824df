"""Portage uses the trees that are exported, and says what is to be fetched in advance."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import blocks, section
from gentoo import NAME, Gentoo, provide_portage
from mirror import Mirror, archive, clean_environment, distfile_path, run_mirror
from product import stored
from trees import exported, imported

from package_cache.storage.blobs import is_stamp

__all__ = ["provide_portage", "run_mirror"]

DATA = archive(40_000, seed=11)


@pytest.fixture
def gentoo(portage: Path, tmp_path: Path) -> Gentoo:
    one = Gentoo(portage, tmp_path / "gentoo", DATA, NAME)
    one.install()
    return one


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that has the distfile."""
    (tmp_path / "before" / "distfiles").mkdir(parents=True)
    (tmp_path / "before" / "distfiles" / NAME).write_bytes(DATA)
    imported(tmp_path / "before", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("way", [(), ("--copy",)])
def test_portage_takes_a_file_of_an_exported_distdir(
    gentoo: Gentoo, cache: Path, tmp_path: Path, way: tuple[str, ...]
) -> None:
    distdir = tmp_path / "distfiles"
    exported(cache, distdir, *way)
    blob = next(path for path in (cache / "blobs-v1").rglob("*") if path.is_file())
    gentoo.fetch(distdir, "http://127.0.0.1:9/")
    assert (distdir / NAME).read_bytes() == DATA
    assert (blob.read_bytes(), is_stamp(blob.stat().st_mtime_ns)) == (DATA, True)


@pytest.mark.parametrize("layout", ["flat", "hashed"])
def test_an_exported_tree_is_a_mirror_on_disk(gentoo: Gentoo, cache: Path, tmp_path: Path, layout: str) -> None:
    mirror = tmp_path / "local" / "distfiles"
    exported(cache, mirror, "--layout", layout)
    gentoo.fetch(tmp_path / "distdir", str(mirror))
    assert (tmp_path / "distdir" / NAME).read_bytes() == DATA


def test_what_emerge_would_fetch_is_fetched_in_advance(gentoo: Gentoo, tmp_path: Path, mirror: Mirror) -> None:
    """By the line of the guide."""
    mirror.put(distfile_path(NAME), DATA)
    (tmp_path / "distdir").mkdir()
    environment = clean_environment(gentoo.root / "home") | {
        "PORTAGE_CONFIGROOT": str(gentoo.root),
        "GENTOO_MIRRORS": "http://cache.example:4000/",
        "DISTDIR": str(tmp_path / "distdir"),
        "ACCEPT_KEYWORDS": "**",
        "ACCEPT_LICENSE": "*",
        "PACKAGE_CACHE_SOURCE": mirror.url,
        "PACKAGE_CACHE_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "no_proxy": "127.0.0.1",
    }
    [lines] = blocks(section("operations", "Filling the cache in advance"))
    [line] = [one for one in lines.splitlines() if one.startswith("emerge --pretend")]
    emerge = f"{gentoo.portage}/bin/python {gentoo.portage}/bin/emerge"
    line = line.replace("package-cache", f"{sys.executable} -m package_cache").replace("@world", "app-misc/foo")
    command = ["bash", "-c", line.replace("emerge", emerge, 1)]
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, "2 fetched, 39.1K, 0 here already\n"), done
    assert stored(tmp_path / "cache") == [f"/distfiles/{NAME.replace('+', '%2B')}", "/distfiles/layout.conf"]
