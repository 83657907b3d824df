"""The file of configuration that `config init` writes: every setting, explained, with what holds without it."""

import textwrap
from collections.abc import Iterator

from package_cache.config.repositories import REPOSITORY_KEYS, RULE_KEYS
from package_cache.config.settings import SETTINGS, TIMEOUTS, Setting

_WIDTH = 120

_HEAD = """\
# The configuration of package-cache. What the environment says (PACKAGE_CACHE_PORT=4000) wins over this file, and what the
# command line says (--port 4000) over both. package-cache config check tells what is wrong here.
# A line without the # in front is a setting; the values here are what holds without it.
"""

_REPOSITORIES = """\

# What is served. Each repository has a prefix, the beginning of its paths, or hosts that clients know it by, or both.
#
# [[repository]]
# name = "gentoo"
# prefix = "/"
# sources = ["http://distfiles.gentoo.org/", "http://mirror.example/gentoo/"]
# preset = "gentoo"
#
# [[repository]]
# name = "debian"
# prefix = "/debian/"
# hosts = ["deb.example/debian"]
# sources = ["http://mirror.example/debian/"]
# preset = "debian"
#
# [[repository.rule]]
# match = "*.iso"
# fresh = "never"
#
"""

_EXAMPLES = {
    "source": '["http://mirror.example/gentoo/"]',
    "listen": '[":4000", "unix:/run/package-cache.sock"]',
    "connect": '["mirror.example:443"]',
    "allow": '["192.168.0.0/16", "fd00::/8"]',
    "cache": '"/var/cache/package-cache"',
    "access_log": '"/var/log/package-cache/access.log"',
    "max_size": '"200G"',
    "min_free": '"5%"',
    "max_age": '"365d"',
    "verbose": "1",
}


def template() -> str:
    """The text of the file."""
    return _HEAD + "".join(_settings()) + _REPOSITORIES + "".join(_keys())


def _settings() -> Iterator[str]:
    for setting in SETTINGS.values():
        default = "" if setting.name not in _EXAMPLES else f" (without it: {setting.default})"
        text = setting.text.partition(" (repeat it")[0]
        yield f"\n# {text}{default}\n# {setting.key} = {_EXAMPLES.get(setting.name) or _literal(setting)}\n"
    yield "\n# Limits on silence, in seconds.\n# [timeouts]\n"
    for name, setting in TIMEOUTS.items():
        yield f"# {name.removesuffix('_timeout')} = {setting.default}  # {setting.text}\n"


def _literal(setting: Setting) -> str:
    """The default, as it is written in the file."""
    if not setting.looks:
        return {"no": "false", "yes": "true"}[setting.default]
    return setting.default if setting.default.isdigit() else f'"{setting.default}"'


def _keys() -> Iterator[str]:
    yield "# The keys of a repository:\n"
    yield from map(_key, REPOSITORY_KEYS.items())
    yield "# and of its rules:\n"
    yield from map(_key, RULE_KEYS.items())


def _key(named: tuple[str, str]) -> str:
    return textwrap.fill(": ".join(named), _WIDTH, initial_indent="#   ", subsequent_indent="#     ") + "\n"
