"""The crash table: the product is killed at each step of what it does to its cache, and the power fails there.

A row is a step: a file created, opened for writing, written, synced, renamed or removed, a lock, a statement or commit of
SQLite. A first run lists them; then each is a run of its own, that ends there. Power that fails is modelled on what a kill
leaves: what was not synced by then is taken away.
"""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faulty import Nursery
from origin import Origin, until
from plain import give, plain_ground, plain_user
from product import blobs, parts
from stage import (
    LARGE,
    LOST_REGISTRY,
    NEW,
    OLD,
    OTHER,
    REPEATS,
    SCENES,
    Run,
    Stage,
    Step,
    described,
    die_before_storing,
    state_of,
)

OVERLAP = 4096
"""Bytes before the joint that are asked for again."""


@dataclass
class Kept:
    """What a killed process left of a download: bytes that may be used, and whether they are all and verified."""

    size: int = 0
    verified: bool = False
    stored: bool = False


def kept(cache: Path, body: bytes) -> Kept:
    """Read from the files alone."""
    found, number, has_head = Kept(), 0, False
    for journal in (cache / "parts-v1").glob("*.fill"):
        for line in journal.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            number = record.get("part", number)
            has_head |= "head" in record
            found.verified = "whole" in record or (found.verified and "done" in record)
        part = journal.with_name(f"{journal.stem}.{number}.part")
        found.size = part.stat().st_size if has_head and part.exists() else 0
    found.stored = is_stored(cache, body)
    return found


def is_stored(cache: Path, body: bytes) -> bool:
    """Whether it is there, and in the registry; that is asked of a copy, so that SQLite tidies nothing up."""
    digest = hashlib.sha256(body).hexdigest()
    blob = cache / "blobs-v1" / digest[:2] / digest
    is_file = blob.exists() and blob.read_bytes() == body
    copy = cache.parent / f"{cache.name}-copy"
    copy.mkdir()
    for path in cache.glob("registry-v1.db*"):
        shutil.copy(path, copy)
    try:
        with closing(sqlite3.connect(copy / "registry-v1.db")) as connection:
            query = "SELECT count(*) FROM entry WHERE digest = ? AND status = 3"
            if not is_file:
                query += " AND EXISTS (SELECT 1 FROM small WHERE digest = entry.digest)"
            return bool(connection.execute(query, (digest,)).fetchone()[0])
    except sqlite3.OperationalError:  # there is no table yet
        return False
    finally:
        shutil.rmtree(copy)


def expected_range(left: Kept) -> str | None:
    """The range that the source is to be asked for first after a kill: what is not here."""
    return f"bytes={left.size - OVERLAP}-" if left.size > OVERLAP else None


# Power that fails


NAMED = ("blobs-v1/", "parts-v1/", "registry-v1.db", "ledger-v1")
"""Files whose names may go."""


@dataclass(frozen=True)
class Cut:
    """What is lost besides bytes and names that were not synced."""

    commits: bool
    ledger: bool

    def __str__(self) -> str:
        return " and ".join(["bytes", "names", *["commits"] * self.commits, *["ledger"] * self.ledger])


@dataclass
class Unsynced:
    """What was not durable at the end of a run: bytes by inode, with the size that was, and names."""

    data: dict[int, int] = field(default_factory=dict)
    names: list[Step] = field(default_factory=list)


def unsynced(steps: list[Step]) -> Unsynced:
    """By the promise of fsync(2): bytes are durable after that of their file, names after that of their directory."""
    left = Unsynced()
    for step in steps:
        if step.call == "write":
            left.data.setdefault(step.inode, step.size)
        elif step.call == "fsync":
            left.data.pop(step.inode, None)
            left.names = [one for one in left.names if str(Path(one.to or one.path).parent) != step.path]
        elif step.call in ("create", "rename", "remove") and step.path.startswith(NAMED):
            left.names.append(step)
    return left


def take_away_bytes(cache: Path, left: Unsynced) -> None:
    """The sizes were written, the bytes were not."""
    for path in (*cache.glob("blobs-v1/*/*"), *cache.glob("parts-v1/*"), *cache.glob("ledger-v1")):
        status = path.stat()
        durable = left.data.get(status.st_ino)
        if durable is not None and durable < status.st_size:
            mode = status.st_mode
            path.chmod(0o600)
            with path.open("r+b") as file:
                file.seek(durable)
                file.write(bytes(status.st_size - durable))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            path.chmod(mode)


def take_away_names(cache: Path, left: Unsynced) -> None:
    """Files are called what they were called before."""
    for step in reversed(left.names):
        if step.call == "create":
            (cache / step.path).unlink(missing_ok=True)
        elif step.call == "rename" and step.to and (cache / step.to).exists():
            (cache / step.to).rename(cache / step.path)
        elif step.kept:
            (cache / step.path).unlink(missing_ok=True)
            os.link(step.kept, cache / step.path)


def take_away_commits(cache: Path) -> None:
    """Without a sync the write-ahead log may be gone."""
    for suffix in ("-wal", "-shm"):
        (cache / f"registry-v1.db{suffix}").unlink(missing_ok=True)


def boot(cache: Path) -> None:
    """The machine was started anew since."""
    for journal in (cache / "parts-v1").glob("*.fill"):
        text = journal.read_bytes()
        journal.write_bytes(re.sub(rb'"claim": "[^"]+"', b'"claim": "00000000-0000-0000-0000-000000000000"', text))


def copy_of(cache: Path, room: Path) -> Path:
    """A copy in a room of its own; an empty directory where there is no cache yet."""
    copy = room / "cache"
    copy.mkdir(parents=True)
    if cache.exists():
        shutil.copytree(cache, copy, dirs_exist_ok=True)
    return copy


def cut_power(run: Run, room: Path, cut: Cut) -> Path:
    """What the run's cache is after the power failed where it ended."""
    left = unsynced([step for step in run.steps if cut.ledger or step.path != "ledger-v1"])
    cache = copy_of(run.cache, room)
    numbers = {path.relative_to(run.cache): path.stat().st_ino for path in run.cache.rglob("*")}
    left.data = {(cache / path).stat().st_ino: left.data[number] for path, number in numbers.items() if number in left.data}
    take_away_bytes(cache, left)
    take_away_names(cache, left)
    if cut.commits:
        take_away_commits(cache)
    boot(cache)
    return cache


# The tests


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    """A directory for all that happens here, which is done by a plain user."""
    with plain_ground() as place:
        yield place


def room_on(ground: Path) -> Path:
    room = Path(tempfile.mkdtemp(dir=ground))
    room.chmod(0o755)
    give(room)
    return room


@pytest.fixture
def tmp_path(ground: Path) -> Path:
    return room_on(ground)


@pytest.fixture(scope="module")
def nursery(nursery: Nursery) -> Nursery:
    """Whose products a plain user runs."""
    return nursery.run_by(plain_user())


@pytest.fixture(params=list(SCENES), scope="module")
def stage(request: pytest.FixtureRequest, nursery: Nursery, ground: Path) -> Stage:
    return Stage(nursery, SCENES[request.param], room_on(ground))


@dataclass(frozen=True)
class Row:
    """Where to die: before, half way through, or after a step; and what there was then."""

    name: str
    ordinal: int
    deed: str
    run: Run

    def __str__(self) -> str:
        return f"{self.deed:5} {self.name} #{self.ordinal}"


LEAVE_NOTHING = {"open", "lock", "flock", "begin", "sqlite"}
"""Calls after which a disk is as before: a death there is one at the next step."""


@pytest.fixture(scope="module")
def repeats(request: pytest.FixtureRequest) -> int:
    """How many of the same steps are died at: what the third writes is as that of the second."""
    return 10_000 if request.config.getoption("--every-step") else REPEATS


def places_to_die(steps: list[Step], repeats: int) -> list[tuple[str, int, str]]:
    """Before each step; half way through each write; and after each commit and sync, too."""
    deeds = {"write": ["kill", "half"], "commit": ["kill", "after"], "fsync": ["kill", "after"]}
    return [
        (step.name, step.ordinal, deed)
        for step in steps
        if step.ordinal <= repeats and step.call not in LEAVE_NOTHING
        for deed in deeds.get(step.call, ["kill"])
    ]


@pytest.fixture
def table(stage: Stage, repeats: int) -> list[Row]:
    """Every way to die in a scene, died."""
    places = places_to_die(stage.play().steps, repeats)
    assert len(places) > 5
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda place: Row(*place, stage.play(*place)), places))


def judge(table: list[Row], find: Callable[[Row], Path], check: Callable[[Row, Path], None]) -> None:
    """Check what every row leaves, once each; all that are wrong are told."""
    caches = [find(row) for row in table]
    firsts = {state_of(cache): at for at, cache in reversed(list(enumerate(caches)))}

    def trouble_with(at: int) -> str:
        try:
            check(table[at], caches[at])
        except AssertionError as error:
            return described(error)
        return ""

    with ThreadPoolExecutor(3) as pool:
        troubles = dict(zip(firsts.values(), pool.map(trouble_with, firsts.values()), strict=True))
    for at, row in enumerate(table):
        print(f"{'WRONG' if troubles.get(at) else 'right'}  {row}  {troubles.get(at, 'as before')}")
    assert not any(troubles.values())


@pytest.fixture
def cuts(request: pytest.FixtureRequest) -> Sequence[Cut]:
    """What goes with the power: all that may, and in the long lane each of it alone, too."""
    alone = (Cut(commits=False, ledger=True), Cut(commits=True, ledger=False))
    return (Cut(commits=True, ledger=True), *(alone if request.config.getoption("--every-step") else ()))


@pytest.mark.timeout(0)
def test_death_and_power_that_fails_at_any_step_cost_nothing_but_what_was_not_there_or_not_synced(
    stage: Stage, table: list[Row], cuts: Sequence[Cut]
) -> None:
    """In one test: to die in every way takes longer than to look at what is left."""
    judge_death(stage, table)
    judge_cuts(stage, table, cuts)


def judge_death(stage: Stage, table: list[Row]) -> None:
    def find(row: Row) -> Path:
        return copy_of(row.run.cache, row.run.cache.with_name("killed"))

    def check(_: Row, cache: Path) -> None:
        left = kept(cache, stage.scene.body)
        ranges = [fields.get("range") for fields in stage.recover_once(cache)]
        if not left.stored and not left.verified:
            assert ranges[0] == expected_range(left), (ranges, left)
            assert len(ranges) == 1 or not stage.scene.is_package or stage.scene.body is OTHER, ranges
        else:
            assert not ranges or not stage.scene.is_package, (ranges, left)

    judge(table, find, check)


def judge_cuts(stage: Stage, table: list[Row], cuts: Sequence[Cut]) -> None:
    for cut in cuts:

        def find(row: Row, cut: Cut = cut) -> Path:
            done = row.run.steps if row.deed == "after" else row.run.steps[:-1]
            return cut_power(Run(row.run.cache, done, None), row.run.cache.with_name(f"without {cut}"), cut)

        def check(_: Row, cache: Path) -> None:
            asked = stage.recover_once(cache)
            assert not [fields for fields in asked if "range" in fields], "bytes that were not synced are trusted"

        print(f"without {cut}")
        judge(table, find, check)


# The order of what is done


def places(steps: list[Step], call: str, path: str = "", to: str = "") -> list[int]:
    """Where in the run something was done."""
    return [
        at
        for at, step in enumerate(steps)
        if step.call == call and step.path.startswith(path) and (step.to or "").startswith(to)
    ]


def test_bytes_are_synced_before_they_get_their_name_and_the_name_before_it_is_promised(stage: Stage) -> None:
    steps = stage.play().steps
    commits = places(steps, "commit")
    for at in places(steps, "rename", "parts-v1/", "blobs-v1/"):
        part, name = steps[at].inode, steps[at].to
        assert name is not None
        of_part = [step.call for step in steps[:at] if step.inode == part]
        assert "fsync" in of_part
        assert "write" not in of_part[of_part.index("fsync") :]
        promised = min(commit for commit in commits if commit > at)
        synced = places(steps, "fsync", str(Path(name).parent))
        assert [one for one in synced if at < one < promised], "the name is promised before it is durable"
        # What is written after the file has its name would be written into a stored file.
        assert not [step for step in steps[at:] if step.inode == part and step.call in ("write", "truncate")]


def test_a_directory_of_files_is_synced_into_its_parent_before_anything_in_it_is_promised(stage: Stage) -> None:
    steps = stage.play().steps
    for at in places(steps, "mkdir", "blobs-v1/"):
        promised = [commit for commit in places(steps, "commit") if commit > at]
        synced = [one for one in places(steps, "fsync", "blobs-v1") if steps[one].path == "blobs-v1"]
        assert [one for one in synced if at < one < min(promised)]


def test_what_a_download_leaves_for_its_successor_is_removed_after_the_commit_only(stage: Stage) -> None:
    steps = stage.play().steps
    if not places(steps, "rename", "parts-v1/", "blobs-v1/"):
        return
    removed = [at for at in places(steps, "remove", "parts-v1/") if steps[at].path.endswith(".fill")]
    assert all(at > max(places(steps, "commit")) for at in removed)


# A registry that is made again


def test_death_at_any_step_of_making_the_registry_again_loses_no_name(nursery: Nursery, tmp_path: Path) -> None:
    stage = Stage(nursery, LOST_REGISTRY, tmp_path)
    places = places_to_die(stage.play().steps, REPEATS)
    assert {"rename registry-v1.db", "rename registry-v1.db.new"} <= {name for name, _, _ in places}
    with ThreadPoolExecutor(3) as pool:
        table = list(pool.map(lambda place: Row(*place, stage.play(*place)), places))

    def check(_: Row, cache: Path) -> None:
        assert not stage.recover(cache), "it was fetched again"

    judge(table, lambda row: row.run.cache, check)


# What a killed process had verified


@pytest.mark.parametrize("body", [OLD, NEW], ids=["the same", "a new one"])
def test_an_index_that_a_killed_process_had_verified_is_confirmed_before_it_is_served(
    nursery: Nursery, origin: Origin, tmp_path: Path, body: bytes
) -> None:
    die_before_storing(nursery, tmp_path, "/layout.conf", OLD)
    origin.put("/layout.conf", body)
    proxy = nursery.start(tmp_path / "cache", [origin.url], tmp_path)
    answers = [proxy.get("/layout.conf") for _ in range(2)]
    proxy.kill()
    assert [answer.body for answer in answers] == [body, body]
    assert "if-none-match" in origin.requests()[0].fields


def test_what_a_killed_process_had_verified_and_the_disk_lost_since_is_fetched_anew(
    nursery: Nursery, origin: Origin, tmp_path: Path
) -> None:
    die_before_storing(nursery, tmp_path)
    [part] = [path for path in parts(tmp_path / "cache") if path.suffix == ".part"]
    part.chmod(0o600)
    with part.open("r+b") as file:
        file.write(bytes(4096))
    origin.put("/a-1.tar", LARGE)
    proxy = nursery.start(tmp_path / "cache", [origin.url], tmp_path)
    answer = proxy.get("/a-1.tar")
    until(lambda: not parts(proxy.cache))
    proxy.kill()
    assert answer.body == LARGE
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in blobs(proxy.cache)] == [
        hashlib.sha256(LARGE).hexdigest()
    ]
