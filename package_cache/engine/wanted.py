"""What a request asks of the sources, where the store has no answer to it."""

import math
from collections.abc import Callable
from dataclasses import replace

from package_cache.model import Entry, Freshness, Key, Representation, Request, Target, frozen
from package_cache.rules.http.caching import Demand, is_fresh, varies_by_accept
from package_cache.rules.repositories.documents import parse
from package_cache.rules.repositories.freshness import TargetPolicy
from package_cache.upstream.fetcher import SourceOffer


@frozen
class Wanted:
    """A target, named here by `key`, what holds for it, and what the sources offer there.

    `seen` is the version that was here when the registry's mark of the key was `mark`. `demand` is what the
    client demands of it, if that matters. `unsaid` is the client's Accept where sources are asked
    without it, since it hardly ever makes a difference for package files.
    """

    key: Key
    target: Target
    policy: TargetPolicy
    offer: SourceOffer
    since: float
    """When the request came, in seconds of the epoch: an index that was asked for earlier is not good enough for it."""
    demand: Demand | None = None
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
        key, target, policy, offer = self.key, self.target, self.policy, self.offer
        return Wanted(key, target, policy, offer, self.since, self.demand, self.unsaid, mark, seen)

    def is_fresh(self, head: Representation) -> bool:
        """Whether an answer with that head is good without asking a source."""
        policy, demand = self.policy, self.demand
        until = policy.good_until(head) if demand is None else policy.demanded_until(head, demand)
        return is_fresh(until, head.received, self.since)

    def is_hot(self, head: Representation) -> bool:
        """Whether an answer with that head may be at hand for whoever asks, and holds without asking a source."""
        return self.policy.is_for_all(head) and self.is_fresh(head)

    def is_askable(self, head: Representation) -> bool:
        """Whether an answer with that head may be at hand for whoever asks, for a source to be asked about it first.

        What a source is told of caches on the way is not the same for all.
        """
        is_plain = self.demand is None and self.offer.via is None
        return is_plain and self.policy.is_for_all(head) and bool(head.validators)

    def is_met_by(self, head: Representation) -> bool:
        """Whether an answer with that head is good for this request."""
        return self.is_fresh(head) or head.received >= self.since

    def describe(self, representation: Representation, digest: str) -> None:
        """What the proxy knows of a version is in its head."""

    @property
    def is_for_ever(self) -> bool:
        """Whether what is there never changes, by its name."""
        return self.policy.fresh.how is Freshness.IMMUTABLE

    @property
    def is_stored(self) -> bool:
        """Whether what is there is stored at all."""
        return self.policy.fresh.how is not Freshness.NEVER and (self.demand is None or not self.demand.unstored)

    @property
    def stored_only(self) -> bool:
        """Whether the client wants no source to be asked."""
        return self.demand is not None and self.demand.stored_only

    def is_lasting(self, head: Representation) -> bool:
        """Whether an answer with that head is a file that never changes, whether its sources still have it or not."""
        return self.policy.good_until(head) == math.inf

    def differs(self, head: Representation) -> bool:
        """Whether sources may have another answer than that with this head for the client."""
        return self.unsaid is not None and varies_by_accept(head)

    def may_be_stale(self, head: Representation) -> bool:
        """Whether an answer with that head may be served where no source can be asked."""
        return self.policy.may_be_stale(head)

    @property
    def has_nothing_to_tell(self) -> bool:
        """Whether sources are asked though they are set aside: nothing here may be served, or says that they had none."""
        return self.is_for_ever and (self.seen is None or not self.may_be_stale(self.seen.representation))

    def refusal(self, head: Representation) -> str | None:
        """Why an answer with that head is not stored; None if it is."""
        return self.policy.refusal(head)

    def largest(self) -> int | None:
        """How many bytes may be stored of it."""
        return self.policy.largest

    def is_other(self, head: Representation, size: int) -> bool:
        """Whether a body with that head, of so many bytes, is not to be stored at all, or not as it is: it has a coding."""
        policy = self.policy
        is_larger = policy.largest is not None and size > policy.largest
        return is_larger or is_coded(head) or policy.refusal(head) is not None

    def examined(self, head: Representation, read: Callable[[], bytes]) -> Representation:
        """The head, with what the body says of it. Raises ValueError for a body that is not what it has to be."""
        if self.policy.fresh.how is not Freshness.JSON_METADATA:
            return head  # only a rule says so, whatever the type
        document = parse(read())
        return replace(head, good_until=document.timestamp + document.ttl)


@frozen
class Pass:
    """A request that is passed to the sources, with its content, since nothing of what they answer is kept."""

    request: Request
    wanted: Wanted
    content: bytes = b""


def is_coded(head: Representation) -> bool:
    """Whether a body with that head has a content coding."""
    coding = head.get("content-encoding")
    return coding is not None and coding.lower() not in ("", "identity")
