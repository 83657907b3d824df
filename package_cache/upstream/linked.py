"""Answers whose links to other sources of this cache are made to lead through it."""

from collections.abc import Callable
from dataclasses import replace

from package_cache.errors import UpstreamError, UpstreamLie
from package_cache.model import Links
from package_cache.rules.repositories.links import LONGEST, has_links, mark_of, marked, replaced, unmarked
from package_cache.rules.transfers.steps import Ask, Head
from package_cache.upstream.answers import Answer
from package_cache.upstream.decoded import decoded

Open = Callable[[Ask], Answer]


class Document:
    """A document that is here as a whole."""

    def __init__(self, head: Head, body: bytes) -> None:
        self.head = head
        self._body = body

    def read(self) -> bytes:
        """All of it; then nothing."""
        body, self._body = self._body, b""
        return body

    def close(self) -> None:
        """Nothing is open."""


def open_linked(open_url: Open, ask: Ask, links: Links, *, whole: bool = True) -> Answer:
    """The answer to `ask`; of a document, all of it is read, unless only its head is asked for. Raises UpstreamError."""
    mark = mark_of(links)
    answer = _plain(open_url(replace(ask, condition=unmarked(ask.condition, mark))), ask.url)
    if answer.head.status == 304 and ask.condition is not None and (ask.condition.etag or "").endswith(mark):
        confirmed = answer.head.representation
        answer.head = replace(answer.head, representation=replace(confirmed, fields=marked(confirmed.fields, mark, None)))
    if answer.head.status == 206 and _may_have_links(answer):
        answer.close()  # a part of what the source has is no part of what is here
        answer = _plain(open_url(Ask(ask.url)), ask.url)
    if answer.head.status != 200 or not _may_have_links(answer) or (answer.head.representation.size or 0) > LONGEST:
        return answer
    try:
        body = _read(answer) if whole else None
    finally:
        answer.close()
    said = answer.head.representation
    fields = marked(said.fields, mark, body)
    linked = None if body is None else replaced(body, links)
    known = replace(said, fields=fields, size=None if linked is None else len(linked))
    return Document(replace(answer.head, representation=known, digests=()), linked or b"")


def _plain(answer: Answer, url: str) -> Answer:
    """A document without a content coding that nobody asked for; anything else as it is."""
    return decoded(answer, url) if has_links(answer.head.representation.get("content-type"), None) else answer


def _may_have_links(answer: Answer) -> bool:
    """Whether an answer is a document, as far as is known: a part need not say what it is a part of (RFC 9110, 15.3.7)."""
    said = answer.head.representation
    kind = said.get("content-type")
    return (kind is None and answer.head.status == 206) or has_links(kind, said.get("content-encoding"))


def _read(answer: Answer) -> bytes:
    """The whole of a body, which is what its source declares."""
    blocks: list[bytes] = []
    have, size = 0, answer.head.representation.size
    while block := answer.read():
        blocks.append(block)
        have += len(block)
        if have > LONGEST:
            raise UpstreamLie(f"sent a document of more than {LONGEST} bytes")
    body = b"".join(blocks)
    if size is None and not answer.head.chunked:
        raise UpstreamError("sent a document whose end is not marked, so that nobody knows whether it is whole")
    if size not in (None, have):
        raise UpstreamError(f"sent {have} bytes of {size}", again=True)
    for digest in answer.head.digests:
        if not digest.is_of(body):
            raise UpstreamLie("sent bytes that are not those of the digest it declares")
    return body
