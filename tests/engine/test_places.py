"""Places for large downloads: so many at once, shared out among clients, and nobody in it for long."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from origin import until

from package_cache.engine.fills.places import LONGEST, Places
from package_cache.engine.threads import Threads


@dataclass
class Download:
    """A download that lasts until it is told to end."""

    client: str
    is_wanted: bool = True
    begun: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    dropped: list[str] = field(default_factory=list)

    def begin(self) -> None:
        self.begun.set()
        assert self.over.wait(30)

    def drop(self, *, forced: bool) -> bool:
        if self.is_wanted and not forced:
            return False
        self.dropped.append("late" if forced else "unwanted")
        return True


@pytest.fixture
def threads() -> Threads:
    return Threads("test")


def enter(places: Places, threads: Threads, *clients: str) -> list[Download]:
    downloads = [Download(client) for client in clients]
    for one in downloads:
        places.enter(one, threads.run)
    return downloads


def begun(downloads: list[Download]) -> list[int]:
    return [number for number, one in enumerate(downloads) if one.begun.is_set()]


def end(downloads: list[Download]) -> None:
    for one in downloads:
        one.over.set()


def test_a_client_alone_has_three_quarters_of_the_places(threads: Threads) -> None:
    places = Places(4, threads)
    downloads = enter(places, threads, *"aaaaaa", "b", "b")
    until(lambda: begun(downloads) == [0, 1, 2, 6])
    end(downloads[:1])
    until(lambda: downloads[7].begun.is_set())
    assert not downloads[3].begun.is_set()
    end(downloads)
    until(lambda: len(begun(downloads)) == 8)


def test_one_place_serves_all(threads: Threads) -> None:
    places = Places(1, threads)
    downloads = enter(places, threads, *"aab")
    until(lambda: begun(downloads) == [0])
    end(downloads)
    until(lambda: len(begun(downloads)) == 3)
    assert not any(one.dropped for one in downloads)


def test_whoever_waits_too_long_is_dropped(threads: Threads) -> None:
    places = Places(1, threads, patience=0.5)
    downloads = enter(places, threads, *"ab")
    until(lambda: downloads[1].dropped)
    assert downloads[1].dropped == ["late"]
    end(downloads)
    later = enter(places, threads, "b")
    until(lambda: later[0].begun.is_set())
    end(later)
    assert not downloads[1].begun.is_set()


def test_what_nobody_wants_is_dropped_and_not_begun(threads: Threads) -> None:
    places = Places(1, threads)
    downloads = enter(places, threads, *"aba")
    downloads[1].is_wanted = False
    until(lambda: downloads[1].dropped == ["unwanted"])
    downloads[2].is_wanted = False
    end(downloads)
    until(lambda: downloads[2].dropped == ["unwanted"])
    assert begun(downloads) == [0]


def test_one_client_cannot_be_all_who_wait(threads: Threads) -> None:
    places = Places(1, threads)
    downloads = enter(places, threads, *["a"] * (LONGEST // 2 + 3), "b")
    assert [number for number, one in enumerate(downloads) if one.dropped] == [LONGEST // 2 + 1, LONGEST // 2 + 2]
    end(downloads)
    until(lambda: downloads[-1].begun.is_set())


def test_a_place_is_given_back_where_there_is_no_thread(threads: Threads) -> None:
    places = Places(1, threads)

    def none(_job: Callable[[], None]) -> None:
        raise RuntimeError("no thread")

    for _ in range(3):
        with pytest.raises(RuntimeError):
            places.enter(Download("a"), none)
    downloads = enter(places, threads, "a")
    until(lambda: downloads[0].begun.is_set())
    end(downloads)


def test_who_comes_back_as_the_last_download_ends_begins(threads: Threads) -> None:
    """Whoever looks through who waits takes out what nobody wants; somebody may want it just then."""
    places = Places(1, threads)
    first, ended = Download("a"), threading.Event()
    places.enter(first, lambda job: threads.run(lambda: (job(), ended.set())[0]))

    class Fickle(Download):
        def drop(self, *, forced: bool) -> bool:
            """It is wanted after all; but by then nothing runs any more that would have it begin."""
            first.over.set()
            assert ended.wait(30)
            return forced

    fickle = Fickle("b", is_wanted=False)
    places.enter(fickle, threads.run)
    until(lambda: fickle.begun.is_set(), 10)
    end([fickle])


def test_who_waits_for_a_place_that_got_no_thread_begins(threads: Threads) -> None:
    places, waiting = Places(1, threads), Download("b")

    def none(_job: Callable[[], None]) -> None:
        places.enter(waiting, threads.run)
        raise RuntimeError("no thread")

    with pytest.raises(RuntimeError):
        places.enter(Download("a"), none)
    until(lambda: waiting.begun.is_set(), 10)
    end([waiting])


def test_a_thread_that_was_reserved_takes_its_job_when_all_else_is_done(threads: Threads) -> None:
    done, order = threading.Event(), list[str]()
    with threads.reserved() as run:
        run(lambda: (order.append("job"), done.set()))
        order.append("else")
    assert done.wait(30)
    assert order == ["else", "job"]
    with threads.reserved():
        pass
    done.clear()
    threads.run(done.set)  # that thread, or another one
    assert done.wait(30)


def test_there_is_no_thread_to_be_reserved_where_the_system_gives_none(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError), threads.reserved():
        raise AssertionError
