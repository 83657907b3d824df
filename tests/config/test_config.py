"""Settings: what they may be, which layer wins, and how bad ones are reported."""

from base64 import b64decode
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from package_cache.config import NAMES, SERVERS, Config, TcpAddress, Timeouts, UnixAddress, parse_address, parse_source
from package_cache.config.layers import layered
from package_cache.errors import ConfigError
from package_cache.model import Source
from package_cache.units import Share

URL = "http://mirror.example/gentoo"


def problems(environment: dict[str, str], options: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        layered(environment, options or {})
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def built(environment: dict[str, str], options: dict[str, str]) -> Config | tuple[str, ...]:
    """The settings, or every problem with them."""
    try:
        return layered(environment, options).config
    except ConfigError as error:
        return error.problems


def test_without_a_setting_the_defaults_hold() -> None:
    config = layered({}, {}).config
    assert config == Config()
    assert (config.host, config.port, config.server, config.cache, config.source) == (
        "localhost",
        4000,
        "wsgiref",
        None,
        (),
    )


def test_environment_sets_everything() -> None:
    environment = {
        "PACKAGE_CACHE_SOURCE": f"{URL}/ https://other.example",
        "PACKAGE_CACHE_CACHE": "/var/cache/package-cache",
        "PACKAGE_CACHE_HOST": "::",
        "PACKAGE_CACHE_PORT": "0",
        "PACKAGE_CACHE_SERVER": "gunicorn",
        "PACKAGE_CACHE_WORKERS": "4",
        "PACKAGE_CACHE_THREADS": "8",
        "PACKAGE_CACHE_VERBOSE": "2",
        "PACKAGE_CACHE_SYSLOG": "Yes",
        "PACKAGE_CACHE_MAX_SIZE": "200G",
        "PACKAGE_CACHE_MIN_FREE": "5%",
        "PACKAGE_CACHE_MAX_AGE": "365d",
        "PACKAGE_CACHE_CONNECT_TIMEOUT": "1",
        "PACKAGE_CACHE_HEAD_TIMEOUT": "2.5",
        "PACKAGE_CACHE_STALL_TIMEOUT": "3",
        "PACKAGE_CACHE_REQUEST_TIMEOUT": "4",
        "PACKAGE_CACHE_IDLE_TIMEOUT": "5",
        "PACKAGE_CACHE_SEND_TIMEOUT": "6",
        "PATH": "/usr/bin",
        "MY_PACKAGE_CACHE_PORT": "1",
    }
    assert layered(environment, {}).config == Config(
        source=(Source(URL), Source("https://other.example")),
        cache=Path("/var/cache/package-cache"),
        host="::",
        port=0,
        server="gunicorn",
        workers=4,
        threads=8,
        verbose=2,
        syslog=True,
        max_size=200 << 30,
        min_free=Share(part=0.05),
        max_age=365 * 86400,
        timeouts=Timeouts(1, 2.5, 3, 4, 5, 6),
    )


def test_every_field_can_be_set() -> None:
    named = {one.name for one in fields(Config)} - {"timeouts", "repository"} | {
        f"{one.name}_timeout" for one in fields(Timeouts)
    }
    assert set(NAMES) == named


def test_command_line_wins_over_the_environment() -> None:
    environment = {"PACKAGE_CACHE_PORT": "1", "PACKAGE_CACHE_HOST": "a.example", "PACKAGE_CACHE_SOURCE": URL}
    config = layered(environment, {"port": "2", "source": "https://other.example/"}).config
    assert (config.port, config.host, config.source) == (2, "a.example", (Source("https://other.example"),))


def test_all_problems_are_told_at_once_with_their_place() -> None:
    environment = {"PACKAGE_CACHE_PORT": "x", "PACKAGE_CACHE_WORKERS": "0", "PACKAGE_CACHE_COLOUR": "red"}
    told = problems(environment, {"head_timeout": "-1", "server": "apache"})
    assert [text.partition(":")[0] for text in sorted(told)] == [
        "--head-timeout",
        "--server",
        "PACKAGE_CACHE_COLOUR",
        "PACKAGE_CACHE_PORT",
        "PACKAGE_CACHE_WORKERS",
    ]


def test_problem_of_the_environment_is_told_though_the_command_line_wins() -> None:
    (told,) = problems({"PACKAGE_CACHE_PORT": "x"}, {"port": "1"})
    assert told.startswith("PACKAGE_CACHE_PORT: 'x' is not a port")


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("PACKAGE_CACHE_PROT", "PACKAGE_CACHE_PORT"),
        ("PACKAGE_CACHE_SOURCES", "PACKAGE_CACHE_SOURCE"),
        ("PACKAGE_CACHE_CACHE_DIR", "PACKAGE_CACHE_CACHE"),
        ("PACKAGE_CACHE_STALL", "PACKAGE_CACHE_STALL_TIMEOUT"),
    ],
)
def test_unknown_variable_is_refused_with_the_nearest_name(variable: str, nearest: str) -> None:
    assert problems({variable: "1"}) == [f"{variable}: there is no such setting; the nearest is {nearest}"]


@settings(deadline=None)
@given(st.text() | st.sampled_from(["CONFIG", "Config", "PORT"]), st.text())
def test_any_variable_of_ours_is_a_setting_or_a_problem(name: str, text: str) -> None:
    outcome = built({f"PACKAGE_CACHE_{name}": text}, {})
    assert name.lower() in (*NAMES, "config") if isinstance(outcome, Config) else len(outcome) == 1


@settings(deadline=None)
@given(st.sampled_from(NAMES), st.text())
def test_any_value_is_taken_or_told(name: str, text: str) -> None:
    config = built({}, {name: text})
    if not isinstance(config, Config):
        (told,) = config
        assert told.startswith(f"--{name.replace('_', '-')}: ")
        return
    assert 0 <= config.port <= 65535
    assert 1 <= config.workers <= 4096
    assert config.server in SERVERS
    assert all(0 < getattr(config.timeouts, one.name) < 1e6 for one in fields(Timeouts))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("port", text) for text in ("", "-1", "65536", "4000.0", "http", "\u0664", " 1", "1e3")),
        *(("workers", text) for text in ("", "0", "-1", "4097", "two")),
        *(("threads", text) for text in ("0", "4097")),
        *(("verbose", text) for text in ("", "-1", "much")),
        *(("syslog", text) for text in ("", "2", "maybe")),
        *(("server", text) for text in ("", "apache", "Gunicorn")),
        *(("cache", text) for text in ("", "~nobody-of-that-name/cache")),
        *(("stall_timeout", text) for text in ("", "0", "-1", "nan", "inf", "1e6", "soon")),
    ],
)
def test_value_that_cannot_be_is_refused(name: str, text: str) -> None:
    (told,) = problems({}, {name: text})
    assert told.startswith(f"--{name.replace('_', '-')}: ")


@pytest.mark.parametrize("text", ["1", "yes", "TRUE", "On"])
def test_switch_is_on(text: str) -> None:
    assert layered({}, {"syslog": text}).config.syslog is True


@pytest.mark.parametrize("text", ["0", "no", "False", "OFF"])
def test_switch_is_off(text: str) -> None:
    assert layered({}, {"syslog": text}).config.syslog is False


def test_home_directory_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert layered({}, {"cache": "~/cache"}).config.cache == Path("/home/someone/cache")


# --- Addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4000", TcpAddress("127.0.0.1", 4000)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("cache.example:65535", TcpAddress("cache.example", 65535)),
        ("[::1]:4000", TcpAddress("::1", 4000)),
        ("[::]:4000", TcpAddress("::", 4000)),
        ("[fe80::1%eth0]:80", TcpAddress("fe80::1%eth0", 80)),
        (":4000", TcpAddress(None, 4000)),
        ("*:4000", TcpAddress(None, 4000)),
        ("unix:/run/package-cache.sock", UnixAddress(Path("/run/package-cache.sock"))),
        ("unix:/run/a:b", UnixAddress(Path("/run/a:b"))),
        ("unix:/" + "x" * 106, UnixAddress(Path("/" + "x" * 106))),
    ],
)
def test_address_to_listen_on(text: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "names no port") for text in ("4000", "localhost", "/run/package-cache.sock")),
        *((text, "a port that is not a number") for text in ("localhost:", ":x", ":65536", "[::1]:", ":-1", "*:٤")),
        *((text, "not a host and a port") for text in ("::1:4000", "http://localhost:4000", "[::1]x:1", "a]:1", "/x:1")),
        *((text, "no IPv6 address in its brackets") for text in ("[localhost]:1", "[]:1", "[127.0.0.1]:1", "[*]:1")),
        *((text, "absolute path") for text in ("unix:", "unix:run/x", "unix:@x", "unix:/run/", "unix:/a\0b")),
        *((text, "107 bytes") for text in ("unix:/" + "x" * 107, "unix:/" + "é" * 54)),
        ("unix:/\ud800", "path"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_address(text)


def test_every_bad_address_is_told() -> None:
    (told,) = problems({"PACKAGE_CACHE_LISTEN": "4000 127.0.0.1:4000 unix:x"})
    assert told.startswith("PACKAGE_CACHE_LISTEN: '4000' names no port")
    assert "'unix:x' is not the absolute path" in told
    assert "'127.0.0.1:4000'" not in told
    (told,) = problems({}, {"listen": " "})
    assert told.startswith("--listen: no address is named")


def test_without_addresses_it_listens_on_host_and_port() -> None:
    assert layered({}, {}).config.addresses == (TcpAddress("localhost", 4000),)
    assert layered({"PACKAGE_CACHE_PORT": "0"}, {"host": "::"}).config.addresses == (TcpAddress("::", 0),)
    assert layered({}, {"host": ""}).config.addresses == (TcpAddress("", 4000),), "no host is not all of them"


def test_addresses_take_the_place_of_host_and_port() -> None:
    both = (TcpAddress("127.0.0.1", 1), UnixAddress(Path("/x")))
    listen = {"listen": "127.0.0.1:1  unix:/x"}
    assert layered({}, listen).config.addresses == both
    assert layered({"PACKAGE_CACHE_HOST": "::", "PACKAGE_CACHE_PORT": "5"}, listen).config.addresses == both
    assert layered({"PACKAGE_CACHE_LISTEN": "unix:/y"}, listen).config.addresses == both


def test_host_and_port_of_the_command_line_win_over_addresses_of_the_environment() -> None:
    environment = {"PACKAGE_CACHE_LISTEN": "unix:/x"}
    assert layered(environment, {"port": "5"}).config.addresses == (TcpAddress("localhost", 5),)
    assert layered(environment, {"host": "::"}).config.addresses == (TcpAddress("::", 4000),)
    assert layered(environment, {"workers": "5"}).config.addresses == (UnixAddress(Path("/x")),)


def test_addresses_and_a_port_in_one_place_contradict_each_other() -> None:
    told = problems({}, {"listen": "unix:/x", "host": "::", "port": "1"})
    assert told == ["--listen: takes the place of --host and --port; give one or the other"]
    told = problems({"PACKAGE_CACHE_LISTEN": "unix:/x", "PACKAGE_CACHE_PORT": "x"}, {"listen": "unix:/y"})
    assert told[0] == "PACKAGE_CACHE_LISTEN: takes the place of PACKAGE_CACHE_PORT; give one or the other"
    assert told[1].startswith("PACKAGE_CACHE_PORT: 'x' is not a port")


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(st.sampled_from("unix:/[].*1a%@ \0"), max_size=30), st.text().map("unix:/{}".format)))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert isinstance(address, TcpAddress) or address.path.is_absolute()


# --- Sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("http://mirror.example", "http://mirror.example"),
        ("http://mirror.example/", "http://mirror.example"),
        ("http://mirror.example/gentoo/", "http://mirror.example/gentoo"),
        ("http://mirror.example/gentoo//", "http://mirror.example/gentoo"),
        ("  http://mirror.example/ ", "http://mirror.example"),
        ("HTTPS://mirror.example:8443/a/b", "https://mirror.example:8443/a/b"),
        ("http://[2001:db8::1]:80/a", "http://[2001:db8::1]:80/a"),
        ("http://mirror.example/a%20b/~c/@d", "http://mirror.example/a%20b/~c/@d"),
        ("file:///var/cache/distfiles/", "file:///var/cache/distfiles"),
        ("file://localhost/var/cache", "file://localhost/var/cache"),
        ("file:/var/cache", "file:///var/cache"),
    ],
)
def test_source_is_a_base_without_its_last_slash(text: str, base: str) -> None:
    assert parse_source(text) == Source(base)


@pytest.mark.parametrize(
    ("text", "base", "pair"),
    [
        ("http://user:word@mirror.example/x", "http://mirror.example/x", b"user:word"),
        ("https://user@mirror.example:8443", "https://mirror.example:8443", b"user:"),
        ("http://user:@mirror.example", "http://mirror.example", b"user:"),
        ("http://us%40er:w%3Ao%2Frd%25@mirror.example", "http://mirror.example", b"us@er:w:o/rd%"),
        ("http://user:a:b@mirror.example", "http://mirror.example", b"user:a:b"),
        ("http://%c3%a9:%ff@mirror.example", "http://mirror.example", "é:".encode() + b"\xff"),
        ("http://User:Word@[::1]:80/", "http://[::1]:80", b"User:Word"),
    ],
)
def test_credentials_of_a_source_become_basic_authorization(text: str, base: str, pair: bytes) -> None:
    source = parse_source(text)
    assert source.base == base
    [(name, value)] = source.fields
    assert name == "Authorization"
    scheme, _, credentials = value.partition(" ")
    assert scheme == "Basic"
    assert b64decode(credentials, validate=True) == pair


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not an http"),
        ("mirror.example", "not an http"),
        ("mirror.example:80/x", "not an http"),
        ("/var/cache", "not an http"),
        ("ftp://mirror.example/", "not an http"),
        ("rsync://mirror.example/", "not an http"),
        ("http://", "names no host"),
        ("http:///gentoo", "names no host"),
        ("http:mirror.example", "names no host"),
        ("http://:80/", "names no host"),
        ("http://user@/", "names no host"),
        ("http://mirror.example:x/", "port"),
        ("http://mirror.example:65536/", "port"),
        ("http://mirror.example/?a=b", "query"),
        ("http://mirror.example/#a", "query or a fragment"),
        ("http://mirror.example/a b", "percent-encoded"),
        ("http://mirror.example/é", "percent-encoded"),
        ("http://mirror.example/a\tb", "percent-encoded"),
        ("http://mirror.example/100%/", "hexadecimal"),
        ("http://user:100%@mirror.example/", "hexadecimal"),
        ("http://us%3Aer:word@mirror.example/", "colon"),
        ("http://[::1/", "not a URL"),
        ("file://mirror.example/var", "not a local directory"),
        ("file://user@localhost/var", "not a local directory"),
        ("file:var/cache", "not a local directory"),
        ("file:", "not a local directory"),
    ],
)
def test_what_is_no_source_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_source(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "ftp://user:secret@mirror.example/",
            "http://user:secret@mirror.example:x/",
            "http://user:secret@mirror.example/?q",
        ),
        *("http://us%3Aer:secret@mirror.example/", "http://user:se/cret@mirror.example/", "http://user:secret@[::1/"),
        *("http://user:secret%@mirror.example", "file://user:secret@localhost/x"),
    ],
)
def test_password_is_not_told(text: str) -> None:
    with pytest.raises(ValueError, match="source") as caught:
        parse_source(text)
    assert "cret" not in str(caught.value)


def test_every_bad_source_is_told() -> None:
    (told,) = problems({"PACKAGE_CACHE_SOURCE": f"ftp://a.example {URL} b.example"})
    assert "ftp://a.example" in told
    assert "'b.example'" in told
    assert URL + "'" not in told


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(st.sampled_from("htpfile:/@%[]#?.a1 -\t"), max_size=30).map("http://{}".format)))
def test_any_text_is_a_source_or_refused(text: str) -> None:
    try:
        source = parse_source(text)
    except ValueError:
        return
    assert not source.base.endswith("/") or source.base == "file://"
    assert "@" not in source.base.split("/")[2]
    assert parse_source(source.base if source.base != "file://" else "file:///") == Source(source.base)
