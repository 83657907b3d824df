"""What proves that two answers are of the same file."""

from package_cache.model import Representation, Span
from package_cache.rules.http.fields import is_strong, is_strong_date, parse_date
from package_cache.rules.transfers.steps import Head


def proof_for(known: Representation) -> str | None:
    """The strong validator of a file: its tag, valid at any mirror, or its date, valid at its own source; else None."""
    etag, modified = known.validators.etag, known.validators.last_modified
    if is_strong(etag):
        return etag
    return modified if is_strong_date(modified, parse_date(known.get("date"))) else None


def is_part(head: Head, known: Representation, proof: str, span: Span) -> bool:
    """Whether an answer to a request with `proof` as If-Range has exactly that part of the known file.

    It must repeat ETag, not Last-Modified (RFC 9110, section 15.3.7), and have no other content coding than the whole.
    """
    place, offered = head.content_range, head.representation
    if head.status != 206 or place is None or place.span != span or known.size not in (None, place.total):
        return False
    if offered.get("content-encoding") not in (None, known.get("content-encoding")):
        return False
    etag = known.validators.etag
    if proof == etag:
        return offered.validators.etag == etag
    return offered.validators.etag in (None, etag) and offered.validators.last_modified in (None, proof)


def is_same(one: Representation, other: Representation) -> bool:
    """Whether two heads say the same of a file, and may be trusted in the same places."""
    if one.validators != other.validators or one.size != other.size:
        return False
    return one.source == other.source or is_strong(one.get("etag"))
