"""Which files may be kept for ever, which must be asked for again, and which are not stored at all.

Rules of the configuration come first, by the path alone. Else the table of the preset decides
(`rules.repositories.presets`), unless the media type of the answer says that it is a document, which changes.
"""

import math
from collections.abc import Mapping
from urllib.parse import unquote

from package_cache.config.globs import glob_pattern
from package_cache.model import Fresh, Freshness, Preset, Repository, Representation, Target
from package_cache.rules.http.answer import initial_age
from package_cache.rules.http.fields import is_document, is_page, is_xml, media_type
from package_cache.rules.repositories import lifetime
from package_cache.rules.repositories.documents import INTERVAL
from package_cache.rules.repositories.names import vouched_for
from package_cache.rules.repositories.presets import IMMUTABLE, POSTS, REVALIDATE, Verdict, judge

_LONGEST_ACCEPT = 1024
_LONGEST_REMEMBERED = 512
_REMEMBERED = 4096
CONFIRMED = 10.0
"""Seconds for which a confirmation is good enough for clients that want one of a file that does not change."""
_AHEAD = 60.0
"""Seconds by which an answer may have come after the request: it joined a download that was about to begin."""


class Policy:
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
        self._knows_documents = repository.preset is not Preset.RAW
        self._judged: dict[str, Verdict] = {}

    def freshness(self, target: Target, content_type: str | None = None) -> Fresh:
        """How long what is at a target is good; `content_type` is that of the stored answer, if there is one."""
        ruled = self._ruled(target)
        if ruled is not None:
            return ruled[0]
        verdict = self._judge(target)
        return REVALIDATE if self._is_document(verdict, media_type(content_type)) else verdict.fresh

    def decided_by(self, target: Target, content_type: str | None = None) -> str:
        """What decides that, in words."""
        ruled, kind, verdict = self._ruled(target), media_type(content_type), self._judge(target)
        if ruled is not None:
            return f"the rule for {ruled[1]} in the repository {self.repository.name}"
        if self._is_document(verdict, kind):
            return f"its type is {kind}"
        return verdict.reason if self._knows_documents else "the preset raw leaves it to the source"

    def _is_document(self, verdict: Verdict, kind: str) -> bool:
        """Whether an answer of that type is a document, which changes, whatever its name."""
        return self._knows_documents and (is_page(kind) or (not verdict.settled and (is_document(kind) or is_xml(kind))))

    def _ruled(self, target: Target) -> tuple[Fresh, str] | None:
        """What the first rule says that matches, and its glob; what no rule knows is as fresh as what it vouches for."""
        path = unquote(target.path) if self._fresh_by_rule else ""
        for name in dict.fromkeys((path, vouched_for(path))):
            for pattern, fresh, glob in self._fresh_by_rule:
                if pattern.fullmatch(name):
                    return fresh, glob
        return None

    def _judge(self, target: Target) -> Verdict:
        """What the table of the preset says."""
        verdict = self._judged.get(target.asked)
        if verdict is None:
            verdict = judge(self.repository.preset, target)
            if len(target.asked) <= _LONGEST_REMEMBERED:
                if len(self._judged) >= _REMEMBERED:
                    self._judged.clear()
                self._judged[target.asked] = verdict
        return verdict

    def passes_post(self, target: Target) -> bool:
        """Whether a POST is passed on to the sources."""
        return any(pattern.fullmatch(unquote(target.path)) for pattern in self._posts)

    def largest(self, target: Target) -> int | None:
        """How many bytes what is at a target may have to be stored; None if any number."""
        path = unquote(target.path) if self._largest_by_rule else ""
        ruled = (largest for pattern, largest in self._largest_by_rule if pattern.fullmatch(path))
        return next(ruled, self.repository.largest)

    def good_until(self, target: Target, head: Representation) -> float:
        """Until when an answer is good, in seconds of the epoch: infinity, if for ever; no later than it came, if never."""
        fresh = self.freshness(target, head.get("content-type"))
        if any(value == "*" for value in _varies(head)):
            return head.received
        match fresh.how:
            case Freshness.IMMUTABLE:
                return math.inf
            case Freshness.TIMED:
                return head.received + fresh.seconds
            case Freshness.HTTP:
                return lifetime.good_until(head)
            case Freshness.JSON_METADATA if head.good_until is not None:
                return max(head.good_until, head.received + INTERVAL)
            case _:
                return head.received

    def is_for_all(self, target: Target, head: Representation) -> bool:
        """Whether an answer is good for ever, and for whoever asks."""
        return math.isinf(self.good_until(target, head)) and not varies_by_accept(head)

    def may_be_stale(self, target: Target, head: Representation) -> bool:
        """Whether an answer may be served after its time, where no source can be asked."""
        fresh = self.freshness(target, head.get("content-type"))
        return fresh.how is not Freshness.HTTP or not lifetime.must_not_be_stale(head)

    def demanded(self, target: Target, fields: Mapping[str, str]) -> float | None:
        """How many seconds ago an answer may have come at most, where the client has a say in that.

        One that wants a file confirmed gets that unless it was confirmed just now, so that those who want it of every file
        cost a source no more than a question in a while. Where the name settles what the file is, it gets what is here.
        """
        how = self.freshness(target).how
        longest = lifetime.demanded(fields.get("cache-control"), fields.get("pragma"))
        if how is Freshness.HTTP:
            return longest
        if longest != 0.0 or how in (Freshness.REVALIDATE, Freshness.NEVER) or self._judge(target).settled:
            return None
        return CONFIRMED

    def demanded_until(self, target: Target, head: Representation, longest: float) -> float:
        """Until when an answer is good for a client that demands so, in seconds of the epoch."""
        is_by_source = self.freshness(target).how is Freshness.HTTP
        return head.received + longest - (initial_age(head) if is_by_source else 0.0)

    def refusal(self, target: Target, head: Representation) -> str | None:
        """Why an answer is passed on without being stored; None if it is stored."""
        fresh = self.freshness(target, head.get("content-type"))
        if fresh.how is Freshness.NEVER:
            return "its rule is never"
        if fresh.how is Freshness.HTTP and lifetime.is_private(head):
            return f"its source says {head.get('cache-control')}"
        largest = self.largest(target)
        if largest is not None and head.size is not None and head.size > largest:
            return f"it has {head.size} bytes, and no more than {largest} are stored of a file there"
        return None

    def accept_of(self, target: Target, accept: str | None) -> str | None:
        """The client's Accept where the answer may depend on it: for documents, not for package files.

        One that is very long, or of characters that no media type has, is taken for none: it becomes part of the key.
        """
        if accept is None or (self._is_file(target) and "json" not in accept):
            return None
        return normal_accept(accept)

    def _is_file(self, target: Target) -> bool:
        """Whether what is there is a file whoever asks, by a rule or by its name."""
        ruled = self._ruled(target)
        return self._judge(target).file if ruled is None else ruled[0] == IMMUTABLE


def is_good(until: float, received: float, now: float) -> bool:
    """Whether an answer that came at `received` holds, which is good until then. All in seconds of the epoch.

    Of one that came at a time that is still to come, the clock was wrong: it tells nothing of how old it is.
    """
    return now <= until > received and (math.isinf(until) or received <= now + _AHEAD)


def normal_accept(accept: str | None) -> str | None:
    """An Accept field in one spelling; None if it says nothing, or nothing that can be part of a key."""
    if accept is None or accept.strip() in ("", "*/*"):
        return None
    if len(accept) > _LONGEST_ACCEPT or not (accept.isascii() and accept.isprintable()):
        return None
    return ", ".join(part.strip() for part in accept.split(","))


def varies_by_accept(head: Representation) -> bool:
    """Whether the source would have answered another Accept with something else."""
    return "accept" in _varies(head)


def _varies(head: Representation) -> list[str]:
    """What the answer depends on, besides the target (RFC 9110, section 12.5.5)."""
    fields = (value for name, value in head.fields if name.lower() == "vary")
    return [word.strip().lower() for value in fields for word in value.split(",")]
