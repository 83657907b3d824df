"""A range far ahead of a running fill: fetched beside it, so that the client does not wait for all that comes before.

The fill goes on. The range is taken only from a source that proves, by a strong validator, to have the same thing; where it
cannot, or breaks off, the client gets the rest from the fill, as if nothing had been tried.
"""

import logging
from collections.abc import Generator

from package_cache.engine.fills.fill import FillReader
from package_cache.errors import FillError, UpstreamError, UpstreamLie
from package_cache.model import Representation, Span
from package_cache.rules.transfers.proofs import is_part, proof_for
from package_cache.rules.transfers.steps import Ask
from package_cache.upstream.answers import Answer, Offer

logger = logging.getLogger(__name__)

FAR = 1 << 20
"""Bytes that a range must lie ahead of what is here to be fetched beside the fill."""


class AsideReader:
    """A range that comes from a source while the fill is not there yet, and from the fill once it is."""

    def __init__(self, answer: Answer, reader: FillReader, offer: Offer) -> None:
        self._answer = answer
        self._reader = reader
        self._offer = offer

    def read(self, span: Span | None) -> Generator[bytes, None, None]:
        """The bytes of `span`. Raises `FillError` if neither the source nor the fill goes on, or if the source lied."""
        assert span is not None  # only a range is fetched aside
        at = span.start
        try:
            for block in self._fetched(span):
                at += len(block)
                yield block
        except UpstreamLie as error:
            self._offer.failed(self._answer.head.representation.source, str(error))
            if at > span.start:
                raise FillError(f"a source {error}", 502) from error
        except UpstreamError as error:
            logger.info("a range fetched beside a download broke off: %s", error)
        if at < span.stop:
            yield from self._reader.read(Span(at, span.stop))

    def _fetched(self, span: Span) -> Generator[bytes, None, None]:
        """What the source sends until the fill is there; with a digest, the last block only once that was compared."""
        at, held = span.start, b""
        while at < span.stop and not self._has(at - len(held)):
            block = self._answer.read()[: span.stop - at]
            if held:
                yield held
            if not block:
                return
            at, held = at + len(block), block
            if not self._answer.head.part_digests:
                yield held
                held = b""
        if held:
            if at == span.stop:
                self._answer.read()
            yield held

    def _has(self, at: int) -> bool:
        """Whether the fill is beyond a place. One that failed is not, and the source goes on all the same."""
        try:
            return self._reader.visible() > at
        except FillError:
            return False

    def close(self) -> None:
        """Give back the connection and the part."""
        self._answer.close()
        self._reader.close()


def open_aside(offer: Offer, known: Representation, span: Span) -> Answer | None:
    """The source's answer with exactly that range of the file whose head is `known`; None if it cannot be had."""
    proof = proof_for(known)
    if proof is None:
        return None
    try:
        answer = offer.open(Ask(known.source, span.start, proof, stop=span.stop))
    except UpstreamError as error:
        logger.info("%s %s", known.source, error)
        return None
    if is_part(answer.head, known, proof, span):
        return answer
    answer.close()
    return None
