"""The map of what is not here: it may say too little, and never too much."""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from origin import Origin, until
from product import Proxy

from package_cache.model import Key, Representation
from package_cache.storage.registry import Registry

KEYS = [Key(f"/a-{number}") for number in range(40)]


def is_absent(registry: Registry, key: Key) -> bool:
    return registry.generation.presence.is_absent(key)


def commit(registry: Registry, key: Key, letter: str = "a") -> None:
    registry.commit(key, letter * 64, Representation((), 1, "http://mirror.example/", 1.0))


def learn(registry: Registry) -> None:
    registry.learn(lambda: None)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Registry]]:
    """One registry, as two processes have it."""
    both = [Registry(tmp_path / "registry-v1.db") for _ in range(2)]
    yield both
    for one in both:
        one.close()


def test_nothing_is_absent_before_somebody_has_looked(two: list[Registry]) -> None:
    ours, theirs = two
    commit(ours, KEYS[0])
    assert not is_absent(ours, KEYS[1])
    learn(theirs)
    for one in two:
        assert [is_absent(one, key) for key in KEYS[:3]] == [False, True, True]
        assert one.best_at_once(KEYS[1]) is None


def test_what_one_process_stores_is_absent_for_none_and_the_rest_stays_absent(two: list[Registry]) -> None:
    ours, theirs = two
    learn(ours)
    for number, key in enumerate(KEYS[:20]):
        commit(two[number % 2], key)
        for one in two:
            entry = one.best_at_once(key)
            assert entry is not None
            assert one.confirm(entry, entry.representation) is not None
    ours.condemn("a" * 64)
    assert [is_absent(theirs, key) for key in KEYS] == [False] * 20 + [True] * 20


def test_what_a_program_stored_that_knows_of_no_map_is_found(two: list[Registry], tmp_path: Path) -> None:
    ours, theirs = two
    learn(ours)
    commit(ours, KEYS[0])
    with closing(sqlite3.connect(tmp_path / "registry-v1.db")) as connection, connection:
        connection.execute("UPDATE entry SET key = ?, seal = 0", (KEYS[1],))
    theirs.generation.words[theirs.generation.word(KEYS[1])] = 5
    assert not is_absent(ours, KEYS[1])
    ours.generation.bump(KEYS[1])
    assert not is_absent(theirs, KEYS[1]), "who knows of the map does not vouch for others"
    learn(ours)
    assert [is_absent(theirs, key) for key in KEYS[:3]] == [False, False, True]


def test_a_registry_that_was_made_again_is_learned_again(two: list[Registry], tmp_path: Path) -> None:
    ours, theirs = two
    learn(ours)
    (tmp_path / "registry-v1.db").unlink()
    assert ours.best(KEYS[0]) is None
    assert not is_absent(theirs, KEYS[0])
    learn(theirs)
    assert is_absent(ours, KEYS[0])


@pytest.mark.parametrize("change", ["another boot", "shorter", "no file"])
def test_a_map_that_may_have_lost_something_is_not_believed(tmp_path: Path, change: str) -> None:
    place = tmp_path / "known-v1"
    before = Registry(tmp_path / "registry-v1.db")
    learn(before)
    before.close()
    with closing(Registry(tmp_path / "registry-v1.db")) as again:
        assert is_absent(again, KEYS[0])
    if change == "no file":
        place.unlink()
    else:
        place.write_bytes(b"otherone" + place.read_bytes()[8:] if change == "another boot" else place.read_bytes()[:4000])
    with closing(Registry(tmp_path / "registry-v1.db")) as after:
        assert is_absent(after, KEYS[0]) is False
        learn(after)
        assert is_absent(after, KEYS[0])


def test_nothing_that_is_here_is_ever_absent_whatever_happens_at_once(two: list[Registry]) -> None:
    over, wrong = threading.Event(), list[str]()

    def look() -> None:
        pick = random.Random(1)
        while not over.is_set():
            key = pick.choice(KEYS)
            mark, entry = two[0].mark(key), two[0].best(key)
            if entry is not None and two[0].mark(key) == mark and is_absent(two[0], key):
                wrong.append(key)

    looker = threading.Thread(target=look)
    looker.start()
    pick = random.Random(2)
    try:
        for _ in range(150):
            one, key = pick.choice(two), pick.choice(KEYS)
            if pick.random() < 0.2:
                learn(one)
            elif pick.random() < 0.1:
                one.generation.renew_all()
            else:
                commit(one, key, pick.choice("abc"))
    finally:
        over.set()
        looker.join()
    assert wrong == []


def test_what_was_stored_before_the_start_is_a_hit(origin: Origin, start: Callable[..., Proxy]) -> None:
    bodies = {path: origin.put(path, path.encode()) for path in (f"/a-1.{number}.tar" for number in range(20))}
    proxy = start(origin.url, host="gunicorn")
    for path, body in bodies.items():
        assert proxy.get(path).body == body
    until(lambda: all(proxy.get(path).cache_status == "package-cache; hit" for path in bodies))
    proxy.stop()
    again = start(origin.url, host="gunicorn")
    for _ in range(3):
        for path, body in bodies.items():
            answer = again.get(path)
            assert (answer.body, answer.cache_status) == (body, "package-cache; hit")
    assert len(origin.requests()) == len(bodies)
