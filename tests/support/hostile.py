"""Requests of hostile and of merely odd clients, each with what the RFCs demand of a server that gets it.

A table and nothing else. `Case.statuses` are those the product may answer with, under both of its servers; `gthread` those
of a plain Gunicorn, where its own parser answers before the application is asked and the RFC leaves the choice. Behind each
request stands another one: after a request that has no single reading, or whose body nobody reads, that must never be taken
for one (`ends`); after an odd but valid request it must be answered.
"""

from collections.abc import Iterator
from dataclasses import dataclass

FILE = "/file-1.tar"
"""A target that is in the cache."""
SMUGGLED = b"GET /smuggled-1.tar HTTP/1.1\r\nHost: a\r\n\r\n"
"""What a hostile client hides behind a request. Its target is not in the cache, so a source would be asked for it."""
FOLLOWING = b"GET /file-1.tar HTTP/1.1\r\nHost: a\r\n\r\n"
"""What a client sends behind a request that is done with."""


@dataclass(frozen=True)
class Case:
    """One request. `rule` is what the RFCs say of it; `ends` whether the connection must end, None if either will do."""

    name: str
    data: bytes
    rule: str
    statuses: frozenset[int]
    ends: bool | None = True
    gthread: frozenset[int] = frozenset()
    gthread_persists: bool = False
    """Whether a plain Gunicorn leaves the connection open all the same."""

    def allowed(self, host: str) -> frozenset[int]:
        """The statuses that it may have under one way to run the product."""
        return self.gthread if host == "gthread" and self.gthread else self.statuses

    def must_end(self, host: str) -> bool | None:
        """Whether the connection must end, under one way to run the product; None if either will do."""
        return None if host == "gthread" and self.gthread_persists else self.ends

    def __str__(self) -> str:
        return self.name


def head(*lines: bytes, start: bytes = b"GET /file-1.tar HTTP/1.1", host: bytes | None = b"Host: a") -> bytes:
    """A head of these lines."""
    named = (*([host] if host is not None else []), *lines)
    return b"".join(line + b"\r\n" for line in (start, *named, b""))


def asking(target: bytes, method: bytes = b"GET") -> bytes:
    """A plain request for a target."""
    return method + b" " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"


def refused(
    rule: str, cases: dict[str, bytes], *statuses: int, gthread: dict[str, set[int]] | None = None
) -> Iterator[Case]:
    """Requests that are not answered with what they ask for; 400, where nothing else is said."""
    for name, data in cases.items():
        yield Case(name, data, rule, frozenset(statuses or (400,)), True, frozenset((gthread or {}).get(name, ())))


def answered(rule: str, cases: dict[str, bytes], *statuses: int, ends: bool | None = False) -> Iterator[Case]:
    """Requests that are answered, with 200 where nothing else is said."""
    for name, data in cases.items():
        yield Case(name, data, rule, frozenset(statuses or (200,)), ends)


CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
FIVE = b"Content-Length: 5"
POST = b"POST /file-1.tar HTTP/1.1"
OLD = b"GET /file-1.tar HTTP/1.0"


def coded(value: bytes) -> bytes:
    return head(b"Transfer-Encoding: " + value) + CHUNKS


def sized(value: bytes) -> bytes:
    return head(b"Content-Length: " + value) + b"hello"


# -- framing

TWO_READINGS = "RFC 9112, 6.1 and 6.3: both a length and a coding ought to be an error; the connection is closed"
BOTH = refused(
    TWO_READINGS,
    {
        "length and coding": head(FIVE, CHUNKED) + CHUNKS,
        "coding and length": head(CHUNKED, FIVE) + CHUNKS,
        "CL.TE: the chunks end before the length": head(b"Content-Length: 6", CHUNKED, start=POST) + b"0\r\n\r\nG",
        "CL.TE with a request inside": head(b"Content-Length: 50", CHUNKED, start=POST) + b"0\r\n\r\n",
        "TE.CL: the length ends before the chunks": head(b"Content-Length: 4", CHUNKED, start=POST)
        + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
        "a coding and no length to speak of": head(b"Content-Length: 0", CHUNKED) + CHUNKS,
        "a tab before the coding, and a length": head(b"Transfer-Encoding:\tchunked", FIVE) + CHUNKS,
        "a coding in capitals, and a length": head(b"TRANSFER-ENCODING: CHUNKED", FIVE) + CHUNKS,
        "a blank behind the coding, and a length": head(b"Transfer-Encoding: chunked ", FIVE) + CHUNKS,
        "a coding among other fields, and a length": head(b"X: 1", CHUNKED, b"Y: 2", FIVE) + CHUNKS,
        "a coding, and a signed length": head(b"Content-Length: +50", CHUNKED, start=POST) + b"0\r\n\r\n",
        "a coding, and a length that is none": head(b"Content-Length: 50x", CHUNKED, start=POST) + b"0\r\n\r\n",
        "a folded coding, and a length": head(b"Transfer-Encoding:", b" chunked", b"Content-Length: 50", start=POST)
        + CHUNKS,
        "two codings, and a length": head(CHUNKED, b"Transfer-Encoding: identity", b"Content-Length: 50") + CHUNKS,
    },
)

NO_LENGTH = "RFC 9112, 6.3: an invalid Content-Length is 400, and the connection is closed"
LENGTHS = refused(
    NO_LENGTH,
    {
        "two lengths": head(b"Content-Length: 0", FIVE) + b"hello",
        "two lengths, the larger one first": head(FIVE, b"Content-Length: 0") + b"hello",
        "one length twice": head(FIVE, FIVE) + b"hello",
        "one length twice in different case": head(FIVE, b"content-LENGTH: 5") + b"hello",
        "a list of lengths": sized(b"5, 5"),
        "a list of different lengths": sized(b"5,0"),
        "a list of one": sized(b"5,"),
        "a signed length": sized(b"+5"),
        "a negative length": sized(b"-1"),
        "a very negative length": sized(b"-123456789123456789123456789"),
        "less than nothing": sized(b"-0"),
        "a hexadecimal length": sized(b"0x5"),
        "an octal length": sized(b"0o5"),
        "hexadecimal digits": sized(b"a"),
        "a length of two numbers": sized(b"5 5"),
        "a length with an underscore": sized(b"1_0"),
        "a fraction": sized(b"5.0"),
        "an exponent": sized(b"5e0"),
        "a length of other digits": sized(b"\xb2"),
        "a length beyond counting": sized(b"9" * 5000),
        "a length of twenty digits": sized(b"18446744073709551621"),
        "an empty length": sized(b""),
        "a length of letters": sized(b"five"),
        "a length and a parameter": sized(b"5;5"),
        "a length in quotes": sized(b'"5"'),
        "a vertical tab before the length": sized(b"\x0b5"),
        "NUL behind the length": sized(b"5\x00"),
    },
)
ZEROS = refused(
    "RFC 9110, 8.6: legal, but some programs count by eights; refusing it leaves one reading",
    {"a zero before the length": sized(b"05"), "two zeros": head(b"Content-Length: 00"), "an octal trap": sized(b"0200")},
)

CODINGS = refused(
    "RFC 9112, 6.1 and 6.3: a coding that is not understood is 501 or 400, one whose last is not chunked 400; both close",
    {
        "an unknown coding": coded(b"xchunked"),
        "an unknown coding before": coded(b"cow, chunked"),
        "an unknown coding behind": coded(b"chunked, cow"),
        "an unknown coding in a second field": head(CHUNKED, b"Transfer-encoding: cow") + CHUNKS,
        "chunked twice": coded(b"chunked, chunked"),
        "chunked in two fields": head(CHUNKED, CHUNKED) + CHUNKS,
        "chunked and identity": head(CHUNKED, b"Transfer-Encoding: identity") + CHUNKS,
        "identity and chunked": coded(b"identity, chunked"),
        "identity": head(b"Transfer-Encoding: identity"),
        "gzip": coded(b"gzip"),
        "gzip and chunked": coded(b"gzip, chunked"),
        "chunked and gzip": coded(b"chunked, gzip"),
        "chunked with a parameter": coded(b"chunked;a=b"),
        "chunked with a weight": coded(b"chunked;q=1"),
        "chunked in quotes": coded(b'"chunked"'),
        "chunked in single quotes": coded(b"'chunked'"),
        "half a word": coded(b"chunk"),
        "two words": coded(b"chunked chunked"),
        "a comma behind": coded(b"chunked,"),
        "a comma before": coded(b",chunked"),
        "an empty coding": coded(b""),
        "a vertical tab before": coded(b"\x0bchunked"),
        "a form feed behind": coded(b"chunked\x0c"),
        "NUL behind": coded(b"chunked\x00"),
        "a no-break space before": coded(b"\xa0chunked"),
        "a next-line character before": coded(b"\x85chunked"),
        "a letter of another alphabet": coded(b"chun\xc4\xb7ed"),
        "chunked in HTTP/1.0": head(CHUNKED, start=OLD) + CHUNKS,
    },
    gthread={
        name: {400, 501}
        for name in (
            *("an unknown coding", "an unknown coding before", "an unknown coding behind", "half a word", "two words"),
            *("an unknown coding in a second field", "chunked with a parameter", "chunked with a weight", "a comma behind"),
            *("chunked in quotes", "chunked in single quotes", "a comma before", "an empty coding"),
            *("a no-break space before", "a next-line character before", "a letter of another alphabet"),
        )
    },
)

HIDDEN = refused(
    "RFC 9112, 2.2, 5.1 and 5.2: blanks before a colon, folded lines, bare CR and other control characters are 400",
    {
        "a blank before the colon of a coding": head(b"Transfer-Encoding : chunked") + CHUNKS,
        "a tab before the colon of a length": head(b"Content-Length\t: 5") + b"hello",
        "a blank before the colon of a second length": head(FIVE, b"Content-Length : 0") + b"hello",
        "a blank within the name of a coding": head(b"Transfer Encoding: chunked") + CHUNKS,
        "a tab within the name of a length": head(b"Content\tLength: 5") + b"hello",
        "a vertical tab before the name of a coding": head(b"\x0bTransfer-Encoding: chunked") + CHUNKS,
        "a line feed within the name of a coding": head(b"Transfer-Encoding\n: chunked") + CHUNKS,
        "a carriage return within the name of a coding": head(b"Transfer-Encoding\r: chunked") + CHUNKS,
        "NUL within the name of a coding": head(b"Transfer-Encoding\x00: chunked") + CHUNKS,
        "a folded coding": head(b"Transfer-Encoding:", b" chunked") + CHUNKS,
        "a folded field": head(b"X-Field: 1", b"\tContent-Length: 5") + b"hello",
        "a fold of blanks": head(b"X-Field: 1", b" ", b"Content-Length: 5") + b"hello",
        "a fold behind the request line": head(b"Content-Length: 5", host=b" Host: a") + b"hello",
        "a coding behind a bare line feed": head(b"X: a\nTransfer-Encoding: chunked") + CHUNKS,
        "a coding behind a bare carriage return": head(b"X: a\rTransfer-Encoding: chunked") + CHUNKS,
        "a request behind bare line feeds": b"GET /file-1.tar HTTP/1.1\r\nHost: a\n\n" + SMUGGLED,
        "a line feed, a carriage return and a line feed": b"GET /file-1.tar HTTP/1.1\r\nHost: a\r\n\n\r\n\r\n",
        "a field behind a bare carriage return": b"GET /file-1.tar HTTP/1.1\r\nHost: a\r\n\rX: y\r\n\r\n",
    },
)

CLOSES = "RFC 9112, 9.3 and 9.6: a server may close the connection behind any answer; here it does behind each content"
BODIES = answered(
    CLOSES,
    {
        "CL.0: a request for a body": head(b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED,
        "a body of five bytes": sized(b"5"),
        "blanks around a length": head(b"Content-Length:  5 ") + b"hello",
        "a body that is longer than announced": sized(b"5") + b"more",
        "a body that begins a request": head(b"Content-Length: %d" % len(SMUGGLED[:-2])) + SMUGGLED[:-2],
        "a body that does not come": head(b"Content-Length: 99999999"),
        "a body that fills every buffer": head(b"Content-Length: 65536") + bytes(65536),
        "a body that is longer than what is read": head(b"Content-Length: 300000") + bytes(300000),
        "a chunked body": coded(b"chunked"),
        "a chunked body in capitals": coded(b"CHUNKED"),
        "a chunked body that is a request": head(CHUNKED) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
        "a body that may be waited for": head(FIVE, b"Expect: 100-continue"),
        "a body that comes unasked": head(FIVE, b"Expect: 100-continue") + b"hello",
        "a body and an offer to upgrade": head(FIVE, b"Connection: Upgrade", b"Upgrade: h2c") + b"hello",
        **{
            f"chunks: {name}": head(CHUNKED) + chunks
            for name, chunks in {
                "nothing": b"0\r\n\r\n",
                "two": b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
                "a size in capitals": b"A\r\nhelloworld\r\n0\r\n\r\n",
                "zeros before the size": b"0000000005\r\nhello\r\n0\r\n\r\n",
                "several zeros": b"5\r\nhello\r\n000\r\n\r\n",
                "more than is read": b"FFFFFFF\r\n" + bytes(100_000),
                "thousands": b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n",
                "an extension": b"5;a=b\r\nhello\r\n0\r\n\r\n",
                "extensions without a value": b"5;a;b\r\nhello\r\n0;c\r\n\r\n",
                "blanks around an extension": b"5 ; a = b\r\nhello\r\n0\r\n\r\n",
                "a quoted extension": b'5;a="0;\\"\xe9"\r\nhello\r\n0\r\n\r\n',
                "a trailer": b"5\r\nhello\r\n0\r\nX-Digest: a\r\nY:\r\n\r\n",
            }.items()
        },
    },
    ends=True,
)
WAITING = (
    Case(
        "a chunked body that may be waited for",
        head(CHUNKED, b"Expect: 100-continue"),
        "RFC 9110, 10.1.1: the answer comes in the place of 100 (Continue), or behind it and the content",
        frozenset({200}),
        gthread=frozenset({200, 400}),
    ),
)
BROKEN_CHUNKS = "RFC 9112, 2.2, 7.1 and 7.1.1: what is not framed as the grammar has it is 400, once it is read"
CHUNKS_BROKEN = {
    f"chunks: {name}": chunks
    for name, chunks in {
        "no size": b"\r\nhello\r\n0\r\n\r\n",
        "a size of letters": b"Z\r\nhello\r\n0\r\n\r\n",
        "a negative size": b"-1\r\nhello\r\n0\r\n\r\n",
        "a signed size": b"+5\r\nhello\r\n0\r\n\r\n",
        "a signed size behind a valid one": b"5\r\nhello\r\n+a\r\n0123456789\r\n0\r\n\r\n",
        "a signed end": b"+0\r\n\r\n",
        "a size with a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
        "a size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
        "a blank before the size": b" 5\r\nhello\r\n0\r\n\r\n",
        "a blank behind the size": b"5 \r\nhello\r\n0\r\n\r\n",
        "a size beyond counting": b"FFFFFFFFFFFFFFFFF0\r\n" + bytes(100_000),
        "no line end behind the data": b"5\r\nhello0\r\n\r\n",
        "more data than announced": b"5\r\nhello more\r\n0\r\n\r\n",
        "bare line feeds": b"5\nhello\n0\n\n",
        "a bare line feed behind the data": b"5\r\nhello\n0\r\n\r\n",
        "a bare line feed at the end": b"5\r\nhello\r\n0\r\n\n",
        "a bare carriage return behind the size": b"5\rhello\r\n0\r\n\r\n",
        "an empty extension": b"5;\r\nhello\r\n0\r\n\r\n",
        "an extension that is no token": b"5;a[=b\r\nhello\r\n0\r\n\r\n",
        "an extension without its value": b"5;a=\r\nhello\r\n0\r\n\r\n",
        "a line end in a quoted extension": b'5;a="\r\n0\r\n\r\n"\r\nhello\r\n0\r\n\r\n',
        "a line feed in an extension": b"5;a\nhello\r\n0\r\n\r\n",
        "a line feed for an extension": b"5;\nhello\r\n0\r\n\r\n",
        "a carriage return in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        "NUL in an extension": b"5;\x00\r\nhello\r\n0\r\n\r\n",
        "a long extension": b"5;" + b"a" * 60000 + b"\r\nhello\r\n0\r\n\r\n",
        "a longer extension": b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n",
        "no last chunk": b"5\r\nhello\r\n",
        "a bare line feed in the trailer": b"5\r\nhello\r\n0\r\nX: y\n\r\n\r\n",
        "a folded trailer": b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
        "an endless trailer": b"0\r\n" + b"X: y\r\n" * 5000,
    }.items()
}
BROKEN_BODIES = refused(
    BROKEN_CHUNKS,
    {name: head(CHUNKED) + chunks for name, chunks in CHUNKS_BROKEN.items()},
    gthread={"chunks: a size beyond counting": {200, 400}},
)
BROKEN_FORMS = refused(
    BROKEN_CHUNKS,
    {f"a form of {name}": head(CHUNKED, start=POST) + chunks for name, chunks in CHUNKS_BROKEN.items()},
    gthread={"a form of chunks: a size beyond counting": {400, 405}},
)
TRAILERS = {
    f"{name} in the trailer": head(CHUNKED) + b"5\r\nhello\r\n0\r\n" + field + b"\r\n\r\n"
    for name, field in {
        "a length": b"Content-Length: 50",
        "a coding": b"Transfer-Encoding: chunked",
        "a host": b"Host: b",
        "a type": b"Content-Type: text/html",
        "a password": b"Authorization: Basic YTpi",
    }.items()
}
LATE = refused(
    "RFC 9110, 6.5.1: what says how to read a request cannot stand behind it; it may be ignored",
    TRAILERS,
    gthread={name: {200, 400} for name in TRAILERS},
)
TYPES = refused(
    "RFC 9110, 5.3 and 8.3: a field that is no list stands once",
    {
        "two types": head(b"Content-Type: text/plain", b"Content-Type: text/html"),
        "one type twice": head(b"Content-Type: text/plain", b"Content-type: text/plain", start=POST),
    },
    gthread={"two types": {200, 400}, "one type twice": {400, 405}},
)
REJECTED_BODIES = answered(
    f"RFC 9110, 9.1: what is understood and not served is 405, with Allow. {CLOSES}",
    {
        "a form": head(FIVE, start=POST) + b"hello",
        "a chunked form": head(CHUNKED, start=POST) + CHUNKS,
        "a form with a trailer": head(CHUNKED, start=POST) + b"5\r\nhello\r\n0\r\nX-Digest: a\r\n\r\n",
        "a form that is longer than what is read": head(b"Content-Length: 100000", start=POST) + bytes(100_000),
        "a form that does not come": head(b"Content-Length: 100000", start=POST) + b"hello",
        "a form that may be waited for": head(FIVE, b"Expect: 100-continue", start=POST),
        "a range of a form": head(FIVE, b"Range: bytes=0-10", start=POST) + b"hello",
        "an upload": head(b"Content-Length: 5", start=b"PUT /file-1.tar HTTP/1.1") + b"hello",
        "an echo with a body": head(FIVE, start=b"TRACE /file-1.tar HTTP/1.1") + b"hello",
        "a form in HTTP/1.0": head(FIVE, b"Expect: 100-continue", start=b"POST /file-1.tar HTTP/1.0") + b"hello",
    },
    405,
    ends=True,
)
OPTIONS_BODY = answered(
    CLOSES, {"options with a body": head(FIVE, start=b"OPTIONS /file-1.tar HTTP/1.1") + b"hello"}, 405, ends=True
)

EXPECTATIONS = refused(
    "RFC 9110, 10.1.1: an expectation that cannot be met may be answered with 417",
    {
        "an unmet expectation": head(b"Expect: 200-ok"),
        "an expectation among others": head(b"Expect: 100-continue, 200-ok"),
        "two expectations": head(b"Expect: 100-continue", b"Expect: x"),
    },
    417,
)

# -- the request line

LINES = refused(
    "RFC 9112, 2.2 and 3: an invalid request line is 400, and is not mended",
    {
        "bare line feeds": b"GET /file-1.tar HTTP/1.1\nHost: a\n\n",
        "a bare line feed behind the request line": b"GET /file-1.tar HTTP/1.1\nHost: a\r\n\r\n",
        "a bare line feed behind a field": b"GET /file-1.tar HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "bare carriage returns": b"GET /file-1.tar HTTP/1.1\rHost: a\r\r\r\n\r\n",
        "a carriage return before the end": b"GET /file-1.tar HTTP/1.1\r\r\nHost: a\r\n\r\n",
        "two empty lines first": b"\r\n\r\n" + head(),
        "a blank first": b" " + head(),
        "a line of blanks first": b"   \r\n" + head(),
        "a byte order mark first": b"\xef\xbb\xbf" + head(),
        "NUL first": b"\x00" + head(),
        "words first": b"Extra line" + head(),
        "two blanks behind the method": head().replace(b" ", b"  ", 1),
        "a tab behind the method": head().replace(b" ", b"\t", 1),
        "a vertical tab behind the method": head().replace(b" ", b"\x0b", 1),
        "two blanks before the version": head().replace(b" HTTP", b"  HTTP"),
        "a blank behind the version": head().replace(b"1.1\r", b"1.1 \r"),
        "NUL behind the version": head().replace(b"1.1\r", b"1.1\x00\r"),
        "a fourth word": head().replace(b"1.1\r", b"1.1 more\r"),
        "two versions": head().replace(b"1.1\r", b"1.1 HTTP/1.1\r"),
        "no version": b"GET /file-1.tar\r\nHost: a\r\n\r\n",
        "a blank for a version": b"GET /file-1.tar \r\nHost: a\r\n\r\n",
        "HTTP/0.9, as it was written": b"GET /file-1.tar\r\n",
        "no target": b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
        "an empty target": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
        "no method": b" /file-1.tar HTTP/1.1\r\nHost: a\r\n\r\n",
        "only a word": b"GET\r\n\r\n",
        "a method on a line of its own": b"GET\r\n/file-1.tar HTTP/1.1\r\nHost: a\r\n\r\n",
        "a lower-case protocol": head().replace(b"HTTP", b"http"),
        "another protocol": head().replace(b"HTTP", b"ICAP"),
        "yet another protocol": head().replace(b"HTTP/1.1", b"RTSP/1.0"),
        "a long version": head(start=b"GET /file-1.tar HTTP/1.10"),
        "zeros in the version": head(start=b"GET /file-1.tar HTTP/01.01"),
        "a version without a dot": head(start=b"GET /file-1.tar HTTP/11"),
        "half a version": head(start=b"GET /file-1.tar HTTP/1"),
        "a blank in the version": head(start=b"GET /file-1.tar HTTP/ 1.1"),
        "a signed version": head(start=b"GET /file-1.tar HTTP/+1.1"),
        "a version of other digits": head(start=b"GET /file-1.tar HTTP/1.\xb9"),
        "a method that is no token": head().replace(b"GET", b"G<T"),
        "a method of control characters": head().replace(b"GET", b"G\x1bT"),
        "a method of other letters": head().replace(b"GET", b"G\xc9T"),
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)) + b"\r\n\r\n",
        "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "the name of a client in front": b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 80\r\n" + head(),
        "garbage": bytes(range(256)) + b"\r\n\r\n",
    },
)
VERSIONS = refused(
    "RFC 9110, 2.5 and 15.6.6: another major version is 505",
    {
        "HTTP/0.9": head(start=b"GET /file-1.tar HTTP/0.9"),
        "HTTP/2.0": head(start=b"GET /file-1.tar HTTP/2.0"),
        "HTTP/9.9": head(start=b"GET /file-1.tar HTTP/9.9"),
        "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    },
    505,
    gthread={name: {400, 505} for name in ("HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "HTTP/2 with prior knowledge")},
)
METHODS = answered(
    "RFC 9110, 9.1: methods are case-sensitive; one that is not known is 501, or 405 with Allow",
    {
        "a lower-case method": asking(b"/file-1.tar", b"get"),
        "a mixed-case method": asking(b"/file-1.tar", b"Get"),
        "an unknown method": asking(b"/file-1.tar", b"FOOBAR"),
        "a method of punctuation": asking(b"/file-1.tar", b"!#$%&'*+"),
        "a method of a hundred letters": asking(b"/file-1.tar", b"A" * 100),
        "a purge": asking(b"/file-1.tar", b"PURGE"),
        "an echo": asking(b"/file-1.tar", b"TRACE"),
        "a deletion": asking(b"/file-1.tar", b"DELETE"),
        "a form of nothing": head(b"Content-Length: 0", start=POST),
        "a form without a body": head(start=POST),
        "a web socket by the wrong method": head(b"Connection: Upgrade", b"Upgrade: websocket", start=POST),
    },
    *(400, 405, 501),
    ends=None,
)
TUNNELS = refused(
    "RFC 9110, 9.3.6, and RFC 9931: who refuses CONNECT closes the connection, and reads nothing behind it",
    {
        "a tunnel": b"CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: elsewhere.example:443\r\n\r\n",
        "a tunnel to a port of this machine": asking(b"127.0.0.1:22", b"CONNECT"),
        "a tunnel to a file": asking(b"/file-1.tar", b"CONNECT"),
        "a tunnel to nowhere": asking(b"*", b"CONNECT"),
    },
    *(400, 405, 501),
)

# -- Host

NO_HOST = "RFC 9112, 3.2: a missing, repeated or invalid Host is 400"
HOSTS = refused(
    NO_HOST,
    {
        "none": head(host=None),
        "none in absolute form": b"GET http://127.0.0.1/file-1.tar HTTP/1.1\r\n\r\n",
        "none, but a length": head(FIVE, host=None) + b"hello",
        "two": head(b"Host: b"),
        "one twice": head(b"Host: a"),
        "two of different case": head(b"HOST: b"),
        "two, one of them empty": head(b"Host:"),
        "two in HTTP/1.0": head(b"Host: b", start=OLD),
        "an odd one in HTTP/1.0": head(host=b"Host: a b", start=OLD),
        **{
            name: head(host=b"Host: " + value)
            for name, value in {
                "an empty one": b"",
                "blanks": b"  \t ",
                "a list": b"a, b",
                "a list without a blank": b"a,b",
                "a path": b"a/b",
                "a query": b"a?b",
                "a fragment": b"a#b",
                "a URL": b"http://a",
                "two slashes": b"//a",
                "a user": b"user@a",
                "a user and a password": b"user:password@a:80",
                "a blank inside": b"a b",
                "a tab inside": b"a\tb",
                "NUL": b"a\x00b",
                "letters for a port": b"a:b",
                "a negative port": b"a:-1",
                "a signed port": b"a:+80",
                "a blank in front of the port": b"a: 80",
                "a port beyond the last one": b"a:65536",
                "a port beyond counting": b"a:" + b"9" * 5000,
                "two ports": b"a:1:2",
                "only a port": b":80",
                "half an address": b"[::1",
                "the other half": b"::1]",
                "an address without brackets": b"::1",
                "an address that is none": b"[:::::]",
                "an address with a zone": b"[fe80::1%eth0]",
                "an address and more": b"[::1]a",
                "an address of dots": b"[...]",
                "empty brackets": b"[]",
                "a backslash": b"a\\b",
                "markup": b"<a>",
                "a quotation mark": b'a"',
                "other letters": b"\xc3\xa9",
                "half an escape": b"a%4",
                "an escape that is none": b"a%zz",
                "a field in it": b"a\rSet-Cookie: b",
            }.items()
        },
    },
)

# -- fields

FIELDS = refused(
    "RFC 9110, 5.1 and 5.5, RFC 9112, 5: names are tokens, values have no control characters; else the message is invalid",
    {
        "a field without a colon": head(b"Lonely"),
        "a field without a name": head(b": value"),
        "a blank for a name": head(b" : value"),
        "a blank in a name": head(b"X Field: value"),
        "a name that is no token": head(b"X(Field): value"),
        "brackets in a name": head(b"X-Invalid[]: value"),
        "a slash in a name": head(b"X/Field: value"),
        "a quotation mark in a name": head(b'"X-Field": value'),
        "a name of other letters": head(b"X-F\xefeld: value"),
        "NUL in a name": head(b"X\x00Field: value"),
        "NUL in a value": head(b"X-Field: a\x00b"),
        "a bell in a value": head(b"X-Field: test\x07"),
        "a backspace in a value": head(b"X-Field: a\x08b"),
        "an escape character in a value": head(b"X-Field: \x1b[2J"),
        "an escape character in the name of the client": head(b"User-Agent: \x1b]0;title\x07"),
        "a second line in the name of the client": head(b"User-Agent: a\rGET /forged HTTP/1.1"),
        "DEL in a value": head(b"X-Field: a\x7fb"),
        "a form feed for a value": head(b"X-Field: \x0c"),
    },
)
TOO_MUCH = refused(
    "RFC 6585, 5, and RFC 9110, 5.4: more fields or larger ones than are read are 431",
    {
        "too many fields": head(*(b"X-%d: 1" % number for number in range(150))),
        "far too many fields": head(*(b"X-%d: 1" % number for number in range(10000))),
        "too large a field": head(b"X-Field: " + b"a" * 60000),
        "too long a name": head(b"X" * 100_000 + b": a"),
        "a large field that never ends": head()[:-2] + b"X-Field: " + b"a" * 200_000,
    },
    431,
)
MUCH = (
    Case(
        "many large fields",
        head(*(b"X-%d: " % number + b"a" * 1000 for number in range(90))),
        "RFC 6585, 5: how much is too much is for the server to say; Gunicorn reads up to 800 KiB",
        frozenset({431}),
        gthread=frozenset({200, 431}),
        gthread_persists=True,
    ),
)
ENOUGH = tuple(
    Case(
        name,
        data,
        "RFC 9112, 3, and RFC 6585, 5: what is large, and not too large; Gunicorn's own limits are lower",
        frozenset({200}),
        ends=False,
        gthread=frozenset({200, 414, 431}),
        gthread_persists=True,
    )
    for name, data in {
        "a line of eight thousand bytes": asking(b"/" + b"./" * 3985 + b"file-1.tar"),
        "a thousand cookies": head(b"Cookie: " + b"; ".join(b"k%d=v%d" % (at, at) for at in range(1000))),
    }.items()
)
TOO_LONG = refused(
    "RFC 9110, 15.5.15: a longer target than is read is 414; RFC 9112, 3: lines of 8000 bytes should be read",
    {
        "a long target": asking(b"/" + b"a" * 8100),
        "a long query": asking(b"/file-1.tar?" + b"a" * 8100),
        "a target that grows": asking(b"/" + b"|" * 4000),
        "a longer target": asking(b"/" + b"a" * 20000),
        "a target without an end": b"GET /" + b"a" * 100_000,
        "a host of a hundred thousand letters": asking(b"http://" + b"a" * 100_000),
    },
    414,
)
NO_LINE = refused(
    "RFC 9112, 3: what is no request line, however long, is 400",
    {
        "a method without an end": b"A" * 100_000 + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
        "a flood of NUL": bytes(100_000),
        "a flood of empty lines": b"\r\n" * 50_000,
        "a flood of line feeds": b"\n" * 100_000,
        "a flood of blanks": b" " * 100_000,
    },
    gthread={"a method without an end": {400, 414}, "a flood of NUL": {400, 414}, "a flood of blanks": {400, 414}},
)

# -- targets

CLIMBS = refused(
    "RFC 3986, 5.2.4 and 6.2.2: no spelling of a dot segment leads above the root, and none is hidden from a source",
    {
        spelling.decode("latin-1"): asking(spelling)
        for spelling in (
            *(b"/..", b"/../file-1.tar", b"/./../file-1.tar", b"/a/../../file-1.tar", b"//../../../file-1.tar"),
            *(
                b"/%2e%2e/file-1.tar",
                b"/%2E%2E/file-1.tar",
                b"/%2E./file-1.tar",
                b"/.%2e/file-1.tar",
                b"/a/%2e%2e/%2e%2e/file-1.tar",
            ),
            *(
                b"/..%2ffile-1.tar",
                b"/..%2Ffile-1.tar",
                b"/%2e%2e%2ffile-1.tar",
                b"/a%2f..%2f..%2ffile-1.tar",
                b"/a%2F.%2Ffile-1.tar",
            ),
            *(
                b"/..%5cfile-1.tar",
                b"/a%5C..%5Cfile-1.tar",
                b"/..\\file-1.tar",
                b"/\\..\\file-1.tar",
                b"/%5c%2e%2e%5cfile-1.tar",
            ),
            *(b"/..;/file-1.tar", b"/a/..;x=y/file-1.tar", b"/%2e%2e;/file-1.tar", b"/..%3b/file-1.tar", b"/.;/file-1.tar"),
            *(b"/..%20/file-1.tar", b"/%20../file-1.tar"),
            *(b"/..%00/file-1.tar", b"/..%0d/file-1.tar", b"/..%09/file-1.tar", b"/%2e%2e%00.tar"),
            *(
                b"/%c0%ae%c0%ae/file-1.tar",
                b"/%e0%80%ae%e0%80%ae/file-1.tar",
                b"/..%c0%affile-1.tar",
                b"/..%c1%9cfile-1.tar",
            ),
            *(b"/%u002e%u002e/file-1.tar", b"/%u2215..%u2215file-1.tar", b"/%%32%65%%32%65/file-1.tar"),
            *(b"http://127.0.0.1/../file-1.tar", b"http://127.0.0.1/%2e%2e/file-1.tar"),
        )
    },
)
ESCAPES = refused(
    "RFC 9112, 3.2, and RFC 3986, 2.1: bare control characters, blanks and other bytes, and broken escapes, are no target",
    {
        "NUL": asking(b"/file-1.tar%00"),
        "NUL before a suffix": asking(b"/file%00.tar"),
        "an escaped line feed": asking(b"/file-1.tar%0a"),
        "an escaped carriage return": asking(b"/file-1.tar%0D"),
        "an injected field": asking(b"/file-1.tar%0d%0aSet-Cookie:%20a=b"),
        "an injected field in the query": asking(b"/file-1.tar?a=%0d%0aSet-Cookie:%20a=b"),
        "an injected answer": asking(b"/%0d%0a%0d%0aHTTP/1.1%20200%20OK%0d%0a"),
        "an injected request": asking(b"/%20HTTP/1.1%0d%0aHost:%20a%0d%0a%0d%0aGET%20/smuggled-1.tar"),
        "an escaped escape character": asking(b"/%1b[2Jfile-1.tar"),
        "an escaped DEL": asking(b"/file-1.tar%7f"),
        "an escaped tab": asking(b"/file%09.tar"),
        "NUL in the query": asking(b"/file-1.tar?a=%00"),
        "half an escape": asking(b"/file-1.tar%"),
        "a short escape": asking(b"/file-1.tar%4"),
        "an escape that is none": asking(b"/file-1.tar%zz"),
        "an escape with a sign": asking(b"/file-1.tar%+1"),
        "half an escape in the query": asking(b"/file-1.tar?%"),
        "no UTF-8": asking(b"/file%c3%28.tar"),
        "a lone byte": asking(b"/file%ff.tar"),
        "a surrogate": asking(b"/file%ed%a0%80.tar"),
        "beyond Unicode": asking(b"/file%f4%90%80%80.tar"),
        "bare UTF-8": asking(b"/f\xc3\xafle.tar"),
        "a bare byte in the query": asking(b"/file-1.tar?\xff"),
        "a bare control character": asking(b"/file\x01.tar"),
        "a bare NUL": asking(b"/file\x00.tar"),
        "a bare escape character": asking(b"/\x1b[31mfile-1.tar"),
        "a blank": asking(b"/file .tar"),
        "a tab": asking(b"/file\t.tar"),
        "a fragment": asking(b"/file-1.tar#part"),
        "a fragment in the query": asking(b"/file-1.tar?a#b"),
    },
)
FORMS = refused(
    "RFC 9112, 3.2: a target is a path, an http URL, or, for OPTIONS, an asterisk; RFC 9110, 4.2.4: without a user",
    {
        "no slash": asking(b"file-1.tar"),
        "only a query": asking(b"?file-1.tar"),
        "an asterisk": asking(b"*"),
        "an authority": asking(b"mirror.example:80"),
        "no host": asking(b"http:///file-1.tar"),
        "no host at all": asking(b"http://"),
        "only a port": asking(b"http://:80/file-1.tar"),
        "one slash": asking(b"http:/file-1.tar"),
        "no slash behind the scheme": asking(b"http:file-1.tar"),
        "no scheme": asking(b"://127.0.0.1/file-1.tar"),
        "a user": asking(b"http://user@127.0.0.1/file-1.tar"),
        "a user and a password": asking(b"http://user:password@127.0.0.1/file-1.tar"),
        "an empty user": asking(b"http://@127.0.0.1/file-1.tar"),
        "a host for a user": asking(b"http://127.0.0.1@elsewhere.example/file-1.tar"),
        "a host behind a backslash": asking(b"http://127.0.0.1\\@elsewhere.example/file-1.tar"),
        "a host behind a fragment": asking(b"http://127.0.0.1#@elsewhere.example/file-1.tar"),
        "another scheme": asking(b"ftp://127.0.0.1/file-1.tar"),
        "a local file": asking(b"file:///etc/passwd"),
        "a script": asking(b"javascript://127.0.0.1/%0aalert(1)"),
        "a host that is none": asking(b"http://[::1/file-1.tar"),
        "a port that is none": asking(b"http://127.0.0.1:port/file-1.tar"),
        "a port beyond the last one": asking(b"http://127.0.0.1:99999/file-1.tar"),
    },
)
FOREIGN = answered(
    "RFC 9110, 7.4 and 15.5.4: a target of another origin may be refused; a proxy for chosen sources asks no other host",
    {
        name: asking(b"http://" + host + b"/file-1.tar")
        for name, host in {
            "another host": b"elsewhere.example",
            "another host and port": b"elsewhere.example:8080",
            "a host with our name in front": b"127.0.0.1.elsewhere.example",
            "a host with our name behind": b"elsewhere.example.127.0.0.1",
            "the address as a number": b"2130706433",
            "the address in hexadecimal": b"0x7f000001",
            "the address in octal": b"0177.0.0.1",
            "a short address": b"127.1",
            "the address as IPv6": b"[::ffff:127.0.0.1]",
            "another address of this machine": b"127.0.0.2",
            "any address": b"0.0.0.0",
            "the service of a cloud": b"169.254.169.254",
            "an escaped address": b"127%2e0%2e0%2e1",
            "an escaped slash": b"elsewhere.example%2f127.0.0.1",
            "a path behind a backslash": b"127.0.0.1\\..\\file-1.tar",
        }.items()
    },
    *(400, 403),
    ends=None,
)

# -- valid, but odd

VALID = answered(
    "RFC 9110, 5, and RFC 9112, 2 to 5: valid, and to be answered",
    {
        "nothing odd": head(),
        "an empty value": head(b"X-Field:"),
        "nonsense for cookies": head(b"Cookie: ===;;;", b"Cookie: "),
        "a value of blanks": head(b"X-Field:  \t "),
        "no blank behind the colon": head(b"X-Field:value", host=b"Host:a"),
        "a tab behind the colon": head(host=b"hoSt:\ta"),
        "many blanks around a value": head(b"X-Field: \t value \t "),
        "thousands of blanks around a value": head(b"X-Field:" + b" " * 3000 + b"value" + b"\t" * 3000),
        "a tab within a value": head(b"X-Field: a\tb"),
        "bytes above ASCII in a value": head(b"X-Field: \xe9\xff"),
        "punctuation in a name": head(b"!#$%&'*+-.^`|~: value"),
        "an underscore in a name": head(b"X_Field: value"),
        "underscores for hyphens": head(b"Content_Length: 5", b"Transfer_Encoding: chunked"),
        "an underscore in the name of the host": head(b"HOST_: b", b"X_Host: b"),
        "a coding of the content": head(b"Content-Encoding: chunked"),
        "a name that is nearly a coding": head(b"Transfer-Encoding-: chunked"),
        "upper case": head(b"X-FIELD: value", host=b"HOST: A"),
        "an empty line first": b"\r\n" + head(),
        "a port": head(host=b"Host: mirror.example:8080"),
        "an empty port": head(host=b"Host: mirror.example:"),
        "an address": head(host=b"Host: [2001:db8::1]:80"),
        "the host of somebody else": head(host=b"Host: elsewhere.example"),
        "no host in HTTP/1.0": head(b"Connection: keep-alive", start=OLD, host=None),
        "a later minor version": head(start=b"GET /file-1.tar HTTP/1.2"),
        "the latest minor version": head(start=b"GET /file-1.tar HTTP/1.9"),
        "an empty body": head(b"Content-Length: 0"),
        "an expectation of nothing": head(b"Expect: 100-Continue"),
        "an expectation in HTTP/1.0": head(b"Expect: 100-continue", b"Connection: keep-alive", start=OLD),
        "ninety fields": head(*(b"X-%d: 1" % number for number in range(90))),
        "a large field": head(b"X-Field: " + b"a" * 8000),
        "a repeated field": head(b"Accept: a", b"Accept: b"),
        "nonsense to accept": head(b"Accept: application/x-nonsense", b"Accept-Encoding: \xff;q=9", b"TE: trailers"),
        "an offer to upgrade": head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
        "two offers of settings": head(b"Connection: Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: A", b"HTTP2-Settings: B"),
        "a web socket": head(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
        "an upgrade without a connection": head(b"Upgrade: websocket", b"Sec-WebSocket-Version: 99"),
        "an unknown upgrade": head(b"Connection: Upgrade", b"Upgrade: totally-made-up/1.0"),
        "fields that are to be dropped": head(b"Connection: Host, Content-Length, X", b"X: y"),
        "a trailer that is announced": head(b"Trailer: Content-Length"),
        "who claims to be another": head(
            b"X-Forwarded-For: 192.0.2.1", b"Forwarded: for=192.0.2.1;host=b", b"X-Real-IP: a"
        ),
        "a target in another field": head(b"X-Original-URL: /smuggled-1.tar", b"X-Rewrite-URL: /smuggled-1.tar"),
        "a method in another field": head(b"X-HTTP-Method-Override: DELETE"),
        "quotes in the name of the client": head(b'User-Agent: " 200 5 "-" "forged"', b"Referer: \\x22"),
        "an empty query": asking(b"/file-1.tar?"),
        "dots that do not climb": asking(b"/a/./b/../../file-1.tar"),
        "escaped dots that do not climb": asking(b"/a/%2e/%2E%2e/file-1.tar"),
        "an escaped letter": asking(b"/%66ile-1.tar"),
        "absolute form": asking(b"http://127.0.0.1/file-1.tar"),
        "absolute form in capitals": asking(b"HTTP://127.0.0.1/file-1.tar"),
        "absolute form with an empty port": asking(b"http://127.0.0.1:/file-1.tar"),
        "absolute form in a later version": head(start=b"GET http://127.0.0.1/file-1.tar HTTP/1.2"),
        "absolute form over TLS": asking(b"https://127.0.0.1/file-1.tar"),
        "absolute form of another host than Host": head(
            start=b"GET http://127.0.0.1/file-1.tar HTTP/1.1", host=b"Host: elsewhere.example"
        ),
    },
)
PORT = answered(
    "RFC 9110, 7.4: the path is served from the sources, whatever port is named; the named one is not asked",
    {"absolute form with another port": asking(b"http://127.0.0.1:1/file-1.tar")},
    *(200, 400, 403, 421),
    ends=None,
)
OPTIONS = answered(
    "RFC 9110, 9.1 and 15.5.6: a method that is known and not allowed, whatever it is asked of",
    {
        "options": asking(b"/file-1.tar", b"OPTIONS"),
        "options of the server": asking(b"*", b"OPTIONS"),
        "options in absolute form": asking(b"http://127.0.0.1", b"OPTIONS"),
    },
    405,
)
CLOSING = answered(
    "RFC 9112, 9.3 and 9.6: the connection ends where the client says so, and in HTTP/1.0 where it does not ask otherwise",
    {
        "close": head(b"Connection: close"),
        "HTTP/1.0": head(start=OLD),
        "HTTP/1.0 without a host": head(start=OLD, host=None),
        "an upgrade in HTTP/1.0": head(b"Connection: Upgrade", b"Upgrade: websocket", start=OLD),
    },
    ends=True,
)

LISTED = (
    Case(
        "close among others",
        head(b"Connection: x, Close"),
        "RFC 9110, 7.6.1, and RFC 9112, 9.6: one of several options is an option; Gunicorn knows it only alone",
        frozenset({200}),
        gthread_persists=True,
    ),
)

# -- ranges and conditions

BLANKS = b" " * 7000
ODD_RANGES = answered(
    "RFC 9110, 14.2: a Range that cannot be read, or asks for many parts, may be ignored",
    {
        name: head(b"Range: " + value)
        for name, value in {
            "hundreds of ranges": b"bytes=" + b",".join(b"%d-%d" % (at, at) for at in range(500)),
            "hundreds of overlapping ranges": b"bytes=" + b",".join([b"0-"] * 1000),
            "suffixes": b"bytes=" + b",".join([b"-1"] * 1000),
            "nested ranges": b"bytes=" + b",".join(b"%d-" % at for at in range(1000)),
            "a range backwards": b"bytes=5-1",
            "letters": b"bytes=abc-xyz",
            "no number": b"bytes=-",
            "nothing": b"bytes=",
            "another unit": b"lines=0-5",
            "a negative number": b"bytes=--5",
            "a sign": b"bytes=+0-+5",
            "hexadecimal": b"bytes=0x0-0x5",
            "a fraction": b"bytes=0.5-1.5",
            "a number beyond counting": b"bytes=" + b"9" * 5000 + b"-",
            "blanks before a letter": b"bytes=" + BLANKS + b"x",
            "blanks behind a number": b"bytes=0" + BLANKS + b"x",
            "blanks before the equals sign": b"bytes" + BLANKS + b"x",
        }.items()
    },
)
PARTS = answered(
    "RFC 9110, 14.1.2: the part that there is of it",
    {
        "the first byte": head(b"Range: bytes=0-0"),
        "more than there is": head(b"Range: bytes=0-" + b"9" * 19),
        "far more than there is": head(b"Range: bytes=0-" + b"9" * 32),
        "a suffix longer than the file": head(b"Range: bytes=-" + b"9" * 32),
        "the unit in capitals": head(b"Range: BYTES=1-2"),
        "zeros": head(b"Range: bytes=0000-0005"),
    },
    206,
)
BEYOND = answered(
    "RFC 9110, 15.5.17: a range outside of the file is 416",
    {
        "beyond the end": head(b"Range: bytes=1000-"),
        "far beyond the end": head(b"Range: bytes=" + b"9" * 19 + b"-"),
        "a suffix of nothing": head(b"Range: bytes=-0"),
    },
    416,
)
ODD_CONDITIONS = answered(
    "RFC 9110, 13: a condition that does not hold, or cannot be read, makes no difference to a GET",
    {
        "a list of tags": head(b"If-None-Match: " + b", ".join(b'"%d"' % number for number in range(800))),
        "a tag without an end": head(b'If-None-Match: "' + b"a" * 7000),
        "many quotation marks": head(b"If-None-Match: " + b'"' * 7000),
        "blanks behind a tag": head(b'If-None-Match: "a"' + BLANKS + b"x"),
        "commas": head(b"If-None-Match: " + b"," * 7000),
        "half of weak tags": head(b"If-None-Match: " + b"W/" * 3500),
        "a tag without quotes": head(b"If-None-Match: abc"),
        "an asterisk among tags": head(b'If-None-Match: "a", *'),
        "no date": head(b"If-Modified-Since: yesterday"),
        "a date of digits": head(b"If-Modified-Since: " + b"9" * 7000),
        "a date of many words": head(b"If-Modified-Since: " + b"1 " * 3500),
        "a year beyond counting": head(b"If-Modified-Since: Sun, 06-Nov-" + b"9" * 4000 + b" 08:49:37 GMT"),
        "an hour beyond counting": head(b"If-Modified-Since: Sun, 06 Nov 1994 99:99:99 GMT"),
        "a zone beyond counting": head(b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 +" + b"9" * 4000),
        "the year nought": head(b"If-Modified-Since: Sun, 06 Nov 0000 08:49:37 GMT"),
        "a range of another version": head(b"Range: bytes=0-5", b'If-Range: "other"'),
        "a range of a weak version": head(b"Range: bytes=0-5", b'If-Range: W/"other"'),
        "a range of no version": head(b"Range: bytes=0-5", b"If-Range: " + b"x" * 7000),
        "a range of a list": head(b"Range: bytes=0-5", b"If-Range: " + b", ".join([b'"a"'] * 1000)),
        "conditions on changes": head(b'If-Match: "other"', b"If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT"),
    },
    *(200, 412),
)
NOT_MODIFIED = answered(
    "RFC 9110, 13.1.2 and 13.1.3: what the client has already is 304",
    {
        "whatever there is": head(b"If-None-Match: *"),
        "a date to come": head(b"If-Modified-Since: Fri, 31 Dec 9999 23:59:59 GMT"),
    },
    304,
)

CASES: tuple[tuple[Case, ...], ...] = tuple(
    tuple(group)
    for group in (
        *(BOTH, LENGTHS, ZEROS, CODINGS, HIDDEN, BODIES, WAITING, BROKEN_BODIES, BROKEN_FORMS, LATE, TYPES),
        *(REJECTED_BODIES, OPTIONS_BODY, EXPECTATIONS),
        *(LINES, VERSIONS, METHODS, TUNNELS, HOSTS, FIELDS, TOO_MUCH, MUCH, ENOUGH, TOO_LONG, NO_LINE),
        *(CLIMBS, ESCAPES, FORMS, FOREIGN, VALID, PORT, OPTIONS, CLOSING, LISTED),
        *(ODD_RANGES, PARTS, BEYOND, ODD_CONDITIONS, NOT_MODIFIED),
    )
)
"""Every request of the table, in groups with one rule."""

AS_THEY_STAND: dict[bytes, bytes] = {
    b"/%252e%252e/x-1.tar": b"/%252e%252e/x-1.tar",
    b"/%25%32%65%25%32%65/x-1.tar": b"/%252e%252e/x-1.tar",
    b"/%25c0%25ae/x-1.tar": b"/%25c0%25ae/x-1.tar",
    b"/.../x-1.tar": b"/.../x-1.tar",
    b"/..x/x-1.tar": b"/..x/x-1.tar",
    b"/a..b/x-1.tar": b"/a..b/x-1.tar",
    b"/%ef%bc%8e%ef%bc%8e/x-1.tar": b"/%EF%BC%8E%EF%BC%8E/x-1.tar",
    b"/%e2%80%a8x.tar": b"/%E2%80%A8x.tar",
    b"/%c2%85x.tar": b"/%C2%85x.tar",
    b"/a%2fb.tar": b"/a%2Fb.tar",
    b"/a\\b.tar": b"/a%5Cb.tar",
    b"/a%5cb.tar": b"/a%5Cb.tar",
    b"//x-1.tar": b"//x-1.tar",
    b"//elsewhere.example/x-1.tar": b"//elsewhere.example/x-1.tar",
    b"/http://elsewhere.example/x-1.tar": b"/http://elsewhere.example/x-1.tar",
    b"/@elsewhere.example/x-1.tar": b"/@elsewhere.example/x-1.tar",
    b"/:80/x-1.tar": b"/:80/x-1.tar",
    b"/%40elsewhere.example/x-1.tar": b"/@elsewhere.example/x-1.tar",
    b"/x-1.tar?u=http://elsewhere.example/..": b"/x-1.tar?u=http://elsewhere.example/..",
    b"/x-1.tar?%2e%2e/": b"/x-1.tar?../",
    b"/<script>.tar": b"/%3Cscript%3E.tar",
    b"/$(id).tar": b"/$(id).tar",
    b"/`id`.tar": b"/%60id%60.tar",
    b"/'--.tar": b"/'--.tar",
    b"/%25n%25s.tar": b"/%25n%25s.tar",
}
"""Odd names that are names: what a client asks for, and what a source is asked for then."""
