"""The hashes of a part are those of its bytes, however these came, and whoever hashed them."""

import hashlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from package_cache.engine.fills import hashes
from package_cache.engine.fills.hashes import Hashes
from package_cache.rules.http.digests import Digest
from package_cache.storage.parts.part import Part

POOL = random.Random(1).randbytes(1 << 20)
SIZES = st.sampled_from([0, 1, 100, 65_536, 262_143, 262_144, 262_145, 1 << 20])


def digests_of(data: bytes) -> tuple[Digest, ...]:
    return tuple(Digest(name, hashlib.new(name, data).digest()) for name in ("sha256", "sha512", "md5"))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are large from 300,000 bytes on."""
    monkeypatch.setattr(hashes, "_LARGE", 300_000)


@pytest.mark.usefixtures("large")
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=12), st.integers(0, 12))
def test_hashes_are_those_of_the_bytes(tmp_path: Path, blocks: list[tuple[int, bool]], declared_at: int) -> None:
    """Some blocks are seen, others come by another way; what else is to be compared is told in the middle."""
    part, taken, whole = Part(tmp_path / "part", create=True), Hashes(), b""
    for number, (size, is_seen) in enumerate(blocks):
        if number == declared_at:
            taken.expect(digests_of(b""))
        data = POOL[number : number + size]
        before = part.size
        assert part.put(before, data)
        if is_seen:
            taken.take(part, before, memoryview(data))
        whole += data
    taken.expect(digests_of(b""))
    assert taken.digest(part) == hashlib.sha256(whole).hexdigest()
    assert taken.differing(part, digests_of(whole)) is None
    assert taken.differing(part, digests_of(whole + b"x")) is not None
    part.close()
    part.path.unlink()


def test_a_large_part_is_hashed_beside_the_one_that_writes_it(tmp_path: Path) -> None:
    others = set(threading.enumerate())
    part, taken = Part(tmp_path / "part", create=True), Hashes()
    for _ in range(8):
        before = part.size
        part.put(before, POOL)
        taken.take(part, before, memoryview(POOL))
    assert any(thread.name.startswith("hash") for thread in set(threading.enumerate()) - others)
    assert taken.digest(part) == hashlib.sha256(POOL * 8).hexdigest()
    part.close()


@pytest.mark.usefixtures("large")
def test_where_the_system_gives_no_thread_the_one_that_writes_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_pool: ThreadPoolExecutor, *_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    part, taken = Part(tmp_path / "part", create=True), Hashes()
    for _ in range(3):
        before = part.size
        part.put(before, POOL)
        taken.take(part, before, memoryview(POOL))
    assert taken.digest(part) == hashlib.sha256(POOL * 3).hexdigest()
    part.close()
