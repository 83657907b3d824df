"""The product as the proxy of real clients: whole URLs of what it has, 403 for everything else, and tunnels to a list."""

import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mirror import (
    Mirror,
    archive,
    clean_environment,
    poll,
    require,
    run_mirror,  # noqa: F401 - the fixture `mirror`
    start_without_errors,  # noqa: F401 - the fixture `serve`
)
from origin import Origin
from product import Proxy, stored

Serve = Callable[..., Proxy]

APT_HELPER = "/usr/lib/apt/apt-helper"
PATH = "/pool/thing_1.0.tar"
DATA = archive(2_000_000, 5)


@pytest.fixture(params=["wsgiref", "gunicorn"])
def host(request: pytest.FixtureRequest) -> str:
    """The two ways to run the command."""
    return str(request.param)


def fetch(client: str, proxy: Proxy, url: str, file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Have a client download a URL by way of a proxy."""
    environment = clean_environment(file.parent / "home")
    match client:
        case "wget":
            environment |= {"http_proxy": proxy.url, "https_proxy": proxy.url}
            command = ["wget", "-nv", "-t", "1", "-O", str(file), *words, url]
        case "curl":
            command = ["curl", "-sS", "--fail-with-body", "-x", proxy.url, "-o", str(file), *words, url]
        case _:
            options = ["-o", f"Acquire::http::Proxy={proxy.url.rstrip('/')}", "-o", "APT::Sandbox::User=root"]
            options += ["-o", "Dir::Etc=/nonexistent", "-o", "Acquire::Retries=0"]
            command = [APT_HELPER, *options, *words, "download-file", url, str(file)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def needs(client: str) -> None:
    if client == "apt":
        if shutil.which(APT_HELPER) is None:
            pytest.skip("apt is not installed")
    else:
        require(client)


clients = pytest.mark.parametrize("client", ["wget", "curl", "apt"])


@clients
def test_a_client_that_has_it_as_its_proxy_shares_files_with_all_others(
    client: str, host: str, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    needs(client)
    mirror.put(PATH, DATA)
    proxy = serve(mirror.url, host=host)
    url = mirror.url.rstrip("/") + PATH
    for name in ("first", "second"):
        done = fetch(client, proxy, url, tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).read_bytes() == DATA
    assert proxy.get(PATH).body == DATA
    assert len(mirror.seen_of(PATH)) == 1
    poll(lambda: stored(proxy.cache) == [PATH])
    mirror.stop()
    assert fetch(client, proxy, url, tmp_path / "third").returncode == 0


@clients
def test_a_host_of_a_repository_is_served_though_it_is_none_of_its_sources(
    client: str, host: str, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    needs(client)
    mirror.put(PATH, DATA)
    file = tmp_path / "config.toml"
    file.write_text(f'[[repository]]\nname = "pool"\nhosts = ["deb.mirror.example"]\nsources = ["{mirror.url}"]\n')
    proxy = serve(host=host, arguments=["--config", str(file)])
    for name in ("first", "second"):
        done = fetch(client, proxy, f"http://deb.mirror.example{PATH}", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).read_bytes() == DATA
    assert len(mirror.seen_of(PATH)) == 1


@clients
def test_another_host_is_refused_with_a_text_that_says_what_there_is(
    client: str, host: str, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    needs(client)
    proxy = serve(mirror.url, host=host)
    done = fetch(client, proxy, "http://elsewhere.example/file-1.tar", tmp_path / "file")
    assert done.returncode != 0
    assert "403" in done.stderr + done.stdout
    if client == "curl":
        text = (tmp_path / "file").read_text()
        assert "this cache has nothing of elsewhere.example" in text
        assert mirror.url.removeprefix("http://").rstrip("/") in text
    assert mirror.seen() == []


@pytest.mark.parametrize(("client", "words"), [("wget", ["-c"]), ("curl", ["-C", "-"])])
def test_half_a_file_is_completed_by_way_of_the_proxy(
    client: str, words: list[str], host: str, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    needs(client)
    mirror.put(PATH, DATA)
    proxy = serve(mirror.url, host=host)
    for name in ("cold", "warm"):
        file = tmp_path / name
        file.write_bytes(DATA[:1_000_000])
        done = fetch(client, proxy, mirror.url.rstrip("/") + PATH, file, *words)
        assert done.returncode == 0, done.stderr
        assert file.read_bytes() == DATA
        poll(lambda: stored(proxy.cache) == [PATH])


# --- https, through tunnels ---------------------------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Origin]:
    """A source with TLS, whose certificate is `ca.pem`."""
    require("openssl")
    both = tmp_path / "ca.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "-"]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", *key, *subject], capture_output=True, check=True, text=True
    )
    both.write_text(made.stdout)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    one = Origin(context=context)
    yield one
    one.stop()


TRUST = {"wget": ["--ca-certificate", "{}"], "curl": ["--cacert", "{}"], "apt": ["-o", "Acquire::https::CaInfo={}"]}


@clients
def test_https_goes_through_a_tunnel_where_it_is_listed(
    client: str, host: str, secure: Origin, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    needs(client)
    secure.put(PATH, DATA)
    words = [word.format(tmp_path / "ca.pem") for word in TRUST[client]]
    listed = serve(mirror.url, host=host, arguments=["--connect", f"127.0.0.1:{secure.port}"])
    done = fetch(client, listed, secure.url.rstrip("/") + PATH, tmp_path / "file", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_bytes() == DATA
    assert len(secure.requests(PATH)) == 1
    assert stored(listed.cache) == []


@pytest.mark.parametrize("client", ["wget", "curl"])
def test_https_to_what_is_not_listed_is_refused(
    client: str, host: str, secure: Origin, mirror: Mirror, serve: Serve, tmp_path: Path
) -> None:
    needs(client)
    secure.put(PATH, DATA)
    for arguments, status, phrase in (
        ([], "405", "Not Allowed"),
        (["--connect", "mirror.example:443"], "403", "Forbidden"),
    ):
        proxy = serve(mirror.url, host=host, arguments=arguments, cache=tmp_path / f"cache-{status}")
        done = fetch(client, proxy, secure.url.rstrip("/") + PATH, tmp_path / "file")
        assert done.returncode != 0
        assert status in done.stderr or phrase in done.stderr
    assert secure.accepted == 0
