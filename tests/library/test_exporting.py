"""What the proxy has becomes a plain tree, which other programs serve and use, and which the cache takes back as it was."""

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from documentation import section
from examples import examples
from forks import run_program
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mirror import Mirror, require, run_mirror
from older import snapshot
from origin import MODIFIED, Origin, until
from product import Proxy, blobs, stored
from trees import REPOSITORIES, STAMP, export, exported, grown, imported, take_over

from package_cache.cli import commands
from package_cache.errors import BadRequest
from package_cache.rules.http.fields import parse_date
from package_cache.rules.http.targets import parse_target
from package_cache.rules.repositories.layouts import HASHED, layout_text, names_of, set_aside
from package_cache.storage.blobs import is_stamp
from package_cache.storage.parts.locks import NameLocks

__all__ = ["run_mirror"]


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def a_cache(tmp_path: Path, *names: str) -> Path:
    """A cache with files of these paths, whose bytes are their names."""
    imported(grown(tmp_path / "before", *names), tmp_path / "cache")
    return tmp_path / "cache"


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def contents(cache: Path) -> set[tuple[str, str]]:
    """Keys and digests of the newest versions."""
    with closing(sqlite3.connect(cache / "registry-v1.db")) as connection:
        query = "SELECT key, digest, max(version) FROM entry WHERE status = 3 GROUP BY key"
        return {(key, digest) for key, digest, _ in connection.execute(query)}


FLAT_LAYOUT = "[structure]\n0=flat\n"


# What is in the tree


def test_what_clients_were_given_is_a_mirror(
    tmp_path: Path, start: Callable[..., Proxy], origin: Origin, mirror: Mirror
) -> None:
    """The tree of one product is the mirror of the next, and of any client."""
    proxy, cache = start(origin.url), tmp_path / "cache"
    paths = ("/pool/a+b_1.tar", "/dists/stable/InRelease", "/distfiles/x.tar", "/x%20y/%C3%A9.tar")
    for path in paths:
        origin.put(path.replace("+", "%2B"), path.encode())
        assert proxy.get(path).status == 200
    for path in ("/simple/x/", "/search.cgi?q=1"):
        origin.put(path, b"page")
        assert proxy.get(path).status == 200
    until(lambda: len(stored(cache)) == 6)
    assert "2 without a place in a tree" in exported(cache, mirror.root)
    assert files(mirror.root) == {
        "distfiles/layout.conf": (mirror.root / "distfiles/layout.conf").read_text(),
        f"distfiles/{HASHED.path('x.tar')}": "/distfiles/x.tar",
        "dists/stable/InRelease": "/dists/stable/InRelease",
        "pool/a+b_1.tar": "/pool/a+b_1.tar",
        "x y/é.tar": "/x%20y/%C3%A9.tar",
    }
    origin.stop()
    again = start(mirror.url, cache=tmp_path / "another")
    for path in ("/pool/a%2Bb_1.tar", "/dists/stable/InRelease", "/x%20y/%C3%A9.tar"):
        assert again.get(path).body.decode() == path.replace("%2B", "+")


def test_a_distdir_is_fed_by_the_cache_and_serves_wget(tmp_path: Path, mirror: Mirror) -> None:
    require("wget")
    cache = a_cache(tmp_path, "distfiles/foo-1.0.tar.xz", f"distfiles/{HASHED.path('bar+1.zip')}", "pool/x.deb")
    distdir = mirror.root / "elsewhere" / "distfiles"
    assert exported(cache, distdir).startswith("/distfiles: 2 ")
    assert sorted(files(distdir)) == ["bar+1.zip", "foo-1.0.tar.xz", "layout.conf"]
    url = f"{mirror.url}elsewhere/distfiles/foo-1.0.tar.xz"
    got = subprocess.run(["wget", "-q", "-O", "-", url], capture_output=True, check=True)
    assert got.stdout == b"distfiles/foo-1.0.tar.xz"


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        ((), ["a/b/c.tar", "a/d.tar", "e.tar"]),
        (("--prefix", "/a"), ["b/c.tar", "d.tar"]),
        (("/a/*",), ["a/b/c.tar", "a/d.tar"]),
        (("/a/b/",), ["a/b/c.tar"]),
        (("*d.tar", "--prefix", "a/"), ["d.tar"]),
        (("/a", "--prefix", "/b"), []),
    ],
)
def test_a_part_of_the_cache_can_be_chosen(tmp_path: Path, words: tuple[str, ...], paths: list[str]) -> None:
    cache = a_cache(tmp_path, "a/b/c.tar", "a/d.tar", "e.tar")
    exported(cache, tmp_path / "tree", *words)
    assert sorted(files(tmp_path / "tree")) == paths


def test_hashed_distfiles_are_where_portage_looks_for_them(tmp_path: Path) -> None:
    cache, tree = (
        a_cache(tmp_path, "distfiles/foo-1.0.tar.xz", "distfiles/sub/x.zip", "gentoo/distfiles/y.zip"),
        tmp_path / "tree",
    )
    exported(cache, tree, "--layout", "hashed")
    conf = "[structure]\n0=filename-hash BLAKE2B 8\n"
    assert files(tree) == {
        f"distfiles/{HASHED.path('foo-1.0.tar.xz')}": "distfiles/foo-1.0.tar.xz",
        "distfiles/layout.conf": conf,
        "distfiles/sub/x.zip": "distfiles/sub/x.zip",
        f"gentoo/distfiles/{HASHED.path('y.zip')}": "gentoo/distfiles/y.zip",
        "gentoo/distfiles/layout.conf": conf,
    }
    assert "there already" in exported(cache, tree)  # in the layout that is there
    run = export(cache, tree, "--layout", "flat")
    assert run.returncode == 1
    assert "distfiles/layout.conf in that directory says filename-hash BLAKE2B 8, not flat" in run.stderr


def test_a_tree_may_be_that_of_a_repository(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(REPOSITORIES)
    told = ("--config", config)
    for name, path in (("a", "/gentoo/distfiles"), ("b", "http://deb.example/distfiles")):
        imported(grown(tmp_path / name, f"{name}.tar"), tmp_path / "cache", "--config", str(config), "--prefix", path)
    exported(tmp_path / "cache", tmp_path / "distfiles", "--layout", "hashed", *told)
    assert files(tmp_path / "distfiles") == {HASHED.path("a.tar"): "a.tar", "layout.conf": layout_text([HASHED])}
    exported(tmp_path / "cache", tmp_path / "debian", "--prefix", "http://deb.example/", "--layout", "hashed", *told)
    assert files(tmp_path / "debian") == {"distfiles/b.tar": "b.tar"}  # a folder of Debian's may be called so


def test_a_layout_that_cannot_be_understood_is_not_guessed(tmp_path: Path) -> None:
    cache, tree = a_cache(tmp_path, "distfiles/x.zip"), grown(tmp_path / "distfiles", "layout.conf")
    run = export(cache, tree)
    assert run.returncode == 1
    assert "layout.conf in that directory cannot be understood" in run.stderr


# How it gets there


def test_packages_are_hard_links_and_indexes_have_their_dates(tmp_path: Path) -> None:
    cache, tree = a_cache(tmp_path, "x-1.tar", "InRelease"), tmp_path / "tree"
    said = exported(cache, tree)
    package, index = (tree / "x-1.tar").stat(), (tree / "InRelease").stat()
    if "reflinked" in said:
        pytest.skip("files share their bytes here: the directory for temporary files is on Btrfs, XFS or the like")
    assert said == "/: 1 linked, 1 copied, 16 bytes\n"
    assert (package.st_nlink, package.st_mode & 0o777, is_stamp(package.st_mtime_ns)) == (2, 0o444, True)
    assert (index.st_nlink, index.st_mtime) == (1, STAMP)


@pytest.mark.parametrize("way", ["--copy", "--reflink"])
def test_files_of_their_own_have_their_dates(sharing: Path, tmp_path: Path, way: str) -> None:
    del tmp_path
    imported(grown(sharing / "before", "x-1.tar", "InRelease"), sharing / "cache")
    assert ("2 copied" if way == "--copy" else "2 reflinked") in exported(sharing / "cache", sharing / "tree", way)
    for name in ("x-1.tar", "InRelease"):
        status = (sharing / "tree" / name).stat()
        assert (status.st_nlink, status.st_mode & 0o777, status.st_mtime) == (1, 0o644, STAMP)
    with (sharing / "tree" / "x-1.tar").open("ab") as file:
        file.write(b"more")
    assert {path.read_text() for path in blobs(sharing / "cache")} == {"x-1.tar", "InRelease"}


def test_files_share_their_bytes_where_that_can_be(sharing: Path) -> None:
    data = os.urandom(100 << 20)
    (sharing / "before").mkdir()
    (sharing / "before" / "x-1.tar").write_bytes(data)
    imported(sharing / "before", sharing / "cache")
    free = shutil.disk_usage(sharing).free
    assert exported(sharing / "cache", sharing / "tree").startswith("/: 1 reflinked")
    assert (sharing / "tree" / "x-1.tar").read_bytes() == data
    assert free - shutil.disk_usage(sharing).free < 10 << 20


def test_a_copy_takes_the_place_of_a_link_of_before(tmp_path: Path) -> None:
    cache, tree = a_cache(tmp_path, "x-1.tar"), tmp_path / "tree"
    exported(cache, tree, "--link")
    assert (tree / "x-1.tar").stat().st_nlink == 2
    assert "1 there already" in exported(cache, tree, "--link")
    assert "1 copied" in exported(cache, tree, "--copy")
    assert ((tree / "x-1.tar").stat().st_nlink, (tree / "x-1.tar").stat().st_mtime) == (1, STAMP)
    assert "1 there already" in exported(cache, tree)


def test_on_another_file_system_everything_is_copied(tmp_path: Path, elsewhere: Path) -> None:
    cache = a_cache(tmp_path, "x-1.tar", "InRelease")
    assert "2 copied" in exported(cache, elsewhere)
    assert [path.stat().st_mtime for path in elsewhere.iterdir()] == [STAMP, STAMP]


@pytest.mark.parametrize("way", ["--link", "--reflink"])
def test_a_way_that_cannot_be_is_said_once(tmp_path: Path, elsewhere: Path, way: str) -> None:
    cache = a_cache(tmp_path, "x-1.tar", "y-1.tar")
    run = export(cache, elsewhere, way)
    assert (run.returncode, len(run.stderr.splitlines())) == (1, 1)
    assert f"leave {way} away" in run.stderr
    assert list(elsewhere.iterdir()) == []


# What is there already


def test_what_is_right_is_left_alone_and_a_changed_index_is_replaced(
    tmp_path: Path, start: Callable[..., Proxy], origin: Origin
) -> None:
    cache, tree = a_cache(tmp_path, "x-1.tar", "y-1.tar", "InRelease"), grown(tmp_path / "tree", "y-1.tar")
    os.utime(tree / "y-1.tar", (1, 1))
    exported(cache, tree, "--copy")
    before = snapshot(tree)
    assert "nothing new, 3 there already" in exported(cache, tree, "--copy")
    assert snapshot(tree) == before
    assert before["y-1.tar"][1] == 10**9
    origin.put("/InRelease", b"changed!!")  # as many bytes as before
    assert start(origin.url, cache=cache).get("/InRelease").body == b"changed!!"
    until(lambda: len({digest for _, digest in contents(cache)} & {hashlib.sha256(b"changed!!").hexdigest()}))
    assert "1 copied, 9 bytes, 2 there already" in exported(cache, tree, "--copy")
    assert (tree / "InRelease").read_text() == "changed!!"
    assert (tree / "InRelease").stat().st_mtime == parse_date(MODIFIED)


def test_an_index_that_kept_its_size_and_date_is_replaced_all_the_same(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    exported(a_cache(tmp_path, "InRelease"), tree)
    (tmp_path / "before" / "InRelease").write_text("InRELEASE")
    os.utime(tmp_path / "before" / "InRelease", (STAMP, STAMP))
    imported(tmp_path / "before", tmp_path / "other")
    exported(tmp_path / "other", tree)
    assert files(tree) == {"InRelease": "InRELEASE"}


def test_a_package_file_with_other_bytes_is_left_and_named(tmp_path: Path) -> None:
    cache, tree = a_cache(tmp_path, "x-1.tar", "y-1.tar"), tmp_path / "tree"
    tree.mkdir()
    (tree / "x-1.tar").write_text("mine!")
    run = export(cache, tree)
    assert run.returncode == 1
    assert "refused /x-1.tar: it is there with other bytes" in run.stdout
    assert files(tree) == {"x-1.tar": "mine!", "y-1.tar": "y-1.tar"}


def test_of_a_file_and_a_folder_of_one_name_the_folder_is_there(
    tmp_path: Path, start: Callable[..., Proxy], origin: Origin
) -> None:
    cache, tree, proxy = tmp_path / "cache", tmp_path / "tree", start(origin.url)
    for path in ("/left", "/left/-/left-1.tar"):
        origin.put(path, path.encode())
        proxy.get(path)
    until(lambda: len(stored(cache)) == 2)
    for _ in range(2):
        run = export(cache, tree)
        assert (run.returncode, files(tree)) == (1, {"left/-/left-1.tar": "/left/-/left-1.tar"})
        assert "refused /left: a folder has its name there" in run.stdout


def test_nothing_is_put_where_symbolic_links_lead(tmp_path: Path) -> None:
    cache, tree, outside = a_cache(tmp_path, "a/x-1.tar", "y-1.tar"), tmp_path / "tree", tmp_path / "outside"
    tree.mkdir()
    outside.mkdir()
    (tree / "a").symlink_to(outside)
    (tree / "y-1.tar").symlink_to(outside / "y-1.tar")
    run = export(cache, tree)
    assert run.returncode == 1
    assert "refused /a/x-1.tar: a is no folder there" in run.stdout
    assert "refused /y-1.tar: what has its name there is not a regular file" in run.stdout
    assert list(outside.iterdir()) == []


def test_nothing_is_put_into_the_cache_itself(tmp_path: Path) -> None:
    cache = a_cache(tmp_path, "cache/x-1.tar", "x-1.tar")
    run = export(cache, cache / "tree")
    assert (run.returncode, run.stderr) == (2, f"package-cache: {cache}/tree is within the cache: give another directory\n")
    run = export(cache, tmp_path)
    assert "refused /cache/x-1.tar: its folder is the cache itself" in run.stdout
    assert (tmp_path / "x-1.tar").exists()


def test_a_damaged_file_is_not_exported(tmp_path: Path) -> None:
    cache, tree = a_cache(tmp_path, "x-1.tar", "y-1.tar"), tmp_path / "tree"
    blob = cache / "blobs-v1" / (digest := hashlib.sha256(b"x-1.tar").hexdigest())[:2] / digest
    blob.chmod(0o644)
    blob.write_bytes(b"z-1.tar")
    run = export(cache, tree)
    assert (run.returncode, files(tree)) == (1, {"y-1.tar": "y-1.tar"})
    assert "refused /x-1.tar: blob" in run.stdout


def test_a_cache_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    run = export(tmp_path / "none", tmp_path / "tree")
    assert (run.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "there is no cache in" in run.stderr


# There and back


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=12)


@settings(max_examples=examples(15), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["", "distfiles/", "distfiles/00/", "pool/x/"]), NAMES), min_size=1, max_size=6),
    st.sampled_from(["flat", "hashed"]),
    st.sampled_from(["--copy", "--link"]),
)
def test_import_takes_back_what_export_gave(paths: list[tuple[str, str]], layout: str, way: str) -> None:
    for _, name in paths:
        assume(
            not name.startswith(".")
            and not set_aside(name, 1)
            and name not in ("layout.conf", "partial", "distfiles", "pool")
        )
    with tempfile.TemporaryDirectory() as place:
        one, other, tree = Path(place) / "one", Path(place) / "other", Path(place) / "tree"
        imported(grown(Path(place) / "before", *{folder + name for folder, name in paths}), one)
        exported(one, tree, "--layout", layout, way)
        run = take_over(tree, other)
        assert (run.returncode, run.stderr) == (0, ""), run.stdout
        assert contents(other) == contents(one)
        before = snapshot(tree)
        assert "nothing new" in exported(other, tree, "--copy") or way == "--link"
        assert snapshot(tree) == before or way == "--link"


@settings(max_examples=examples(100), deadline=None)
@given(st.text(max_size=40))
def test_a_path_in_a_tree_never_climbs_out_of_it_and_leads_back(text: str) -> None:
    try:
        path = parse_target("/" + quote(text, safe="/"))[1].path
        names = names_of(path)
    except (BadRequest, ValueError):
        return
    assert names
    assert all(name and "/" not in name and name not in (".", "..") for name in names)
    assert parse_target("/" + "/".join(quote(name, safe="") for name in names))[1].path == path


@pytest.mark.parametrize(
    "key",
    [
        "/x/",
        "/",
        "/a//b",
        "/@scope%2Fname",
        "/.hidden/x",
        "/a/..%2Fb",
        "/" + "x" * 256,
        "/%C3%A9" + "x" * 254,
    ],
)
def test_keys_that_no_file_can_have(key: str) -> None:
    with pytest.raises(ValueError, match=r"it is|it has|it depends|its path"):
        names_of(key)


# Interruption


@contextmanager
def waiting(cache: Path, tree: Path, name: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[], None]]]:
    """An export that waits for one file in the middle; what lets it go on."""
    locks, lock = NameLocks(cache / "leases-v2"), f"blob:{hashlib.sha256(name.encode()).hexdigest()}"
    assert locks.take(lock)
    command = [sys.executable, "-m", "package_cache", "export", str(tree), "--cache", str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: (tree / "a-1.tar").exists())
            yield process, lambda: locks.free(lock)
        finally:
            locks.free(lock)
            if process.poll() is None:
                process.kill()


def test_an_interrupted_export_goes_on_where_it_was(tmp_path: Path) -> None:
    cache, tree = a_cache(tmp_path, "a-1.tar", "b-1.tar", "c-1.tar"), tmp_path / "tree"
    with waiting(cache, tree, "b-1.tar") as (process, _):
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert said.endswith("interrupted: run it again to resume\n")
    assert sorted(files(tree)) == ["a-1.tar"]
    assert "1 there already" in exported(cache, tree)


def test_a_killed_export_leaves_no_half_file_and_goes_on(tmp_path: Path) -> None:
    cache, tree = a_cache(tmp_path, "a-1.tar", "b-1.tar", "c-1.tar"), tmp_path / "tree"
    with waiting(cache, tree, "b-1.tar") as (process, _):
        process.kill()
        process.wait()
    (tree / ".package-cache-export").write_bytes(b"half")
    assert "1 there already" in exported(cache, tree)
    assert files(tree) == {name: name for name in ("a-1.tar", "b-1.tar", "c-1.tar")}


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize("at", range(1, 9))
def test_an_export_that_dies_at_any_step_leaves_whole_files_only(tmp_path: Path, at: int) -> None:
    """Killed before its n-th file is made, linked or renamed."""
    cache, tree = a_cache(tmp_path, "a-1.tar", "distfiles/b-1.tar", "InRelease"), tmp_path / "tree"
    program = f"""
import os, signal, sys
from package_cache.cli import commands
from package_cache.errors import BadRequest
left = {at}
def hook(event, arguments):
    global left
    if event in ("os.rename", "os.link", "os.utime") or (event == "open" and arguments[0] == ".package-cache-export"):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
commands.run(["export", {str(tree)!r}, "--copy", "--cache", {str(cache)!r}])
"""
    died = run_program(program)
    assert died.returncode == -signal.SIGKILL
    whole = {"a-1.tar": "a-1.tar", "distfiles/b-1.tar": "distfiles/b-1.tar", "InRelease": "InRelease"}
    whole["distfiles/layout.conf"] = FLAT_LAYOUT
    found = {name: text for name, text in files(tree).items() if name != ".package-cache-export"}
    assert found.items() <= whole.items()
    exported(cache, tree, "--copy")
    assert files(tree) == whole


def test_one_export_to_a_place_at_a_time(tmp_path: Path) -> None:
    cache, tree = a_cache(tmp_path, "x-1.tar"), tmp_path / "tree"
    tree.mkdir()
    descriptor = os.open(tree, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        run = export(cache, tree)
    finally:
        os.close(descriptor)
    assert (run.returncode, run.stderr) == (1, f"package-cache: another export to {tree} is at work\n")


def test_the_report_of_an_export_is_one_json_object(tmp_path: Path) -> None:
    cache, tree = a_cache(tmp_path, "x-1.tar", "y-1.tar"), tmp_path / "tree"
    tree.mkdir()
    (tree / "x-1.tar").write_text("mine!")
    report = json.loads(export(cache, tree, "--copy", "--json").stdout)
    assert [one["path"] for one in report.pop("refused")] == ["/x-1.tar"]
    assert report == {
        "whole": True,
        "prefix": "",
        "reflinked": 0,
        "linked": 0,
        "copied": 1,
        "bytes": 7,
        "here": 0,
        "skipped": [],
    }


def test_the_commands_of_the_guide_do_what_it_says(tmp_path: Path) -> None:
    lines = re.findall(r"(?m)^    package-cache ((?:import|export) .*)$", section("operations", "Trees of files"))
    grown(tmp_path / "var/cache/distfiles", "a-1.tar")
    grown(tmp_path / "srv/debian", "pool/b-1.tar")
    here = tmp_path / "srv/mirror"
    trees = []
    for line in lines:
        words = shlex.split(re.sub(r" (/var|/srv)", rf" {tmp_path}\1", line), comments=True)
        assert commands.run([*words, "--cache", str(tmp_path / "cache")]) == 0
        trees.append(files(here))
        if line.startswith("export /srv"):
            shutil.rmtree(here)
    assert stored(tmp_path / "cache") == ["/debian/pool/b-1.tar", "/distfiles/a-1.tar"]
    assert trees == [
        {},
        {},
        {"debian/pool/b-1.tar": "pool/b-1.tar", "distfiles/a-1.tar": "a-1.tar", "distfiles/layout.conf": FLAT_LAYOUT},
        {},
        {f"distfiles/{HASHED.path('a-1.tar')}": "a-1.tar", "distfiles/layout.conf": layout_text([HASHED])},
    ]
    assert files(tmp_path / "var/cache/distfiles") == {"a-1.tar": "a-1.tar", "layout.conf": FLAT_LAYOUT}
