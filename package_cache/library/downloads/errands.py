"""What the leader of a fill is sent for by the library, and what is written of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from package_cache.errors import ArgumentError
from package_cache.library.downloads.descriptors import Descriptor
from package_cache.library.downloads.headers import Headers
from package_cache.library.downloads.offers import Offer
from package_cache.library.opening import now
from package_cache.model import Entry, Key, Representation
from package_cache.rules.library.attributes import dump, load, moment
from package_cache.rules.library.files import extension
from package_cache.rules.library.naming import filename_of
from package_cache.storage.items.rows import Describe, Details


@dataclass(frozen=True, slots=True)
class Errand:
    """A download into the cache; see `engine.fills.leader.Errand`.

    With `conditional`, servers are asked whether they have another file than the one that is here. `since` is when it was
    wanted, in seconds of the epoch: what was fetched earlier is not good enough, unless `content`.
    """

    key: Key
    descriptor: Descriptor
    offer: Offer
    item: Details
    """What the item is to be, without what is known only when it is here."""
    named: tuple[str | None, str | None]
    """Extension and file name, where these were given."""
    since: float
    content: bool
    conditional: bool
    mark: int = 0
    seen: Entry | None = None

    @property
    def text(self) -> str:
        """What to call it in the log."""
        return self.descriptor.url

    @property
    def held(self) -> Representation | None:
        """The head that a server may confirm."""
        return self.seen.representation if self.seen is not None and self.conditional else None

    def looked(self, mark: int, seen: Entry | None) -> "Errand":
        """The same, after another look at what is here."""
        return replace(self, mark=mark, seen=seen)

    def is_met_by(self, representation: Representation) -> bool:
        """Whether a version with that head, which came here meanwhile, is good enough."""
        return self.content or representation.received >= self.since

    def refusal(self, head: Representation) -> None:
        """Whatever was asked for is stored."""

    def largest(self) -> None:
        """However large it is."""

    def examined(self, head: Representation, _read: Callable[[], bytes], /) -> Representation:
        """Nothing is asked of the bytes."""
        return head

    def describe(self, representation: Representation, digest: str) -> Describe:
        """The item of a version with that head and those bytes."""
        attrs = attributes_of(self.descriptor, self.offer, representation, digest, self.since)
        ext, name = self.named
        name = name or filename_of(representation.get("content-disposition"), str(attrs["resolved_url"]))
        ext = extension(ext, name)

        def describe(known: Details | None) -> Details:
            if known is None:
                return replace(self.item, attrs=dump(attrs, "attrs"), filename=name, ext=ext, date=now())
            try:
                text = dump({**load(known.attrs), **attrs}, "attrs")
            except ArgumentError:  # so much was written beside it that there is no room
                text = known.attrs
            return replace(known, attrs=text, date=now())

        return describe


def attributes_of(
    descriptor: Descriptor, offer: Offer, representation: Representation, digest: str, started: float
) -> dict[str, object]:
    """What is recorded of a download."""
    return {
        "url": descriptor.url,
        "resolved_url": offer.resolved(representation.source),
        "http_code": 200,
        "size": representation.size,
        "sha256": digest,
        "etag": representation.get("etag"),
        "last_modified": representation.get("last-modified"),
        "resp_headers": {name.lower(): value for name, value in Headers(representation.fields).items()},
        "download_started": _time(started),
        "download_finished": _time(now() / 1e6),
        "descriptor": descriptor.record(),
    }


def _time(seconds: float) -> datetime:
    return moment(int(seconds * 1e6))
