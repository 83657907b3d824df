"""Which files may be kept for ever, which must be revalidated, and which are not stored at all.

A policy is found in three steps: what holds for the paths of a repository, for one target in it, and for a client's request
for that target. Rules of the configuration come first, by the path alone. Else the preset decides by the name
(`rules.repositories.presets`), unless the media type of the response says that it is a document, which changes. What a
source says by header fields is read in `rules.http.caching`. All times are in seconds of the epoch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from package_cache.config.globs import glob_pattern
from package_cache.model import Fresh, Freshness, Preset, Repository, Representation, Target
from package_cache.rules.http import caching
from package_cache.rules.http.caching import Demand, normal_accept, varies, varies_by_accept
from package_cache.rules.http.digests import Digest
from package_cache.rules.http.fields import is_document, is_page, is_xml, media_type
from package_cache.rules.repositories.documents import INTERVAL
from package_cache.rules.repositories.names import digest_in_path, vouched_for
from package_cache.rules.repositories.presets import IMMUTABLE, POSTS, REVALIDATE, Judgement, judge

_LONGEST_TYPE = 255
"""Characters of a media type (RFC 6838, section 4.2), without its parameters."""
_LONGEST_REMEMBERED = 512
_REMEMBERED = 4096
CONFIRMED = 10.0
"""Seconds for which a confirmation is good enough for clients that want one of a file that does not change."""


class RepositoryPolicy:
    """What holds for the paths of one repository."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        rules = tuple((glob_pattern(rule.match), rule) for rule in repository.rules)
        self._fresh_by_rule = tuple((pattern, rule.fresh, rule.match) for pattern, rule in rules if rule.fresh)
        self._largest_by_rule = tuple((pattern, rule.largest) for pattern, rule in rules if rule.largest)
        posts = repository.posts
        if posts is None:
            posts = POSTS.get(repository.preset, ()) if repository.preset else ()
        self._posts = tuple(glob_pattern(glob) for glob in posts)
        self._known: dict[str, TargetPolicy] = {}

    def at(self, target: Target) -> "TargetPolicy":
        """What holds for one target."""
        asked = target.asked
        policy = self._known.get(asked)
        if policy is None:
            policy = self._at(target)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            if len(asked) <= _LONGEST_REMEMBERED:
                self._known[asked] = policy
        return policy

    def _at(self, target: Target) -> "TargetPolicy":
        repository, ruled, largest = self.repository, None, self.repository.largest
        if self._fresh_by_rule or self._largest_by_rule:
            path = unquote(target.path)
            ruled = self._ruled(path)
            largest = next((size for pattern, size in self._largest_by_rule if pattern.fullmatch(path)), largest)
        digest = digest_in_path(repository.preset, target)
        verdict = judge(repository.preset, target, digest)
        return TargetPolicy(repository, verdict.fresh if ruled is None else ruled.fresh, verdict, ruled, largest, digest)

    def _ruled(self, path: str) -> "_Ruled | None":
        """What the first rule says that matches; else the first that matches the file for which this one vouches."""
        for name in dict.fromkeys((path, vouched_for(path))):
            for pattern, fresh, glob in self._fresh_by_rule:
                if pattern.fullmatch(name):
                    return _Ruled(fresh, glob)
        return None

    def passes_post(self, target: Target) -> bool:
        """Whether a POST is passed on to the sources."""
        return any(pattern.fullmatch(unquote(target.path)) for pattern in self._posts)


@dataclass(frozen=True, slots=True)
class _Ruled:
    """What a rule of the configuration says, and its glob."""

    fresh: Fresh
    glob: str


class TargetPolicy(NamedTuple):
    """What holds for one target, as far as its name tells; it is found once, and asked about every response.

    `fresh` is its freshness while nothing is known of its type. `largest` is how many bytes a response may have to be
    stored; None if any number. `digest` is what its bytes must hash to, if the name says so.
    """

    repository: Repository
    fresh: Fresh
    verdict: Judgement
    ruled: _Ruled | None
    largest: int | None
    digest: Digest | None

    def freshness(self, content_type: str | None = None) -> Fresh:
        """The freshness of the target; `content_type` is that of the stored response, if there is one."""
        if content_type is None or self.ruled is not None:
            return self.fresh
        return REVALIDATE if self._is_document(content_type) else self.fresh

    def decided_by(self, content_type: str | None = None) -> str:
        """What decides that, in words."""
        if self.ruled is not None:
            return f"the rule for {self.ruled.glob} in the repository {self.repository.name}"
        if content_type is not None and self._is_document(content_type):
            return f"its type is {media_type(content_type)}"
        is_raw = self.repository.preset is Preset.RAW
        return "the preset raw leaves it to the source" if is_raw else self.verdict.reason

    def _is_document(self, content_type: str) -> bool:
        """Whether a response of that type is a document, which changes, whatever its name."""
        if self.repository.preset is Preset.RAW:
            return False
        page, document = _kind(content_type[:_LONGEST_TYPE])
        return page or (document and not self.verdict.settled)

    def good_until(self, head: Representation) -> float:
        """Until when a response is fresh: infinity if for ever; the time at which it came if it is to be revalidated."""
        fresh = self.freshness(head.get("content-type"))
        if fresh.how is Freshness.REVALIDATE or "*" in varies(head):
            return head.received
        match fresh.how:
            case Freshness.IMMUTABLE:
                return math.inf
            case Freshness.TIMED:
                return head.received + fresh.seconds
            case Freshness.HTTP:
                return caching.good_until(head)
            case Freshness.JSON_METADATA if head.good_until is not None:
                return max(head.good_until, head.received + INTERVAL)
            case _:
                return head.received

    def always_revalidates(self, head: Representation) -> bool:
        """Whether a response is revalidated for each request, whatever its fields say."""
        return self.freshness(head.get("content-type")).how is Freshness.REVALIDATE

    def is_for_all(self, head: Representation) -> bool:
        """Whether a response is the same for all clients whose Accept leads to its key."""
        return not self._is_file or not varies_by_accept(head)

    def may_be_stale(self, head: Representation) -> bool:
        """Whether a response may be served stale if no source can be asked."""
        fresh = self.freshness(head.get("content-type"))
        return fresh.how is not Freshness.HTTP or not caching.must_not_be_stale(head)

    def demanded(self, fields: Mapping[str, str]) -> Demand | None:
        """What a request demands by its fields; None if nothing that matters.

        A client that wants a file confirmed gets that unless it was confirmed just now: clients that want it of every file
        cost a source one request in a while. If the name settles what the file is, what is stored is good enough.
        """
        if "cache-control" not in fields and "pragma" not in fields:
            return None
        demand, how = caching.demanded(fields.get("cache-control"), fields.get("pragma")), self.fresh.how
        if demand is None or how is Freshness.HTTP:
            return demand
        doubts = demand.age == 0.0 and how not in (Freshness.REVALIDATE, Freshness.NEVER) and not self.verdict.settled
        if not doubts and not demand.stored_only:
            return None
        return Demand(CONFIRMED if doubts else math.inf, stored_only=demand.stored_only)

    def demanded_until(self, head: Representation, demand: Demand) -> float:
        """Until when a response is good for a client that demands this."""
        until = self.good_until(head) - demand.fresh
        if demand.stale and self.may_be_stale(head) and "*" not in varies(head):
            until = min(until, caching.stale_from(head) - demand.fresh) + demand.stale
        if demand.age == math.inf:
            return until
        age = caching.initial_age(caching.divided(head)[1], head.received) if self.fresh.how is Freshness.HTTP else 0.0
        return min(until, head.received + demand.age - age)

    def refusal(self, head: Representation) -> str | None:
        """Why a response is passed on without being stored; None if it is stored."""
        fresh = self.freshness(head.get("content-type"))
        if fresh.how is Freshness.NEVER:
            return "its rule is never"
        if fresh.how is Freshness.HTTP and caching.is_private(head):
            return f"its source says {head.get('cache-control')}"
        if self.largest is not None and head.size is not None and head.size > self.largest:
            return f"it has {head.size} bytes, and no more than {self.largest} are stored of a file there"
        return None

    def asked(self, fields: Mapping[str, str]) -> "RequestPolicy":
        """What holds for a request with these fields."""
        return RequestPolicy(self, self.accept_of(fields.get("accept")), self.demanded(fields))

    def accept_of(self, accept: str | None) -> str | None:
        """The client's Accept if the response may depend on it: for documents, not for package files."""
        if accept is None or (self._is_file and "json" not in accept):
            return None
        return normal_accept(accept)

    @property
    def _is_file(self) -> bool:
        """Whether the target is a file, whoever asks: by a rule, or by its name."""
        return self.verdict.file if self.ruled is None else self.ruled.fresh == IMMUTABLE


class RequestPolicy(NamedTuple):
    """What holds for a client's request, whatever is stored.

    `accept` is its Accept if the response may depend on that, `demand` what it demands of a response, if that
    matters.
    """

    policy: TargetPolicy
    accept: str | None
    demand: Demand | None

    @property
    def is_for_all(self) -> bool:
        """Whether the key alone decides the response; for a file that never changes, the target alone."""
        how = self.policy.fresh.how
        if how is Freshness.NEVER or (how is Freshness.IMMUTABLE and self.accept is not None):
            return False
        return self.demand is None

    @property
    def always_revalidates(self) -> bool:
        """Whether the name alone says that the response is revalidated for each request."""
        return self.policy.fresh.how is Freshness.REVALIDATE


@lru_cache(maxsize=256)
def _kind(content_type: str) -> tuple[bool, bool]:
    """Whether a media type is that of a page, and whether it is that of any document."""
    kind = media_type(content_type)
    return is_page(kind), is_document(kind) or is_xml(kind)
