"""What a request asks of the sources, where the store has no answer to it."""

from dataclasses import dataclass, replace

from package_cache.model import Entry, Key, Representation, Target
from package_cache.rules.freshness import Freshness, freshness_of
from package_cache.upstream.answers import Offer


@dataclass(frozen=True, slots=True)
class Wanted:
    """A target, named here by `key`, and what the sources offer there.

    `seen` is the version that was here when the registry's mark of the key was `mark`.
    """

    key: Key
    target: Target
    offer: Offer
    since: float
    """When the request came, in seconds of the epoch: an index that was asked for earlier is not good enough for it."""
    mark: int = 0
    seen: Entry | None = None

    @property
    def text(self) -> str:
        """What to call it in the log."""
        return self.target.text

    @property
    def held(self) -> Representation | None:
        """What is here already, for a source to say that it is still so."""
        return self.seen.representation if self.seen else None

    def looked(self, mark: int, seen: Entry | None) -> "Wanted":
        """The same, after another look at what is here."""
        return replace(self, mark=mark, seen=seen)

    def is_kept(self, representation: Representation) -> bool:
        """Whether an answer with that head is good for ever."""
        return freshness_of(self.target, representation.get("content-type")) is Freshness.IMMUTABLE

    def is_met_by(self, representation: Representation) -> bool:
        """Whether an answer with that head is good for this request."""
        return self.is_kept(representation) or representation.received >= self.since

    def describe(self, representation: Representation, digest: str) -> None:
        """What the proxy knows of a version is in its head."""
