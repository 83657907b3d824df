"""One download as a state machine, driven through a world of mirrors that refuse, break, lie and change."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from package_cache.model import Fields, Representation, Span, Validators
from package_cache.rules.http.fields import format_date, is_strong
from package_cache.rules.http.ranges import ContentRange
from package_cache.rules.transfers.steps import (
    Action,
    Answered,
    Ask,
    Broke,
    Chunk,
    Eof,
    Event,
    Finish,
    GiveUp,
    Lied,
    Mismatch,
    NotModified,
    Receive,
    Restart,
    Slow,
    WrongType,
)
from package_cache.rules.transfers.transfer import (
    FREE_ASK,
    MAX_UNMARKED,
    OVERLAP,
    TRIES,
    Transfer,
    is_part,
)

A, B, C = URLS = ("http://a.example/f.tar", "http://b.example/f.tar", "http://c.example/f.tar")
NOON = 1_767_225_600.0
REFUSED = Broke("cannot be reached", unreached=True)
SILENT = Broke("fell silent", timeout=True, unreached=True)
RESET = Broke("broke off", again=True)
MADE_UP = Lied("sent other bytes than it said")
USELESS = WrongType("sent no document")


@cache
def body_of(size: int, changes: tuple[int, ...] = ()) -> bytes:
    """Mostly blank, so that two files are alike nearly everywhere; `changes` are the places where they are not."""
    data = bytearray(size)
    for number, place in enumerate(changes, 1):
        if place < size:
            data[place] = number
    return bytes(data)


@dataclass(frozen=True)
class Version:
    """A file as a mirror has it. `same_second` says that it was changed in the second in which it is served."""

    size: int
    changes: tuple[int, ...] = ()
    etag: str | None = None
    modified: float | None = None
    same_second: bool = False
    useless: bool = False
    """Not what a file of its name has to be."""

    @property
    def body(self) -> bytes:
        return body_of(self.size, self.changes)

    def head(self, url: str, *, framing: str = "length", bare: bool = False) -> Representation:
        said: Fields = ()
        if self.etag is not None and not bare:
            said += (("ETag", self.etag),)
        if self.modified is not None and not bare:
            said += (("Last-Modified", format_date(self.modified)),)
            said += (("Date", format_date(self.modified if self.same_second else self.modified + 3600)),)
        return Representation(said, len(self.body) if framing == "length" else None, url, NOON)


@dataclass(frozen=True)
class Turn:
    """How a mirror treats one request: honestly, but for what a field says."""

    instead: int | Broke | Lied | None = None
    """A status without a body, or no answer at all."""
    cut: int | None = None
    """Break after so many bytes of the body."""
    cut_by: Broke = RESET
    ranges: bool = True
    shift: int = 0
    """Begin a 206 so many bytes beside the place asked for."""
    longer: int = 0
    """State so many bytes more as the total of a 206."""
    most: int | None = None
    """Give at most so many bytes in a 206."""
    framing: str = "length"
    """Or `chunked`, or `none`."""
    overrun: bool = False
    """Go on behind the declared length."""
    lies: bool = False
    """The body turns out to be made up, at its end."""
    bare: bool = False
    """Leave the validators out of a 206."""
    changed: bool = False
    """The file is replaced by its next version before this request."""


HONEST = Turn()


@dataclass
class Mirror:
    """Serves its first version until a turn changes it; treats requests as `turns` say, and then as `then` says."""

    versions: Sequence[Version]
    turns: Sequence[Turn] = ()
    then: Turn = HONEST
    asked: int = 0
    current: int = 0
    statuses: list[int | None] = field(default_factory=list)

    @property
    def version(self) -> Version:
        return self.versions[self.current]

    def turn(self) -> Turn:
        turn = self.turns[self.asked] if self.asked < len(self.turns) else self.then
        self.asked += 1
        if turn.changed:
            self.current = min(self.current + 1, len(self.versions) - 1)
        return turn


@dataclass
class Sink:
    """Keeps bytes as a part does, and what readers were told of them."""

    data: bytearray = field(default_factory=bytearray)
    told: list[Representation] = field(default_factory=list)
    """What was said of the bytes kept now."""
    history: list[Representation] = field(default_factory=list)
    """What was ever said."""

    def begin(self, head: Representation) -> None:
        self.told.append(head)
        self.history.append(head)

    def put(self, at: int, data: bytes) -> bool:
        assert at <= len(self.data), "a hole in the file"
        known = max(0, min(len(data), len(self.data) - at))
        if self.data[at : at + known] != data[:known]:
            return False
        self.data += data[known:]
        return True

    def reset(self) -> None:
        self.data.clear()
        self.told.clear()


@dataclass
class World:
    """Mirrors at URLS, and everything that was asked of them."""

    mirrors: Sequence[Mirror]
    sink: Sink = field(default_factory=Sink)
    block: int = 5000
    asks: list[Ask] = field(default_factory=list)
    restarts: int = 0
    seen: set[bytes] = field(default_factory=set)
    sound: bool = False
    """Whether the last body told where it ends."""

    @property
    def urls(self) -> tuple[str, ...]:
        return URLS[: len(self.mirrors)]

    @property
    def begun(self) -> bool:
        """Whether readers were told anything."""
        return bool(self.sink.history)

    @property
    def data(self) -> bytes:
        return bytes(self.sink.data)

    def fetch(self, transfer: Transfer | None = None) -> Finish | NotModified | GiveUp:
        """Drive a transfer to its end, as the engine does."""
        transfer = transfer or Transfer(self.urls)
        action = transfer.start()
        for _ in range(400):
            match action:
                case Ask():
                    action = self._perform(action, transfer)
                case Restart():
                    self.restarts += 1
                    self.sink.reset()
                    assert transfer.have == 0
                    action = transfer.resume()
                case Finish() | NotModified() | GiveUp():
                    return action
                case Receive():
                    raise AssertionError("told to receive while nothing is open")
        raise AssertionError("does not end")

    def _perform(self, ask: Ask, transfer: Transfer) -> Action:
        self.asks.append(ask)
        assert (ask.offset > 0) == (ask.if_range is not None)
        assert not (ask.if_range or "").startswith("W/")
        mirror = self.mirrors[URLS.index(ask.url)]
        head, events = reply(ask, mirror)
        mirror.statuses.append(head.status if isinstance(head, Answered) else None)
        self.seen.add(mirror.version.body)
        action = transfer.next(head)
        if not isinstance(action, Receive):
            return action
        assert isinstance(head, Answered)
        self.sound = head.chunked or head.representation.size is not None
        self._begin(action)
        data, end = events
        for start in range(0, len(data), self.block):
            block = data[start : start + self.block]
            if not transfer.fits(len(block)) or not self.sink.put(transfer.at, block):
                return transfer.next(Mismatch())
            self._begin(transfer.next(Chunk(len(block))))
            assert len(self.sink.data) == transfer.have
        action = transfer.next(end)
        return transfer.next(USELESS) if isinstance(action, Finish) and mirror.version.useless else action

    def _begin(self, action: Action) -> None:
        assert isinstance(action, Receive)
        if action.begin is None:
            return
        self.sink.begin(action.begin)
        for mirror in self.mirrors:
            for version in mirror.versions:
                if is_strong(version.etag) and version.etag == action.begin.get("etag"):
                    assert version.body.startswith(self.data), "the bytes kept go by the tag of another file"


def reply(ask: Ask, mirror: Mirror) -> tuple[Answered | Broke | Lied, tuple[bytes, Event]]:
    """What a mirror sends: a head or a failure, then a body and how it ends."""
    turn, url = mirror.turn(), ask.url
    version = mirror.version
    nothing = (b"", Eof())
    if isinstance(turn.instead, Broke | Lied):
        return turn.instead, nothing
    if turn.instead is not None:
        return Answered(turn.instead, Representation((), 0, url, NOON)), nothing
    if ask.condition and is_confirmed(ask.condition, version):
        return Answered(304, version.head(url)), nothing
    chunked = turn.framing == "chunked"
    whole = version.head(url, framing=turn.framing)
    if not ask.offset or not turn.ranges or ask.if_range not in (version.etag, whole.get("last-modified")):
        return Answered(200, whole, chunked), ending(version.body, turn)
    start = max(0, ask.offset + turn.shift)
    if start >= len(version.body):
        return Answered(416, Representation((), 0, url, NOON)), nothing
    data = version.body[start : None if turn.most is None else start + turn.most]
    place = ContentRange(Span(start, start + len(data)), len(version.body) + turn.longer)
    part = replace(version.head(url, bare=turn.bare), size=None if chunked else len(data))
    return Answered(206, part, chunked, place), ending(data, turn)


def is_confirmed(condition: Validators, version: Version) -> bool:
    if condition.etag is not None:
        return condition.etag == version.etag
    return version.modified is not None and condition.last_modified == format_date(version.modified)


def ending(data: bytes, turn: Turn) -> tuple[bytes, Event]:
    if turn.cut is not None and turn.cut < len(data):
        return data[: turn.cut], turn.cut_by
    if turn.lies:
        return data, MADE_UP
    return data, Mismatch() if turn.overrun else Eof()


# --- One behaviour at a time ------------------------------------------------------------------------------------------

SIZE = 20_000
FILE = Version(SIZE, (), '"one"', NOON)
OTHER = Version(SIZE, (6000, 15_000), '"other"', NOON)
GONE = Turn(instead=REFUSED)
LEFT_OUT = Turn(instead=404)


def sent(world: World) -> list[tuple[str, int, str | None]]:
    return [(ask.url, ask.offset, ask.if_range) for ask in world.asks]


def kept(world: World, size: int, head: Representation, version: Version = FILE) -> Transfer:
    """A transfer that continues what an earlier process left."""
    world.sink.data += version.body[:size]
    return Transfer(world.urls, size, head)


def test_honest_mirror_is_asked_once_for_the_whole() -> None:
    world = World([Mirror([FILE]), Mirror([FILE])])
    assert world.fetch() == Finish(SIZE)
    assert world.data == FILE.body
    assert sent(world) == [(A, 0, None)]
    assert world.sink.told == [FILE.head(A)]


def test_empty_file_is_a_file() -> None:
    world = World([Mirror([Version(0)])])
    assert world.fetch() == Finish(0)
    assert world.sink.told


def test_cut_download_is_resumed_from_the_same_mirror() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000)]), Mirror([FILE])])
    assert world.fetch() == Finish(SIZE)
    assert world.data == FILE.body
    assert sent(world) == [(A, 0, None), (A, 9000 - OVERLAP, '"one"')]
    assert len(world.sink.told) == 1


def test_second_mirror_is_resumed_where_the_first_broke() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000)], GONE), Mirror([FILE])])
    assert world.fetch() == Finish(SIZE)
    assert world.data == FILE.body
    assert sent(world)[-1] == (B, 9000 - OVERLAP, '"one"')
    assert world.asks[-1].pause == 0


def test_download_of_an_earlier_process_is_continued_at_the_mirror_it_came_from() -> None:
    world = World([Mirror([FILE]), Mirror([FILE])])
    assert world.fetch(kept(world, 9000, FILE.head(B))) == Finish(SIZE)
    assert sent(world) == [(B, 9000 - OVERLAP, '"one"')]
    assert world.sink.told == [FILE.head(B)]


def test_download_that_lacks_only_its_end_is_confirmed() -> None:
    world = World([Mirror([FILE])])
    assert world.fetch(kept(world, SIZE, FILE.head(A))) == Finish(SIZE)
    assert sent(world) == [(A, SIZE - OVERLAP, '"one"')]


@pytest.mark.parametrize("size", [1, OVERLAP])
def test_few_bytes_are_asked_for_again_without_a_range(size: int) -> None:
    world = World([Mirror([FILE])])
    assert world.fetch(kept(world, size, FILE.head(A))) == Finish(SIZE)
    assert sent(world) == [(A, 0, None)]


@pytest.mark.parametrize(
    "version",
    [
        Version(SIZE, (), 'W/"one"'),
        Version(SIZE, (), None, NOON, same_second=True),
        Version(SIZE),
        Version(SIZE, (), "one"),
    ],
    ids=["weak tag", "date of the same second", "no validator", "no tag"],
)
def test_what_is_no_proof_makes_no_range(version: Version) -> None:
    world = World([Mirror([version], [Turn(cut=9000)])])
    assert world.fetch() == Finish(SIZE)
    assert sent(world) == [(A, 0, None), (A, 0, None)]


def test_older_date_is_proof_for_the_mirror_that_gave_it_only() -> None:
    dated = Version(SIZE, (), None, NOON)
    world = World([Mirror([dated], [Turn(cut=9000), GONE]), Mirror([dated], [GONE])])
    assert world.fetch() == Finish(SIZE)
    date = format_date(NOON)
    assert sent(world) == [(A, 0, None), (A, 9000 - OVERLAP, date), (B, 0, None), (A, 9000 - OVERLAP, date)]


def test_mirror_without_proof_is_read_from_its_first_byte_and_compared() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000)], GONE), Mirror([replace(FILE, etag='"two"')])])
    assert world.fetch() == Finish(SIZE)
    assert world.data == FILE.body
    assert world.restarts == 0
    assert sent(world)[-1] == (B, 9000 - OVERLAP, '"one"')
    assert world.mirrors[1].statuses == [200]


def test_mirror_that_ignores_ranges_is_compared() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000), Turn(ranges=False)])])
    assert world.fetch() == Finish(SIZE)
    assert world.data == FILE.body
    assert world.restarts == 0


@pytest.mark.parametrize("changed", [OTHER, Version(9500, (), '"other"', NOON)], ids=["other bytes", "other size"])
def test_changed_file_is_begun_anew(changed: Version) -> None:
    world = World([Mirror([FILE, changed], [Turn(cut=9000), Turn(changed=True)])])
    transfer = Transfer(world.urls)
    assert not transfer.contradicted
    assert world.fetch(transfer) == Finish(changed.size)
    assert world.data == changed.body
    assert world.restarts == 1
    assert world.sink.told == [changed.head(A)]
    assert transfer.contradicted


def test_file_that_no_mirror_confirms_is_asked_for_in_every_round_before_it_is_begun_anew() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000)], GONE), Mirror([OTHER])])
    assert world.fetch() == Finish(SIZE)
    assert world.data == OTHER.body
    assert [ask.url for ask in world.asks] == [A, A, B, A, A, A, B]


def test_bytes_of_two_files_are_never_joined() -> None:
    world = World([Mirror([FILE], [Turn(cut=5000), GONE]), Mirror([OTHER], [Turn(cut=12_000)], GONE)])
    assert world.fetch() == Finish(SIZE)
    assert world.data == FILE.body
    assert world.restarts == 1


def test_file_goes_by_the_head_that_covers_all_of_it() -> None:
    same = replace(FILE, etag='"two"')
    world = World([Mirror([FILE], [Turn(cut=5000)], GONE), Mirror([same], [Turn(cut=12_000)])])
    assert world.fetch() == Finish(SIZE)
    assert world.sink.told == [FILE.head(A), same.head(B)]
    assert sent(world)[-1] == (B, 12_000 - OVERLAP, '"two"')


def test_date_becomes_proof_for_the_mirror_that_took_over() -> None:
    dated = Version(SIZE, (), None, NOON)
    world = World([Mirror([dated], [Turn(cut=5000)], GONE), Mirror([dated], [Turn(cut=12_000)])])
    assert world.fetch() == Finish(SIZE)
    assert sent(world)[-2:] == [(B, 0, None), (B, 12_000 - OVERLAP, format_date(NOON))]


def test_same_head_is_not_told_twice() -> None:
    world = World([Mirror([Version(SIZE)], [Turn(cut=5000), Turn(cut=9000)])])
    assert world.fetch() == Finish(SIZE)
    assert len(world.sink.told) == 1


def test_bytes_of_an_earlier_process_are_not_shown_before_a_mirror_without_proof_has_the_same() -> None:
    world = World([Mirror([OTHER])])
    assert world.fetch(kept(world, 9000, FILE.head(B))) == Finish(SIZE)
    assert world.data == OTHER.body
    assert world.sink.history == [OTHER.head(A)]


@pytest.mark.parametrize(
    "turn",
    [
        *(Turn(shift=-100), Turn(shift=100), Turn(most=100), Turn(most=6000)),
        *(Turn(longer=1), Turn(most=15_000 - 9000 + OVERLAP, longer=-5000), Turn(bare=True)),
    ],
    ids=["begins before", "begins behind", "ends before", "ends early", "of a longer file", "of a shorter one", "untagged"],
)
def test_part_that_was_not_asked_for_leads_to_the_whole(turn: Turn) -> None:
    world = World([Mirror([FILE], [Turn(cut=9000), turn])])
    assert world.fetch() == Finish(SIZE)
    assert world.data == FILE.body
    assert sent(world) == [(A, 0, None), (A, 9000 - OVERLAP, '"one"'), (A, 0, None)]


@pytest.mark.parametrize(
    "turn",
    [Turn(most=6000), Turn(most=8000 - 9000 + OVERLAP, longer=8000 - SIZE)],
    ids=["ends early", "of a file shorter than what is kept"],
)
def test_part_of_a_file_of_unknown_length_has_to_be_all_of_the_rest(turn: Turn) -> None:
    world = World([Mirror([FILE], [Turn(cut=9000, framing="chunked"), turn])])
    assert world.fetch() == Finish(SIZE)
    assert sent(world) == [(A, 0, None), (A, 9000 - OVERLAP, '"one"'), (A, 0, None)]


def test_length_that_a_206_tells_is_the_length() -> None:
    transfer = Transfer((A,))
    transfer.start()
    transfer.next(Answered(200, FILE.head(A, framing="chunked"), chunked=True))
    transfer.next(Chunk(9000))
    assert transfer.fits(SIZE)
    transfer.next(RESET)
    place = ContentRange(Span(9000 - OVERLAP, SIZE), SIZE)
    transfer.next(Answered(206, FILE.head(A, framing="chunked"), chunked=True, content_range=place))
    assert not transfer.fits(SIZE)
    transfer.next(Chunk(OVERLAP + 1000))
    assert transfer.next(Eof()) == Ask(A, 10_000 - OVERLAP, '"one"')


@pytest.mark.parametrize(
    ("validators", "follows"),
    [
        (Validators(None, format_date(NOON)), True),
        (Validators('W/"1"', format_date(NOON)), True),
        (Validators('W/"1"', None), True),
        (Validators(), True),
        (Validators('W/"2"', format_date(NOON)), False),
        (Validators('"1"', None), False),
        (Validators('W/"1"', format_date(NOON + 1)), False),
    ],
)
def test_part_by_date_must_not_contradict_what_is_known(validators: Validators, follows: bool) -> None:
    known = Version(SIZE, (), 'W/"1"', NOON).head(A)
    transfer = Transfer((A,), 9000, known)
    assert transfer.start() == Ask(A, 9000 - OVERLAP, format_date(NOON))
    said: Fields = (("ETag", validators.etag or ""), ("Last-Modified", validators.last_modified or ""))
    part = Representation(tuple(pair for pair in said if pair[1]), None, A, NOON)
    action = transfer.next(Answered(206, part, content_range=ContentRange(Span(9000 - OVERLAP, SIZE), SIZE)))
    assert action == (Receive(9000 - OVERLAP, known) if follows else Ask(A))


def test_date_is_no_proof_where_the_tag_says_otherwise() -> None:
    """An rsync that keeps dates can replace a file by another one of the same date."""
    first, second = Version(SIZE, (), 'W/"1"', NOON), Version(SIZE, (1000, 15_000), 'W/"2"', NOON)
    world = World([Mirror([first, second], [Turn(cut=9000), Turn(changed=True)])])
    assert world.fetch() == Finish(SIZE)
    assert world.data == second.body


def test_range_behind_the_end_leads_to_the_whole() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000), Turn(instead=416)])])
    assert world.fetch() == Finish(SIZE)
    assert sent(world)[-1] == (A, 0, None)


def test_body_whose_end_cannot_be_told_is_never_taken() -> None:
    world = World([Mirror([FILE], [], Turn(framing="none")), Mirror([FILE])])
    assert world.fetch() == Finish(SIZE)
    assert [ask.url for ask in world.asks] == [A, B]
    world = World([Mirror([FILE], [], Turn(framing="none"))])
    end = world.fetch()
    assert isinstance(end, GiveUp)
    assert end.status == 502
    assert "end could not be told" in end.reason


def test_body_that_ends_early_in_good_order_is_not_whole() -> None:
    transfer = Transfer((A,))
    transfer.start()
    transfer.next(Answered(200, FILE.head(A)))
    transfer.next(Chunk(9000))
    assert transfer.next(Eof()) == Ask(A, 9000 - OVERLAP, '"one"')


def test_chunked_end_is_an_end() -> None:
    world = World([Mirror([FILE], [], Turn(framing="chunked"))])
    assert world.fetch() == Finish(SIZE)
    assert world.sink.told[0].size is None


def test_mirror_whose_whole_file_is_less_than_what_is_kept_has_another_file() -> None:
    shorter = Version(5000, (), '"other"', NOON)
    world = World([Mirror([shorter])])
    assert world.fetch(kept(world, 9000, FILE.head(A))) == Finish(5000)
    assert world.restarts == 1


def test_marked_end_before_what_is_kept_is_no_end_of_the_same_file() -> None:
    files = [Version(SIZE), Version(5000)]
    world = World([Mirror(files, [Turn(cut=9000, framing="chunked")], Turn(framing="chunked", changed=True))])
    assert world.fetch() == Finish(5000)
    assert world.restarts == 1


def test_longer_file_takes_over_what_nobody_was_told_of() -> None:
    longer = Version(SIZE, (), '"longer"', NOON)
    world = World([Mirror([longer])], block=SIZE)
    assert world.fetch(kept(world, 3000, Version(5000, (), '"short"').head(A))) == Finish(SIZE)
    assert world.restarts == 0
    assert world.sink.history == [longer.head(A)]


def test_chunked_body_that_ends_before_the_length_told_is_another_file() -> None:
    shorter = Version(9000, (), '"other"')
    world = World([Mirror([FILE], [Turn(cut=5000)], GONE), Mirror([shorter], [], Turn(framing="chunked"))])
    assert world.fetch() == Finish(9000)
    assert world.restarts == 1


def test_length_that_readers_were_told_stands_until_a_restart() -> None:
    """Even before the first byte: a reader has the length in its hands."""
    world = World([Mirror([FILE], [], Turn(cut=0)), Mirror([Version(9000, (), '"other"')])])
    assert world.fetch() == Finish(9000)
    assert world.restarts == 1


def test_mirror_that_sends_more_than_it_declared_is_not_trusted() -> None:
    world = World([Mirror([FILE], [], Turn(overrun=True))])
    transfer = Transfer(world.urls)
    assert isinstance(world.fetch(transfer), GiveUp)
    assert transfer.contradicted


def test_mirror_that_contradicts_itself_does_not_keep_another_from_delivering() -> None:
    honest = Version(9000, (), '"honest"')
    world = World([Mirror([FILE], [], Turn(overrun=True)), Mirror([honest])])
    assert world.fetch() == Finish(9000)
    assert world.data == honest.body


PAGE = Version(SIZE, (3,), '"page"', NOON + 3600, useless=True)


def test_where_a_file_is_useless_the_next_mirror_is_asked_for_its_own() -> None:
    """Though that is older, and has nothing in common with what is kept."""
    world = World([Mirror([PAGE]), Mirror([PAGE]), Mirror([FILE])])
    transfer = Transfer(world.urls)
    assert world.fetch(transfer) == Finish(SIZE)
    assert world.data == FILE.body
    assert sent(world) == [(A, 0, None), (B, 0, None), (C, 0, None)]
    assert transfer.contradicted


def test_what_is_useless_everywhere_is_nowhere() -> None:
    world = World([Mirror([PAGE]), Mirror([FILE], then=LEFT_OUT)])
    transfer = Transfer(world.urls)
    assert world.fetch(transfer) == GiveUp(502, f"{A} sent no document; {B} answered 404", 404)
    assert transfer.contradicted
    assert transfer.hopeless
    assert world.fetch(Transfer((A,))) == GiveUp(502, f"{A} sent no document")


def test_fits_says_whether_bytes_are_within_the_length() -> None:
    transfer = Transfer((A,))
    transfer.start()
    transfer.next(Answered(200, FILE.head(A)))
    assert transfer.fits(SIZE)
    assert not transfer.fits(SIZE + 1)
    transfer.next(Chunk(SIZE - 1))
    assert transfer.fits(1)
    assert not transfer.fits(2)


# --- Revalidation -----------------------------------------------------------------------------------------------------


def test_what_is_held_is_asked_for_with_its_validators() -> None:
    world = World([Mirror([FILE])])
    end = world.fetch(Transfer(world.urls, held=FILE.head(A)))
    assert isinstance(end, NotModified)
    assert world.asks == [Ask(A, condition=Validators('"one"', format_date(NOON)))]
    assert not world.begun


def test_new_version_replaces_what_is_held() -> None:
    world = World([Mirror([OTHER])])
    assert world.fetch(Transfer(world.urls, held=FILE.head(A))) == Finish(SIZE)
    assert world.data == OTHER.body


@pytest.mark.parametrize("held", [None, Version(SIZE).head(A)], ids=["nothing held", "held without validators"])
def test_304_without_a_condition_is_no_answer(held: Representation | None) -> None:
    world = World([Mirror([FILE], [Turn(instead=304)]), Mirror([FILE])])
    assert world.fetch(Transfer(world.urls, held=held)) == Finish(SIZE)
    assert [ask.url for ask in world.asks] == [A, B]


CONFIRMED, FULL = [True], [True, False]


@pytest.mark.parametrize(
    ("held", "told", "asked"),
    [
        ('"one"', '"one"', CONFIRMED),
        ('"one"', 'W/"one"', CONFIRMED),
        ('W/"one"', '"one"', CONFIRMED),
        ('"one"', None, CONFIRMED),
        (None, '"one"', CONFIRMED),
        ('"one"', 'W/"two"', CONFIRMED),
        ('"one"', '"two"', FULL),
        ('W/"one"', '"two"', FULL),
    ],
)
def test_304_of_another_version_confirms_nothing(held: str | None, told: str | None, asked: list[bool]) -> None:
    transfer = Transfer((A,), held=replace(FILE, etag=held).head(A))
    conditional = []
    action = transfer.start()
    while isinstance(action, Ask):
        conditional.append(action.condition is not None)
        version = replace(FILE, etag=told)
        action = transfer.next(Answered(304 if len(conditional) == 1 else 200, version.head(A)))
    assert conditional == asked
    assert isinstance(action, NotModified if asked is CONFIRMED else Receive)


def test_304_of_another_version_twice_is_a_lie() -> None:
    transfer = Transfer((A, B), held=FILE.head(A))
    transfer.start()
    other = Answered(304, OTHER.head(A))
    assert transfer.next(other) == Ask(A)
    assert transfer.next(other) == Ask(B, condition=FILE.head(A).validators)


def test_condition_is_dropped_once_readers_were_told_of_a_new_version() -> None:
    world = World([Mirror([OTHER], [Turn(cut=0)], GONE), Mirror([FILE])])
    end = world.fetch(Transfer(world.urls, held=FILE.head(B)))
    assert end == Finish(SIZE)
    assert world.asks[0].condition
    assert not any(ask.condition for ask in world.asks[1:])


@pytest.mark.parametrize("size", [100, 9000])
def test_resumed_download_of_a_new_version_is_not_conditional(size: int) -> None:
    world = World([Mirror([OTHER])])
    world.sink.data += OTHER.body[:size]
    assert world.fetch(Transfer(world.urls, size, OTHER.head(A), FILE.head(A))) == Finish(SIZE)
    assert [ask.condition for ask in world.asks] == [None]


OLDER = Version(SIZE, (100,), '"older"', NOON - 86400)


def test_mirror_that_lags_behind_does_not_bring_an_old_version_back() -> None:
    world = World([Mirror([FILE], [], GONE), Mirror([OLDER])])
    end = world.fetch(Transfer(world.urls, held=FILE.head(A)))
    assert isinstance(end, GiveUp)
    assert end.status == 502
    assert "older version" in end.reason
    assert not world.begun


def test_mirror_that_held_the_version_may_go_back_to_an_older_one() -> None:
    world = World([Mirror([OLDER])])
    assert world.fetch(Transfer(world.urls, held=FILE.head(A))) == Finish(SIZE)


def test_mirror_of_the_same_age_is_not_behind() -> None:
    world = World([Mirror([FILE], [], GONE), Mirror([OTHER])])
    assert world.fetch(Transfer(world.urls, held=FILE.head(A))) == Finish(SIZE)


# --- Liars ------------------------------------------------------------------------------------------------------------

LIES = Turn(lies=True)


def test_what_a_liar_sent_is_dropped_and_the_next_mirror_delivers() -> None:
    world = World([Mirror([OTHER], [], LIES), Mirror([FILE], [Turn(cut=9000)])])
    transfer = Transfer(world.urls)
    assert world.fetch(transfer) == Finish(SIZE)
    assert world.data == FILE.body
    assert world.restarts == 1
    assert [ask.url for ask in world.asks] == [A, B, B]
    assert transfer.contradicted


def test_liar_is_never_asked_again() -> None:
    world = World([Mirror([FILE], [], LIES), Mirror([OTHER], [Turn(cut=9000)], GONE)])
    assert isinstance(world.fetch(), GiveUp)
    assert [ask.url for ask in world.asks].count(A) == 1


def test_only_mirror_that_lies_delivers_nothing_and_leaves_nothing() -> None:
    world = World([Mirror([FILE], [], LIES)])
    transfer = Transfer(world.urls)
    assert world.fetch(transfer) == GiveUp(502, f"{A} {MADE_UP.reason}")
    assert transfer.contradicted
    assert len(world.asks) == 1


def test_liars_come_to_an_end() -> None:
    world = World([Mirror([FILE], [], LIES), Mirror([OTHER], [], LIES), Mirror([FILE], [], LIES)])
    assert isinstance(world.fetch(), GiveUp)
    assert [ask.url for ask in world.asks] == [A, B, B, C, C]


def test_bytes_of_a_liar_that_another_mirror_has_too_are_kept() -> None:
    world = World([Mirror([FILE], [], LIES), Mirror([FILE], [Turn(cut=9000)], Turn(cut=15_000)), Mirror([FILE])])
    transfer = Transfer(world.urls)
    assert world.fetch(transfer) == Finish(SIZE)
    assert world.restarts == 0
    assert all(ask.offset == 0 for ask in world.asks)
    assert not transfer.contradicted


def test_lie_before_a_body_costs_no_byte() -> None:
    made_up = Turn(instead=MADE_UP)
    world = World([Mirror([FILE], [Turn(cut=9000)], made_up), Mirror([FILE])])
    transfer = Transfer(world.urls)
    assert world.fetch(transfer) == Finish(SIZE)
    assert sent(world) == [(A, 0, None), (A, 9000 - OVERLAP, '"one"'), (B, 9000 - OVERLAP, '"one"')]
    assert not transfer.contradicted


def test_what_does_not_fit_behind_a_joint_is_told_by_the_whole() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000)], GONE), Mirror([FILE], [LIES])])
    assert world.fetch() == Finish(SIZE)
    assert sent(world)[-2:] == [(B, 9000 - OVERLAP, '"one"'), (B, 0, None)]
    assert world.restarts == 0


def test_joint_and_whole_of_a_liar_are_left_for_the_other_mirror() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000), GONE]), Mirror([FILE], [], LIES)])
    assert world.fetch() == Finish(SIZE)
    assert [ask.url for ask in world.asks] == [A, A, B, B, A]


@pytest.mark.parametrize("status", [206, 304])
def test_answer_to_a_question_nobody_asked_is_a_lie(status: int) -> None:
    world = World([Mirror([FILE], [Turn(instead=status)]), Mirror([FILE], [Turn(cut=9000)], GONE)])
    assert isinstance(world.fetch(), GiveUp)
    assert [ask.url for ask in world.asks].count(A) == 1


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        ([REFUSED], "cannot be reached"),
        ([RESET], None),
        ([RESET, RESET], "broke off"),
        ([MADE_UP], MADE_UP.reason),
        ([Answered(500, FILE.head(A))], "answered 500"),
        ([Answered(429, FILE.head(A))], "answered 429"),
        ([Answered(404, FILE.head(A))], None),
        ([Answered(401, FILE.head(A))], None),
        (
            [Answered(200, FILE.head(A, framing="none"))],
            "gave neither a length nor a chunked body, so its end could not be told",
        ),
        ([Answered(200, FILE.head(A)), Mismatch()], None),
        ([Answered(200, FILE.head(A)), Broke("crawls", crawls=True)], "crawls"),
    ],
)
def test_what_speaks_against_a_mirror_is_told(events: list[Event], fault: str | None) -> None:
    transfer = Transfer((A, B))
    transfer.start()
    for event in events:
        assert transfer.fault is None
        transfer.next(event)
    assert transfer.fault == (None if fault is None else (A, fault))


# --- Slow ones --------------------------------------------------------------------------------------------------------


def test_crawling_mirror_is_left_at_once_though_it_brought_bytes() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000, cut_by=Broke("crawls", crawls=True))]), Mirror([FILE])])
    assert world.fetch() == Finish(SIZE)
    assert sent(world) == [(A, 0, None), (B, 9000 - OVERLAP, '"one"')]


def begun(head: Representation, *urls: str) -> Transfer:
    """A transfer half way through the body of its first mirror."""
    transfer = Transfer(urls)
    transfer.start()
    transfer.next(Answered(200, head))
    transfer.next(Chunk(9000))
    return transfer


def test_slow_mirror_is_left_for_a_faster_one_that_can_prove_to_have_the_file() -> None:
    transfer = begun(FILE.head(A), A, B, C)
    assert transfer.next(Slow(C)) == Ask(C, 9000 - OVERLAP, '"one"')
    place = ContentRange(Span(9000 - OVERLAP, SIZE), SIZE)
    assert transfer.next(Answered(206, FILE.head(C), content_range=place)) == Receive(9000 - OVERLAP)
    transfer.next(Chunk(OVERLAP + 1))
    assert transfer.next(Slow(A)) == Receive(9001), "goes back and forth"


def test_without_proof_or_bytes_a_slow_mirror_is_kept() -> None:
    assert begun(Version(SIZE).head(A), A, B).next(Slow(B)) == Receive(9000)
    assert begun(Version(SIZE, (), None, NOON).head(A), A, B).next(Slow(B)) == Receive(9000)
    assert begun(FILE.head(A), A, B).next(Slow("http://none.example/f.tar")) == Receive(9000)


def test_body_without_a_length_has_a_limit_all_the_same() -> None:
    marked = Transfer((A,))
    marked.start()
    marked.next(Answered(200, FILE.head(A, framing="chunked"), chunked=True))
    assert marked.fits(MAX_UNMARKED)
    assert not marked.fits(MAX_UNMARKED + 1)


# --- Whom to ask, when, and when to stop --------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [GONE, Turn(instead=SILENT), LEFT_OUT, Turn(instead=500), Turn(instead=429)])
def test_next_mirror_is_asked_at_once(turn: Turn) -> None:
    world = World([Mirror([FILE], [], turn), Mirror([FILE])])
    assert world.fetch() == Finish(SIZE)
    assert sent(world) == [(A, 0, None), (B, 0, None)]
    assert all(ask.pause == 0 for ask in world.asks)


def test_connection_that_breaks_again_is_left() -> None:
    world = World([Mirror([FILE], [], Turn(instead=RESET)), Mirror([FILE])])
    assert world.fetch() == Finish(SIZE)
    assert sent(world) == [(A, 0, None), (A, 0, None), (B, 0, None)]


def test_connection_that_breaks_is_tried_once_more_at_once() -> None:
    world = World([Mirror([FILE], [Turn(instead=RESET)]), Mirror([FILE])])
    assert world.fetch() == Finish(SIZE)
    assert sent(world) == [(A, 0, None), (A, 0, None)]


def test_without_a_byte_every_mirror_is_asked_in_one_round_only() -> None:
    world = World([Mirror([FILE], [], GONE), Mirror([FILE], [], Turn(instead=503))])
    assert isinstance(world.fetch(), GiveUp)
    assert [ask.url for ask in world.asks] == [A, B]


def test_with_bytes_at_stake_rounds_repeat_with_growing_pauses() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000)], GONE), Mirror([FILE], [], GONE)])
    assert isinstance(world.fetch(), GiveUp)
    assert [(ask.url, ask.pause) for ask in world.asks[2:]] == [
        (B, 0.0), (A, 0.5), (B, 0.5), (A, 1.0), (B, 1.0), (A, 2.0), (B, 2.0),
    ]  # fmt: skip


def test_new_byte_begins_the_rounds_again() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000), GONE, GONE, Turn(cut=6000)], GONE), Mirror([FILE], [], GONE)])
    assert isinstance(world.fetch(), GiveUp)
    assert [ask.pause for ask in world.asks] == [0, 0, 0, 0.5, 0.5, 1.0, 0, 0, 0.5, 0.5, 1.0, 1.0, 2.0, 2.0]


def test_mirror_that_lacks_the_file_is_not_asked_again() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000)], GONE), Mirror([FILE], [], LEFT_OUT)])
    assert isinstance(world.fetch(), GiveUp)
    assert [ask.url for ask in world.asks].count(B) == 1


def test_mirror_that_breaks_after_every_few_bytes_is_left_at_last() -> None:
    world = World([Mirror([FILE], [], Turn(cut=OVERLAP + 100))], block=100)
    assert isinstance(world.fetch(), GiveUp)
    assert len(world.asks) == 2 * TRIES


def test_compared_bytes_are_not_counted_as_brought() -> None:
    head = Representation((), 40 * FREE_ASK, A, NOON)
    transfer = Transfer((A,), 5 * FREE_ASK, head)
    action = transfer.start()
    for _ in range(2 * TRIES):
        assert isinstance(action, Ask)
        transfer.next(Answered(200, head))
        transfer.next(Chunk(transfer.have + 1))
        action = transfer.next(RESET)
    assert isinstance(action, GiveUp)


def test_mirror_that_sends_wrong_parts_is_left_at_last() -> None:
    turns = [Turn(cut=9000)]
    for size in range(9100, 10_000, 100):
        turns += [Turn(bare=True), Turn(cut=size)]
    world = World([Mirror([FILE], turns)], block=100)
    assert isinstance(world.fetch(), GiveUp)
    assert len(world.asks) == 2 * TRIES


def test_restart_gives_every_mirror_its_chances_again() -> None:
    few = [Turn(cut=OVERLAP + 100)] * 5
    world = World([Mirror([FILE, OTHER], [Turn(cut=9000), *few, Turn(changed=True), *few])], block=100)
    assert world.fetch() == Finish(SIZE)
    assert world.data == OTHER.body
    assert len(world.asks) > 2 * TRIES


def test_after_a_restart_the_next_mirror_is_asked_at_once() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000)], GONE), Mirror([OTHER], [HONEST], GONE)])
    assert isinstance(world.fetch(), GiveUp)
    assert world.restarts == 1
    assert [(ask.url, ask.pause) for ask in world.asks[-2:]] == [(B, 0), (A, 0)]


def test_mirrors_that_agree_with_the_new_file_cause_no_further_restart() -> None:
    world = World(
        [
            Mirror([FILE], [Turn(cut=9000)], GONE),
            Mirror([OTHER], [HONEST, Turn(cut=9000)], GONE),
            Mirror([OTHER], [HONEST], GONE),
        ]
    )
    assert isinstance(world.fetch(), GiveUp)
    assert world.restarts == 1


def test_ask_that_brought_much_does_not_count() -> None:
    size = 40 * FREE_ASK
    head = Representation((("ETag", '"big"'),), size, A, NOON)
    transfer = Transfer((A,))
    action = transfer.start()
    asks = 0
    while isinstance(action, Ask):
        asks += 1
        place = ContentRange(Span(action.offset, size), size)
        transfer.next(Answered(206, head, content_range=place) if action.offset else Answered(200, head))
        transfer.next(Chunk(min(size - action.offset, OVERLAP + FREE_ASK)))
        action = transfer.next(RESET if transfer.have < size else Eof())
    assert action == Finish(size)
    assert asks > 2 * TRIES


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([404], 404),
        ([410], 410),
        ([410, 404], 410),
        ([403, 404], 404),
        ([403], 403),
        ([451, 403], 451),
        ([404, 500], 500),
        ([404, REFUSED], 404),
        ([404, SILENT], 404),
        ([404, RESET], 502),
        ([SILENT, SILENT], 504),
        ([SILENT, REFUSED], 502),
        ([SILENT, 503], 503),
        ([401], 401),
        ([429], 429),
        ([408], 502),
        ([206], 502),
        ([302], 502),
        ([204], 502),
    ],
)
def test_failure_says_what_the_mirrors_said(answers: list[int | Broke], status: int) -> None:
    world = World([Mirror([FILE], [], Turn(instead=answer)) for answer in answers])
    end = world.fetch()
    assert isinstance(end, GiveUp)
    assert end.status == status
    assert all(url in end.reason for url in world.urls)


def test_failure_is_what_the_mirror_said_last() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000, cut_by=SILENT)], Turn(instead=500))])
    assert world.fetch() == GiveUp(500, f"{A} answered 500", 500)
    changing = [Turn(cut=9000), Turn(changed=True), GONE]
    world = World([Mirror([FILE, OTHER], changing, GONE), Mirror([FILE], [LEFT_OUT], GONE)])
    assert world.fetch() == GiveUp(502, f"{A} cannot be reached; {B} cannot be reached")


def test_mirror_that_came_to_lack_the_file_counts_as_lacking_it() -> None:
    world = World([Mirror([FILE], [Turn(cut=9000)], LEFT_OUT), Mirror([FILE], [], LEFT_OUT)])
    assert world.fetch() == GiveUp(404, f"{A} answered 404; {B} answered 404", 404)


def test_without_a_source_nothing_is_found() -> None:
    assert Transfer(()).start() == GiveUp(404, "there is no source to ask")


# --- Under any schedule -----------------------------------------------------------------------------------------------

SIZES = st.sampled_from([0, 1, 1000, OVERLAP, OVERLAP + 1, 9000, 12_000, 20_000])
PLACES = st.one_of(st.sampled_from([0, 100, 4000, 6000, 8000, 11_000, 15_000, 19_999]), st.integers(0, 20_000))
KINDS = ["shared tag", "own tag", "own tag", "weak tag", "date", "same second", "nothing"]


def tag_of(file: tuple[int, tuple[int, ...]], salt: int) -> str:
    return f'"{salt}-{hashlib.sha256(body_of(*file)).hexdigest()[:16]}"'


@st.composite
def versions(draw: st.DrawFn, salt: int, size: int) -> list[Version]:
    """What one mirror holds in the course of time: files that are alike in most places, recognised in some way."""
    files = [
        (draw(st.one_of(st.just(size), st.just(size), SIZES)), tuple(draw(st.lists(PLACES, max_size=2))))
        for _ in range(draw(st.integers(1, 3)))
    ]
    kind = draw(st.sampled_from(KINDS))
    made = []
    for number, file in enumerate(files):
        match kind:
            case "shared tag":
                made.append(Version(*file, tag_of(file, 0)))
            case "own tag":
                made.append(Version(*file, tag_of(file, salt + 1), NOON))
            case "weak tag":
                made.append(Version(*file, "W/" + tag_of(file, salt + 1)))
            case "date":
                made.append(Version(*file, None, NOON + number))
            case "same second":
                made.append(Version(*file, None, NOON, same_second=True))
            case _:
                made.append(Version(*file))
    return made


FAILURES = st.builds(
    Turn, instead=st.sampled_from([REFUSED, SILENT, RESET, MADE_UP, 404, 410, 403, 500, 503, 304, 206, 416])
)
CUTS = st.builds(Turn, cut=PLACES, cut_by=st.sampled_from([RESET, SILENT, REFUSED]), changed=st.booleans())
ODDITIES = st.builds(
    Turn,
    cut=st.one_of(st.none(), PLACES),
    ranges=st.booleans(),
    shift=st.sampled_from([0, 0, 0, -1, 1, 5000, -OVERLAP]),
    longer=st.sampled_from([0, 0, 0, 1000]),
    most=st.one_of(st.none(), st.sampled_from([1, 1000, OVERLAP, 6000])),
    framing=st.sampled_from(["length", "length", "chunked", "none"]),
    overrun=st.sampled_from([False, False, False, True]),
    lies=st.sampled_from([False, False, False, True]),
    bare=st.booleans(),
    changed=st.booleans(),
)
TURNS = st.one_of(st.just(HONEST), FAILURES, CUTS, CUTS, ODDITIES)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    size = draw(SIZES)
    pool = draw(versions(0, size))
    mirrors = [
        Mirror(
            pool if draw(st.booleans()) else draw(versions(number, size)),
            draw(st.lists(TURNS, max_size=5)),
            draw(st.one_of(st.just(HONEST), TURNS)),
        )
        for number in range(draw(st.integers(1, 3)))
    ]
    return World(mirrors, block=draw(st.sampled_from([700, OVERLAP, 30_000])))


@st.composite
def begun_transfers(draw: st.DrawFn, world: World) -> Transfer:
    """A transfer from nothing, a revalidation, or one that continues what an earlier process kept of some mirror's file."""
    number = draw(st.sampled_from(range(len(world.mirrors))))
    version = draw(st.sampled_from(world.mirrors[number].versions))
    head = version.head(URLS[number], framing=draw(st.sampled_from(["length", "length", "chunked"])))
    match draw(st.sampled_from(["new", "held", "kept"])):
        case "held":
            return Transfer(world.urls, held=head)
        case "kept":
            kept = draw(st.one_of(st.just(version.size), st.integers(0, version.size)))
            world.sink.data += version.body[:kept]
            return Transfer(world.urls, kept, head)
        case _:
            return Transfer(world.urls)


def check_end(world: World, end: Finish | NotModified | GiveUp) -> None:
    count = len(world.mirrors)
    assert len(world.asks) <= 2 * TRIES * count * (2 * count + 1)
    match end:
        case Finish(size):
            check_finish(world, size)
        case GiveUp(status, reason):
            last = [mirror.statuses[-1] if mirror.statuses else None for mirror in world.mirrors]
            absent = [one in (403, 404, 410, 451) for one in last]
            assert status not in (403, 404, 410, 451) or any(absent), reason
            assert status in (403, 404, 410, 451) or not all(absent), reason
        case NotModified():
            assert world.asks[-1].condition
            assert not world.begun, "readers were told of a file that does not come"


def check_finish(world: World, size: int) -> None:
    assert size == len(world.data)
    assert world.sound, "an end of the stream was believed"
    assert world.data in world.seen, "not a file that a mirror has"
    told = world.sink.told
    assert told, "finished without a head"
    assert all(head.size in (None, size) for head in told), "readers were told another length"
    owner = world.mirrors[URLS.index(told[-1].source)]
    assert any(version.body == world.data for version in owner.versions), (
        "goes by the name of a mirror that has another file"
    )


@settings(max_examples=examples(300), deadline=None)
@given(st.data())
def test_any_schedule_ends_with_one_whole_file_or_none(data: st.DataObject) -> None:
    world = data.draw(worlds())
    transfer = data.draw(begun_transfers(world))
    check_end(world, world.fetch(transfer))


@st.composite
def half_dead_worlds(draw: st.DrawFn) -> tuple[World, Version]:
    """One mirror has the file, though its connections may break; nobody gets a byte from the others."""
    size = draw(SIZES)
    honest = draw(versions(0, size))[0]
    cut = st.builds(Turn, cut=st.integers(1, SIZE), cut_by=st.sampled_from([RESET, SILENT, REFUSED]))
    deaths = st.builds(Turn, instead=st.sampled_from([REFUSED, SILENT, RESET, 404, 403, 500, 503]))
    dead = [
        Mirror(draw(versions(number, size)), draw(st.lists(deaths, max_size=4)), draw(deaths))
        for number in range(1, draw(st.integers(1, 3)))
    ]
    alive = Mirror([honest], draw(st.lists(cut, max_size=3)), draw(st.sampled_from([HONEST, Turn(framing="chunked")])))
    return World(draw(st.permutations([alive, *dead])), block=draw(st.sampled_from([700, 30_000]))), honest


@settings(max_examples=examples(120), deadline=None)
@given(st.data())
def test_one_mirror_that_can_be_reached_is_enough(data: st.DataObject) -> None:
    world, honest = data.draw(half_dead_worlds())
    transfer = data.draw(begun_transfers(world))
    held = transfer.held is not None
    end = world.fetch(transfer)
    check_end(world, end)
    if not held:
        assert end == Finish(honest.size)
        assert world.data == honest.body


def test_only_exactly_the_part_that_was_asked_for_of_the_same_file_is_one() -> None:
    span, etag = Span(10, 20), '"t"'
    known = Representation((("ETag", etag),), 100, A, NOON)
    part = Answered(206, replace(known, size=10), True, ContentRange(span, 100))
    assert is_part(part, known, etag, span)
    for other in (
        replace(part, status=200),
        replace(part, content_range=None),
        replace(part, content_range=ContentRange(Span(10, 19), 100)),
        replace(part, content_range=ContentRange(span, 101)),
        replace(part, content_range=ContentRange(span, None)),
        replace(part, representation=Representation((("ETag", '"u"'),), 10, A, NOON)),
        replace(part, representation=Representation((), 10, A, NOON)),
        replace(part, representation=Representation((("ETag", etag), ("Content-Encoding", "br")), 10, A, NOON)),
    ):
        assert not is_part(other, known, etag, span), other
