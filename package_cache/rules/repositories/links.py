"""Documents whose links lead to files at another host: how they are made to lead here, and how the two are told apart.

What is stored of such a document is not what its source sent, so its tag is another one, too; it says which links were
replaced, so that a document is fetched anew once others are to be.
"""

import hashlib
from dataclasses import replace

from package_cache.model import Fields, Links, Validators
from package_cache.rules.http.fields import is_document, media_type

LONGEST = 32 << 20
"""Bytes of a document whose links are replaced."""
_OF_BODY = '"body-'


def has_links(content_type: str | None, encoding: str | None) -> bool:
    """Whether a body is a page or a JSON document, as it is."""
    kind = media_type(content_type)
    return (is_document(kind) or kind.endswith("+html")) and (encoding or "identity").lower() == "identity"


def replaced(body: bytes, links: Links) -> bytes:
    """A document with links that lead here. JSON may have a backslash in front of each slash."""
    for there, here in links:
        body = body.replace(there.encode(), here.encode())
        body = body.replace(there.replace("/", r"\/").encode(), here.encode())
    return body


def mark_of(links: Links) -> str:
    """What tags of such documents end with."""
    return f';links={hashlib.sha256(repr(links).encode()).hexdigest()[:8]}"'


def marked(fields: Fields, mark: str, body: bytes | None) -> Fields:
    """The fields of a document, with a tag that says which links were replaced.

    Where the source has none, it is made of the body; without that, there is none.
    """
    etag = next((value for name, value in fields if name.lower() == "etag"), None)
    if etag is None and body is not None:
        etag = f'{_OF_BODY}{hashlib.sha256(body).hexdigest()[:32]}"'
    others = tuple(pair for pair in fields if pair[0].lower() != "etag")
    return others if etag is None else (*others, ("ETag", etag.removesuffix('"') + mark))


def unmarked(condition: Validators | None, mark: str) -> Validators | None:
    """What the source said of a document, by what is said here; None if other links were replaced in it."""
    if condition is None or condition.etag is None or not condition.etag.endswith(mark):
        return None
    known = None if condition.etag.startswith(_OF_BODY) else condition.etag.removesuffix(mark) + '"'
    return replace(condition, etag=known) or None
