"""Disks that refuse: full, out of inodes, over quota, read-only, broken, of another owner; and too few descriptors.

First every step of what the product does to its cache is refused once, with each error that a disk may give there. Then a
disk refuses everything for a while, and is mended. At last real ones: a small file system, and limits of the process.
"""

import errno
import hashlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from faulty import DISK_ERRORS, Fork, Nursery, Plan
from forks import Forks, run
from origin import Origin, until
from product import Response, blobs, parts, stored
from stage import NEW, OLD, REPEATS, SCENES, SMALL, Stage, Step, ask, assert_sound, described, is_settled, noise

REFUSED = [
    "a first download of a small file",
    "a first download of a large file",
    "a download that goes on",
    "storing what a killed process had verified",
    "an index that is confirmed",
    "an index that has changed",
    "a damaged file that is fetched again",
]


def is_right(answer: Response | None, *bodies: bytes) -> bool:
    return answer is not None and answer.status == 200 and answer.whole and answer.body in bodies


def is_hit(proxy: Fork, path: str, body: bytes) -> bool:
    """Whether a file is stored by now, if not before; whatever happens, it is right."""
    answer = ask(proxy, path)
    assert answer is not None
    assert is_right(answer, body), (path, answer.status, answer.whole, proxy.log_lines())
    return answer.cache_status == "package-cache; hit"


def told(proxy: Fork, text: str) -> int:
    """How many lines of the log say so."""
    return sum(text in line for line in proxy.log_lines())


def assert_terse(proxy: Fork) -> None:
    """Trouble with the disk is told once, in plain words; so is its end, and that nothing can be removed to end it."""
    others = ("has other bytes", "was held up")  # a damaged file, a busy machine
    said = [line for line in proxy.log_lines() if not any(text in line for text in others)]
    assert len(said) <= 3, said
    assert told(proxy, "passed on without being stored") <= 1, said
    assert not told(proxy, "Traceback"), said


def is_honest(answer: Response | None, *bodies: bytes) -> bool:
    """Whether a client gets the right thing, or sees that it does not."""
    if answer is None or answer.status >= 500 or is_right(answer, *bodies):
        return True
    return answer.status == 200 and not answer.whole and any(body.startswith(answer.body) for body in bodies)


# What a file system does not have

LACKING = {
    "chmod": errno.EPERM,
    "utime": errno.EPERM,
    "fsync directory": errno.EINVAL,
    "sendfile": errno.EINVAL,
}


def test_a_file_system_without_what_is_only_convenient_will_do(nursery: Nursery, origin: Origin, tmp_path: Path) -> None:
    bodies = {"/small-1.tar": SMALL, "/large-1.tar": noise(3_000_000, 9)}
    plan = Plan(str(tmp_path / "cache"), str(tmp_path / "report"), lacks=LACKING)
    for path, body in bodies.items():
        origin.put(path, body)
    for _ in range(2):
        proxy = nursery.start(tmp_path / "cache", [origin.url], tmp_path, plan)
        for path, body in bodies.items():
            until(lambda proxy=proxy, path=path, body=body: is_hit(proxy, path, body))  # type: ignore[misc]
            assert is_hit(proxy, path, body)
        until(lambda: stored(tmp_path / "cache") == sorted(bodies))
        assert proxy.log_lines() == []
        proxy.kill()
    assert len(origin.requests()) == len(bodies)


@pytest.mark.parametrize("folder", ["blobs-v1", "parts-v1"])
@pytest.mark.usefixtures("shell")
def test_a_start_with_a_part_of_the_cache_on_another_file_system_is_refused_in_a_line(
    tmp_path: Path, elsewhere: Path, folder: str
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / folder).symlink_to(elsewhere)
    done = run("--source", "http://mirror.example/", "--port", "0", "--cache", str(tmp_path / "cache"))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert f"blobs-v1 is on another file system than {tmp_path}/cache/parts-v1" in done.stderr
    assert list(elsewhere.iterdir()) == []


# Every step refused once


NUMBERS = count()
KINDS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENOLCK)
"""Errors of every kind: a quota is met where a full disk is, and another owner's files where a read-only disk is."""


def errors_of(step: Step, *, every: bool) -> list[int]:
    """The errors that a step is answered with. Without `every`, one for those that are all the same to who is told."""
    numbers = [number for number in KINDS if step.call in DISK_ERRORS[number]]
    told_apart = every or errno.EIO not in numbers or step.call in ("begin", "commit", "script")
    return numbers if told_apart else [number for number in numbers if number not in (errno.EROFS, errno.EMFILE)]


@dataclass(frozen=True)
class Refusal:
    """A row: this step is answered with this error."""

    name: str
    ordinal: int
    number: int

    def __str__(self) -> str:
        return f"{errno.errorcode[self.number]:6} {self.name} #{self.ordinal}"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("scene", REFUSED)
def test_a_step_that_is_refused_costs_nobody_anything(
    nursery: Nursery, tmp_path: Path, scene: str, request: pytest.FixtureRequest
) -> None:
    stage = Stage(nursery, SCENES[scene], tmp_path)
    rows = [
        Refusal(step.name, step.ordinal, number)
        for step in stage.play().steps
        for number in errors_of(step, every=request.config.getoption("--every-step"))
        if step.ordinal <= (REPEATS if number == errno.EIO else 1)
    ]
    assert len(rows) > 5
    with ThreadPoolExecutor(3) as pool:
        troubles = list(pool.map(lambda row: refuse(stage, row), rows))
    for row, trouble in zip(rows, troubles, strict=True):
        print(f"{row}  {trouble or 'right'}")
    assert not any(troubles)


def refuse(stage: Stage, refusal: Refusal) -> str:
    """Play the scene with one step refused; ask again, and after a new start.

    Returns what is wrong; empty if nothing is.
    """
    scene = stage.scene
    room = stage.room / f"refused-{next(NUMBERS)}"
    cache, armed, report = room / "cache", room / "armed", room / "report"
    room.mkdir()
    if (stage.prepared / "cache").exists():
        shutil.copytree(stage.prepared / "cache", cache)
    plan = Plan(str(cache), str(report), str(armed), refusal.name, refusal.ordinal, "error", refusal.number)
    origin = stage.origin()
    proxy = stage.nursery.start(cache, [origin.url], room, plan)
    try:
        assert proxy.wait_until_it_serves()
        armed.touch()
        for _ in range(3):
            answer = ask(proxy, scene.path)
            assert is_right(answer, scene.body), f"{answer and (answer.status, answer.whole, answer.body[:80])}"
        until(lambda: is_settled(report))
        assert_terse(proxy)
        proxy.kill()
        stage.recover_once(cache)
        return ""
    except AssertionError as error:
        return described(error)
    finally:
        proxy.kill()
        origin.stop()
        shutil.rmtree(room)


# A disk that refuses for a while


FILES = {f"/{number}.tar": noise(80_000 + number, number) for number in range(6)}


@dataclass
class Sick:
    """A running product with one stored file and one stored index, whose disk can be made to refuse."""

    proxy: Fork
    origin: Origin
    broken: Path
    report: Path

    def fail(self, number: int) -> None:
        told = self.broken.with_suffix(".new")
        told.write_text(str(number))
        told.rename(self.broken)

    def heal(self) -> None:
        self.broken.unlink()


@pytest.fixture
def sick(nursery: Nursery, origin: Origin, tmp_path: Path) -> Iterator[Sick]:
    cache, broken, report = tmp_path / "cache", tmp_path / "broken", tmp_path / "report"
    origin.put("/stored-1.tar", SMALL)
    origin.put("/layout.conf", OLD)
    for path, body in FILES.items():
        origin.put(path, body)
    plan = Plan(str(cache), str(report), broken=str(broken))
    proxy = nursery.start(cache, [origin.url], tmp_path, plan)
    assert proxy.wait_until_it_serves()
    for _ in range(2):  # the second time it is opened, and kept at hand
        assert proxy.get("/stored-1.tar").body == SMALL
        until(lambda: is_settled(report))
    assert proxy.get("/layout.conf").body == OLD
    until(lambda: is_settled(report))
    yield Sick(proxy, origin, broken, report)
    proxy.kill()


each_error = pytest.mark.parametrize("number", list(DISK_ERRORS), ids=lambda number: errno.errorcode[number])


@each_error
def test_what_is_stored_is_served_from_a_disk_that_refuses(sick: Sick, number: int) -> None:
    sick.fail(number)
    for _ in range(3):
        assert sick.proxy.get("/stored-1.tar").body == SMALL


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_refused_is_used_again_when_it_does_not(sick: Sick, number: int) -> None:
    sick.fail(number)
    sick.origin.put("/layout.conf", NEW)
    for path, body in {**FILES, "/layout.conf": NEW}.items():
        assert is_right(ask(sick.proxy, path), body)
    sick.heal()
    for path, body in {**FILES, "/layout.conf": NEW, "/stored-1.tar": SMALL}.items():
        until(lambda path=path, body=body: is_stored_again(sick, path, body))  # type: ignore[misc]
    until(lambda: is_settled(sick.report))
    assert not parts(sick.proxy.cache)
    sick.proxy.stop()
    assert_sound(sick.proxy.cache)
    assert [line for line in sick.proxy.log_lines() if "stored again" in line]


def is_stored_again(sick: Sick, path: str, body: bytes) -> bool:
    answer = ask(sick.proxy, path)
    assert is_right(answer, body), path
    digest = hashlib.sha256(body).hexdigest()
    return digest in {blob.name for blob in blobs(sick.proxy.cache)}


@each_error
def test_the_client_gets_its_files_though_the_disk_refuses(sick: Sick, number: int) -> None:
    sick.fail(number)
    sick.origin.put("/layout.conf", NEW)
    for path, body in {**FILES, "/layout.conf": NEW}.items():
        assert is_right(ask(sick.proxy, path), body), path


@each_error
def test_a_disk_that_refuses_is_told_of_in_one_line(sick: Sick, number: int) -> None:
    sick.fail(number)
    for path in FILES:
        ask(sick.proxy, path)
    assert_terse(sick.proxy)
    assert told(sick.proxy, "passed on without being stored") == 1


# Real ones


MOUNT = 'mount -t tmpfs -o "size=$1,nr_inodes=$2" tmpfs "$0" && shift 2 && exec "$@"'
SIZE, INODES = 4 << 20, 60


@dataclass
class Small:
    """A product whose cache is on a small file system of its own. `outside` is where this process sees that."""

    nursery: Nursery
    cache: Path
    outside: Path
    unshare: str


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    place = tmp_path / "disk"
    place.mkdir()
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", place], check=False).returncode
    ):
        pytest.skip("this system lets nobody mount a file system of his own here")
    forks = Forks([*unshare, "sh", "-c", MOUNT, str(place), str(SIZE), str(INODES)])
    yield Small(Nursery(forks), place / "cache", Path(f"/proc/{forks.pid}/root{place}"), " ".join(unshare))
    forks.close()


def until_it_is_full(do: Callable[[], object]) -> None:
    """Again and again, until the disk refuses."""
    while True:
        try:
            do()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return


def fill_bytes(disk: Path) -> Callable[[], None]:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        until_it_is_full(lambda: file.write(bytes(4096)))
    return ballast.unlink


def fill_inodes(disk: Path) -> Callable[[], None]:
    numbers = count()
    until_it_is_full(lambda: (disk / f"ballast-{next(numbers)}").touch())

    def free() -> None:
        for path in disk.glob("ballast-*"):
            path.unlink()

    return free


@pytest.mark.parametrize("fill", [fill_bytes, fill_inodes], ids=lambda one: one.__name__)
def test_a_full_file_system_is_used_again_when_there_is_room(
    small: Small, origin: Origin, tmp_path: Path, fill: Callable[[Path], Callable[[], None]]
) -> None:
    for path, body in FILES.items():
        origin.put(path, body)
    proxy = small.nursery.start(small.cache, [origin.url], tmp_path)
    assert proxy.wait_until_it_serves()
    assert is_right(ask(proxy, "/0.tar"), FILES["/0.tar"])
    free = fill(small.outside)
    before, after = list(FILES)[:3], list(FILES)[3:]
    for path in before:
        assert is_right(ask(proxy, path), FILES[path])
    free()
    for path in after:  # those that had no room are not tried again for a minute
        until(lambda path=path: is_hit(proxy, path, FILES[path]))  # type: ignore[misc]
    for path in before:
        assert is_right(ask(proxy, path), FILES[path])
    cache = small.outside / "cache"
    until(lambda: not parts(cache))
    shutil.copytree(cache, tmp_path / "copy")
    proxy.kill()
    assert_sound(tmp_path / "copy")


FULL = """
mount -t tmpfs -o size=2M tmpfs "$0"
echo bytes >"$0/file"
"$@" add "$0/file" --uri a --cache "$0/cache" >"$0/path"
head -c 9M /dev/zero >"$0/ballast" 2>/dev/null || :
! "$@" gc --max-size 1K --cache "$0/cache" 2>&1
rm "$0/ballast"
"$@" gc --max-size 1K --cache "$0/cache" >/dev/null
"""


def test_a_command_that_has_no_room_for_its_registry_says_so(small: Small, tmp_path: Path) -> None:
    line = f"{small.unshare} sh -euc '{FULL}' {tmp_path} {sys.executable} -m package_cache"
    done = subprocess.run(["sh", "-c", f"exec {line}"], stdout=subprocess.PIPE, text=True, check=True)
    assert "its file system is full" in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("fill", [fill_bytes, fill_inodes], ids=lambda one: one.__name__)
def test_the_client_gets_its_files_though_the_file_system_is_full(
    small: Small, origin: Origin, tmp_path: Path, fill: Callable[[Path], Callable[[], None]]
) -> None:
    for path, body in FILES.items():
        origin.put(path, body)
    proxy = small.nursery.start(small.cache, [origin.url], tmp_path)
    assert proxy.wait_until_it_serves()
    fill(small.outside)
    for path, body in FILES.items():
        assert is_right(ask(proxy, path), body), (path, proxy.log_lines())
    health = ask(proxy, "/-/health")
    assert health is not None
    assert (health.status, b"No space left on device" in health.body) == (503, True), health
    proxy.kill()


LIMITS = {"size of a file": (resource.RLIMIT_FSIZE, 20_000), "descriptors": (resource.RLIMIT_NOFILE, 5)}


@pytest.mark.parametrize("limit", list(LIMITS))
def test_a_process_whose_limits_were_too_low_goes_on_when_they_are_not(
    nursery: Nursery, origin: Origin, tmp_path: Path, limit: str
) -> None:
    for path, body in FILES.items():
        origin.put(path, body)
    proxy = nursery.start(tmp_path / "cache", [origin.url], tmp_path)
    try:
        assert proxy.wait_until_it_serves()
        assert is_right(ask(proxy, "/0.tar"), FILES["/0.tar"])
        kind, value = LIMITS[limit]
        before = resource.prlimit(proxy.pid, kind)
        resource.prlimit(proxy.pid, kind, (value, before[1]))
        with ThreadPoolExecutor(len(FILES)) as pool:
            answers = pool.map(lambda path: ask(proxy, path), FILES)
            if kind == resource.RLIMIT_NOFILE:  # nobody can be answered, nobody is turned away: they wait
                resource.prlimit(proxy.pid, kind, before)
            for body, answer in zip(FILES.values(), answers, strict=True):
                assert is_honest(answer, body)
        resource.prlimit(proxy.pid, kind, before)
        for path, body in FILES.items():
            until(lambda path=path, body=body: is_hit(proxy, path, body))  # type: ignore[misc]
        until(lambda: not parts(proxy.cache))
        proxy.stop()
        assert_sound(proxy.cache)
    finally:
        proxy.kill()
