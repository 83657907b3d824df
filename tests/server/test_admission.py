"""Which clients are answered at all: their networks, under every way to run the product, and over a unix socket."""

import socket
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from origin import Origin
from product import Proxy
from raw import Client

from package_cache.config import parse_network
from package_cache.config.layers import layered
from package_cache.errors import ConfigError
from package_cache.server.admission import Admission

BODY = b"body" * 100
Start = Callable[..., Proxy]


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.168.0.0/16", "192.168.0.0/16"),
        ("192.168.0.0/255.255.0.0", "192.168.0.0/16"),
        ("192.168.1.7", "192.168.1.7/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::1", "::1/128"),
        ("fd00::/8", "fd00::/8"),
        ("::ffff:192.168.0.0/112", "192.168.0.0/16"),
        ("::ffff:192.168.1.7", "192.168.1.7/32"),
        ("::/0", "::/0"),
    ],
)
def test_networks_are_read(text: str, network: str) -> None:
    assert parse_network(text) == ip_network(network)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("localhost", "is not a network; a network looks like 192.168.0.0/16"),
        ("192.168.0.0/33", "is not a network"),
        ("192.168.0", "is not a network"),
        ("192.168.0.0-192.168.0.9", "is not a network"),
        ("*", "is not a network"),
        ("192.168.1.7/16", "is an address within the network 192.168.0.0/16; write that, or 192.168.1.7 alone"),
        ("fd00::1/8", "is an address within the network fd00::/8"),
        ("", "no network is named"),
    ],
)
def test_what_is_no_network_is_an_error_that_says_what_would_be_right(text: str, problem: str) -> None:
    for environment, options in (({"PACKAGE_CACHE_ALLOW": text}, {}), ({}, {"allow": text})):
        with pytest.raises(ConfigError) as caught:
            layered(environment, options)
        assert problem in caught.value.problems[0]
        assert caught.value.problems[0].startswith("PACKAGE_CACHE_ALLOW" if environment else "--allow")


@pytest.mark.parametrize(
    ("client", "admitted"),
    [
        ("192.168.3.4", True),
        ("192.169.0.1", False),
        ("10.0.0.1", False),
        ("::ffff:192.168.3.4", True),
        ("::ffff:10.0.0.1", False),
        ("fd12::1", True),
        ("fe80::1%eth0", False),
        ("::1", False),
        ("unix:", True),
        ("", True),
    ],
)
def test_a_client_is_admitted_by_its_address(client: str, admitted: bool) -> None:
    config = layered({"PACKAGE_CACHE_ALLOW": "192.168.0.0/16 fd00::/8"}, {}).config
    assert Admission(config.allow).admits(client) is admitted
    assert Admission().admits(client)


def run(start: Start, origin: Origin, host: str, allow: str) -> Proxy:
    origin.put("/file-1.tar", BODY)
    if host == "gthread":
        return start(origin.url, host=host, environment={"PACKAGE_CACHE_ALLOW": allow})
    return start(origin.url, host=host, arguments=[word for one in allow.split() for word in ("--allow", one)] + ["-v"])


def test_clients_of_other_networks_are_told_that_they_are_not_served(origin: Origin, start: Start, host: str) -> None:
    proxy = run(start, origin, host, "10.0.0.0/8 127.0.0.2")
    for target in ("/file-1.tar", "http://127.0.0.1/file-1.tar"):
        with Client(proxy.address, source="127.0.0.2") as client:
            assert client.get(target).body == BODY
        for data in (b"GET " + target.encode() + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"PUT /x HTTP/1.0\r\n\r\n"):
            with Client(proxy.address) as client:
                client.send(data)
                answer = client.answer()
                assert answer.status == 403
                assert b"--allow" in answer.body
                assert client.ended()
    assert len(origin.requests()) == 1
    assert proxy.stop() == 0
    if host != "gthread":
        assert sum('" 403 ' in line for line in proxy.log) == 4


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_an_address_counts_as_what_it_is_whatever_socket_it_comes_by(
    origin: Origin, start: Start, host: str, tmp_path: Path
) -> None:
    origin.put("/file-1.tar", BODY)
    path = tmp_path / "socket"
    listen = ["127.0.0.1:0", f"unix:{path}"]
    if socket.has_dualstack_ipv6():
        listen.append(":0")
    proxy = start(origin.url, host=host, listen=listen, arguments=["--allow", "127.0.0.3"])
    ports = [int(place.rpartition(":")[2].rstrip("/")) for place in proxy.places if place.startswith("http")]
    for port in ports:
        with Client(("127.0.0.1", port)) as stranger:
            assert stranger.get("/file-1.tar").status == 403
        with Client(("127.0.0.1", port), source="127.0.0.3") as client:
            assert client.get("/file-1.tar").body == BODY
    with socket.socket(socket.AF_UNIX) as local:
        local.connect(str(path))
        local.sendall(b"GET /file-1.tar HTTP/1.0\r\n\r\n")
        assert b" 200 OK\r\n" in local.recv(1000)
