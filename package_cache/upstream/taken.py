"""Answers in the hands of a thread: their bodies are read as they come, over a connection that left the event loop.

The connection goes back to the loop when the body was read to its end, so that the next request can use it.
"""

import time
from collections.abc import Callable
from contextlib import suppress

from package_cache.errors import UpstreamError, UpstreamTimeout
from package_cache.model import Fields
from package_cache.rules.http.response import Framing, ResponseHead
from package_cache.upstream.opening import Connected, reason_of

_LEAST, _MOST = 1 << 17, 1 << 20
"""Bytes that are read at a time at most; it grows while reads fill it: large buffers take time, too."""


class Taken:
    """The rest of an answer. `first` is what came of its body already; a source may be silent for `stall` seconds.

    `back` takes the connection at the end; it is None if the connection cannot be used again.
    """

    def __init__(
        self,
        head: ResponseHead,
        one: Connected,
        framing: Framing,
        first: bytes,
        stall: float,
        back: Callable[[Connected], None] | None,
    ) -> None:
        self.status = head.status
        self.fields: Fields = head.fields
        self.marked = head.chunked
        self._socket: Connected | None = one
        self._framing = framing
        self._first = first
        self._block = _LEAST
        self._stall = stall
        self._back = back
        one.settimeout(stall)

    @property
    def first(self) -> bytes:
        """What came of the body already and was not read yet."""
        return self._first

    def read(self) -> bytes:
        """The next bytes as soon as there are any; empty at an end in good order. Raises UpstreamError."""
        if self._first:
            data, self._first = self._first, b""
            return data
        until = 0.0
        while not self._framing.ended and self._socket is not None:
            block = self._receive(self._socket)
            if not block:
                self._framing.close()
                self._back = None
            data = self._framing.take(block)
            if self._framing.ended:
                self._look_behind(self._socket)
            if data:
                if until:
                    self._socket.settimeout(self._stall)
                return data
            until = until or time.monotonic() + self._stall
            self._hurry(self._socket, until)
        return b""

    @staticmethod
    def _hurry(one: Connected, until: float) -> None:
        """Only a line between two chunks came, or a piece of one: that must not go on for ever."""
        left = until - time.monotonic()
        if left <= 0:
            raise UpstreamTimeout("took too long over an answer's head, or over a line between two chunks")
        one.settimeout(left)

    def _look_behind(self, one: Connected) -> None:
        """Look whether anything follows the body: the connection is out of step then."""
        framing = self._framing
        if not framing.surplus and self._back is not None:
            with suppress(OSError):
                one.settimeout(0)
                framing.take(one.recv(1))
                self._back = None  # closed, or out of step
        framing.refuse_surplus(self.status)

    def _receive(self, one: Connected) -> bytes:
        try:
            block = one.recv(self._block)
        except TimeoutError as error:
            raise UpstreamTimeout("fell silent") from error
        except OSError as error:
            raise UpstreamError(f"broke off: {reason_of(error)}", again=True) from error
        if len(block) == self._block:
            self._block = min(2 * self._block, _MOST)
        return block

    def close(self) -> None:
        """Give the connection back if it can be used again, else drop it. May be called again."""
        one, self._socket = self._socket, None
        if one is None:
            return
        if self._framing.ended and self._back is not None and not self._framing.surplus:
            self._back(one)
        else:
            one.close()


class Held:
    """An answer whose body came already, up to the end or to where it broke off."""

    def __init__(self, head: ResponseHead, body: bytes, error: UpstreamError | None = None) -> None:
        self.status = head.status
        self.fields: Fields = head.fields
        self.marked = head.chunked
        self._body = body
        self._error = error

    def read(self) -> bytes:
        """All of it; then nothing. Raises UpstreamError where it broke off."""
        body, self._body = self._body, b""
        if not body and self._error is not None:
            raise self._error.with_traceback(None)
        return body

    def close(self) -> None:
        """Nothing is open."""
