"""Rot and loss: whatever becomes of the registry and its ledger, the service starts, and what it serves is right."""

import fcntl
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from faulty import Fork, Nursery
from forks import Forks
from origin import Origin, until
from product import Proxy, blobs, parts
from stock import BODIES, Stock, blob_of, fill, make, names, overwrite, rot, serves_all, shorten

from package_cache.engine.upkeep.verification import NAMELESS_SECONDS, Scrub, Sweep
from package_cache.model import Key, Representation, Status
from package_cache.storage.cache_directory import open_cache_directory
from package_cache.storage.damage import KEPT_BYTES
from package_cache.storage.database.bookkeeping import compare, keep_ledger
from package_cache.storage.database.connections import MissingDatabase, open_database
from package_cache.storage.database.ledger import Ledger, parse, side_line
from package_cache.storage.inventory import Inventory
from package_cache.storage.parts.locks import hashed
from package_cache.storage.registry import Registry, Totals
from package_cache.storage.removal import Position, Removal

REGISTRY, LEDGER = "registry-v1.db", "ledger-v1"
HOUR, DAY = 3600.0, 86400.0


@pytest.fixture(scope="module")
def stopped(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    """A cache whose server was told to end."""
    stock = make(tmp_path_factory.mktemp("stopped") / "cache", forks)
    yield stock
    stock.origin.stop()


@pytest.fixture(scope="module")
def killed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    """A cache whose server was killed, with the last commits in the log of the database."""
    stock = make(tmp_path_factory.mktemp("killed") / "cache", forks, Proxy.kill)
    yield stock
    stock.origin.stop()


def asked(stock: Stock) -> int:
    """How often the source was asked for a file."""
    return sum(not one.target.endswith("/layout.conf") for one in stock.origin.requests())


def set_aside(cache: Path) -> list[Path]:
    return [path for path in cache.glob(f"{REGISTRY}.damaged-*") if not path.name.endswith(("-wal", "-shm"))]


def is_sound(cache: Path) -> bool:
    with closing(sqlite3.connect(cache / REGISTRY)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.fixture
def fork(nursery: Nursery, tmp_path: Path) -> Iterator[Callable[[Stock, Path], Fork]]:
    """Starts products on damaged copies, where there are many of them."""
    running: list[Fork] = []

    def _fork(stock: Stock, cache: Path) -> Fork:
        running.append(nursery.start(cache, [stock.origin.url], tmp_path))
        return running[-1]

    yield _fork
    for one in running:
        one.kill()


# What a start finds


def truncate_to(size: int) -> Callable[[Path], None]:
    return lambda cache: os.truncate(cache / REGISTRY, size)


def be_text(cache: Path) -> None:
    (cache / REGISTRY).write_text("this is no registry\n" * 5000)


def be_gone(cache: Path) -> None:
    (cache / REGISTRY).unlink()


def be_another_database(cache: Path) -> None:
    be_gone(cache)
    with closing(sqlite3.connect(cache / REGISTRY)) as connection:
        connection.executescript("CREATE TABLE entry (name TEXT); INSERT INTO entry VALUES ('a')")


def lose_the_middle(cache: Path) -> None:
    path = cache / REGISTRY
    overwrite(path, 4096, bytes(path.stat().st_size - 8192))


def lose_a_table(cache: Path) -> None:
    with closing(sqlite3.connect(cache / REGISTRY)) as connection:
        connection.executescript("DROP TABLE meta")


def lose_the_totals(cache: Path) -> None:
    with closing(sqlite3.connect(cache / REGISTRY)) as connection, connection:
        connection.execute("DELETE FROM total")


DAMAGES = [
    be_text,
    be_gone,
    be_another_database,
    truncate_to(0),
    truncate_to(100),
    lose_the_middle,
    lose_a_table,
    lose_the_totals,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_name_is_back_though_the_registry_is_lost(
    stopped: Stock, start: Callable[..., Proxy], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    cache, before = stopped.copy(tmp_path / "cache"), asked(stopped)
    damage(cache)
    proxy = start(stopped.origin.url, cache=cache)
    serves_all(proxy)
    assert asked(stopped) == before
    assert len(set_aside(cache)) == (damage is not be_gone)
    [line] = [line for line in proxy.log if "was made again" in line]
    assert f"{len(BODIES)} names are back" in line
    assert proxy.stop() == 0
    assert is_sound(cache)
    assert start(stopped.origin.url, cache=cache).log[:-1] == []


def test_every_name_is_back_wherever_the_registry_was_cut(
    stopped: Stock, fork: Callable[[Stock, Path], Fork], tmp_path: Path
) -> None:
    size, before = (stopped.cache / REGISTRY).stat().st_size, asked(stopped)
    for pages in range(1, size // 4096):
        cache = stopped.copy(tmp_path / str(pages))
        truncate_to(4096 * pages)(cache)
        proxy = fork(stopped, cache)
        serves_all(proxy)
        proxy.kill()
        assert is_sound(cache), pages
    assert asked(stopped) == before


def test_every_name_is_back_though_the_log_of_the_database_is_gone(
    killed: Stock, fork: Callable[[Stock, Path], Fork], tmp_path: Path
) -> None:
    cache, before = killed.copy(tmp_path / "cache"), asked(killed)
    assert (cache / f"{REGISTRY}-wal").stat().st_size > 0
    (cache / f"{REGISTRY}-wal").unlink()
    serves_all(fork(killed, cache))
    assert asked(killed) == before


def tear(ledger: Path) -> None:
    os.truncate(ledger, ledger.stat().st_size - 20)


def lose_a_line(ledger: Path) -> None:
    rot(ledger, ledger.stat().st_size // 2)


def lose_all_but_the_first_line(ledger: Path) -> None:
    os.truncate(ledger, len(ledger.read_bytes().splitlines(keepends=True)[0]))


def be_zeros(ledger: Path) -> None:
    ledger.write_bytes(bytes(100_000))


LEDGER_DAMAGES = [tear, lose_a_line, lose_all_but_the_first_line, be_zeros, Path.unlink]


@pytest.mark.parametrize("damage", LEDGER_DAMAGES)
def test_a_damaged_ledger_is_made_good_from_the_registry(
    stopped: Stock, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    cache = stopped.copy(tmp_path / "cache")
    with closing(Registry(cache / REGISTRY)) as registry:
        inventory = Inventory(registry.database)
        inventory.pin(Key(A), "a test")
        inventory.pin(Key(B), "a test")
        damage(cache / LEDGER)
        assert registry.totals().entries == len(BODIES)
        keep_ledger(registry.database, lambda: None)
        found = compare(registry.database, lambda: None)
        assert (found.damaged, found.wrong, found.gone, found.sides) == (0, [], [], [])
    be_gone(cache)
    with closing(Registry(cache / REGISTRY)) as registry:
        assert registry.totals().entries == len(BODIES)
        assert list(Inventory(registry.database).pins()) == [Key(A), Key(B)]


@pytest.mark.parametrize("damage", LEDGER_DAMAGES)
def test_what_the_ledger_has_lost_is_taken_from_the_damaged_registry(
    stopped: Stock, fork: Callable[[Stock, Path], Fork], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    cache, before = stopped.copy(tmp_path / "cache"), asked(stopped)
    damage(cache / LEDGER)
    lose_the_totals(cache)
    serves_all(fork(stopped, cache))
    assert asked(stopped) == before


@pytest.mark.parametrize("damage", LEDGER_DAMAGES)
def test_a_ledger_alone_gives_back_what_its_good_lines_tell(
    stopped: Stock, fork: Callable[[Stock, Path], Fork], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    cache, before = stopped.copy(tmp_path / "cache"), asked(stopped)
    damage(cache / LEDGER)
    be_gone(cache)
    serves_all(fork(stopped, cache))
    lost = 1 if damage in (tear, lose_a_line) else len(BODIES)
    assert asked(stopped) == before + lost


def test_names_whose_files_are_gone_are_not_served_by_a_registry_made_again(
    stopped: Stock, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    cache, before = stopped.copy(tmp_path / "cache"), asked(stopped)
    first, second, *_ = BODIES.values()
    blob_of(cache, first).unlink()
    shorten(blob_of(cache, second), 10)
    be_text(cache)
    proxy = start(stopped.origin.url, cache=cache)
    assert "1 names whose files are gone" in "".join(proxy.log)
    serves_all(proxy)
    assert asked(stopped) == before + 2


def test_whatever_bytes_of_the_registry_change_what_is_served_is_right(
    stopped: Stock, fork: Callable[[Stock, Path], Fork], tmp_path: Path
) -> None:
    choice = random.Random(4)
    size = (stopped.cache / REGISTRY).stat().st_size
    for number in range(12):
        cache = stopped.copy(tmp_path / str(number))
        for _ in range(choice.choice([1, 10, 100])):
            rot(cache / REGISTRY, choice.randrange(size))
        proxy = fork(stopped, cache)
        serves_all(proxy)
        serves_all(proxy)
        proxy.kill()


def test_whatever_bytes_of_the_registry_change_no_name_has_the_file_of_another(stopped: Stock, tmp_path: Path) -> None:
    """As above, many more times, and without a server around it."""
    choice, cache = random.Random(5), stopped.copy(tmp_path / "cache")
    registry = Registry(cache / REGISTRY)
    right = {path: registry.best(Key(path)) for path in BODIES}
    registry.close()
    good, kept = (cache / REGISTRY).read_bytes(), 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(choice.choice([1, 1, 10])):
            data[choice.randrange(len(data))] ^= 1 << choice.randrange(8)
        for path in cache.glob(f"{REGISTRY}*"):
            path.unlink()
        (cache / REGISTRY).write_bytes(data)
        registry = Registry(cache / REGISTRY)
        for path, entry in right.items():
            found = registry.best(Key(path))
            assert entry is not None
            if found is not None:
                assert (found.key, found.digest, found.representation) == (entry.key, entry.digest, entry.representation)
                kept += 1
        registry.close()
    assert kept > 0.99 * 300 * len(BODIES)


def test_registries_that_were_set_aside_do_not_pile_up(stopped: Stock, tmp_path: Path) -> None:
    cache = stopped.copy(tmp_path / "cache")
    for _ in range(4):
        be_text(cache)
        Registry(cache / REGISTRY).close()
    assert len(set_aside(cache)) == 2


def test_a_start_that_was_killed_while_it_made_the_registry_again_is_done_by_the_next(
    stopped: Stock, fork: Callable[[Stock, Path], Fork], tmp_path: Path
) -> None:
    cache, before = stopped.copy(tmp_path / "cache"), asked(stopped)
    (cache / REGISTRY).rename(cache / f"{REGISTRY}.damaged-20260101T000000")
    (cache / f"{REGISTRY}.new").write_bytes(b"half a registry")
    serves_all(fork(stopped, cache))
    assert asked(stopped) == before
    assert not (cache / f"{REGISTRY}.new").exists()


def test_last_use_and_the_name_of_the_cache_outlive_the_registry(stopped: Stock, tmp_path: Path) -> None:
    cache = stopped.copy(tmp_path / "cache")
    registry = Registry(cache / REGISTRY)
    instance, path = registry.instance, next(iter(BODIES))
    entry = registry.best(Key(path))
    assert entry is not None
    registry.touch({entry.id: entry.used + 1000})
    registry.close()
    lose_the_totals(cache)
    registry = Registry(cache / REGISTRY)
    again = registry.best(Key(path))
    assert again is not None
    assert (again.id, again.version, again.created, again.used) == (entry.id, 1, entry.created, entry.used + 1000)
    assert registry.instance == instance
    registry.close()


def test_pins_the_trash_and_the_numbers_of_versions_outlive_the_registry(store: "Store") -> None:
    first, second, third = (store.registry.best(Key(path)) for path in (A, B, C))
    assert first is not None
    assert second is not None
    assert third is not None
    inventory, removal = Inventory(store.registry.database), Removal(store.registry.database, store.blobs)
    inventory.pin(first.key, "a test")
    inventory.pin(second.key, "a test")
    inventory.unpin(second.key)
    inventory.discard(second.key)
    inventory.discard(third.key)
    [trashed] = removal.trashed(Position(), store.now + HOUR, third.key)
    assert removal.remove([trashed])[0].files == 1
    store.registry.close()
    be_gone(store.root)
    with closing(Registry(store.root / REGISTRY)) as again:
        inventory = Inventory(again.database)
        assert list(inventory.pins()) == [first.key]
        assert [entry.status for entry in inventory.versions(second.key)] == [Status.TRASH]
        assert inventory.versions(third.key) == []
        assert again.commit(third.key, first.digest, first.representation).version == 2
        assert again.totals().entries == len(BODIES) - 1


def test_pins_that_the_ledger_has_lost_are_taken_from_the_damaged_registry(store: "Store") -> None:
    instance, key = store.registry.instance, Key(A)
    Inventory(store.registry.database).pin(key, "a test")
    store.registry.close()
    (store.root / LEDGER).unlink()
    lose_the_totals(store.root)
    with closing(Registry(store.root / REGISTRY)) as again:
        assert list(Inventory(again.database).pins()) == [key]
        assert again.instance == instance


def test_a_registry_of_an_earlier_version_is_taken_over(
    store: "Store", start: Callable[..., Proxy], stopped: Stock
) -> None:
    before = asked(stopped)
    Inventory(store.registry.database).pin(Key(A), "a test")
    store.registry.close()
    (store.root / LEDGER).unlink()
    with closing(sqlite3.connect(store.root / REGISTRY)) as connection:
        connection.executescript("ALTER TABLE entry DROP COLUMN seal; DROP TABLE item")
    proxy = start(stopped.origin.url, cache=store.root)
    serves_all(proxy)
    assert asked(stopped) == before
    [line] = [line for line in proxy.log if "was made again" in line]
    assert "another version" in line
    proxy.stop()
    with closing(Registry(store.root / REGISTRY)) as again:
        assert list(Inventory(again.database).pins()) == [Key(A)]


# While the service runs


def spoil(cache: Path) -> None:
    """Let every page of the running database and of its log be noise."""
    with (cache / REGISTRY).open("r+b") as database, (cache / f"{REGISTRY}-wal").open("r+b") as log:
        # Both are open before the first is spoilt: whoever notices that moves them away.
        for file in (database, log):
            file.write(random.Random(6).randbytes(os.fstat(file.fileno()).st_size))
            file.flush()


def remove(cache: Path) -> None:
    for path in cache.glob(f"{REGISTRY}*"):
        path.unlink()


@pytest.mark.parametrize("damage", [spoil, remove, be_gone])
def test_a_registry_lost_while_the_service_runs_is_made_again_once_and_used_by_every_process(
    origin: Origin, start: Callable[..., Proxy], host: str, damage: Callable[[Path], None]
) -> None:
    proxy = start(origin.url, host=host)
    fill(origin, proxy)
    before = len(origin.requests())
    damage(proxy.cache)
    more = {f"/more-1.{number}.tar": bytes([number]) * 70_000 for number in range(8)}
    for path, body in more.items():
        origin.put(path, body)
        assert proxy.get(path).body == body
    for _ in range(4):
        serves_all(proxy, BODIES | more)
    assert len(origin.requests()) == before + len(more)
    # A process that has the pages in memory still may go on with them, and write some of them anew, before it meets what
    # became of the file: then the next process does.
    if damage is not spoil:
        until(lambda: names(proxy.cache) == len(BODIES | more))
    assert sum("was made again" in line for line in proxy.log) in ((0, 1) if damage is spoil else (1,))
    proxy.stop()
    again = start(origin.url, host=host)
    serves_all(again, BODIES | more)
    assert len(origin.requests()) == before + len(more)
    again.stop()
    assert is_sound(proxy.cache)


def test_a_registry_that_is_replaced_while_it_is_opened_is_opened_or_gone(store: "Store") -> None:
    """SQLite itself says that the disk failed, and a download that is told so is not stored."""
    store.registry.close()
    path = store.root / REGISTRY

    def replace_it() -> None:
        for number in range(500):
            aside, new = store.root / f"aside-{number}.db", store.root / "new.db"
            path.rename(aside)
            shutil.copy(aside, new)
            new.rename(path)

    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(replace_it)
        while not replacing.done():
            with suppress(MissingDatabase), closing(open_database(path)) as connection:
                assert connection.file
        replacing.result()


def test_a_process_that_knew_the_lost_registry_takes_nothing_from_the_new_one(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    """SQLite removes the log of a database by its name when the last connection closes; the name is that of the new log."""
    one = start(origin.url)
    fill(origin, one)
    other = start(origin.url)
    serves_all(other)
    be_gone(one.cache)
    body = origin.put("/new-1.tar", b"new" * 1000)
    assert other.get("/new-1.tar").body == body
    until(lambda: names(one.cache) == len(BODIES) + 1)
    assert one.stop() == 0
    other.kill()
    assert names(one.cache) == len(BODIES) + 1
    assert is_sound(one.cache)


@contextmanager
def locked(cache: Path, *statements: str) -> Iterator[None]:
    """Another program has the registry locked."""
    script = f"import sqlite3, sys; c = sqlite3.connect({str(cache / REGISTRY)!r}, isolation_level=None)\n"
    script += "".join(f"c.execute({statement!r}).fetchall()\n" for statement in statements)
    script += "print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        yield
        other.communicate()


def test_files_are_served_while_another_program_keeps_the_registry_locked(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    proxy = start(origin.url)
    fill(origin, proxy)
    body = origin.put("/new-1.tar", b"new" * 1000)
    with locked(proxy.cache, "BEGIN EXCLUSIVE"):
        serves_all(proxy)
        assert proxy.get("/new-1.tar").body == body
        serves_all(start(origin.url, cache=proxy.cache))
        until(lambda: any("locked by another program" in line for line in proxy.log))
    # Storing is tried again some seconds after the last failure.
    until(lambda: proxy.get("/new-1.tar").body == body and names(proxy.cache) == len(BODIES) + 1)


def test_a_registry_that_cannot_even_be_read_is_set_aside(
    stopped: Stock, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    cache, before = stopped.copy(tmp_path / "cache"), asked(stopped)
    with locked(cache, "PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "UPDATE total SET bytes = bytes + 1"):
        proxy = start(stopped.origin.url, cache=cache)
        serves_all(proxy)
    assert asked(stopped) == before
    assert len(set_aside(cache)) == 1
    [line] = [line for line in proxy.log if "was made again" in line]
    assert "another program kept it locked" in line
    assert f"{len(BODIES)} names are back" in line


def test_a_start_waits_for_nobody_who_writes(stopped: Stock, start: Callable[..., Proxy], tmp_path: Path) -> None:
    cache = stopped.copy(tmp_path / "cache")
    with (cache / "registry-v1.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        serves_all(start(stopped.origin.url, cache=cache))


# Damaged files


class Store:
    """A store without a server, and a clock that goes as told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = time.time()
        self.stores = open_cache_directory(root, "")
        self.registry = self.stores.registry
        self.audit = self.stores.audit
        self.blobs = self.stores.blobs
        self.parts = self.stores.parts
        self.quarantine = self.stores.quarantine
        self.damages = self.stores.damages

    def sweep(self) -> None:
        Sweep(self.stores, lambda: self.now).run(lambda: None)

    def scrub(self, period: float) -> list[float]:
        """What it waited, in seconds."""
        waited: list[float] = []
        Scrub(self.stores, period, lambda: self.now).run(self.registry.totals().bytes, waited.append)
        return waited


@pytest.fixture
def store(stopped: Stock, tmp_path: Path) -> Iterator[Store]:
    one = Store(stopped.copy(tmp_path / "cache"))
    yield one
    one.registry.close()


A, B, C, *_ = BODIES


def totals_of(bodies: list[bytes]) -> Totals:
    return Totals(len(bodies), len(bodies), sum(map(len, bodies)))


def test_a_condemned_file_is_counted_no_more(store: Store) -> None:
    entry = store.registry.best(Key(A))
    assert entry is not None
    assert store.registry.condemn(entry.digest) == 1
    assert store.registry.totals() == totals_of(list(BODIES.values())[1:])


def test_a_damaged_file_in_the_trash_is_gone_for_good(store: Store) -> None:
    entry = store.registry.best(Key(A))
    assert entry is not None
    inventory = Inventory(store.registry.database)
    inventory.discard(entry.key)
    rot(store.blobs.path(entry.digest))
    assert store.registry.condemn(entry.digest) == 1
    assert store.audit.reinstate(entry.digest, entry.size) == 0
    assert inventory.versions(entry.key) == []
    assert store.registry.commit(entry.key, entry.digest, entry.representation).version == 2


def test_a_file_that_was_mended_meanwhile_is_not_condemned(store: Store) -> None:
    entry = store.registry.best(Key(A))
    assert entry is not None
    path = store.blobs.path(entry.digest)
    copy = path.with_suffix(".copy")
    shutil.copy2(path, copy)
    rot(path)
    status = path.stat()
    copy.rename(path)
    assert not store.damages.take_out(entry.digest, entry.size)
    assert not store.damages.take_out(entry.digest, entry.size, (status.st_dev, status.st_ino))
    assert store.registry.best(Key(A)) == entry


def test_a_damaged_file_is_put_aside_and_named_in_the_log(origin: Origin, start: Callable[..., Proxy]) -> None:
    proxy = start(origin.url)
    body = origin.put(A, BODIES[A])
    proxy.get(A)
    until(lambda: names(proxy.cache) == 1)
    proxy.stop()
    path = blob_of(proxy.cache, body)
    rot(path)
    os.utime(path)
    proxy = start(origin.url)
    assert proxy.get(A).body == body
    [aside] = (proxy.cache / "quarantine-v1").iterdir()
    until(lambda: any(path.name in line for line in proxy.log))
    [line] = [line for line in proxy.log if path.name in line]
    assert A in line
    assert str(aside) in line


def test_only_some_damaged_files_are_kept_and_not_for_ever(store: Store) -> None:
    for number, path in enumerate(blobs(store.root)[:10] * 2):
        copy = path.with_name(f"{number:064x}")
        shutil.copy2(path, copy)
        store.quarantine.receive(copy)
    assert len(list((store.root / "quarantine-v1").iterdir())) == 16
    store.now += 31 * DAY
    store.sweep()
    assert list((store.root / "quarantine-v1").iterdir()) == []


def test_a_damaged_file_that_is_very_large_is_not_kept(store: Store) -> None:
    entry = store.registry.best(Key(A))
    assert entry is not None
    path = store.blobs.path(entry.digest)
    path.chmod(0o600)
    os.truncate(path, KEPT_BYTES + 1)
    assert store.quarantine.receive(path) is None
    assert not path.exists()
    assert list((store.root / "quarantine-v1").iterdir()) == []


# The sweep


def test_a_file_that_nobody_needs_is_removed_but_not_at_once(store: Store) -> None:
    entry = store.registry.best(Key(A))
    assert entry is not None
    with closing(sqlite3.connect(store.root / REGISTRY)) as connection, connection:
        connection.execute("DELETE FROM entry WHERE id = ?", (entry.id,))
    store.sweep()
    assert store.blobs.path(entry.digest).exists()
    store.now += HOUR + 60
    assert store.blobs.locks.take(f"blob:{entry.digest}")
    store.sweep()
    assert store.blobs.path(entry.digest).exists()
    store.blobs.locks.free(f"blob:{entry.digest}")
    store.sweep()
    assert not store.blobs.path(entry.digest).exists()
    assert len(blobs(store.root)) == len(BODIES) - 1


def test_what_a_former_release_left_is_removed(store: Store) -> None:
    (store.root / "generation-v1").write_bytes(bytes(4096))
    store.sweep()
    assert not (store.root / "generation-v1").exists()
    assert (store.root / "generation-v2").exists()


def test_files_that_lost_their_names_stay_for_a_week(stopped: Stock, tmp_path: Path) -> None:
    cache = stopped.copy(tmp_path / "cache")
    be_gone(cache)
    (cache / LEDGER).unlink()
    store = Store(cache)
    store.now += NAMELESS_SECONDS - HOUR
    store.sweep()
    assert len(blobs(cache)) == len(BODIES)
    store.now += 2 * HOUR
    store.sweep()
    assert blobs(cache) == []
    store.registry.close()


def test_dead_downloads_are_removed_and_living_ones_stay(store: Store) -> None:
    def left(name: str) -> Path:
        lease = store.parts.claim(Key(name))
        assert lease is not None
        lease.begin(Representation((), 100, "http://mirror.example/a", 1.0))
        lease.expose()
        return Path(store.parts.path_of(hashed(name)))

    held, dead = left("/held"), left("/dead")
    store.parts.locks.free("/dead")
    assert len(parts(store.root)) == 4
    store.sweep()
    assert len(parts(store.root)) == 4
    store.now += 2 * DAY
    store.sweep()
    assert {path.name.partition(".")[0] for path in parts(store.root)} == {held.stem}
    assert dead.stem != held.stem


def test_a_registry_that_was_set_aside_is_removed_after_a_month(store: Store) -> None:
    store.registry.close()
    be_text(store.root)
    store.sweep()
    assert len(set_aside(store.root)) == 1
    store.now += 31 * DAY
    store.sweep()
    assert set_aside(store.root) == []


def test_an_entry_whose_file_is_gone_is_taken_out(store: Store) -> None:
    blob_of(store.root, BODIES[A]).unlink()
    store.sweep()
    assert store.registry.best(Key(A)) is None
    assert store.registry.totals() == totals_of(list(BODIES.values())[1:])


def test_wrong_totals_are_counted_anew(store: Store) -> None:
    with closing(sqlite3.connect(store.root / REGISTRY)) as connection, connection:
        connection.execute("UPDATE total SET bytes = 7, blobs = -1, entries = 1000")
    store.sweep()
    assert store.registry.totals() == totals_of(list(BODIES.values()))


def test_damage_that_nobody_has_met_yet_is_found_by_the_sweep(store: Store) -> None:
    with closing(sqlite3.connect(store.root / REGISTRY)) as connection:
        [[page]] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entry_digest'")
    store.registry.close()
    overwrite(store.root / REGISTRY, 4096 * (page - 1), bytes(2000))
    store.sweep()
    assert is_sound(store.root)
    assert len(set_aside(store.root)) == 1
    assert store.registry.totals() == totals_of(list(BODIES.values()))


def test_a_long_ledger_is_written_anew_and_loses_nothing_that_is_written_meanwhile(store: Store) -> None:
    entry = store.registry.best(Key(A))
    assert entry is not None
    for _ in range(600):
        store.registry.condemn(entry.digest)
        store.audit.reinstate(entry.digest, entry.size)
    other = store.registry.best(Key(B))
    assert other is not None
    before, new = store.registry.database.ledger.size(), Key("/meanwhile")

    def interrupt() -> None:
        store.registry.commit(new, entry.digest, entry.representation)
        store.registry.condemn(other.digest)

    keep_ledger(store.registry.database, interrupt)
    assert store.registry.database.ledger.size() < before / 10
    store.registry.close()
    be_gone(store.root)
    again = Registry(store.root / REGISTRY)
    back = again.best(Key(A))
    assert back is not None
    assert replace(back, used=entry.used) == entry
    assert again.best(Key(B)) is None
    assert again.best(new) is not None
    assert again.totals().entries == len(BODIES)
    again.close()


def test_what_changes_while_the_ledger_is_compared_is_not_held_against_it(store: Store) -> None:
    first, second = (store.registry.best(Key(path)) for path in (A, B))
    assert first is not None
    assert second is not None
    inventory = Inventory(store.registry.database)

    def change() -> None:
        store.registry.commit(Key("/meanwhile"), first.digest, first.representation)
        inventory.discard(second.key)
        inventory.pin(first.key, "a test")

    found = compare(store.registry.database, change)
    assert (found.damaged, found.wrong, found.gone, found.sides) == (0, [], [], [])


def test_an_index_that_is_polled_all_day_does_not_fill_the_ledger(store: Store) -> None:
    entry, ledger = store.registry.best(Key(A)), store.registry.database.ledger
    assert entry is not None
    before, newer = ledger.size(), Representation((("Etag", '"new"'),), entry.size, "http://mirror.example/a", 1.0)
    store.registry.confirm(entry, newer)
    used = time.time() + HOUR
    store.registry.touch({entry.id: used})
    assert ledger.size() == before
    lose_the_totals(store.root)
    with closing(Registry(store.root / REGISTRY)) as again:
        kept = again.best(Key(A))
    assert kept is not None
    assert (kept.representation, kept.used) == (newer, used)


def test_the_service_sweeps_by_itself_once_it_runs(killed: Stock, start: Callable[..., Proxy], tmp_path: Path) -> None:
    cache = killed.copy(tmp_path / "cache")
    dead = [cache / "parts-v1" / f"{'a' * 64}.{name}" for name in ("fill", "1.part")]
    for path in dead:
        path.write_bytes(b"")
        os.utime(path, (1e9, 1e9))
    (cache / LEDGER).unlink()
    (cache / "sweep-v1").unlink(missing_ok=True)
    proxy = start(killed.origin.url, cache=cache, host="gunicorn")
    until(lambda: not any(path.exists() for path in dead))
    until(lambda: (cache / LEDGER).exists() and (cache / LEDGER).read_bytes().count(b"\n") >= len(BODIES))
    serves_all(proxy)


# The ledger


def test_a_line_behind_a_torn_one_is_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / LEDGER)
    registry = Registry(tmp_path / REGISTRY)
    for number in range(3):
        registry.commit(Key(f"/{number}"), f"{number}" * 64, Representation((), 1, "http://mirror.example/a", 1.0))
        os.truncate(ledger.path, ledger.size() - 3)
    registry.commit(Key("/last"), "f" * 64, Representation((), 1, "http://mirror.example/a", 1.0))
    records = list(ledger.read())
    assert records.count(None) == 3
    assert records[-1] is not None
    assert records[-1].row()[0][1] == "/last"
    registry.close()


def test_no_changed_byte_of_a_line_goes_unnoticed(stopped: Stock) -> None:
    line = (stopped.cache / LEDGER).read_bytes().splitlines()[-1]
    assert parse(line) is not None
    for at in range(len(line)):
        for bit in range(8):
            changed = bytearray(line)
            changed[at] ^= 1 << bit
            record = parse(bytes(changed))
            assert record is None or record == parse(line)


def test_what_the_disk_refuses_to_the_ledger_is_no_reason_to_refuse_a_file(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    (tmp_path / "cache" / LEDGER).mkdir(parents=True)
    proxy = start(origin.url)
    fill(origin, proxy)
    # Once by who makes the cache, and once by who serves it.
    assert sum("cannot write" in line for line in proxy.log) == 2


# The scrub


def test_rot_is_found_by_the_scrub_and_the_file_is_fetched_again(
    stopped: Stock, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    cache, before = stopped.copy(tmp_path / "cache"), asked(stopped)
    path = blob_of(cache, BODIES[A])
    rot(path)
    proxy = start(stopped.origin.url, cache=cache, arguments=["--scrub", "1s"], host="wsgiref")
    until(lambda: any(path.name in line and A in line for line in proxy.log))
    assert [one.name.partition(".")[0] for one in (cache / "quarantine-v1").iterdir()] == [path.name]
    serves_all(proxy)
    assert asked(stopped) == before + 1


def test_the_scrub_reads_everything_once_in_its_period_evenly_and_goes_on_after_a_restart(store: Store) -> None:
    for path in blobs(store.root):
        rot(path)
    period, found = 30 * DAY, []
    assert store.scrub(period) == []
    begun = store.now
    for tenth in range(1, 11):
        store.now = begun + tenth / 10 * period
        store.scrub(period)
        found.append(len(BODIES) - store.registry.totals().entries)
    lowest = [int(path.name[:8], 16) / 2**32 for path in (store.root / "quarantine-v1").iterdir()]
    assert found == [sum(place <= tenth / 10 for place in lowest) for tenth in range(1, 11)]
    assert found[-1] == len(BODIES)


def test_the_scrub_begins_again_when_its_period_is_over(store: Store) -> None:
    store.scrub(DAY)
    store.now += DAY
    store.scrub(DAY)
    for path in blobs(store.root):
        rot(path)
    store.scrub(DAY)
    assert store.registry.totals().entries == len(BODIES)
    store.now += DAY
    store.scrub(DAY)
    assert store.registry.totals().entries == 0


def test_the_scrub_is_slow(store: Store) -> None:
    store.scrub(30 * DAY)
    store.now += 30 * DAY
    waited = store.scrub(30 * DAY)
    assert sum(waited) == pytest.approx(store.registry.totals().bytes / 1e6)


def test_a_line_of_the_ledger_names_one_of_its_own_tables() -> None:
    pinned = parse(side_line("pin", ["/a-1.tar", 1]))
    assert pinned is not None
    assert pinned.side_row() == ("pin", ["/a-1.tar", 1])
    other = parse(side_line("sqlite_master", [1]))
    assert other is not None
    with pytest.raises(ValueError, match="not a line of this format"):
        other.side_row()
