"""Writing back: the disk takes what was appended to a file while more of it arrives, so that little is left at the end.

A disk tells only once what it could not take, and whoever opens the file later never hears of it: what was told is kept.
"""

import os
import threading

from package_cache.storage.parts.descriptor import Descriptor

_EACH = 16 << 20
"""Bytes that are worth a thread."""


class Writeback:
    """Of one file that grows, for one thread at a time."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._given = 0
        self._running: threading.Thread | None = None
        self._error: OSError | None = None

    def grew(self, size: int) -> None:
        """The file has `size` bytes by now. Raises OSError if the disk did not take earlier ones."""
        if size - self._given < _EACH or (self._running is not None and self._running.is_alive()):
            return
        self._raise()
        descriptor = self._descriptor.share()
        running = threading.Thread(target=self._write, args=(descriptor,), name="writeback", daemon=True)
        try:
            running.start()
        except RuntimeError:  # the system gives no more threads
            descriptor.close()
        else:
            self._given, self._running = size, running

    def _write(self, descriptor: Descriptor) -> None:
        try:
            os.fdatasync(descriptor.fileno())
        except OSError as error:
            self._error = error
        finally:
            descriptor.close()

    def finish(self) -> None:
        """Make all that is in the file durable. Raises OSError if the disk did not take all of it, now or before."""
        self._wait()
        self._raise()
        try:
            os.fsync(self._descriptor.fileno())
        except OSError as error:
            self._error = error
            raise

    def is_well(self) -> bool:
        """Whether the disk took what it was given. Waits for its answer."""
        self._wait()
        return self._error is None

    def _wait(self) -> None:
        if self._running is not None:
            self._running.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
