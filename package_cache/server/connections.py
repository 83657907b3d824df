"""What the event loop keeps of each client: the request it is at, what is sent, and how far.

Values and small functions on them; the loop moves them on.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from io import FileIO

from package_cache.engine.answers import Answer
from package_cache.engine.aside import AsideReader
from package_cache.engine.checks import CheckedReader
from package_cache.engine.fills.fill import FillReader
from package_cache.engine.hotset import HotFile
from package_cache.engine.pending import Pending
from package_cache.engine.relay import Relay
from package_cache.engine.several import SeveralReader
from package_cache.errors import BadRequest, RequestError
from package_cache.model import Request, Target
from package_cache.rules.http import wire
from package_cache.rules.http.answer import Reply
from package_cache.rules.http.content import Content
from package_cache.rules.repositories.routes import Routes, is_own
from package_cache.server.access import Said
from package_cache.server.sockets import READ

_CONDITIONS = frozenset({"range", "if-none-match", "if-modified-since", "if-range"})
_GAP = "\0"
"""Stands for what changes each second; no field value has it."""
_NOT_SIMPLE = frozenset({"expect", "upgrade", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A simple request, parsed.

    `name` is what its target is called here. `plain` says that neither a range nor a condition bears on the answer, `hot`
    that the hot set may have it: nothing but the target names the answer.
    """

    request: Request
    name: str
    said: Said
    keep: bool
    plain: bool
    hot: bool


@dataclass(slots=True)
class Connection:
    """One client. What it waits for decides which of the optional members are set."""

    socket: socket.socket
    descriptor: int
    address: object
    moved: float
    events: int = READ
    admitted: bool = True
    """Whether it may ask for files; on this machine, who may not asks how the service fares all the same."""
    received: bytes = b""
    content: Content | None = None
    """What follows a head that was received, and is to be read before it is answered."""
    busy: bool = False
    queued: bool = False
    """Whether its next request is here, and waits for its turn."""
    asked: Asked | None = None
    head: bytes = b""
    source: HotFile | FileIO | CheckedReader | FillReader | None = None
    body: bytes = b""
    at: int = 0
    stop: int = 0
    begun: float = 0.0
    answer_kind: str = "-"
    answer_source: str = "-"
    status: int = 0
    first: int = 0
    pending: Pending | None = None
    paced: float = 0.0
    """Since when the client alone sets the pace, or was found fast enough; 0.0 while it does not."""
    paced_from: int = 0
    closed: bool = False
    leaving: bool = False
    unserved: bool = False
    """Whether it was turned away before it asked."""
    served: bool = False
    keep: bool = False
    """Whether the answer that is sent says that the connection persists."""

    @property
    def sent(self) -> int:
        """Bytes of the body that were given to the client's socket; `first` is below zero for one that is in the head."""
        return self.at - self.first - min(len(self.head), max(0, -self.first))


@dataclass(slots=True)
class Counters:
    """What the loop did since it started."""

    accepted: int = 0
    hits: int = 0
    refused: int = 0
    stalls: int = 0


def simple(head: wire.Head, routes: Routes, via: str = _GAP) -> Asked | None:
    """The request, if it is one that the loop answers itself; what is not goes to the host's ordinary path.

    `via` is the name by which requests that come back to this cache are known.
    Raises BadRequest where its target names nothing.
    """
    if head.method not in ("GET", "HEAD") or head.has_body:
        return None
    fields = head.combined
    try:
        target = routes.find(head.target, fields.get("host"))
    except BadRequest:
        raise
    except RequestError:
        return None
    if not _NOT_SIMPLE.isdisjoint(fields):
        return None
    own = is_own(target)
    if head.minor != 1 and not own:  # who asks how the service fares is often as old, and must not wait
        return None
    hot = not own and via not in fields.get("via", "") and _may_be_hot(target, fields, routes)
    request = Request(head.method, target, fields, text=head.target)
    said = said_in(head, fields)
    return Asked(request, target.text, said, head.keep_alive, plain=_CONDITIONS.isdisjoint(fields), hot=hot)


def _may_be_hot(target: Target, fields: Mapping[str, str], routes: Routes) -> bool:
    """Whether nothing but the target decides what the answer is, as far as the client is asked."""
    policy = routes.policy(target)
    return policy.accept_of(target, fields.get("accept")) is None and policy.demanded(target, fields) is None


def said_in(head: wire.Head, fields: Mapping[str, str]) -> Said:
    """What the log is to say of a request; `fields` are those of its head, combined."""
    return Said(head.method, head.target, fields.get("user-agent", "-"))


def render(reply: Reply, software: str, date: str, *, keep: bool) -> bytes:
    """The head of a response on the wire."""
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
    lines += [f"Server: {software}", f"Date: {date}", f"Connection: {'keep-alive' if keep else 'close'}"]
    lines += [f"{name}: {value}" for name, value in reply.fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def cut_up(reply: Reply, software: str, *, keep: bool) -> tuple[bytes, bytes, bytes]:
    """The head of a response without its date and its age: what stands before, between and behind the two."""
    fields = tuple((name, _GAP if name == "Age" else value) for name, value in reply.fields)
    first, second, third = render(replace(reply, fields=fields), software, _GAP, keep=keep).split(_GAP.encode())
    return first, second, third


def release(step: HotFile | Answer | Pending) -> None:
    """Give back what nobody will send."""
    match step:
        case HotFile():
            step.file.close()
        case Pending():
            step.abandon()
        case Answer(body=FileIO() | CheckedReader() | FillReader() | AsideReader() | SeveralReader() | Relay() as body):
            body.close()
        case Answer():
            return


def describe(connection: Connection) -> str:
    """What the connection asked for, for the log."""
    return repr(connection.asked.said.target) if connection.asked else "-"


def head_again(asked: Asked) -> bytes:
    """The request as bytes, for a host that must read it anew."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in asked.request.fields.items())
    return f"{asked.request.method} {asked.said.target} HTTP/1.1\r\n{fields}\r\n".encode("latin-1")


def client_name(address: object) -> str:
    """The client, as the log names it: by its IP address, or `unix:` for any on a unix socket."""
    # A socket for both families shows an IPv4 address in this form (RFC 4291, section 2.5.5.2).
    return str(address[0]).removeprefix("::ffff:") if isinstance(address, tuple) else "unix:"
