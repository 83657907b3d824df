"""A reference model of the product, and random schedules that hold it against the model.

A schedule is a list of steps, made from a number: clients that get, look, resume and leave, mirrors that come, go, cut and
change, processes that are killed, a disk that refuses. `Player` plays one with real servers and asks `Truth` of each answer
whether it may be: the bytes are those of one version that was published under that name, or the transfer visibly breaks.
Where nothing is wrong anywhere, nothing but the right answer will do. `shorten` looks for a shorter schedule that fails.
"""

import base64
import errno
import hashlib
import http.client
import json
import random
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from faulty import Fork, Nursery, Plan
from origin import Behaviour, Origin, Raw, Say, Serve, until
from product import Response, blobs, parts, size_of

PACKAGES = {"/small.tar": 3_000, "/medium.tar": 90_000, "/large.tar": 500_000}
INDEXES = {"/layout.conf": 2_000, "/dists/Packages": 150_000}
SIZES = PACKAGES | INDEXES
TOO_MANY = 10_000_000
"""Bytes that no file has."""
TIMEOUTS = {
    "PACKAGE_CACHE_CONNECT_TIMEOUT": "2",
    "PACKAGE_CACHE_HEAD_TIMEOUT": "0.8",
    "PACKAGE_CACHE_STALL_TIMEOUT": "0.5",
}
PATIENCE = 60.0
"""Seconds after which a client that still waits is a failure of the product."""


@cache
def body_of(path: str, version: int) -> bytes:
    """What is published under a name; each version has a length of its own."""
    return random.Random(f"{path} {version}").randbytes(SIZES[path] + 17 * version)


# What may happen


@dataclass(frozen=True)
class Get:
    """A request, of the server of that number. `leave` closes the connection after so many bytes of the body."""

    path: str
    server: int = 0
    method: str = "GET"
    range: str = ""
    condition: bool = False
    leave: int | None = None


@dataclass(frozen=True)
class Together:
    """Requests at the same time."""

    gets: tuple[Get, ...]


@dataclass(frozen=True)
class Publish:
    """There is a new version of a file, at one mirror or at all (None)."""

    path: str
    mirror: int | None


@dataclass(frozen=True)
class Trouble:
    """The next answers of a mirror for a path are not as they should be."""

    mirror: int
    path: str
    kinds: tuple[str, ...]
    at: int


@dataclass(frozen=True)
class Down:
    """A mirror is gone."""

    mirror: int


@dataclass(frozen=True)
class Up:
    """A mirror is back."""

    mirror: int


@dataclass(frozen=True)
class Kill:
    """A server is killed and started again; while it sends, if there is a `get`, after `at` bytes of that."""

    server: int
    get: Get | None = None
    at: int = 0


@dataclass(frozen=True)
class Stop:
    """A server is told to end, and started again."""

    server: int


@dataclass(frozen=True)
class DiskFails:
    """The disk refuses with this error from now on."""

    number: int


@dataclass(frozen=True)
class DiskHeals:
    """The disk is well."""


@dataclass(frozen=True)
class Rot:
    """The stored bytes of a file change while no server runs."""

    path: str


Happening = Get | Together | Publish | Trouble | Down | Up | Kill | Stop | DiskFails | DiskHeals | Rot


@dataclass(frozen=True)
class Schedule:
    """What happens, in order, with so many mirrors. `workers` says that the servers are workers of one Gunicorn."""

    seed: int
    mirrors: int
    workers: bool
    happenings: tuple[Happening, ...]

    def __str__(self) -> str:
        lines = "\n".join(f"    {one}," for one in self.happenings)
        return f"Schedule(seed={self.seed}, mirrors={self.mirrors}, workers={self.workers}, happenings=(\n{lines}\n))"


KINDS: dict[str, Callable[[int], Behaviour]] = {
    "cut": lambda at: Serve(cut=at),
    "reset": lambda at: Serve(reset=at),
    "stall": lambda at: Serve(stall=at),
    "chunked": lambda _: Serve(chunked=True),
    "no ranges": lambda _: Serve(ranges=False),
    "no validators": lambda _: Serve(validators=False),
    "no length": lambda _: Serve(length=False),
    "shifted range": lambda at: Serve(range_shift=1 + at % 100),
    "too much": lambda at: Serve(extra=b"x" * (1 + at % 2000)),
    "too little": lambda at: Serve(declared=TOO_MANY + at),
    "slow": lambda _: Serve(pace=1_500_000.0),
    "leaves": lambda _: Serve(leave=True),
    "404": lambda _: Say(404),
    "403": lambda _: Say(403),
    "500": lambda _: Say(500),
    "503": lambda _: Say(503),
    "416": lambda _: Say(416),
    "garbage": lambda at: Raw(random.Random(at).randbytes(300)),
    "nothing": lambda _: Raw(b""),
}
"""Troubles, with a place in the body where they have one."""
HARMLESS = ("chunked", "no ranges", "no validators", "slow", "leaves")
"""Troubles in spite of which every client gets what it asks for."""
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES)


def schedule(seed: int, *, workers: bool = False) -> Schedule:
    """A schedule, made from its number alone."""
    dice = random.Random(seed)
    mirrors = dice.randint(1, 3)
    calm, disk = dice.random() < 0.3, dice.random() < 0.2 and not workers
    length = dice.randint(4, 16)
    happenings = [_happening(dice, mirrors, calm=calm, disk=disk, workers=workers) for _ in range(length)]
    return Schedule(seed, mirrors, workers, tuple(happenings))


def _happening(dice: random.Random, mirrors: int, *, calm: bool, disk: bool, workers: bool) -> Happening:
    mirror, path = dice.randrange(mirrors), dice.choice(list(SIZES))
    throw = dice.random()
    if throw < 0.40:
        return _get(dice)
    if throw < 0.55:
        few = dice.choices(list(SIZES), k=2)
        return Together(tuple(_get(dice, dice.choice(few)) for _ in range(dice.randint(2, 6))))
    if throw < 0.65:
        where = None if calm or dice.random() < 0.5 else mirror
        return Publish(dice.choice(list(INDEXES)) if calm or dice.random() < 0.7 else path, where)
    if calm:
        return dice.choice((_get(dice), Stop(dice.randrange(2))))
    if throw < 0.80:
        kinds = tuple(dice.choice(list(KINDS)) for _ in range(dice.randint(1, 3)))
        return Trouble(mirror, path, kinds, dice.randrange(SIZES[path]))
    if throw < 0.86:
        return dice.choice((Down(mirror), Up(mirror), Up(mirror)))
    if disk and throw < 0.92:
        return DiskFails(dice.choice(ERRORS)) if dice.random() < 0.5 else DiskHeals()
    if throw < 0.95:
        get = _get(dice, method="GET")
        return Kill(dice.randrange(2), get if dice.random() < 0.8 else None, dice.randrange(SIZES[get.path]))
    if throw < 0.98 or workers:
        return Stop(dice.randrange(2))
    return Rot(path)


def _get(dice: random.Random, path: str = "", method: str = "") -> Get:
    path = path or dice.choice(list(SIZES))
    size = SIZES[path]
    start = dice.randrange(size)
    return Get(
        path,
        dice.randrange(2),
        method or dice.choice(("GET",) * 9 + ("HEAD",)),
        dice.choice(("", "", "", f"{start}-", f"{start}-{start + dice.randrange(size)}", f"-{start + 1}", f"{3 * size}-")),
        dice.random() < 0.2,
        dice.randrange(size) if dice.random() < 0.15 else None,
    )


# What may be true


class Wrong(AssertionError):
    """An answer that no history of the sources explains."""


@dataclass
class Truth:
    """What the sources have and had, and what was wrong with them."""

    mirrors: int
    newest: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIZES, 0))
    current: list[dict[str, int]] = field(default_factory=list)
    tags: dict[tuple[str, str], int] = field(default_factory=dict)
    """The versions that came with a tag."""
    lies: set[int] = field(default_factory=set)
    """Lengths that sources declared and never sent; that they did is seen at the end, and not before."""
    troubled: bool = False
    """Whether anything was wrong yet: from then on an error, a break and an older version are answers, too."""

    def __post_init__(self) -> None:
        self.current = [dict.fromkeys(SIZES, 0) for _ in range(self.mirrors)]

    def publish(self, path: str, mirror: int | None) -> None:
        self.newest[path] += 1
        for number, versions in enumerate(self.current):
            if mirror in (None, number):
                versions[path] = self.newest[path]

    def ever(self, path: str) -> list[int]:
        """All versions there were."""
        return list(range(self.newest[path] + 1))

    def now(self, path: str) -> list[int]:
        """The versions that may be served if nothing is wrong: an index as a mirror has it, a package for ever."""
        if path in PACKAGES or self.troubled:
            return self.ever(path)
        return sorted({versions[path] for versions in self.current})

    def judge(self, get: Get, versions: Sequence[int], got: "Got") -> None:
        """Raise `Wrong` unless the answer may be, where one of `versions` was to be served."""
        response = got.response
        if response is None:
            self._only_in_trouble(got.said)
        elif response.status in (200, 206):
            self._judge_body(get, versions, response, got)
        elif response.status == 304:
            if self.tags.get((get.path, got.condition)) not in versions:
                raise Wrong(f"304 to {got.condition!r}, which was {self.tags.get((get.path, got.condition))}")
        elif response.status == 416:
            total = (response.fields["Content-Range"] or "").removeprefix("bytes */")
            sizes = [str(len(body_of(get.path, version))) for version in versions]
            if not get.range or total not in sizes or int(get.range.partition("-")[0] or 0) < int(total):
                raise Wrong(f"416 with {response.fields['Content-Range']!r} to {get.range!r}")
        else:
            self._only_in_trouble(f"status {response.status}: {response.body!r}")

    def _only_in_trouble(self, what: str) -> None:
        if not self.troubled:
            raise Wrong(f"{what}, though nothing is wrong anywhere")

    def _judge_body(self, get: Get, versions: Sequence[int], response: Response, got: "Got") -> None:
        for version in versions if response.whole and not got.left else self.ever(get.path):
            if _is_of(body_of(get.path, version), self.lies, get, response, got):
                break
        else:
            raise Wrong(f"{response.status} with {len(response.body)} bytes of none of the versions {list(versions)}")
        if response.status == 200 and response.whole and not got.left and response.fields["ETag"]:
            self.tags[get.path, response.fields["ETag"]] = version
        if not response.whole and not got.left:
            self._only_in_trouble("the transfer broke")


def _is_of(body: bytes, lies: Collection[int], get: Get, response: Response, got: "Got") -> bool:
    """Whether an answer is made of this body, as far as it goes. `lies` are other lengths it was said to have."""
    digest = response.fields["Repr-Digest"]
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.fields["Content-Range"] or "")
        if match is None or int(match[1]) != _first(get.range, int(match[3])):
            return False
        if int(match[3]) not in (len(body), *lies):
            return False
        body = body[int(match[1]) : int(match[2]) + 1]
    elif digest is not None and digest != _repr_digest(body):
        return False
    if get.method == "HEAD":
        return response.fields["Content-Length"] in (None, *map(str, (len(body), *lies))) and not response.body
    if got.left or not response.whole:
        return body.startswith(response.body)
    return body == response.body


def _first(wanted: str, size: int) -> int:
    """Where a range begins."""
    start, _, last = wanted.partition("-")
    return int(start) if start else max(0, size - int(last))


@cache
def _repr_digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


@dataclass
class Got:
    """What a client has in the end. `left` says that it left by itself; `said`, why there is no response."""

    response: Response | None
    left: bool = False
    condition: str = ""
    said: str = ""


# How it is played


class Player:
    """Plays schedules with real servers."""

    def __init__(self, nursery: Nursery, room: Path, plan: Schedule) -> None:
        self.plan = plan
        self.truth = Truth(plan.mirrors)
        self.cache = room / "cache"
        self._nursery = nursery
        self._room = room
        self._broken = room / "broken"
        self._down: set[int] = set()
        self._origins = [Origin() for _ in range(plan.mirrors)]
        for origin in self._origins:
            for path in SIZES:
                origin.put(path, body_of(path, 0))
        self._ports = [origin.port for origin in self._origins]
        self._servers = [self._start() for _ in range(1 if plan.workers else 2)]
        for server in self._servers:
            server.wait_until_it_serves()

    def play(self) -> None:
        """All of it, and the good end. Raises `Wrong`, or AssertionError for what does not come to an end."""
        for at, happening in enumerate(self.plan.happenings):
            try:
                self._do(happening)
            except AssertionError as error:
                raise Wrong(f"step {at}, {happening}: {error}") from error
        self._end_well()

    def close(self) -> None:
        for server in self._servers:
            server.kill()
        for number, origin in enumerate(self._origins):
            if number not in self._down:
                origin.stop()

    def log(self) -> str:
        """What the servers said."""
        return "".join(path.read_text() for path in sorted(self._room.glob("log.*")))

    def _start(self) -> Fork:
        sources = [f"http://127.0.0.1:{port}/" for port in self._ports]
        plan = None
        if not self.plan.workers:
            plan = Plan(str(self.cache), str(self._room / "report"), broken=str(self._broken))
        arguments = ["--server", "gunicorn", "--workers", "2"] if self.plan.workers else []
        return self._nursery.start(self.cache, sources, self._room, plan, arguments, TIMEOUTS)

    def _do(self, happening: Happening) -> None:
        match happening:
            case Get():
                self._get(happening)
            case Together(gets):
                with ThreadPoolExecutor(len(gets)) as pool:
                    list(pool.map(self._get, gets))
            case Kill(server, get, at):
                self._kill(server, get, at)
            case Stop(server):
                self._replace(server, lambda one: one.stop())
            case DiskFails() | DiskHeals() | Rot():
                self._change_disk(happening)
            case _:
                self._change_mirror(happening)

    def _change_disk(self, happening: DiskFails | DiskHeals | Rot) -> None:
        match happening:
            case DiskFails(number):
                self.truth.troubled = True
                told = self._broken.with_suffix(".new")
                told.write_text(str(number))
                told.rename(self._broken)
            case DiskHeals():
                self._broken.unlink(missing_ok=True)
            case Rot(path):
                self._rot(path)

    def _change_mirror(self, happening: Publish | Trouble | Down | Up) -> None:
        match happening:
            case Publish(path, mirror):
                self._publish(path, mirror)
            case Trouble(mirror, path, kinds, at):
                self.truth.troubled |= not set(kinds) <= set(HARMLESS)
                self.truth.lies |= {TOO_MANY + at} if "too little" in kinds else set()
                self._origins[mirror].script(path, *(KINDS[kind](at) for kind in kinds), Serve())
            case Down(mirror):
                self._take_down(mirror)
            case Up(mirror):
                self._bring_up(mirror)

    # -- mirrors

    def _publish(self, path: str, mirror: int | None) -> None:
        if not self.truth.troubled:
            # Who asks while a download runs gets what that brings, though there may be something newer by now.
            until(lambda: not self._is_downloading())
        self.truth.publish(path, mirror)
        version = self.truth.newest[path]
        for number, origin in enumerate(self._origins):
            if mirror in (None, number):
                modified = f"Tue, 02 Jan 2024 03:{version:02d}:05 GMT"
                origin.put(path, body_of(path, version), *origin.things[path].script, modified=modified)

    def _is_downloading(self) -> bool:
        """Whether any process holds the lock of a key."""
        held = Path("/proc/locks").read_text()
        return any(f":{locks.stat().st_ino} " in held for locks in self.cache.glob("leases-v2/*"))

    def _take_down(self, mirror: int) -> None:
        self.truth.troubled = True
        if mirror not in self._down:
            self._down.add(mirror)
            self._origins[mirror].stop()

    def _bring_up(self, mirror: int) -> None:
        if mirror in self._down:
            self._down.discard(mirror)
            things = self._origins[mirror].things
            self._origins[mirror] = Origin(("127.0.0.1", self._ports[mirror]))
            self._origins[mirror].things = things

    # -- servers

    def _server(self, number: int) -> Fork:
        return self._servers[number % len(self._servers)]

    def _kill(self, number: int, get: Get | None, at: int) -> None:
        self.truth.troubled = True
        server = self._server(number)
        victims = server.workers()[number % 2 : number % 2 + 1]

        def deed() -> None:
            if not self.plan.workers:
                server.kill()
            while self.plan.workers and victims:
                server.signal_kill(victims.pop())

        if get is not None:
            self._get(replace(get, server=number, leave=None), at, deed)
        deed()
        if not self.plan.workers:
            self._replace(number, lambda one: one.kill())

    def _replace(self, number: int, end: Callable[[Fork], object]) -> None:
        """End a server in some way, and start another one."""
        end(self._server(number))
        self._servers[number % len(self._servers)] = server = self._start()
        server.wait_until_it_serves()

    def _rot(self, path: str) -> None:
        """What is cached of a file loses its bytes; the servers are started anew, since they may have it open."""
        for server in self._servers:
            server.stop()
        for blob in blobs(self.cache):
            if size_of(blob) in {len(body_of(path, version)) for version in self.truth.ever(path)}:
                blob.chmod(0o600)
                blob.write_bytes(bytes(size_of(blob)))
        self._servers = [self._start() for _ in self._servers]
        for server in self._servers:
            server.wait_until_it_serves()

    # -- clients

    def _get(self, get: Get, pause_at: int | None = None, deed: Callable[[], object] | None = None) -> None:
        """Ask, and judge the answer."""
        before = self.truth.now(get.path)
        tags = [tag for path, tag in list(self.truth.tags) if path == get.path]
        condition = tags[-1] if tags and get.condition else ""
        got = self._request(get, condition, pause_at, deed)
        self.truth.judge(get, sorted({*before, *self.truth.now(get.path)}), got)

    def _request(self, get: Get, condition: str, pause_at: int | None, deed: Callable[[], object] | None) -> Got:
        fields = {"If-None-Match": condition} if condition else {}
        if get.range:
            fields["Range"] = f"bytes={get.range}"
        connection = http.client.HTTPConnection(*self._server(get.server).address, timeout=PATIENCE)
        try:
            return self._exchange(connection, get, fields, condition, pause_at, deed)
        except TimeoutError:
            raise Wrong(f"no byte for {PATIENCE} s") from None
        except (OSError, http.client.HTTPException) as error:
            return Got(None, condition=condition, said=f"the connection ended: {error!r}")
        finally:
            connection.close()

    @staticmethod
    def _exchange(
        connection: http.client.HTTPConnection,
        get: Get,
        fields: Mapping[str, str],
        condition: str,
        pause_at: int | None,
        deed: Callable[[], object] | None,
    ) -> Got:
        connection.request(get.method, get.path, headers=dict(fields))
        response = connection.getresponse()
        body, whole = b"", False
        try:
            if get.leave is not None:
                body = response.read(get.leave)
            else:
                if deed is not None:
                    body = response.read(pause_at)
                    deed()
                body += response.read()
                # A body that ends before it should is no error to a client that reads it bit by bit.
                whole = response.length in (0, None)
        except (http.client.IncompleteRead, ConnectionError) as error:
            body += getattr(error, "partial", b"")
        if get.method == "HEAD":
            whole = True
        return Got(Response(response.status, response.headers, body, whole), get.leave is not None, condition)

    # -- the end

    def _end_well(self) -> None:
        """Everything is mended: every file can be had, in its newest version, and nothing is left over."""
        self._broken.unlink(missing_ok=True)
        for mirror in range(self.plan.mirrors):
            self._bring_up(mirror)
            for path in SIZES:
                self._origins[mirror].script(path, Serve())
        for number, server in enumerate(self._servers):
            if not server.wait_until_it_serves():  # the disk refused it a start
                self._replace(number, lambda one: one.kill())
        for path in INDEXES:
            self._publish(path, None)
        for path in SIZES:
            wanted = self.truth.ever(path) if path in PACKAGES else [self.truth.newest[path]]
            for number in range(len(self._servers)):
                self._insist(path, number, [body_of(path, version) for version in wanted])
        until(self._is_tidy)
        for server in self._servers:
            server.stop()
        self._check_store()

    def _is_tidy(self) -> bool:
        """Whether no part is left. Asks for everything if not: a disk that refused is tried again after a while only."""
        left = [path for path in parts(self.cache) if path.suffix == ".part"]
        if any(isinstance(one, Kill) for one in self.plan.happenings):
            # Nobody resumes one without a journal, and a small file needs no other: the sweep takes it in a day.
            left = [path for path in left if path.with_name(f"{path.name.partition('.')[0]}.fill").exists()]
        if not left:
            return True
        for path in SIZES:
            self._server(0).get(path)
        time.sleep(0.1)
        return False

    def _insist(self, path: str, number: int, bodies: Sequence[bytes]) -> None:
        answers: list[Response] = []

        def is_right() -> bool:
            with suppress(ConnectionError, http.client.HTTPException):
                answers.append(self._server(number).get(path))
                return answers[-1].status == 200 and answers[-1].whole and answers[-1].body in bodies
            return False

        try:
            until(is_right, PATIENCE)
        except AssertionError:
            last = answers[-1] if answers else None
            told = (last.status, last.whole, len(last.body), last.body[:200]) if last else None
            raise Wrong(f"{path} cannot be had from server {number} though all is well again: {told}") from None

    def _check_store(self) -> None:
        sizes = {}
        for blob in blobs(self.cache):
            data = blob.read_bytes()
            sizes[blob.name] = len(data)
            if hashlib.sha256(data).hexdigest() != blob.name and not self._has_rotted():
                raise Wrong(f"the blob {blob.name} is not what its name says")
        with closing(sqlite3.connect(self.cache / "registry-v1.db")) as connection:
            if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                raise Wrong("the registry is damaged")
            rows = connection.execute("SELECT key, digest, representation FROM entry WHERE status = 3").fetchall()
        known = {
            hashlib.sha256(body_of(path, version)).hexdigest(): path for path in SIZES for version in self.truth.ever(path)
        }
        for key, digest, representation in rows:
            if digest not in known or sizes.get(digest) != json.loads(representation)["size"]:
                raise Wrong(f"the registry has {key} with {digest}, which is {known.get(digest)}")

    def _has_rotted(self) -> bool:
        return any(isinstance(one, Rot) for one in self.plan.happenings)


def trial(nursery: Nursery, room: Path, plan: Schedule) -> str:
    """What goes wrong when a schedule is played; empty if nothing does."""
    room.mkdir(parents=True)
    player = Player(nursery, room, plan)
    try:
        player.play()
    except AssertionError as error:
        return f"{error}\n{player.log()}"
    finally:
        player.close()
    return ""


def shorten(plan: Schedule, fails: Callable[[Schedule], bool], tries: int = 60) -> Schedule:
    """A schedule that fails too, and of which as much as possible is left out, found with at most so many `tries`."""
    size = max(1, len(plan.happenings) // 2)
    while size:
        at = 0
        while at < len(plan.happenings) and tries:
            tries -= 1
            less = Schedule(plan.seed, plan.mirrors, plan.workers, plan.happenings[:at] + plan.happenings[at + size :])
            if fails(less):
                plan = less
            else:
                at += size
        size //= 2
    return plan
