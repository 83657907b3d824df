"""A client of bytes: sends what it is told, reads one answer at a time, and sees how the connection ends."""

import re
import socket
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Answer:
    """One answer as it came. Field names are lower case, in order; `whole` says that the body ended as announced."""

    version: str
    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    whole: bool

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def get(self, name: str) -> str | None:
        """The value of a field that may stand once only."""
        values = self.all(name)
        assert len(values) < 2, f"{name} stands {len(values)} times"
        return values[0] if values else None


class Client:
    """One connection. Every wait has a limit; a limit that is reached is a failure, but in `is_open`."""

    def __init__(self, address: tuple[str, int], timeout: float = 30, source: str = "") -> None:
        self.socket = socket.create_connection(address, timeout, (source, 0) if source else None)
        self._held = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def get(self, target: str, *lines: str, method: str = "GET", version: str = "HTTP/1.1") -> Answer:
        """A well-formed request, and its answer."""
        self.ask(target, *lines, method=method, version=version)
        return self.answer(method)

    def ask(self, target: str, *lines: str, method: str = "GET", version: str = "HTTP/1.1") -> None:
        """A well-formed request."""
        host = () if version == "HTTP/1.0" else ("Host: mirror.example",)
        self.send("".join(f"{line}\r\n" for line in (f"{method} {target} {version}", *host, *lines, "")).encode("latin-1"))

    def answer(self, method: str = "GET") -> Answer:
        """The next answer."""
        return self.rest(self.head(), method)

    def rest(self, answer: Answer, method: str = "GET") -> Answer:
        """The answer whose head was read, with its body."""
        if method == "HEAD" or answer.status in (100, 204, 304):
            return answer
        length = answer.get("content-length")
        if answer.get("transfer-encoding") == "chunked":
            assert length is None, "both Content-Length and Transfer-Encoding"
            body, whole = self._chunks()
        elif length is not None:
            body, whole = self._take(int(length))
        else:
            body, whole = self._take(1 << 40)[0], False
        return Answer(answer.version, answer.status, answer.fields, body, whole)

    def head(self) -> Answer:
        """The head of the next answer, as soon as it is there."""
        while b"\r\n\r\n" not in self._held:
            assert self._fill(), f"the connection ended within a head: {self._held!r}"
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"(HTTP/1\.\d) (\d{3}) [^\r\n]+", first)
        assert match, f"no status line: {first!r}"
        pairs = (line.partition(":") for line in lines)
        fields = tuple((name.lower(), value.strip(" \t")) for name, _, value in pairs)
        return Answer(match[1], int(match[2]), fields, b"", True)

    def _take(self, size: int) -> tuple[bytes, bool]:
        blocks, have = [self._held], len(self._held)
        while have < size:
            self._held = b""
            if not self._fill():
                return b"".join(blocks), False
            blocks.append(self._held)
            have += len(self._held)
        data = b"".join(blocks)
        self._held = data[size:]
        return data[:size], True

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            while b"\r\n" not in self._held:
                if not self._fill():
                    return body, False
            line, _, self._held = self._held.partition(b"\r\n")
            size = int(line, 16)
            block, whole = self._take(size + 2)
            if not whole:
                return body + block, False
            assert block.endswith(b"\r\n")
            if not size:
                return body, True
            body += block[:-2]

    def _fill(self) -> bool:
        try:
            block = self.socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._held += block
        return bool(block)

    def ended(self) -> bool:
        """Wait for the server to end the connection; False if it sends something instead."""
        return not self._held and not self._fill()

    def is_open(self, seconds: float) -> bool:
        """Whether the connection stands that long with nothing said."""
        self.socket.settimeout(seconds)
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except TimeoutError:
            return True
        except ConnectionResetError:
            return False
