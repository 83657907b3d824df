"""Real clients, as people run them, through the product to a real mirror."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from mirror import (
    Mirror,
    Seen,
    archive,
    clean_environment,
    poll,
    require,
    run_mirror,  # noqa: F401 - the fixture `mirror`
    start_without_errors,  # noqa: F401 - the fixture `serve`
    url_of,
)
from product import Proxy, blobs, versions

Serve = Callable[..., Proxy]

HOSTS = ("wsgiref", "gunicorn")
CLIENTS: dict[str, tuple[str, ...]] = {
    "wget": ("wget", "-nv", "-O", "{file}", "{url}"),
    "curl": ("curl", "-fsS", "-o", "{file}", "{url}"),
    "aria2c": ("aria2c", "-q", "-x4", "-s4", "-k1M", "-d", "{folder}", "-o", "{name}", "{url}"),
}
RESUMING: dict[str, tuple[str, ...]] = {
    "wget": ("wget", "-nv", "-c", "-O", "{file}", "{url}"),
    "curl": ("curl", "-fsS", "-C", "-", "-o", "{file}", "{url}"),
}
ARCHIVES = {
    "tiny-1.0.tar.xz": 1_000,
    "gtk+-3.24.38-r1.tar.xz": 300_000,
    "rock~20240102 (second try).tar": 9_000_000,
}
LARGE = os.environ.get("PACKAGE_CACHE_TEST_LARGE") == "1"


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    """The two ways to run the command."""
    return str(request.param)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return clean_environment(tmp_path / "home")


def fill_in(command: Sequence[str], file: Path, url: str) -> list[str]:
    return [word.format(file=file, folder=file.parent, name=file.name, url=url) for word in command]


def run(command: Sequence[str], environment: dict[str, str], folder: Path | None = None) -> str:
    """Run a client that must succeed; what it said."""
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{command} ended {done.returncode}:\n{said}"
    return said


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def take(file: Path) -> str:
    """The digest of a downloaded file, which is removed."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    file.unlink()
    return digest


def whole(requests: Sequence[Seen]) -> list[Seen]:
    """The requests for a whole file; ranges ahead of the running download may be asked for beside it.

    The layout of the mirror is none of the clients' business here.
    """
    return [one for one in requests if not one.range and one.path != "/distfiles/layout.conf"]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_file_is_fetched_from_the_mirror_once_and_outlives_it(
    client: str, host: str, mirror: Mirror, serve: Serve, environment: dict[str, str], tmp_path: Path
) -> None:
    require(client)
    proxy = serve(mirror.url, host=host)
    paths = {name: mirror.put_distfile(name, archive(size)) for name, size in ARCHIVES.items()}

    def download_all() -> None:
        for name, size in ARCHIVES.items():
            file = tmp_path / name
            run(fill_in(CLIENTS[client], file, url_of(proxy.url, paths[name])), environment)
            assert take(file) == sha256(archive(size)), name

    download_all()
    asked = mirror.seen()
    assert {one.path: one.status for one in whole(asked)} == dict.fromkeys(paths.values(), 200)
    assert len(whole(asked)) == len(paths)
    download_all()
    assert mirror.seen() == asked
    mirror.stop()
    download_all()


@pytest.mark.parametrize("client", RESUMING)
def test_half_a_file_is_completed_from_a_cold_and_from_a_warm_cache(
    client: str, host: str, mirror: Mirror, serve: Serve, environment: dict[str, str], tmp_path: Path
) -> None:
    require(client)
    data = archive(9_000_000)
    path = mirror.put_distfile("half+full-1.tar", data)
    proxy = serve(mirror.url, host=host, arguments=["--verbose"])
    file = tmp_path / "half.tar"

    def resume() -> None:
        file.write_bytes(data[: len(data) // 2])
        run(fill_in(RESUMING[client], file, url_of(proxy.url, path)), environment)
        assert take(file) == sha256(data)

    resume()
    poll(lambda: versions(proxy.cache))  # its half may have come beside the download, and before its end
    asked = mirror.seen()
    resume()
    mirror.stop()
    resume()
    assert len(whole(asked)) == 1
    poll(lambda: len([line for line in proxy.log if '" 206 ' in line]) == 3)
    file = tmp_path / "whole.tar"
    run(fill_in(CLIENTS[client], file, url_of(proxy.url, path)), environment)
    assert take(file) == sha256(data)


def test_curl_gets_the_ranges_it_asks_for_and_the_cache_the_whole_file(
    host: str, mirror: Mirror, serve: Serve, environment: dict[str, str], tmp_path: Path
) -> None:
    require("curl")
    data = archive(9_000_000)
    path = mirror.put_distfile("ranges.tar", data)
    url = url_of(serve(mirror.url, host=host).url, path)
    file = tmp_path / "range"
    for _ in ("cold", "warm"):
        for asked, expected in (
            ("5000000-5099999", data[5_000_000:5_100_000]),
            ("0-0", data[:1]),
            ("-777", data[-777:]),
            ("8000000-", data[8_000_000:]),
        ):
            run(["curl", "-fsS", "-r", asked, "-o", str(file), url], environment)
            assert file.read_bytes() == expected, asked
    poll(lambda: whole(mirror.seen_of(path)))
    assert len(whole(mirror.seen_of(path))) == 1
    mirror.stop()
    run(["curl", "-fsS", "-o", str(file), url], environment)
    assert take(file) == sha256(data)


def test_clients_that_come_at_once_share_one_transfer(
    host: str, mirror: Mirror, serve: Serve, environment: dict[str, str], tmp_path: Path
) -> None:
    require(*CLIENTS)
    data = archive(5_000_000)
    path = mirror.put_distfile("paced-1.tar", data)
    url = url_of(serve(mirror.url, host=host).url, path)
    files = [tmp_path / f"{number}-{client}" for number in range(3) for client in CLIENTS]
    running = [
        subprocess.Popen(fill_in(CLIENTS[file.name[2:]], file, url), env=environment, stdout=subprocess.DEVNULL)
        for file in files
    ]
    assert [one.wait(60) for one in running] == [0] * len(running)
    assert {take(file) for file in files} == {sha256(data)}
    assert len(whole(mirror.seen_of(path))) == 1


def test_wget_gets_the_whole_file_from_a_mirror_that_restarts_in_the_middle(
    host: str, mirror: Mirror, serve: Serve, environment: dict[str, str], tmp_path: Path
) -> None:
    require("wget")
    data = archive(5_000_000)
    path = mirror.put_distfile("paced-2.tar", data)
    proxy = serve(mirror.url, host=host)
    file = tmp_path / "file"
    command = ["wget", "-nv", "-t5", "--waitretry=1", "-O", str(file), url_of(proxy.url, path)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as client:
        poll(lambda: file.exists() and file.stat().st_size > 500_000)
        mirror.stop()
        mirror.start()
        said = client.communicate(timeout=60)[1]
        assert client.returncode == 0, said
    assert take(file) == sha256(data)
    # nginx ends without a log line for the transfer it was in.
    assert {one.status for one in mirror.seen_of(path)} == {206}


def test_a_file_that_no_mirror_has_is_an_error_and_is_there_once_a_mirror_has_it(
    host: str, mirror: Mirror, serve: Serve, environment: dict[str, str], tmp_path: Path
) -> None:
    require("curl", "wget")
    url = serve(mirror.url, host=host).url + "distfiles/late-1.tar.xz"
    file = tmp_path / "late"
    failing = (["curl", "-fsS", "-o", str(file), url], 22), (["wget", "-nv", "-O", str(file), url], 8)
    for command, code in failing:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code
        assert "404" in done.stderr
    mirror.put("distfiles/late-1.tar.xz", archive(1_000))
    run(["curl", "-fsS", "-o", str(file), url], environment)
    assert take(file) == sha256(archive(1_000))


def test_a_mirror_that_is_down_is_an_error_to_clients_and_no_file(
    host: str, mirror: Mirror, serve: Serve, environment: dict[str, str], tmp_path: Path
) -> None:
    require("curl")
    path = mirror.put_distfile("down-1.tar.xz", archive(1_000))
    url = url_of(serve(mirror.url, host=host).url, path)
    mirror.stop()
    file = tmp_path / "down"
    command = ["curl", "-fsS", "-o", str(file), url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 22
    assert "502" in done.stderr
    assert not file.exists()
    mirror.start()
    run(command, environment)
    assert take(file) == sha256(archive(1_000))


def test_a_large_file_passes_every_client(
    host: str, mirror: Mirror, serve: Serve, environment: dict[str, str], tmp_path: Path
) -> None:
    require(*CLIENTS)
    data = archive(300_000_000 if LARGE else 64_000_000)
    path = mirror.put_distfile("large-1.tar", data)
    digest = sha256(data)
    proxy = serve(mirror.url, host=host)
    url = url_of(proxy.url, path)
    file = tmp_path / "large"
    for command in CLIENTS.values():
        run(fill_in(command, file, url), environment)
        assert take(file) == digest, command
    for command in RESUMING.values():
        file.write_bytes(data[: len(data) // 2])
        run(fill_in(command, file, url), environment)
        assert take(file) == digest, command
    assert len(mirror.seen_of(path)) == 1
    proxy.stop()
    shutil.rmtree(proxy.cache)


@pytest.mark.parametrize("fields", ["", "Range: bytes=1000-\r\n"], ids=["whole", "range"])
def test_clients_that_leave_before_the_body_are_no_errors(host: str, fields: str, mirror: Mirror, serve: Serve) -> None:
    data = archive(9_000_000)
    path = mirror.put_distfile("left-1.tar", data)
    proxy = serve(mirror.url, host=host, arguments=["--verbose"])
    assert proxy.get(path).body == data
    poll(lambda: blobs(proxy.cache))
    assert proxy.get(path).body == data
    for _ in range(20):
        with proxy.connect() as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: mirror.example\r\n{fields}\r\n".encode())
    poll(lambda: len([line for line in proxy.log if f'"GET {path} HTTP/1.1" ' in line]) == 22)
