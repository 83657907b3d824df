"""The one way out: opens a URL of a source, whatever its scheme, and notes how the source fared.

Redirects are followed within limits: bounded, never from https down to http, and to other hosts only if they have a public
address, so that a source cannot aim this cache at the network it stands in. Credentials go to the host they were given for.
Every failure leaves as an `UpstreamError`.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from itertools import takewhile
from typing import TypeVar

from package_cache.config import Timeouts
from package_cache.errors import OutOfDescriptors, UpstreamBusy, UpstreamError, UpstreamLie
from package_cache.log_limit import LogLimit
from package_cache.model import Fields, Repository, Source, Target, frozen
from package_cache.rules.http.caching import kept_fields
from package_cache.rules.http.digests import Digest
from package_cache.rules.http.response import ResponseHead
from package_cache.rules.repositories.layouts import DISTFILES_PATH
from package_cache.rules.repositories.links import has_links
from package_cache.rules.repositories.names import digest_in_path
from package_cache.rules.repositories.presets import tells_by_suffix
from package_cache.rules.transfers.requests import (
    RawRequest,
    RequestTemplate,
    answered,
    condition_fields,
    raw_request,
    redirect_target,
)
from package_cache.rules.transfers.signatures import is_doubtful
from package_cache.rules.transfers.steps import Answered, Ask
from package_cache.rules.transfers.ways import Origin, Proxy, Way, is_inside_by_name, of_environment
from package_cache.upstream.answers import (
    Answer,
    Exchange,
    HttpAnswer,
    Throttle,
    Watched,
    decoded,
    open_through_redirects,
    uncoded,
)
from package_cache.upstream.client import Client
from package_cache.upstream.dialling import Trouble
from package_cache.upstream.events import Events
from package_cache.upstream.files import open_file
from package_cache.upstream.layouts import LAYOUT, Distfile, Layouts, split
from package_cache.upstream.mirrors import Mirrors
from package_cache.upstream.pool import Pool

logger = logging.getLogger(__name__)

T = TypeVar("T")
First = Exchange | Trouble
"""The outcome of asking: an answer whose body is to be read, or why there is none."""
_ERRORS = 400
"""From which on a status says that the source does not serve what was asked for."""
_NO_HEAD = frozenset({405, 501})
"""Statuses of a source that does not support the method (RFC 9110, sections 15.5.6 and 15.6.2)."""


class RawRequests:
    """What is sent to sources: at which URLs, over which way, with which fields. Makes no connection."""

    def __init__(self, sources: tuple[Source, ...], agent: str, via: str) -> None:
        web = [source for source in sources if source.base.startswith("http")]
        self._sources = sorted(web, key=lambda source: len(source.base), reverse=True)
        self._own = frozenset(Origin.of(source.base) for source in web)
        self._proxies = of_environment(os.environ)
        self._fields = {"User-Agent": agent, "Via": f"1.1 {via}", "Accept-Encoding": "identity"}
        own = {"User-Agent": agent, "Accept-Encoding": "identity"}
        straight = [source for source in self._sources if self._is_reached_straight(source.base)]
        prepared = [RequestTemplate.of(f"{one.base}/", own, f"1.1 {via}", one.fields) for one in straight]
        self._prepared = [(one, Way(one.origin)) for one in prepared]
        self._ways = {way.origin: way for _, way in self._prepared}

    def _is_reached_straight(self, base: str) -> bool:
        """Whether a source is reached without a proxy; one that cannot be used is reported where it is needed."""
        try:
            return self._proxies.proxy_for(f"{base}/") is None
        except ValueError:
            return False

    def raw(self, ask: Ask, accept: str | None, via: str | None, url: str | None = None, method: str = "GET") -> RawRequest:
        """What is sent for `ask`, or at the `url` to which it was redirected. Raises UpstreamError."""
        if url is None and method == "GET":
            for prepared, way in self._prepared:
                if ask.url.startswith(prepared.base):
                    try:
                        return RawRequest(way, prepared.text(ask, accept, via))
                    except ValueError as error:
                        raise UpstreamError(f"was not asked: {error}") from None
        return self._raw(method, url or ask.url, ask, accept, via)

    def posting(self, url: str, said: Fields, content: bytes) -> RawRequest:
        """A POST with these fields. Raises UpstreamError."""
        return self._raw("POST", url, Ask(url), None, None, said, content)

    def _raw(
        self,
        method: str,
        url: str,
        ask: Ask,
        accept: str | None,
        via: str | None,
        said: Fields = (),
        content: bytes | None = None,
    ) -> RawRequest:
        fields = dict(said) | self._fields
        if content is not None:
            fields["Content-Length"] = str(len(content))
        if via:
            fields["Via"] = f"{via}, {fields['Via']}"
        if accept:
            fields["Accept"] = accept
        fields |= dict(self._private(url)) | dict(condition_fields(ask))
        try:
            stream = None if content is None else BytesIO(content)
            return raw_request(method, url, fields.items(), self._way(url), stream)
        except ValueError as error:
            raise UpstreamError(f"was not asked: {error}") from None

    def _way(self, url: str) -> Way:
        """How a URL is reached. Raises ValueError."""
        origin = Origin.of(url)
        way = self._ways.get(origin)
        if way is None:
            proxy = self._proxies.proxy_for(url)
            guarded = proxy is None and origin not in self._own
            way = Way(origin, None if proxy is None else Proxy.of(proxy), guarded)
            if origin in self._own:
                self._ways[origin] = way
        return way

    def _private(self, url: str) -> Fields:
        """The fields of the source that a URL belongs to; for a redirect within its host, those of that source."""
        for source in self._sources:
            if url.startswith(source.base + "/"):
                return source.fields
        origin = Origin.of(url)
        return next((source.fields for source in self._sources if source.fields and Origin.of(source.base) == origin), ())

    def are_private(self, url: str) -> bool:
        """Whether a source is sent fields of its own there, such as credentials: what it says then is not for clients."""
        return bool(self._private(url))

    def following(self, url: str, places: tuple[str, ...]) -> str:
        """Where a redirect leads. Raises UpstreamError where it must not be followed."""
        try:
            target = redirect_target(url, places)
        except ValueError as error:
            raise UpstreamLie(str(error)) from None
        origin = Origin.of(target)
        if origin not in self._own and is_inside_by_name(origin.host):
            raise UpstreamLie(f"redirects to {origin.host}, which is not a public address")
        return target


class Fetcher:
    """Opens what the sources offer, no faster than a throttle allows. Safe for any number of threads."""

    def __init__(
        self,
        sources: tuple[Source, ...],
        timeouts: Timeouts,
        agent: str,
        via: str,
        mirrors: Mirrors,
        throttle: Throttle | None = None,
    ) -> None:
        self.requests = RawRequests(sources, agent, via)
        self.mirrors = mirrors
        self._client = Client(timeouts)
        self.layouts = Layouts(self.open, time.monotonic)
        self._crawl = timeouts.crawl
        self._throttle = throttle
        self._log_limit = LogLimit()

    def pool(self, events: Events, timeouts: Timeouts, small: int) -> Pool:
        """The connections of a loop that serves, where bodies up to `small` bytes are collected; threads use them too."""
        return self._client.pool(events, timeouts, small)

    def in_loop(self, begin: Callable[[Pool, Callable[[T], None]], None]) -> T | None:
        """What comes of something that is begun in an event loop; None if that ends first."""
        return self._client.in_loop(begin)

    def offer(self, repository: Repository, target: Target, accept: str | None, via: str | None = None) -> "SourceOffer":
        """What the sources of a repository have at a target; `accept` is sent to them as Accept.

        `via` is the Via of the client's request, so that caches which lead to each other notice it.
        """
        return SourceOffer(self, repository, target, accept, via)

    def are_aside(self, repository: Repository) -> bool:
        """Whether all sources of a repository are set aside: a stale entry can be served without waiting for them."""
        return self.mirrors.are_aside(repository.sources)

    def may_look(self, repository: Repository) -> bool:
        """Whether the caller is to probe the sources of a repository, though it has an answer without them."""
        return self.mirrors.may_look(repository.sources)

    def open(
        self,
        ask: Ask,
        accept: str | None = None,
        method: str = "GET",
        *,
        via: str | None = None,
        named: bool = True,
        first: First | None = None,
        begun: float | None = None,
    ) -> Answer:
        """The answer to `ask`; close it afterwards. Raises UpstreamError.

        `named` says that the URL tells by its suffix what is there. With `first`, it was asked already, at `begun`, and
        `first` came of it.
        """
        if isinstance(first, UpstreamBusy):
            raise first.with_traceback(None)
        if first is None:
            self.mirrors.check(ask.url)
        begun = begun or time.monotonic()
        answer: HttpAnswer | Answer
        try:
            is_file = ask.url.startswith("file:")
            answer = open_file(ask) if is_file else self._open(ask, accept, method, via, first)
        except UpstreamError as error:
            if not error.again:
                self.mirrors.failed(ask.url, str(error))
            raise
        self.mirrors.answered(ask.url, answer.head.status, time.monotonic() - begun)
        if answer.head.retry_after is not None:
            self.mirrors.rest(ask.url, answer.head.retry_after)
        if isinstance(answer, HttpAnswer) and answer.head.status >= _ERRORS and not self.requests.are_private(ask.url):
            answer.head = replace(answer.head, error=answer.error())
        if method == "GET" and answer.head.status in (200, 206):
            return self._watched(ask, answer, named=named)
        if answer.head.status in (403, 404, 410) or (method == "HEAD" and answer.head.status == 200):
            self.mirrors.well(ask.url)
        return answer

    def _open(self, ask: Ask, accept: str | None, method: str, via: str | None, first: First | None) -> HttpAnswer:
        """Over HTTP, through redirects."""

        def send(method: str, url: str) -> Exchange:
            return self._client.ask(self.requests.raw(ask, accept, via, url, method))

        def lead(method: str, url: str, _status: int, places: tuple[str, ...]) -> tuple[str, str]:
            return method, self.requests.following(url, places)

        try:
            if isinstance(first, UpstreamError | OutOfDescriptors):
                raise first.with_traceback(None)
            answer = open_through_redirects(method, ask, send, lead, kept_fields, first)
        except OutOfDescriptors:
            logger.log(self._log_limit.level("descriptors"), "there is no descriptor for a connection to a source")
            raise
        if self._throttle is not None:
            answer.read = self._throttle.applied(answer.read)
        return answer

    def _watched(self, ask: Ask, answer: Answer, *, named: bool) -> Watched:
        watched = Watched(answer, self._crawl, self.mirrors.sent)
        try:
            if named and answer.head.status == 200:
                watched.look(ask.url)
        except BaseException:
            watched.close()
            raise
        return watched

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()


class Asked:
    """The outcome of an `ask` that was made already, for the first caller that asks the same."""

    def __init__(self, ask: Ask, first: First, begun: float, method: str) -> None:
        self._ask = ask
        self._method = method
        self._first: First | None = first
        self.begun = begun

    def take(self, ask: Ask, method: str) -> First | None:
        """The outcome, once."""
        if ask != self._ask or method != self._method:
            return None
        first, self._first = self._first, None
        return first

    def drop(self) -> None:
        """Nobody asks it any more: close an answer that was not taken."""
        first, self._first = self._first, None
        if first is not None and not isinstance(first, UpstreamError | OutOfDescriptors):
            first.close()


@frozen
class SourceOffer:
    """A target, as all sources together offer it. Where one of them was asked already, `asked` has the outcome."""

    _fetcher: Fetcher
    repository: Repository
    target: Target
    accept: str | None
    via: str | None = None
    asked: Asked | None = None

    @property
    def order(self) -> tuple[Source, ...]:
        """Its sources, best first; as long as those are the same, so are the URLs that are known at once."""
        return self._fetcher.mirrors.order(self.repository.sources)

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs that may have it, best first, as things are now. May ask a source where it keeps what."""
        sources, place, layouts = self.order, self._distfile, self._fetcher.layouts
        if place is not None:
            # Of the others, it is asked once they are the first: nobody waits for many sources.
            silent = tuple(takewhile(lambda source: not layouts.learn(source.base + place.folder), sources))
            sources = (*sources[len(silent) :], *silent)
        return self._urls(sources, place)

    @property
    def urls_at_once(self) -> tuple[str, ...] | None:
        """The same; None where a source would have to be asked first."""
        sources, target = self._fetcher.mirrors.order(self.repository.sources), self.target
        if DISTFILES_PATH not in target.path:  # nearly nothing is one
            asked = target.asked
            return tuple([source.base + asked for source in sources])
        place = self._distfile
        if place is not None and sources and not self._fetcher.layouts.is_known(sources[0].base + place.folder):
            return None
        return self._urls(sources, place)

    def _urls(self, sources: tuple[Source, ...], place: Distfile | None) -> tuple[str, ...]:
        if place is None:
            asked = self.target.asked
            return tuple([source.base + asked for source in sources])
        urls: list[str] = []
        for source in sources:
            urls += self._fetcher.layouts.urls(source.base + place.folder, place.name)
            if self.target.spelled is not None:
                urls.append(source.base + self.target.spelled)
        return tuple(dict.fromkeys(urls))

    @property
    def _distfile(self) -> Distfile | None:
        """The distfile that it is, if it is one."""
        return split(self.target) if DISTFILES_PATH in self.target.path and self.repository.may_have_distfiles else None

    @property
    def unlearned(self) -> "Unlearned | None":
        """What the first source has to tell over HTTP before it is asked; None if nothing."""
        sources, place, layouts = self.order, self._distfile, self._fetcher.layouts
        if place is None or not sources or not sources[0].base.startswith("http"):
            return None
        folder, layout = sources[0].base + place.folder, Target(place.folder + LAYOUT, home=self.target.home)
        if layouts.is_known(folder):
            return None
        return Unlearned(folder, self._fetcher.offer(self.repository, layout, None), layouts)

    @property
    def named(self) -> bool:
        """Whether the path tells by its suffix what is there."""
        return tells_by_suffix(self.repository.preset, self.target.path)

    def wire(self, ask: Ask, url: str | None = None, method: str = "GET") -> RawRequest | None:
        """What is sent for `ask`, or at the `url` that it was redirected to. Raises UpstreamError if it is not to be asked.

        None for a file of a directory.
        """
        if url is None:
            self._fetcher.mirrors.check(ask.url)
        return None if ask.url.startswith("file:") else self._fetcher.requests.raw(ask, self.accept, self.via, url, method)

    @property
    def posted_at(self) -> tuple[str, ...]:
        """The URLs to which a POST may be passed on, best first."""
        return tuple(one.base + self.target.asked for one in self.order if one.base.startswith("http"))

    def posting(self, url: str, said: Fields, content: bytes) -> RawRequest:
        """A POST with these fields. Raises UpstreamError if it is not to be sent."""
        return self._fetcher.requests.posting(url, said, content)

    def following(self, url: str, places: tuple[str, ...]) -> str:
        """Where a redirect leads. Raises UpstreamError where it must not be followed."""
        return self._fetcher.requests.following(url, places)

    def head(self, ask: Ask, said: ResponseHead) -> Answered:
        """What the head of an answer means that was received just now."""
        kept = kept_fields(said.fields, said.names)
        head = answered(said.status, said.fields, said.said, kept, ask.url, time.time(), marked=said.chunked)
        return self._addressed(head)

    def needs_body(self, ask: Ask, head: Answered) -> bool:
        """Whether a head alone cannot be had, or cannot be believed, so that a GET is needed."""
        if head.status in _NO_HEAD:
            return True
        said = head.representation.get("content-type")
        return self.named and head.status == 200 and is_doubtful(ask.url.partition("?")[0], said)

    def served(self, ask: Ask, status: int, seconds: float) -> None:
        """A source served what was asked of it, and took so many seconds to answer."""
        self._fetcher.mirrors.answered(ask.url, status, seconds)
        self._fetcher.mirrors.well(ask.url)

    def after(self, ask: Ask, first: First, begun: float, method: str = "GET") -> "SourceOffer":
        """The same offer, where `ask` was made already, at `begun` by the monotonic clock, with the outcome `first`."""
        return replace(self, asked=Asked(ask, first, begun, method))

    def drop(self) -> None:
        """Close what was asked already, and is not needed."""
        if self.asked is not None:
            self.asked.drop()

    def open(self, ask: Ask, method: str = "GET") -> Answer:
        """The answer to `ask`; close it afterwards. Raises UpstreamError."""
        first = self.asked.take(ask, method) if self.asked is not None else None
        begun = self.asked.begun if self.asked is not None and first is not None else None
        answer = self._fetcher.open(ask, self.accept, method, via=self.via, named=self.named, first=first, begun=begun)
        answer.head = self._addressed(answer.head)
        if self.has_own and has_links(answer.head.representation.get("content-type"), None):
            return decoded(answer, ask.url)  # nobody asked for a coding, and the links are inside
        return uncoded(answer, ask.url)

    @property
    def has_own(self) -> bool:
        """Whether links in documents of its repository are replaced for clients."""
        return bool(self.repository.links) or self.repository.tarballs

    def _addressed(self, head: Answered) -> Answered:
        """The head, with the digest in its URL besides those that the source declares of the whole."""
        digest = digest_in_path(self.repository.preset, self.target)
        if digest is None or (head.representation.get("content-encoding") or "identity").lower() != "identity":
            return head
        return replace(head, digests=(*head.digests, digest))

    def rival(self, answer: Answer, left: int | None) -> str | None:
        """Where the rest of an answer, of so many bytes, would come from a good deal faster, if that is known by now."""
        mirrors = self._fetcher.mirrors
        if not mirrors.balance or not isinstance(answer, Watched) or answer.pace.recent is None:
            return None
        rate, answer.pace.recent = answer.pace.recent, None
        urls = self._urls(self.repository.sources, self._distfile)
        return mirrors.rival(answer.head.representation.source, urls, rate, left)

    def failed(self, url: str, reason: str) -> None:
        """What was opened there came to nothing, and that is the source's fault."""
        self._fetcher.mirrors.failed(url, reason)

    def differed(self, wanted: Digest, found: str) -> None:
        """What came has another digest; whoever sent it is told to have failed besides."""

    def delivered(self, url: str) -> None:
        """What was opened there is what was asked for, whole."""
        self._fetcher.mirrors.well(url)


@frozen
class Unlearned:
    """It is not known where a source keeps its distfiles; `folder` is the URL of the folder of all."""

    folder: str
    offer: SourceOffer
    """The file that tells it."""
    _layouts: Layouts

    @property
    def url(self) -> str:
        """Of that file."""
        return self.folder + LAYOUT

    def note(self, said: bytes | None) -> None:
        """What is in the file; nothing where there is none, None where the source could not be asked."""
        self._layouts.note(self.folder, said)
