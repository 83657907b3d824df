"""When the loop leaves it to threads to look at the disk."""

import hashlib
import threading
import time

from package_cache.engine.looks import Disk, Usage, usage_so_far

LONG = 0.008
"""Seconds that no look takes which finds all in memory: above the five milliseconds that count."""


class Looks:
    """A thread that looks at a disk, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.usage = Usage(waits=0, reads=0, others=0.0)
        self.disk = Disk(lambda: self.now, lambda: self.usage)

    def look(self, took: float, waits: int = 1, reads: int = 0, others: float = 0.0) -> bool:
        """Take so many seconds, of which the thread waited so often, and others worked for so long. False: may not look."""
        if not self.disk.is_quick(self.now):
            return False
        self.now += took
        before = self.usage
        self.usage = Usage(before.waits + waits, before.reads + reads, before.others + others)
        self.disk.looked()
        return True


def test_looks_that_wait_again_and_again_are_left_to_threads_for_a_while() -> None:
    looks = Looks()
    for _ in range(3):
        assert looks.look(LONG)
    assert not looks.disk.is_quick(looks.now)
    assert looks.disk.is_quick(looks.now + 60)


def test_one_look_that_reads_from_the_disk_for_long_is_enough() -> None:
    looks = Looks()
    assert looks.look(LONG, reads=1)
    assert not looks.disk.is_quick(looks.now)


def test_the_longer_a_look_waited_the_longer_threads_look_instead() -> None:
    for seconds in (LONG, 4 * LONG):
        looks = Looks()
        for _ in range(3):
            assert looks.look(seconds)
        assert not looks.disk.is_quick(looks.now + 99 * seconds)
        assert looks.disk.is_quick(looks.now + 101 * seconds)


def test_a_look_that_waited_for_other_threads_of_the_process_is_no_sign() -> None:
    looks = Looks()
    for _ in range(9):
        assert looks.look(4 * LONG, others=3 * LONG)


def test_one_that_waited_is_forgiven_where_the_next_is_quick() -> None:
    looks = Looks()
    for _ in range(9):
        assert looks.look(LONG)
        assert looks.look(LONG / 100, waits=0)


def test_a_busy_machine_is_no_slow_disk() -> None:
    looks = Looks()
    for _ in range(9):
        assert looks.look(LONG, waits=0)


def test_the_system_tells_who_waits_from_who_works() -> None:
    before = usage_so_far()
    time.sleep(LONG)
    waited = usage_so_far()
    assert waited.waits > before.waits
    other = threading.Thread(target=work)
    other.start()
    other.join()
    assert usage_so_far().others - waited.others >= LONG


def work() -> None:
    """For so long, of the processor's time."""
    while time.thread_time() < LONG:
        hashlib.sha256(bytes(100_000))
