"""The file of configuration: which one is read, what it may say, what is told of what is wrong, and its commands."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from base64 import b64encode
from pathlib import Path

import pytest
from documentation import fenced, text_of
from examples import examples
from forks import Forks, run
from hypothesis import given, settings
from hypothesis import strategies as st
from product import surroundings

from package_cache.cli.commands import COMMANDS, load
from package_cache.cli.commands.configuring import template
from package_cache.config import NAMES, Config, TcpAddress, Timeouts, UnixAddress
from package_cache.config.layers import ConfigFile, Layered, configured, layered, read_document, secrets
from package_cache.config.repositories import REPOSITORY_KEYS, RULE_KEYS, parse_fresh
from package_cache.config.settings import SETTINGS, TIMEOUTS
from package_cache.errors import ConfigError
from package_cache.model import Freshness, Preset, Repository, Source, Target, VirtualHost
from package_cache.rules.repositories.routes import Routes
from package_cache.units import Share

pytestmark = pytest.mark.usefixtures("shell")

ABOVE_ALL = "the setting listen is written above the first table of the file"
REPOSITORY = '[[repository]]\nname = "debian"\nprefix = "/debian/"\nsources = ["http://mirror.example/debian/"]\n'
SECRET = "s3cr3t-w0rd"


def document(text: str) -> ConfigFile:
    return read_document("FILE", text, secrets(Path("/nowhere"), {}))


def read(text: str, environment: dict[str, str] | None = None, options: dict[str, str] | None = None) -> Config:
    """The settings of a file with that text."""
    return layered(environment or {}, options or {}, document(text)).config


def repository(text: str) -> Repository:
    [one] = read(text).repository
    return one


def problems(text: str, environment: dict[str, str] | None = None, options: dict[str, str] | None = None) -> list[str]:
    """All that is wrong with a file; what is told of it begins with its name."""
    with pytest.raises(ConfigError) as caught:
        read(text, environment, options)
    own = [one for one in caught.value.problems if not one.startswith(("--", "PACKAGE_CACHE_"))]
    assert all(one.startswith("FILE: ") for one in own)
    return [one.removeprefix("FILE: ") for one in caught.value.problems]


def problem(text: str) -> str:
    [one] = problems(text)
    return one


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- Layers -----------------------------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file_and_the_command_line_over_both() -> None:
    text = 'port = 1\nworkers = 3\nthreads = 5\nsource = "http://file.example/"'
    config = read(text, {"PACKAGE_CACHE_PORT": "2", "PACKAGE_CACHE_WORKERS": "4"}, {"port": "3"})
    assert (config.port, config.workers, config.threads) == (3, 4, 5)
    assert config.source == (Source("http://file.example"),)
    assert read("[timeouts]\nstall = 9", {"PACKAGE_CACHE_STALL_TIMEOUT": "8"}).timeouts == Timeouts(stall=8)


def test_where_to_listen_is_told_by_the_last_layer_that_says_anything_of_it() -> None:
    assert read("port = 1\nhost = '::1'", {}, {"listen": ":2"}).addresses == (TcpAddress(None, 2),)
    assert read("listen = [':1', 'unix:/run/x']", {}, {"port": "2"}).addresses == (TcpAddress("localhost", 2),)
    assert read("port = 1", {"PACKAGE_CACHE_HOST": "::1"}).addresses == (TcpAddress("::1", 1),)
    assert problem("port = 1\nlisten = [':1']") == "listen: takes the place of FILE: port; give one or the other"


def test_each_value_is_told_with_its_layer() -> None:
    found = layered({"PACKAGE_CACHE_THREADS": "9"}, {"port": "3"}, document("workers = 3\nport = 1"))
    assert found.origins == {
        "workers": ("3", "FILE"),
        "threads": ("9", "the environment"),
        "port": ("3", "the command line"),
    }
    assert found.file == "FILE"


def test_what_is_wrong_in_any_layer_is_told_at_once() -> None:
    text = "port = 'x'\nprot = 1\n[timeouts]\nstal = 1\nhead = 0\n[[repository]]\nprefix = '/-/x'"
    told = problems(text, {"PACKAGE_CACHE_WORKERS": "0"}, {"threads": "0"})
    assert [one.partition(": ")[0] for one in sorted(told)] == [
        "--threads",
        "PACKAGE_CACHE_WORKERS",
        "port",
        "prot",
        "repository 1",
        "timeouts",
        "timeouts",
    ]
    for fragment in (
        "port: 'x' is not a port",
        "prot: there is no such setting",
        "timeouts: stal: there is no such",
        "no name",
    ):
        assert any(fragment in one for one in told), fragment


def test_sources_on_the_command_line_take_the_place_of_those_at_the_root() -> None:
    root = '[[repository]]\nname = "all"\nprefix = "/"\nsources = ["http://old.example/"]\npreset = "gentoo"\n'
    config = read(root + REPOSITORY, {}, {"source": "http://new.example/ http://u:p@other.example/"})
    one, other = config.repositories
    assert (one.name, one.preset, one.home) == ("all", Preset.GENTOO, "")
    assert [source.base for source in one.sources] == ["http://new.example", "http://other.example"]
    assert one.sources[1].fields
    assert [source.base for source in other.sources] == ["http://mirror.example/debian"]
    assert (
        read(root, {"PACKAGE_CACHE_SOURCE": "http://new.example/"}).repositories[0].sources[0].base == "http://new.example"
    )
    assert [one.name for one in read(REPOSITORY, {}, {"source": "http://new.example/"}).repositories] == ["root", "debian"]
    assert "source: it is the repository at /" in problem('source = "http://a.example/"\n' + root)


# --- Which file -------------------------------------------------------------------------------------------------------


def threads(**variables: str) -> tuple[int, str]:
    """A setting, and where it comes from."""
    ended = run("config", "show", "--json", **variables)
    assert (ended.returncode, ended.stderr) == (0, "")
    shown = json.loads(ended.stdout)["threads"]
    return shown["value"], shown["from"]


def test_the_file_that_is_named_is_read_and_else_that_of_the_user(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    of_user = write(tmp_path / ".config/package-cache/config.toml", "threads = 1")
    of_xdg = write(tmp_path / "xdg/package-cache/config.toml", "threads = 2")
    named, option = write(tmp_path / "named.toml", "threads = 3"), write(tmp_path / "option.toml", "threads = 4")
    assert threads(PACKAGE_CACHE_CONFIG="", **home) == (1, str(of_user))
    assert threads(PACKAGE_CACHE_CONFIG="", HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path / "xdg")) == (2, str(of_xdg))
    assert threads(PACKAGE_CACHE_CONFIG=str(named), **home) == (3, str(named))
    ended = run("config", "show", "--json", "--config", str(option), PACKAGE_CACHE_CONFIG=str(named), **home)
    assert json.loads(ended.stdout)["threads"]["from"] == str(option)
    ended = run("config", "show", "--json", str(option), PACKAGE_CACHE_CONFIG="/nonexistent", **home)
    assert json.loads(ended.stdout)["threads"]["from"] == str(option)


def test_the_null_device_is_an_empty_file() -> None:
    assert configured({"PACKAGE_CACHE_CONFIG": "/dev/null"}, {}) == Layered(Config(), {}, "/dev/null")
    assert configured({}, {"config": "/dev/null", "port": "3"}).config == Config(port=3)


_ETC = """
mount -t tmpfs none /etc && mkdir /etc/package-cache && echo 'threads = 7' > /etc/package-cache/config.toml && {} &&
exec "$@"
"""


def run_in_namespace(before: str, home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """The command as root, with an /etc of its own, in which there is nothing but the file of the machine."""
    apart = ["unshare", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no mount namespace")
    return subprocess.run(
        [*apart, "sh", "-c", _ETC.format(before), "sh", sys.executable, "-m", "package_cache", *words],
        capture_output=True,
        text=True,
        env=surroundings(PACKAGE_CACHE_CONFIG="", HOME=str(home), XDG_CONFIG_HOME=""),
        check=False,
        timeout=60,
    )


def test_the_file_of_the_machine_is_read_where_the_user_has_none(tmp_path: Path) -> None:
    for value in (7, 1):
        ended = run_in_namespace("true", tmp_path, "config", "show", "--json")
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["threads"]["value"] == value
        write(tmp_path / ".config/package-cache/config.toml", "threads = 1")


@pytest.mark.parametrize("command", [("config", "check"), ("ls",), ("--port", "0")])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "bytes").write_bytes(b"# \xff")
    for name, reason in (("none", "No such file or directory"), (".", "Is a directory"), ("bytes", "is not UTF-8: byte 2")):
        ended = run(*command, PACKAGE_CACHE_CONFIG=str(tmp_path / name))
        assert (ended.returncode, ended.stdout) == (2, "")
        assert f"the configuration {tmp_path / name} " in ended.stderr
        assert reason in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_file_that_an_editor_began_with_a_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbfthreads = 7\r\n")
    ended = run("config", "show", "--json", PACKAGE_CACHE_CONFIG=str(tmp_path / "config.toml"))
    assert json.loads(ended.stdout)["threads"]["value"] == 7


def test_show_gives_programs_each_value_as_what_it_is(tmp_path: Path) -> None:
    text = f"""
    source = ["http://user:secret@a.example/b/"]
    cache = "{tmp_path}"
    balance = true
    listen = [":4000", "unix:/run/x"]
    allow = ["192.168.0.0/16"]
    max-size = "1K"
    min-free = "2.5%"
    scrub = "never"
    [timeouts]
    stall = 2
    """
    ended = run("config", "show", "--json", str(write(tmp_path / "config.toml", text)))
    assert "secret" not in ended.stdout
    found = {name: one["value"] for name, one in json.loads(ended.stdout).items() if isinstance(one, dict)}
    expected = {
        "source": ["http://a.example/b/"],
        "cache": str(tmp_path),
        "balance": True,
        "listen": [":4000", "unix:/run/x"],
        "allow": ["192.168.0.0/16"],
        "max_size": 1024,
        "min_free": "2.5%",
        "max_age": None,
        "scrub": None,
        "stall_timeout": 2.0,
        "port": 4000,
    }
    assert {name: found[name] for name in expected} == expected


# --- Settings ---------------------------------------------------------------------------------------------------------

RIGHT = {
    'source = "http://a.example/ http://b.example/"': ("source", (Source("http://a.example"), Source("http://b.example"))),
    'source = ["http://a.example/"]': ("source", (Source("http://a.example"),)),
    "source = []": ("source", ()),
    "balance = true": ("balance", True),
    'balance = "on"': ("balance", True),
    'cache = "/var/cache/x"': ("cache", Path("/var/cache/x")),
    'listen = [":4000", "unix:/run/x"]': ("listen", (TcpAddress(None, 4000), UnixAddress(Path("/run/x")))),
    'listen = "[::1]:1"': ("listen", (TcpAddress("::1", 1),)),
    'host = "::"': ("host", "::"),
    "port = 0": ("port", 0),
    "port = 0x50": ("port", 80),
    'port = "80"': ("port", 80),
    'allow = ["192.168.0.0/16", "::1"]': ("allow", None),
    'connect = ["mirror.example:443"]': ("connect", (TcpAddress("mirror.example", 443),)),
    'server = "gunicorn"': ("server", "gunicorn"),
    "workers = 3": ("workers", 3),
    "threads = 3": ("threads", 3),
    "connections = 9000": ("connections", 9000),
    "downloads = 3": ("downloads", 3),
    "verbose = 2": ("verbose", 2),
    "syslog = true": ("syslog", True),
    'access-log = "-"': ("access_log", "-"),
    'access-format = "json"': ("access_format", "json"),
    'max-size = "200G"': ("max_size", 200 << 30),
    "max-size = 5000000": ("max_size", 5000000),
    'min-free = "5%"': ("min_free", Share(part=0.05)),
    'max-age = "365d"': ("max_age", 365 * 86400.0),
    'scrub = "never"': ("scrub", None),
    "scrub = '12h'": ("scrub", 43200.0),
}


def test_every_setting_may_stand_in_the_file() -> None:
    assert {line.partition(" ")[0].replace("-", "_") for line in RIGHT} == set(SETTINGS)
    for line, (name, value) in RIGHT.items():
        assert value is None or getattr(read(line), name) == value, line
    for one in TIMEOUTS:
        name = one.removesuffix("_timeout")
        assert getattr(read(f"[timeouts]\n{name} = 7").timeouts, name) == 7
        assert getattr(read(f"[timeouts]\n{name} = 2.5").timeouts, name) == 2.5
        assert getattr(read(f"[timeouts]\n{name} = '1e2'").timeouts, name) == 100


LISTS, TEXTS = 'it is not a list of strings without spaces, such as ["..."]', "it is not a string or a number"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("source = 5", f"source: {LISTS}"),
        ('source = ["http://a.example/ http://b.example/"]', f"source: {LISTS}"),
        ('source = [["http://a.example/"]]', f"source: {LISTS}"),
        ("source = ['a.example']", "source: source 'a.example' is not an http, https or file URL; "),
        ("balance = 2", "balance: '2' is neither yes nor no"),
        ("balance = []", "balance: it is not true or false"),
        ("cache = ''", "cache: the cache directory is empty"),
        ('cache = "/a\\u0000b"', "cache: it holds a NUL character"),
        ('host = "a\\u0000b"', "host: it holds a NUL character"),
        ('access-log = "a\\u0000b"', "access-log: it holds a NUL character"),
        ("listen = 4000", f"listen: {LISTS}"),
        ("listen = []", "listen: no address is named; "),
        ("listen = ['4000', 'unix:x']", "listen: '4000' names no port; "),
        ("port = true", f"port: {TEXTS}"),
        ("port = 4000.0", "port: '4000.0' is not a port; "),
        ("port = -1", "port: '-1' is not a port; "),
        ("port = 2026-01-01", f"port: {TEXTS}"),
        ("port = {a = 1}", f"port: {TEXTS}"),
        (f"port = 0x{'f' * 5000}", f"port: {TEXTS}"),
        (f"port = {'9' * 5000}", ""),
        ("allow = []", "allow: no network is named"),
        ("allow = ['x']", "allow: 'x' is not a network; "),
        ("connect = ['mirror.example']", "connect: 'mirror.example' is not a host and a port"),
        ("connect = 443", f"connect: {LISTS}"),
        ("server = 'apache'", "server: 'apache' is not a server; known are wsgiref and gunicorn"),
        ("workers = 0", "workers: '0' is not a count from 1 to 4096"),
        ("verbose = true", f"verbose: {TEXTS}"),
        ("verbose = -1", "verbose: '-1' is not a level"),
        ("syslog = 'perhaps'", "syslog: 'perhaps' is neither yes nor no"),
        ("access-format = 'xml'", "access-format: 'xml' is not a format"),
        ("max-size = 200", "max-size: '200' has no unit: write 200G, 200M or 200K, or 200B for so few bytes"),
        ("min-free = '5'", "min-free: '5' has no unit"),
        ("max-size = '2X'", "max-size: '2X' is not a size above 0"),
        ("min-free = '100%'", "min-free: '100%' is not a percentage"),
        ("max-age = 7", "max-age: '7' is not a time above 0"),
        ("scrub = false", f"scrub: {TEXTS}"),
        ("[timeouts]\nstall = 0", "timeouts: stall: '0' is not a number of seconds above 0"),
        ("[timeouts]\nstall = nan", "timeouts: stall: 'nan' is not a number of seconds above 0"),
        ("[timeouts]\nstall = []", f"timeouts: stall: {TEXTS}"),
        ("timeouts = 3", "timeouts: it is a table: [timeouts]"),
    ],
)
def test_what_a_setting_cannot_be_is_told_with_what_would_be_right(line: str, told: str) -> None:
    assert problem(line).startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", "prot: there is no such setting; the nearest is port"),
        ("max_size = 1", "max_size: there is no such setting; the nearest is max-size"),
        ("repositories = []", "repositories: there is no such setting; the nearest is repository"),
        ("[timeout]\nstall = 1", "timeout: there is no such setting; the nearest is timeouts"),
        ("stall-timeout = 1", "stall-timeout: there is no such setting; stall is written below [timeouts]"),
        ("config = 'x'", "config: there is no such setting; known are source, balance, "),
        ("index = 'x'", "index: there is no such setting; known are source, balance, "),
        ("prefix = '/'", "prefix: there is no such setting; prefix is written below [[repository]]"),
        ("[timeouts]\nlisten = [':1']", f"timeouts: listen: there is no such setting; {ABOVE_ALL}"),
        (REPOSITORY + "listen = [':1']", f"repository debian: there is no key listen; {ABOVE_ALL}"),
        (
            REPOSITORY + '[[repository.rule]]\nmatch = "*"\nfresh = "5m"\nlisten = [":1"]',
            f"repository debian: there is no key listen; {ABOVE_ALL}",
        ),
        ("[timeouts]\nstal = 1", "timeouts: stal: there is no such setting; the nearest is stall"),
        ("[timeouts]\nstall-timeout = 1", "timeouts: stall-timeout: there is no such setting; the nearest is stall"),
        (REPOSITORY + "source = []", "repository debian: there is no key source; the nearest is sources"),
        (
            REPOSITORY + "max_file_size = 1",
            "repository debian: there is no key max_file_size; the nearest is max-file-size",
        ),
        (
            REPOSITORY + '[[repository.rule]]\nmatch = "*"\nfresh = "5m"\nmax-size = 1',
            "repository debian: there is no key max-size; the nearest is max-file-size",
        ),
        (
            REPOSITORY.replace('["http://mirror.example/debian/"]', '[{ url = "http://a.example/", header = {} }]'),
            "repository debian: there is no key header; the nearest is headers",
        ),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_name(text: str, told: str) -> None:
    assert problem(text).startswith(told)


@pytest.mark.parametrize(
    ("text", "line"), [("port = 1\nport = 2", 2), ("port = 1\n\nhost = 'x", 3), ("a = [\n1,\n2", 3), ("<html>", 1)]
)
def test_what_is_no_toml_is_told_with_its_line(text: str, line: int) -> None:
    told = problem(text)
    assert f"line {line}" in told or "end of document" in told


def test_brackets_within_brackets_are_no_bug() -> None:
    assert problems(f"a = {'[' * 100_000}")


# --- Repositories -----------------------------------------------------------------------------------------------------


def test_a_repository_is_what_its_table_says() -> None:
    text = """
    [[repository]]
    name = "debian"
    prefix = "/linux/debian"
    hosts = ["Deb.Example.:80", "[::1]:81/debian/", "deb.example:8080"]
    sources = ["http://a.example/debian/", { url = "file:///srv/debian" }]
    preset = "debian"
    max-file-size = "1G"
    [[repository.rule]]
    match = "*.iso"
    fresh = "12h"
    [[repository.rule]]
    match = "/x/**"
    fresh = "json-metadata"
    max-file-size = "10B"
    [[repository.rule]]
    match = "y"
    max-file-size = "10K"
    """
    one = repository(text)
    assert (one.name, one.home, one.preset, one.largest) == ("debian", "/linux/debian", Preset.DEBIAN, 1 << 30)
    assert one.hosts == (VirtualHost("deb.example"), VirtualHost("[::1]:81", "/debian"), VirtualHost("deb.example:8080"))
    assert one.sources == (Source("http://a.example/debian"), Source("file:///srv/debian"))
    first, second, third = one.rules
    assert (first.match, first.fresh.how if first.fresh else 0, first.fresh.seconds if first.fresh else 0) == (
        "*.iso",
        Freshness.TIMED,
        43200,
    )
    assert (second.fresh.how if second.fresh else 0, second.largest) == (Freshness.JSON_METADATA, 10)
    assert (third.fresh, third.largest) == (None, 10240)


def test_one_that_is_known_by_hosts_alone_has_a_name_of_its_own() -> None:
    assert repository(REPOSITORY.replace('prefix = "/debian/"', 'hosts = ["deb.example"]')).home == "/-/debian"
    assert repository(REPOSITORY.replace("/debian/", "/")).home == ""


def changed(line: str) -> str:
    """A repository in which a key has another value, or which has one more."""
    key = line.partition(" ")[0]
    kept = [one for one in REPOSITORY.splitlines() if one.partition(" ")[0] != key]
    return "\n".join([*kept, line])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('name = "a b"', "repository a b: name: 'a b' is no name: it has letters, digits"),
        ('name = ""', "repository : name: '' is no name"),
        ("name = []", "repository 1: name: it is no string"),
        *(
            (f"prefix = '{text}'", f"debian: prefix: '{text}' is not the beginning")
            for text in ("", "debian/", "//", "/a//b")
        ),
        *(
            (f"prefix = '{text}'", f"debian: prefix: '{text}' is not the beginning")
            for text in ("/../a", "/a?b", "/%41", "/a b")
        ),
        *((f"prefix = '{text}'", "debian: prefix: /-/ is the cache's own") for text in ("/-/", "/-", "/-/debian/")),
        ("prefix = true", "debian: prefix: it is no string"),
        ("hosts = 'deb.example'", "debian: hosts: it is a list of strings"),
        ("hosts = [1]", "debian: hosts: it is a list of strings"),
        *(
            (f"hosts = ['{text}']", f"debian: hosts: '{text}' is no host; one looks like ")
            for text in (
                "",
                "http://a.example/",
                "a b",
                "a.example:",
                "a.example:65536",
                "a.example:x",
                "u@a.example",
                "::1",
            )
        ),
        *(
            (f"hosts = ['{text}']", f"debian: hosts: '{text}' is no host; one looks like ")
            for text in (
                "a.example/../b",
                "a.example/a b",
                "a.example/%41",
                "a.example//",
                "a.example?b",
                "a.example:\u0664",
            )
        ),
        ("sources = 'http://a.example/'", "debian: sources: it is a list"),
        ("sources = []", "debian: it has no sources"),
        ("sources = [3]", "debian: url: source '3' is not an http"),
        ("sources = [[]]", "debian: url: it is no string"),
        ("sources = ['http://a.example/?x']", "debian: url: source 'http://a.example/?x' has a query or a fragment"),
        ("sources = [{ headers = {} }]", "debian: sources: a table of it has no url"),
        ("preset = 'debain'", "debian: preset: 'debain' is no preset; the nearest is debian, known are gentoo, "),
        ("max-file-size = 200", "debian: max-file-size: '200' has no unit"),
        ("max-file-size = 0", "debian: max-file-size: '0' is not a size above 0"),
        ("rule = 3", "debian: rule: each is written [[repository.rule]], in two brackets"),
        ("[repository.rule]\nmatch = '*'", "debian: rule: each is written [[repository.rule]], in two brackets"),
        ("[[repository.rule]]\nmatch = '*'", "debian: rule: it says match and fresh"),
        ("[[repository.rule]]\nfresh = '5m'", "debian: rule: it says match and fresh"),
        ("[[repository.rule]]\nmatch = ''\nfresh = '5m'", "debian: match: a glob that is empty"),
        ("[[repository.rule]]\nmatch = '[]'\nfresh = '5m'", "debian: match: '[]' is no glob"),
        ("[[repository.rule]]\nmatch = '*'\nfresh = '5'", "debian: fresh: '5' is none of immutable, http, revalidate, "),
        ("[[repository.rule]]\nmatch = '*'\nfresh = 'timed'", "debian: fresh: 'timed' is none of "),
        ("[[repository.rule]]\nmatch = '*'\nfresh = 5", "debian: fresh: '5' is none of "),
        ("links-to = 'debian'", "debian: links-to: it is a list of strings"),
        ("preset = 'ubuntu'", "debian: preset: 'ubuntu' is no preset; known are gentoo, "),
        ("links-to = ['fedora']", "debian: links-to: there is no repository fedora; known are debian"),
        ("links-to = ['debain']", "debian: links-to: there is no repository debain; the nearest is debian"),
        ("headers = 'X: y'", "debian: headers: it is a table"),
        ("headers = { Host = 'x' }", "debian: headers: Host is not a field that can be set"),
        ("headers = { 'X Y' = 'x' }", "debian: headers: X Y is not a field that can be set"),
        ("headers = { X = 'a\\nb' }", ""),
        ('headers = { X = "a\\nb" }', "debian: headers: X: it is not one line of printable ASCII"),
        ("headers = { X = { file = 'a', env = 'b' } }", "debian: headers: X: it is a string, or { file = "),
        ("headers = { X = { path = 'a' } }", "debian: headers: X: it is a string, or { file = "),
        ("headers = { X = { env = 'NO_SUCH' } }", "debian: headers: X: the variable NO_SUCH is not set"),
        ("headers = { X = { file = 'no/such' } }", "debian: headers: X: /nowhere/no/such cannot be read: No such file"),
        ("credentials = 'user'", "debian: credentials: a user and a password are separated by a colon"),
        ("credentials = 5", "debian: credentials: it is not one line of printable ASCII"),
    ],
)
def test_what_is_wrong_with_a_repository_is_told_with_its_name(line: str, told: str) -> None:
    if told:
        assert problem(changed(line)).startswith(told if told.startswith("repository") else f"repository {told}")
    else:
        read(changed(line))


def test_a_repository_that_nobody_could_ask_for_is_told() -> None:
    assert "it has neither prefix nor hosts" in problem('[[repository]]\nname = "x"\nsources = ["http://a.example/"]')
    assert problem("[[repository]]\nprefix = '/x'\nsources = ['http://a.example/']") == "repository 1: it has no name"
    assert problem("[repository]\nname = 'x'") == "repository: each is written [[repository]], in two brackets"
    assert problem("repository = [1]") == "repository: each is written [[repository]], in two brackets"


def three(*changes: tuple[str, str]) -> str:
    """Repositories a, b and c; of each, some text is replaced."""
    texts = []
    for name, change in zip("abc", (*changes, *[("", "")] * 3), strict=False):
        text = f'[[repository]]\nname = "{name}"\nprefix = "/{name}/"\nhosts = ["{name}.example"]\n'
        text += f'sources = ["http://mirror.example/{name}"]\n'
        texts.append(text.replace(*change) if change[0] else text)
    return "".join(texts)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (three(("x", "x"), ('name = "b"', 'name = "a"')), "repository a: there are two of the name a"),
        (three(("x", "x"), ('"/b/"', '"/a"')), "repository b: prefix: /a/ is that of another one already"),
        (three(("x", "x"), ('"/b/"', '"/a/x"')), "repository b: prefix: /a/x/ is within /a/ of a; only / may have others"),
        (three(('"/a/"', '"/c/x"')), "repository a: prefix: /c/x/ is within /c/ of c; only / may have others within"),
        (three(("x", "x"), ("b.example", "A.example.:80")), "repository b: hosts: a.example is one of another repository"),
        (
            three(("a.example", "h.example/d"), ("x", "x"), ("c.example", "h.example/d/")),
            "repository c: hosts: h.example/d is one of another repository",
        ),
    ],
)
def test_what_repositories_say_against_each_other_is_told(text: str, told: str) -> None:
    assert problem(text).startswith(told)


def test_what_lies_beside_is_no_conflict() -> None:
    assert len(read(three(('"/a/"', '"/"'), ('"/b/"', '"/cb"'))).repository) == 3
    assert (
        len(read(three(("a.example", "h.example/d"), ("b.example", "h.example"), ("c.example", "h.example:81"))).repository)
        == 3
    )


def test_a_source_has_one_set_of_credentials() -> None:
    same = 'sources = ["http://mirror.example/x"]\n'
    text = (
        three()
        .replace('sources = ["http://mirror.example/b"]\n', same)
        .replace('sources = ["http://mirror.example/c"]\n', same)
    )
    assert read(text)
    told = problem(text.replace(same, same + 'credentials = "u:p"\n', 1))
    assert told == "repository c: sources: http://mirror.example/x has other headers or credentials elsewhere"
    assert read(REPOSITORY, {}, {"source": "http://mirror.example/debian/"})
    with pytest.raises(ConfigError, match=r"repository debian: sources: .* has other headers or credentials elsewhere"):
        read(REPOSITORY, {}, {"source": "http://u:p@mirror.example/debian/"})


# --- Secrets ----------------------------------------------------------------------------------------------------------


def basic(pair: str) -> str:
    return "Basic " + b64encode(pair.encode()).decode()


def test_credentials_come_from_a_text_a_file_or_a_variable(tmp_path: Path) -> None:
    write(tmp_path / "pair", f"user:{SECRET}\r\n")
    write(tmp_path / "absolute", "token")
    text = f"""
    [[repository]]
    name = "x"
    prefix = "/x"
    headers = {{ X-Token = {{ file = "{tmp_path / "absolute"}" }}, X-Other = "plain text" }}
    credentials = {{ file = "pair" }}
    sources = [
        "http://a.example/",
        "http://other:word@b.example/",
        {{ url = "http://c.example/", credentials = {{ env = "MINE" }}, headers = {{ x-token = "own" }} }},
    ]
    """
    write(tmp_path / "config.toml", text)
    config = configured({"PACKAGE_CACHE_CONFIG": str(tmp_path / "config.toml"), "MINE": "mine:a:b"}, {}).config
    one, two, three = (dict(source.fields) for source in config.repository[0].sources)
    assert one == {"X-Token": "token", "X-Other": "plain text", "Authorization": basic(f"user:{SECRET}")}
    assert two == {"X-Token": "token", "X-Other": "plain text", "Authorization": basic("other:word")}
    assert three == {"x-token": "own", "X-Other": "plain text", "Authorization": basic("mine:a:b")}


SECRETS = {
    "text": f'credentials = "user:{SECRET}"',
    "header": f'headers = {{ Authorization = "Bearer {SECRET}" }}',
    "file": 'credentials = { file = "secret" }',
    "variable": 'credentials = { env = "SECRET" }',
    "url": f'sources = ["http://user:{SECRET}@mirror.example/debian/"]',
    "table": f'sources = [{{ url = "http://mirror.example/debian/", credentials = "user:{SECRET}" }}]',
}


def hides(text: str) -> bool:
    """Whether nothing of the secret is in a text."""
    return not any(one in text for one in (SECRET, basic(f"user:{SECRET}")[6:], b64encode(SECRET.encode()).decode()[:-2]))


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_is_shown(tmp_path: Path, name: str) -> None:
    write(tmp_path / "secret", f"user:{SECRET}")
    file = write(tmp_path / "config.toml", changed(SECRETS[name]))
    for words in (("check",), ("show",), ("show", "--json"), ("show", "-vv")):
        ended = run("config", *words, str(file), SECRET=f"user:{SECRET}")
        assert ended.returncode == 0, ended.stderr
        assert hides(ended.stdout + ended.stderr)
    assert "(sends Authorization)" in run("config", "show", str(file), SECRET=f"user:{SECRET}").stdout
    assert hides(repr(configured({"PACKAGE_CACHE_CONFIG": str(file), "SECRET": f"user:{SECRET}"}, {})))


def test_the_secret_of_a_source_on_the_command_line_is_not_shown() -> None:
    for words in (("show",), ("show", "--json"), ("check",)):
        ended = run("config", *words, "--source", f"http://user:{SECRET}@mirror.example/")
        assert ended.returncode == 0
        assert hides(ended.stdout + ended.stderr)
        ended = run("config", *words, PACKAGE_CACHE_SOURCE=f"http://user:{SECRET}@mirror.example/")
        assert hides(ended.stdout + ended.stderr)


@pytest.mark.parametrize(
    "line",
    [
        f"credentials = 'user{SECRET}'",
        f"credentials = ['user:{SECRET}']",
        f'credentials = "user:{SECRET}\\n"',
        f"headers = {{ X = '{SECRET}\u00e9' }}",
        f"headers = {{ Range = '{SECRET}' }}",
        f"headers = {{ X = {{ text = '{SECRET}' }} }}",
        f"credential = 'user:{SECRET}'",
        f"sources = [['http://user:{SECRET}@mirror.example/']]",
        f"sources = ['http://user:{SECRET}@mirror.example/?x']",
        f"sources = ['http://user:x@{SECRET}@mirror.example/?x']",
        f"sources = ['http://user: {SECRET}@mirror.example/']",
        f"sources = ['http://user:{SECRET}/@mirror.example/']",
        f"sources = ['user:{SECRET}@mirror.example']",
        f"sources = ['http://us:er:{SECRET}@mirror.example/?x']",
        f"sources = [{{ url = 'ftp://user:{SECRET}@mirror.example/' }}]",
    ],
)
def test_no_error_tells_a_secret(line: str) -> None:
    assert hides("\n".join(problems(changed(line))))


@pytest.mark.parametrize(
    "line",
    [
        f"source = [['http://user:{SECRET}@a.example/']]",
        f"source = ['http://user:{SECRET}@a.example/ ']",
        f"source = {{ url = 'http://user:{SECRET}@a.example/' }}",
        f"source = 'http://user:x {SECRET}@a.example/?x'",
        f"source = 'user:{SECRET}@a.example'",
        f"source = 'http://user:{SECRET} x@a.example/'",
        f"sources = 'http://user:{SECRET}@a.example/'",
    ],
)
def test_no_error_tells_the_secret_of_a_source(line: str) -> None:
    assert hides("\n".join(problems(line)))


# --- Commands ---------------------------------------------------------------------------------------------------------


def test_check_says_that_nothing_is_wrong_or_all_that_is(tmp_path: Path) -> None:
    good = write(tmp_path / "good.toml", three())
    ended = run("config", "check", str(good))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{good}: nothing wrong; 3 repositories\n"
    assert run("config", "check", "--config", str(good)).stdout == ended.stdout
    assert run("config", "check", PACKAGE_CACHE_CONFIG=str(good)).stdout == ended.stdout
    bad = write(tmp_path / "bad.toml", "prot = 1\nport = 'x'\n[timeouts]\nstall = 0\n" + three(('"/a/"', '"/-/"')))
    ended = run("config", "check", str(bad), "--threads", "0", PACKAGE_CACHE_WORKERS="0")
    assert (ended.returncode, ended.stdout) == (2, "")
    lines = ended.stderr.splitlines()
    assert len(lines) == 6
    assert sum(line.startswith(f"package-cache: {bad}: ") for line in lines) == 4
    assert "Traceback" not in ended.stderr
    ended = run("config", "check", PACKAGE_CACHE_CONFIG="", HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("package-cache: no source given: name at least one mirror")


def test_check_opens_the_logs_that_a_server_would_and_makes_none(tmp_path: Path) -> None:
    good = str(write(tmp_path / "good.toml", three()))
    log = tmp_path / "access.log"
    assert run("config", "check", good, "--access-log", "-").returncode == 0
    assert run("config", "check", good, "--access-log", str(log)).returncode == 0
    assert not log.exists()
    log.write_text("a line\n")
    assert run("config", "check", good, "--access-log", str(log)).returncode == 0
    assert log.read_text() == "a line\n"
    os.mkfifo(tmp_path / "pipe")
    for path, why in {
        tmp_path: "Is a directory",
        tmp_path / "none" / "access.log": "No such file or directory",
        log / "access.log": "Not a directory",
        tmp_path / "pipe": "No such device or address",
    }.items():
        ended = run("config", "check", good, "--access-log", str(path))
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr == f"package-cache: cannot write the access log {path}: {why}\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_tells_that_a_log_may_not_be_written(tmp_path: Path) -> None:
    good = str(write(tmp_path / "good.toml", three()))
    (tmp_path / "shut").mkdir(mode=0o500)
    ended = run("config", "check", good, "--access-log", str(tmp_path / "shut" / "log"))
    assert ended.stderr == f"package-cache: cannot write the access log {tmp_path}/shut/log: Permission denied\n"


def test_a_file_is_checked_whatever_is_wrong_with_the_one_in_use(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good", three()), write(tmp_path / "bad", "prot = 1")
    assert run("config", "check", str(good), PACKAGE_CACHE_CONFIG=str(bad)).returncode == 0
    assert run("config", "init", "-", PACKAGE_CACHE_CONFIG=str(bad)).stdout == template()
    assert run("config", "check", str(bad), PACKAGE_CACHE_CONFIG=str(good)).returncode == 2
    assert run("config", "check", str(good), "--prot", "1").returncode == 2
    assert run("config", "cheque").returncode == 2


def test_show_tells_each_value_with_the_layer_it_comes_from(tmp_path: Path) -> None:
    text = 'workers = 3\nsource = "http://u:p@a.example"\n[timeouts]\nstall = 9\n' + three(
        ('"/a/"', '"/a/"\npreset = "npm"')
    )
    rules = '[[repository.rule]]\nmatch = "*.iso"\nfresh = "5m"\n[[repository.rule]]\nmatch = "x"\nmax-file-size = "1K"\n'
    file = write(tmp_path / "config.toml", text + rules)
    words = ("config", "show", str(file), "--port", "1", "--balance")
    ended = run(*words, PACKAGE_CACHE_THREADS="9")
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in ended.stdout.splitlines() if line and line[0] != " "}
    assert rows["workers"].split() == ["3", str(file)]
    assert rows["threads"].split() == ["9", "the", "environment", "(PACKAGE_CACHE_THREADS)"]
    assert rows["port"].split() == ["1", "the", "command", "line", "(--port)"]
    assert rows["downloads"].split() == ["64", "default"]
    assert rows["stall-timeout"].split() == ["9", str(file)]
    assert rows["source"].split() == ["http://a.example/", str(file)]
    assert "\nrepository      a\n  prefix        /a/\n  hosts         a.example\n" in ended.stdout
    assert "\n  rules         *.iso: fresh 5m\n                x: at most 1024 bytes\n" in ended.stdout
    shown = json.loads(run(*words, "--json", PACKAGE_CACHE_THREADS="9").stdout)
    assert set(shown) == {*NAMES, "repository"}
    assert shown["port"] == {"value": 1, "from": "the command line (--port)"}
    assert shown["downloads"] == {"value": 64, "from": "default"}
    root, one, _, last = shown["repository"]
    assert root == {"name": "root", "prefix": "/", "sources": ["http://a.example/ (sends Authorization)"]}
    assert (one["preset"], one["hosts"], one["sources"]) == ("npm", ["a.example"], ["http://mirror.example/a/"])
    assert last["rules"] == ["*.iso: fresh 5m", "x: at most 1024 bytes"]


def test_init_writes_a_file_that_is_right_and_never_over_another(tmp_path: Path) -> None:
    file = tmp_path / "new/config.toml"
    ended = run("config", "init", str(file))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"wrote {file}\n", "")
    checked = run("config", "check", str(file))
    assert (checked.returncode, checked.stderr.splitlines()[0][:30]) == (2, "package-cache: no source given")
    assert read(file.read_text()) == Config()
    file.write_text("# mine")
    ended = run("config", "init", str(file))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "is there already" in ended.stderr
    assert file.read_text() == "# mine"
    ended = run("config", "init", str(file / "x"))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "cannot write" in ended.stderr


def test_init_that_finds_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    words = f"ulimit -f 1; '{sys.executable}' -B -m package_cache config init '{file}'"
    ended = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (1, f"package-cache: cannot write {file}: File too large\n")
    assert not file.exists()


def test_init_without_a_name_writes_that_of_the_user(shell: Forks) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        environment = surroundings(HOME=folder, XDG_CONFIG_HOME="")
        ended = shell.run(("config", "init"), environment, user=0 if os.geteuid() else 65534)
        assert ended.stdout.decode() == f"wrote {folder}/.config/package-cache/config.toml\n"
        assert Path(folder, ".config/package-cache/config.toml").read_text() == template()


def test_init_without_a_name_writes_that_of_the_machine_for_root(tmp_path: Path) -> None:
    ended = run_in_namespace("rm -r /etc/package-cache", tmp_path, "config", "init")
    assert (ended.returncode, ended.stdout) == (0, "wrote /etc/package-cache/config.toml\n")


def uncommented() -> dict[str, str]:
    """Each setting of the template alone, as it is without its mark; and the repositories, by the name "repository"."""
    begin, _, rest = template().partition("\n# What is served.")
    found, table = {}, ""
    for line in begin.splitlines():
        words = line.removeprefix("# ")
        if words.startswith("["):
            table = words + "\n"
        elif line.startswith("# ") and words.partition(" = ")[0].replace("-", "").isalpha() and " = " in words:
            found[(table and "timeouts.") + words.partition(" ")[0]] = table + words
    tables = rest[rest.index("# [[repository]]") : rest.index("# The keys of a repository")]
    found["repository"] = "".join(f"{line.removeprefix('#').removeprefix(' ')}\n" for line in tables.splitlines())
    return found


def test_every_setting_is_in_the_first_file_and_right_when_its_mark_is_taken_away() -> None:
    lines = uncommented()
    timeouts = {f"timeouts.{one.removesuffix('_timeout')}" for one in TIMEOUTS}
    assert set(lines) == {one.key for one in SETTINGS.values()} | timeouts | {"repository"}
    for key, text in lines.items():
        config = read(text)
        assert tomllib.loads(text), key
        if key in (
            "source",
            "listen",
            "allow",
            "connect",
            "cache",
            "access-log",
            "max-size",
            "min-free",
            "max-age",
            "verbose",
        ):
            assert config != Config(), key
        elif key != "repository":
            assert config == Config(), f"the value of {key} there is not what holds without it"
    assert [one.name for one in read(lines["repository"]).repository] == ["gentoo", "debian"]
    assert read(lines["repository"]).repository[1].rules
    for key in (*REPOSITORY_KEYS, *RULE_KEYS):
        assert f"#   {key}: " in template()
    assert max(map(len, template().splitlines())) <= 124


def test_help_tells_of_the_file() -> None:
    ended = run("--help")
    for text in (
        "--config FILE",
        "/etc/package-cache/config.toml",
        "package-cache config init",
        "The environment wins over the file",
    ):
        assert text in " ".join(ended.stdout.split())
    ended = run("config", "--help")
    for text in (
        "{check,show,init}",
        "check tells",
        "show tells",
        "init writes",
        "/etc/package-cache/config.toml",
        "--config FILE",
    ):
        assert text in " ".join(ended.stdout.split())
    assert "--config FILE" in run("ls", "--help").stdout


def test_a_server_does_not_start_with_a_file_that_is_wrong(tmp_path: Path) -> None:
    file = write(tmp_path / "config.toml", "prot = 1\n" + three(('"/a/"', '"/-/"')))
    ended = run("--config", str(file), "--cache", str(tmp_path / "cache"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 2
    assert not (tmp_path / "cache").exists()
    ended = run("--config", str(write(file, "port = 0")), "--cache", str(tmp_path / "cache"))
    assert ended.returncode == 2
    assert "no source given" in ended.stderr
    ended = run("--config", str(write(file, "port = 'x'")), "--cache", str(tmp_path / "cache"))
    assert "port: 'x' is not a port" in ended.stderr


# --- Anything ---------------------------------------------------------------------------------------------------------


def dump(value: object) -> str:
    """A value as TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            escaped = (f"\\u{ord(one):04x}" if ord(one) < 32 or one in '"\\\x7f' else one for one in value)
            return f'"{"".join(escaped)}"'
        case float() if not math.isfinite(value):
            return str(value)
        case int() | float():
            return repr(value)
        case list():
            return f"[{', '.join(map(dump, value))}]"
        case dict():
            return f"{{ {', '.join(f'{dump(key)} = {dump(one)}' for key, one in value.items())} }}"
    raise AssertionError(value)


WORDS = st.sampled_from(
    [
        *(
            "/",
            "/a/",
            "/a/b",
            "/-/",
            "*.iso",
            "[!a",
            "**/x",
            "5m",
            "never",
            "http",
            "1G",
            "5%",
            "gentoo",
            "npm",
            "yes",
            "x:y",
        ),
        *(
            "http://a.example/",
            "http://u:p@b.example:81/x",
            "file:///srv",
            "a.example",
            "a.example:1/b",
            "[::1]",
            ":1",
            "::/0",
        ),
    ]
)
SCALARS = st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
ANYTHING = st.recursive(
    SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=4), one, max_size=3)
)


def tables(keys: object, *more: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """Tables with known keys for the most part, and likely values."""
    values = st.one_of(ANYTHING, WORDS, st.lists(WORDS, max_size=2), *more)
    return st.dictionaries(st.sampled_from(sorted(keys)) | st.text(max_size=4), values, max_size=5)  # type: ignore[call-overload]


SECRET_TABLES = tables(["file", "env"])
SOURCES = st.lists(
    tables(["url", "headers", "credentials"], SECRET_TABLES, tables(["X-A", "Host"], SECRET_TABLES)), max_size=2
)
RULES = st.lists(tables(RULE_KEYS), max_size=2)
REPOSITORIES = st.lists(tables(REPOSITORY_KEYS, SOURCES, RULES, SECRET_TABLES), max_size=3)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "repository": REPOSITORIES | ANYTHING,
        "timeouts": tables([one.removesuffix("_timeout") for one in TIMEOUTS]) | ANYTHING,
        **{one.key: ANYTHING | WORDS for one in SETTINGS.values()},
    },
)


@settings(max_examples=examples(300), deadline=None)
@given(FILES, st.dictionaries(st.text(max_size=4), ANYTHING, max_size=2))
def test_any_table_is_a_configuration_or_told_to_be_wrong(known: dict[str, object], more: dict[str, object]) -> None:
    text = "".join(f"{dump(key)} = {dump(value)}\n" for key, value in (more | known).items())
    tomllib.loads(text)
    told = outcome(text)
    if isinstance(told, Config):
        Routes(told.repositories)
    else:
        assert all(one.startswith("FILE: ") for one in told)


@settings(max_examples=examples(100), deadline=None)
@given(st.text())
def test_any_text_is_a_configuration_or_told_to_be_wrong(text: str) -> None:
    assert outcome(text)


def outcome(text: str) -> Config | tuple[str, ...]:
    """The settings, or every problem with them."""
    try:
        return layered({}, {}, document(text)).config
    except ConfigError as error:
        return error.problems


# --- The document -----------------------------------------------------------------------------------------------------


def test_the_example_in_the_guide_is_right() -> None:
    [text] = fenced(text_of("configuration"), "toml")
    found = read_document("FILE", text, lambda kind, name: f"{kind}:{name}")
    assert not found.problems
    config = layered({}, {}, found).config
    assert (config.max_size, config.timeouts.stall, config.addresses) == (200 << 30, 6, (TcpAddress(None, 4000),))
    routes = Routes(config.repositories)
    for target, host, name, path in (
        ("/distfiles/a-1.tar", "cache.example", "gentoo", "/distfiles/a-1.tar"),
        ("/debian/dists/x", "cache.example", "debian", "/dists/x"),
        ("/debian/dists/x", "deb.example", "debian", "/dists/x"),
        ("http://mirror.example/debian/dists/x", None, "debian", "/dists/x"),
        ("/a-1.tar", "packages.example", "house", "/a-1.tar"),
    ):
        assert (routes.repository(routes.find(target, host)).name, routes.find(target, host).path) == (name, path)
    house = routes.policy(routes.find("/", "packages.example"))
    assert house.repository.sources[0].fields == (("Authorization", basic("file:store.password")),)
    fresh = {
        path: house.at(Target(path, home="/-/house")).fresh.text for path in ("/status/a.json", "/x-1.iso", "/a-1.tar")
    }
    assert fresh == {"/status/a.json": "5m", "/x-1.iso": "never", "/a-1.tar": "immutable"}
    assert house.at(Target("/a-1.tar")).largest == 2 << 30


def test_the_words_in_the_guide_are_those_that_there_are() -> None:
    guide = text_of("configuration")
    table = guide.partition("| `fresh` |")[2].partition("\n\n")[0]
    words = [word for line in table.splitlines()[2:] for word in re.findall("`([^`]+)`", line.split(" | ")[0])]
    assert {parse_fresh(word).how for word in words} == set(Freshness)
    presets = guide.partition("`preset` (")[2].partition("`raw`")[0]
    assert {Preset(word) for word in re.findall("`([a-z]+)`", presets)} == set(Preset) - {Preset.RAW}


def test_who_may_not_read_the_secrets_of_the_service_can_use_what_asks_no_source(tmp_path: Path) -> None:
    """The library and its commands are for every user of the machine; the file of the service is for its own."""
    path = tmp_path / "config.toml"
    path.write_text(
        'port = 4711\n[[repository]]\nname = "a"\nprefix = "/"\nsources = ["http://a.example/"]\n'
        'credentials = { file = "none" }\n'
    )
    environment = {"PACKAGE_CACHE_CONFIG": str(path)}
    with pytest.raises(ConfigError, match="cannot be read"):
        configured(environment, {})
    config = configured(environment, {}, secret=False).config
    assert (config.port, config.sources) == (4711, (Source("http://a.example"),))
    assert all(load(name).asks_sources is (name in ("warm", "fsck")) for name in COMMANDS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_others_counts_only_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package-cache").mkdir()
    path = tmp_path / "package-cache" / "config.toml"
    path.write_text("port = 4711\n")
    path.chmod(0)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert configured({}, {}, secret=False).config == Config()
    for environment, secret in (({}, True), ({"PACKAGE_CACHE_CONFIG": str(path)}, False)):
        with pytest.raises(ConfigError, match="cannot be read"):
            configured(environment, {}, secret=secret)
