"""Small files that are stored and good for ever, for who must not wait: one look at the registry has all that a hit takes.

Nearly everything that is stored is like that. All else, and whatever is to be looked at more closely, is left to others.
"""

import math

from package_cache.engine.hotset import HotFile
from package_cache.engine.upkeep.last_use import LastUse
from package_cache.errors import StoreError
from package_cache.model import Freshness, Key
from package_cache.rules.repositories.freshness import TargetPolicy
from package_cache.storage.blobs import flaw
from package_cache.storage.registry import Registry


class Stored:
    """Belongs to the loop's thread. `via` is the name of this cache."""

    def __init__(self, registry: Registry, last_use: LastUse, via: str) -> None:
        self._registry = registry
        self._last_use = last_use
        self._via = via

    def is_absent(self, key: Key) -> bool:
        """Whether nothing of a key was ever stored, as far as that is known without a look."""
        return self._registry.is_absent(key)

    def find(self, key: Key, policy: TargetPolicy) -> HotFile | None:
        """The file of a key, good for whoever asks, with its bytes; None if there is none that can be had at once.

        `policy` are those of what has that key and no other one, whatever its clients say.
        """
        repository = policy.repository
        if policy.fresh.how is not Freshness.IMMUTABLE or repository.links or repository.tarballs:
            return None
        generation = self._registry.generation
        word = generation.word(key)
        mark = generation.words[word]
        try:
            found = self._registry.stored_at_once(key)
            if found is None:
                return None
            entry, body = self._last_use.newest(found[0]), found[1]
            head = entry.representation
            if policy.good_until(head) < math.inf or not policy.is_for_all(head):
                return None
        except StoreError:
            return None
        if body is None or flaw(body, entry.digest, entry.size) is not None:
            return None
        hot = HotFile(entry, None, word, mark, body=body)
        hot.form(self._via)
        return hot
