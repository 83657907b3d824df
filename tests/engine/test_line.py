"""The line of downloads: so many at once, shared out among clients, and nobody in it for long."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from origin import until

from package_cache.engine.fills.line import LONGEST, Line, Turn
from package_cache.engine.fills.threads import Threads


@dataclass
class Download:
    """A download that lasts until it is told to end."""

    client: str
    wanted: bool = True
    begun: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    dropped: list[str] = field(default_factory=list)

    def begin(self) -> None:
        self.begun.set()
        assert self.over.wait(30)

    def drop(self, *, forced: bool) -> bool:
        if self.wanted and not forced:
            return False
        self.dropped.append("late" if forced else "unwanted")
        return True

    @property
    def turn(self) -> Turn:
        return Turn(self.client, self.begin, lambda: self.wanted, self.drop)


@pytest.fixture
def threads() -> Threads:
    return Threads("test")


def enter(line: Line, threads: Threads, *clients: str) -> list[Download]:
    downloads = [Download(client) for client in clients]
    for one in downloads:
        line.enter(one.turn, threads.run)
    return downloads


def begun(downloads: list[Download]) -> list[int]:
    return [number for number, one in enumerate(downloads) if one.begun.is_set()]


def end(downloads: list[Download]) -> None:
    for one in downloads:
        one.over.set()


def test_a_client_alone_has_three_quarters_of_the_places(threads: Threads) -> None:
    line = Line(4, threads)
    downloads = enter(line, threads, *"aaaaaa", "b", "b")
    until(lambda: begun(downloads) == [0, 1, 2, 6])
    end(downloads[:1])
    until(lambda: downloads[7].begun.is_set())
    assert not downloads[3].begun.is_set()
    end(downloads)
    until(lambda: len(begun(downloads)) == 8)


def test_one_place_serves_all(threads: Threads) -> None:
    line = Line(1, threads)
    downloads = enter(line, threads, *"aab")
    until(lambda: begun(downloads) == [0])
    end(downloads)
    until(lambda: len(begun(downloads)) == 3)
    assert not any(one.dropped for one in downloads)


def test_whoever_waits_too_long_is_dropped(threads: Threads) -> None:
    line = Line(1, threads, patience=0.5)
    downloads = enter(line, threads, *"ab")
    until(lambda: downloads[1].dropped)
    assert downloads[1].dropped == ["late"]
    end(downloads)
    later = enter(line, threads, "b")
    until(lambda: later[0].begun.is_set())
    end(later)
    assert not downloads[1].begun.is_set()


def test_what_nobody_wants_is_dropped_and_not_begun(threads: Threads) -> None:
    line = Line(1, threads)
    downloads = enter(line, threads, *"aba")
    downloads[1].wanted = False
    until(lambda: downloads[1].dropped == ["unwanted"])
    downloads[2].wanted = False
    end(downloads)
    until(lambda: downloads[2].dropped == ["unwanted"])
    assert begun(downloads) == [0]


def test_one_client_cannot_fill_the_line(threads: Threads) -> None:
    line = Line(1, threads)
    downloads = enter(line, threads, *["a"] * (LONGEST // 2 + 3), "b")
    assert [number for number, one in enumerate(downloads) if one.dropped] == [LONGEST // 2 + 1, LONGEST // 2 + 2]
    end(downloads)
    until(lambda: downloads[-1].begun.is_set())


def test_a_place_is_given_back_where_there_is_no_thread(threads: Threads) -> None:
    line = Line(1, threads)

    def none(_job: Callable[[], None]) -> None:
        raise RuntimeError("no thread")

    for _ in range(3):
        with pytest.raises(RuntimeError):
            line.enter(Download("a").turn, none)
    downloads = enter(line, threads, "a")
    until(lambda: downloads[0].begun.is_set())
    end(downloads)


def test_who_comes_back_into_the_line_as_the_last_download_ends_begins(threads: Threads) -> None:
    """Whoever looks through the line takes out what nobody wants; somebody may want it just then."""
    line = Line(1, threads)
    first, fickle, ended = Download("a"), Download("b"), threading.Event()
    line.enter(first.turn, lambda job: threads.run(lambda: (job(), ended.set())[0]))

    def drop(*, forced: bool) -> bool:
        """It is wanted after all; but by then nothing runs any more that would have it begin."""
        first.over.set()
        assert ended.wait(30)
        return forced

    line.enter(Turn("b", fickle.begin, lambda: False, drop), threads.run)
    until(lambda: fickle.begun.is_set(), 10)
    end([fickle])


def test_who_waits_for_a_place_that_got_no_thread_begins(threads: Threads) -> None:
    line, waiting = Line(1, threads), Download("b")

    def none(_job: Callable[[], None]) -> None:
        line.enter(waiting.turn, threads.run)
        raise RuntimeError("no thread")

    with pytest.raises(RuntimeError):
        line.enter(Download("a").turn, none)
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
