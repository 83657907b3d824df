"""Locks of names, in a file that may be removed."""

import gc
import shutil
from pathlib import Path

import pytest

from package_cache.storage.parts.locks import NameLocks


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


@pytest.mark.filterwarnings("error")
def test_locks_that_were_never_made_whole_go_without_a_word() -> None:
    one = NameLocks.__new__(NameLocks)
    del one
    gc.collect()
