"""Where a source keeps its distfiles: asked for in the loop, once for all who wait for it. See `upstream.layouts`.

Belongs to the loop's thread.
"""

from collections.abc import Callable

from package_cache.engine.inquiry import Inquiry
from package_cache.errors import OutOfDescriptors
from package_cache.rules.transfers.steps import Action, Finish, GiveUp
from package_cache.rules.transfers.transfer import Transfer
from package_cache.upstream.fetcher import SourceOffer, Unlearned
from package_cache.upstream.layouts import ABSENT
from package_cache.upstream.pool import Begun, Outcome, Pool, Whole

_FAULTS = 500


class Learner:
    """What is asked for at present, by the folder that it is about."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.waiting: dict[str, list[Callable[[], None]]] = {}

    def learn(self, offer: SourceOffer, client: str, then: Callable[[], None]) -> bool:
        """Whether a source has to tell first where it keeps what is to be asked for; `then` is called when it has."""
        unlearned = offer.unlearned
        if unlearned is None:
            return False
        waiting = self.waiting.setdefault(unlearned.folder, [])
        waiting.append(then)
        if len(waiting) == 1:
            _Learning(self, unlearned, client).begin()
        return True


class _Learning(Inquiry):
    """One question."""

    def __init__(self, learner: Learner, unlearned: Unlearned, client: str) -> None:
        super().__init__(learner.pool, unlearned.offer, client)
        self._learner = learner
        self._unlearned = unlearned

    def _make_transfer(self) -> Transfer:
        return Transfer((self._unlearned.url,))

    def _heed(self, outcome: Outcome) -> Action | None:
        if isinstance(outcome, Begun):  # no layout is that long
            outcome.taken.close()
            self._end(b"")
            return None
        if isinstance(outcome, OutOfDescriptors) or (isinstance(outcome, Whole) and outcome.head.status >= _FAULTS):
            self._end(None)  # which speaks against nothing but the layout
            return None
        action = self._perform(outcome)
        if isinstance(action, Finish):
            self._end(self._sink.data)
            return None
        return action

    def _give_up(self, end: GiveUp) -> None:
        self._end(b"" if end.answered in ABSENT else None)

    def _end(self, said: bytes | None) -> None:
        self._unlearned.note(said)
        for then in self._learner.waiting.pop(self._unlearned.folder):
            then()
