"""One download of the library: a request at several URLs, repeated until the bytes are here or it is hopeless.

`Download` is what the loop of the engine sees: it makes the requests, holds the answers to the options, and notes what was
answered. The destinations are `into_memory` and `into_file` here, `cached` and `placed`.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from package_cache.engine.fills.pump import Sink, steps
from package_cache.engine.fills.sinks import BufferSink, FileSink
from package_cache.errors import ArgumentError, DownloadError, HashMismatch, UpstreamError, UpstreamLie
from package_cache.library.core import new_item, now
from package_cache.library.downloads.descriptors import Descriptor, Headers
from package_cache.library.downloads.options import Options
from package_cache.library.downloads.results import Attempt, DownloadProgress, Result, Verdict
from package_cache.model import Representation, Status
from package_cache.rules.http.digests import Digest
from package_cache.rules.library.attributes import moment
from package_cache.rules.library.naming import filename_of
from package_cache.rules.transfers.steps import Ask, Finish, GiveUp, NotModified
from package_cache.rules.transfers.transfer import Transfer
from package_cache.storage.items.table import New
from package_cache.storage.parts.part import Draft
from package_cache.upstream.answers import Answer, Watched, decoded
from package_cache.upstream.calls import Backend, Call, open_call

_Place = tuple[str, Path | None]
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


class Download:
    """A request with its options, at each of its `urls`. Used by one thread at a time."""

    def __init__(
        self, descriptor: Descriptor, options: Options, backend: Callable[[], Backend], agent: str, crawl: float
    ) -> None:
        mirrors = options.mirrors(descriptor)
        call = descriptor.call(agent)
        self.descriptor = descriptor
        self.options = options
        self.url = descriptor.url
        self.urls = tuple(dict.fromkeys((self.url, *(mirror.url for mirror in mirrors))))
        self.progress = DownloadProgress(options.progress, filename_of(None, self.url) or self.url)
        self.attempts: list[Attempt] = []
        self.retry_after: int | None = None
        self._backend = backend
        self._call: Call = replace(
            call,
            private=(*call.private, *(mirror.private for mirror in mirrors)),
            ranges=call.ranges and options.check is None,
        )
        self._crawl = crawl
        self._resolved: dict[str, str] = {}
        self._found: Digest | None = None
        """What was sent instead of the file that is wanted."""

    # -- as the engine sees it: see `upstream.answers.Offer`

    def prepare(self) -> None:
        """Load what sends the requests. Raises ConfigError if that cannot be done."""
        self._backend()

    def open(self, ask: Ask, method: str = "GET") -> Answer:
        """Make the request. Raises UpstreamError."""
        assert method == "GET"
        try:
            answer = open_call(self._backend(), self._call, ask)
        except UpstreamError as error:
            self.attempts.append(Attempt(ask.url, None, str(error)))
            raise
        status = answer.head.status
        self.attempts.append(Attempt(ask.url, status))
        self._resolved[ask.url] = answer.url
        rest = answer.head.retry_after
        self.retry_after = None if rest is None else math.ceil(rest)
        if status not in (200, 206):
            return answer
        try:
            return self._within_limits(answer, ask)
        except UpstreamError as error:
            answer.close()
            self.attempts[-1] = Attempt(ask.url, status, str(error))
            raise
        except BaseException:
            answer.close()
            raise

    def _within_limits(self, raw: Answer, ask: Ask) -> Answer:
        answer: Answer = Watched(decoded(raw, ask.url), self._crawl, _note_nothing)
        if answer.head.status == 200:
            assert isinstance(answer, Watched)
            answer.look(ask.url)
        options = self.options
        if options.max_size is not None:
            answer = _Bounded(answer, ask.offset if answer.head.status == 206 else 0, options.max_size)
        if options.check is not None:
            answer = _Checked(answer, options.check)
        if options.digest is not None:
            answer.head = replace(answer.head, digests=(*answer.head.digests, options.digest))
        return answer

    def rival(self, answer: Answer, left: int | None) -> str | None:  # noqa: ARG002 - no speeds are measured
        """No URL is known to be faster."""
        return None

    def failed(self, url: str, reason: str) -> None:
        """Note it with the last attempt at that URL."""
        for at in range(len(self.attempts) - 1, -1, -1):
            if self.attempts[at].url == url:
                self.attempts[at] = replace(self.attempts[at], error=reason)
                return

    def differed(self, wanted: Digest, found: str) -> None:
        """Note it, for the error."""
        if wanted == self.options.digest:
            self._found = Digest(wanted.algorithm, bytes.fromhex(found))

    def delivered(self, url: str) -> None:
        """Nothing is noted of that."""

    # -- what is recorded of it, and told

    @cached_property
    def item(self) -> New:
        """The item of the cache that it becomes. Raises ArgumentError."""
        return self._item({})

    def item_at(self, target: Path) -> New:
        """The item that records which download the file at a path is. Raises ArgumentError."""
        return self._item({"dest": os.fsencode(target).decode("utf-8", "backslashreplace")})

    def _item(self, more: dict[str, str]) -> New:
        params = {"dl_params": self.descriptor.identity(), **more}
        options = self.options
        return new_item(self.descriptor.baseurl, params, None, Status.READY, options.ext, options.label, options.filename)

    def attributes(self, representation: Representation, digest: str, started: float) -> dict[str, Any]:
        """What is recorded of it. `started` is in seconds of the epoch."""
        return {
            "url": self.url,
            "resolved_url": self._resolved.get(representation.source, representation.source),
            "http_code": 200,
            "size": representation.size,
            "sha256": digest,
            "etag": representation.get("etag"),
            "last_modified": representation.get("last-modified"),
            "resp_headers": {name.lower(): value for name, value in Headers(representation.fields).items()},
            "download_started": _time(started),
            "download_finished": _time(now() / 1e6),
            "descriptor": self.descriptor.record(),
        }

    def result(self, verdict: Verdict, reason: str, attrs: dict[str, Any], path: str | None = None) -> Result:
        """Its result, of what is recorded of it."""
        recorded = attrs.get("resp_headers")
        named = recorded.items() if isinstance(recorded, dict) else ()
        headers = Headers(tuple((str(name), str(value)) for name, value in named))
        resolved = attrs.get("resolved_url")
        return Result(
            self.url,
            verdict,
            reason,
            path,
            status=attrs.get("http_code"),
            size=attrs.get("size"),
            sha256=attrs.get("sha256"),
            headers=headers,
            filename=self.options.filename or filename_of(headers.get("content-disposition"), resolved or self.url),
            resolved_url=resolved,
            attempts=tuple(self.attempts),
        )

    def error(self, reason: str, answered: int | None, *, hopeless: bool) -> DownloadError:
        """The error if it came to nothing; `reason` tells what each URL said."""
        text = reason if reason.startswith(self.url) else f"{self.url}: {reason}"
        if self._found is not None and hopeless:
            expected, found = str(self.options.digest), str(self._found)
            status = self.attempts[-1].status if answered is None else answered
            return HashMismatch(text, url=self.url, expected=expected, found=found, status=status)
        return DownloadError(text, url=self.url, status=answered, retryable=not hopeless)

    def pause(self, number: int) -> None:
        """Wait after the attempt of that number: longer each time, or as long as a server wants, within reason."""
        back_off = _FIRST_PAUSE * (1 << min(number - 1, 10)) if self.retry_after is None else self.retry_after
        time.sleep(min(back_off, _LONGEST_PAUSE))


class InThread(threading.local):
    """What the present thread downloads, or waits for, while functions of its caller are told of it, too."""

    def __init__(self) -> None:
        self._places: set[_Place] = set()

    @contextmanager
    def downloads(self, download: Download, target: Path | None = None) -> Iterator[None]:
        """Download to a path, or into the cache. Raises ArgumentError for who would wait for himself for ever."""
        place = (download.item.key, target)
        if place in self._places:
            raise ArgumentError(
                f"a function that is told of the download of {download.url}, such as progress=, downloads the same to the "
                "same place, and would wait for itself for ever: do that before or after"
            )
        self._places.add(place)
        try:
            yield
        finally:
            self._places.discard(place)


def _time(seconds: float) -> datetime:
    return moment(int(seconds * 1e6))


def _note_nothing(url: str, size: int, seconds: float) -> None:
    pass


class _Bounded:
    """An answer that would make a file of more than `limit` bytes, those before it included, is a lie of the server.

    So it is not asked again.
    """

    def __init__(self, answer: Answer, start: int, limit: int) -> None:
        self.head = answer.head
        self.close = answer.close
        self._read = answer.read
        self._size = start
        self._limit = limit
        size = answer.head.representation.size
        if size is not None and start + size > limit:
            raise UpstreamLie(f"has {start + size} bytes, and {limit} are allowed (max_size)")

    def read(self) -> bytes:
        """The next bytes. Raises UpstreamLie, as the constructor does."""
        data = self._read()
        self._size += len(data)
        if self._size > self._limit:
            raise UpstreamLie(f"sent more than the {self._limit} bytes that are allowed (max_size)")
        return data


class _Checked:
    """An answer of which the last bytes are given only if nothing is wrong with the whole."""

    def __init__(self, answer: Answer, check: Callable[[bytes], str | None]) -> None:
        self.head = answer.head
        self.close = answer.close
        self._read = answer.read
        self._check = check
        self._blocks: list[bytes] = []

    def read(self) -> bytes:
        """The next bytes. Raises UpstreamLie at the end of a body that is not what it should be."""
        data = self._read()
        self._blocks.append(data)
        if not data:
            wrong = self._check(b"".join(self._blocks))
            if wrong is not None:
                raise UpstreamLie(wrong)
        return data


class _Keeping(Sink, Protocol):
    """A sink that knows what it has."""

    @property
    def head(self) -> Representation | None:
        """The head of the bytes."""
        ...

    @property
    def have(self) -> int:
        """How many there are."""
        ...


def _receive(download: Download, sink: _Keeping, held: Representation | None) -> Finish | NotModified:
    """Download into a sink, in as many attempts as the options allow. Raises DownloadError and StoreError."""
    number = 1
    while True:
        transfer = Transfer(download.urls, sink.have, sink.head, held)
        end = _follow(transfer, download, sink)
        if not isinstance(end, GiveUp):
            return end
        error = download.error(end.reason, end.answered, hopeless=transfer.hopeless)
        if transfer.contradicted or transfer.hopeless:
            sink.reset()
        if number >= download.options.retries or not error.retryable:
            raise error
        download.pause(number)
        number += 1


def _follow(transfer: Transfer, download: Download, sink: _Keeping) -> Finish | NotModified | GiveUp:
    each = steps(transfer, download, sink)
    try:
        while True:
            try:
                next(each)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            download.progress.at(sink.have, sink.head.size if sink.head else None)
    finally:
        each.close()


def into_memory(download: Download) -> Result:
    """Download into memory. Raises DownloadError."""
    started, sink = now() / 1e6, BufferSink()
    _receive(download, sink, None)
    sink.buffer.seek(0)
    assert sink.head is not None  # it is complete
    attrs = download.attributes(replace(sink.head, size=sink.have), sink.digest(), started)
    result = download.result("downloaded", "it was to be downloaded into memory", attrs)
    return replace(result, buffer=sink.buffer)


def into_file(download: Download, draft: Draft, held: Representation | None) -> tuple[Representation, str] | None:
    """Download what is to be put at a path: its head and SHA-256; None if a server confirms `held`.

    Raises DownloadError and StoreError.
    """
    sink = FileSink(draft)
    end = _receive(download, sink, held)
    if isinstance(end, NotModified):
        return None
    digest = sink.digest()
    draft.finish()
    assert sink.head is not None  # it is complete
    return replace(sink.head, size=end.size), digest
