"""Plain trees of files are taken over as what they are, whatever their layout, and without what is none to be kept."""

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import run, run_program
from older import entries, snapshot
from origin import MODIFIED, Origin
from product import Proxy, blobs
from trees import REPOSITORIES, Run, grown, imported, take_over

from package_cache.library.core import Core
from package_cache.library.importing import Importer
from package_cache.library.trees import FileTree
from package_cache.rules.repositories.layouts import HASHED, Structure
from package_cache.rules.repositories.routes import Routes
from package_cache.storage.blobs import is_stamp

DATE = "Wed, 01 Jan 2020 00:00:00 GMT"


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def keys(cache: Path) -> list[str]:
    return [key for key, *_ in entries(cache)]


def said(run: Run, word: str) -> dict[str, str]:
    """The lines that begin with a word, as names and reasons."""
    lines = [line.removeprefix(f"{word} ") for line in run.stdout.splitlines() if line.startswith(f"{word} ")]
    return {name: reason for name, _, reason in (line.partition(": ") for line in lines)}


# Layouts


def test_a_hashed_tree_is_served_at_flat_paths(tmp_path: Path, start: Callable[..., Proxy], origin: Origin) -> None:
    names = ("foo-1.0.tar.xz", "a+b.tar.gz", "é.zip")
    tree, cache = grown(tmp_path / "mirror", *(f"distfiles/{HASHED.path(name)}" for name in names)), tmp_path / "cache"
    (tree / "distfiles" / "layout.conf").write_text("[structure]\n0=filename-hash BLAKE2B 8\n")
    before = snapshot(tree)
    assert "layout" in said(take_over(tree, cache), "skipped")["distfiles/layout.conf"]
    assert snapshot(tree) == before
    assert keys(cache) == ["/distfiles/%C3%A9.zip", "/distfiles/a%2Bb.tar.gz", "/distfiles/foo-1.0.tar.xz"]
    proxy = start(origin.url, cache=cache)
    answer = proxy.get("/distfiles/a%2Bb.tar.gz")
    assert (answer.status, answer.fields["Last-Modified"]) == (200, DATE)
    assert answer.body.decode() == f"distfiles/{HASHED.path('a+b.tar.gz')}"
    assert origin.requests() == []


def test_both_layouts_of_one_file_are_one_entry(tmp_path: Path) -> None:
    """While mirrors changed their layout, the one was symbolic links to the other."""
    tree, cache = grown(tmp_path / "distfiles", HASHED.path("foo.tar.xz")), tmp_path / "cache"
    (tree / "foo.tar.xz").symlink_to(HASHED.path("foo.tar.xz"))
    assert "at /distfiles: 1 imported" in imported(tree, cache)
    assert keys(cache) == ["/distfiles/foo.tar.xz"]


def test_folders_that_no_hash_names_are_part_of_the_path(tmp_path: Path) -> None:
    tree, cache = grown(tmp_path / "t", "distfiles/00/foo.tar.xz", HASHED.path("bar.tar.xz")), tmp_path / "cache"
    imported(tree, cache)
    assert keys(cache) == [f"/{HASHED.path('bar.tar.xz')}", "/distfiles/00/foo.tar.xz"]


def test_deep_folders_of_another_hash_are_known(tmp_path: Path) -> None:
    path = Structure("filename-hash", "SHA512", (8, 8, 8)).path("foo.tar.xz")
    tree, cache = grown(tmp_path / "distfiles", path), tmp_path / "cache"
    imported(tree, cache)
    assert keys(cache) == ["/distfiles/foo.tar.xz"]


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("distfiles", (), "/distfiles/x-1.tar"),
        ("distfiles", ("--prefix", "/"), "/x-1.tar"),
        ("distfiles", ("--prefix", "/gentoo/distfiles"), "/gentoo/distfiles/x-1.tar"),
        ("elsewhere", (), "/x-1.tar"),
        ("with layout", (), "/distfiles/x-1.tar"),
    ],
)
def test_a_folder_of_distfiles_is_served_where_clients_ask_for_them(
    tmp_path: Path, name: str, options: tuple[str, ...], key: str
) -> None:
    tree, cache = grown(tmp_path / name, "x-1.tar"), tmp_path / "cache"
    if name == "with layout":
        (tree / "layout.conf").write_text("[structure]\n0=flat\n")
    imported(tree, cache, *options)
    assert keys(cache) == [key]


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("distfiles", (), "/gentoo/distfiles/x-1.tar"),
        ("distfiles", ("--prefix", "http://distfiles.gentoo.org/distfiles/"), "/gentoo/distfiles/x-1.tar"),
        ("debian", ("--prefix", "http://deb.example/debian"), "/-/debian/debian/x-1.tar"),
        ("debian", ("--prefix", "/-/debian"), "/-/debian/x-1.tar"),
    ],
)
def test_a_tree_may_be_that_of_a_repository(tmp_path: Path, name: str, options: tuple[str, ...], key: str) -> None:
    tree, cache, config = grown(tmp_path / name, "x-1.tar"), tmp_path / "cache", tmp_path / "config.toml"
    config.write_text(REPOSITORIES)
    imported(tree, cache, "--config", str(config), *options)
    assert keys(cache) == [key]


# What is taken, and what is not


def test_what_is_unfinished_locked_or_outside_is_skipped(tmp_path: Path) -> None:
    tree = grown(
        tmp_path / "distfiles",
        *("good.tar.xz", "Cargo.lock", "a.tar.__download__", "b.tar._checksum_failure_.x1y2", "c.deb.part", "d.partial"),
        *("e.iso", "e.iso.aria2", "f.tar.portage_lockfile", "lock", "db.lck", "partial/g.deb", "git3-src/h/packed-refs"),
        *(".hidden", ".locks/x", "sub/real.zip"),
    )
    (tree / "empty.lock").touch()
    (tree / "out").symlink_to("/etc/hostname")
    (tree / "nowhere").symlink_to("/nonexistent/file")
    (tree / "folder").symlink_to("sub")
    (tree / "inside.zip").symlink_to("sub/real.zip")
    before, cache = snapshot(tree), tmp_path / "cache"
    run = take_over(tree, cache)
    assert run.returncode == 0
    assert snapshot(tree) == before
    assert [key.removeprefix("/distfiles/") for key in keys(cache)] == [
        *("Cargo.lock", "good.tar.xz", "inside.zip", "sub/real.zip"),
    ]
    skipped = said(run, "skipped")
    assert "not finished" in skipped["a.tar.__download__"]
    assert "aria2" in skipped["e.iso"]
    assert "out of the tree" in skipped["out"]
    assert sorted(skipped) == [
        *("a.tar.__download__", "b.tar._checksum_failure_.x1y2", "c.deb.part", "d.partial", "db.lck", "e.iso"),
        *("e.iso.aria2", "empty.lock", "f.tar.portage_lockfile", "folder", "git3-src", "lock", "nowhere", "out", "partial"),
    ]


def test_a_link_within_the_tree_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    tree, cache = grown(tmp_path / "t", "x-1.tar"), tmp_path / "cache"
    (tree / "y-1.tar").symlink_to("gone.tar")
    run = take_over(tree, cache)
    assert (run.returncode, list(said(run, "refused"))) == (1, ["y-1.tar"])


@pytest.mark.parametrize("option", [(), ("--link",)])
def test_a_file_that_somebody_writes_is_refused_until_he_is_done(tmp_path: Path, option: tuple[str, ...]) -> None:
    tree, cache = grown(tmp_path / "t", "x-1.tar", "y-1.tar"), tmp_path / "cache"
    with (tree / "x-1.tar").open("ab") as file:
        run = take_over(tree, cache, *option)
        assert (run.returncode, said(run, "refused")) == (1, {"x-1.tar": "somebody has it open to write it"})
        file.write(b" and more")
    assert "1 imported, 16 bytes, 1 here already" in imported(tree, cache, *option)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, cache, read = grown(tmp_path / "t", "x-1.tar"), tmp_path / "cache", os.read

    def read_and_touch(descriptor: int, size: int) -> bytes:
        os.utime(tree / "x-1.tar")
        return read(descriptor, size)

    importer = Importer(Core(cache), link=False)
    monkeypatch.setattr(os, "read", read_and_touch)
    importer.run(FileTree(tree, cache, Routes(()), ""), lambda: None)
    monkeypatch.undo()
    assert [(one.name, one.reason) for one in importer.done.refused] == [("x-1.tar", "it changed while it was read")]
    assert blobs(cache) == []


def test_a_date_to_come_says_nothing(tmp_path: Path, start: Callable[..., Proxy], origin: Origin) -> None:
    tree, cache = grown(tmp_path / "t", "x-1.tar", "y-1.tar"), tmp_path / "cache"
    os.utime(tree / "x-1.tar", (time.time() + 10**6,) * 2)
    os.utime(tree / "y-1.tar", (10**13, 10**13))
    imported(tree, cache)
    proxy = start(origin.url, cache=cache)
    for name in ("x-1.tar", "y-1.tar"):
        assert "Last-Modified" not in proxy.get(f"/{name}").fields


# What a source says later


def test_an_imported_index_is_confirmed_by_its_date(tmp_path: Path, start: Callable[..., Proxy], origin: Origin) -> None:
    cache, path = tmp_path / "cache", "/debian/dists/stable/InRelease"
    tree = grown(tmp_path / "t", path[1:], "debian/pool/a_1_all.deb")
    origin.put(path, path[1:].encode(), etag=None, modified=DATE)
    imported(tree, cache)
    proxy = start(origin.url, cache=cache)
    assert proxy.get(path).body == path[1:].encode()
    [asked] = origin.requests()
    assert asked.fields["if-modified-since"] == DATE
    origin.put(path, b"changed", modified=MODIFIED)
    assert proxy.get(path).body == b"changed"
    assert proxy.get("/debian/pool/a_1_all.deb").body == b"debian/pool/a_1_all.deb"
    assert {one.target for one in origin.requests()} == {path}


# Without a copy


def test_a_linked_file_is_the_one_that_is_served(tmp_path: Path, start: Callable[..., Proxy], origin: Origin) -> None:
    tree, cache = grown(tmp_path / "t", "x-1.tar", "InRelease"), tmp_path / "cache"
    index = snapshot(tree)["InRelease"]
    imported(tree, cache, "--link")
    status = (tree / "x-1.tar").stat()
    assert (status.st_nlink, status.st_mode & 0o777, is_stamp(status.st_mtime_ns)) == (2, 0o444, True)
    assert snapshot(tree)["InRelease"] == index
    proxy = start(origin.url, cache=cache)
    answer = proxy.get("/x-1.tar")
    assert (answer.body, answer.fields["Last-Modified"]) == (b"x-1.tar", DATE)
    assert list((cache / "parts-v1").iterdir()) == []


def test_a_linked_file_that_is_written_is_noticed_and_fetched_again(
    tmp_path: Path, start: Callable[..., Proxy], origin: Origin
) -> None:
    tree, cache = grown(tmp_path / "t", "x-1.tar"), tmp_path / "cache"
    imported(tree, cache, "--link")
    (tree / "x-1.tar").chmod(0o644)
    (tree / "x-1.tar").write_text("y-1.tar")
    origin.put("/x-1.tar", b"x-1.tar")
    assert start(origin.url, cache=cache).get("/x-1.tar").body == b"x-1.tar"
    assert (tree / "x-1.tar").read_text() == "y-1.tar"


def test_a_linked_file_that_changes_before_it_is_stored_is_refused(tmp_path: Path) -> None:
    tree, cache = grown(tmp_path / "t", "x-1.tar", "y-1.tar"), tmp_path / "cache"
    importer = Importer(Core(cache), link=True)
    importer.run(FileTree(tree, cache, Routes(()), ""), lambda: (tree / "x-1.tar").write_text("other"))
    assert [(one.name, one.reason) for one in importer.done.refused] == [("x-1.tar", "it changed while it was read")]
    assert (keys(cache), (tree / "x-1.tar").read_text()) == (["/y-1.tar"], "other")
    assert list((cache / "parts-v1").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_a_file_that_root_links_is_given_to_the_owner_of_the_cache(tmp_path: Path) -> None:
    tree, cache = grown(tmp_path / "t", "x-1.tar"), tmp_path / "cache"
    cache.mkdir()
    os.chown(cache, 65534, 65534)
    imported(tree, cache, "--link")
    assert {path.stat().st_uid for path in (tree / "x-1.tar", *cache.rglob("*"))} == {65534}


def test_a_linked_file_may_be_replaced_and_removed(tmp_path: Path, start: Callable[..., Proxy], origin: Origin) -> None:
    tree, cache = grown(tmp_path / "t", "x-1.tar"), tmp_path / "cache"
    imported(tree, cache, "--link")
    (tree / "new").write_text("other")
    (tree / "new").replace(tree / "x-1.tar")
    assert start(origin.url, cache=cache).get("/x-1.tar").body == b"x-1.tar"
    shutil.rmtree(tree)
    assert [path.read_bytes() for path in blobs(cache)] == [b"x-1.tar"]


def test_what_is_on_another_file_system_is_copied(tmp_path: Path, elsewhere: Path) -> None:
    tree = elsewhere / "tree"
    grown(tree, "x-1.tar")
    before = snapshot(tree)
    assert "1 imported" in imported(tree, tmp_path / "cache", "--link")
    assert snapshot(tree) == before


def test_a_file_shares_its_bytes_where_that_can_be(sharing: Path) -> None:
    data = os.urandom(200 << 20)
    (sharing / "t").mkdir()
    (sharing / "t" / "x-1.tar").write_bytes(data)
    before = snapshot(sharing / "t")
    imported(sharing / "t", sharing / "cache")  # a copy would not fit
    assert snapshot(sharing / "t") == before
    [blob] = blobs(sharing / "cache")
    assert blob.name == hashlib.sha256(data).hexdigest()
    assert blob.stat().st_ino != (sharing / "t" / "x-1.tar").stat().st_ino


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize("options", [(), ("--link",)], ids=["copied", "linked"])
@pytest.mark.parametrize("at", range(1, 12))
def test_an_import_that_dies_at_any_step_goes_on_and_leaves_the_bytes_of_the_tree(
    tmp_path: Path, at: int, options: tuple[str, ...]
) -> None:
    """Killed before its n-th file is linked, sealed, renamed or removed."""
    tree, cache = grown(tmp_path / "t", "x-1.tar", "distfiles/y-1.tar", "InRelease"), tmp_path / "cache"
    before = snapshot(tree)
    program = f"""
import os, signal, sys
from package_cache.cli import commands
left = {at}
def hook(event, arguments):
    global left
    if event in ("os.rename", "os.link", "os.utime", "os.chmod", "os.remove"):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
sys.exit(commands.run(["import", {str(tree)!r}, "--cache", {str(cache)!r}, *{options!r}]))
"""
    died = run_program(program)
    assert died.returncode in ((-signal.SIGKILL,) if at <= 9 else (-signal.SIGKILL, 0)), died.stderr
    after = snapshot(tree)
    assert {name: one[3] for name, one in after.items()} == {name: one[3] for name, one in before.items()}
    if not options:
        assert after == before
    imported(tree, cache, *options)
    assert keys(cache) == ["/InRelease", "/distfiles/y-1.tar", "/x-1.tar"]
    assert sorted(path.read_text() for path in blobs(cache)) == ["InRelease", "distfiles/y-1.tar", "x-1.tar"]
    assert list((cache / "parts-v1").iterdir()) == []
    assert run("fsck", "--cache", str(cache)).stdout.endswith("no problems\n")
