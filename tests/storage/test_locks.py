"""Locks of names, in a file that may be removed."""

import gc
import shutil
from pathlib import Path

import pytest

from package_cache.storage.parts.locks import NameLocks, hashed


@pytest.mark.parametrize("shared", [False, True])
def test_a_lock_is_given_back_though_its_directory_is_gone(tmp_path: Path, shared: bool) -> None:
    (tmp_path / "cache").mkdir()
    locks = NameLocks(tmp_path / "cache/leases")
    assert locks.share("name") if shared else locks.take("name")
    shutil.rmtree(tmp_path / "cache")
    locks.free("name")
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache").mkdir()
    other = NameLocks(tmp_path / "cache/leases")
    assert locks.take("name")
    assert not other.take("name")
    locks.free("name")
    assert other.take("name")


def test_each_of_many_locks_excludes_who_wants_the_same_until_it_is_given_back(tmp_path: Path) -> None:
    one, other = NameLocks(tmp_path / "leases"), NameLocks(tmp_path / "leases")
    names = [f"name {number}" for number in range(500)]
    assert all(one.take(name) for name in names)
    assert all(other.is_held(name) and not other.take(name) for name in names)
    one.free_all(hashed(name) for name in names[::2])
    assert [other.take(name) for name in names] == [True, False] * 250
    one.forget()
    assert all(other.take(name) for name in names[1::2])


@pytest.mark.filterwarnings("error")
def test_locks_that_were_never_made_whole_go_without_a_word() -> None:
    one = NameLocks.__new__(NameLocks)
    del one
    gc.collect()
