"""Leading a fill: the process that has its lease downloads, and tells whoever waits how far it is, and how it ends.

A server has a thread download, as soon as there is a place for it; a caller of the library downloads in its own thread.
What they do is the same. Knows nothing of what is downloaded: that is the business of `fills.leader`.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial

from package_cache.engine.fills.failures import UNSTORABLE
from package_cache.engine.fills.fill import Fill
from package_cache.engine.fills.places import BUSY
from package_cache.engine.fills.reader import Progress
from package_cache.engine.threads import Run
from package_cache.errors import OutOfDescriptors, PackageCacheError, StoreError
from package_cache.storage.parts.leases import Failed, Lease

logger = logging.getLogger(__name__)

Store = Callable[[], None]
"""Stores what was downloaded, now or in a moment: `Leading.conclude` is called then. Raises StoreError."""

Lead = Callable[["Leading"], Store | None]
"""Downloads, reporting through `Leading.publish`. None once the lease is given back; else how to store what came."""


class Leading:
    """A download that this process leads, from its lease to its end. It counts as a user of its fill.

    `over` is told once nobody leads it any more, whether the download began or not.
    """

    def __init__(
        self, fill: Fill, lease: Lease, lead: Lead, client: str = "", over: Callable[[], None] = lambda: None
    ) -> None:
        self.fill = fill
        self.lease = lease
        self.client = client
        self._lead = lead
        self._tell_over = over
        self._is_over = False
        fill.leads = True
        fill.hold()

    # -- in a thread of a server

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it."""
        return self.fill.is_awaited

    def begin(self) -> None:
        """Download, and store what came, in a thread that is nobody else's."""
        self._work(self._all)

    def _all(self) -> None:
        store = self._download()
        if store is not None:
            self._store(store)

    def drop(self, *, forced: bool) -> bool:
        """End before the beginning, for want of a place; unless `forced`, only if nobody waits. Whether it did."""
        busy = Failed(503, BUSY)
        if forced:
            self.fill.end(busy)
        elif not self.fill.end_unawaited(busy):
            return False
        self.abandon(busy, keep=True)
        return True

    # -- in the thread of a caller

    def fetch(self, tell: Callable[[Progress], None], run: Run) -> None:
        """Download in the caller's thread; `tell` is told in it how far that is.

        What that raises, or an interrupt, goes to the caller, and what is left to do to another one who waits. A thread
        stores what came: that is work for other downloads as well, and is not to be interrupted.
        """

        def listener() -> None:
            tell(self.fill.latest)

        unowned = iter((self.lease,))  # whoever takes it out has the lease: this thread, or the one that stores
        try:
            self.fill.listen(listener)
            try:
                store = self._download()
            finally:
                self.fill.unlisten(listener)
            if store is None:
                return
            settle = partial(self._settle, unowned, store)
            try:
                run(settle)
            except RuntimeError:  # the system gives no more
                settle()
        except BaseException:
            if next(unowned, None) is not None:
                self._leave_to_others()
            raise

    def _settle(self, unowned: Iterator[Lease], store: Store) -> None:
        for _ in unowned:
            self._work(partial(self._store, store))

    def _leave_to_others(self) -> None:
        try:
            self.lease.abandon()
        except (PackageCacheError, OSError) as error:
            logger.warning("cannot clean up after %s: %s", self.fill.key, error)
        self.fill.forsake()
        self._end()

    # -- what both do

    def _download(self) -> Store | None:
        """Download; None if the fill is over. Whoever waits is told what hinders it, if that is to be expected."""
        store: Store | None = None
        try:
            store = self._lead(self)
        except StoreError as error:
            self.abandon(Failed(UNSTORABLE, str(error)))
        except OutOfDescriptors as error:
            self.abandon(Failed(error.http_status, str(error)), keep=True)
        else:
            if store is None:
                self._end()
        return store

    def _store(self, store: Store) -> None:
        try:
            store()
        except StoreError as error:
            self.abandon(Failed(UNSTORABLE, str(error)))

    def _work(self, work: Callable[[], None]) -> None:
        """Do a part of it in a thread that is nobody else's, where an error of this program would be seen by nobody."""
        try:
            work()
        except Exception:
            logger.exception("the download of %s ended in a bug", self.fill.key)
            self.abandon(Failed(500, "the download ended in an internal error"))

    def publish(self) -> None:
        """Show readers in this process how far it is."""
        self.fill.publish(self.lease)

    def conclude(self, error: StoreError | None) -> None:
        """The file whose storing was left to somebody is stored, or could not be."""
        try:
            if error is not None:
                raise error
            self.lease.done()
            self.publish()
        except StoreError as trouble:
            self.abandon(Failed(UNSTORABLE, str(trouble)))
        finally:
            self._end()

    def abandon(self, failure: Failed, *, keep: bool = False) -> None:
        """End it, and tell whoever waits why. With `keep`, what is here stays for the next attempt."""
        try:
            self.lease.failed(failure, keep=keep)
        except (PackageCacheError, OSError) as error:
            logger.warning("cannot clean up after %s: %s", self.fill.key, error)
        self.fill.end_as(self.lease.journal, failure)
        self._end()

    def _end(self) -> None:
        before, self._is_over = self._is_over, True
        if not before:
            self._tell_over()
            self.fill.leave()
