"""What a request asks of the sources, where the store has no answer to it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from package_cache.model import Entry, Freshness, Key, Representation, Target
from package_cache.rules.repositories.documents import parse
from package_cache.rules.repositories.freshness import Policy, is_good, varies_by_accept
from package_cache.upstream.fetcher import SourceOffer


@dataclass(frozen=True, slots=True)
class Wanted:
    """A target, named here by `key`, what holds for it, and what the sources offer there.

    `seen` is the version that was here when the registry's mark of the key was `mark`. `longest` is how many seconds ago it
    may have come from its source at most, if the client says so. `unsaid` is the client's Accept where sources are asked
    without it, since it hardly ever makes a difference for package files.
    """

    key: Key
    target: Target
    policy: Policy
    offer: SourceOffer
    since: float
    """When the request came, in seconds of the epoch: an index that was asked for earlier is not good enough for it."""
    longest: float | None = None
    unsaid: str | None = None
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

    def is_kept(self, head: Representation) -> bool:
        """Whether an answer with that head is good without asking a source."""
        until = self.policy.good_until(self.target, head)
        if self.longest is not None:
            until = min(until, self.policy.demanded_until(self.target, head, self.longest))
        return is_good(until, head.received, self.since)

    def is_hot(self, head: Representation) -> bool:
        """Whether an answer with that head is good for whoever asks, and for this client without asking a source."""
        return self.policy.is_for_all(self.target, head) and self.is_kept(head)

    def is_met_by(self, head: Representation) -> bool:
        """Whether an answer with that head is good for this request."""
        return self.is_kept(head) or head.received >= self.since

    def describe(self, representation: Representation, digest: str) -> None:
        """What the proxy knows of a version is in its head."""

    @property
    def is_for_ever(self) -> bool:
        """Whether what is there never changes, by its name."""
        return self.policy.freshness(self.target).how is Freshness.IMMUTABLE

    @property
    def is_stored(self) -> bool:
        """Whether what is there is stored at all."""
        return self.policy.freshness(self.target).how is not Freshness.NEVER

    def is_lasting(self, head: Representation) -> bool:
        """Whether an answer with that head is a file that never changes, whether its sources still have it or not."""
        return self.policy.good_until(self.target, head) == math.inf

    def differs(self, head: Representation) -> bool:
        """Whether sources may have another answer than that with this head for the client."""
        return self.unsaid is not None and varies_by_accept(head)

    def may_be_stale(self, head: Representation) -> bool:
        """Whether an answer with that head may be served where no source can be asked."""
        return self.policy.may_be_stale(self.target, head)

    def refusal(self, head: Representation) -> str | None:
        """Why an answer with that head is not stored; None if it is."""
        return self.policy.refusal(self.target, head)

    def largest(self) -> int | None:
        """How many bytes may be stored of it."""
        return self.policy.largest(self.target)

    def examined(self, head: Representation, read: Callable[[], bytes]) -> Representation:
        """The head, with what the body says of it. Raises ValueError for a body that is not what it has to be."""
        if self.policy.freshness(self.target, head.get("content-type")).how is not Freshness.JSON_METADATA:
            return head
        document = parse(read())
        return replace(head, good_until=document.timestamp + document.ttl)
