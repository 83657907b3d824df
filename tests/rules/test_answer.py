"""How a request for a representation is answered: conditions, ranges, fields."""

import email
import email.policy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from package_cache.model import Fields, Representation, Request, Span, Target
from package_cache.rules.http.answer import Reply, Serving, decide, problem, whole_of
from package_cache.rules.http.caching import good_until, kept_fields, refreshed
from package_cache.rules.http.fields import format_date

NOON = 1_767_225_600.0
CHANGED = NOON - 86400
DIGEST = "ab" * 32
SERVING = Serving("hit", "cache.example", NOON + 30, DIGEST)
FIELDS: Fields = (
    ("Content-Type", "application/x-xz"),
    ("Last-Modified", format_date(CHANGED)),
    ("ETag", '"v1"'),
    ("Date", format_date(NOON)),
)
STORED = Representation(FIELDS, 1000, "http://mirror.example/f", NOON)
UNTAGGED = replace(STORED, fields=tuple(pair for pair in FIELDS if pair[0] != "ETag"))
OWN_TAG = f'"{DIGEST}"'


def ask(method: str = "GET", **fields: str) -> Request:
    return Request(method, Target("/f"), {name.replace("_", "-"): value for name, value in fields.items()})


def values(reply: Reply) -> dict[str, str]:
    named = dict(reply.fields)
    assert len(named) == len(reply.fields), "a field is there twice"
    return named


def age(representation: Representation, now: float) -> int:
    return int(values(decide(ask(), representation, replace(SERVING, now=now)))["Age"])


def answer(representation: Representation = STORED, serving: Serving = SERVING, **fields: str) -> Reply:
    return decide(ask(**fields), representation, serving)


@pytest.mark.parametrize(
    "representation", [STORED, UNTAGGED, replace(STORED, fields=(*FIELDS, ("Age", "7"), ("X-A", "ä")))]
)
def test_what_is_formed_once_of_an_answer_is_what_is_decided_each_time(representation: Representation) -> None:
    front, back, born = whole_of(representation, DIGEST, "cache.example")
    lines = front + b"%d" % (SERVING.now - born) + b"\r\nCache-Status: package-cache; hit" + back
    fields = decide(ask(), representation, SERVING).fields
    assert lines == "".join([f"\r\n{name}: {value}" for name, value in fields]).encode("latin-1") + b"\r\n\r\n"


def test_whole_file_is_answered_with_what_the_source_said_of_it() -> None:
    reply = answer()
    assert (reply.status, reply.span, reply.open_ended) == (200, Span(0, 1000), False)
    assert values(reply) == {
        "Content-Type": "application/x-xz",
        "Last-Modified": format_date(CHANGED),
        "ETag": '"v1"',
        "Age": "30",
        "Cache-Status": "package-cache; hit",
        "Via": "1.1 cache.example",
        "Accept-Ranges": "bytes",
        "Repr-Digest": "sha-256=:q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=:",
        "Content-Length": "1000",
    }


def test_head_is_answered_like_get_without_a_body() -> None:
    get, head = answer(), decide(ask("HEAD"), STORED, SERVING)
    assert head == replace(get, span=None)


def test_empty_file_is_answered_whole() -> None:
    reply = answer(replace(STORED, size=0))
    assert (reply.status, reply.span, values(reply)["Content-Length"]) == (200, Span(0, 0), "0")


@pytest.mark.parametrize(
    ("stored", "digest", "tag"),
    [('"v1"', DIGEST, '"v1"'), ('"v1"', None, '"v1"')]
    + [(weak, DIGEST, OWN_TAG) for weak in ('W/"v1"', "v1", '"v1",', "", None)]
    + [(weak, None, None) for weak in ('W/"v1"', None)],
)
def test_tag_is_the_strong_one_of_the_source_or_made_of_the_digest(
    stored: str | None, digest: str | None, tag: str | None
) -> None:
    fields = () if stored is None else (("etag", stored),)
    representation = replace(STORED, fields=fields)
    assert dict(answer(representation, replace(SERVING, digest=digest)).fields).get("ETag") == tag
    reply = decide(ask(), representation, replace(SERVING, digest=digest))
    assert values(reply).get("ETag") == tag
    assert "etag" not in values(reply)


# --- Conditions -------------------------------------------------------------------------------------------------------

SAME, BEFORE, AFTER = format_date(CHANGED), format_date(CHANGED - 1), format_date(CHANGED + 5)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"if_none_match": '"v1"'}, 304),
        ({"if_none_match": 'W/"v1"'}, 304),
        ({"if_none_match": '"v0", "v1"'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"v0"'}, 200),
        ({"if_none_match": OWN_TAG}, 200),
        ({"if_none_match": ""}, 200),
        ({"if_modified_since": SAME}, 304),
        ({"if_modified_since": AFTER}, 304),
        ({"if_modified_since": BEFORE}, 200),
        ({"if_modified_since": "Sunday, 06-Nov-94 08:49:37 GMT"}, 200),
        ({"if_modified_since": "yesterday"}, 200),
        ({"if_modified_since": ""}, 200),
        ({"if_none_match": '"v0"', "if_modified_since": AFTER}, 200),
        ({"if_none_match": '"v1"', "if_modified_since": BEFORE}, 304),
        ({"if_none_match": '"v1"', "range": "bytes=0-9"}, 304),
        ({"if_modified_since": SAME, "range": "bytes=2000-"}, 304),
        ({"if_none_match": '"v0"', "range": "bytes=0-9"}, 206),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_condition_decides_whether_the_body_is_sent(method: str, fields: dict[str, str], status: int) -> None:
    reply = decide(ask(method, **fields), STORED, SERVING)
    expected = 200 if method == "HEAD" and status == 206 else status
    assert reply.status == expected


def test_condition_holds_for_the_tag_made_of_the_digest() -> None:
    assert answer(UNTAGGED, if_none_match=OWN_TAG).status == 304


def test_without_a_tag_or_a_date_only_an_asterisk_is_met() -> None:
    bare = replace(STORED, fields=())
    still = replace(SERVING, digest=None)
    assert answer(bare, still, if_none_match='"v1"').status == 200
    assert answer(bare, still, if_none_match="*").status == 304
    assert answer(bare, still, if_modified_since=AFTER).status == 200


def test_304_says_all_but_what_describes_a_body() -> None:
    described = (("Content-Encoding", "gzip"), ("Content-Language", "en"), ("Content-Disposition", "inline"))
    lasting = (("Cache-Control", "max-age=5"), ("Expires", format_date(NOON)), ("Vary", "Accept"))
    reply = answer(replace(STORED, fields=(*FIELDS, *described, *lasting)), if_none_match='"v1"')
    assert (reply.status, reply.span, reply.open_ended) == (304, None, False)
    assert set(values(reply)) == {
        *("ETag", "Last-Modified", "Cache-Control", "Expires", "Vary", "Age"),
        *("Cache-Status", "Via", "Accept-Ranges", "Repr-Digest"),
    }


# --- Ranges -----------------------------------------------------------------------------------------------------------


def test_part_is_answered_with_its_place() -> None:
    reply = answer(range="bytes=100-199")
    assert (reply.status, reply.span) == (206, Span(100, 200))
    assert values(reply)["Content-Range"] == "bytes 100-199/1000"
    assert values(reply)["Content-Length"] == "100"
    assert values(reply)["ETag"] == '"v1"'


def test_part_outside_is_answered_with_the_size() -> None:
    reply = answer(range="bytes=1000-")
    assert (reply.status, reply.span, reply.open_ended) == (416, None, False)
    assert values(reply) == {
        "Content-Range": "bytes */1000",
        "Content-Length": "0",
        "Cache-Status": "package-cache; hit",
        "Via": "1.1 cache.example",
    }


@pytest.mark.parametrize(
    "text", ["bytes=9-0", "items=0-1", "bytes=", "junk", "bytes=0-1,9-0", "bytes=0-1,junk", "bytes=,", "items=0-1,3-4"]
)
def test_range_that_is_none_is_answered_with_the_whole(text: str) -> None:
    reply = answer(range=text)
    assert (reply.status, reply.span) == (200, Span(0, 1000))
    assert "Content-Range" not in values(reply)


def test_head_has_no_ranges() -> None:
    for text in ("bytes=0-9", "bytes=1000-"):
        reply = decide(ask("HEAD", range=text), STORED, SERVING)
        assert (reply.status, reply.span, values(reply)["Content-Length"]) == (200, None, "1000")


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ('"v1"', True),
        ('"v0"', False),
        ('W/"v1"', False),
        ('"v1", "v0"', False),
        ("*", False),
        ("v1", False),
        ("", False),
        (SAME, True),
        (BEFORE, False),
        (AFTER, False),
        ("Sunday, 06-Nov-94 08:49:37 GMT", False),
        ("yesterday", False),
    ],
)
@pytest.mark.parametrize("text", ["bytes=0-9", "bytes=1000-"])
def test_if_range_makes_a_range_count_only_for_the_same_file(text: str, condition: str, holds: bool) -> None:
    reply = answer(range=text, if_range=condition)
    part = 416 if text == "bytes=1000-" else 206
    assert reply.status == (part if holds else 200)


def test_if_range_takes_no_weak_tag_of_the_source() -> None:
    weak = replace(STORED, fields=(("ETag", 'W/"v1"'),))
    assert answer(weak, range="bytes=0-9", if_range='W/"v1"').status == 200
    assert answer(weak, range="bytes=0-9", if_range=OWN_TAG).status == 206


@pytest.mark.parametrize(
    ("date", "received", "status"),
    [
        (format_date(CHANGED), NOON, 200),
        (format_date(CHANGED + 1), NOON, 206),
        (None, CHANGED, 200),
        (None, CHANGED + 1, 206),
        ("yesterday", CHANGED + 1, 206),
    ],
)
def test_if_range_takes_a_date_a_second_before_the_answer_only(date: str | None, received: float, status: int) -> None:
    """Twice within a second a file could change without a trace in its date."""
    fields = (("Last-Modified", SAME), *((("Date", date),) if date else ()))
    representation = replace(STORED, fields=fields, received=received)
    assert answer(representation, range="bytes=0-9", if_range=SAME).status == status


def test_if_range_without_a_range_changes_nothing() -> None:
    assert answer(if_range='"v0"') == answer()


def test_file_of_unknown_size_is_answered_open_ended() -> None:
    growing = replace(STORED, size=None)
    for request in (ask(), ask(range="bytes=0-9"), ask(range="bytes=5000-")):
        reply = decide(request, growing, SERVING)
        assert (reply.status, reply.span, reply.open_ended) == (200, None, True)
        assert not {"Content-Length", "Content-Range", "Accept-Ranges"} & set(values(reply))
    head = decide(ask("HEAD"), growing, SERVING)
    assert (head.status, head.span, head.open_ended) == (200, None, False)
    assert answer(growing, if_none_match='"v1"').status == 304


@settings(deadline=None)
@given(
    st.integers(0, 50),
    st.one_of(
        st.builds("bytes={}-{}".format, st.integers(0, 60), st.integers(0, 60)),
        st.builds("bytes={}-".format, st.integers(0, 60)),
        st.builds("bytes=-{}".format, st.integers(0, 60)),
    ),
)
def test_bytes_answered_are_those_of_a_slice(size: int, text: str) -> None:
    body = bytes(range(size))
    reply = answer(replace(STORED, size=size), range=text)
    first, _, last = text.removeprefix("bytes=").partition("-")
    if first and last and int(last) < int(first):
        expected, status = body, 200
    elif first:
        expected, status = body[int(first) : int(last) + 1 if last else None], 206
    else:
        expected, status = body[max(0, size - int(last)) :], 206
    if not expected and status == 206:
        assert (reply.status, reply.span) == (416, None)
        assert values(reply)["Content-Range"] == f"bytes */{size}"
        return
    assert reply.span is not None
    assert body[reply.span.start : reply.span.stop] == expected
    assert reply.status == status
    assert values(reply)["Content-Length"] == str(len(expected))
    if status == 206:
        place = values(reply)["Content-Range"]
        assert place == f"bytes {expected[0]}-{expected[-1]}/{size}"


ONE = st.one_of(
    st.tuples(st.integers(0, 2000), st.integers(0, 2000)),
    st.tuples(st.integers(0, 2000), st.none()),
    st.tuples(st.none(), st.integers(0, 2000)),
)


def places(size: int, first: int | None, last: int | None) -> range:
    """Where the bytes of one range are: a slice of all places."""
    if first is None:
        return range(size)[max(0, size - (last or 0)) :]
    return range(size)[first:] if last is None else range(size)[first : last + 1]


@settings(deadline=None)
@given(st.sampled_from([0, 1, 50, 1500]), st.lists(ONE, min_size=2, max_size=12))
def test_the_bytes_of_several_ranges_are_those_of_slices(size: int, asked: list[tuple[int | None, int | None]]) -> None:
    body = (bytes(range(256)) * 6)[:size]
    text = " , ".join(f"{'' if first is None else first}-{'' if last is None else last}" for first, last in asked)
    reply = answer(replace(STORED, size=size), range=f"bytes={text}")
    if any(first is not None and last is not None and last < first for first, last in asked):
        assert (reply.status, reply.span) == (200, Span(0, size))
        return
    wanted = {at for first, last in asked for at in places(size, first, last)}
    if not wanted:
        assert reply.status == 416
        return
    assert reply.span is not None
    assert values(reply)["Content-Length"] == str(len(reply.span))
    spans = [piece for piece in reply.pieces if isinstance(piece, Span)] or [reply.span]
    sent = [at for span in spans for at in range(span.start, span.stop)]
    assert len(sent) == len(set(sent)), "a byte is sent twice"
    assert set(sent) == (wanted if reply.status == 206 else set(range(size)))
    assert len(reply.span) <= size
    if not reply.pieces:
        assert ("Content-Range" in values(reply)) == (reply.status == 206)
        return
    assert "Content-Range" not in values(reply)
    assert len(reply.span) == sum(len(piece) for piece in reply.pieces)
    message = b"".join(piece if isinstance(piece, bytes) else body[piece.start : piece.stop] for piece in reply.pieces)
    kind = values(reply)["Content-Type"]
    parsed = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + message, policy=email.policy.HTTP)
    assert [part["Content-Type"] for part in parsed.iter_parts()] == ["application/x-xz"] * len(spans)
    assert [part["Content-Range"] for part in parsed.iter_parts()] == [
        f"bytes {span.start}-{span.stop - 1}/{size}" for span in spans
    ]


def test_parts_are_sent_in_the_order_asked_for_and_gaps_are_left_out() -> None:
    reply = answer(range="bytes=800-809,0-9,11-19,5000-,805-820")
    assert [piece for piece in reply.pieces if isinstance(piece, Span)] == [Span(800, 821), Span(0, 10), Span(11, 20)]


def test_more_ranges_than_anybody_needs_are_answered_with_the_whole() -> None:
    large = replace(STORED, size=10**9)
    for number, status in ((256, 206), (257, 200)):
        assert answer(large, range="bytes=" + ",".join(f"{at}-{at}" for at in range(0, 2 * number, 2))).status == status


def test_lines_between_ranges_are_the_same_for_one_file_and_others_for_another() -> None:
    asked = "bytes=0-9,100-109"
    assert answer(range=asked) == answer(range=asked)
    kinds = {
        values(answer(serving=replace(SERVING, digest=digest), range=asked))["Content-Type"]
        for digest in (DIGEST, "cd" * 32, None)
    }
    assert len(kinds) == 3


# --- Age, stored fields, refusals ---------------------------------------------------------------------------------------


def test_age_counts_what_earlier_caches_counted() -> None:
    assert age(STORED, NOON) == 0
    assert age(STORED, NOON + 99.9) == 99
    assert age(replace(STORED, fields=(("Age", "600"),)), NOON + 30) == 630
    assert age(replace(STORED, fields=(("Age", "old"),)), NOON + 30) == 30


def test_age_counts_from_the_date_of_the_source_or_what_earlier_caches_say_if_that_is_more() -> None:
    old = replace(STORED, received=NOON + 500.5)
    assert age(old, NOON + 510) == 510
    assert age(replace(old, fields=(*FIELDS, ("Age", "600"))), NOON + 510) == 609
    assert age(replace(old, fields=(*FIELDS, ("Age", "60"))), NOON + 510) == 510
    assert age(replace(old, fields=(("Date", "then"),)), NOON + 510) == 9
    # A date has no fractions: what was made just now is not old, though the second has passed.
    assert age(replace(STORED, received=NOON + 1.2), NOON + 1.3) == 0
    assert values(answer(old, replace(SERVING, now=NOON + 700)))["Age"] == "700"


def test_age_is_never_below_zero() -> None:
    assert age(STORED, NOON - 3600) == 0
    assert age(replace(STORED, received=NOON - 3600), NOON - 3600) == 0


def test_all_of_a_sources_fields_are_kept_but_those_of_the_connection_the_client_the_host_and_the_message() -> None:
    kept = (
        ("content-type", "a/b"),
        ("ETAG", '"v"'),
        ("Cache-Control", "a"),
        ("Cache-Control", "b"),
        ("Link", "<x>"),
        ("Docker-Content-Digest", "sha256:1"),
        ("X-Repo-Commit", "2"),
        ("X-Checksum-Sha1", "3"),
        ("Access-Control-Allow-Origin", "*"),
        ("Cache-Status", "other; hit"),
        ("Via", "1.1 other"),
    )
    connection = ("Connection", "Transfer-Encoding", "Keep-Alive", "Trailer", "Upgrade", "TE", "Proxy-Authenticate")
    client = ("Set-Cookie", "WWW-Authenticate", "Authentication-Info", "Clear-Site-Data")
    host = ("Server", "Alt-Svc", "Strict-Transport-Security", "X-Accel-Redirect", "X-Sendfile")
    message = ("Content-Length", "Content-Range", "Accept-Ranges", "Content-MD5", "Digest", "Repr-Digest", "Content-Digest")
    others = (*connection, *client, *host, *message)
    assert kept_fields((*kept, *((name, "x") for name in others))) == kept


def test_a_field_that_connection_names_is_not_kept() -> None:
    said = (
        ("Connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("X-Other", "2"),
        ("connection", "third,Cache-Control"),
        ("Third", "3"),
    )
    assert kept_fields((*said, ("Cache-Control", "no-store"))) == (("X-Other", "2"), ("Cache-Control", "no-store"))


def test_of_too_many_fields_the_largest_are_dropped_that_are_not_needed() -> None:
    many = tuple((f"X-{number:02}", "x" * (100 + number)) for number in range(90))
    tag = ("ETag", '"v"')
    kept = kept_fields((*many, tag))
    assert kept == (*many[: len(kept) - 1], tag)
    assert 8192 - 200 < sum(len(name) + len(value) for name, value in kept) <= 8192
    assert kept_fields((*many[:50], tag)) == (*many[:50], tag)
    small, long = ("X-Repo-Commit", "abc"), ("Link", "x" * 3000)
    assert kept_fields((("Content-Security-Policy", "x" * 9000), small, tag)) == (small, tag)
    assert kept_fields((("X-A", "x" * 2500), long, ("X-B", "x" * 6000), small)) == (("X-A", "x" * 2500), long, small)


def test_confirmations_that_say_more_each_time_make_no_head_of_any_size() -> None:
    stored = STORED
    for number in range(50):
        said = replace(STORED, fields=((f"X-{number}", "x" * 1000),))
        stored = refreshed(stored, said)
        assert sum(len(name) + len(value) for name, value in stored.fields) < 9000
    assert stored.get("etag") == STORED.get("etag")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("a/b ", "a/b"),
        ("\ta/b", "a/b"),
        ("a/b;\r\n c=d", "a/b; c=d"),
        ("a/b;\n\t\tc=d", "a/b; c=d"),
        ("a/b; \r\n  c=d", "a/b; c=d"),
        ("a\tb", "a\tb"),
        ("\xe9", "\xe9"),
        ("", ""),
        ("a/b\r\nX: y", None),
        ("a/b\rX", None),
        ("a\0b", None),
        ("a\x7f", None),
        ("a\x1b[1m", None),
    ],
)
def test_stored_value_can_be_sent_again_on_one_line(value: str, kept: str | None) -> None:
    """A value that no server sends would turn every later hit into an error, or into two answers."""
    assert kept_fields((("Content-Type", value),)) == (() if kept is None else (("Content-Type", kept),))


def test_confirmation_renews_how_long_the_answer_is_good() -> None:
    others = ("X-Repo-Commit", "1"), ("X-Served-By", "a")
    stored = replace(STORED, fields=(*FIELDS, *others, ("Cache-Control", "max-age=5"), ("Age", "7"), ("Expires", "0")))
    said: Fields = (
        ("x-served-by", "b"),
        ("Date", format_date(NOON + 500)),
        ("cache-control", "max-age=6"),
        ("Cache-Control", "public"),
        ("ETag", '"v2"'),
        ("Content-Type", "text/plain"),
        ("Set-Cookie", "a=b"),
    )
    confirmed = Representation(said, 0, "http://other.example/f", NOON + 500)
    assert refreshed(stored, confirmed) == Representation(
        (
            ("Content-Type", "application/x-xz"),
            ("Last-Modified", format_date(CHANGED)),
            ("ETag", '"v1"'),
            ("X-Repo-Commit", "1"),
            ("Expires", "0"),
            ("x-served-by", "b"),
            ("Date", format_date(NOON + 500)),
            ("cache-control", "max-age=6"),
            ("Cache-Control", "public"),
        ),
        1000,
        "http://mirror.example/f",
        NOON + 500,
    )


def test_problem_says_what_went_wrong_in_one_line() -> None:
    reply, body = problem(404, "no source has it: café", SERVING)
    assert body == "no source has it: café\n".encode()
    assert (reply.status, reply.span) == (404, Span(0, len(body)))
    assert values(reply) == {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(body)),
        "X-Content-Type-Options": "nosniff",
        "Cache-Status": "package-cache; hit",
        "Via": "1.1 cache.example",
    }


def test_refused_method_is_told_the_allowed_ones() -> None:
    reply, _ = problem(405, "no", SERVING)
    assert values(reply)["Allow"] == "GET, HEAD"


def test_what_a_source_without_a_clock_confirms_is_as_new_as_its_arrival() -> None:
    stored = Representation((("ETag", '"a"'), ("Date", format_date(1000)), ("Cache-Control", "max-age=60")), 5, "s", 1000.0)
    known = refreshed(stored, Representation((("Cache-Control", "max-age=60"),), None, "s", 9000.0))
    assert good_until(known) == 9060.0
